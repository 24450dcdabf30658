//! What an adapter can do, as the compute client that would run on it says.

use burn::tensor::Device;
use burn_wgpu::graphics::AutoGraphicsApi;
use burn_wgpu::{RuntimeOptions, WgpuInitError, try_init_setup};
use cubecl::ir::DeviceProperties;
use cubecl::ir::features::TypeUsage;
use serde::Serialize;

use super::adapters::Adapter;
use super::contain::contain;

/// What an adapter can do.
#[derive(Clone, Debug, Serialize)]
pub struct Details {
    /// Shader language that kernels are compiled to: `wgsl`, `spirv` or `msl`.
    pub compiler: String,
    /// Types that buffers can hold and arithmetic can use.
    pub dtypes: Vec<String>,
    /// Types that buffers can hold but only conversions and matrix units can use.
    pub storage_dtypes: Vec<String>,
    /// Smallest subgroup, in invocations.
    pub subgroup_min: u32,
    /// Largest subgroup, in invocations.
    pub subgroup_max: u32,
    /// Whether subgroup operations may be used.
    pub subgroup_operations: bool,
    /// Largest single buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Memory that may be used altogether, in bytes, where the driver says it.
    pub memory_bytes: Option<u64>,
    /// Workgroup memory, in bytes.
    pub shared_memory_bytes: usize,
    /// Invocations of one workgroup.
    pub max_workgroup_invocations: u32,
    /// Workgroups of one dispatch, in one dimension.
    pub max_workgroups: u32,
    /// Matrix multiplications of a subgroup.
    pub subgroup_matrices: Vec<CooperativeMatrix>,
    /// Matrix multiplications of a workgroup.
    pub workgroup_matrices: Vec<CooperativeMatrix>,
}

/// One shape and type of a cooperative matrix multiplication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CooperativeMatrix {
    /// Type of the left matrix.
    pub a: String,
    /// Type of the right matrix.
    pub b: String,
    /// Type of the result.
    pub cd: String,
    /// Shape m × n × k; of a workgroup's matrices the granularity and the largest.
    pub shape: String,
}

/// Asks an adapter; the reason if it does not open.
///
/// # Errors
/// What the driver or CubeCL says.
pub fn details(adapter: &Adapter) -> Result<Details, String> {
    open(adapter).map(|(_, details)| details)
}

/// Opens an adapter's compute client, once for the process.
pub(super) fn open(adapter: &Adapter) -> Result<(Device, Details), String> {
    let device = adapter.wgpu_device();
    let opened = contain(|| {
        let options = RuntimeOptions::try_default().map_err(|error| error.to_string())?;
        match try_init_setup::<AutoGraphicsApi>(&device, options) {
            // Already open: the client that is registered is the one to ask.
            Ok(_) | Err(WgpuInitError::Registration { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
        let client = cubecl::Device::Wgpu(device.clone()).client();
        Ok(describe(client.properties(), client.name()))
    });
    let details = opened.and_then(|opened| opened)?;
    Ok((Device::from(device), details))
}

fn describe(properties: &DeviceProperties, runtime: &str) -> Details {
    let (features, hardware) = (&properties.features, &properties.hardware);
    let (mut dtypes, mut storage_dtypes) = (Vec::new(), Vec::new());
    for (element, usage) in &features.types.elem {
        // The type of an index, which no tensor has.
        if *element == cubecl::ir::ElemType::Index {
            continue;
        }
        if usage.contains(TypeUsage::Buffer) && usage.contains(TypeUsage::Arithmetic) {
            dtypes.push(element.to_string());
        } else if usage.contains(TypeUsage::Buffer) {
            storage_dtypes.push(element.to_string());
        }
    }
    let subgroup_matrices = features
        .matmul
        .cmma
        .iter()
        .map(|config| CooperativeMatrix {
            a: config.a_type.to_string(),
            b: config.b_type.to_string(),
            cd: config.cd_type.to_string(),
            shape: format!("{}×{}×{}", config.m, config.n, config.k),
        })
        .collect();
    let workgroup_matrices = features
        .matmul
        .cube_mma
        .iter()
        .map(|config| CooperativeMatrix {
            a: config.a_type.to_string(),
            b: config.b_type.to_string(),
            cd: config.cd_type.to_string(),
            shape: format!(
                "{}×{}×{} to {}×{}×{}{}",
                config.m_granularity,
                config.n_granularity,
                config.k_granularity,
                config.m_max,
                config.n_max,
                config.k_max,
                config
                    .units_per_block
                    .map_or_else(String::new, |units| format!(" with {units} invocations")),
            ),
        })
        .collect();
    Details {
        // The runtime is called "wgpu<spirv>".
        compiler: runtime
            .split_once('<')
            .map_or(runtime, |(_, rest)| rest.trim_end_matches('>'))
            .to_owned(),
        dtypes,
        storage_dtypes,
        subgroup_min: hardware.plane_size_min,
        subgroup_max: hardware.plane_size_max,
        subgroup_operations: features.plane.contains(cubecl::ir::features::Plane::Ops),
        max_buffer_bytes: properties.memory.max_page_size,
        memory_bytes: properties.memory.max_memory(),
        shared_memory_bytes: hardware.max_shared_memory_size,
        max_workgroup_invocations: hardware.max_units_per_cube,
        max_workgroups: hardware.max_cube_count.0,
        subgroup_matrices,
        workgroup_matrices,
    }
}

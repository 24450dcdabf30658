//! Between a model's parameters and tensors by name.

use std::collections::BTreeSet;

use bellows_kernels::{Compute, host};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::{Naming, Path, TensorSource, WeightError, correction_bias_name, parts};
use crate::config::ModelConfig;
use crate::model::{Decoder, hold};

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Vec<f32>,
}

/// Name, shape and (lazily read) device tensor of every parameter, flattened, in order.
pub fn parameters(model: &Decoder) -> Vec<(String, Vec<usize>, Tensor<1>)> {
    struct Collect {
        path: Path,
        found: Vec<(String, Vec<usize>, Tensor<1>)>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, kind: &str) {
            self.path.enter(name, kind);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val().without_autodiff();
            let shape = value.dims().to_vec();
            let count: usize = shape.iter().product();
            self.found
                .push((self.path.name(), shape, value.reshape([count])));
        }
    }
    let mut collect = Collect {
        path: Path::default(),
        found: Vec::new(),
    };
    model.visit(&mut collect);
    collect.found
}

/// Splits host copies of flattened parameters into the tensors of a checkpoint.
pub fn snapshot_tensors(
    config: &ModelConfig,
    naming: Naming,
    name: &str,
    shape: &[usize],
    values: &[f32],
) -> Vec<NamedTensor> {
    parts(config, naming, name, shape)
        .into_iter()
        .map(|part| NamedTensor {
            values: part.take(values),
            name: part.name,
            shape: part.shape,
        })
        .collect()
}

/// Every weight of `model` under a checkpoint's names, correction biases included.
pub fn export(model: &Decoder) -> Vec<NamedTensor> {
    let config = model.config();
    let mut tensors = Vec::new();
    for (name, shape, value) in parameters(model) {
        let values = host::floats(value);
        tensors.extend(snapshot_tensors(
            config,
            Naming::Checkpoint,
            &name,
            &shape,
            &values,
        ));
    }
    for (layer, mixture) in model.mixtures() {
        for (router, bias) in mixture.correction_bias.iter().enumerate() {
            tensors.push(NamedTensor {
                name: correction_bias_name(config, layer, router),
                shape: vec![bias.len()],
                values: bias.clone(),
            });
        }
    }
    tensors
}

/// The type that a weight is held in.
fn held_in<const D: usize>(weight: &Tensor<D>) -> Compute {
    let types = [Compute::F16, Compute::Bf16];
    let held = types
        .into_iter()
        .find(|held| held.dtype() == weight.dtype());
    held.unwrap_or(Compute::F32)
}

/// Replaces every weight of `model` by that of `source`.
///
/// # Errors
/// The first tensor that is missing, misshapen or of a wrong type, or the names of tensors that the
/// model has no place for. Rotary buffers of old checkpoints are passed over.
pub fn import(mut model: Decoder, source: &dyn TensorSource) -> Result<Decoder, WeightError> {
    struct Load<'a> {
        path: Path,
        config: ModelConfig,
        source: &'a dyn TensorSource,
        used: BTreeSet<String>,
        error: Option<WeightError>,
    }
    impl ModuleMapper for Load<'_> {
        fn enter_module(&mut self, name: &str, kind: &str) {
            self.path.enter(name, kind);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.error.is_some() {
                return param;
            }
            let shape = param.dims();
            let name = self.path.name();
            let mut values = vec![0f32; shape.iter().product()];
            for part in parts(&self.config, Naming::Checkpoint, &name, &shape) {
                match self.source.read(&part.name, &part.shape) {
                    Ok(read) => {
                        part.put(&read, &mut values);
                        self.used.insert(part.name);
                    }
                    Err(error) => {
                        self.error = Some(error);
                        return param;
                    }
                }
            }
            param.map(|old| {
                let device = old.device();
                // As the model holds it.
                let held = held_in(&old);
                drop(old);
                hold(
                    Tensor::from_data(TensorData::new(values, shape), &device),
                    held,
                )
                .set_require_grad(device.is_autodiff())
            })
        }
    }
    let config = model.config().clone();
    let mut load = Load {
        path: Path::default(),
        config: config.clone(),
        source,
        used: BTreeSet::new(),
        error: None,
    };
    model = model.map(&mut load);
    if let Some(error) = load.error {
        return Err(error);
    }
    for (layer, mixture) in model.mixtures_mut() {
        for (router, bias) in mixture.correction_bias.iter_mut().enumerate() {
            let name = correction_bias_name(&config, layer, router);
            let count = bias.len();
            *bias = source.read(&name, &[count])?;
            load.used.insert(name);
        }
    }
    let unexpected: Vec<String> = source
        .names()
        .into_iter()
        .filter(|name| !load.used.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
        // A tied head may be written out by some tools; the embedding is what counts.
        .filter(|name| !(config.tie_word_embeddings && name == "lm_head.weight"))
        .collect();
    if !unexpected.is_empty() {
        return Err(WeightError::Unexpected {
            place: source.place(),
            names: unexpected[..unexpected.len().min(5)].join(", "),
        });
    }
    Ok(model)
}

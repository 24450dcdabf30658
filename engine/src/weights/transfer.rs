//! Between a model's parameters and tensors by name.

use std::collections::{BTreeMap, BTreeSet};

use bellows_kernels::{Compute, host};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::{Naming, Path, TensorSource, WeightError, correction_bias_name, parts, stack_name};
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

/// Parameters as checkpoints know them: the blocks of a stack of experts are one, whatever their
/// number, so that what is written with one fits a model with another.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Name of the stack, or of the one parameter.
    pub name: String,
    /// Shape of all blocks together.
    pub shape: Vec<usize>,
    /// Name and value of each block, flattened, in order.
    pub blocks: Vec<(String, Tensor<1>)>,
}

impl Whole {
    /// Elements of each block.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(|(_, value)| value.dims()[0])
    }

    /// All values in order, read from the device.
    pub fn values(&self) -> Vec<f32> {
        let blocks = self.blocks.iter();
        let read = blocks.map(|(_, value)| host::floats(value.clone()));
        read.reduce(joined).expect("a parameter is a block")
    }
}

fn joined(mut values: Vec<f32>, more: Vec<f32>) -> Vec<f32> {
    values.extend(more);
    values
}

/// [`parameters`], blocks put together.
pub fn wholes(model: &Decoder) -> Vec<Whole> {
    let mut wholes: Vec<Whole> = Vec::new();
    for (name, shape, value) in parameters(model) {
        let stack = stack_name(&name);
        match wholes.last_mut().filter(|whole| whole.name == stack) {
            Some(whole) => {
                whole.shape[0] += shape[0];
                whole.blocks.push((name, value));
            }
            None => wholes.push(Whole {
                name: stack.to_owned(),
                shape,
                blocks: vec![(name, value)],
            }),
        }
    }
    wholes
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
    for whole in wholes(model) {
        tensors.extend(snapshot_tensors(
            config,
            Naming::Checkpoint,
            &whole.name,
            &whole.shape,
            &whole.values(),
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
        /// By the names of wholes.
        shapes: BTreeMap<String, Vec<usize>>,
        /// Values of the blocks to come.
        rest: Vec<f32>,
        used: BTreeSet<String>,
        error: Option<WeightError>,
    }
    impl Load<'_> {
        fn read(&mut self, whole: &str) -> Result<Vec<f32>, WeightError> {
            let shape = &self.shapes[whole];
            let mut values = vec![0f32; shape.iter().product()];
            for part in parts(&self.config, Naming::Checkpoint, whole, shape) {
                part.put(&self.source.read(&part.name, &part.shape)?, &mut values);
                self.used.insert(part.name);
            }
            Ok(values)
        }
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
            let (shape, name) = (param.dims(), self.path.name());
            let mut values = std::mem::take(&mut self.rest);
            if values.is_empty() {
                match self.read(stack_name(&name)) {
                    Ok(read) => values = read,
                    Err(error) => {
                        self.error = Some(error);
                        return param;
                    }
                }
            }
            self.rest = values.split_off(shape.iter().product());
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
        shapes: wholes(&model)
            .into_iter()
            .map(|whole| (whole.name, whole.shape))
            .collect(),
        rest: Vec::new(),
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

//! The optimizer: moments by parameter name, one update for all parameters.

use std::collections::BTreeMap;

use bellows_kernels::Kernels;
use bellows_kernels::adamw::{Moments, Outcome, Parameter, Step, global_norm, update};
use bellows_kernels::memory::{Kind, Stage, enter_stage, own};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use super::{AdamWConfig, ParameterKind};
use crate::model::Decoder;
use crate::weights::Path;

/// Gradients by parameter name, each flattened, without autodiff.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Sum of the micro-batches so far, by the parameter's name.
    pub by_name: BTreeMap<String, Tensor<1>>,
    /// What the loss was multiplied by before its backward pass, and every gradient with it.
    pub loss_scale: f64,
}

impl Default for Gradients {
    /// None yet, of a loss that is not scaled.
    fn default() -> Self {
        Self::scaled(1.0)
    }
}

impl Gradients {
    /// None yet, of a loss multiplied by `loss_scale`.
    pub fn scaled(loss_scale: f64) -> Self {
        Self {
            by_name: BTreeMap::new(),
            loss_scale,
        }
    }

    /// Takes every parameter's gradient out of `raw` and adds it. A parameter that the objective
    /// did not reach counts as zero.
    pub fn accumulate(&mut self, model: &Decoder, mut raw: burn::tensor::Gradients) {
        self.accumulate_part(&[], model, &mut raw);
        self.complete(model);
    }

    /// Takes the gradients of `part` of a model out of `raw` and adds them; `place` is the path of
    /// its fields. [`Gradients::complete`] has to follow the last part.
    pub fn accumulate_part(
        &mut self,
        place: &[&str],
        part: &impl Module,
        raw: &mut burn::tensor::Gradients,
    ) {
        struct Collect<'a> {
            path: Path,
            raw: &'a mut burn::tensor::Gradients,
            sums: &'a mut BTreeMap<String, Tensor<1>>,
        }
        impl ModuleVisitor for Collect<'_> {
            fn enter_module(&mut self, name: &str, kind: &str) {
                self.path.enter(name, kind);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                let count: usize = value.dims().iter().product();
                let Some(gradient) = value.grad_remove(self.raw) else {
                    return;
                };
                let gradient = gradient.reshape([count]);
                let name = self.path.name();
                let sum = match self.sums.remove(&name) {
                    Some(sum) => sum.add(gradient),
                    None => gradient,
                };
                own(&sum, Kind::Gradients, layer_of(&name), &name);
                self.sums.insert(name, sum);
            }
        }
        let mut path = Path::default();
        for name in place {
            path.enter(name, "");
        }
        part.visit(&mut Collect {
            path,
            raw,
            sums: &mut self.by_name,
        });
    }

    /// Takes out the sum of the parameter called `name`, in its shape, to be added to in place;
    /// `None`: nothing was added yet.
    pub(crate) fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Option<Tensor<D>> {
        self.by_name.remove(name).map(|sum| sum.reshape(shape))
    }

    /// Puts the sum of the parameter called `name` back.
    pub(crate) fn put<const D: usize>(&mut self, name: &str, sum: Tensor<D>) {
        let count: usize = sum.dims().iter().product();
        own(&sum, Kind::Gradients, layer_of(name), name);
        self.by_name.insert(name.to_owned(), sum.reshape([count]));
    }

    /// Gives every parameter of `model` without a gradient one of zero.
    pub fn complete(&mut self, model: &Decoder) {
        struct Fill<'a> {
            path: Path,
            sums: &'a mut BTreeMap<String, Tensor<1>>,
        }
        impl ModuleVisitor for Fill<'_> {
            fn enter_module(&mut self, name: &str, kind: &str) {
                self.path.enter(name, kind);
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.exit();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.sums.entry(self.path.name()).or_insert_with(|| {
                    let value = param.val();
                    let count: usize = value.dims().iter().product();
                    Tensor::zeros([count], &value.device().without_autodiff())
                });
            }
        }
        model.visit(&mut Fill {
            path: Path::default(),
            sums: &mut self.by_name,
        });
    }

    /// L2 norm of all gradients together, without the loss scale. Reads it back from the device.
    pub fn global_norm(&self) -> f64 {
        let gradients: Vec<Tensor<1>> = self.by_name.values().cloned().collect();
        global_norm(&gradients, self.loss_scale, Kernels::default())
    }
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global L2 norm of the gradients before clipping, without the loss scale.
    pub gradient_norm: f64,
    /// Whether the parameters changed: not where the norm is not finite.
    pub applied: bool,
}

/// AdamW with its moments.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Updates done, of which the outcome is known.
    pub updates: u64,
    moments: BTreeMap<String, Moments<1>>,
    pending: Option<Outcome>,
}

impl AdamW {
    /// An optimizer that has seen nothing.
    pub fn new(config: &AdamWConfig) -> Self {
        Self {
            config: config.clone(),
            updates: 0,
            moments: BTreeMap::new(),
            pending: None,
        }
    }

    /// [`AdamW::apply`], and what became of it: waits for the device.
    pub fn update(
        &mut self,
        model: Decoder,
        gradients: Gradients,
        learning_rate: f64,
    ) -> (Decoder, Update) {
        let model = self.apply(model, gradients, learning_rate);
        let update = self.outcome().expect("an update was just applied");
        (model, update)
    }

    /// Clips `gradients` and updates every parameter of `model`; `learning_rate` is this step's.
    ///
    /// A gradient or norm that is not finite leaves model and moments as they are. Where the
    /// device has kernels for it, the host does not wait: [`AdamW::outcome`] tells what became of
    /// the update. Weights and moments to which nobody else holds a handle are changed in place:
    /// pass the only copy of `model`.
    ///
    /// # Panics
    /// If the model holds weights in 16 bits ([`crate::model::Numerics::weights`]): updates would be
    /// lost in their rounding.
    pub fn apply(&mut self, model: Decoder, gradients: Gradients, learning_rate: f64) -> Decoder {
        let _stage = enter_stage(Stage::Optimizer);
        // The number of this update depends on whether the last one counts.
        self.outcome();
        let kernels = model.numerics().kernels;
        let step = Step {
            learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            max_norm: self.config.max_grad_norm,
            loss_scale: gradients.loss_scale,
            number: self.updates + 1,
        };
        let mut take = Take {
            path: Path::default(),
            no_decay: &self.config.no_decay,
            weight_decay: self.config.weight_decay,
            gradients: gradients.by_name,
            moments: &mut self.moments,
            taken: BTreeMap::new(),
        };
        let model = model.map(&mut take);
        // In the order of names, as everything here: the norm is the same sum every time.
        let (names, parameters): (Vec<_>, Vec<_>) = take
            .taken
            .into_iter()
            .map(|(name, (dims, parameter))| ((name, dims), parameter))
            .unzip();
        let (updated, outcome) = update(parameters, &step, kernels);
        self.pending = Some(outcome);
        let mut values = BTreeMap::new();
        for ((name, dims), (value, moments)) in names.into_iter().zip(updated) {
            self.moments.insert(name.clone(), moments);
            own(&value, Kind::Weights, layer_of(&name), &name);
            values.insert(name, (value, dims));
        }
        self.own_moments();
        model.map(&mut PutBack {
            path: Path::default(),
            values,
        })
    }

    /// Names the moments in the ledger of memory, if one is kept.
    pub fn own_moments(&self) {
        for (name, Moments { first, second }) in &self.moments {
            for moment in [first, second] {
                own(moment, Kind::Optimizer, layer_of(name), name);
            }
        }
    }

    /// What became of the last [`AdamW::apply`], once: waits for the device.
    pub fn outcome(&mut self) -> Option<Update> {
        let (gradient_norm, applied) = self.pending.take()?.read();
        self.updates += u64::from(applied);
        Some(Update {
            gradient_norm,
            applied,
        })
    }

    /// First and second moment of every parameter, flattened, by name. Reads nothing back yet.
    pub fn state(&self) -> impl Iterator<Item = (&str, &Moments<1>)> {
        self.moments
            .iter()
            .map(|(name, moments)| (name.as_str(), moments))
    }

    /// Puts back what [`AdamW::state`] gave: name, first, second, flattened.
    pub fn restore(
        &mut self,
        updates: u64,
        state: impl Iterator<Item = (String, TensorData, TensorData)>,
        device: &burn::tensor::Device,
    ) {
        let device = device.clone().without_autodiff();
        self.updates = updates;
        self.pending = None;
        self.moments = state
            .map(|(name, first, second)| {
                let moments = Moments {
                    first: Tensor::from_data(first, &device),
                    second: Tensor::from_data(second, &device),
                };
                (name, moments)
            })
            .collect();
    }
}

/// Takes the parameters that have a gradient out of a model, with all that their update needs.
/// What stays in their place is a single zero, so that the model holds no second handle to them.
struct Take<'a> {
    path: Path,
    no_decay: &'a [ParameterKind],
    weight_decay: f64,
    gradients: BTreeMap<String, Tensor<1>>,
    moments: &'a mut BTreeMap<String, Moments<1>>,
    /// Shape and the rest, by name.
    taken: BTreeMap<String, (Vec<usize>, Parameter)>,
}

impl ModuleMapper for Take<'_> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.path.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some(gradient) = self.gradients.remove(&name) else {
            return param;
        };
        let weight_decay = if self.no_decay.contains(&parameter_kind(&name)) {
            0.0
        } else {
            self.weight_decay
        };
        param.map(|value| {
            assert_eq!(
                value.dtype(),
                DType::F32,
                "AdamW updates weights in f32: {name}"
            );
            let dims = value.dims();
            let count: usize = dims.iter().product();
            let device = value.device();
            let parameter = Parameter {
                value: value.without_autodiff().reshape([count]),
                gradient,
                moments: self.moments.remove(&name),
                weight_decay,
            };
            self.taken.insert(name, (dims.to_vec(), parameter));
            Tensor::zeros([1; D], &device)
        })
    }
}

/// Puts updated parameters where [`Take`] took them from.
struct PutBack {
    path: Path,
    values: BTreeMap<String, (Tensor<1>, Vec<usize>)>,
}

impl ModuleMapper for PutBack {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.path.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((value, dims)) = self.values.remove(&self.path.name()) else {
            return param;
        };
        let dims: [usize; D] = dims.try_into().expect("the shape it was taken with");
        param.map(|_| Tensor::from_inner(value.reshape(dims)).require_grad())
    }
}

/// Names the parameters of `model` in the ledger of memory, if one is kept.
pub fn own_parameters(model: &Decoder) {
    struct Own(Path);
    impl ModuleVisitor for Own {
        fn enter_module(&mut self, name: &str, kind: &str) {
            self.0.enter(name, kind);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.0.name();
            own(&param.val(), Kind::Weights, layer_of(&name), &name);
        }
    }
    model.visit(&mut Own(Path::default()));
}

/// The layer of the parameter called `name`.
pub fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("layers.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// What the parameter called `name` is.
pub fn parameter_kind(name: &str) -> ParameterKind {
    if name.ends_with(".bias") {
        ParameterKind::Bias
    } else if name.contains("norm") {
        ParameterKind::Norm
    } else if name.contains("embed_tokens") {
        ParameterKind::Embedding
    } else if name.starts_with("lm_head") {
        ParameterKind::Head
    } else if name.contains(".mlp.gate.") {
        ParameterKind::Router
    } else {
        ParameterKind::Matrix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_fall_into_the_group_of_their_kind() {
        for (name, kind) in [
            ("embed_tokens.weight", ParameterKind::Embedding),
            ("lm_head.weight", ParameterKind::Head),
            ("norm.weight", ParameterKind::Norm),
            ("layers.0.input_layernorm.weight", ParameterKind::Norm),
            (
                "layers.0.post_attention_layernorm.weight",
                ParameterKind::Norm,
            ),
            ("layers.0.self_attn.q_norm.weight", ParameterKind::Norm),
            (
                "layers.0.self_attn.kv_a_layernorm.weight",
                ParameterKind::Norm,
            ),
            ("layers.0.self_attn.q_proj.bias", ParameterKind::Bias),
            ("layers.0.self_attn.q_proj.weight", ParameterKind::Matrix),
            ("layers.0.mlp.gate.1.weight", ParameterKind::Router),
            ("layers.0.mlp.gate_proj.weight", ParameterKind::Matrix),
            ("layers.0.mlp.experts.gate_up_proj", ParameterKind::Matrix),
            (
                "layers.0.mlp.shared_experts.gate_proj.weight",
                ParameterKind::Matrix,
            ),
        ] {
            assert_eq!(parameter_kind(name), kind, "{name}");
        }
    }
}

//! The optimizer: moments by parameter name, one update for all parameters.

use std::collections::BTreeMap;

use bellows_kernels::adamw::{Moments, Settings, step};
use bellows_kernels::host;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::{AdamWConfig, ParameterKind};
use crate::model::Decoder;
use crate::weights::Path;

/// Gradients by parameter name, each flattened, without autodiff.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// Sum of the micro-batches so far, by the parameter's name.
    pub by_name: BTreeMap<String, Tensor<1>>,
}

impl Gradients {
    /// Takes every parameter's gradient out of `raw` and adds it. A parameter that the objective
    /// did not reach counts as zero.
    pub fn accumulate(&mut self, model: &Decoder, mut raw: burn::tensor::Gradients) {
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
                let gradient = match value.grad_remove(self.raw) {
                    Some(gradient) => gradient.reshape([count]),
                    None => Tensor::zeros([count], &value.device().without_autodiff()),
                };
                let name = self.path.name();
                let sum = match self.sums.remove(&name) {
                    Some(sum) => sum.add(gradient),
                    None => gradient,
                };
                self.sums.insert(name, sum);
            }
        }
        model.visit(&mut Collect {
            path: Path::default(),
            raw: &mut raw,
            sums: &mut self.by_name,
        });
    }

    /// L2 norm of all gradients together. Waits for the device once.
    pub fn global_norm(&self) -> f64 {
        let squares: Vec<Tensor<1>> = self
            .by_name
            .values()
            .map(|gradient| gradient.clone().square().sum())
            .collect();
        if squares.is_empty() {
            return 0.0;
        }
        host::floats(Tensor::cat(squares, 0))
            .into_iter()
            .map(f64::from)
            .sum::<f64>()
            .sqrt()
    }
}

/// What one update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global L2 norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Whether the parameters changed: not where the norm is not finite.
    pub applied: bool,
}

/// AdamW with its moments.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Updates done.
    pub updates: u64,
    moments: BTreeMap<String, Moments<1>>,
}

impl AdamW {
    /// An optimizer that has seen nothing.
    pub fn new(config: &AdamWConfig) -> Self {
        Self {
            config: config.clone(),
            updates: 0,
            moments: BTreeMap::new(),
        }
    }

    /// Clips `gradients` and updates every parameter of `model`; `learning_rate` is this step's.
    ///
    /// A norm that is not finite leaves model and moments as they are.
    pub fn update(
        &mut self,
        model: Decoder,
        gradients: Gradients,
        learning_rate: f64,
    ) -> (Decoder, Update) {
        let gradient_norm = gradients.global_norm();
        if !gradient_norm.is_finite() {
            let update = Update {
                gradient_norm,
                applied: false,
            };
            return (model, update);
        }
        self.updates += 1;
        let clip = match self.config.max_grad_norm {
            // torch's clip_grad_norm_, epsilon included.
            Some(limit) => (limit / (gradient_norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        let settings = Settings {
            learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            clip,
            step: self.updates,
        };
        let model = model.map(&mut Apply {
            path: Path::default(),
            settings,
            no_decay: &self.config.no_decay,
            gradients: gradients.by_name,
            moments: &mut self.moments,
        });
        let update = Update {
            gradient_norm,
            applied: true,
        };
        (model, update)
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

struct Apply<'a> {
    path: Path,
    settings: Settings,
    no_decay: &'a [ParameterKind],
    gradients: BTreeMap<String, Tensor<1>>,
    moments: &'a mut BTreeMap<String, Moments<1>>,
}

impl ModuleMapper for Apply<'_> {
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
        let mut settings = self.settings;
        if self.no_decay.contains(&parameter_kind(&name)) {
            settings.weight_decay = 0.0;
        }
        let moments = &mut *self.moments;
        param.map(|value| {
            let dims = value.dims();
            let count: usize = dims.iter().product();
            let flat = value.without_autodiff().reshape([count]);
            let (flat, new) = step(flat, gradient, moments.remove(&name), &settings);
            moments.insert(name, new);
            Tensor::from_inner(flat.reshape(dims)).require_grad()
        })
    }
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

//! Names of parameters: the engine's own, public checkpoints', the reference implementations'.

use crate::config::{ModelConfig, ModelType};

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Public checkpoints: one tensor an expert.
    Checkpoint,
    /// In-memory parameters of the reference implementation (transformers 5 stacks the experts of
    /// a layer; the Chain-of-Experts authors' model does not).
    Reference,
}

/// One tensor of a checkpoint, as a range of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// First element within the flattened parameter.
    pub start: usize,
}

impl Part {
    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Builds a parameter's name while a module tree is walked.
#[derive(Clone, Debug, Default)]
pub struct Path {
    segments: Vec<Option<String>>,
}

impl Path {
    /// Enters a field or list element. The variant of an enum adds nothing to a name.
    pub fn enter(&mut self, name: &str, kind: &str) {
        let named = !kind.starts_with("Enum:");
        self.segments.push(named.then(|| name.to_owned()));
    }

    /// Leaves it.
    pub fn exit(&mut self) {
        self.segments.pop();
    }

    /// The name of the parameter here, such as `layers.0.mlp.gate.1.weight`.
    pub fn name(&self) -> String {
        let named: Vec<&str> = self.segments.iter().flatten().map(String::as_str).collect();
        named.join(".")
    }
}

/// The tensors that hold the parameter `name` of the engine, of shape `shape`.
pub fn parts(config: &ModelConfig, naming: Naming, name: &str, shape: &[usize]) -> Vec<Part> {
    let stacked = naming == Naming::Reference && config.model_type != ModelType::CoeDeepseekV2;
    let whole = |name: String| {
        vec![Part {
            name,
            shape: shape.to_vec(),
            start: 0,
        }]
    };
    let Some((layer, field)) = split_layer(name) else {
        return whole(if name.starts_with("lm_head") {
            name.to_owned()
        } else {
            format!("model.{name}")
        });
    };
    // Mixtral's public checkpoints call the same parts by other names.
    let mixtral = naming == Naming::Checkpoint && config.model_type == ModelType::Mixtral;
    let block = format!(
        "model.layers.{layer}.{}",
        if mixtral { "block_sparse_moe" } else { "mlp" }
    );
    let [gate, up, down] = if mixtral {
        ["w1", "w3", "w2"]
    } else {
        ["gate_proj", "up_proj", "down_proj"]
    };
    match field {
        "mlp.experts.gate_up_proj" if stacked => whole(format!("{block}.experts.gate_up_proj")),
        "mlp.experts.down_proj" if stacked => whole(format!("{block}.experts.down_proj")),
        "mlp.experts.gate_up_proj" => {
            let (inner, hidden) = (shape[1] / 2, shape[2]);
            let half = |expert: usize, second: usize, projection: &str| Part {
                name: format!("{block}.experts.{expert}.{projection}.weight"),
                shape: vec![inner, hidden],
                start: (2 * expert + second) * inner * hidden,
            };
            (0..shape[0])
                .flat_map(|expert| [half(expert, 0, gate), half(expert, 1, up)])
                .collect()
        }
        "mlp.experts.down_proj" => (0..shape[0])
            .map(|expert| Part {
                name: format!("{block}.experts.{expert}.{down}.weight"),
                shape: shape[1..].to_vec(),
                start: expert * shape[1] * shape[2],
            })
            .collect(),
        _ => match router_index(field) {
            Some(router) => whole(format!("{block}.{}.weight", gate_name(config, router))),
            None => whole(format!("model.layers.{layer}.{field}")),
        },
    }
}

/// The checkpoint's name of the correction bias of router `router` in layer `layer`.
pub fn correction_bias_name(config: &ModelConfig, layer: usize, router: usize) -> String {
    let gate = gate_name(config, router);
    format!("model.layers.{layer}.mlp.{gate}.e_score_correction_bias")
}

/// Chain-of-Experts checkpoints number their routers where there is one an iteration, even of a
/// single iteration. No other public checkpoint has more than one a layer; a chain under another
/// model type numbers them too, or all but one would be lost.
fn gate_name(config: &ModelConfig, router: usize) -> String {
    let chain = config.model_type == ModelType::CoeDeepseekV2 && config.use_igate;
    if chain || config.routers() > 1 {
        format!("gate.{router}")
    } else {
        "gate".to_owned()
    }
}

fn split_layer(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("layers.")?.split_once('.')
}

fn router_index(field: &str) -> Option<usize> {
    let index = field.strip_prefix("mlp.gate.")?.strip_suffix(".weight")?;
    index.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(model_type: ModelType, naming: Naming, name: &str, shape: &[usize]) -> Vec<String> {
        let config = ModelConfig {
            model_type,
            ..ModelConfig::default()
        };
        parts(&config, naming, name, shape)
            .into_iter()
            .map(|part| part.name)
            .collect()
    }

    #[test]
    fn an_experts_gate_and_up_rows_lie_one_after_the_other() {
        let config = ModelConfig {
            model_type: ModelType::Olmoe,
            ..ModelConfig::default()
        };
        let parts = parts(
            &config,
            Naming::Checkpoint,
            "layers.3.mlp.experts.gate_up_proj",
            &[2, 6, 4],
        );
        let starts: Vec<usize> = parts.iter().map(|part| part.start).collect();
        assert_eq!(starts, [0, 12, 24, 36]);
        assert_eq!(parts[1].name, "model.layers.3.mlp.experts.0.up_proj.weight");
        assert_eq!(parts[1].shape, [3, 4]);
    }

    #[test]
    fn each_family_keeps_its_own_names() {
        let gate = "layers.0.mlp.gate.0.weight";
        assert_eq!(
            names(ModelType::Mixtral, Naming::Checkpoint, gate, &[4, 8]),
            ["model.layers.0.block_sparse_moe.gate.weight"]
        );
        assert_eq!(
            names(ModelType::Mixtral, Naming::Reference, gate, &[4, 8]),
            ["model.layers.0.mlp.gate.weight"]
        );
        assert_eq!(
            names(ModelType::CoeDeepseekV2, Naming::Reference, gate, &[4, 8]),
            ["model.layers.0.mlp.gate.0.weight"]
        );
        assert_eq!(
            names(
                ModelType::Llama,
                Naming::Checkpoint,
                "lm_head.weight",
                &[4, 8]
            ),
            ["lm_head.weight"]
        );
        assert_eq!(
            names(ModelType::Llama, Naming::Checkpoint, "norm.weight", &[8]),
            ["model.norm.weight"]
        );
    }
}

//! Names of parameters: the engine's own, public checkpoints', the reference implementations'.

use std::ops::Range;

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

/// One tensor of a checkpoint, as ranges of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Where its elements lie within the flattened parameter, in order.
    pub ranges: Vec<Range<usize>>,
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

    /// Its elements out of the flattened parameter.
    pub fn take(&self, parameter: &[f32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len());
        for range in &self.ranges {
            values.extend_from_slice(&parameter[range.clone()]);
        }
        values
    }

    /// Puts its elements into the flattened parameter.
    pub fn put(&self, values: &[f32], parameter: &mut [f32]) {
        let mut rest = values;
        for range in &self.ranges {
            let (own, others) = rest.split_at(range.len());
            parameter[range.clone()].copy_from_slice(own);
            rest = others;
        }
    }
}

/// `count` elements from `start`.
fn run(start: usize, count: usize) -> Range<usize> {
    start..start + count
}

/// Builds a parameter's name while a module tree is walked.
#[derive(Clone, Debug, Default)]
pub struct Path {
    segments: Vec<Option<String>>,
}

impl Path {
    /// Enters a field or list element. The variant of an enum adds nothing to a name, nor does the
    /// first block of a stack ([`block_name`]).
    pub fn enter(&mut self, name: &str, kind: &str) {
        let field = self.segments.last().and_then(Option::as_deref);
        let segment = match name.parse() {
            Ok(block) if kind == "Vec" && field.is_some_and(is_stack) => block_segment(block),
            _ if kind.starts_with("Enum:") => None,
            _ => Some(name.to_owned()),
        };
        self.segments.push(segment);
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

/// Parameters that hold the matrices of a layer's experts, in as many blocks as the device's largest
/// buffer asks for.
const STACKS: [&str; 2] = ["gate_up_proj", "down_proj"];

fn is_stack(field: &str) -> bool {
    STACKS.contains(&field)
}

/// What tells block `block` of a stack from the first, which is called as the stack is: so that with
/// one block all names are as if there were none. In digits that sort by number.
fn block_segment(block: usize) -> Option<String> {
    (block > 0).then(|| format!("{block:04}"))
}

/// The name of block `block` of the stack called `stack`, such as
/// `layers.0.mlp.experts.down_proj.0001`.
pub fn block_name(stack: &str, block: usize) -> String {
    match block_segment(block) {
        Some(segment) => format!("{stack}.{segment}"),
        None => stack.to_owned(),
    }
}

/// The name of the stack that the parameter `name` is a block of; of any other parameter its own.
pub fn stack_name(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stack, block))
            if block.bytes().all(|byte| byte.is_ascii_digit())
                && stack.rsplit('.').next().is_some_and(is_stack) =>
        {
            stack
        }
        _ => name,
    }
}

/// The tensors that hold the parameter `name` of the engine, of shape `shape`; of experts in several
/// blocks the whole stack.
pub fn parts(config: &ModelConfig, naming: Naming, name: &str, shape: &[usize]) -> Vec<Part> {
    let stacked = naming == Naming::Reference && config.model_type != ModelType::CoeDeepseekV2;
    let whole = |name: String| {
        vec![Part {
            name,
            shape: shape.to_vec(),
            ranges: vec![run(0, shape.iter().product())],
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
        "mlp.experts.gate_up_proj" => {
            let (routed, hidden) = (config.n_routed_experts, shape[2]);
            let size = shape[1] / 2 * hidden;
            let half = |expert: usize, second: usize| run((2 * expert + second) * size, size);
            let mut parts = if stacked {
                vec![Part {
                    name: format!("{block}.experts.gate_up_proj"),
                    shape: vec![routed, shape[1], hidden],
                    ranges: vec![run(0, routed * 2 * size)],
                }]
            } else {
                let one = |expert: usize, second: usize, projection: &str| Part {
                    name: format!("{block}.experts.{expert}.{projection}.weight"),
                    shape: vec![shape[1] / 2, hidden],
                    ranges: vec![half(expert, second)],
                };
                (0..routed)
                    .flat_map(|expert| [one(expert, 0, gate), one(expert, 1, up)])
                    .collect()
            };
            // Checkpoints hold the shared experts as one, with all their inner rows.
            if shape[0] > routed {
                parts.extend(
                    [(0, "gate_proj"), (1, "up_proj")].map(|(second, projection)| Part {
                        name: format!("{block}.shared_experts.{projection}.weight"),
                        shape: vec![(shape[0] - routed) * shape[1] / 2, hidden],
                        ranges: (routed..shape[0])
                            .map(|block| half(block, second))
                            .collect(),
                    }),
                );
            }
            parts
        }
        "mlp.experts.down_proj" => {
            let (routed, hidden, inner) = (config.n_routed_experts, shape[1], shape[2]);
            let size = hidden * inner;
            let mut parts = if stacked {
                vec![Part {
                    name: format!("{block}.experts.down_proj"),
                    shape: vec![routed, hidden, inner],
                    ranges: vec![run(0, routed * size)],
                }]
            } else {
                (0..routed)
                    .map(|expert| Part {
                        name: format!("{block}.experts.{expert}.{down}.weight"),
                        shape: vec![hidden, inner],
                        ranges: vec![run(expert * size, size)],
                    })
                    .collect()
            };
            if shape[0] > routed {
                parts.push(Part {
                    name: format!("{block}.shared_experts.down_proj.weight"),
                    shape: vec![hidden, (shape[0] - routed) * inner],
                    ranges: (0..hidden)
                        .flat_map(|row| {
                            (routed..shape[0])
                                .map(move |block| run(block * size + row * inner, inner))
                        })
                        .collect(),
                });
            }
            parts
        }
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
            n_routed_experts: 2,
            ..ModelConfig::default()
        };
        let parts = parts(
            &config,
            Naming::Checkpoint,
            "layers.3.mlp.experts.gate_up_proj",
            &[2, 6, 4],
        );
        let starts: Vec<usize> = parts.iter().map(|part| part.ranges[0].start).collect();
        assert_eq!(starts, [0, 12, 24, 36]);
        assert_eq!(parts[1].name, "model.layers.3.mlp.experts.0.up_proj.weight");
        assert_eq!(parts[1].shape, [3, 4]);
    }

    #[test]
    fn shared_experts_are_one_in_a_checkpoint_and_blocks_in_the_engine() {
        let config = ModelConfig {
            model_type: ModelType::DeepseekV3,
            n_routed_experts: 1,
            n_shared_experts: 2,
            ..ModelConfig::default()
        };
        // Blocks of 2 · 2 rows by 1 column, then of 1 row by 2 columns.
        let find = |name: &str, shape: &[usize], wanted: &str| {
            parts(&config, Naming::Checkpoint, name, shape)
                .into_iter()
                .find(|part| part.name.ends_with(wanted))
                .expect(wanted)
        };
        let gate_up: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let name = "layers.0.mlp.experts.gate_up_proj";
        let up = find(name, &[3, 4, 1], "shared_experts.up_proj.weight");
        assert_eq!(up.shape, [4, 1]);
        assert_eq!(up.take(&gate_up), [6.0, 7.0, 10.0, 11.0]);

        let name = "layers.0.mlp.experts.down_proj";
        let down = find(name, &[3, 2, 2], "shared_experts.down_proj.weight");
        assert_eq!(down.shape, [2, 4]);
        let values = down.take(&gate_up);
        assert_eq!(values, [4.0, 5.0, 8.0, 9.0, 6.0, 7.0, 10.0, 11.0]);
        let mut back = gate_up.clone();
        back[4..].fill(-1.0);
        down.put(&values, &mut back);
        assert_eq!(back, gate_up);
    }

    #[test]
    fn one_block_is_called_as_the_stack_and_more_sort_by_their_number() {
        let stack = "layers.0.mlp.experts.gate_up_proj";
        let names: Vec<String> = [0, 1, 2, 10].map(|block| block_name(stack, block)).into();
        assert_eq!(names[0], stack);
        assert!(names.is_sorted());
        assert!(names.iter().all(|name| stack_name(name) == stack));
        // A list that is no stack of experts keeps its numbers.
        for (fields, name) in [
            (["gate", "1", "weight"], "gate.1.weight"),
            (["down_proj", "0", "weight"], "down_proj.weight"),
        ] {
            let mut path = Path::default();
            for (field, kind) in fields.into_iter().zip(["Struct:A", "Vec", "Struct:B"]) {
                path.enter(field, kind);
            }
            assert_eq!(path.name(), name);
            assert_eq!(stack_name(name), name);
        }
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

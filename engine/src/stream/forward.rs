//! The forward pass, without autodiff.

use bellows_kernels::memory::{enter_layer, enter_part, note};
use bellows_kernels::routing::{Plan, Routing};
use burn::tensor::Tensor;

use super::Settings;
use super::kept::{Kept, KeptAttention};
use super::parts::Parts;
use crate::model::{Attended, Choices, Decoder, Filled, Input, Part, Stream};

/// What backward needs of a forward pass.
#[derive(Debug, Default)]
pub struct Pass {
    /// The input of each layer, by chunk.
    pub kept: Vec<Vec<Kept>>,
    /// The results of attention likewise; empty where they are not kept.
    pub attended: Vec<Vec<KeptAttention>>,
    /// What was chosen, and dropped: by layer, chunk and iteration.
    pub plans: Vec<Vec<Vec<Plan>>>,
    /// The last layer's output, by chunk `[tokens, hidden]`.
    pub last: Vec<Tensor<2>>,
}

/// One router decision about one chunk.
pub struct Seen<'a> {
    /// Its number, in order of layer and iteration.
    pub decision: usize,
    pub layer: usize,
    pub iteration: usize,
    pub part: &'a Part,
    pub routing: &'a Routing,
    /// The decision before it about the same tokens.
    pub before: Option<&'a Plan>,
}

/// Runs `plain`, which has no autodiff, over `parts`. What backward needs is kept as `keep` says, or,
/// without it, only `last`. `see` is shown every router decision.
pub fn run(
    plain: &Decoder,
    parts: &Parts,
    inputs: &[Input],
    keep: Option<&Settings>,
    mut see: impl FnMut(Seen<'_>),
) -> Pass {
    let compute = plain.numerics().compute;
    let mut pass = Pass {
        last: inputs
            .iter()
            .map(|input| {
                let _part = enter_part("embedding");
                let rows = plain.embed_tokens.forward(input.ids.clone());
                note(&rows);
                rows
            })
            .collect(),
        ..Pass::default()
    };
    let mut latest: Vec<Option<Plan>> = vec![None; inputs.len()];
    let mut first_decision = 0;
    for (index, layer) in plain.layers.iter().enumerate() {
        let _layer = enter_layer(index);
        let mut filled = Filled::new(parts.tokens());
        let (mut kept, mut results, mut plans) = (Vec::new(), Vec::new(), Vec::new());
        let mut decisions = 0;
        for (first, group) in parts.groups() {
            // Keys and values so far, of these sequences alone.
            let mut past = None;
            for (at, part) in (first..).zip(group) {
                let x = pass.last[at].clone();
                let stream = Stream {
                    residual: x.clone(),
                    update: None,
                };
                let past = (group.len() > 1).then_some(&mut past);
                let choices = &mut Choices::Part(&mut filled);
                let mut attended = match keep {
                    Some(keep) if keep.keep_attention => Attended::Keep(None),
                    _ => Attended::Fresh,
                };
                let (stream, routings) =
                    layer.forward(stream, &inputs[at], past, choices, &mut attended);
                pass.last[at] = stream.sum();
                for (iteration, routing) in routings.iter().enumerate() {
                    see(Seen {
                        decision: first_decision + iteration,
                        layer: index,
                        iteration,
                        part,
                        routing,
                        before: latest[at].as_ref(),
                    });
                    latest[at] = Some(routing.plan.clone());
                }
                decisions = routings.len();
                if let Some(keep) = keep {
                    kept.push(match index {
                        0 => Kept::Embedded(inputs[at].ids.clone()),
                        _ => Kept::new(x, keep.keep, compute),
                    });
                    if let Attended::Keep(Some(known)) = attended {
                        results.push(KeptAttention::new(known, keep.keep, compute));
                    }
                    plans.push(routings.into_iter().map(|routing| routing.plan).collect());
                }
            }
        }
        first_decision += decisions;
        if keep.is_some() {
            pass.kept.push(kept);
            pass.attended.push(results);
            pass.plans.push(plans);
        }
    }
    pass
}

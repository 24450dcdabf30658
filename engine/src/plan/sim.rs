//! What the simulated parts of a step share.

use bellows_kernels::memory::Kind;

use super::Target;
use super::tape::{Span, Tape};
use crate::config::{AttentionKind, ModelConfig};

/// Tokens that go through a layer together.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each.
    pub time: usize,
    /// Keys that the last of them sees, its own among them.
    pub keys: usize,
    /// Tokens of the whole sequence.
    pub length: usize,
    /// Whether its routers choose here, over all tokens of the micro-batch: a step that is neither
    /// streamed nor repeated.
    pub whole: bool,
}

impl Chunk {
    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.sequences * self.time
    }

    /// Whether it ends its sequence.
    pub fn is_last(&self) -> bool {
        self.keys == self.length
    }
}

/// A step in the making.
pub struct Sim<'a> {
    pub tape: Tape,
    pub model: &'a ModelConfig,
    pub target: Target,
    /// Whether autodiff records: what backward wants is kept.
    pub graph: bool,
    /// Whether the pass under way was handed the results of attention.
    pub attention_known: bool,
    /// Gradients that the backward pass under way has made.
    raw: Vec<Span>,
    /// Sums of gradients that are to be handed to the optimizer.
    sums: Vec<Span>,
    /// Sums of the experts' gradients by layer, in streamed steps.
    experts: Vec<Option<(Span, Span)>>,
    layer: Option<usize>,
}

impl<'a> Sim<'a> {
    pub fn new(model: &'a ModelConfig, target: Target) -> Self {
        Self {
            tape: Tape::new(),
            model,
            target,
            graph: false,
            attention_known: false,
            raw: Vec::new(),
            sums: Vec::new(),
            experts: (0..model.num_hidden_layers).map(|_| None).collect(),
            layer: None,
        }
    }

    /// What memory that backward may want is for.
    pub fn kept_kind(&self) -> Kind {
        match self.graph {
            true => Kind::Activations,
            false => Kind::Workspace,
        }
    }

    /// Heads of keys and values.
    pub fn groups(&self) -> usize {
        match self.model.attention {
            AttentionKind::Gqa => self.model.num_key_value_heads,
            AttentionKind::Mla => self.model.num_attention_heads,
        }
    }

    /// A parameter's gradient is made.
    pub fn gradient(&mut self, bytes: u64) {
        let span = self.tape.take(Kind::Gradients, bytes);
        self.raw.push(span);
    }

    /// A gradient that was made elsewhere.
    pub fn gradient_made(&mut self, span: Span) {
        self.raw.push(span);
    }

    /// Gradients made so far join the sums: the first ones become them.
    pub fn collect(&mut self, first: bool) {
        let raw = std::mem::take(&mut self.raw);
        match first {
            true => self.sums.extend(raw),
            false => self.tape.give_all(raw),
        }
    }

    /// Expert gradients are summed in place from here on, those of `layer`.
    pub fn sum_experts_of(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// The layer's sums so far.
    pub fn take_expert_sums(&mut self) -> Option<(Span, Span)> {
        self.experts[self.layer?].take()
    }

    /// The layer's sums from now on.
    pub fn put_expert_sums(&mut self, sums: Option<(Span, Span)>) {
        match (self.layer, sums) {
            (Some(layer), sums) => self.experts[layer] = sums,
            (None, Some((down, gate_up))) => self.raw.extend([down, gate_up]),
            (None, None) => {}
        }
    }

    /// All sums, for the optimizer.
    pub fn take_gradients(&mut self) -> Vec<Span> {
        let experts = self.experts.iter_mut().filter_map(Option::take);
        let mut sums: Vec<Span> = experts
            .flat_map(|(down, gate_up)| [down, gate_up])
            .collect();
        sums.append(&mut self.sums);
        sums
    }

    /// Keeps `span` for backward where there is a graph, else gives it back.
    pub fn keep(&mut self, kept: &mut Vec<Span>, span: Span) {
        match self.graph {
            true => {
                let span = self.tape.become_kind(span, Kind::Activations);
                kept.push(span);
            }
            false => self.tape.give(span),
        }
    }
}

//! What a training objective adds to cross-entropy.

use serde::{Deserialize, Serialize};

/// The tokens over which a load-balancing loss counts how often each expert is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceScope {
    /// No load-balancing loss.
    None,
    /// Each sequence by itself (DeepSeek's `seq_aux`).
    Sequence,
    /// Each micro-batch by itself. The value depends on how a step is divided.
    #[default]
    MicroBatch,
    /// All micro-batches of an optimizer step, exactly (arXiv 2501.11873): frequencies are counted
    /// by a pass without gradients before any backward pass, at the cost of one more forward pass
    /// where a step has more than one micro-batch.
    Global,
    /// The paper's buffer: the micro-batches of the step seen so far. Approximate: the first ones
    /// of a step see less than the whole; it costs nothing.
    GlobalRunning,
}

/// Losses and updates that keep a router healthy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterObjective {
    /// Scope of the load-balancing loss.
    pub balance: BalanceScope,
    /// Its coefficient. The loss is E · Σₑ fₑ Pₑ, with fₑ the expert's share of all chosen slots
    /// and Pₑ its mean probability: 1 when balanced, summed over layers and iterations.
    pub balance_coefficient: f64,
    /// Count frequencies and probabilities of all layers together and take one loss, as Hugging
    /// Face's Mixtral, Qwen3-MoE and OLMoE do, instead of one loss a layer.
    pub pool_layers: bool,
    /// Coefficient of the mean squared log-sum-exp of router logits (ST-MoE, arXiv 2202.08906).
    pub z_loss_coefficient: f64,
    /// Loss-free balancing (arXiv 2408.15664): after each optimizer step the correction bias of an
    /// expert chosen more than the mean falls by this much, of one chosen less rises. `0`: off.
    pub bias_update_speed: f64,
}

impl Default for RouterObjective {
    fn default() -> Self {
        Self {
            balance: BalanceScope::MicroBatch,
            balance_coefficient: 0.001,
            pool_layers: false,
            z_loss_coefficient: 0.0,
            bias_update_speed: 0.0,
        }
    }
}

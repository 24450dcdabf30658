use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::LineRow;

/// A line of `samples.jsonl`: text the model wrote during the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Optimizer steps taken when it was written.
    pub step: u64,
    /// The process that wrote the line. Set by the writer.
    #[serde(default)]
    pub segment: u32,
    /// What the model was given; empty for the beginning of a document.
    #[serde(default)]
    pub prompt: String,
    /// What the model added to it.
    #[serde(default)]
    pub text: String,
    /// How tokens were drawn, under Hugging Face's names: `temperature`, `top_k`, `top_p`, `seed`, `max_new_tokens`.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

impl LineRow for Sample {
    const REPLACED: bool = true;
    const ONE_A_STEP: bool = false;

    fn position(&self) -> (u32, u64) {
        (self.segment, self.step)
    }
}

//! A plan as JSON: what `bellows plan --json` prints and a run's `plan.json` holds.

use bellows_engine::kernels::memory::Kind;
use bellows_engine::plan::{ByKind, Candidate, Fullest};
use serde_json::{Map, Value, json};

use super::{Answer, words};

fn kinds(bytes: &ByKind) -> Value {
    let kinds = Kind::ALL.into_iter().map(|kind| {
        let bytes = bytes[kind as usize];
        (kind.as_str().to_owned(), json!(bytes))
    });
    Value::Object(kinds.collect::<Map<_, _>>())
}

fn moment(moment: &Fullest) -> Value {
    json!({
        "phase": moment.phase.as_str(),
        "layer": moment.layer,
        "bytes": moment.total(),
        "by_kind": kinds(&moment.bytes),
    })
}

fn candidate(candidate: &Candidate) -> Value {
    let prediction = &candidate.prediction;
    json!({
        "mode": candidate.mode.as_str(),
        "chunk": candidate.chunk(),
        "keeps_attention": candidate.keeps_attention(),
        "fits": candidate.fits,
        "peak_bytes": prediction.peak().total(),
        "reserved_bytes": prediction.needed(),
        "by_kind": kinds(&prediction.peak().bytes),
        "moments": prediction.moments.iter().map(moment).collect::<Vec<_>>(),
    })
}

impl Answer<'_> {
    /// The plan as a JSON object. With `largest` the longest sequence and the largest batch of
    /// each mode are looked for, and the longest sequence of all modes that the run may take.
    pub fn document(&self, largest: bool) -> Value {
        let shown = self.plan.chosen().unwrap_or_else(|| words::least(self));
        let load = self.question.load;
        let mut modes: Vec<Value> = self.plan.candidates.iter().map(candidate).collect();
        let mut longest = None;
        if largest {
            for (mode, (way, time, batch)) in modes.iter_mut().zip(self.largest()) {
                mode["longest_sequence"] = json!(time);
                mode["largest_batch"] = json!(batch);
                if self.question.may_take(way) {
                    longest = longest.max(time);
                }
            }
        }
        let fits = self.question.limit.map(|_| self.plan.chosen.is_some());
        json!({
            "verdict": words::verdict(self),
            "fits": fits,
            "mode": shown.mode.as_str(),
            "chunk": shown.chunk(),
            "keeps_attention": shown.keeps_attention(),
            "keep": self.question.keep.as_str(),
            "peak_bytes": shown.prediction.peak().total(),
            "reserved_bytes": shown.prediction.needed(),
            "limit_bytes": self.question.limit,
            "limit_source": self.planner.limit.source,
            "beside_bytes": self.question.beside,
            "longest_sequence": longest,
            "device": self.planner.device,
            "precision": format!("{:?}", self.planner.numerics.compute).to_lowercase(),
            "batch_size": load.batch,
            "sequence_length": load.time,
            "accumulation": load.micro_batches,
            "advice": words::advice(self),
            "modes": modes,
        })
    }
}

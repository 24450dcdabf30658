//! What was changed from outside, and stays so over a resume.

use bellows_record::control::Intervals;
use serde::{Deserialize, Serialize};

use crate::config::{RecordSection, TrainSection};

/// How a run is steered away from its configuration. Part of every checkpoint, because without it
/// a resumed run would not go on as it was going.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steering {
    /// What the schedule's learning rate is multiplied with.
    pub learning_rate_scale: f64,
    /// Micro-batches of a step, where they differ from the configuration's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batches: Option<usize>,
    /// Steps between records, where they differ.
    #[serde(skip_serializing_if = "is_default")]
    pub intervals: Intervals,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            learning_rate_scale: 1.0,
            micro_batches: None,
            intervals: Intervals::default(),
        }
    }
}

fn is_default(intervals: &Intervals) -> bool {
    *intervals == Intervals::default()
}

impl Steering {
    /// Micro-batches of a step.
    pub fn accumulation(&self, train: &TrainSection) -> usize {
        self.micro_batches.unwrap_or(train.accumulation)
    }

    /// Notes new intervals beside those set before.
    pub fn set_intervals(&mut self, new: Intervals) {
        let Intervals {
            metrics_every,
            routing_every,
            transitions_every,
            memory_every,
            traces_every,
        } = new;
        let mine = &mut self.intervals;
        mine.metrics_every = metrics_every.or(mine.metrics_every);
        mine.routing_every = routing_every.or(mine.routing_every);
        mine.transitions_every = transitions_every.or(mine.transitions_every);
        mine.memory_every = memory_every.or(mine.memory_every);
        mine.traces_every = traces_every.or(mine.traces_every);
    }

    /// Puts the intervals into the settings of the record.
    pub fn apply_to(&self, record: &mut RecordSection) {
        let set = |place: &mut u64, value: Option<u64>| *place = value.unwrap_or(*place);
        set(&mut record.metrics_every, self.intervals.metrics_every);
        set(&mut record.routing_every, self.intervals.routing_every);
        set(
            &mut record.transitions_every,
            self.intervals.transitions_every,
        );
        set(&mut record.memory_every, self.intervals.memory_every);
        set(&mut record.traces_every, self.intervals.traces_every);
    }

    /// What differs from the configuration, in words; `None` where nothing does.
    pub fn words(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.learning_rate_scale != 1.0 {
            parts.push(format!("learning rate × {}", self.learning_rate_scale));
        }
        if let Some(micro_batches) = self.micro_batches {
            parts.push(format!("{micro_batches} micro-batches a step"));
        }
        if !is_default(&self.intervals) {
            parts.push("other recording intervals".to_owned());
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// All intervals of the record, as a status tells them.
pub fn intervals_of(record: &RecordSection) -> Intervals {
    Intervals {
        metrics_every: Some(record.metrics_every),
        routing_every: Some(record.routing_every),
        transitions_every: Some(record.transitions_every),
        memory_every: Some(record.memory_every),
        traces_every: Some(record.traces_every),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_from_before_steering_reads_as_unsteered() {
        let old: Steering = serde_json::from_str("{}").unwrap();
        assert_eq!(old, Steering::default());
        assert_eq!(old.words(), None);
    }

    #[test]
    fn a_new_interval_leaves_the_others() {
        let mut steering = Steering::default();
        let every = |routing, metrics| Intervals {
            routing_every: routing,
            metrics_every: metrics,
            ..Intervals::default()
        };
        steering.set_intervals(every(Some(7), None));
        steering.set_intervals(every(None, Some(3)));
        let mut record = RecordSection::default();
        let memory = record.memory_every;
        steering.apply_to(&mut record);
        assert_eq!(
            (
                record.routing_every,
                record.metrics_every,
                record.memory_every
            ),
            (7, 3, memory)
        );
    }
}

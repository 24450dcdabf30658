use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::LineRow;
use super::scalar::{Key, Metric, Scalar};

/// One table of fields makes the struct, its JSON form and its access by name, so that the three
/// cannot drift apart. (serde's `flatten` would buffer each line; a history has a million lines.)
macro_rules! step_metrics {
    ($(#[$struct_doc:meta])* pub struct StepMetrics { $($(#[$doc:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$struct_doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct StepMetrics {
            $($(#[$doc])* pub $field: $type,)+
            /// Any other number, under its own key. A key above is never taken from here.
            pub extra: BTreeMap<String, f64>,
        }

        impl StepMetrics {
            /// The fixed keys, in file order.
            pub const NAMES: &[&str] = &[$(stringify!($field)),+];

            /// A metric's value by its key; `None` when this step has no such value.
            /// Counts and flags come as numbers, not-finite values as NaN.
            pub fn get(&self, name: &str) -> Option<f64> {
                match name {
                    $(stringify!($field) => self.$field.number(),)+
                    other => self.extra.get(other).copied(),
                }
            }

            /// Every metric of this step with its key: the fixed ones, then `extra`.
            pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
                let fixed = [$((stringify!($field), self.$field.number())),+];
                fixed
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .chain(self.extra.iter().map(|(name, &value)| (name.as_str(), value)))
            }
        }

        impl Serialize for StepMetrics {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                $(self.$field.write(stringify!($field), &mut map)?;)+
                for (name, value) in &self.extra {
                    if !Self::NAMES.contains(&name.as_str()) {
                        map.serialize_entry(name, value)?;
                    }
                }
                map.end()
            }
        }

        impl StepMetrics {
            fn set(&mut self, name: &str, value: Scalar) {
                match name {
                    $(stringify!($field) => self.$field = Metric::from_scalar(value),)+
                    other => {
                        if let Some(value) = value.number() {
                            self.extra.insert(other.to_owned(), value);
                        }
                    }
                }
            }
        }
    };
}

step_metrics! {
    /// A line of `metrics.jsonl`: one optimizer step.
    ///
    /// In JSON a number that is not finite is `null`, and reads back as NaN. A key whose value is
    /// `None` is left out.
    ///
    /// ```
    /// use bellows_record::StepMetrics;
    ///
    /// let mut row = StepMetrics { step: 3, loss: f64::NAN, ..StepMetrics::default() };
    /// row.extra.insert("temperature".into(), 0.5);
    /// let line = bellows_record::serde_json::to_string(&row).unwrap();
    /// assert!(line.contains(r#""loss":null"#) && !line.contains("validation_loss"));
    /// let back: StepMetrics = bellows_record::serde_json::from_str(&line).unwrap();
    /// assert!(back.loss.is_nan());
    /// assert_eq!(back.get("temperature"), Some(0.5));
    /// assert_eq!(back.get("validation_loss"), None);
    /// ```
    pub struct StepMetrics {
        /// Optimizer steps taken, this one included: the first is 1.
        pub step: u64,
        /// The process that wrote the line. Set by the writer.
        pub segment: u32,
        /// Seconds of training since the run began, earlier segments included.
        pub time: f64,
        /// Tokens trained on since the run began, this step's included.
        pub tokens: u64,
        /// What was minimised: the objective, which for most is the cross-entropy, plus the weighted
        /// router losses.
        pub loss: f64,
        /// Mean cross-entropy, nats a label.
        pub cross_entropy: f64,
        /// Load-balancing loss, before its coefficient.
        pub aux_loss: Option<f64>,
        /// Router z-loss, before its coefficient.
        pub z_loss: Option<f64>,
        /// Mean of the objective on the validation data, for most cross-entropy in nats a label; on
        /// the steps that evaluate.
        pub validation_loss: Option<f64>,
        /// L2 norm of all gradients before clipping.
        pub grad_norm: Option<f64>,
        /// Learning rate of this step.
        pub learning_rate: f64,
        /// Tokens of this step over `step_seconds`.
        pub tokens_per_second: f64,
        /// Seconds this step took, evaluation and checkpoints left out.
        pub step_seconds: f64,
        /// Bytes in use on the device at the step's end.
        pub memory_bytes: Option<u64>,
        /// The most bytes in use on the device at any time since the process began.
        pub peak_memory_bytes: Option<u64>,
        /// Expert assignments dropped because an expert was full, over all layers and iterations.
        pub dropped: u64,
        /// True when the loss or gradient was not finite, so that no update was applied.
        pub skipped: bool,
        /// Steps of the run that applied no update, this one included.
        pub skipped_steps: Option<u64>,
        /// What the loss was multiplied by before its backward pass; where the run scales it (f16).
        pub loss_scale: Option<f64>,
        /// Mean reward of chosen completions, β · (log π − log π_ref), in nat; with preferences (DPO).
        pub rewards_chosen: Option<f64>,
        /// Mean reward of rejected completions.
        pub rewards_rejected: Option<f64>,
        /// Share of pairs whose chosen completion has the larger reward.
        pub rewards_accuracies: Option<f64>,
        /// Mean of the chosen completion's reward less the rejected one's.
        pub rewards_margins: Option<f64>,
        /// Divergence from the reference policy, nats a token; with rewards (GRPO).
        pub kl: Option<f64>,
        /// Share of tokens whose probability ratio was clipped.
        pub clip_fraction: Option<f64>,
        /// Mean reward of the step's completions.
        pub reward: Option<f64>,
        /// Mean advantage of the step's completions.
        pub advantage: Option<f64>,
    }
}

impl LineRow for StepMetrics {
    const REPLACED: bool = true;
    const ONE_A_STEP: bool = true;

    fn position(&self) -> (u32, u64) {
        (self.segment, self.step)
    }
}

impl<'de> Deserialize<'de> for StepMetrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Row;
        impl<'de> Visitor<'de> for Row {
            type Value = StepMetrics;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one step's metrics, as in {\"step\":1,\"loss\":2.5}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StepMetrics, A::Error> {
                let mut row = StepMetrics {
                    // A key that is missing was not measured.
                    loss: f64::NAN,
                    cross_entropy: f64::NAN,
                    learning_rate: f64::NAN,
                    tokens_per_second: f64::NAN,
                    step_seconds: f64::NAN,
                    ..StepMetrics::default()
                };
                let mut has_step = false;
                while let Some(Key(key)) = map.next_key()? {
                    let value: Scalar = map.next_value()?;
                    has_step |= key == "step" && matches!(value, Scalar::Integer(_));
                    row.set(&key, value);
                }
                if has_step {
                    Ok(row)
                } else {
                    Err(de::Error::missing_field("step"))
                }
            }
        }
        deserializer.deserialize_map(Row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<StepMetrics, serde_json::Error> {
        serde_json::from_str(line)
    }

    #[test]
    fn what_is_not_finite_is_null_and_comes_back_as_nan_not_as_absent() {
        let row = StepMetrics {
            step: 7,
            loss: f64::INFINITY,
            validation_loss: Some(f64::NAN),
            grad_norm: None,
            extra: BTreeMap::from([("mfu".into(), f64::NEG_INFINITY), ("lr_scale".into(), 0.5)]),
            ..StepMetrics::default()
        };
        let line = serde_json::to_string(&row).unwrap();
        // Plain JSON, so that jq and pandas take it.
        let plain: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(plain["loss"].is_null() && plain["mfu"].is_null());
        assert!(plain.get("grad_norm").is_none());
        let back = read(&line).unwrap();
        assert!(back.loss.is_nan());
        assert!(back.validation_loss.unwrap().is_nan());
        assert_eq!(back.grad_norm, None);
        assert!(back.extra["mfu"].is_nan());
        assert_eq!(back.extra["lr_scale"], 0.5);
    }

    #[test]
    fn large_counts_stay_exact() {
        let row = StepMetrics {
            step: u64::MAX,
            tokens: (1 << 60) + 1,
            memory_bytes: Some(u64::MAX - 1),
            ..StepMetrics::default()
        };
        let back = read(&serde_json::to_string(&row).unwrap()).unwrap();
        assert_eq!(
            (back.step, back.tokens, back.memory_bytes),
            (row.step, row.tokens, row.memory_bytes)
        );
    }

    #[test]
    fn lines_of_other_versions_are_read_as_far_as_understood() {
        let back = read(
            r#"{"step":1,"new":{"a":[1,{"b":null}]},"note":"hi","list":[[1],"x"],"esc\u0061pe":2,"skipped":1,"memory_bytes":null}"#,
        )
        .unwrap();
        assert_eq!(back.memory_bytes, None);
        assert_eq!(back.extra, BTreeMap::from([("escape".into(), 2.0)]));
        assert!(back.skipped && back.loss.is_nan());
    }

    #[test]
    fn a_line_without_a_step_or_with_more_than_an_object_is_an_error() {
        for line in [
            "{}",
            r#"{"step":"1"}"#,
            r#"{"step":null}"#,
            "[1]",
            "null",
            r#"{"step":1}{"step":2}"#,
            r#"{"step":1"#,
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn extra_cannot_shadow_a_fixed_key() {
        let mut row = StepMetrics {
            step: 1,
            loss: 2.0,
            ..StepMetrics::default()
        };
        row.extra.insert("loss".into(), 9.0);
        let line = serde_json::to_string(&row).unwrap();
        assert_eq!(line.matches("\"loss\"").count(), 1);
        assert_eq!(read(&line).unwrap().loss, 2.0);
    }

    #[test]
    fn every_name_can_be_asked_for() {
        let row = StepMetrics {
            aux_loss: Some(1.0),
            ..StepMetrics::default()
        };
        for name in StepMetrics::NAMES {
            let present = row.values().any(|(other, _)| other == *name);
            assert_eq!(row.get(name).is_some(), present, "{name}");
        }
        assert_eq!(row.get("aux_loss"), Some(1.0));
        assert_eq!(row.get("no such metric"), None);
    }
}

//! What a micro-batch holds beside its labels.

/// What an objective over log-probabilities knows of a micro-batch. A row is one completion, whose
/// labels are its tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Targets {
    /// Nothing but the labels.
    #[default]
    Labels,
    /// Rows 0, 2, … are preferred to rows 1, 3, …
    Pairs {
        /// Log-probability of each row's labels together under the reference policy, in nat
        /// `[batch]`.
        reference: Vec<f32>,
    },
    /// Completions that were rewarded.
    Groups {
        /// Of each row, see [`advantages`] `[batch]`.
        advantages: Vec<f32>,
        /// Log-probability of each label under the policy that wrote the completion, in nat; 0
        /// where there is no label `[batch · time]`.
        old: Vec<f32>,
        /// The same under the reference policy; empty where nothing asks for it.
        reference: Vec<f32>,
    },
}

/// Added to the standard deviation of a group's rewards.
const STEADY: f64 = 1e-4;

/// How much better each completion of a group is than their mean: the difference of its reward,
/// divided by the sample standard deviation + 10⁻⁴. All zero where all rewards are the same, or
/// there is only one.
pub fn advantages(rewards: &[f32]) -> Vec<f32> {
    // Compared, not computed: a mean of equal numbers may differ from them by a rounding, which
    // the small divisor would blow up.
    if rewards.windows(2).all(|pair| pair[0] == pair[1]) {
        return vec![0.0; rewards.len()];
    }
    let count = rewards.len() as f64;
    let mean = rewards.iter().map(|&reward| f64::from(reward)).sum::<f64>() / count;
    let squares = rewards
        .iter()
        .map(|&reward| (f64::from(reward) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (count - 1.0)).sqrt();
    rewards
        .iter()
        .map(|&reward| ((f64::from(reward) - mean) / (deviation + STEADY)) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_divide_by_the_sample_deviation_not_the_population_s() {
        // Mean 2; squares 1 + 0 + 1, over two, whose root is 1.
        let found = advantages(&[1.0, 2.0, 3.0]);
        let wanted = 1.0 / 1.0001;
        for (found, wanted) in found.iter().zip([-wanted, 0.0, wanted]) {
            assert!((f64::from(*found) - wanted).abs() < 1e-7, "{found}");
        }
        // Mean 1/4; squares 3 · 1/16 + 9/16 = 3/4, over three, whose root is 1/2.
        let found = advantages(&[0.0, 1.0, 0.0, 0.0]);
        assert!((f64::from(found[1]) - 0.75 / 0.5001).abs() < 1e-7);
    }

    #[test]
    fn a_group_whose_rewards_are_all_the_same_teaches_nothing() {
        // A third has no exact value, and the mean of seven of them is another number.
        assert_eq!(advantages(&[1.0 / 3.0; 7]), [0.0; 7]);
        assert_eq!(advantages(&[5.0]), [0.0]);
        assert!(advantages(&[]).is_empty());
    }
}

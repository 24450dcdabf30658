//! Smoothing of curves.

use crate::store::Bucket;

/// Exponential moving average over buckets, weighted by the values in them: `weight` (0: none, to
/// under 1) is how much of the past stays from one value to the next. The start is corrected for
/// having no past. `None` where a bucket holds no finite value.
pub fn smooth(buckets: &[Bucket], weight: f64) -> Vec<Option<f64>> {
    let (mut average, mut seen) = (0.0, 0.0);
    let mut smoothed = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        if bucket.count == 0 {
            smoothed.push(None);
            continue;
        }
        let keep = weight.powi(bucket.count.min(i32::MAX as u32) as i32);
        average = keep * average + (1.0 - keep) * f64::from(bucket.mean);
        seen = keep * seen + (1.0 - keep);
        smoothed.push(Some(average / seen));
    }
    smoothed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_and_the_start_is_not_pulled_to_zero() {
        let flat: Vec<Bucket> = (1..50).map(|step| Bucket::of(step, 3.0)).collect();
        for weight in [0.0, 0.9, 0.99] {
            let smoothed = smooth(&flat, weight);
            assert!(
                smoothed
                    .iter()
                    .all(|value| (value.unwrap() - 3.0).abs() < 1e-9)
            );
        }
    }

    #[test]
    fn a_value_that_is_not_finite_leaves_a_gap_and_poisons_nothing() {
        let values = [
            Bucket::of(1, 1.0),
            Bucket::of(2, f64::NAN),
            Bucket::of(3, 1.0),
        ];
        assert_eq!(smooth(&values, 0.5), [Some(1.0), None, Some(1.0)]);
    }
}

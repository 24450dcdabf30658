//! Entropy of a unigram distribution.

/// Entropy, in nat, of the empirical distribution that `counts` describe; 0 when all counts are 0.
pub(crate) fn entropy(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let total = total as f64;
    let sum: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f64 / total)
        .map(|p| -p * p.ln())
        .sum();
    // A distribution of one token gives -0.
    sum.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_certain_and_absent_tokens() {
        assert!((entropy(&[5, 5, 0, 5, 5]) - 4f64.ln()).abs() < 1e-12);
        assert_eq!(entropy(&[0, 7]), 0.0);
        assert_eq!(entropy(&[]), 0.0);
    }
}

//! In which order experts stand.

use std::cmp::Reverse;
use std::sync::Arc;

use super::Order;
use crate::store::run::{Run, lock};
use crate::{Gap, RouterId, RunId, Store};

/// Moments of time that similarity is judged by.
const PROFILE: usize = 128;

/// The order of a router's experts, whose loads are `loads`.
pub(crate) fn order(
    store: &Store,
    run: RunId,
    router: RouterId,
    loads: &[u64],
    order: Order,
) -> Result<Arc<Vec<u32>>, Gap> {
    let mut experts: Vec<u32> = (0..loads.len() as u32).collect();
    match order {
        Order::Index => {}
        Order::Load => experts.sort_by_key(|&expert| Reverse(loads[expert as usize])),
        Order::Cluster => {
            let run = store.find(run)?;
            let clustered = of_layer(&run, router.layer);
            if clustered.len() == experts.len() {
                return Ok(clustered);
            }
        }
    }
    Ok(Arc::new(experts))
}

/// The experts of a layer by similarity. Made anew when twice as much of the history was read as last time: a live run
/// does not turn its experts about at every step.
fn of_layer(run: &Run, layer: u32) -> Arc<Vec<u32>> {
    let (profiles, read) = profiles(run, layer);
    if let Some((known, order)) = lock(&run.clusters).get(&layer)
        && *known <= read
        && read < known * 2
    {
        return order.clone();
    }
    let order = Arc::new(leaf_order(&correlations(&profiles)));
    lock(&run.clusters).insert(layer, (read.max(1), order.clone()));
    order
}

/// By expert: its load over time in all iterations of the layer. And how many records were read for it.
fn profiles(run: &Run, layer: u32) -> (Vec<Vec<f32>>, usize) {
    let loads = run.loads();
    let routers: Vec<_> = loads
        .layout
        .routers
        .iter()
        .filter(|router| router.0.layer == layer)
        .collect();
    let experts = routers.iter().map(|router| router.1).min().unwrap_or(0);
    let columns: Vec<_> = loads
        .columns
        .iter()
        .filter(|column| column.read > 0)
        .collect();
    let width = columns.len().div_ceil(PROFILE).max(1);
    let profile = |expert: u32| {
        let of_router = |&&(_, _, start): &&(RouterId, u32, usize)| {
            let mean = move |group: &[&crate::store::load_history::LoadColumn]| {
                let sum: f32 = group
                    .iter()
                    .map(|column| column.tokens[start + expert as usize])
                    .sum();
                let read: u32 = group.iter().map(|column| column.read).sum();
                sum / read as f32
            };
            columns.chunks(width).map(mean).collect::<Vec<_>>()
        };
        routers.iter().flat_map(of_router).collect()
    };
    ((0..experts).map(profile).collect(), loads.read)
}

/// Correlation of every two profiles, −1 to 1.
pub(crate) fn correlations(profiles: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let normal: Vec<Vec<f32>> = profiles
        .iter()
        .map(|profile| {
            let mean = profile.iter().sum::<f32>() / profile.len().max(1) as f32;
            let length = profile
                .iter()
                .map(|value| (value - mean).powi(2))
                .sum::<f32>()
                .sqrt();
            profile
                .iter()
                .map(|value| {
                    if length > 0.0 {
                        (value - mean) / length
                    } else {
                        0.0
                    }
                })
                .collect()
        })
        .collect();
    let dot = |a: &Vec<f32>, b: &Vec<f32>| a.iter().zip(b).map(|(a, b)| a * b).sum();
    normal
        .iter()
        .map(|a| normal.iter().map(|b| dot(a, b)).collect())
        .collect()
}

/// The leaves of an average-linkage clustering from left to right: of two groups that are joined, the ends that are more
/// alike meet.
pub(crate) fn leaf_order(similarity: &[Vec<f32>]) -> Vec<u32> {
    let mut groups: Vec<Vec<u32>> = (0..similarity.len() as u32)
        .map(|leaf| vec![leaf])
        .collect();
    let mut between: Vec<Vec<f32>> = similarity.to_vec();
    let alike = |a: u32, b: u32| similarity[a as usize][b as usize];
    // Nearest neighbours that name each other are joined at once, in any order (average linkage is reducible), so that
    // this takes the square of the number of experts and not the cube.
    let mut chain: Vec<usize> = Vec::new();
    let mut left: Vec<usize> = (0..groups.len()).collect();
    while left.len() > 1 {
        if chain.is_empty() {
            chain.push(left[0]);
        }
        let top = chain[chain.len() - 1];
        let before = chain.len().checked_sub(2).map(|at| chain[at]);
        // Ties go to the one before, or the chain would not end.
        let mut nearest = before.unwrap_or_else(|| if left[0] == top { left[1] } else { left[0] });
        for &other in &left {
            if other != top && between[top][other] > between[top][nearest] {
                nearest = other;
            }
        }
        if before != Some(nearest) {
            chain.push(nearest);
            continue;
        }
        chain.truncate(chain.len() - 2);
        let (a, b) = (top.min(nearest), top.max(nearest));
        let (mut one, mut two) = (
            std::mem::take(&mut groups[a]),
            std::mem::take(&mut groups[b]),
        );
        let (na, nb) = (one.len() as f32, two.len() as f32);
        let ends = |list: &[u32]| (list[0], list[list.len() - 1]);
        let ((a0, a1), (b0, b1)) = (ends(&one), ends(&two));
        let best = [alike(a1, b0), alike(a1, b1), alike(a0, b0), alike(a0, b1)];
        let greatest = best.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        match best
            .iter()
            .position(|&value| value == greatest)
            .unwrap_or(0)
        {
            0 => {}
            1 => two.reverse(),
            2 => one.reverse(),
            _ => std::mem::swap(&mut one, &mut two),
        }
        one.append(&mut two);
        groups[a] = one;
        left.retain(|&other| other != b);
        for &other in &left {
            if other != a {
                let mean = (between[a][other] * na + between[b][other] * nb) / (na + nb);
                between[a][other] = mean;
                between[other][a] = mean;
            }
        }
    }
    left.first()
        .map(|&last| std::mem::take(&mut groups[last]))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_that_rise_together_stand_together_and_none_is_lost() {
        let wave = |phase: f32| {
            (0..50)
                .map(|t| (t as f32 / 5.0 + phase).sin())
                .collect::<Vec<_>>()
        };
        let profiles: Vec<_> = [0.0, 1.5, 0.1, 1.6, 0.05, 3.0].map(wave).into();
        let order = leaf_order(&correlations(&profiles));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
        let at = |expert| order.iter().position(|&other| other == expert).unwrap() as i32;
        assert!(
            (at(0) - at(2)).abs() <= 2 && (at(0) - at(4)).abs() <= 2,
            "{order:?}"
        );
        assert_eq!((at(1) - at(3)).abs(), 1, "{order:?}");
    }

    #[test]
    fn experts_that_never_change_have_an_order_too() {
        let order = leaf_order(&correlations(&vec![vec![1.0; 8]; 5]));
        assert_eq!(order.len(), 5);
        assert_eq!(leaf_order(&[]), Vec::<u32>::new());
        assert_eq!(leaf_order(&correlations(&[Vec::new()])), [0]);
    }
}

//! The values of the router losses, against sums in double precision on the host.

use bellows_engine::model::{Decoder, Input};
use bellows_engine::objective::{BalanceScope, RouterObjective};
use bellows_engine::step::MicroBatch;
use burn::module::Module;
use burn::tensor::Device;

use crate::batches::{divided, rows, step};
use crate::device::test_device;
use crate::models::{build, coe, deepseek_v3};
use crate::numbers::{assert_near, host};

/// What the routers of a model said of some tokens; one entry a layer and iteration.
struct Seen(Vec<Decision>);

struct Decision {
    logits: Vec<f32>,
    probabilities: Vec<f32>,
    experts: usize,
    chosen: Vec<u32>,
}

fn look(model: &Decoder, batch: &MicroBatch, device: &Device) -> Seen {
    let model = model.valid();
    let input = Input::new(model.config(), &batch.sequences, 0, device);
    let routings = model.forward(&input, None).routings;
    let decisions = routings.into_iter().map(|at| Decision {
        probabilities: host(at.routing.probabilities()),
        experts: at.routing.plan.experts,
        chosen: at.routing.plan.host().experts.clone(),
        logits: host(at.routing.logits),
    });
    Seen(decisions.collect())
}

/// Share of each expert in the choices of all of `seen`, a row for each layer and iteration.
fn shares(seen: &[&Seen]) -> Vec<Vec<f64>> {
    let rows = 0..seen[0].0.len();
    rows.map(|row| {
        let mut shares = vec![0.0; seen[0].0[row].experts];
        let total: usize = seen.iter().map(|seen| seen.0[row].chosen.len()).sum();
        for &expert in seen.iter().flat_map(|seen| &seen.0[row].chosen) {
            shares[expert as usize] += 1.0 / total as f64;
        }
        shares
    })
    .collect()
}

/// `E · Σₑ fₑ Σₜ Pₜₑ / T`, each layer and iteration.
fn terms(seen: &Seen, shares: &[Vec<f64>], tokens: usize) -> Vec<f64> {
    let decisions = seen.0.iter().zip(shares);
    decisions
        .map(|(at, shares)| {
            let weighted = at.probabilities.iter().enumerate();
            let sum: f64 = weighted
                .map(|(i, &p)| f64::from(p) * shares[i % at.experts])
                .sum();
            sum * at.experts as f64 / tokens as f64
        })
        .collect()
}

fn balance(
    model: &Decoder,
    batches: &[MicroBatch],
    device: &Device,
    scope: BalanceScope,
    pool_layers: bool,
) -> f64 {
    let objective = RouterObjective {
        balance: scope,
        balance_coefficient: 0.5,
        pool_layers,
        ..RouterObjective::default()
    };
    let losses = step(model, batches, &objective, device).losses;
    assert_near(
        "total",
        losses.total,
        losses.cross_entropy + 0.5 * losses.balance,
    );
    losses.balance
}

#[test]
fn each_scope_counts_the_tokens_that_it_says() {
    let Some(device) = test_device() else { return };
    for config in [coe(), deepseek_v3()] {
        let model = build(&config, &device);
        let batches = divided();
        let seen: Vec<Seen> = batches
            .iter()
            .map(|batch| look(&model, batch, &device))
            .collect();
        let tokens = 20;
        let value = |scope| balance(&model, &batches, &device, scope, false);
        let sum = |shares: [&[&Seen]; 2]| -> f64 {
            let terms = seen.iter().zip(shares).map(|(seen, counted)| {
                terms(seen, &self::shares(counted), tokens)
                    .iter()
                    .sum::<f64>()
            });
            terms.sum()
        };
        let (first, last, both) = ([&seen[0]], [&seen[1]], [&seen[0], &seen[1]]);
        let own = sum([&first, &last]);
        let running = sum([&first, &both]);
        let global = sum([&both, &both]);
        assert_near("micro-batch", value(BalanceScope::MicroBatch), own);
        // The last micro-batch sees the whole step, the first only itself.
        assert_near("running", value(BalanceScope::GlobalRunning), running);
        assert_near("global", value(BalanceScope::Global), global);
        assert!((own - running).abs() > 1e-3 && (running - global).abs() > 1e-3);

        let each: Vec<Seen> = (0..4)
            .map(|row| look(&model, &rows(row, row + 1), &device))
            .collect();
        let sequence: f64 = each
            .iter()
            .flat_map(|seen| terms(seen, &shares(&[seen]), tokens))
            .sum();
        assert_near("sequence", value(BalanceScope::Sequence), sequence);
    }
}

#[test]
fn pooled_layers_share_one_frequency_and_take_one_loss() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let batches = divided();
    let seen: Vec<Seen> = batches
        .iter()
        .map(|batch| look(&model, batch, &device))
        .collect();
    let layers = shares(&[&seen[0], &seen[1]]);
    let count = layers.len() as f64;
    let pooled: Vec<f64> = (0..layers[0].len())
        .map(|expert| layers.iter().map(|shares| shares[expert]).sum::<f64>() / count)
        .collect();
    let pooled = vec![pooled; layers.len()];
    let wanted: f64 = seen.iter().flat_map(|seen| terms(seen, &pooled, 20)).sum();
    let found = balance(&model, &batches, &device, BalanceScope::Global, true);
    assert_near("pooled", found, wanted / count);
}

#[test]
fn the_z_loss_is_the_mean_squared_log_sum_exp() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let objective = RouterObjective {
        balance: BalanceScope::None,
        z_loss_coefficient: 0.25,
        ..RouterObjective::default()
    };
    let losses = step(&model, &divided(), &objective, &device).losses;
    let wanted: f64 = divided()
        .iter()
        .flat_map(|batch| look(&model, batch, &device).0)
        .flat_map(|at| {
            let tokens = at.logits.chunks_exact(at.experts);
            let squares = tokens.map(|logits| {
                let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                sum.ln().powi(2) / 20.0
            });
            squares.collect::<Vec<_>>()
        })
        .sum();
    assert_near("z", losses.z, wanted);
    assert_near(
        "total",
        losses.total,
        losses.cross_entropy + 0.25 * losses.z,
    );
}

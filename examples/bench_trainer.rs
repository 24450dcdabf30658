//! Where a training step's time goes, and what recording and checkpoints add to it.
//!
//! `cargo xtask bench` runs it, or `cargo run --release --example bench_trainer -- CONFIG DEVICE`.
//! Everything is a ratio of two things measured alternately in this one process.

use std::sync::Arc;
use std::time::Instant;

use bellows::config::{Override, RunConfig};
use bellows::run::{Checkpoints, Recorder, Session, State, Stop, micro_batch};
use bellows::ui::Ui;
use bellows_engine::config::AttentionKind;
use bellows_engine::kernels::{attention, cross_entropy, experts, norm, routing};
use bellows_engine::model::Input;
use bellows_engine::observer::NoObserver;
use bellows_engine::step;
use bellows_record::RunWriter;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

const STEPS: usize = 20;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64(), result)
}

fn main() -> Result<(), bellows::error::Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments
        .first()
        .map_or("examples/rust-code.toml", String::as_str);
    let device = arguments.get(1).map_or("cpu", String::as_str);
    let overrides = [Override::text("DEVICE", "run.device", device)];
    let config = RunConfig::load(file.as_ref(), &overrides)?.config;
    let ui = Ui::new(true, anstream::ColorChoice::Auto);
    let mut session = Session::start(config, &Stop::default(), &ui)?;
    let runs = std::env::temp_dir().join(format!("bellows-bench-{}", std::process::id()));
    let toml = session.config.to_toml()?;
    let writer = Arc::new(RunWriter::create(&runs, "bench", session.info(), &toml)?);
    let settings = session.config.record.clone();
    let length = session.config.train.sequence_length;
    let probe = session
        .dataset
        .probe(length, settings.probe_tokens.div_ceil(length).max(1))?;
    // Everything that can be recorded, at the default intervals.
    let mut recorder = Recorder::new(writer.clone(), settings, Some(probe), false);
    let policy = session.config.checkpoint.clone();
    let mut checkpoints =
        Checkpoints::new(writer.clone(), session.dataset.tokenizer().clone(), policy);

    let device = session.device.clone();
    let plain = device.clone().without_autodiff();
    let sync = || device.sync().expect("the device answers");
    let names = [
        "batch",
        "input upload",
        "forward, no gradients",
        "forward + backward",
        "AdamW",
    ];
    let mut parts = vec![Vec::new(); names.len()];
    let (mut bare, mut recorded, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let objective = session.config.router.clone();
    for number in 0..STEPS {
        let (time, batch) = seconds(|| micro_batch(&session.loader.next_batch()));
        parts[0].push(time);
        let batch = [batch];
        let (time, input) =
            seconds(|| Input::new(session.model.config(), &batch[0].sequences, 0, &device));
        parts[1].push(time);
        let valid = session.model.valid();
        let (time, _) = seconds(|| {
            let hidden = valid.forward(&input, None).hidden;
            sync();
            hidden
        });
        parts[2].push(time);
        // The same step without and with an observer, in turn first.
        recorder.begin(
            number as u64 + 1,
            &session.model,
            &session.optimizer,
            &device,
        );
        let run_bare = |times: &mut Vec<f64>| {
            let (time, result) = seconds(|| {
                let result =
                    step::run(&session.model, &batch, &objective, &device, &mut NoObserver);
                sync();
                result
            });
            times.push(time);
            result
        };
        let result = run_bare(&mut bare);
        let (time, _) = seconds(|| {
            let result = step::run(&session.model, &batch, &objective, &device, &mut recorder);
            sync();
            result
        });
        recorded.push(time);
        parts[3].push(*bare.last().unwrap_or(&0.0));
        let (time, (model, _)) = seconds(|| {
            let updated = session
                .optimizer
                .update(session.model, result.gradients, 1e-4);
            sync();
            updated
        });
        parts[4].push(time);
        session.model = model;
        recorder.end_of_step();
        let (time, committed) = seconds(|| recorder.commit(&session.model, &device));
        committed?;
        rows.push(time);
    }

    let step_time = median(bare.clone()) + median(parts[4].clone());
    println!(
        "a step of {} tokens: {:.1} ms",
        session.config.train.tokens_per_step(),
        step_time * 1e3
    );
    for (name, times) in names.iter().zip(&parts) {
        let time = median(times.clone());
        println!(
            "  {name:<24} {:8.2} ms  {:5.1} %",
            time * 1e3,
            100.0 * time / step_time
        );
    }
    let observed: f64 = recorded.iter().sum::<f64>() - bare.iter().sum::<f64>();
    let total = step_time * STEPS as f64;
    println!(
        "recording at the configured intervals adds {:.2} % (in the step {:+.2} %, handing rows over {:.2} %)",
        100.0 * (observed + rows.iter().sum::<f64>()) / total,
        100.0 * observed / total,
        100.0 * rows.iter().sum::<f64>() / total
    );

    profile(&session, step_time, &plain);

    let state = |step| State {
        step,
        updates: session.optimizer.updates,
        tokens: 0,
        seconds: 0.0,
        skipped_in_a_row: 0,
        validation_loss: None,
        loss_scale: None,
        steering: bellows::control::Steering::default(),
        loader: session.loader.state(),
        reference: None,
        dataset: session.dataset.id().clone(),
    };
    let (mut waits, mut blocking) = (Vec::new(), Vec::new());
    for round in 0..7 {
        let (wait, saved) =
            seconds(|| checkpoints.save(&session.model, &session.optimizer, state(round + 1)));
        saved?;
        let (rest, written) = seconds(|| checkpoints.wait());
        written?;
        waits.push(wait);
        blocking.push(wait + rest);
    }
    let (wait, blocking) = (median(waits), median(blocking));
    println!(
        "a checkpoint holds training up for {:.2} ms, {:.2} % of the {:.0} ms that writing it takes",
        wait * 1e3,
        100.0 * wait / blocking,
        blocking * 1e3
    );

    let square = |n: usize| {
        let make = || Tensor::<2>::random([n, n], Distribution::Default, &plain);
        let (a, b) = (make(), make());
        sync();
        let times = (0..9).map(|_| {
            seconds(|| {
                let product = a.clone().matmul(b.clone());
                sync();
                product
            })
            .0
        });
        2.0 * (n as f64).powi(3) / median(times.collect()) / 1e9
    };
    let (small, large) = (square(256), square(1024));
    let flops = training_flops(&session.config);
    println!(
        "{:.1} GFLOP/s of model arithmetic in the step; Burn's matmul reaches {small:.1} at 256³, {large:.1} at 1024³",
        flops / step_time / 1e9
    );
    drop((recorder, checkpoints, writer));
    let _ = std::fs::remove_dir_all(&runs);
    Ok(())
}

/// Forward and backward of each family alone, at the session's shapes, times its calls in a step.
fn profile(session: &Session, step_time: f64, device: &Device) {
    let (model, train) = (&session.config.model, &session.config.train);
    let (batch, time, hidden) = (train.batch_size, train.sequence_length, model.hidden_size);
    let rows = batch * time;
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Default, device);
    let heads = |count: usize, width: usize| {
        random([batch * count * time, width]).reshape([batch, count, time, width])
    };
    let layers = model.num_hidden_layers as f64;
    let mixtures = (model.moe_layers() * model.inner_iter) as f64;
    let report = |name: &str, calls: f64, work: &dyn Fn()| {
        let times = (0..9).map(|_| {
            let (time, ()) = seconds(|| {
                work();
                device.sync().expect("the device answers");
            });
            time
        });
        let time = calls * median(times.collect());
        println!(
            "    {name:<22} {:8.2} ms  {:5.1} %",
            time * 1e3,
            100.0 * time / step_time
        );
    };
    println!("  of which, each family measured alone:");
    let (q, v) = (model.query_head_dim(), model.value_head_dim());
    let n = model.num_attention_heads;
    let (groups, projections) = match model.attention {
        AttentionKind::Gqa => {
            let groups = model.num_key_value_heads;
            (groups, vec![(hidden, n * q), (hidden, 2 * groups * q)])
        }
        AttentionKind::Mla => {
            let (rank, plain) = (model.kv_lora_rank, model.qk_nope_head_dim);
            let latent = rank + model.qk_rope_head_dim;
            (
                n,
                vec![(hidden, n * q), (hidden, latent), (rank, n * (plain + v))],
            )
        }
    };
    let (query, key, value) = (heads(n, q), heads(groups, q), heads(groups, v));
    let dy = heads(n, v);
    let visible = attention::Visible::default();
    report("attention", layers * train.accumulation as f64, &|| {
        let (query, key, value) = (query.clone(), key.clone(), value.clone());
        let (y, log_sums) =
            attention::reference::forward(query.clone(), key.clone(), value.clone(), &visible, 0.1);
        let kept = attention::reference::Kept {
            query,
            key,
            value,
            y,
            log_sums,
        };
        attention::reference::backward(dy.clone(), kept, None, &visible, 0.1);
    });
    let x = random([rows, hidden]);
    let project = |input: usize, output: usize| {
        let (x, weight) = (random([rows, input]), random([output, input]));
        let y = x.clone().matmul(weight.clone().transpose());
        (y.clone().matmul(weight), y.transpose().matmul(x))
    };
    report(
        "its projections",
        layers * train.accumulation as f64,
        &|| {
            for &(input, output) in projections.iter().chain(&[(n * v, hidden)]) {
                project(input, output);
            }
        },
    );
    if mixtures > 0.0 {
        let (count, k, inner) = (
            model.n_routed_experts,
            model.num_experts_per_tok,
            model.moe_intermediate_size,
        );
        let chosen: Vec<i32> = (0..rows * k)
            .map(|slot| (slot * 7 % count) as i32)
            .collect();
        let chosen = Tensor::<2, Int>::from_data(TensorData::new(chosen, [rows, k]), device);
        let plan = routing::Plan::from_indices(chosen, count, None);
        let stacked = |a: usize, b: usize| random([count * a, b]).reshape([count, a, b]);
        let inputs = experts::reference::Inputs {
            x: x.clone(),
            weights: random([rows, k]),
            experts: experts::Bank::whole(stacked(2 * inner, hidden), stacked(hidden, inner)),
        };
        report(
            "routed experts",
            mixtures * train.accumulation as f64,
            &|| {
                let layout = experts::reference::Layout::new(&plan, device);
                let (_, pre) = experts::reference::forward(&inputs, &layout);
                experts::reference::backward(x.clone(), &inputs, &layout, pre);
            },
        );
        let shared = model.n_shared_experts * inner;
        if shared > 0 {
            let calls = mixtures * train.accumulation as f64;
            report("shared experts", calls, &|| dense(&x, shared));
        }
    }
    let dense_layers = (model.num_hidden_layers - model.moe_layers()) as f64;
    if dense_layers > 0.0 {
        report(
            "dense feed-forward",
            dense_layers * train.accumulation as f64,
            &|| {
                dense(&x, model.intermediate_size);
            },
        );
    }
    let norm = Tensor::<1>::ones([hidden], device);
    report(
        "norms",
        (2.0 * layers + 1.0) * train.accumulation as f64,
        &|| {
            let (_, rms) = norm::reference::forward(x.clone(), norm.clone(), 1e-6);
            norm::reference::backward(x.clone(), x.clone(), norm.clone(), rms);
        },
    );
    let head = random([model.vocab_size, hidden]);
    let labels = Tensor::<1, Int>::zeros([rows], device);
    let weights = Tensor::<1>::ones([rows], device);
    report("head and cross-entropy", train.accumulation as f64, &|| {
        let (head, labels) = (head.clone(), labels.clone());
        let settings = cross_entropy::Settings::default();
        cross_entropy::reference::forward_backward(
            x.clone(),
            head,
            labels,
            weights.clone(),
            None,
            &settings,
        );
    });
}

fn dense(x: &Tensor<2>, inner: usize) {
    let [_, hidden] = x.dims();
    let device = x.device();
    let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Default, &device);
    let (gate, up, down) = (
        random([inner, hidden]),
        random([inner, hidden]),
        random([hidden, inner]),
    );
    let g = x.clone().matmul(gate.clone().transpose());
    let u = x.clone().matmul(up.clone().transpose());
    let a = experts::reference::swiglu(g.clone(), u.clone());
    let _y = a.clone().matmul(down.clone().transpose());
    let _ddown = x.clone().transpose().matmul(a);
    let (dg, du) = experts::reference::swiglu_backward(x.clone().matmul(down), g, u);
    let _dgate = dg.clone().transpose().matmul(x.clone());
    let _dup = du.clone().transpose().matmul(x.clone());
    let _dx = dg.matmul(gate).add(du.matmul(up));
}

/// Multiply-adds of the matrices that a step's tokens pass, forward and backward, times two.
fn training_flops(config: &RunConfig) -> f64 {
    let model = &config.model;
    let heads = model.num_attention_heads * (model.query_head_dim() + model.value_head_dim());
    let scores = model.num_hidden_layers * heads * config.train.sequence_length;
    let per_token = 6 * (model.parameter_counts().computed + scores);
    per_token as f64 * config.train.tokens_per_step() as f64
}

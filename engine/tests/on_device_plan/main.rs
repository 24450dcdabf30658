//! The memory plan and the ledger against what is measured. Alone in its program: tests beside it
//! would allocate from the same pools, and it counts all that the program allocates. One test,
//! because two would measure each other.

#[path = "../../../kernels/tests/on_device/device.rs"]
mod device;

use bellows_engine::config::{ModelConfig, ModelType, QkNorm};
use bellows_engine::kernels::Compute;
use bellows_engine::kernels::memory::{Counting, Kind, Ledger, Moment, Watch, in_use};
use bellows_engine::model::{Decoder, Init, Numerics, Sequences};
use bellows_engine::objective::{Objective, RouterObjective, Targets};
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig, own_parameters};
use bellows_engine::plan::{Load, Target, predict};
use bellows_engine::step::{Backpropagation, MicroBatch, Settings, run_with};
use bellows_engine::stream::{self, Keep};
use burn::tensor::Device;

use device::test_device;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Share of the measured peak by which a prediction may be off. The loads are large enough that
/// what the CPU's matrix product packs into is not most of it.
const TOLERANCE: f64 = 0.1;

fn dense() -> ModelConfig {
    ModelConfig {
        model_type: ModelType::Qwen3,
        vocab_size: 256,
        hidden_size: 64,
        num_hidden_layers: 3,
        intermediate_size: 192,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        qk_norm: QkNorm::Head,
        ..ModelConfig::default()
    }
}

fn chain() -> ModelConfig {
    ModelConfig {
        model_type: ModelType::CoeDeepseekV2,
        qk_norm: QkNorm::None,
        n_routed_experts: 4,
        num_experts_per_tok: 2,
        moe_intermediate_size: 64,
        inner_iter: 2,
        inner_residual: true,
        ..dense()
    }
}

/// A step to be predicted and measured.
struct Case {
    name: &'static str,
    config: ModelConfig,
    /// Sequences, and tokens of each.
    size: (usize, usize),
    way: Backpropagation,
    numerics: Numerics,
    objective: Objective,
}

impl Case {
    /// An optimizer updates weights in f32 alone.
    fn trains(&self) -> bool {
        self.numerics.weights == Compute::F32
    }

    fn load(&self) -> Load {
        Load {
            batch: self.size.0,
            time: self.size.1,
            micro_batches: 1,
            documents: false,
            training: self.trains(),
            head_twice: self.objective.has_reference(),
        }
    }
}

/// The fullest moments of a step's phases, after one that compiled kernels and made the moments.
fn measured(case: &Case, device: &Device) -> (u64, Vec<Moment>) {
    let (config, (rows, time)) = (&case.config, case.size);
    let before = in_use(device).expect("pools, or the allocator of this program");
    let tracked = device.clone().autodiff();
    let init = Init::random(&tracked, 17, 0.1);
    let mut model = Decoder::new(&mut init.with_numerics(case.numerics), config);
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let ids: Vec<i32> = (0..rows * time)
        .map(|at| (at * at % config.vocab_size) as i32)
        .collect();
    let batch = MicroBatch {
        labels: ids.clone(),
        sequences: Sequences::plain(rows, time, ids),
        targets: match case.objective {
            Objective::Dpo { .. } => Targets::Pairs {
                reference: vec![-3.0; rows],
            },
            _ => Targets::default(),
        },
    };
    let settings = Settings {
        backpropagation: case.way,
        objective: case.objective,
        ..Settings::default()
    };
    let mut moments = Vec::new();
    for watched in [false, true] {
        device.sync().expect("the device works");
        let ledger = watched.then(Ledger::new);
        if watched {
            own_parameters(&model);
            optimizer.own_moments();
        }
        let watch = watched.then(|| Watch::new(device, 1));
        let batches = std::slice::from_ref(&batch);
        let objective = RouterObjective::default();
        let result = run_with(
            &model,
            batches,
            &objective,
            &tracked,
            &mut NoObserver,
            &settings,
        );
        if case.trains() {
            model = optimizer.apply(model, result.gradients, 1e-3);
            optimizer.outcome();
        }
        moments = watch.map_or(moments, Watch::finish);
        drop(ledger);
    }
    drop((model, optimizer));
    device.sync().expect("the device works");
    let left = in_use(device).expect("it was there before").in_use;
    if *device == Device::flex() {
        // What stays without the model was not its: buffers of the CPU's matrix product, whose size
        // is the processor's affair.
        return (before.in_use.max(left), moments);
    }
    let more = left.saturating_sub(before.in_use);
    let peak = moments.iter().map(|moment| moment.reading.in_use).max();
    assert!(
        more * 100 < peak.expect("a moment"),
        "{}: {more} bytes stay",
        case.name
    );
    (before.in_use, moments)
}

#[test]
fn a_plan_is_within_a_tenth_of_the_peak_and_the_ledger_names_nine_tenths_of_it() {
    let Some(device) = test_device() else { return };
    let streamed = |chunk, keep_attention| {
        Backpropagation::Streamed(stream::Settings {
            chunk,
            keep: Keep::F32,
            keep_attention,
        })
    };
    let numerics = |compute, weights| Numerics {
        compute,
        weights,
        ..Numerics::default()
    };
    let (f32, f16) = (Compute::F32, Compute::F16);
    // What cannot store f16 computes the same step in f32.
    let f16 = if device != Device::flex() && f16.stored_by(&device) {
        f16
    } else {
        f32
    };
    let case = |name, config, size, way| Case {
        name,
        config,
        size,
        way,
        numerics: numerics(f32, f32),
        objective: Objective::default(),
    };
    let cases = [
        case("dense, plain", dense(), (4, 512), Backpropagation::Plain),
        case(
            "chain, checkpoint",
            chain(),
            (2, 512),
            streamed(None, false),
        ),
        case(
            "chain, stream",
            chain(),
            (1, 1024),
            streamed(Some(128), false),
        ),
        case(
            "dense, stream, attention kept",
            dense(),
            (1, 2048),
            streamed(Some(256), true),
        ),
        case(
            "dense, stream, all kept on the host",
            dense(),
            (1, 2048),
            Backpropagation::Streamed(stream::Settings {
                chunk: Some(256),
                keep: Keep::Host,
                keep_attention: true,
            }),
        ),
        Case {
            objective: Objective::Dpo { beta: 0.1 },
            ..case("pairs, plain", dense(), (4, 512), Backpropagation::Plain)
        },
        Case {
            objective: Objective::Dpo { beta: 0.1 },
            ..case(
                "pairs, stream",
                chain(),
                (2, 1024),
                streamed(Some(128), false),
            )
        },
        Case {
            numerics: numerics(f16, f32),
            ..case("chain in f16", chain(), (2, 512), Backpropagation::Plain)
        },
        Case {
            numerics: numerics(f16, f16),
            ..case("all in f16", dense(), (4, 1024), streamed(Some(256), false))
        },
    ];
    for case in cases {
        let (name, config) = (case.name, &case.config);
        config.validate().expect("a valid model");
        let (before, moments) = measured(&case, &device);
        let fullest = moments
            .iter()
            .max_by_key(|moment| moment.reading.in_use)
            .expect("something was launched");
        let peak = fullest.reading.in_use - before;
        let target = Target::of(&device, case.numerics);
        let predicted = predict(config, &case.load(), target, case.way);
        let predicted = predicted.peak().total();
        let off = predicted as f64 / peak as f64 - 1.0;
        let named: u64 = fullest.held.iter().map(|held| held.bytes).sum();
        let unexplained = fullest.held_at.in_use.saturating_sub(named);
        println!("{name}: predicted {predicted}, measured {peak}, {unexplained} unexplained");
        assert!(off.abs() < TOLERANCE, "{name}: off by {off:.3}");
        assert!(
            unexplained * 10 < fullest.held_at.in_use,
            "{name}: {unexplained} of {} unexplained",
            fullest.held_at.in_use
        );
        let kinds: Vec<Kind> = fullest.held.iter().map(|held| held.kind).collect();
        for kind in [Kind::Weights, Kind::Optimizer, Kind::Activations] {
            let there = kind != Kind::Optimizer || case.trains();
            assert_eq!(kinds.contains(&kind), there, "{name}: {kind:?}");
        }
        let layers = fullest.held.iter().filter_map(|held| held.layer);
        assert_eq!(layers.max(), Some(config.num_hidden_layers as u32 - 1));
    }
}

//! Memory and time of a forward and backward pass: plainly, with checkpoints, and streamed.
//!
//! `cargo xtask bench stream` runs it, or `cargo run --release --features vulkan --example
//! bench_stream -- --shape qwen3-0.6b --tokens 8192 --memory checkpoint,stream --chunk 2048,4096
//! --weights compute`, a row for each chunk. Peaks are the most bytes in use before any launch, in a
//! pass of its own; times are medians of passes without that measurement. Gradients are f32.
//! `--owners` tells who holds the memory at the peak.

use std::time::Instant;

use bellows::device::{DeviceChoice, Precision};
use bellows::plan::made_up_batch;
use bellows_engine::config::{ModelConfig, ModelType, QkNorm};
use bellows_engine::kernels::memory::{Counting, Ledger, Moment, Watch, in_use};
use bellows_engine::kernels::profile::{Stage, all_launches_of, stages_of};
use bellows_engine::kernels::{Compute, Kernels, host};
use bellows_engine::model::{Decoder, Init, Numerics};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::own_parameters;
use bellows_engine::plan::{Load, Target, ample_chunk, predict};
use bellows_engine::step::{Backpropagation, MicroBatch, Settings, run_with};
use bellows_engine::stream::{self, Keep};
use burn::tensor::Device;
use clap::{Parser, ValueEnum};
use serde_json::json;

/// On the CPU memory is what this program has allocated.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Models to measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// 28 layers, hidden 1024, 16 heads and 8 groups of 128, inner 3072, vocabulary 151,936.
    #[value(name = "qwen3-0.6b")]
    Qwen3,
    /// 4 layers, hidden 1024, 64 experts of 704, 8 a token.
    Moe,
    /// The same in two iterations with 4 choices each.
    Coe,
    /// 4 layers, hidden 128: for a software renderer.
    Small,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    Plain,
    Checkpoint,
    /// Checkpoints, and a head that makes the logits of all tokens at once, as is common.
    CheckpointFullLogits,
    Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WeightsAs {
    F32,
    /// In the type that matrices are multiplied in.
    Compute,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeepAs {
    F32,
    Compute,
    Host,
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "gpu")]
    device: DeviceChoice,
    #[arg(long, value_enum, default_value = "small")]
    shape: Shape,
    /// Tokens of a sequence.
    #[arg(long, value_delimiter = ',', default_value = "512")]
    tokens: Vec<usize>,
    /// Sequences.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "plain,checkpoint,stream"
    )]
    memory: Vec<Way>,
    /// Tokens of a chunk, a measurement each; none: as the memory plan chooses.
    #[arg(long, value_delimiter = ',')]
    chunk: Vec<usize>,
    /// How the matrices are held.
    #[arg(long, value_enum, default_value = "f32")]
    weights: WeightsAs,
    #[arg(long, value_enum, default_value = "f32")]
    keep: KeepAs,
    /// Keep the results of attention in the same way, instead of computing them again.
    #[arg(long)]
    keep_attention: bool,
    /// auto, f32, f16 or bf16.
    #[arg(long, default_value = "auto")]
    precision: Precision,
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Where the time goes, after each row: the kernels' stages, each waited for.
    #[arg(long)]
    profile: bool,
    /// A JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Tell who holds the memory at the peak: the largest so many.
    #[arg(long, value_name = "COUNT", default_value_t = 0, default_missing_value = "20", num_args = 0..=1)]
    owners: usize,
}

fn config(shape: Shape) -> ModelConfig {
    let dense = |hidden: usize, layers: usize| ModelConfig {
        model_type: ModelType::Qwen3,
        hidden_size: hidden,
        num_hidden_layers: layers,
        qk_norm: QkNorm::Head,
        ..ModelConfig::default()
    };
    let config = match shape {
        Shape::Qwen3 => ModelConfig {
            vocab_size: 151_936,
            intermediate_size: 3072,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 128,
            ..dense(1024, 28)
        },
        Shape::Moe | Shape::Coe => ModelConfig {
            model_type: ModelType::Qwen3Moe,
            vocab_size: 32_768,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: 64,
            n_routed_experts: 64,
            num_experts_per_tok: 8,
            moe_intermediate_size: 704,
            ..dense(1024, 4)
        },
        Shape::Small => ModelConfig {
            vocab_size: 4096,
            intermediate_size: 384,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..dense(128, 4)
        },
    };
    match shape {
        Shape::Coe => ModelConfig {
            model_type: ModelType::CoeDeepseekV2,
            num_experts_per_tok: 4,
            inner_iter: 2,
            inner_residual: true,
            outer_residual: false,
            qk_norm: QkNorm::None,
            ..config
        },
        _ => config,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let opened = options.device.open()?;
    let compute = options.precision.resolve(&opened)?.compute;
    let device = opened.device.clone().autodiff();
    let config = config(options.shape);
    config.validate()?;
    let numerics = Numerics {
        kernels: Kernels::default(),
        compute,
        weights: match options.weights {
            WeightsAs::F32 => Compute::F32,
            WeightsAs::Compute => compute,
        },
        ..Numerics::default()
    };
    let mut init = Init::random(&device, 0, config.initializer_range).with_numerics(numerics);
    let model = Decoder::new(&mut init, &config);
    let target = Target::of(&opened.device, numerics);
    let parameters = config.parameter_counts().total as u64;
    let load = |time| Load {
        batch: options.batch,
        time,
        micro_batches: 1,
        documents: false,
        training: false,
        head_twice: false,
    };
    // Those of matrices in the type they are held in; the few vectors are f32 in any case.
    let weights = target.weight_bytes(&config);
    if !options.json {
        println!(
            "{:?} on {}, {compute:?}: {} MiB of weights, {} of gradients",
            options.shape,
            opened.name(),
            weights >> 20,
            (parameters * 4) >> 20
        );
        println!(
            "| tokens | memory | chunk | peak beyond weights and gradients, MiB | whole peak, MiB | predicted, MiB | s | host, s | launches |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    }
    let keep = match options.keep {
        KeepAs::F32 => Keep::F32,
        KeepAs::Compute => Keep::Compute,
        KeepAs::Host => Keep::Host,
    };
    let streamed = |chunk| {
        Backpropagation::Streamed(stream::Settings {
            chunk,
            keep,
            keep_attention: options.keep_attention,
        })
    };
    for &time in &options.tokens {
        let ways = options.memory.iter().flat_map(|&way| match way {
            Way::Plain => vec![(way, Backpropagation::Plain)],
            Way::Checkpoint | Way::CheckpointFullLogits => vec![(way, streamed(None))],
            Way::Stream if options.chunk.is_empty() => {
                let chunk = ample_chunk(&config, &load(time), target);
                vec![(way, streamed(Some(chunk)))]
            }
            Way::Stream => {
                let chunks = options.chunk.iter();
                chunks.map(|&chunk| (way, streamed(Some(chunk)))).collect()
            }
        });
        for (way, settings) in ways {
            let memory = way.to_possible_value().expect("every way has a name");
            let memory = memory.get_name().to_owned();
            let head_workspace = match way {
                Way::CheckpointFullLogits => usize::MAX,
                _ => target.head_workspace,
            };
            let chunk = match settings {
                Backpropagation::Streamed(stream::Settings { chunk, .. }) => chunk,
                Backpropagation::Plain => None,
            };
            let of = Measured {
                model: &model.clone().with_head_workspace(head_workspace),
                backpropagation: settings,
                batch: options.batch,
                time,
                device: &device,
            };
            let found = of.measure(&options)?;
            let target = Target {
                head_workspace,
                ..target
            };
            let predicted = predict(&config, &load(time), target, settings);
            let predicted = predicted.peak().total();
            let peak = found.peak();
            let beyond = peak.map(|peak| peak.saturating_sub(weights + parameters * 4));
            if options.json {
                let line = json!({
                    "shape": format!("{:?}", options.shape),
                    "device": opened.name(),
                    "compute": format!("{compute:?}"),
                    "batch": options.batch,
                    "tokens": time,
                    "memory": memory,
                    "chunk": chunk,
                    "settings": format!("{settings:?}"),
                    "weight_bytes": weights,
                    "gradient_bytes": parameters * 4,
                    "peak_bytes": peak,
                    "peak_beyond_bytes": beyond,
                    "predicted_bytes": predicted,
                    "reserved_bytes": found.reserved(),
                    "seconds": found.seconds,
                    "host_seconds": found.host,
                    "launches": found.launches,
                    "loss": found.loss,
                });
                println!("{line}");
            } else {
                let mib = |bytes: Option<u64>| {
                    bytes.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string())
                };
                println!(
                    "| {time} | {memory} | {} | {} | {} | {} | {:.3} | {:.3} | {} |",
                    chunk.map_or("-".to_owned(), |chunk| chunk.to_string()),
                    mib(beyond),
                    mib(peak),
                    predicted >> 20,
                    found.seconds,
                    found.host,
                    found.launches,
                );
            }
            found.print_owners(options.owners);
            if options.profile {
                found.print_stages();
            }
        }
    }
    Ok(())
}

struct Found {
    /// The fullest moment of each phase; empty where the device does not say.
    moments: Vec<Moment>,
    /// Median of a step.
    seconds: f64,
    /// Of them without waiting for the device.
    host: f64,
    launches: u64,
    loss: f64,
    /// Where the time goes, if asked.
    stages: Vec<Stage>,
}

impl Found {
    fn fullest(&self) -> Option<&Moment> {
        let moments = self.moments.iter();
        moments.max_by_key(|moment| moment.reading.in_use)
    }

    /// Most bytes in use, weights and gradients included.
    fn peak(&self) -> Option<u64> {
        self.fullest().map(|moment| moment.reading.in_use)
    }

    fn reserved(&self) -> Option<u64> {
        let reserved = self.moments.iter().map(|moment| moment.reading.reserved);
        reserved.max()
    }

    /// To standard error: where the time goes.
    fn print_stages(&self) {
        let mut stages: Vec<&Stage> = self.stages.iter().collect();
        stages.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let all: f64 = stages.iter().map(|stage| stage.seconds).sum();
        eprintln!("{all:.3} s in kernels, waits included; the rest is plain operations");
        for stage in stages {
            eprintln!(
                "{:32} {:8.1} ms {:6} runs {:8.1} TFLOP/s",
                stage.name,
                stage.seconds * 1e3,
                stage.runs,
                stage.operations / stage.seconds / 1e12
            );
        }
    }

    /// To standard error: who holds the most at the peak.
    fn print_owners(&self, count: usize) {
        let Some(moment) = self.fullest().filter(|_| count > 0) else {
            return;
        };
        eprintln!("peak: {}, layer {:?}", moment.phase, moment.layer);
        let mut held: Vec<_> = moment.held.iter().collect();
        held.sort_by_key(|held| std::cmp::Reverse(held.bytes));
        for held in held.into_iter().take(count) {
            let layer = held.layer.map_or("-".to_owned(), |layer| layer.to_string());
            let mib = held.bytes as f64 / f64::from(1 << 20);
            eprintln!(
                "{mib:>10.2} MiB  {:<12} {layer:>3}  {}",
                held.kind.as_str(),
                held.owner
            );
        }
    }
}

/// What is measured.
struct Measured<'a> {
    model: &'a Decoder,
    backpropagation: Backpropagation,
    batch: usize,
    time: usize,
    device: &'a Device,
}

impl Measured<'_> {
    fn batches(&self) -> [MicroBatch; 1] {
        let vocabulary = self.model.config().vocab_size;
        [made_up_batch(vocabulary, self.batch, self.time)]
    }

    fn measure(&self, options: &Options) -> Result<Found, String> {
        let (repeats, owners) = (options.repeats, options.owners > 0);
        let device = self.device;
        let batches = self.batches();
        let settings = Settings {
            backpropagation: self.backpropagation,
            ..Settings::default()
        };
        let objective = RouterObjective::default();
        let step = || {
            run_with(
                self.model,
                &batches,
                &objective,
                device,
                &mut NoObserver,
                &settings,
            )
        };
        let sync = || device.sync().map_err(|error| format!("{error}"));
        // Compiles kernels, and leaves nothing behind that the measured passes did not make.
        let (result, launches) = all_launches_of(step);
        let loss = result.losses.total;
        drop(result);
        sync()?;
        device.memory_cleanup();
        let ledger = owners.then(Ledger::new);
        if owners {
            own_parameters(self.model);
        }
        let watch = in_use(device).map(|_| Watch::new(device, 1));
        drop(step());
        let moments = watch.map_or_else(Vec::new, Watch::finish);
        drop(ledger);
        sync()?;
        let (mut seconds, mut host) = (Vec::new(), Vec::new());
        for _ in 0..repeats.max(1) {
            let (start, waited) = (Instant::now(), host::waited());
            let result = step();
            let handed = start.elapsed().saturating_sub(host::waited() - waited);
            sync()?;
            seconds.push(start.elapsed().as_secs_f64());
            host.push(handed.as_secs_f64());
            drop(result);
        }
        let stages = match options.profile {
            true => stages_of(step).1,
            false => Vec::new(),
        };
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Ok(Found {
            moments,
            seconds: median(seconds),
            host: median(host),
            launches,
            loss,
            stages,
        })
    }
}

//! Memory and time of a forward and backward pass: plainly, with checkpoints, and streamed.
//!
//! `cargo xtask bench stream` runs it, or `cargo run --release --features vulkan --example
//! bench_stream -- --shape qwen3-0.6b --tokens 8192,16384 --memory stream`. Peaks are the most bytes
//! in use before any launch, in a pass of its own; times are medians of
//! passes without that measurement. Weights and gradients are f32.

use std::time::Instant;

use bellows::device::{DeviceChoice, Precision};
use bellows_engine::config::{ModelConfig, ModelType, QkNorm};
use bellows_engine::kernels::Kernels;
use bellows_engine::kernels::memory::{Counting, in_use, peak_during};
use bellows_engine::kernels::profile::{Stage, stages_of};
use bellows_engine::model::{Decoder, Init, Numerics, Sequences};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::step::{Backpropagation, IGNORE, MicroBatch, Settings, run_with};
use bellows_engine::stream::{self, Keep, auto_chunk};
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
    Stream,
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
    /// Tokens of a chunk; none: chosen by the length.
    #[arg(long)]
    chunk: Option<usize>,
    #[arg(long, value_enum, default_value = "f32")]
    keep: KeepAs,
    /// auto, f32, f16 or bf16.
    #[arg(long, default_value = "auto", value_parser = precision)]
    precision: Precision,
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Where the time goes, after each row: the kernels' stages, each waited for.
    #[arg(long)]
    profile: bool,
    /// A JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
}

fn precision(name: &str) -> Result<Precision, String> {
    serde_json::from_value(json!(name)).map_err(|error| error.to_string())
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
            vocab_size: 512,
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
        recompute_experts: false,
    };
    let mut init = Init::random(&device, 0, config.initializer_range).with_numerics(numerics);
    let model = Decoder::new(&mut init, &config);
    let parameters = config.parameter_counts().total as u64;
    if !options.json {
        println!(
            "{:?} on {}, {compute:?}: {} MiB of weights, as much of gradients",
            options.shape,
            opened.name(),
            (parameters * 4) >> 20
        );
        println!(
            "| tokens | memory | peak beyond weights and gradients, MiB | whole peak, MiB | s |"
        );
        println!("| --- | --- | --- | --- | --- |");
    }
    let keep = match options.keep {
        KeepAs::F32 => Keep::F32,
        KeepAs::Compute => Keep::Compute,
        KeepAs::Host => Keep::Host,
    };
    for &time in &options.tokens {
        for &way in &options.memory {
            let memory = format!("{way:?}").to_lowercase();
            let streamed = |chunk| Backpropagation::Streamed(stream::Settings { chunk, keep });
            let way = match way {
                Way::Plain => Backpropagation::Plain,
                Way::Checkpoint => streamed(None),
                Way::Stream => streamed(Some(options.chunk.unwrap_or_else(|| auto_chunk(time)))),
            };
            let found = measure(
                &model,
                way,
                options.batch,
                time,
                &device,
                options.repeats,
                options.profile,
            )?;
            let beyond = found.peak.map(|peak| peak.saturating_sub(parameters * 8));
            if options.json {
                let line = json!({
                    "shape": format!("{:?}", options.shape),
                    "device": opened.name(),
                    "compute": format!("{compute:?}"),
                    "batch": options.batch,
                    "tokens": time,
                    "memory": memory,
                    "settings": format!("{way:?}"),
                    "weight_bytes": parameters * 4,
                    "gradient_bytes": parameters * 4,
                    "peak_bytes": found.peak,
                    "peak_beyond_bytes": beyond,
                    "reserved_bytes": found.reserved,
                    "seconds": found.seconds,
                    "loss": found.loss,
                });
                println!("{line}");
            } else {
                let mib = |bytes: Option<u64>| {
                    bytes.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string())
                };
                println!(
                    "| {time} | {memory} | {} | {} | {:.3} |",
                    mib(beyond),
                    mib(found.peak),
                    found.seconds
                );
            }
            let mut stages = found.stages;
            stages.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            let all: f64 = stages.iter().map(|stage| stage.seconds).sum();
            if options.profile {
                eprintln!("{all:.3} s in kernels, waits included; the rest is plain operations");
            }
            for stage in &stages {
                eprintln!(
                    "{:32} {:8.1} ms {:6} runs {:8.1} TFLOP/s",
                    stage.name,
                    stage.seconds * 1e3,
                    stage.runs,
                    stage.operations / stage.seconds / 1e12
                );
            }
        }
    }
    Ok(())
}

struct Found {
    /// Most bytes in use, weights and gradients included; absent where the device does not say.
    peak: Option<u64>,
    reserved: Option<u64>,
    seconds: f64,
    loss: f64,
    /// Where the time goes, if asked.
    stages: Vec<Stage>,
}

fn measure(
    model: &Decoder,
    backpropagation: Backpropagation,
    batch: usize,
    time: usize,
    device: &Device,
    repeats: usize,
    profile: bool,
) -> Result<Found, String> {
    let vocabulary = model.config().vocab_size;
    let ids: Vec<i32> = (0..batch * time)
        .map(|at| ((at * 7919 + at / 3) % vocabulary) as i32)
        .collect();
    let labels = (0..batch * time)
        .map(|at| match at % time + 1 < time {
            true => ids[at + 1],
            false => IGNORE,
        })
        .collect();
    let batches = [MicroBatch {
        sequences: Sequences::plain(batch, time, ids),
        labels,
        ..MicroBatch::default()
    }];
    let settings = Settings {
        backpropagation,
        ..Settings::default()
    };
    let objective = RouterObjective::default();
    let step = || {
        let result = run_with(
            model,
            &batches,
            &objective,
            device,
            &mut NoObserver,
            &settings,
        );
        device.sync().map(|()| result)
    };
    let failed = |error| format!("{error}");
    // Compiles kernels, and leaves nothing behind that the measured passes did not make.
    drop(step().map_err(failed)?);
    device.memory_cleanup();
    let (result, peak) = peak_during(device, step);
    let loss = result.map_err(failed)?.losses.total;
    let usage = device.memory_pool_usage();
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        let result = step().map_err(failed)?;
        seconds.push(start.elapsed().as_secs_f64());
        drop(result);
    }
    seconds.sort_by(f64::total_cmp);
    let stages = if profile {
        stages_of(step).1
    } else {
        Vec::new()
    };
    Ok(Found {
        stages,
        peak: in_use(device).map(|_| peak.in_use),
        reserved: usage.map(|_| peak.reserved),
        seconds: seconds[seconds.len() / 2],
        loss,
    })
}

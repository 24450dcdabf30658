//! What can be typed after `bellows`.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::steer::{CtlArgs, ExportMetricsArgs, StatusArgs, TuiArgs, ViewArgs};
use super::values::{ByteSize, CheckpointChoice};
use crate::config::Override;
use crate::device::{DeviceChoice, Precision};

/// The colours of [`crate::ui::Ui`].
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  bellows train examples/rust-code.toml      train on the Rust sources that cargo has fetched
  bellows runs                               what was trained, and how far
  bellows tui                                watch and steer it
  bellows view runs/rust-code                see where tokens are routed and where memory goes
  bellows resume runs/rust-code              go on where a run stopped
  bellows generate runs/rust-code -p 'fn '   let it write
  bellows devices                            what this machine can train on
  bellows plan my.toml                       what fits into its memory

`bellows COMMAND --help` explains a command.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "bellows",
    version,
    about = "Trains Mixture-of-Experts and Chain-of-Experts language models on any GPU, or on none",
    after_help = EXAMPLES,
    styles = STYLES,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Tell only results, warnings and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// When to use colour; "auto" honours NO_COLOR
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = false
    )]
    pub color: ColorArg,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On terminals, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl From<ColorArg> for anstream::ColorChoice {
    fn from(color: ColorArg) -> Self {
        match color {
            ColorArg::Auto => anstream::ColorChoice::Auto,
            ColorArg::Always => anstream::ColorChoice::Always,
            ColorArg::Never => anstream::ColorChoice::Never,
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model as a configuration says
    Train(TrainArgs),
    /// Tell the memory that a step will need, and what fits
    Plan(PlanArgs),
    /// Go on with a run that stopped
    Resume(ResumeArgs),
    /// Let a model continue a text
    Generate(GenerateArgs),
    /// Measure a model's loss on a validation split
    Eval(EvalArgs),
    /// Turn a Hugging Face folder into a checkpoint
    Import(ImportArgs),
    /// Turn a checkpoint into a Hugging Face folder
    Export(ExportArgs),
    /// Compare the engine with a reference implementation's numbers
    Verify(VerifyArgs),
    /// Time mixture-of-experts layers, or attention, on a device
    Bench(BenchArgs),
    /// List devices, what they can do, and what is missing
    Devices(DevicesArgs),
    /// Show every setting, or a configuration with every default written out
    Config(ConfigArgs),
    /// List runs and how far they are
    Runs(RunsArgs),
    /// Steer a live run: pause, checkpoint, learning rate, …
    Ctl(CtlArgs),
    /// Tell how far a run is
    Status(StatusArgs),
    /// Write a run's metrics as a table
    ExportMetrics(ExportMetricsArgs),
    /// Watch and steer runs in the terminal
    Tui(TuiArgs),
    /// See where tokens are routed and where memory goes, in a window or as pictures
    View(ViewArgs),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
}

/// `bellows train`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows train examples/rust-code.toml
  bellows train my.toml --set optimizer.learning_rate=3e-4 --set train.batch_size=16
  bellows train my.toml --device gpu:1 --name second-try --steps 5000

Ctrl-C stops after the current step and writes a checkpoint; `bellows resume` goes on from there.")]
pub struct TrainArgs {
    /// Configuration file; `bellows config` prints one with every setting
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// Change a setting; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = Override::parse)]
    pub set: Vec<Override>,
    /// Where to train: auto, cpu, gpu or gpu:N [run.device]
    #[arg(long)]
    pub device: Option<DeviceChoice>,
    /// Name of the run's folder [run.name]
    #[arg(long)]
    pub name: Option<String>,
    /// Optimizer steps [train.steps]
    #[arg(long)]
    pub steps: Option<u64>,
    /// Seed of weights, batches and samples [run.seed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Memory that the run may use, such as 8GiB [train.memory_limit]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Folder that holds the runs [run.directory]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Report progress and the result as JSON lines on standard output
    #[arg(long)]
    pub json: bool,
}

impl TrainArgs {
    /// The settings given, in the order in which the later wins.
    pub fn overrides(&self) -> Vec<Override> {
        let mut overrides = self.set.clone();
        if let Some(device) = self.device {
            overrides.push(Override::text("--device", "run.device", device.to_string()));
        }
        if let Some(name) = &self.name {
            overrides.push(Override::text("--name", "run.name", name));
        }
        if let Some(steps) = self.steps {
            overrides.push(Override::option("--steps", "train.steps", steps));
        }
        if let Some(seed) = self.seed {
            overrides.push(Override::option("--seed", "run.seed", seed));
        }
        if let Some(memory) = self.memory {
            overrides.push(memory_limit(memory));
        }
        if let Some(directory) = &self.directory {
            let directory = directory.to_string_lossy();
            overrides.push(Override::text("--directory", "run.directory", directory));
        }
        overrides
    }
}

/// `--memory` as a setting.
pub fn memory_limit(size: ByteSize) -> Override {
    Override::text("--memory", "train.memory_limit", size.to_string())
}

/// `bellows plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows plan my.toml                               what a step needs, in three ways to keep activations
  bellows plan my.toml --memory 8GiB --device cpu    the same for a card that is not here
  bellows plan my.toml --set train.sequence_length=65536 --json
  bellows plan my.toml --measure                     a step in each way that fits, predicted and measured
  bellows plan --measure --device gpu                the same of nine small configurations

Neither the corpus is read nor anything written. Exit code 0 also where the answer is that it does not fit;
with --measure only where something does.")]
pub struct PlanArgs {
    /// Configuration file
    #[arg(value_name = "CONFIG", required_unless_present = "measure")]
    pub config: Option<PathBuf>,
    /// Change a setting; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = Override::parse, requires = "config")]
    pub set: Vec<Override>,
    /// Where to train: auto, cpu, gpu or gpu:N [run.device]
    #[arg(long)]
    pub device: Option<DeviceChoice>,
    /// Memory that may be used, such as 8GiB [train.memory_limit]
    #[arg(long, value_name = "SIZE", requires = "config")]
    pub memory: Option<ByteSize>,
    /// Take a step in each way that fits and compare predicted with measured peaks; without CONFIG, of
    /// nine configurations
    #[arg(long)]
    pub measure: bool,
    /// With --measure and no CONFIG: sizes for a software renderer (small) or a large card (large)
    #[arg(long, value_name = "SIZES", value_parser = ["small", "large"], requires = "measure", conflicts_with = "config")]
    pub sizes: Option<String>,
    /// With --measure: who holds the memory at each peak
    #[arg(long, requires = "measure")]
    pub owners: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

impl PlanArgs {
    /// The settings given, in the order in which the later wins.
    pub fn overrides(&self) -> Vec<Override> {
        let mut overrides = self.set.clone();
        if let Some(device) = self.device {
            overrides.push(Override::text("--device", "run.device", device.to_string()));
        }
        overrides.extend(self.memory.map(memory_limit));
        overrides
    }
}

/// `bellows resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows resume runs/rust-code
  bellows resume runs/rust-code --steps 4000     go further than first planned
  bellows resume runs/rust-code --from 500       go back to step 500; later steps are replaced
  bellows resume runs/rust-code --from 500 --branch other    the same in a new run; this one stays")]
pub struct ResumeArgs {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// New number of steps of the whole run
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Checkpoint to go on from: a step, "best" or "last"
    #[arg(long, value_name = "STEP", default_value_t)]
    pub from: CheckpointChoice,
    /// Go on in a new run of this name beside it, and leave this one as it is
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
    /// Where to train: auto, cpu, gpu or gpu:N (default: as the run says)
    #[arg(long)]
    pub device: Option<DeviceChoice>,
    /// Memory that the run may use, such as 8GiB (default: as the run says)
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Report progress and the result as JSON lines on standard output
    #[arg(long)]
    pub json: bool,
}

/// `bellows generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows generate runs/rust-code --prompt 'fn main() {'
  bellows generate exported-model -p 'Once upon a time' --temperature 0")]
pub struct GenerateArgs {
    /// Folder of a run, of a checkpoint or of a Hugging Face model
    #[arg(value_name = "RUN")]
    pub model: PathBuf,
    /// Text to continue; "-" reads it from standard input
    #[arg(long, short, allow_hyphen_values = true)]
    pub prompt: String,
    /// Checkpoint of the run: a step, "best" or "last"
    #[arg(long, value_name = "STEP", default_value_t)]
    pub checkpoint: CheckpointChoice,
    /// Longest continuation, in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    pub max_tokens: usize,
    /// Randomness: 0 (always the likeliest token) or more
    #[arg(long, default_value_t = 0.8, value_parser = temperature)]
    pub temperature: f64,
    /// Choose among this many likeliest tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = 50)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability)]
    pub top_p: f64,
    /// Seed of the choice
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Number of continuations
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub samples: usize,
    /// Where to compute: auto, cpu, gpu or gpu:N
    #[arg(long, default_value_t)]
    pub device: DeviceChoice,
    /// Type in which matrices are held and multiplied: f32, auto, f16 or bf16; 16 bits halve the memory
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub precision: Precision,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows eval runs/rust-code --checkpoint best
  bellows eval exported-model --data examples/rust-code.toml --batches 64")]
pub struct EvalArgs {
    /// Folder of a run, of a checkpoint or of a Hugging Face model
    #[arg(value_name = "RUN")]
    pub model: PathBuf,
    /// Configuration whose data section is used; needed where the folder is not a run's
    #[arg(long, value_name = "CONFIG")]
    pub data: Option<PathBuf>,
    /// Change a setting of that configuration; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = Override::parse, requires = "data")]
    pub set: Vec<Override>,
    /// Checkpoint of the run: a step, "best" or "last"
    #[arg(long, value_name = "STEP", default_value_t)]
    pub checkpoint: CheckpointChoice,
    /// Batches to measure; 0: the whole split (default: as the configuration says)
    #[arg(long, value_name = "N")]
    pub batches: Option<usize>,
    /// Where to compute: auto, cpu, gpu or gpu:N
    #[arg(long, default_value_t)]
    pub device: DeviceChoice,
    /// Type in which matrices are held and multiplied: f32, auto, f16 or bf16; 16 bits halve the memory
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub precision: Precision,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bellows import ~/models/OLMoE-1B-7B --output imported
  bellows generate imported -p 'The capital of France is'")]
pub struct ImportArgs {
    /// Folder with config.json, *.safetensors and tokenizer.json
    #[arg(value_name = "HF_FOLDER")]
    pub folder: PathBuf,
    /// Folder to write; must not exist or be empty
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bellows export runs/rust-code --checkpoint best --output rust-code-hf

Transformers opens the folder with AutoModelForCausalLM.from_pretrained.")]
pub struct ExportArgs {
    /// Folder of a run or of a checkpoint
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Folder to write; must not exist or be empty
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// Checkpoint: a step, "best" or "last"
    #[arg(long, value_name = "STEP", default_value_t)]
    pub checkpoint: CheckpointChoice,
    /// Larger weights are split into files of at most this size
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    pub max_shard_size: ByteSize,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bellows verify fixtures/mixtral fixtures/olmoe --device gpu

Each folder holds a model, its inputs and a reference implementation's logits, losses, gradients and
weights after two AdamW steps. Exit code 1 if any number is further off than its tolerance.")]
pub struct VerifyArgs {
    /// Folders with a model and its reference numbers
    #[arg(value_name = "DIR", required = true)]
    pub folders: Vec<PathBuf>,
    /// Also stream in chunks of TOKENS; gradients must be the unstreamed ones
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub stream: Option<u32>,
    /// Fail where plain operations stood in for kernels
    #[arg(long)]
    pub require_kernels: bool,
    /// Where to compute: auto, cpu, gpu or gpu:N
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    pub device: DeviceChoice,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows bench                              every known layer, in every type the device stores
  bellows bench tiny --precision f32         one layer in one type
  bellows bench lavapipe --reference         beside plain tensor operations on the same device
  bellows bench attention                    flash attention alone, at every known length
  bellows bench attention-8k --sweep         the same with every size of tiles, kernel by kernel
  bellows bench head head:4096x2048x32000    heads with their loss: tokens, hidden, vocabulary")]
pub struct BenchArgs {
    /// Layers to time: coe-paper, coe-chain, coe-half, olmoe, mixtral-ish, tiny, lavapipe; none: all
    /// of these. Or attention: attention-2k, -8k, -32k, -64, -256, -latent, -window, -lavapipe. Or heads
    /// with cross-entropy: head, head-32k, head-small, head:NxHxV
    #[arg(value_name = "LAYER")]
    pub shapes: Vec<String>,
    /// Device: auto, cpu, gpu or gpu:INDEX
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Only these types: f32, f16, bf16
    #[arg(long, value_delimiter = ',', value_parser = ["f32", "f16", "bf16"], value_name = "TYPE")]
    pub precision: Vec<String>,
    /// Passes for a figure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeats: u16,
    /// Time plain tensor operations too
    #[arg(long)]
    pub reference: bool,
    /// Tell what each stage of a layer takes
    #[arg(long)]
    pub profile: bool,
    /// Time every tile of cooperative matrices that the device takes, and layers with each of them
    #[arg(long, conflicts_with_all = ["reference", "profile"])]
    pub tiles: bool,
    /// Attention: try every size of the cooperative kernels' tiles
    #[arg(long)]
    pub sweep: bool,
    /// Attention: plain tiles, where cooperative matrices would be used
    #[arg(long, conflicts_with = "sweep")]
    pub plain_tiles: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows config > my.toml                        every setting, explained, with its default
  bellows config examples/rust-code.toml          what a file comes to, every default written out
  bellows config my.toml --set train.steps=10     the same with a setting changed")]
pub struct ConfigArgs {
    /// Configuration file to resolve
    #[arg(value_name = "CONFIG", conflicts_with = "default")]
    pub config: Option<PathBuf>,
    /// Change a setting; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = Override::parse, conflicts_with = "default")]
    pub set: Vec<Override>,
    /// Print the documented default file, as without arguments
    #[arg(long)]
    pub default: bool,
    /// Print the resolved form as a JSON document
    #[arg(long, conflicts_with = "default")]
    pub json: bool,
}

/// `bellows runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Folder that holds the runs
    #[arg(value_name = "DIR", default_value = "runs")]
    pub directory: PathBuf,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows completions bash > ~/.local/share/bash-completion/completions/bellows
  bellows completions zsh > ~/.zfunc/_bellows
  bellows completions fish > ~/.config/fish/completions/bellows.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it must be a whole number, 1 or more".into()),
        Ok(number) => Ok(number),
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("it must be a number, 0 or more".into()),
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("it must be above 0, to 1 (all tokens)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_train_win_over_set_and_reach_the_configuration() {
        let cli = Cli::try_parse_from([
            "bellows",
            "train",
            "x.toml",
            "--set",
            "train.steps=7",
            "--steps",
            "9",
            "--name",
            "2024",
            "--device",
            "gpu:2",
            "--seed",
            "5",
            "--directory",
            "out",
        ])
        .expect("these are valid arguments");
        let Command::Train(args) = cli.command else {
            panic!("train was asked for");
        };
        let loaded = crate::config::RunConfig::parse("", "x.toml", &args.overrides())
            .expect("these are valid settings");
        assert_eq!(loaded.config.train.steps, 9);
        assert_eq!(loaded.config.run.name.as_deref(), Some("2024"));
        assert_eq!(loaded.config.run.device, DeviceChoice::Gpu(2));
        assert_eq!(loaded.config.run.seed, 5);
        assert_eq!(loaded.config.run.directory, PathBuf::from("out"));
    }

    #[test]
    fn nonsense_is_refused_before_anything_runs() {
        for arguments in [
            vec!["bellows", "train", "x.toml", "--set", "steps=3"],
            vec!["bellows", "train", "x.toml", "--set", "train.steps"],
            vec!["bellows", "train", "x.toml", "--device", "cuda"],
            vec!["bellows", "generate", "x", "-p", "a", "--top-p", "0"],
            vec!["bellows", "generate", "x", "-p", "a", "--max-tokens", "0"],
            vec!["bellows", "eval", "x", "--set", "train.batch_size=1"],
            vec!["bellows", "config", "x.toml", "--default"],
            vec!["bellows", "verify"],
        ] {
            assert!(Cli::try_parse_from(&arguments).is_err(), "{arguments:?}");
        }
    }
}

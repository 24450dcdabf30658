//! What can be typed after `bellows ctl`, `status`, `export-metrics`, `tui` and `view`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bellows_record::control::{Command as Told, Intervals};
use clap::{Args, Subcommand};

/// `bellows ctl`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows ctl runs/rust-code pause
  bellows ctl runs/rust-code learning-rate 0.5        half of what the schedule says
  bellows ctl runs/rust-code intervals --routing 100 --traces 0
  bellows ctl runs/rust-code sample 'fn main() {'
  bellows ctl runs/rust-code stop --wait && bellows resume runs/rust-code

A command takes effect between two steps; the answer says after which. Exit code 1: the run said no
or gave no answer. Exit code 2: nobody trains it, or the value is out of range.")]
pub struct CtlArgs {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// What to tell it
    #[command(subcommand)]
    pub command: CtlCommand,
    /// Give up on an answer after this many seconds (default: when the run ends)
    #[arg(long, global = true, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Print the answer as a JSON document
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands of `bellows ctl`.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// How far the run is, and how it is steered
    Status,
    /// Take no further step until told to
    Pause,
    /// Go on after a pause
    Resume,
    /// Write a checkpoint now
    Checkpoint,
    /// Measure the validation loss now
    Evaluate,
    /// Write a checkpoint, then end
    Stop {
        /// Return when the run has ended
        #[arg(long)]
        wait: bool,
    },
    /// Multiply the schedule's learning rate
    LearningRate {
        /// Factor, above 0, at most 1000; 1 is the schedule's own
        scale: f64,
    },
    /// Change the micro-batches of a step
    Accumulation {
        /// 1 to 65536
        micro_batches: usize,
    },
    /// Change how often things are recorded, in steps; 0: never
    Intervals {
        /// Rows of metrics, 1 or more
        #[arg(long, value_name = "STEPS")]
        metrics: Option<u64>,
        /// Tokens by expert
        #[arg(long, value_name = "STEPS")]
        routing: Option<u64>,
        /// Transitions between experts
        #[arg(long, value_name = "STEPS")]
        transitions: Option<u64>,
        /// The memory ledger
        #[arg(long, value_name = "STEPS")]
        memory: Option<u64>,
        /// Traces of the probe tokens
        #[arg(long, value_name = "STEPS")]
        traces: Option<u64>,
    },
    /// Let the model continue a text
    Sample {
        /// The text; empty begins a document
        #[arg(allow_hyphen_values = true)]
        prompt: String,
        /// Longest continuation in tokens (default: as the run says)
        #[arg(long, value_name = "N")]
        max_tokens: Option<usize>,
        /// Randomness, 0 or more (default: as the run says)
        #[arg(long)]
        temperature: Option<f64>,
    },
}

impl CtlCommand {
    /// What is sent.
    pub fn told(&self) -> Told {
        match self {
            Self::Status => Told::Status,
            Self::Pause => Told::Pause,
            Self::Resume => Told::Resume,
            Self::Checkpoint => Told::Checkpoint,
            Self::Evaluate => Told::Evaluate,
            Self::Stop { .. } => Told::Stop,
            Self::LearningRate { scale } => Told::LearningRateScale { scale: *scale },
            Self::Accumulation { micro_batches } => Told::Accumulation {
                micro_batches: *micro_batches,
            },
            Self::Intervals {
                metrics,
                routing,
                transitions,
                memory,
                traces,
            } => Told::Intervals(Intervals {
                metrics_every: *metrics,
                routing_every: *routing,
                transitions_every: *transitions,
                memory_every: *memory,
                traces_every: *traces,
            }),
            Self::Sample {
                prompt,
                max_tokens,
                temperature,
            } => Told::Sample {
                prompt: prompt.clone(),
                max_tokens: *max_tokens,
                temperature: *temperature,
            },
        }
    }
}

impl CtlArgs {
    /// How long to wait for the answer.
    pub fn patience(&self) -> Option<Duration> {
        self.timeout
            .map(|seconds| Duration::from_secs(seconds.max(1)))
    }
}

/// `bellows status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// `bellows export-metrics`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bellows export-metrics runs/rust-code --csv > rust-code.csv

A row a step, replaced steps left out. An empty field was not measured; nan was not finite.")]
pub struct ExportMetricsArgs {
    /// Folder of the run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Comma-separated values with a header, the one format there is
    #[arg(long, required = true)]
    pub csv: bool,
    /// File to write instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `bellows tui`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows tui                       the runs under runs/
  bellows tui runs/rust-code        one run
  bellows tui -- --help             every option of the dashboard")]
pub struct TuiArgs {
    /// What to show and how: a folder of runs or a run, and options of `bellows-tui`
    #[arg(
        value_name = "DIR or RUN",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub arguments: Vec<OsString>,
}

/// `bellows view`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellows view runs/rust-code                    one run, live or finished
  bellows view runs/plain runs/stream            two, to compare
  bellows view runs/rust-code --panel routing-load --step 200 --screenshot load.png --size 1600x900
  bellows view -- --help                         every option of the viewer")]
pub struct ViewArgs {
    /// What to show and how: runs, and options of `bellows-viewer`
    #[arg(
        value_name = "RUN or OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub arguments: Vec<OsString>,
}

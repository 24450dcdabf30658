//! A folder with a corpus and a configuration, and the program run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub use crate::process::*;

/// A Chain-of-Experts model whose every step takes milliseconds. Tests change what they are about
/// with `--set`.
const CONFIG: &str = r#"
[run]
device = "cpu"

[model]
model_type = "coe_deepseekv2"
hidden_size = 16
num_hidden_layers = 2
intermediate_size = 32
num_attention_heads = 2
num_key_value_heads = 2
attention = "mla"
kv_lora_rank = 8
qk_nope_head_dim = 8
qk_rope_head_dim = 4
v_head_dim = 8
n_routed_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 8
n_shared_experts = 1
inner_iter = 2
max_position_embeddings = 64

[model.rope]
interleaved = true

[data]
cache = "cache"

[data.source]
kind = "text"
paths = ["corpus/*.txt"]

[data.tokenizer]
vocab_size = 300
sample_bytes = 65536

[data.validation]
fraction = 0.2

[train]
steps = 12
batch_size = 2
sequence_length = 32

[schedule]
warmup_steps = 2

[router]
balance = "sequence"

[evaluate]
every = 4
batches = 2

[sample]
prompts = ["the "]
max_tokens = 4

[checkpoint]
every = 6
keep_last = 99
keep_best = false

[record]
probe_tokens = 32
"#;

/// Values that say how long something took, not what was computed.
const TIMES: [&str; 6] = [
    "segment",
    "time",
    "tokens_per_second",
    "step_seconds",
    "memory_bytes",
    "peak_memory_bytes",
];

/// A small generator, so that tests do the same each time.
pub struct Random(pub u64);

impl Random {
    /// From 0 to under `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A folder to run the program in.
pub struct Folder {
    folder: TempDir,
}

impl Folder {
    /// With forty short documents in `corpus` and the configuration `run.toml`.
    pub fn new() -> Self {
        let this = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let mut random = Random(1);
        for document in 0..40 {
            let text: String = (0..8).map(|_| sentence(&mut random)).collect();
            this.write(&format!("corpus/{document:02}.txt"), text);
        }
        this.write("run.toml", CONFIG);
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        let parent = path.parent().expect("a file has a folder");
        std::fs::create_dir_all(parent).expect("a folder");
        std::fs::write(path, contents).expect("a file");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("text")
    }

    /// The program in this folder, `arguments` split at spaces.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellows"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .env_remove("RUST_BACKTRACE")
            .env_remove("CLICOLOR_FORCE")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn bellows(&self, arguments: &str) -> Done {
        finish(&mut self.command(arguments))
    }

    /// Trains `run.toml` as the run `name`, with settings such as `train.steps=3`.
    pub fn train(&self, name: &str, settings: &[&str]) -> Done {
        finish(&mut self.train_command(name, settings))
    }

    pub fn train_command(&self, name: &str, settings: &[&str]) -> Command {
        let mut command = self.command("train run.toml --name");
        command.arg(name);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// A run's folder.
    pub fn run(&self, name: &str) -> PathBuf {
        self.path("runs").join(name)
    }

    /// Copies `runs/from` to `runs/to`.
    pub fn copy_run(&self, from: &str, to: &str) {
        copy_folder(&self.run(from), &self.run(to));
    }

    /// The steps of a run's checkpoints. Nothing else may lie among them.
    #[track_caller]
    pub fn checkpoints(&self, run: &str) -> Vec<u64> {
        let entries = std::fs::read_dir(self.run(run).join("checkpoints")).expect("a folder");
        let mut steps: Vec<u64> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| {
                let name = name.to_str().expect("a plain name");
                name.parse().unwrap_or_else(|_| panic!("{name} was left"))
            })
            .collect();
        steps.sort_unstable();
        steps
    }

    /// The same, nothing where no checkpoint was ever begun.
    #[cfg(unix)]
    #[track_caller]
    pub fn checkpoints_or_none(&self, run: &str) -> Vec<u64> {
        match self.run(run).join("checkpoints").exists() {
            true => self.checkpoints(run),
            false => Vec::new(),
        }
    }

    /// What `bellows runs` says of a run.
    #[track_caller]
    pub fn state(&self, run: &str) -> String {
        let listed = self.bellows("runs --json").ok().json();
        let mut listed = listed.as_array().expect("a list").iter();
        let found = listed
            .find(|found| found["name"] == run)
            .expect("it is listed");
        found["state"].as_str().expect("a state").to_owned()
    }

    /// A file of a checkpoint.
    pub fn checkpoint(&self, run: &str, step: u64, file: &str) -> PathBuf {
        let folder = format!("checkpoints/{step:08}");
        self.run(run).join(folder).join(file)
    }

    /// Every step's row, but for what tells time and memory. The values are the text as written:
    /// equal text is equal bits.
    pub fn metrics(&self, run: &str) -> BTreeMap<u64, BTreeMap<String, String>> {
        let text = std::fs::read_to_string(self.run(run).join("metrics.jsonl")).expect("metrics");
        let mut rows = BTreeMap::new();
        for line in text.lines() {
            // A killed writer leaves half a line at most; a later segment replaces earlier rows.
            if let Ok(serde_json::Value::Object(row)) = serde_json::from_str(line) {
                let step = row["step"].as_u64().expect("a step");
                rows.insert(step, fields(line));
            }
        }
        rows
    }

    /// Expects two runs to have the same rows for every step to `steps`, and the same last weights
    /// and moments.
    #[track_caller]
    pub fn assert_equal_runs(&self, one: &str, other: &str, steps: u64) {
        let (a, b) = (self.metrics(one), self.metrics(other));
        assert_eq!(a.len() as u64, steps);
        assert_eq!(b.len() as u64, steps);
        for (step, row) in &a {
            assert_eq!(Some(row), b.get(step), "step {step}");
        }
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let read =
                |run| std::fs::read(self.checkpoint(run, steps, file)).expect("a checkpoint");
            assert!(read(one) == read(other), "{file} differs");
        }
    }
}

fn sentence(random: &mut Random) -> String {
    const WORDS: [&str; 18] = [
        "the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far", "away", "from", "home",
        "while", "rain", "fell", "over", "hills",
    ];
    let words: Vec<&str> = (0..9)
        .map(|_| WORDS[random.below(WORDS.len() as u64) as usize])
        .collect();
    words.join(" ") + ".\n"
}

/// The members of a flat JSON object without strings, as written.
fn fields(line: &str) -> BTreeMap<String, String> {
    let inner = line.trim().trim_start_matches('{').trim_end_matches('}');
    inner
        .split(',')
        .map(|member| member.split_once(':').expect("a member"))
        .map(|(key, value)| (key.trim_matches('"').to_owned(), value.to_owned()))
        .filter(|(key, _)| !TIMES.contains(&key.as_str()))
        .collect()
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

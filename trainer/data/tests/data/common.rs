//! What the tests share: small corpora on disk.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bellows_data::{
    DataConfig, Dataset, LoaderConfig, NoProgress, Packing, Progress, SourceConfig, TextConfig,
    TokenizerConfig, ValidationConfig,
};

/// A folder with a corpus in `corpus/` and a cache in `cache/`.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("corpus")).unwrap();
        Place { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("corpus").join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn glob(&self, pattern: &str) -> String {
        self.path(pattern).display().to_string()
    }

    pub fn config(&self, source: SourceConfig) -> DataConfig {
        DataConfig {
            source,
            tokenizer: TokenizerConfig {
                vocab_size: 320,
                ..TokenizerConfig::default()
            },
            cache: Some(self.dir.path().join("cache")),
            ..DataConfig::default()
        }
    }

    /// `count` text documents of different lengths in one file each, a tenth or so held out.
    pub fn texts(&self, count: usize) -> DataConfig {
        for i in 0..count {
            let body: String = (0..1 + i * 7 % 23)
                .map(|line| format!("document {i} line {line}: {}\n", i * line))
                .collect();
            self.write(&format!("{i:03}.txt"), body);
        }
        let source = SourceConfig::Text(TextConfig {
            paths: vec![self.glob("*.txt")],
            separator: None,
        });
        DataConfig {
            validation: ValidationConfig {
                fraction: 0.2,
                paths: vec![],
            },
            ..self.config(source)
        }
    }

    pub fn cache_entry(&self) -> PathBuf {
        let tokens = self.dir.path().join("cache/tokens");
        let mut entries: Vec<PathBuf> = std::fs::read_dir(tokens)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.pop().unwrap()
    }
}

pub fn prepare(config: &DataConfig) -> Dataset {
    Dataset::prepare(config, &NoProgress).unwrap()
}

pub fn loader_config(sequence_length: usize, batch_size: usize) -> LoaderConfig {
    LoaderConfig {
        sequence_length,
        batch_size,
        seed: 7,
        packing: Packing::Respect,
        shuffle: true,
    }
}

/// Does something once, when a stage begins, and keeps the warnings.
pub struct At<F: Fn() + Sync> {
    pub stage: bellows_data::Stage,
    pub action: F,
    pub warnings: Mutex<Vec<String>>,
}

impl<F: Fn() + Sync> At<F> {
    pub fn new(stage: bellows_data::Stage, action: F) -> Self {
        At {
            stage,
            action,
            warnings: Mutex::default(),
        }
    }
}

impl<F: Fn() + Sync> Progress for At<F> {
    fn stage(&self, stage: bellows_data::Stage) {
        if stage == self.stage {
            (self.action)();
        }
    }

    fn warning(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_owned());
    }
}

/// Replaces one byte of a file.
pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

use crate::store::RunSnapshot;
use crate::{Answer, Cost, Gap, Query, RunId, Store, Table};

/// The settings of some runs, side by side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigDifferences {
    /// The runs.
    pub runs: Vec<RunId>,
    /// Leave out settings in which all of them agree.
    pub only_different: bool,
}

/// Answers [`ConfigDifferences`].
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigTable {
    /// The runs' names.
    pub runs: Vec<String>,
    /// The settings, in the order of the first run's file.
    pub settings: Vec<ConfigDifference>,
}

/// A setting.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigDifference {
    /// Its key: `optimizer.learning_rate`.
    pub key: String,
    /// Its value by run, as TOML writes it; `None` where a run has no such setting.
    pub values: Vec<Option<String>>,
    /// Whether runs differ in it.
    pub differs: bool,
}

impl Query for ConfigDifferences {
    type Answer = ConfigTable;

    fn runs(&self) -> Vec<RunId> {
        self.runs.clone()
    }

    fn cost(&self) -> Cost {
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<ConfigTable, Gap> {
        let mut table = ConfigTable {
            runs: Vec::new(),
            settings: Vec::new(),
        };
        for (at, &id) in self.runs.iter().enumerate() {
            let snapshot = store.find(id)?.snapshot();
            for (key, value) in settings(&snapshot)? {
                let known = table.settings.iter().position(|setting| setting.key == key);
                let known = known.unwrap_or_else(|| {
                    table.settings.push(ConfigDifference {
                        key,
                        values: vec![None; self.runs.len()],
                        differs: false,
                    });
                    table.settings.len() - 1
                });
                table.settings[known].values[at] = Some(value);
            }
            table.runs.push(snapshot.name.clone());
        }
        for setting in &mut table.settings {
            setting.differs = setting.values.windows(2).any(|pair| pair[0] != pair[1]);
        }
        if self.only_different {
            table.settings.retain(|setting| setting.differs);
        }
        Ok(table)
    }
}

/// A run's settings, flat.
pub(crate) fn settings(snapshot: &RunSnapshot) -> Result<Vec<(String, String)>, Gap> {
    if snapshot.manifest.is_none() {
        return Err(snapshot.problem.clone().unwrap_or(Gap::Opening {
            what: "config.toml",
        }));
    }
    if snapshot.config.is_empty() {
        return Err(Gap::Unreadable {
            message: format!("{} has no config.toml that can be read", snapshot.name),
            remedy: "the rest of the run can be read".to_owned(),
        });
    }
    let table: toml::Table =
        snapshot
            .config
            .parse()
            .map_err(|error: toml::de::Error| Gap::Unreadable {
                message: format!(
                    "config.toml of {} is damaged: {}",
                    snapshot.name,
                    error.message()
                ),
                remedy: "the rest of the run can be read".to_owned(),
            })?;
    let mut settings = Vec::new();
    flatten("", &table, &mut settings);
    Ok(settings)
}

fn flatten(prefix: &str, table: &toml::Table, settings: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let key = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            toml::Value::Table(table) => flatten(&key, table, settings),
            value => settings.push((key, value.to_string())),
        }
    }
}

impl Answer for ConfigTable {
    fn summary(&self) -> String {
        let differing: Vec<_> = self
            .settings
            .iter()
            .filter(|setting| setting.differs)
            .map(|setting| setting.key.as_str())
            .collect();
        if self.runs.len() < 2 {
            return format!(
                "{} settings of {}.",
                self.settings.len(),
                self.runs.join(", ")
            );
        }
        if differing.is_empty() {
            return format!(
                "The configurations of {} do not differ.",
                self.runs.join(" and ")
            );
        }
        format!(
            "{} differ in {} settings: {}.",
            self.runs.join(", "),
            differing.len(),
            differing.join(", ")
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Settings of {}", self.runs.join(", ")),
            &[("setting", ""), ("run", ""), ("value", ""), ("differs", "")],
        );
        for setting in &self.settings {
            for (run, value) in self.runs.iter().zip(&setting.values) {
                table.push([
                    setting.key.clone().into(),
                    run.clone().into(),
                    value.clone().into(),
                    if setting.differs { "yes" } else { "no" }.into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.settings.len() * (64 + self.runs.len() * 48)
    }
}

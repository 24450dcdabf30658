//! A run's configuration as a list of settings, and how several differ.

use std::collections::BTreeMap;

/// Every setting of a TOML text as `section.key` and its value; empty for a text that is no TOML.
pub fn settings(text: &str) -> BTreeMap<String, String> {
    let mut list = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        flatten("", &toml::Value::Table(table), &mut list);
    }
    list
}

fn flatten(path: &str, value: &toml::Value, list: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(&path, value, list);
            }
        }
        toml::Value::String(text) => {
            list.insert(path.to_owned(), text.clone());
        }
        value => {
            list.insert(path.to_owned(), value.to_string());
        }
    }
}

/// The members of a JSON value as `path.key` and their values, null left out.
pub fn json_settings(path: &str, value: &serde_json::Value, list: &mut BTreeMap<String, String>) {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                json_settings(&path, value, list);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            list.insert(path.to_owned(), text.clone());
        }
        other => {
            list.insert(path.to_owned(), other.to_string());
        }
    }
}

/// The settings in which configurations differ, each with its value in every one.
pub fn differences(configs: &[&str]) -> Vec<(String, Vec<Option<String>>)> {
    let all: Vec<_> = configs.iter().map(|text| settings(text)).collect();
    let mut keys: Vec<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter_map(|key| {
            let values: Vec<Option<String>> =
                all.iter().map(|list| list.get(key).cloned()).collect();
            let differ = values.windows(2).any(|pair| pair[0] != pair[1]);
            differ.then(|| (key.clone(), values))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told_and_a_missing_setting_is_a_difference() {
        let a = "[train]\nsteps = 5\nbatch_size = 8\n[run]\nname = \"a\"";
        let b = "[train]\nsteps = 7\nbatch_size = 8\n[run]\nname = \"a\"\nseed = 1";
        let told = differences(&[a, b]);
        let keys: Vec<&str> = told.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["run.seed", "train.steps"]);
        assert_eq!(told[0].1, [None, Some("1".into())]);
        assert!(settings("not toml = = ").is_empty());
    }
}

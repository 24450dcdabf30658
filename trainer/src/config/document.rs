//! The documented default file. It is the one description of every setting: tests hold it to the
//! program's defaults and to the list of keys that serde knows.

/// Every setting with its meaning, range, unit and default, as TOML.
pub const DEFAULT_DOCUMENT: &str = include_str!("default.toml");

/// A setting in the default file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentedKey {
    /// Section, like `model.rope`.
    pub section: String,
    /// Key.
    pub key: String,
    /// Its value there, as TOML.
    pub value: String,
    /// Whether it is shown as a comment, because its default is to be absent.
    pub commented: bool,
    /// Line in the file, from 1.
    pub line: usize,
}

/// Every setting of the default file, in its order.
pub fn keys() -> Vec<DocumentedKey> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for (index, line) in DEFAULT_DOCUMENT.lines().enumerate() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.to_owned();
            continue;
        }
        // Prose starts with "# "; a setting that is absent by default with "#".
        let (setting, commented) = match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with([' ', '#']) => (rest, true),
            Some(_) => continue,
            None => (line, false),
        };
        if let Some((key, value)) = setting.split_once(" = ") {
            keys.push(DocumentedKey {
                section: section.clone(),
                key: key.to_owned(),
                value: value.to_owned(),
                commented,
                line: index + 1,
            });
        }
    }
    keys
}

/// The setting with this full name, `section.key`.
pub fn find(name: &str) -> Option<DocumentedKey> {
    let (section, key) = name.rsplit_once('.')?;
    keys()
        .into_iter()
        .find(|known| known.section == section && known.key == key)
}

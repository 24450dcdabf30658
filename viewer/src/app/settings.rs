use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Layouts, Workspace};

/// What is remembered from window to window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `dark`, `light`, or a theme file.
    pub theme: String,
    /// Size of text, 1 is normal.
    pub text_size: f32,
    /// The page in front.
    pub page: Workspace,
    /// How pages are laid out.
    pub layouts: Layouts,
    /// Folder that exports are written to; empty for where the program was started.
    pub export_folder: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            theme: "dark".to_owned(),
            text_size: 1.0,
            page: Workspace::default(),
            layouts: Layouts::default(),
            export_folder: String::new(),
        }
    }
}

impl Settings {
    /// The sizes of text there may be.
    pub const TEXT_SIZES: std::ops::RangeInclusive<f32> = 0.6..=2.5;

    /// Where the settings of this user lie, if the system tells.
    pub fn file() -> Option<PathBuf> {
        let folders = directories::ProjectDirs::from("", "", "bellows-viewer")?;
        Some(folders.config_dir().join("settings.json"))
    }

    /// The settings of a file; the usual ones where there is none, or one that is damaged or of another version.
    pub fn load(file: &Path) -> Self {
        let mut settings: Self = std::fs::read(file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if !Self::TEXT_SIZES.contains(&settings.text_size) {
            settings.text_size = 1.0;
        }
        settings
    }

    /// Writes the settings aside and moves them into place.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn save(&self, file: &Path) -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let aside = file.with_extension("json.tmp");
        std::fs::write(&aside, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(aside, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_and_damage_is_forgiven() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/settings.json");
        let settings = Settings {
            theme: "light".into(),
            text_size: 1.3,
            page: Workspace::Memory,
            ..Settings::default()
        };
        settings.save(&file).unwrap();
        assert_eq!(Settings::load(&file), settings);
        std::fs::write(&file, b"{\"theme\": \"light\", \"layouts\": 7").unwrap();
        assert_eq!(Settings::load(&file), Settings::default());
        std::fs::write(&file, b"{\"text_size\": 90.0}").unwrap();
        assert_eq!(Settings::load(&file).text_size, 1.0);
    }
}

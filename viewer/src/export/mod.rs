//! Panels as files: pictures, drawings that scale, tables. None of it needs a window.

mod paint;
mod pixels;
mod svg;

use std::path::Path;
use std::sync::Arc;

use bellows_query::{Answer, Gap, Store};

use crate::app::{App, View};
use crate::panels::Panel;
use crate::theme::Theme;

pub use paint::{Painting, paint, paint_window};
pub use pixels::{PixelsError, image};

/// What a panel is exported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A picture.
    Png,
    /// A drawing that scales.
    Svg,
    /// The table of every number.
    Csv,
    /// The same, into the clipboard.
    Clipboard,
}

impl Format {
    /// Those that are files.
    pub const ALL: [Self; 3] = [Self::Png, Self::Svg, Self::Csv];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Svg => "SVG",
            Self::Csv | Self::Clipboard => "CSV",
        }
    }

    /// How names of its files end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Svg => "svg",
            Self::Csv | Self::Clipboard => "csv",
        }
    }

    /// The format that a file's name asks for.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_lowercase();
        Self::ALL
            .into_iter()
            .find(|format| format.ending() == ending)
    }
}

/// A panel to export.
pub struct Subject<'a> {
    /// Where answers come from.
    pub store: &'a Store,
    /// Colours.
    pub theme: &'a Theme,
    /// What is looked at.
    pub view: &'a View,
    /// The panel.
    pub panel: Panel,
    /// Size of text, 1 is normal.
    pub text_size: f32,
}

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The panel has nothing to show.
    #[error("“{panel}” has nothing to export: {gap}")]
    Empty {
        /// The panel's title.
        panel: &'static str,
        /// Why.
        gap: Gap,
    },
    /// The panel shows no table.
    #[error(
        "“{panel}” has no table: it shows what other panels and the run's own files hold; export it as PNG or SVG"
    )]
    NoTable {
        /// The panel's title.
        panel: &'static str,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: {error}")]
    Unwritable {
        /// The file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The picture cannot be drawn.
    #[error(transparent)]
    Pixels(#[from] PixelsError),
}

/// Exports a panel; the size is in pixels.
///
/// # Errors
///
/// Where it has no table, cannot be drawn, or the file cannot be written.
pub fn write(
    subject: &Subject<'_>,
    format: Format,
    size: (u32, u32),
    path: &Path,
) -> Result<(), ExportError> {
    let bytes = match format {
        Format::Png => pixels::png(paint(subject, size))?,
        Format::Svg => svg::document(&paint(subject, size)).into_bytes(),
        Format::Csv | Format::Clipboard => table(subject)?.into_bytes(),
    };
    save(path, &bytes)
}

/// Exports the whole window as a picture or a drawing.
///
/// # Errors
///
/// Where it cannot be drawn or written, or is asked for as a table.
pub fn write_window(
    app: &mut App,
    format: Format,
    size: (u32, u32),
    path: &Path,
) -> Result<(), ExportError> {
    let bytes = match format {
        Format::Png => pixels::png(paint_window(app, size))?,
        Format::Svg => svg::document(&paint_window(app, size)).into_bytes(),
        Format::Csv | Format::Clipboard => {
            return Err(ExportError::NoTable {
                panel: "the whole window",
            });
        }
    };
    save(path, &bytes)
}

/// Writes bytes aside and moves them into place.
fn save(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let unwritable = |error| ExportError::Unwritable {
        path: path.display().to_string(),
        error,
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(unwritable)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    std::fs::write(&aside, bytes).map_err(unwritable)?;
    std::fs::rename(&aside, path).map_err(unwritable)
}

/// The panel's table as CSV.
///
/// # Errors
///
/// Where it has none.
pub fn table(subject: &Subject<'_>) -> Result<String, ExportError> {
    let painting = paint(subject, (1200, 800));
    let panel = subject.panel.title();
    let answer: Arc<dyn Answer> = match (painting.answer, painting.gap) {
        (Some(answer), _) => answer,
        (None, Some(gap)) => return Err(ExportError::Empty { panel, gap }),
        (None, None) => return Err(ExportError::NoTable { panel }),
    };
    Ok(answer.table().to_csv())
}

//! Colours, all of them from theme files, and what becomes of egui's style under them.

mod color;
mod style;

use std::collections::BTreeMap;
use std::path::Path;

use egui::Color32;
use serde::Deserialize;

use bellows_query::Scale;

pub use color::Color;
use color::{luminance, mix};
pub use style::{STRONG, apply, install_fonts};

const DARK: &str = include_str!("../../assets/themes/dark.toml");
const LIGHT: &str = include_str!("../../assets/themes/light.toml");

/// A theme file, read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Theme {
    /// What it is called in the settings.
    pub name: String,
    /// Whether its ground is dark.
    pub dark: bool,
    /// Grounds and frames.
    pub surface: Surface,
    /// Texts.
    pub text: Text,
    /// What colours say about a state.
    pub state: State,
    /// Plots' grounds and lines.
    pub plot: Plot,
    /// Curves and experts, in order.
    pub series: Vec<Color>,
    /// Kinds of memory.
    pub kinds: BTreeMap<String, Color>,
    /// Phases of a training step.
    pub phases: BTreeMap<String, Color>,
    /// Colour scales.
    pub scales: Scales,
}

/// Grounds and frames.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the theme files say what each is for")]
pub struct Surface {
    pub background: Color,
    pub panel: Color,
    pub raised: Color,
    pub overlay: Color,
    pub border: Color,
    pub hover: Color,
    pub selected: Color,
}

/// Texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the theme files say what each is for")]
pub struct Text {
    pub strong: Color,
    pub normal: Color,
    pub weak: Color,
}

/// What colours say about a state.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the theme files say what each is for")]
pub struct State {
    pub accent: Color,
    pub good: Color,
    pub warn: Color,
    pub bad: Color,
}

/// Plots' grounds and lines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the theme files say what each is for")]
pub struct Plot {
    pub background: Color,
    pub grid: Color,
    pub cursor: Color,
    pub range: Color,
    pub limit: Color,
    pub plan: Color,
    pub missing: Color,
}

/// Colour scales, each a list of colours at even distances.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scales {
    /// The sequential scale that is used unless another is chosen.
    pub default: String,
    /// From far below the neutral value to far above it.
    pub diverging: Vec<Color>,
    /// From little to much, by name.
    pub sequential: BTreeMap<String, Vec<Color>>,
}

/// Why a theme file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ThemeError {
    /// It cannot be read.
    #[error("cannot read the theme file {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is not a theme.
    #[error("{path}: {message}; `bellows-viewer --print-theme dark` prints one to start from")]
    Wrong {
        /// The file.
        path: String,
        /// What is wrong, and where.
        message: String,
    },
}

impl Theme {
    /// The dark theme.
    pub fn dark() -> Self {
        read(DARK, "dark.toml").expect("the built-in theme is tested")
    }

    /// The light theme.
    pub fn light() -> Self {
        read(LIGHT, "light.toml").expect("the built-in theme is tested")
    }

    /// The text of a built-in theme's file.
    pub fn source(name: &str) -> Option<&'static str> {
        match name {
            "dark" => Some(DARK),
            "light" => Some(LIGHT),
            _ => None,
        }
    }

    /// `dark`, `light`, or a theme file.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or is no theme.
    pub fn load(name: &str) -> Result<Self, ThemeError> {
        if let Some(text) = Self::source(name) {
            return read(text, name);
        }
        let text =
            std::fs::read_to_string(Path::new(name)).map_err(|error| ThemeError::Unreadable {
                path: name.to_owned(),
                error,
            })?;
        read(&text, name)
    }

    /// The colour of the `index`-th curve or expert. Past the end of the list they come again, lighter and darker in turn.
    pub fn series(&self, index: usize) -> Color32 {
        let count = self.series.len().max(1);
        let color = self
            .series
            .get(index % count)
            .map_or(self.text.weak.0, |color| color.0);
        match index / count {
            0 => color,
            round => {
                let toward = if round % 2 == 1 {
                    self.surface.panel.0
                } else {
                    self.text.strong.0
                };
                let depth = 0.25 + 0.12 * (round / 2) as f32;
                mix(color, toward, depth.min(0.6))
            }
        }
    }

    /// The colour of a kind of memory.
    pub fn kind(&self, kind: &str) -> Color32 {
        self.kinds
            .get(kind)
            .or_else(|| self.kinds.get("unexplained"))
            .map_or(self.text.weak.0, |color| color.0)
    }

    /// The colour of a phase of a step.
    pub fn phase(&self, phase: &str) -> Color32 {
        self.phases
            .get(phase)
            .or_else(|| self.phases.get("other"))
            .map_or(self.text.weak.0, |color| color.0)
    }

    /// The names of the sequential scales.
    pub fn scale_names(&self) -> impl Iterator<Item = &str> {
        self.scales.sequential.keys().map(String::as_str)
    }

    /// A colour for every value of a scale; `name` chooses among sequential ones.
    pub fn ramp(&self, scale: Scale, name: Option<&str>) -> Ramp {
        let stops = if scale.neutral.is_some() {
            &self.scales.diverging
        } else {
            name.and_then(|name| self.scales.sequential.get(name))
                .or_else(|| self.scales.sequential.get(&self.scales.default))
                .unwrap_or(&self.scales.diverging)
        };
        Ramp {
            stops: stops.iter().map(|color| color.0).collect(),
            scale,
            missing: self.plot.missing.0,
        }
    }

    /// Black or white's stand-in, whichever is read better on `ground`.
    pub fn on(&self, ground: Color32) -> Color32 {
        let (light, dark) = if self.dark {
            (self.text.strong.0, self.surface.background.0)
        } else {
            (self.surface.panel.0, self.text.strong.0)
        };
        if luminance(ground) > 0.3 { dark } else { light }
    }

    /// A quiet version of a colour, as a ground for text.
    pub fn tint(&self, color: Color32, strength: f32) -> Color32 {
        mix(self.surface.panel.0, color, strength)
    }
}

fn read(text: &str, path: &str) -> Result<Theme, ThemeError> {
    toml::from_str(text).map_err(|error| ThemeError::Wrong {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// A scale with its colours.
#[derive(Clone, Debug)]
pub struct Ramp {
    stops: Vec<Color32>,
    /// The values of its ends.
    pub scale: Scale,
    missing: Color32,
}

impl Ramp {
    /// The colour of a value; NaN is what was not measured.
    pub fn color(&self, value: f32) -> Color32 {
        if value.is_nan() {
            return self.missing;
        }
        self.at(self.place(value))
    }

    /// The colour at a place of the scale, 0 to 1.
    pub fn at(&self, place: f32) -> Color32 {
        let Some(last) = self.stops.len().checked_sub(1) else {
            return self.missing;
        };
        let place = place.clamp(0.0, 1.0) * last as f32;
        let below = (place.floor() as usize).min(last);
        mix(
            self.stops[below],
            self.stops[(below + 1).min(last)],
            place - below as f32,
        )
    }

    /// Where a value lies, 0 to 1: a diverging scale has its neutral value in the middle, whatever its ends.
    pub fn place(&self, value: f32) -> f32 {
        let Scale { min, max, neutral } = self.scale;
        let part = |value: f32, from: f32, to: f32| {
            if to > from {
                (value - from) / (to - from)
            } else {
                0.5
            }
        };
        match neutral {
            Some(middle) if value < middle => 0.5 * part(value, min, middle),
            Some(middle) if max > middle => 0.5 + 0.5 * part(value, middle, max),
            Some(_) => 0.5,
            None => part(value, min, max),
        }
    }

    /// The value at a place of the scale, 0 to 1.
    pub fn value(&self, place: f32) -> f32 {
        let Scale { min, max, neutral } = self.scale;
        match neutral {
            Some(middle) if place < 0.5 => min + (middle - min) * place * 2.0,
            Some(middle) => middle + (max - middle) * (place - 0.5) * 2.0,
            None => min + (max - min) * place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_themes_name_the_same_kinds_and_phases() {
        let (dark, light) = (Theme::dark(), Theme::light());
        assert!(dark.dark && !light.dark);
        assert!(dark.kinds.keys().eq(light.kinds.keys()));
        assert!(dark.phases.keys().eq(light.phases.keys()));
        for theme in [dark, light] {
            assert!(theme.scales.sequential.contains_key(&theme.scales.default));
            assert_eq!(theme.scales.diverging.len() % 2, 1, "a middle colour");
        }
    }

    #[test]
    fn texts_stand_out_from_their_grounds() {
        for theme in [Theme::dark(), Theme::light()] {
            let contrast = |a: Color32, b: Color32| {
                let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
                a.max(b) / a.min(b)
            };
            for ground in [
                theme.surface.panel.0,
                theme.surface.raised.0,
                theme.surface.overlay.0,
            ] {
                // The ratios that the accessibility guidelines ask of text, and of large or secondary text.
                assert!(
                    contrast(theme.text.normal.0, ground) >= 7.0,
                    "{}",
                    theme.name
                );
                assert!(contrast(theme.text.weak.0, ground) >= 3.0, "{}", theme.name);
                assert!(
                    contrast(theme.state.accent.0, ground) >= 4.5,
                    "{}",
                    theme.name
                );
            }
        }
    }

    #[test]
    fn sequential_scales_grow_lighter_or_darker_all_the_way() {
        for theme in [Theme::dark(), Theme::light()] {
            for name in theme.scale_names() {
                let scale = Scale {
                    min: 0.0,
                    max: 1.0,
                    neutral: None,
                };
                let ramp = theme.ramp(scale, Some(name));
                let lights: Vec<f32> = (0..=20)
                    .map(|i| luminance(ramp.at(i as f32 / 20.0)))
                    .collect();
                let rising = lights.windows(2).all(|pair| pair[1] >= pair[0] - 1e-3);
                let falling = lights.windows(2).all(|pair| pair[1] <= pair[0] + 1e-3);
                assert!(rising || falling, "{} of {}", name, theme.name);
            }
        }
    }

    #[test]
    fn a_neutral_value_keeps_the_middle_colour_whatever_the_ends() {
        let theme = Theme::dark();
        let ramp = theme.ramp(
            Scale {
                min: 0.0,
                max: 9.0,
                neutral: Some(1.0),
            },
            None,
        );
        assert_eq!(ramp.color(1.0), ramp.at(0.5));
        assert_eq!(ramp.color(0.0), ramp.at(0.0));
        assert_eq!(ramp.color(9.0), ramp.at(1.0));
        assert_eq!(ramp.color(f32::NAN), theme.plot.missing.0);
        assert!((ramp.value(ramp.place(5.0)) - 5.0).abs() < 1e-5);
    }

    #[test]
    fn a_wrong_theme_file_is_told_with_its_place() {
        let broken = DARK.replace("#0d1015", "black");
        let error = read(&broken, "mine.toml").unwrap_err().to_string();
        assert!(
            error.contains("mine.toml") && error.contains("black"),
            "{error}"
        );
        let missing = Theme::load("/no/such/theme.toml").unwrap_err().to_string();
        assert!(missing.contains("/no/such/theme.toml"), "{missing}");
    }
}

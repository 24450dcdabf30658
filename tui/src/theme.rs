//! Colours and symbols: every one the screens use is named here.

use ratatui::style::{Color, Modifier, Style};

/// Which colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ThemeName {
    /// For dark backgrounds
    #[default]
    Dark,
    /// For light backgrounds
    Light,
    /// No colour: bold, dim and reversed text alone
    None,
}

/// Styles by what they say. Nothing is told by colour alone.
#[derive(Clone, Debug)]
pub struct Theme {
    /// Which one.
    pub name: ThemeName,
    /// Values.
    pub text: Style,
    /// Labels, axes, what can wait.
    pub dim: Style,
    /// Frames.
    pub frame: Style,
    /// Titles.
    pub title: Style,
    /// Keys, the chosen tab.
    pub accent: Style,
    /// The row under the cursor.
    pub selected: Style,
    /// Alive and well.
    pub good: Style,
    /// Deserves a look.
    pub warn: Style,
    /// Wrong.
    pub bad: Style,
    /// The line behind a smoothed one.
    pub raw: Style,
    /// A chart's cursor.
    pub cursor: Style,
    /// A limit line.
    pub limit: Style,
    series: &'static [Color],
    heat: &'static [Color],
}

const fn indexed<const N: usize>(colors: [u8; N]) -> [Color; N] {
    let mut list = [Color::Reset; N];
    let mut at = 0;
    while at < N {
        list[at] = Color::Indexed(colors[at]);
        at += 1;
    }
    list
}

// Of the 256 colours every terminal has, chosen to differ for the colour-blind as well.
static DARK_SERIES: [Color; 6] = indexed([110, 179, 114, 176, 80, 174]);
static LIGHT_SERIES: [Color; 6] = indexed([25, 130, 28, 90, 30, 124]);
static DARK_HEAT: [Color; 7] = indexed([236, 24, 31, 37, 72, 179, 209]);
static LIGHT_HEAT: [Color; 7] = indexed([254, 153, 117, 79, 113, 215, 203]);

impl Theme {
    /// The theme of that name.
    pub fn new(name: ThemeName) -> Self {
        let plain = Style::new();
        let color = |index| plain.fg(Color::Indexed(index));
        match name {
            ThemeName::Dark => Self {
                name,
                text: color(252),
                dim: color(243),
                frame: color(238),
                title: color(252).add_modifier(Modifier::BOLD),
                accent: color(110).add_modifier(Modifier::BOLD),
                selected: plain.bg(Color::Indexed(237)).fg(Color::Indexed(255)),
                good: color(114),
                warn: color(179),
                bad: color(203).add_modifier(Modifier::BOLD),
                raw: color(240),
                cursor: color(248),
                limit: color(203),
                series: &DARK_SERIES,
                heat: &DARK_HEAT,
            },
            ThemeName::Light => Self {
                name,
                text: color(235),
                dim: color(245),
                frame: color(250),
                title: color(235).add_modifier(Modifier::BOLD),
                accent: color(25).add_modifier(Modifier::BOLD),
                selected: plain.bg(Color::Indexed(253)).fg(Color::Indexed(232)),
                good: color(28),
                warn: color(130),
                bad: color(160).add_modifier(Modifier::BOLD),
                raw: color(250),
                cursor: color(240),
                limit: color(160),
                series: &LIGHT_SERIES,
                heat: &LIGHT_HEAT,
            },
            ThemeName::None => Self {
                name,
                text: plain,
                dim: plain.add_modifier(Modifier::DIM),
                frame: plain.add_modifier(Modifier::DIM),
                title: plain.add_modifier(Modifier::BOLD),
                accent: plain.add_modifier(Modifier::BOLD),
                selected: plain.add_modifier(Modifier::REVERSED),
                good: plain,
                warn: plain.add_modifier(Modifier::BOLD),
                bad: plain.add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
                raw: plain.add_modifier(Modifier::DIM),
                cursor: plain.add_modifier(Modifier::BOLD),
                limit: plain.add_modifier(Modifier::BOLD),
                series: &[],
                heat: &[],
            },
        }
    }

    /// The style of the `index`-th curve. Curves also carry a letter.
    pub fn series(&self, index: usize) -> Style {
        match self.series {
            [] => Style::new(),
            series => Style::new().fg(series[index % series.len()]),
        }
    }

    /// The style of a load of `share` even shares: the middle of the ramp is the even share.
    pub fn heat(&self, share: f64) -> Style {
        match self.heat {
            [] => Style::new(),
            ramp => Style::new().fg(ramp[level(share, ramp.len())]),
        }
    }
}

/// Characters that terminals without Unicode lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glyphs {
    /// Whether only ASCII is drawn.
    pub ascii: bool,
}

impl Glyphs {
    /// One of two.
    fn either<T>(self, unicode: T, ascii: T) -> T {
        if self.ascii { ascii } else { unicode }
    }

    /// A load of `share` even shares, as a bar half as high where it is even. A dot is no load at all.
    pub fn heat(self, share: f64) -> &'static str {
        const UNICODE: [&str; 9] = ["·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
        const ASCII: [&str; 7] = [".", ":", "-", "=", "+", "*", "#"];
        let ramp: &[&str] = self.either::<&[&str]>(&UNICODE, &ASCII);
        ramp[level(share, ramp.len()).max(usize::from(share > 0.0))]
    }

    /// A line of bars: `values` between their own smallest and largest.
    pub fn spark(self, values: &[f64], width: usize) -> String {
        const UNICODE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const ASCII: [char; 5] = ['_', '.', '-', '=', '^'];
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let (low, high) = finite
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| {
                (low.min(v), high.max(v))
            });
        let bars: &[char] = if self.ascii { &ASCII } else { &UNICODE };
        let columns = width.min(values.len());
        (0..columns)
            .map(|column| {
                let from = column * values.len() / columns;
                let to = ((column + 1) * values.len() / columns).max(from + 1);
                let part: Vec<f64> = values[from..to]
                    .iter()
                    .copied()
                    .filter(|v| v.is_finite())
                    .collect();
                if part.is_empty() {
                    return self.either('×', 'x');
                }
                let mean = part.iter().sum::<f64>() / part.len() as f64;
                let at = if high > low {
                    (mean - low) / (high - low)
                } else {
                    0.0
                };
                bars[((at * bars.len() as f64) as usize).min(bars.len() - 1)]
            })
            .collect()
    }

    /// A bar of `width` cells, `share` of it full.
    pub fn bar(self, share: f64, width: usize) -> (String, String) {
        let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
        (
            self.either("━", "=").repeat(full),
            self.either("─", "-").repeat(width - full),
        )
    }

    /// Before the selected row.
    pub fn pointer(self) -> &'static str {
        self.either("▸", ">")
    }

    /// Before a marked row.
    pub fn mark(self) -> &'static str {
        self.either("◆", "*")
    }

    /// Between things on a line.
    pub fn dot(self) -> &'static str {
        self.either("·", "-")
    }

    /// Where a value is not known.
    pub fn none(self) -> &'static str {
        self.either("–", "-")
    }

    /// Before an open branch of a tree, and before a closed one.
    pub fn branch(self, open: bool) -> &'static str {
        match open {
            true => self.either("−", "-"),
            false => "+",
        }
    }

    /// What a run is doing.
    pub fn state(self, liveness: bellows_record::Liveness) -> &'static str {
        use bellows_record::Liveness::{Crashed, Failed, Finished, Paused, Running, Stopped};
        match liveness {
            Running => self.either("●", "*"),
            Paused => self.either("◐", "="),
            Stopped => self.either("■", "#"),
            Finished => self.either("✓", "v"),
            Failed => self.either("✗", "x"),
            Crashed => self.either("✗", "!"),
        }
    }

    /// How grave a warning is.
    pub fn severity(self, severity: crate::query::warnings::Severity) -> &'static str {
        use crate::query::warnings::Severity::{Note, Serious, Warning};
        match severity {
            Note => self.either("i", "i"),
            Warning => self.either("▲", "^"),
            Serious => self.either("‼", "!"),
        }
    }
}

/// Place of a load in a ramp: none at 0, the middle at the even share, the end from 3 on.
fn level(share: f64, levels: usize) -> usize {
    let place = if share <= 1.0 {
        share / 2.0
    } else {
        0.5 + (share - 1.0) / 4.0
    };
    ((place.clamp(0.0, 1.0) * (levels - 1) as f64).round() as usize).min(levels - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_its_ends_and_its_middle() {
        let glyphs = Glyphs { ascii: false };
        assert_eq!(glyphs.heat(0.0), "·");
        assert_eq!(glyphs.heat(0.01), "▁");
        assert_eq!(glyphs.heat(1.0), "▄");
        assert_eq!(glyphs.heat(9.0), "█");
        assert_eq!(glyphs.heat(f64::NAN), "·");
    }

    #[test]
    fn ascii_means_ascii() {
        let glyphs = Glyphs { ascii: true };
        assert!(glyphs.spark(&[1.0, f64::NAN, 3.0], 3).is_ascii());
        let (full, empty) = glyphs.bar(0.5, 10);
        assert!(full.is_ascii() && empty.is_ascii());
        assert_eq!((full.len(), empty.len()), (5, 5));
    }

    #[test]
    fn no_colour_means_no_colour() {
        let theme = Theme::new(ThemeName::None);
        for style in [
            theme.good,
            theme.bad,
            theme.series(1),
            theme.heat(2.0),
            theme.selected,
        ] {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}

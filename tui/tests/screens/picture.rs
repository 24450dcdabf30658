//! A drawn screen as text: what stands there, and in which style.

use std::fmt::Write;

use bellows_tui::app::App;
use bellows_tui::theme::ThemeName;
use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier};

use crate::runs::Setting;

/// The sizes of the snapshots: the smallest and a usual one.
pub const SIZES: [(u16, u16); 2] = [(80, 24), (120, 40)];

const THEMES: [(ThemeName, &str); 3] = [
    (ThemeName::Dark, "dark"),
    (ThemeName::Light, "light"),
    (ThemeName::None, "none"),
];

/// Compares a screen at both sizes with its snapshots.
#[track_caller]
pub fn assert_screens(name: &str, app: impl Fn(&Setting) -> App) {
    for (width, height) in SIZES {
        assert_at(&format!("{name}-{width}x{height}"), (width, height), &app);
    }
}

/// Compares a screen with its snapshot, in each theme.
#[track_caller]
pub fn assert_at(name: &str, (width, height): (u16, u16), app: impl Fn(&Setting) -> App) {
    let mut snapshot = String::new();
    let mut common = String::new();
    for (theme, theme_name) in THEMES {
        let setting = Setting::new(width, height, theme);
        let buffer = setting.draw(&mut app(&setting));
        let text = text(&buffer);
        if snapshot.is_empty() {
            snapshot.clone_from(&text);
            common.clone_from(&text);
        }
        assert_eq!(
            text, common,
            "{name}: the theme {theme_name} says something else"
        );
        write!(snapshot, "\n── {theme_name} ──\n{}", styles(&buffer)).expect("a string");
    }
    compare(name, &snapshot);
}

/// Compares the text of a screen without Unicode.
#[track_caller]
pub fn assert_ascii(name: &str, app: impl Fn(&Setting) -> App) {
    let (width, height) = SIZES[0];
    let mut setting = Setting::new(width, height, ThemeName::None);
    setting.ascii = true;
    compare(name, &setting.text(&mut app(&setting)));
}

#[track_caller]
fn compare(name: &str, snapshot: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, snapshot));
}

/// What stands there.
pub fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for line in rows(buffer) {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn rows(buffer: &Buffer) -> impl Iterator<Item = &[ratatui::buffer::Cell]> {
    buffer.content.chunks(usize::from(buffer.area.width.max(1)))
}

/// A line for each row that has a style: its number, then runs of columns, `4a` for four in style
/// `a` and `4.` for four in none. What the letters mean follows.
fn styles(buffer: &Buffer) -> String {
    let mut known: Vec<(Color, Color, Modifier)> = Vec::new();
    let mut text = String::new();
    for (number, row) in rows(buffer).enumerate() {
        let mut runs: Vec<(usize, char)> = Vec::new();
        for cell in row {
            let style = (cell.fg, cell.bg, cell.modifier);
            let letter = if style == (Color::Reset, Color::Reset, Modifier::empty()) {
                '.'
            } else {
                let at = known
                    .iter()
                    .position(|known| *known == style)
                    .unwrap_or_else(|| {
                        known.push(style);
                        known.len() - 1
                    });
                char::from(b'a' + u8::try_from(at).expect("few styles"))
            };
            match runs.last_mut() {
                Some((count, last)) if *last == letter => *count += 1,
                _ => runs.push((1, letter)),
            }
        }
        if runs.iter().all(|(_, letter)| *letter == '.') {
            continue;
        }
        write!(text, "{number}:").expect("a string");
        for (count, letter) in runs {
            write!(text, " {count}{letter}").expect("a string");
        }
        text.push('\n');
    }
    for (at, (fg, bg, modifier)) in known.iter().enumerate() {
        let letter = char::from(b'a' + at as u8);
        writeln!(text, "{letter} = {fg:?} on {bg:?} {modifier:?}").expect("a string");
    }
    text
}

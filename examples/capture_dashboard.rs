//! Draws the dashboard's screens of a real run as pictures, as a terminal shows them.
//!
//! ```sh
//! cargo run --release -p bellows-tui --example capture_dashboard -- RUN OUT KEYS=NAME …
//! ```
//!
//! Each picture is `OUT/NAME.svg`: the screen after KEYS were pressed, one character a key, `⏎` for
//! Enter. Without KEYS=NAME there are the pictures of the README.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bellows_record::time::UtcOffset;
use bellows_tui::app::{App, Options, Screen};
use bellows_tui::store::{HomeFollower, Loading, RunFollower};
use bellows_tui::theme::{Glyphs, Theme, ThemeName};
use bellows_tui::view;
use crossterm::event::KeyCode;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

/// Columns and rows of the terminal.
const SIZE: (u16, u16) = (120, 32);
/// A cell in pixels, and the height of its letters.
const CELL: (f64, f64, f64) = (8.4, 18.0, 14.0);
/// Colours of a dark terminal where the program leaves them to it.
const PAPER: &str = "#16181d";
const INK: &str = "#d0d0d0";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(run), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("name a run and a folder for the pictures".into());
    };
    let (run, out) = (PathBuf::from(run), PathBuf::from(out));
    let mut wanted: Vec<String> = arguments.collect();
    if wanted.is_empty() {
        wanted = [
            "h=dashboard-home",
            "=dashboard-charts",
            "2=dashboard-routing",
            "3⏎=dashboard-memory",
        ]
        .map(str::to_owned)
        .to_vec();
    }
    for picture in wanted {
        let (keys, name) = picture.split_once('=').ok_or("a picture is KEYS=NAME")?;
        let buffer = screen(&run, keys);
        std::fs::write(out.join(format!("{name}.svg")), svg(&buffer))?;
    }
    Ok(())
}

/// The screen after keys were pressed; `h` is the list of runs that the run is in.
fn screen(run: &Path, keys: &str) -> Buffer {
    let root = run.parent().unwrap_or(run).to_owned();
    let quiet = || Arc::new(|| {});
    let options = Options {
        root: root.clone(),
        examples: PathBuf::from("examples"),
        read_only: false,
        theme: Theme::new(ThemeName::Dark),
        glyphs: Glyphs { ascii: false },
        offset: UtcOffset::UTC,
    };
    let home = HomeFollower::start(root, quiet());
    while !home.data.read().looked {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut app = App::new(options, home, bellows_record::now(), quiet());
    let keys = match keys.strip_prefix('h') {
        Some(keys) => keys,
        None => {
            app.open(RunFollower::start(run.to_owned(), quiet()));
            keys
        }
    };
    settle(&app);
    let mut buffer = draw(&mut app);
    for key in keys.chars() {
        let code = match key {
            '⏎' => KeyCode::Enter,
            '←' => KeyCode::Left,
            key => KeyCode::Char(key),
        };
        app.key(code.into());
        settle(&app);
        buffer = draw(&mut app);
    }
    buffer
}

/// Waits until the run is read.
fn settle(app: &App) {
    if let Screen::Run(run) = &app.screen {
        while run.follower.data.read().loading != Loading::Complete {
            std::thread::sleep(Duration::from_millis(10));
        }
        // The Arrow files come after the curves, and tell nobody when they end.
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn draw(app: &mut App) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, SIZE.0, SIZE.1));
    view::draw(app, &mut buffer);
    buffer
}

fn svg(buffer: &Buffer) -> String {
    let (width, height, size) = CELL;
    let (columns, rows) = (f64::from(buffer.area.width), f64::from(buffer.area.height));
    let margin = 12.0;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {:.1} {:.1}" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="{size}">
<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>
"#,
        columns * width + 2.0 * margin,
        rows * height + 2.0 * margin,
    );
    let line = usize::from(buffer.area.width);
    for (row, cells) in buffer.content.chunks(line).enumerate() {
        let top = margin + row as f64 * height;
        let mut at = 0;
        while at < cells.len() {
            let alike = |cell: &&Cell| colours(cell) == colours(&cells[at]);
            let count = cells[at..].iter().take_while(alike).count();
            let symbols = cells[at..at + count].iter().map(Cell::symbol);
            // Few fonts have the dots of charts: they are drawn, and the text has room there.
            let text: String = symbols
                .clone()
                .map(|s| if dots(s) > 0 { " " } else { s })
                .collect();
            let left = margin + at as f64 * width;
            let across = count as f64 * width;
            let (ink, paper, bold, dim) = colours(&cells[at]);
            if let Some(paper) = paper {
                let _ = writeln!(
                    svg,
                    r#"<rect x="{left:.1}" y="{top:.1}" width="{across:.1}" height="{height}" fill="{paper}"/>"#
                );
            }
            let mut path = String::new();
            for (column, symbol) in symbols.enumerate() {
                for (dot, (x, y)) in DOTS.iter().enumerate() {
                    if dots(symbol) >> dot & 1 == 1 {
                        let x = left + (column as f64 + x) * width;
                        let _ = write!(path, "M{x:.1} {:.1}h2v2h-2z", top + y * height);
                    }
                }
            }
            if !path.is_empty() {
                let _ = writeln!(svg, r#"<path fill="{ink}" d="{path}"/>"#);
            }
            if !text.trim().is_empty() {
                let weight = if bold { r#" font-weight="bold""# } else { "" };
                let faint = if dim { r#" opacity="0.6""# } else { "" };
                let _ = writeln!(
                    svg,
                    r#"<text x="{left:.1}" y="{:.1}" fill="{ink}" textLength="{across:.1}" lengthAdjust="spacingAndGlyphs" xml:space="preserve"{weight}{faint}>{}</text>"#,
                    top + 0.75 * height,
                    text.replace('&', "&amp;")
                        .replace('<', "&lt;")
                        .replace('>', "&gt;"),
                );
            }
            at += count;
        }
    }
    svg + "</svg>\n"
}

/// Where a Braille character has its dots, in the order of its bits, as shares of a cell.
const DOTS: [(f64, f64); 8] = [
    (0.15, 0.07),
    (0.15, 0.32),
    (0.15, 0.57),
    (0.65, 0.07),
    (0.65, 0.32),
    (0.65, 0.57),
    (0.15, 0.82),
    (0.65, 0.82),
];

/// The dots of a Braille character, one bit each; 0 for every other.
fn dots(symbol: &str) -> u32 {
    match symbol.chars().next().map(u32::from) {
        Some(code @ 0x2800..=0x28ff) => code - 0x2800,
        _ => 0,
    }
}

/// Ink, paper, bold and dim of a cell.
fn colours(cell: &Cell) -> (String, Option<String>, bool, bool) {
    let ink = rgb(cell.fg).unwrap_or_else(|| INK.to_owned());
    let paper = rgb(cell.bg);
    let bold = cell.modifier.contains(Modifier::BOLD);
    let dim = cell.modifier.contains(Modifier::DIM);
    if cell.modifier.contains(Modifier::REVERSED) {
        return (
            paper.unwrap_or_else(|| PAPER.to_owned()),
            Some(ink),
            bold,
            dim,
        );
    }
    (ink, paper, bold, dim)
}

/// Of the 256 colours, those that the themes use: the cube of six and the greys.
fn rgb(color: Color) -> Option<String> {
    let Color::Indexed(index) = color else {
        return None;
    };
    let step = |level: u8| if level == 0 { 0 } else { 55 + 40 * level };
    let (r, g, b) = match index {
        16..=231 => {
            let cube = index - 16;
            (step(cube / 36), step(cube / 6 % 6), step(cube % 6))
        }
        232.. => {
            let grey = 8 + 10 * (index - 232);
            (grey, grey, grey)
        }
        _ => return None,
    };
    Some(format!("#{r:02x}{g:02x}{b:02x}"))
}

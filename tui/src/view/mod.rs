//! The screens: what is drawn, from what the store and the queries hold.

mod canvas;
mod chart;
mod compare;
mod config;
mod events;
mod footer;
mod form;
mod frame;
mod header;
mod home;
mod memory;
mod overlay;
mod routing;
mod run;
mod samples;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use crate::app::{App, Screen, Target};
use crate::theme::{Glyphs, Theme};

/// The smallest screen that everything fits on.
pub const SMALLEST: (u16, u16) = (80, 24);

/// What the parts of a screen draw with.
pub(crate) struct Canvas<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) theme: &'a Theme,
    pub(crate) glyphs: Glyphs,
    pub(crate) targets: &'a mut Vec<(Rect, Target)>,
}

impl Canvas<'_> {
    /// Writes a line at a row of an area, cut at its edge. Returns the column after it.
    pub(crate) fn line<'l>(&mut self, area: Rect, row: u16, line: impl Into<Line<'l>>) -> u16 {
        if row >= area.height {
            return area.x;
        }
        let (x, _) = self
            .buffer
            .set_line(area.x, area.y + row, &line.into(), area.width);
        x
    }

    /// Writes a line at the right edge of a row.
    pub(crate) fn line_right<'l>(&mut self, area: Rect, row: u16, line: impl Into<Line<'l>>) {
        let line = line.into();
        let width = (line.width() as u16).min(area.width);
        let part = Rect {
            x: area.x + area.width - width,
            width,
            ..area
        };
        self.line(part, row, line);
    }
}

/// Draws the dashboard.
pub fn draw(app: &mut App, buffer: &mut Buffer) {
    let area = buffer.area;
    let (theme, glyphs) = (app.options.theme.clone(), app.options.glyphs);
    let mut targets = Vec::new();
    let mut canvas = Canvas {
        buffer,
        theme: &theme,
        glyphs,
        targets: &mut targets,
    };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(&mut canvas, area);
    } else {
        let [main, bottom] = split_bottom(area, 2);
        footer::draw(app, &mut canvas, bottom);
        match &mut app.screen {
            Screen::Home => {
                app.page = home::draw(&app.home, &app.options, app.now, &mut canvas, main)
            }
            Screen::Run(run) => {
                app.page = run::draw(run, app.now, app.options.offset, &mut canvas, main)
            }
            Screen::Compare(compare) => app.page = compare::draw(compare, &mut canvas, main),
            Screen::Form(form) => form::draw(form, &mut canvas, main),
        }
        overlay::draw(app, &mut canvas, area);
    }
    app.targets = targets;
    if glyphs.ascii {
        to_ascii(buffer);
    }
}

/// The last `rows` of an area, and what is above.
pub(crate) fn split_bottom(area: Rect, rows: u16) -> [Rect; 2] {
    let rows = rows.min(area.height);
    [
        Rect {
            height: area.height - rows,
            ..area
        },
        Rect {
            y: area.y + area.height - rows,
            height: rows,
            ..area
        },
    ]
}

/// The first `rows` of an area, and what is below.
pub(crate) fn split_top(area: Rect, rows: u16) -> [Rect; 2] {
    let rows = rows.min(area.height);
    split_bottom(area, area.height - rows)
}

fn too_small(canvas: &mut Canvas<'_>, area: Rect) {
    let (title, dim) = (canvas.theme.title, canvas.theme.dim);
    let lines = [
        Line::styled("This terminal is too small.", title),
        Line::styled(
            format!(
                "The dashboard needs {}x{}; this is {}x{}.",
                SMALLEST.0, SMALLEST.1, area.width, area.height
            ),
            dim,
        ),
        Line::styled("Make it larger, or press q to leave.", dim),
    ];
    let top = area.height.saturating_sub(lines.len() as u16) / 2;
    for (row, line) in lines.into_iter().enumerate() {
        let width = (line.width() as u16).min(area.width);
        let place = Rect {
            x: area.x + (area.width - width) / 2,
            width,
            ..area
        };
        canvas.line(place, top + row as u16, line);
    }
}

/// Replaces what a terminal without Unicode cannot show.
fn to_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if cell.symbol().is_ascii() {
            continue;
        }
        let plain = match cell.symbol() {
            "–" | "—" | "─" | "━" | "−" => "-",
            "│" | "┃" => "|",
            "…" => "~",
            "→" | "▸" => ">",
            "←" => "<",
            "↑" => "^",
            "↓" => "v",
            "·" => ".",
            "×" => "x",
            "┌" | "┐" | "└" | "┘" | "╭" | "╮" | "╰" | "╯" | "├" | "┤" | "┬" | "┴" | "┼" => {
                "+"
            }
            "“" | "”" => "\"",
            "’" => "'",
            _ => "?",
        };
        cell.set_symbol(plain);
    }
}

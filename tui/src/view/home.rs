//! The list of runs.

use bellows_record::time::OffsetDateTime;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::frame::{cell, scrolled};
use super::header::state_style;
use super::{Canvas, split_bottom, split_top};
use crate::app::{HomeScreen, Options, Target};
use crate::format;
use crate::store::HomeRow;

/// Draws the list; returns the lines that fit.
pub(super) fn draw(
    home: &HomeScreen,
    options: &Options,
    now: OffsetDateTime,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let [top, list] = split_top(area, 2);
    let rows = home.rows();
    title(home, options, &rows, canvas, top);
    // Asked before the lock is taken: whoever holds it must not ask for it again.
    let selected = home.selected();
    let data = home.follower.data.read();
    if let Some(trouble) = &data.trouble {
        canvas.line(
            list,
            2,
            Line::styled(format!("  {trouble}"), canvas.theme.bad),
        );
        return 1;
    }
    if rows.is_empty() {
        empty(
            home,
            data.looked,
            &options.root.display().to_string(),
            options.read_only,
            canvas,
            list,
        );
    }
    let [head, body] = split_top(list, 1);
    let columns = Columns::of(area.width);
    if !rows.is_empty() {
        columns.head(canvas, head);
    }
    let unreadable = data.unreadable.len().min(3) as u16;
    let [body, about] = split_bottom(body, 1);
    let [body, bottom] = split_bottom(body, unreadable);
    let fits = usize::from(body.height);
    let first = scrolled(selected, rows.len(), fits);
    for (line, (index, row)) in rows.iter().enumerate().skip(first).take(fits).enumerate() {
        let place = Rect {
            y: body.y + line as u16,
            height: 1,
            ..body
        };
        let marked = home.marked.contains(&row.summary.path);
        columns.row(canvas, place, row, index == selected, marked, now);
        canvas.targets.push((place, Target::Row(index)));
    }
    if let Some(row) = rows.get(selected) {
        detail(row, now, canvas, about);
    }
    for (line, (path, trouble)) in data.unreadable.iter().take(3).enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = format::clip(
            &format!("  left out {name}: {trouble}"),
            usize::from(area.width),
        );
        canvas.line(bottom, line as u16, Line::styled(text, canvas.theme.warn));
    }
    fits
}

fn title(
    home: &HomeScreen,
    options: &Options,
    rows: &[HomeRow],
    canvas: &mut Canvas<'_>,
    area: Rect,
) {
    let theme = canvas.theme;
    let live = rows
        .iter()
        .filter(|row| row.summary.liveness.is_live())
        .count();
    let mut spans = vec![
        Span::styled(" bellows ", theme.accent),
        Span::styled(format!(" {} ", options.root.display()), theme.title),
        Span::styled(
            format!(
                "{} {}, {live} alive, by {}",
                rows.len(),
                if rows.len() == 1 { "run" } else { "runs" },
                home.sort.name()
            ),
            theme.dim,
        ),
    ];
    if home.filtering || !home.filter.as_str().is_empty() {
        spans.push(Span::styled("  / ", theme.accent));
        spans.push(Span::styled(home.filter.as_str().to_owned(), theme.text));
        if home.filtering {
            spans.push(Span::styled(" ", theme.selected));
        }
    }
    canvas.line(area, 0, Line::from(spans));
}

fn empty(
    home: &HomeScreen,
    looked: bool,
    root: &str,
    read_only: bool,
    canvas: &mut Canvas<'_>,
    area: Rect,
) {
    let text = if !looked {
        "looking for runs".to_owned()
    } else if home.filter.as_str().is_empty() {
        format!("There are no runs in {root} yet.")
    } else {
        "No run fits the filter; Esc clears it.".to_owned()
    };
    canvas.line(
        area,
        2,
        Line::styled(format!("  {text}"), canvas.theme.text),
    );
    if looked && home.filter.as_str().is_empty() && !read_only {
        let hint = "  N starts one; so does `bellows train examples/rust-code.toml`.";
        canvas.line(area, 4, Line::styled(hint, canvas.theme.dim));
    }
}

/// A column, from the left.
#[derive(Clone, Copy, PartialEq)]
enum Column {
    State,
    Bar,
    Done,
    Loss,
    Validation,
    Spark,
    Pace,
    Left,
    Seen,
    Device,
    Model,
}

use Column::{Bar, Device, Done, Left, Loss, Model, Pace, Seen, Spark, State, Validation};

/// Columns and their widths, by what there is room for.
struct Columns {
    name: usize,
    shown: Vec<(Column, usize)>,
}

impl Columns {
    fn of(width: u16) -> Self {
        // In the order in which they are given up for lack of room.
        let wanted = [
            (State, 10),
            (Done, 5),
            (Loss, 6),
            (Spark, 11),
            (Pace, 6),
            (Left, 8),
            (Validation, 6),
            (Seen, 6),
            (Bar, 14),
            (Device, 19),
            (Spark, 25),
            (Model, 17),
            (Device, 35),
            (Bar, 24),
        ];
        const ORDER: [Column; 11] = [
            State, Bar, Done, Loss, Validation, Spark, Pace, Left, Seen, Device, Model,
        ];
        // The pointer and the name come first.
        let mut room = usize::from(width).saturating_sub(3 + 13);
        let mut shown: Vec<(Column, usize)> = Vec::new();
        for (column, width) in wanted {
            let before = shown.iter().position(|(known, _)| *known == column);
            let cost = match before {
                Some(at) => width - shown[at].1,
                None => width + 1,
            };
            if cost > room {
                break;
            }
            room -= cost;
            match before {
                Some(at) => shown[at].1 = width,
                None => shown.push((column, width)),
            }
        }
        shown.sort_by_key(|(column, _)| ORDER.iter().position(|known| known == column));
        Self {
            name: (12 + room).min(40),
            shown,
        }
    }

    fn head(&self, canvas: &mut Canvas<'_>, area: Rect) {
        let dim = canvas.theme.dim;
        let mut spans = vec![Span::raw("   "), cell("run", self.name, false, dim)];
        for (column, width) in &self.shown {
            let (text, right) = match column {
                State => ("state", false),
                Bar => ("", false),
                Done => ("done", true),
                Loss => ("loss", true),
                Validation => ("val", true),
                // After right-aligned numbers, a column more of room.
                Spark => (" loss curve", false),
                Pace => ("tok/s", true),
                Left => ("left", true),
                Seen => ("seen", true),
                Device => (" device", false),
                Model => (" model", false),
            };
            spans.push(Span::raw(" "));
            spans.push(cell(text, *width, right, dim));
        }
        canvas.line(area, 0, Line::from(spans));
    }

    fn row(
        &self,
        canvas: &mut Canvas<'_>,
        area: Rect,
        row: &HomeRow,
        selected: bool,
        marked: bool,
        now: OffsetDateTime,
    ) {
        let (theme, glyphs) = (canvas.theme, canvas.glyphs);
        let run = &row.summary;
        let share = run.step as f64 / run.total_steps.max(1) as f64;
        let none = || glyphs.none().to_owned();
        let loss = |loss: Option<f64>| loss.map_or_else(none, |loss| format!("{loss:.3}"));
        let mut spans = vec![
            Span::styled(if selected { glyphs.pointer() } else { " " }, theme.accent),
            Span::styled(if marked { glyphs.mark() } else { " " }, theme.accent),
            Span::raw(" "),
            cell(
                &run.name,
                self.name,
                false,
                if selected { theme.title } else { theme.text },
            ),
        ];
        for &(column, width) in &self.shown {
            spans.push(Span::raw(" "));
            let (text, right, style) = match column {
                State => {
                    let text = format!("{} {}", glyphs.state(run.liveness), run.liveness);
                    (text, false, state_style(theme, run.liveness))
                }
                Bar => {
                    let (full, rest) = glyphs.bar(share, width);
                    spans.push(Span::styled(full, theme.accent));
                    spans.push(Span::styled(rest, theme.frame));
                    continue;
                }
                Done => (format!("{:.0} %", share * 100.0), true, theme.text),
                Loss => (loss(run.loss), true, theme.text),
                Validation => (loss(run.validation_loss), true, theme.text),
                Spark => {
                    let curve = glyphs.spark(&row.losses, width - 1);
                    (format!(" {curve}"), false, theme.series(0))
                }
                Pace => (
                    run.tokens_per_second.map_or_else(none, format::count),
                    true,
                    theme.text,
                ),
                Left => (
                    row.seconds_left.map_or_else(none, short_duration),
                    true,
                    theme.text,
                ),
                Seen => (
                    format::age((now - run.heartbeat).whole_seconds()),
                    true,
                    theme.dim,
                ),
                Device => (format!(" {}", run.device), false, theme.dim),
                Model => (format!(" {}", run.model_type), false, theme.dim),
            };
            spans.push(cell(&text, width, right, style));
        }
        canvas.line(area, 0, Line::from(spans));
        if selected {
            let style = match theme.selected.bg {
                Some(background) => ratatui::style::Style::new().bg(background),
                None => theme.selected,
            };
            canvas.buffer.set_style(area, style);
        }
    }
}

/// A duration in the eight columns there are: `3 min`, `5 h 02 m`.
fn short_duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min", whole.div_ceil(60)),
        3600..86400 => format!("{} h {:02} m", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86400, whole % 86400 / 3600),
    }
}

/// What there was no column for, of the selected run.
fn detail(row: &HomeRow, now: OffsetDateTime, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    let run = &row.summary;
    let dot = format!(" {} ", canvas.glyphs.dot());
    let seen = match format::age((now - run.heartbeat).whole_seconds()) {
        now if now == "now" => now,
        age => format!("{age} ago"),
    };
    let parts = [
        format!(
            "step {} of {}",
            format::whole(run.step),
            format::whole(run.total_steps)
        ),
        run.model_type.clone(),
        format!("on {}", run.device),
        format!("last sign {seen}"),
    ];
    let room = usize::from(area.width).saturating_sub(run.name.chars().count() + 4);
    let line = Line::from(vec![
        Span::styled(format!(" {}  ", run.name), theme.title),
        Span::styled(format::clip(&parts.join(&dot), room), theme.dim),
    ]);
    canvas.line(area, 0, line);
}

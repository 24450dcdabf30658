//! A run's screen: head, tabs and the part that is shown.

use bellows_record::time::{OffsetDateTime, UtcOffset};
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::chart::{Chart, Curve, Unit};
use super::{Canvas, config, events, header, memory, routing, samples, split_top};
use crate::app::{ChartState, RunScreen, Tab, Target};
use crate::keys::Action;
use crate::query::warnings::Severity;
use crate::store::RunData;

/// Draws it; returns the lines that fit.
pub(super) fn draw(
    screen: &mut RunScreen,
    now: OffsetDateTime,
    offset: UtcOffset,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let shared = screen.follower.data.clone();
    let data = shared.read();
    if let (Some(steps), charts) = (
        data.metrics.steps().or_else(|| data.preview.steps()),
        &mut screen.charts,
    ) {
        let last = data.present().last().map_or(steps.1, |row| row.step);
        charts.extent = (steps.0, steps.1.max(last));
    }
    let [head, rest] = split_top(area, header::ROWS);
    header::draw(&data, canvas, head);
    let [tabs, body] = split_top(rest, 2);
    tab_line(screen.tab, &data, canvas, tabs);
    let mut rows = 0;
    if let Some(trouble) = data.trouble.as_ref().or(data.unwritten.as_ref()) {
        let lines = super::frame::wrap(trouble, usize::from(body.width).saturating_sub(4));
        rows = lines.len() as u16 + 2;
        for (row, line) in (1..).zip(lines) {
            canvas.line(
                body,
                row,
                Line::styled(format!("  {line}"), canvas.theme.bad),
            );
        }
        if data.manifest.is_none() {
            return 1;
        }
    }
    let body = split_top(body, rows)[1];
    match screen.tab {
        Tab::Charts => charts(&data, &mut screen.charts, canvas, body),
        Tab::Routing => routing::draw(&data, screen, canvas, body),
        Tab::Memory => memory::draw(&data, screen, canvas, body),
        Tab::Events => events::draw(&data, screen, now, offset, canvas, body),
        Tab::Config => config::draw(&data, screen, canvas, body),
        Tab::Samples => samples::draw(&data, screen, canvas, body),
    }
}

fn tab_line(shown: Tab, data: &RunData, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    let mut x = area.x + 1;
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let mut title = format!(" {} {} ", index + 1, tab.title());
        if tab == Tab::Events && !data.warnings.is_empty() {
            let gravest = data.warnings.iter().map(|warning| warning.severity).max();
            let sign = canvas.glyphs.severity(gravest.unwrap_or(Severity::Note));
            title = format!(
                " {} {} {sign}{} ",
                index + 1,
                tab.title(),
                data.warnings.len()
            );
        }
        let style = if tab == shown {
            theme.accent.patch(theme.selected)
        } else if tab == Tab::Events && !data.warnings.is_empty() {
            theme.warn
        } else {
            theme.dim
        };
        // Not by colour alone.
        if tab == shown {
            title = format!("[{}]", title.trim());
        }
        let width = Span::raw(title.as_str()).width() as u16;
        let place = Rect {
            x,
            width: width.min((area.x + area.width).saturating_sub(x)),
            height: 1,
            ..area
        };
        canvas.line(place, 0, Line::styled(title, style));
        canvas
            .targets
            .push((place, Target::Act(Action::Tab(index as u8))));
        x += width + 1;
    }
}

/// The curve of a metric, from the history and, while that is being read, the newest rows.
pub(super) fn curve<'a>(
    data: &'a RunData,
    name: &str,
    canvas: &Canvas<'_>,
    index: usize,
) -> Curve<'a> {
    Curve {
        name: label(name).to_owned(),
        letter: None,
        values: [data.metrics.get(name), data.preview.get(name)],
        style: canvas.theme.series(index),
        sparse: name == "validation_loss",
    }
}

/// A metric's name as people say it.
pub(super) fn label(name: &str) -> &str {
    match name {
        "grad_norm" => "gradient norm",
        "learning_rate" => "learning rate",
        "tokens_per_second" => "tokens/s",
        "validation_loss" => "validation",
        "memory_bytes" => "memory",
        "peak_memory_bytes" => "peak memory",
        "aux_loss" => "balance loss",
        "z_loss" => "z-loss",
        "cross_entropy" => "cross-entropy",
        "step_seconds" => "seconds a step",
        "skipped_steps" => "steps skipped",
        "loss_scale" => "loss scale",
        other => other,
    }
}

fn charts(data: &RunData, state: &mut ChartState, canvas: &mut Canvas<'_>, area: Rect) -> usize {
    let store = if data.metrics.last().is_some() {
        &data.metrics
    } else {
        &data.preview
    };
    // The validation loss is a mark on the training loss's chart.
    let names: Vec<&str> = store
        .names()
        .into_iter()
        .filter(|name| *name != "validation_loss")
        .collect();
    state.count = names.len();
    if names.is_empty() {
        canvas.line(
            area,
            1,
            Line::styled("  No step was recorded yet.", canvas.theme.dim),
        );
        return 1;
    }
    state.selected = state.selected.min(names.len() - 1);
    let (columns, rows) = match state.alone {
        true => (1, 1),
        false => {
            let columns = (area.width / 58)
                .clamp(1, 4)
                .max(u16::from(area.width >= 76) + 1);
            // Few charts are high ones.
            let needed = names.len().div_ceil(usize::from(columns)) as u16;
            (columns, (area.height / 8).clamp(1, 6).min(needed))
        }
    };
    state.columns = usize::from(columns);
    let fits = usize::from(columns * rows);
    let first = match state.alone {
        true => state.selected,
        false => state.selected / fits * fits,
    };
    let (width, height) = (area.width / columns, area.height / rows);
    for (place, (index, name)) in names.iter().enumerate().skip(first).take(fits).enumerate() {
        let (column, row) = (place as u16 % columns, place as u16 / columns);
        let place = Rect {
            x: area.x + column * width,
            y: area.y + row * height,
            width,
            height: if row + 1 == rows {
                area.height - row * height
            } else {
                height
            },
        };
        let mut curves = vec![curve(data, name, canvas, 0)];
        if *name == "loss"
            && !data
                .metrics
                .get("validation_loss")
                .is_none_or(|p| p.is_empty())
        {
            curves.push(curve(data, "validation_loss", canvas, 1));
        }
        let chart = Chart {
            curves,
            steps: state.steps(),
            log: state.log,
            weight: if *name == "learning_rate" {
                0.0
            } else {
                state.weight()
            },
            cursor: state.cursor,
            limit: data
                .memory_limit()
                .filter(|_| name.ends_with("memory_bytes"))
                .map(|bytes| (bytes as f64, "limit")),
            selected: index == state.selected,
            unit: Unit::of(name),
        };
        state.plot = chart.draw(canvas, place);
        canvas.targets.push((place, Target::Chart(index)));
    }
    let above = first;
    let below = names.len().saturating_sub(first + fits);
    if above + below > 0 && !state.alone {
        let shown = names.len() - below;
        let note = format!("{}–{shown}/{} ", above + 1, names.len());
        let top = Rect {
            y: area.y.saturating_sub(2),
            height: 1,
            ..area
        };
        canvas.line_right(top, 0, Line::styled(note, canvas.theme.dim));
    }
    fits
}

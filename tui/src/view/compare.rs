//! Several runs on one chart, and how their configurations differ.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::chart::{Chart, Curve, Unit};
use super::frame::{cell, heading};
use super::run::label;
use super::{Canvas, split_top};
use crate::app::CompareScreen;
use crate::format;
use crate::query::config::differences;
use crate::store::RunData;

/// Draws it; returns the lines that fit.
pub(super) fn draw(screen: &mut CompareScreen, canvas: &mut Canvas<'_>, area: Rect) -> usize {
    let metrics = screen.metrics();
    let metric = metrics
        .get(screen.metric % metrics.len().max(1))
        .cloned()
        .unwrap_or_else(|| "loss".to_owned());
    let shared: Vec<_> = screen
        .followers
        .iter()
        .map(|follower| follower.data.clone())
        .collect();
    let runs: Vec<_> = shared.iter().map(|shared| shared.read()).collect();
    let extents = || runs.iter().filter_map(|run| run.metrics.steps());
    let first = extents().map(|steps| steps.0).min().unwrap_or(0);
    let last = extents().map(|steps| steps.1).max().unwrap_or(1);
    screen.charts.extent = (first, last.max(first));
    let (theme, legend_rows) = (canvas.theme, runs.len() as u16);
    let title = format!("{} of {} runs", label(&metric), runs.len());
    heading(
        canvas,
        area,
        0,
        &title,
        if screen.charts.log { "log" } else { "" },
    );
    let [legend, rest] = split_top(split_top(area, 1)[1], legend_rows);
    for (index, run) in runs.iter().enumerate() {
        legend_line(run, index, &metric, screen, canvas, legend);
    }
    let chart_rows = (rest.height * 3 / 5).max(6);
    let [chart_area, table] = split_top(rest, chart_rows);
    let curves = runs
        .iter()
        .enumerate()
        .map(|(index, run)| Curve {
            name: String::new(),
            letter: Some(letter(index)),
            values: [run.metrics.get(&metric), run.preview.get(&metric)],
            style: theme.series(index),
            sparse: false,
        })
        .collect();
    let chart = Chart {
        curves,
        steps: screen.charts.steps(),
        log: screen.charts.log,
        weight: screen.charts.weight(),
        cursor: screen.charts.cursor,
        limit: None,
        selected: false,
        unit: Unit::of(&metric),
    };
    let (chart_area, shows_table) = if screen.charts.alone {
        (rest, false)
    } else {
        (chart_area, true)
    };
    screen.charts.plot = chart.draw(canvas, chart_area);
    if !shows_table {
        return 1;
    }
    let configs: Vec<&str> = runs.iter().map(|run| run.config.as_str()).collect();
    let told = differences(&configs);
    heading(
        canvas,
        table,
        0,
        "Settings that differ",
        &told.len().to_string(),
    );
    let body = split_top(table, 1)[1];
    let fits = usize::from(body.height);
    screen.scroll = screen.scroll.min(told.len().saturating_sub(fits));
    let width = usize::from(area.width).saturating_sub(30) / runs.len().max(1);
    for (row, (key, values)) in told.iter().skip(screen.scroll).take(fits).enumerate() {
        let mut spans = vec![Span::raw("  "), cell(key, 27, false, theme.dim)];
        for (index, value) in values.iter().enumerate() {
            let text = value.as_deref().unwrap_or("not set");
            let style = if value.is_some() {
                theme.text
            } else {
                theme.dim
            };
            spans.push(Span::styled(
                format!("{} ", letter(index)),
                theme.series(index),
            ));
            spans.push(cell(text, width.saturating_sub(3), false, style));
            spans.push(Span::raw(" "));
        }
        canvas.line(body, row as u16, Line::from(spans));
    }
    fits
}

fn letter(index: usize) -> char {
    char::from(b'a' + (index % 26) as u8)
}

fn legend_line(
    run: &RunData,
    index: usize,
    metric: &str,
    screen: &CompareScreen,
    canvas: &mut Canvas<'_>,
    area: Rect,
) {
    let theme = canvas.theme;
    let values = run.metrics.get(metric);
    let bucket = match screen.charts.cursor {
        Some(step) => values.and_then(|values| values.at(step)),
        None => values.and_then(|values| values.last()),
    };
    let unit = Unit::of(metric);
    let value = bucket.filter(|bucket| bucket.count > 0).map_or_else(
        || canvas.glyphs.none().to_owned(),
        |bucket| unit.write(f64::from(bucket.mean)),
    );
    let step = bucket.map_or_else(String::new, |bucket| {
        format!("at step {}", format::whole(bucket.last))
    });
    let state = run
        .trouble
        .clone()
        .or_else(|| run.liveness.map(|liveness| liveness.to_string()))
        .unwrap_or_default();
    let spans = vec![
        Span::styled(format!("  {} ", letter(index)), theme.series(index)),
        cell(&run.name(), 28, false, theme.text),
        cell(&value, 12, true, theme.title),
        Span::raw("  "),
        cell(&step, 20, false, theme.dim),
        Span::styled(state, theme.dim),
    ];
    canvas.line(area, index as u16, Line::from(spans));
}

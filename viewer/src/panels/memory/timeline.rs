use bellows_query::memory::{MemoryTimeline, Timeline};
use bellows_query::{RunId, Span};
use egui::{Color32, Rect, Sense, Stroke, StrokeKind, Ui, pos2, vec2};
use egui_plot::{Line, PlotPoints};

use super::super::balance::follow;
use super::super::load::{columns, facts};
use super::super::{Cx, controls};
use super::{Stack, limits, stairs};
use crate::format;
use crate::theme::Theme;
use crate::widgets::{chart, keys, line_keys};

const MINIMAP: f32 = 34.0;

/// Whether the other run is laid over.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let others: Vec<_> = cx
        .runs
        .iter()
        .filter(|run| Some(run.id) != cx.view.run)
        .cloned()
        .collect();
    if !others.is_empty() {
        ui.toggle_value(&mut cx.view.overlay, egui::RichText::new("overlay").small())
            .on_hover_text("The total of the run compared with, on the same axis");
        if cx.view.overlay {
            let mut choices: Vec<(Option<RunId>, String)> = vec![(None, "no run".to_owned())];
            choices.extend(others.iter().map(|run| (Some(run.id), run.name.clone())));
            controls::menu(
                ui,
                "The run that is laid over",
                &mut cx.view.other,
                &choices,
            );
        }
    }
    controls::caption(
        ui,
        cx.theme,
        "drag in the strip below to choose a range; click to move the cursor",
    );
}

/// The stack over the run, and its minimap.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let width = columns(ui, 64.0);
    let query = MemoryTimeline {
        run,
        span: cx.view.window(),
        columns: width,
    };
    let Some(timeline) = cx.ask(ui, &query) else {
        return;
    };
    let whole = match cx.view.range {
        None => Some(timeline.clone()),
        Some(_) => cx
            .quietly(
                1,
                &MemoryTimeline {
                    run,
                    span: Span::ALL,
                    columns: 256,
                },
            )
            .and_then(Result::ok),
    };
    let other = cx
        .view
        .other
        .filter(|other| cx.view.overlay && *other != run)
        .and_then(|other| {
            let answer = cx.quietly(
                2,
                &MemoryTimeline {
                    run: other,
                    span: cx.view.window(),
                    columns: width,
                },
            );
            Some((cx.named(other)?.name.clone(), answer?.ok()?))
        });
    let theme = cx.theme;
    let overlaid = other.as_ref().map(|(name, _)| name.as_str());
    legend(ui, theme, &timeline, overlaid, cx.view.step);
    let room = ui.available_rect_before_wrap();
    let plot_rect = Rect::from_min_max(room.min, room.max - vec2(0.0, MINIMAP + 6.0));
    let plot = ui.scope_builder(egui::UiBuilder::new().max_rect(plot_rect), |ui| {
        draw(
            ui,
            cx,
            &timeline,
            other
                .as_ref()
                .map(|(name, timeline)| (name.as_str(), &**timeline)),
        )
    });
    ui.advance_cursor_after_rect(plot_rect);
    if let Some(whole) = whole {
        let strip = Rect::from_x_y_ranges(
            plot.inner.x_range(),
            room.bottom() - MINIMAP..=room.bottom(),
        );
        minimap(ui, cx, &whole, strip);
    }
}

fn legend(ui: &mut Ui, theme: &Theme, timeline: &Timeline, overlaid: Option<&str>, step: u64) {
    ui.horizontal_wrapped(|ui| {
        keys(
            ui,
            theme,
            timeline
                .kinds
                .iter()
                .map(|kind| (theme.kind(kind), kind.as_str())),
        );
        let has = |of: fn(&bellows_query::memory::TimelineColumn) -> Option<u64>| {
            timeline.columns.iter().any(|column| of(column).is_some())
        };
        let mut lines: Vec<(Color32, &str)> = Vec::new();
        if has(|column| column.reserved) {
            lines.push((theme.text.weak.0, "reserved"));
        }
        if has(|column| column.in_use) {
            lines.push((theme.text.strong.0, "in use"));
        }
        if let Some(name) = overlaid {
            lines.push((theme.plot.range.0, name));
        }
        line_keys(ui, theme, lines.into_iter());
        let before = timeline
            .columns
            .partition_point(|column| column.first <= step);
        let under = before.checked_sub(1).map(|at| &timeline.columns[at]);
        if let Some(share) = under.and_then(|column| column.fragmentation()) {
            let text = format!("fragmentation at the cursor {}", format::percent(share));
            controls::caption(ui, theme, &text);
        }
    });
}

fn spans(timeline: &Timeline) -> Vec<(f64, f64)> {
    let columns = &timeline.columns;
    (0..columns.len())
        .map(|at| {
            let from = columns[at].first as f64;
            let to = columns
                .get(at + 1)
                .map_or(columns[at].last as f64 + 1.0, |next| next.first as f64);
            (from, to)
        })
        .collect()
}

/// Draws the plot, and says where its axes begin and end.
fn draw(
    ui: &mut Ui,
    cx: &mut Cx<'_>,
    timeline: &Timeline,
    other: Option<(&str, &Timeline)>,
) -> Rect {
    let theme = cx.theme;
    let spans = spans(timeline);
    let top = timeline
        .columns
        .iter()
        .map(|column| column.reserved.unwrap_or(0).max(column.total))
        .max()
        .unwrap_or(1) as f64;
    let (left, right) = match (spans.first(), spans.last()) {
        (Some(first), Some(last)) => (first.0, last.1),
        _ => (0.0, 1.0),
    };
    let (step, range) = (
        cx.view.step as f64,
        cx.view
            .range
            .map(|(first, last)| (first as f64, last as f64)),
    );
    let plot = chart::plot(ui, "memory", theme, format::bytes)
        .y_grid_spacer(chart::binary_grid)
        .include_y(0.0)
        // Room for what is written above the peak.
        .include_y(top * 1.08);
    let response = chart::show(ui, plot, |plot| {
        Stack {
            kinds: &timeline.kinds,
            bytes: &timeline.bytes,
        }
        .draw(plot, theme, &spans, 0.85);
        let line = |points: Vec<egui_plot::PlotPoint>| PlotPoints::Owned(points);
        plot.line(
            Line::new(
                "reserved",
                line(stairs(&spans, |at| timeline.columns[at].reserved)),
            )
            .color(theme.text.weak.0)
            .width(1.4)
            .allow_band(false),
        );
        plot.line(
            Line::new(
                "in use",
                line(stairs(&spans, |at| timeline.columns[at].in_use)),
            )
            .color(theme.text.strong.0)
            .width(1.4)
            .allow_band(false),
        );
        if let Some((name, other)) = other {
            let spans = self::spans(other);
            let total = stairs(&spans, |at| Some(other.columns[at].total));
            plot.line(
                Line::new(name, line(total))
                    .color(theme.plot.range.0)
                    .width(2.0)
                    .allow_band(false),
            );
        }
        if let Some(peak) = timeline.peak.map(|peak| &timeline.columns[peak]) {
            let at = egui_plot::PlotPoint::new(peak.at.0 as f64, peak.total as f64);
            let text = format!("  peak {}  ", format::bytes(peak.total as f64));
            let text = egui::RichText::new(text)
                .small()
                .background_color(theme.surface.panel.0.gamma_multiply(0.7));
            // Beside the cursor, and inside of the plot.
            let side = if at.x > left + 0.7 * (right - left) {
                egui::Align::RIGHT
            } else {
                egui::Align::LEFT
            };
            let text = egui_plot::Text::new("", at, text)
                .color(theme.text.strong.0)
                .anchor(chart::anchor(plot, at, side));
            plot.text(text);
            plot.points(
                egui_plot::Points::new("peak", vec![[at.x, at.y]])
                    .color(theme.text.strong.0)
                    .radius(3.0)
                    .allow_hover(false),
            );
        }
        limits(plot, theme, timeline.limit, timeline.planned, (left, top));
        chart::marks(plot, theme, step, range);
    });
    let under = response
        .response
        .hover_pos()
        .map(|pos| response.transform.value_from_position(pos).x);
    if let Some(column) = under.and_then(|x| {
        let before = timeline
            .columns
            .partition_point(|column| column.first as f64 <= x);
        timeline.columns.get(before.checked_sub(1)?)
    }) {
        let at = timeline
            .columns
            .iter()
            .position(|other| std::ptr::eq(other, column))
            .unwrap_or(0);
        let count = timeline.kinds.len();
        response.response.clone().on_hover_ui_at_pointer(|ui| {
            ui.strong(format!(
                "step {}, moment {}: {}",
                column.at.0, column.at.1, column.phase
            ));
            let mut rows = vec![("all owners", format::bytes(column.total as f64))];
            for (kind, bytes) in timeline
                .kinds
                .iter()
                .zip(&timeline.bytes[at * count..(at + 1) * count])
                .rev()
            {
                rows.push((kind.as_str(), format::bytes(*bytes as f64)));
            }
            rows.push((
                "reserved",
                column
                    .reserved
                    .map(|bytes| format::bytes(bytes as f64))
                    .unwrap_or_default(),
            ));
            rows.push((
                "in use",
                column
                    .in_use
                    .map(|bytes| format::bytes(bytes as f64))
                    .unwrap_or_default(),
            ));
            rows.push((
                "fragmentation",
                column
                    .fragmentation()
                    .map(format::percent)
                    .unwrap_or_default(),
            ));
            facts(ui, "column", &rows);
        });
    }
    follow(ui, cx, &response);
    *response.transform.frame()
}

/// The whole run small, with the range as a brush.
fn minimap(ui: &mut Ui, cx: &mut Cx<'_>, whole: &Timeline, strip: Rect) {
    let theme = cx.theme;
    let response = ui.interact(
        strip,
        ui.scope_id().with("minimap"),
        Sense::click_and_drag(),
    );
    let painter = ui.painter_at(strip);
    painter.rect_filled(strip, 4.0, theme.plot.background.0);
    let spans = spans(whole);
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return;
    };
    let (from, to) = (first.0, last.1.max(first.0 + 1.0));
    let top = whole
        .columns
        .iter()
        .map(|column| column.total)
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let x = |step: f64| strip.left() + ((step - from) / (to - from)) as f32 * strip.width();
    let stack = Stack {
        kinds: &whole.kinds,
        bytes: &whole.bytes,
    };
    for (column, (left, right)) in spans.iter().enumerate() {
        let mut below = strip.bottom();
        for (kind, edge) in stack.edges(column).enumerate() {
            let y = strip.bottom() - (edge / top) as f32 * (strip.height() - 3.0);
            let rect = Rect::from_min_max(pos2(x(*left), y), pos2(x(*right), below));
            painter.rect_filled(
                rect,
                0.0,
                theme.kind(&whole.kinds[kind]).gamma_multiply(0.55),
            );
            below = y;
        }
    }
    let step_at = |pos: egui::Pos2| {
        (from + f64::from((pos.x - strip.left()) / strip.width()).clamp(0.0, 1.0) * (to - from))
            .round() as u64
    };
    if let Some(pos) = response.interact_pointer_pos() {
        let origin = ui
            .input(|input| input.pointer.press_origin())
            .unwrap_or(pos);
        if response.dragged() && (origin.x - pos.x).abs() > 3.0 {
            let (one, other) = (step_at(origin), step_at(pos));
            cx.view.range = Some((one.min(other), one.max(other)));
        } else if response.clicked() {
            cx.view.step = step_at(pos);
        }
    }
    if response.double_clicked() {
        cx.view.range = None;
    }
    if let Some((first, last)) = cx.view.range {
        let brush = Rect::from_min_max(
            pos2(x(first as f64), strip.top()),
            pos2(x(last as f64), strip.bottom()),
        );
        painter.rect_filled(brush, 2.0, theme.plot.range.0.gamma_multiply(0.18));
        painter.rect_stroke(
            brush,
            2.0,
            Stroke::new(1.0, theme.plot.range.0),
            StrokeKind::Inside,
        );
    }
    painter.vline(
        x(cx.view.step as f64),
        strip.y_range(),
        Stroke::new(1.0, theme.plot.cursor.0),
    );
    painter.rect_stroke(
        strip,
        4.0,
        Stroke::new(1.0, theme.surface.border.0),
        StrokeKind::Inside,
    );
    response.on_hover_text("drag to select a range, double-click to clear it");
}

//! Curves of metrics.

use bellows_query::scalars::{Axis, Curves};
use egui::{Rect, RichText, Ui, UiBuilder, pos2, vec2};

use super::balance::follow;
use super::load::columns;
use super::{Cx, controls};
use crate::format;
use crate::widgets::{chart, keys};

/// Which metrics, along what, how smooth.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.run() else { return };
    let shown = chosen(cx);
    let text = match shown.len() {
        1 => shown[0].clone(),
        count => format!("{count} metrics"),
    };
    let button =
        egui::containers::menu::MenuButton::new(RichText::new(format!("{text} …")).small());
    let config = egui::containers::menu::MenuConfig::new()
        .close_behavior(egui::PopupCloseBehavior::CloseOnClickOutside);
    button.config(config).ui(ui, |ui| {
        egui::ScrollArea::vertical()
            .max_height(420.0)
            .show(ui, |ui| {
                for metric in run.metrics.iter() {
                    let mut on = shown.contains(metric);
                    if ui.checkbox(&mut on, metric.replace('_', " ")).changed() {
                        cx.view.metrics = shown.clone();
                        cx.view.metrics.retain(|other| other != metric);
                        if on {
                            cx.view.metrics.push(metric.clone());
                        }
                    }
                }
            });
    });
    let choices = Axis::ALL.map(|axis| (axis, axis.name()));
    controls::choice(ui, cx.theme, &mut cx.view.axis, &choices);
    let mut smoothing = f32::from(cx.view.smoothing) / 1000.0;
    ui.spacing_mut().slider_width = 70.0;
    let slider = egui::Slider::new(&mut smoothing, 0.0..=0.99)
        .show_value(false)
        .text("smooth");
    if ui
        .add(slider)
        .on_hover_text("Exponential moving average; the raw curve stays behind it")
        .changed()
    {
        cx.view.smoothing = (smoothing * 1000.0).round() as u16;
    }
    ui.toggle_value(&mut cx.view.log, RichText::new("log").small())
        .on_hover_text("Logarithmic axis");
    ui.toggle_value(&mut cx.view.clip, RichText::new("clip").small())
        .on_hover_text("Leave outliers out of the axis' range");
}

/// The chosen metrics; what most people look at first where none was chosen.
fn chosen(cx: &Cx<'_>) -> Vec<String> {
    if !cx.view.metrics.is_empty() {
        return cx.view.metrics.clone();
    }
    let known = cx.run().map(|run| run.metrics.clone()).unwrap_or_default();
    ["loss", "validation_loss", "grad_norm", "tokens_per_second"]
        .into_iter()
        .filter(|metric| known.iter().any(|other| other == metric))
        .map(str::to_owned)
        .collect()
}

/// A chart a metric, in a grid.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(main) = cx.need_run(ui) else { return };
    let metrics = chosen(cx);
    if cx.runs.len() > 1 {
        ui.horizontal_wrapped(|ui| {
            let names: Vec<String> = cx.runs.iter().map(|run| run.name.clone()).collect();
            keys(
                ui,
                cx.theme,
                names
                    .iter()
                    .enumerate()
                    .map(|(at, name)| (cx.theme.series(at), name.as_str())),
            );
        });
    }
    let room = ui.available_rect_before_wrap();
    let count = metrics.len().max(1);
    let across = if room.width() > room.height() * 1.2 {
        (count as f32).sqrt().ceil() as usize
    } else {
        1 + usize::from(count > 3)
    };
    let down = count.div_ceil(across);
    let size = vec2(room.width() / across as f32, room.height() / down as f32);
    // The first metric's answer is the panel's.
    for (at, metric) in metrics.iter().enumerate() {
        let corner = pos2(
            room.left() + (at % across) as f32 * size.x,
            room.top() + (at / across) as f32 * size.y,
        );
        let rect = Rect::from_min_size(corner, size).shrink2(vec2(4.0, 2.0));
        ui.scope_builder(UiBuilder::new().max_rect(rect).id_salt(metric), |ui| {
            ui.set_clip_rect(rect.intersect(ui.clip_rect()));
            one(ui, cx, at as u8, metric, main);
        });
    }
    ui.advance_cursor_after_rect(room);
}

fn one(ui: &mut Ui, cx: &mut Cx<'_>, place: u8, metric: &str, main: bellows_query::RunId) {
    let mut runs = vec![main];
    runs.extend(cx.runs.iter().map(|run| run.id).filter(|id| *id != main));
    let query = Curves {
        runs,
        metric: metric.to_owned(),
        span: bellows_query::Span::ALL,
        columns: columns(ui, 60.0),
        axis: cx.view.axis,
        smoothing: cx.view.smoothing,
        outliers: if cx.view.clip { 10 } else { 0 },
    };
    let answer = if place == 0 {
        cx.ask(ui, &query)
    } else {
        match cx.quietly(place, &query) {
            Some(Ok(answer)) => Some(answer),
            Some(Err(gap)) => {
                crate::widgets::notice(ui, cx.theme, &gap);
                None
            }
            None => None,
        }
    };
    let Some(set) = answer else { return };
    let theme = cx.theme;
    let unit = set.unit;
    let at_cursor = set.curves.first().and_then(|curve| {
        let before = curve
            .points
            .partition_point(|point| point.first <= cx.view.step);
        curve.points.get(before.checked_sub(1)?)
    });
    ui.horizontal(|ui| {
        ui.label(RichText::new(metric.replace('_', " ")).color(theme.text.strong.0));
        if let Some(point) = at_cursor {
            let value = if cx.view.smoothing > 0 {
                point.smooth
            } else {
                point.mean
            };
            let text = format!("{} {unit}", write(unit, value));
            ui.label(RichText::new(text.trim()).small().color(theme.text.weak.0));
        }
        let bad: u32 = set
            .curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|point| point.bad)
            .sum();
        if bad > 0 {
            ui.label(
                RichText::new(format!("{bad} not finite"))
                    .small()
                    .color(theme.state.bad.0),
            );
        }
    });
    let log = cx.view.log && set.least_positive.is_some();
    let look = chart::Look {
        smooth: cx.view.smoothing > 0,
        log,
        greatest: false,
    };
    let order: Vec<_> = cx.runs.iter().map(|run| run.id).collect();
    let (step, range, stepwise) = (
        cx.view.step as f64,
        cx.view
            .range
            .map(|(first, last)| (first as f64, last as f64)),
        cx.view.axis == Axis::Step,
    );
    let axis = cx.view.axis;
    let mut plot = chart::plot(ui, "curves", theme, move |value| {
        write(unit, if log { 10f64.powf(value) } else { value })
    })
    .x_axis_formatter(move |mark, _| {
        if axis == Axis::Time {
            format::number(mark.value)
        } else {
            format::count(mark.value)
        }
    });
    if stepwise {
        plot = plot
            .link_axis(egui::Id::unique("steps of curves"), [true, false])
            .link_cursor(egui::Id::unique("cursor of curves"), [true, false]);
    }
    if log {
        plot = plot.y_grid_spacer(chart::logarithmic_grid);
    } else if unit == "bytes" || unit == "B" {
        plot = plot.y_grid_spacer(chart::binary_grid);
    }
    // The range of before: when it changes, or after a double click, the axis follows; between, it is as it was zoomed.
    let memory = ui.scope_id().with((metric, "range"));
    let before: Option<(f64, f64)> = ui.data(|data| data.get_temp(memory));
    let bounds = set
        .range
        .filter(|(low, high)| high > low)
        .map(|(low, high)| {
            let value = |value: f64| {
                if log {
                    value.max(set.least_positive.unwrap_or(value)).log10()
                } else {
                    value
                }
            };
            let (low, high) = (value(low), value(high));
            let margin = (high - low) * 0.06;
            (low - margin, high + margin)
        });
    if let Some(bounds) = bounds {
        ui.data_mut(|data| data.insert_temp(memory, bounds));
    }
    let response = chart::show(ui, plot, |plot| {
        if stepwise {
            chart::marks(plot, theme, step, range);
        }
        for curve in &set.curves {
            let color = theme.series(order.iter().position(|id| *id == curve.run).unwrap_or(0));
            chart::curve(plot, &curve.name, &curve.points, color, look);
        }
        if let Some((low, high)) = bounds.filter(|_| plot.auto_bounds().y || before != bounds) {
            plot.set_plot_bounds_y(low..=high);
        }
    });
    if stepwise {
        follow(ui, cx, &response);
    }
}

fn write(unit: &str, value: f64) -> String {
    match unit {
        "bytes" | "B" => format::bytes(value),
        _ => format::number(value),
    }
}

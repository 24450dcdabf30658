//! Two runs, or two steps of one.

use bellows_query::compare::{Agreement, LoadDifference, TransitionDifference};
use bellows_query::{Gap, RunId, Scale, Span};
use egui::{RichText, Ui, UiBuilder};

use super::flow::{neighbours, pair};
use super::load::{facts, router_name, share};
use super::{Cx, controls};
use crate::format;
use crate::widgets::{self, HeatMap, chart, scale_bar};

/// What is compared with what.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    sides(ui, cx);
    controls::measure(ui, cx);
}

/// What is compared with what; choices have no measure.
pub fn agreement_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    sides(ui, cx);
}

fn sides(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.run() else { return };
    let mut choices: Vec<(Option<RunId>, String)> = vec![(None, "this run".to_owned())];
    choices.extend(
        cx.runs
            .iter()
            .filter(|other| other.id != run.id)
            .map(|other| (Some(other.id), other.name.clone())),
    );
    controls::caption(ui, cx.theme, "before:");
    controls::menu(ui, "The run before", &mut cx.view.other, &choices);
    let Some((first, last)) = cx
        .view
        .compared()
        .and_then(|(id, _)| cx.named(id)?.range())
        .or(run.range())
    else {
        return;
    };
    match cx.view.pinned {
        Some(mut step) => {
            let drag = egui::DragValue::new(&mut step)
                .range(first..=last)
                .prefix("step ");
            if ui.add(drag).changed() {
                cx.view.pinned = Some(step);
            }
            if cx.view.other.is_some() && ui.small_button("at the cursor").clicked() {
                cx.view.pinned = None;
            }
        }
        None => {
            let text = if cx.view.other.is_some() {
                "another step"
            } else {
                "choose a step"
            };
            if ui
                .small_button(text)
                .on_hover_text("Compare with the step where the cursor stands now")
                .clicked()
            {
                cx.view.pinned = Some(if cx.view.other.is_some() {
                    cx.view.step
                } else {
                    first
                });
            }
        }
    }
    let after = RichText::new(format!("after: {}, step {}", run.name, cx.view.step))
        .small()
        .color(cx.theme.text.weak.0);
    ui.label(after);
}

/// Both sides, or a notice of what to choose.
fn both(ui: &mut Ui, cx: &mut Cx<'_>) -> Option<((RunId, u64), (RunId, u64))> {
    let run = cx.need_run(ui)?;
    let Some(before) = cx.view.compared() else {
        let gap = Gap::NotRecorded {
            what: "a second side".to_owned(),
            why: "nothing is chosen to compare with".to_owned(),
            remedy: "choose a step of this run, or open another run, in the controls above"
                .to_owned(),
        };
        widgets::notice(ui, cx.theme, &gap);
        cx.gap = Some(gap);
        return None;
    };
    Some((before, (run, cx.view.step)))
}

fn name(cx: &Cx<'_>, side: (RunId, u64)) -> String {
    let name = cx
        .named(side.0)
        .map_or_else(|| "run".to_owned(), |run| run.name.clone());
    format!("{name}, step {}", side.1)
}

/// Three drawings side by side.
fn thirds(ui: &mut Ui, mut draw: impl FnMut(&mut Ui, usize)) {
    let room = ui.available_rect_before_wrap();
    let width = (room.width() - 16.0) / 3.0;
    for part in 0..3 {
        let left = room.left() + part as f32 * (width + 8.0);
        let rect = egui::Rect::from_min_size(
            egui::pos2(left, room.top()),
            egui::vec2(width, room.height()),
        );
        ui.scope_builder(UiBuilder::new().max_rect(rect).id_salt(part), |ui| {
            draw(ui, part)
        });
    }
    ui.advance_cursor_after_rect(room);
}

fn symmetric(values: &[f32]) -> Scale {
    let most = values
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .fold(0.0f32, |most, value| most.max(value.abs()));
    let most = if most > 0.0 { most } else { 1.0 };
    Scale {
        min: -most,
        max: most,
        neutral: Some(0.0),
    }
}

fn joint(one: Scale, other: Scale) -> Scale {
    Scale {
        min: one.min.min(other.min),
        max: one.max.max(other.max),
        neutral: one.neutral,
    }
}

/// Loads.
pub fn load(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some((before, after)) = both(ui, cx) else {
        return;
    };
    let side = |side: (RunId, u64)| (side.0, Span::at(side.1));
    let query = LoadDifference {
        before: side(before),
        after: side(after),
        measure: cx.view.measure,
    };
    let Some(change) = cx.ask(ui, &query) else {
        return;
    };
    let loads = cx.ramp(joint(change.before.scale(), change.after.scale()));
    let difference = cx.ramp(symmetric(&change.values));
    let measure = cx.view.measure;
    let signed = |value: f32| format!("{value:+.2}");
    ui.horizontal(|ui| {
        scale_bar(ui, cx.theme, &loads, &|value| share(measure, value));
        controls::caption(ui, cx.theme, "even shares");
        scale_bar(ui, cx.theme, &difference, &signed);
        let moved = change.moved.iter().copied().fold(0.0, f32::max);
        controls::caption(
            ui,
            cx.theme,
            &format!(
                "after − before; at most {} of a router's assignments moved",
                format::percent(moved)
            ),
        );
    });
    if before.0 != after.0 {
        let text = "Two runs: an expert's number means the same in both only if they began from the same weights.";
        controls::caption(ui, cx.theme, text);
    }
    let titles = [
        // Of the records, which the pinned step and the cursor may lie behind.
        name(cx, (before.0, change.before.steps.last)),
        name(cx, (after.0, change.after.steps.last)),
        "after − before".to_owned(),
    ];
    let routers = change.before.routers.clone();
    let chained = routers.iter().any(|router| router.iteration > 0);
    let columns = change.before.experts as usize;
    let mut chosen = None;
    thirds(ui, |ui, part| {
        let (values, ramp): (&[f32], _) = match part {
            0 => (&change.before.values, &loads),
            1 => (&change.after.values, &loads),
            _ => (&change.values, &difference),
        };
        ui.label(RichText::new(&titles[part]).color(cx.theme.text.strong.0));
        let map = HeatMap {
            name: ["before", "after", "difference"][part],
            size: (routers.len(), columns),
            values,
            ramp,
            row: &|row| router_name(routers[row], chained),
            column: &|column| column.to_string(),
            titles: (
                if chained {
                    "layer · iteration"
                } else {
                    "layer"
                },
                "expert",
            ),
            text: Some(&|row, column| {
                let value = values[row * columns + column];
                if part == 2 {
                    signed(value)
                } else {
                    share(measure, value)
                }
            }),
            breaks: &|row| row > 0 && routers[row].layer != routers[row - 1].layer,
            chosen: None,
            marker: None,
        };
        let shown = map.show(ui, cx.theme);
        if let Some((row, column)) = shown.hovered {
            let at = row * columns + column;
            shown.response.clone().on_hover_ui_at_pointer(|ui| {
                ui.strong(format!("{}, expert {column}", routers[row]));
                facts(
                    ui,
                    "change",
                    &[
                        ("before", share(measure, change.before.values[at])),
                        ("after", share(measure, change.after.values[at])),
                        ("difference", signed(change.values[at])),
                        (
                            "of the router's assignments moved",
                            change
                                .moved
                                .get(row)
                                .map(|moved| format::percent(*moved))
                                .unwrap_or_default(),
                        ),
                    ],
                );
            });
        }
        if let Some((row, column)) = shown.clicked {
            chosen = Some((routers[row], column as u32));
        }
    });
    if let Some((router, expert)) = chosen {
        cx.view.router = router;
        cx.view.expert = expert;
    }
}

/// Controls of compared transitions.
pub fn flow_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    sides(ui, cx);
    pair(ui, cx);
}

/// Transitions.
pub fn flow(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some((before, after)) = both(ui, cx) else {
        return;
    };
    let Some((from, to)) = neighbours(cx) else {
        let gap = Gap::NoSuch {
            what: "pair of routers".to_owned(),
            range: "the run has fewer than two".to_owned(),
        };
        widgets::notice(ui, cx.theme, &gap);
        cx.gap = Some(gap);
        return;
    };
    let query = TransitionDifference {
        before,
        after,
        from,
        to,
    };
    let Some(change) = cx.ask(ui, &query) else {
        return;
    };
    let most = super::flow::from_zero(&change.before.conditional)
        .max
        .max(super::flow::from_zero(&change.after.conditional).max);
    let shares = cx.ramp(Scale {
        min: 0.0,
        max: most,
        neutral: None,
    });
    let difference = cx.ramp(symmetric(&change.values));
    let signed = |value: f32| format!("{:+.0} %", value * 100.0);
    ui.horizontal(|ui| {
        scale_bar(ui, cx.theme, &shares, &format::percent);
        controls::caption(ui, cx.theme, "P(after | before)");
        scale_bar(ui, cx.theme, &difference, &signed);
        controls::caption(ui, cx.theme, "points of difference");
    });
    let titles = [
        // Of the records, which the pinned step and the cursor may lie behind.
        name(cx, (before.0, change.before.step)),
        name(cx, (after.0, change.after.step)),
        "after − before".to_owned(),
    ];
    let (rows, columns) = (change.before.rows.len(), change.before.columns.len());
    thirds(ui, |ui, part| {
        let (values, ramp): (&[f32], _) = match part {
            0 => (&change.before.conditional, &shares),
            1 => (&change.after.conditional, &shares),
            _ => (&change.values, &difference),
        };
        ui.label(RichText::new(&titles[part]).color(cx.theme.text.strong.0));
        let map = HeatMap {
            name: ["before", "after", "difference"][part],
            size: (rows, columns),
            values,
            ramp,
            row: &|row| change.before.rows[row].to_string(),
            column: &|column| change.before.columns[column].to_string(),
            titles: ("expert before", "expert after"),
            text: Some(&|row, column| {
                let value = values[row * columns + column];
                if part == 2 {
                    signed(value)
                } else {
                    format::percent(value)
                }
            }),
            breaks: &|_| false,
            chosen: None,
            marker: None,
        };
        map.show(ui, cx.theme);
    });
}

/// Agreement of two traces.
pub fn agreement(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some((before, after)) = both(ui, cx) else {
        return;
    };
    let query = Agreement { before, after };
    let Some(table) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    controls::caption(
        ui,
        theme,
        &format!(
            "{} tokens that both traces have, steps {} and {}; all choices, and first choices paler",
            format::whole(table.tokens),
            table.steps.0,
            table.steps.1
        ),
    );
    let bars = |first: bool| -> Vec<egui_plot::Bar> {
        table
            .routers
            .iter()
            .enumerate()
            .map(|(at, (router, all, one))| {
                let value = if first { *one } else { *all };
                egui_plot::Bar::new(at as f64 + if first { 0.2 } else { -0.2 }, f64::from(value))
                    .width(0.36)
                    .name(format!("layer {}", router_name(*router, true)))
            })
            .collect()
    };
    let names: Vec<String> = table
        .routers
        .iter()
        .map(|(router, ..)| router_name(*router, true))
        .collect();
    let plot = chart::plot(ui, "agreement", theme, |value| {
        format::percent(value as f32)
    })
    .include_y(0.0)
    .include_y(1.0)
    .x_axis_formatter(|mark, _| {
        let whole = (mark.value - mark.value.round()).abs() < 1e-6 && mark.value >= 0.0;
        whole
            .then(|| names.get(mark.value as usize).cloned())
            .flatten()
            .unwrap_or_default()
    });
    chart::show(ui, plot, |plot| {
        plot.bar_chart(egui_plot::BarChart::new("all choices", bars(false)).color(theme.series(0)));
        plot.bar_chart(
            egui_plot::BarChart::new("first choice", bars(true))
                .color(theme.series(0).gamma_multiply(0.5)),
        );
        chart::level(
            plot,
            "chance",
            (-0.5, f64::from(table.chance)),
            (theme.text.weak.0, theme.surface.panel.0),
            true,
        );
    });
}

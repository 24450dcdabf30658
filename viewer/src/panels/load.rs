//! Load at the cursor, and over time.

use bellows_query::RouterId;
use bellows_query::routing::{LoadOverTime, Measure, RoutingLoad};
use egui::Ui;

use super::{Cx, Panel, Request, controls};
use crate::format;
use crate::widgets::{HeatMap, scale_bar};

/// Controls of the load panel.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::measure(ui, cx);
    controls::order(ui, cx);
    let layers = cx.run().map_or(0, |run| run.shape.layers().len());
    if layers > 1 {
        let choices = [(false, "all layers"), (true, "one")];
        controls::choice(ui, cx.theme, &mut cx.view.one_layer, &choices);
        if cx.view.one_layer {
            controls::router(ui, cx);
        }
    }
}

/// How a load or a difference of loads is written.
pub fn share(measure: Measure, value: f32) -> String {
    match measure {
        Measure::Difference if value.is_finite() => format!("{value:+.2}"),
        _ => format::times(value),
    }
}

/// Layer × iteration × expert.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = RoutingLoad {
        run,
        span: cx.view.span(),
        measure: cx.view.measure,
        order: cx.view.order,
        layer: cx.view.one_layer.then_some(cx.view.router.layer),
    };
    let Some(load) = cx.ask(ui, &query) else {
        return;
    };
    let ramp = cx.ramp(load.scale());
    let columns = load.experts as usize;
    let chosen = load
        .routers
        .iter()
        .position(|router| *router == cx.view.router)
        .and_then(|row| {
            let places = load.order.get(row * columns..(row + 1) * columns)?;
            Some((
                row,
                places.iter().position(|expert| *expert == cx.view.expert)?,
            ))
        });
    let chained = load.routers.iter().any(|router| router.iteration > 0);
    let row = |row: usize| router_name(load.routers[row], chained);
    let by_number = matches!(query.order, bellows_query::routing::Order::Index);
    let column = |column: usize| column.to_string();
    let text = |row: usize, column: usize| {
        let at = row * columns + column;
        let value = share(load.measure, load.values[at]);
        if by_number {
            value
        } else {
            format!("{}: {value}", load.order[at])
        }
    };
    ui.horizontal(|ui| {
        scale_bar(ui, cx.theme, &ramp, &|value| share(load.measure, value));
        let what = match load.measure {
            Measure::Difference => "even shares, 0 where the choice follows the probability",
            _ => "even shares, 1 is balanced",
        };
        controls::caption(ui, cx.theme, what);
    });
    let map = HeatMap {
        name: "load",
        size: (load.routers.len(), columns),
        values: &load.values,
        ramp: &ramp,
        row: &row,
        column: &column,
        titles: (
            if chained {
                "layer · iteration"
            } else {
                "layer"
            },
            if by_number { "expert" } else { "place" },
        ),
        text: Some(&text),
        breaks: &|row| row > 0 && load.routers[row].layer != load.routers[row - 1].layer,
        chosen,
        marker: None,
    };
    let shown = map.show(ui, cx.theme);
    if let Some((row, column)) = shown.hovered {
        let at = row * columns + column;
        let (router, expert) = (load.routers[row], load.order[at]);
        if expert != u32::MAX {
            let health = load.health.get(row);
            shown.response.clone().on_hover_ui_at_pointer(|ui| {
                ui.strong(format!("{router}, expert {expert}"));
                facts(
                    ui,
                    "load",
                    &[
                        ("load", share(load.measure, load.values[at])),
                        ("assignments", format::whole(load.tokens[at])),
                        ("probability", format::percent(load.probability[at])),
                        (
                            "bias",
                            load.bias
                                .get(at)
                                .filter(|bias| bias.is_finite())
                                .map(|bias| format!("{bias:+.4}"))
                                .unwrap_or_default(),
                        ),
                        (
                            "router's imbalance",
                            health
                                .map(|health| format::times(health.imbalance))
                                .unwrap_or_default(),
                        ),
                        (
                            "dead experts",
                            health
                                .map(|health| health.dead.len().to_string())
                                .unwrap_or_default(),
                        ),
                    ],
                );
                ui.small("click for everything about it");
            });
        }
    }
    if let Some((row, column)) = shown.clicked {
        let expert = load.order[row * columns + column];
        if expert != u32::MAX {
            cx.view.router = load.routers[row];
            cx.view.expert = expert;
            cx.requests.push(Request::Show(Panel::Expert));
        }
    }
}

/// A router as a row's label.
pub fn router_name(router: RouterId, chained: bool) -> String {
    if chained {
        format!("{} · {}", router.layer, router.iteration)
    } else {
        router.layer.to_string()
    }
}

/// Names and values under one another; empty values are left out.
pub fn facts(ui: &mut Ui, name: &str, facts: &[(&str, String)]) {
    egui::Grid::new(name)
        .num_columns(2)
        .spacing([14.0, 2.0])
        .show(ui, |ui| {
            for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
                ui.weak(*name);
                ui.label(value);
                ui.end_row();
            }
        });
}

/// Controls of load over time.
pub fn time_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::router(ui, cx);
    controls::measure(ui, cx);
    controls::order(ui, cx);
}

/// Expert × time.
pub fn time(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = LoadOverTime {
        run,
        router: cx.view.router,
        span: cx.view.window(),
        columns: columns(ui, 80.0),
        measure: cx.view.measure,
        order: cx.view.order,
    };
    let Some(load) = cx.ask(ui, &query) else {
        return;
    };
    let ramp = cx.ramp(load.scale());
    let count = load.columns.len();
    let step = cx.view.step;
    let before = load.columns.partition_point(|column| column.first <= step);
    let marker = before.checked_sub(1).map(|at| {
        let column = load.columns[at];
        let inside = (step - column.first) as f32 / (column.last - column.first + 1).max(1) as f32;
        at as f32
            + inside.min(1.0).max(if column.first == column.last {
                0.5
            } else {
                0.0
            })
    });
    let chosen = load
        .order
        .iter()
        .position(|expert| *expert == cx.view.expert);
    let row = |row: usize| {
        let name = load.order[row].to_string();
        if Some(row) == chosen {
            format!("› {name}")
        } else {
            name
        }
    };
    let column = |column: usize| load.columns[column].first.to_string();
    ui.horizontal(|ui| {
        scale_bar(ui, cx.theme, &ramp, &|value| share(load.measure, value));
        controls::caption(ui, cx.theme, "click or drag to move the cursor");
    });
    let map = HeatMap {
        name: "load over time",
        size: (load.order.len(), count),
        values: &load.values,
        ramp: &ramp,
        row: &row,
        column: &column,
        titles: ("expert", "step"),
        text: None,
        breaks: &|_| false,
        chosen: None,
        marker,
    };
    let shown = map.show(ui, cx.theme);
    if let Some((row, column)) = shown.hovered {
        let time = load.columns[column];
        let value = load.values[row * count + column];
        let steps = if time.first == time.last {
            format!("step {}", time.first)
        } else {
            format!("steps {} to {}", time.first, time.last)
        };
        shown.response.clone().on_hover_ui_at_pointer(|ui| {
            ui.strong(format!("expert {}, {steps}", load.order[row]));
            facts(
                ui,
                "time",
                &[
                    ("mean load", share(load.measure, value)),
                    (
                        "records",
                        if time.read < time.records {
                            format!("{} of {} read", time.read, time.records)
                        } else {
                            time.records.to_string()
                        },
                    ),
                ],
            );
        });
    }
    if let Some((row, _)) = shown.clicked {
        cx.view.expert = load.order[row];
    }
    if let Some(at) = shown.dragged.filter(|_| count > 0) {
        let column = load.columns[(at as usize).min(count - 1)];
        let inside = (at.fract() * (column.last - column.first + 1) as f32) as u64;
        cx.view.step = (column.first + inside).min(column.last);
    }
}

/// How many columns of a drawing can be told apart in the room there is, less what labels take.
pub fn columns(ui: &Ui, labels: f32) -> u32 {
    let pixels = (ui.available_width() - labels) * ui.pixels_per_point();
    // Rounded, so that a resized window does not ask anew for every pixel.
    ((pixels / 2.0 / 32.0).ceil() * 32.0).clamp(32.0, 4096.0) as u32
}

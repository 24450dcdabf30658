//! Balance of routers.

use bellows_query::routing::{Balance, BalanceFigure, Health};
use egui::{RichText, Ui};
use egui_extras::Column;

use super::load::{columns, router_name};
use super::{Cx, Panel, Request, controls};
use crate::format;
use crate::widgets::{chart, keys, table_builder};

/// Controls of balance over time.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let choices = BalanceFigure::ALL.map(|figure| (figure, figure.name()));
    controls::choice(ui, cx.theme, &mut cx.view.figure, &choices);
}

/// Curves of balance, one a router.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    // Many curves lie on one another: fewer points of each say as much.
    let many = cx.run().is_some_and(|run| run.shape.routers.len() > 16);
    let columns = columns(ui, 60.0).min(if many { 192 } else { u32::MAX });
    let query = Balance {
        run,
        span: cx.view.window(),
        columns,
        figure: cx.view.figure,
    };
    let Some(balance) = cx.ask(ui, &query) else {
        return;
    };
    let chained = balance
        .curves
        .iter()
        .any(|(router, _)| router.iteration > 0);
    let names: Vec<String> = balance
        .curves
        .iter()
        .map(|(router, _)| format!("layer {}", router_name(*router, chained)))
        .collect();
    // Few routers have names and colours of their own; of many the chosen one stands out.
    let few = names.len() <= cx.theme.series.len();
    if few {
        ui.horizontal_wrapped(|ui| {
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
    let unit = |figure: BalanceFigure| {
        move |value: f64| match figure {
            BalanceFigure::Dropped => format::percent(value as f32),
            BalanceFigure::Imbalance => format::times(value as f32),
            _ => format::number(value),
        }
    };
    let (theme, step, range, chosen) = (cx.theme, cx.view.step, cx.view.range, cx.view.router);
    let plot = chart::plot(ui, "balance", theme, unit(query.figure));
    let response = chart::show(ui, plot, |plot| {
        chart::marks(
            plot,
            theme,
            step as f64,
            range.map(|(first, last)| (first as f64, last as f64)),
        );
        for (at, (router, points)) in balance.curves.iter().enumerate() {
            let color = match (few, *router == chosen) {
                (true, _) => theme.series(at),
                (false, true) => theme.state.accent.0,
                (false, false) => theme.text.weak.0.gamma_multiply(0.5),
            };
            let look = chart::Look {
                greatest: !few && *router != chosen,
                ..chart::Look::default()
            };
            chart::curve(plot, &names[at], points, color, look);
        }
    });
    follow(ui, cx, &response);
}

/// Moves cursor and range as a plot over steps was clicked and dragged.
pub fn follow(ui: &Ui, cx: &mut Cx<'_>, response: &egui_plot::PlotResponse<()>) {
    match chart::pick(ui, response) {
        Some(chart::Picked::Place(at)) => cx.view.step = at.max(0.0).round() as u64,
        Some(chart::Picked::Range(first, last)) => {
            cx.view.range = Some((first.max(0.0).round() as u64, last.max(0.0).round() as u64));
        }
        None => {}
    }
}

/// Controls of the table of routers.
pub fn health_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let window = match cx.view.range {
        Some((first, last)) => {
            format!("steps {first} to {last}: an expert is dead if it got nothing in all of them")
        }
        None => "at the cursor; select a range for a longer window".to_owned(),
    };
    controls::caption(ui, cx.theme, &window);
}

/// A row of numbers a router.
pub fn health(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = Health {
        run,
        span: cx.view.span(),
    };
    let Some(health) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let chained = health
        .routers
        .iter()
        .any(|router| router.router.iteration > 0);
    let most = health
        .routers
        .iter()
        .map(|router| router.imbalance)
        .fold(1.0, f32::max);
    let heads = [
        "router",
        "max / mean",
        "",
        "entropy",
        "dead",
        "dropped",
        "fullest",
    ];
    let height = ui.text_style_height(&egui::TextStyle::Body) + 6.0;
    let mut builder = table_builder(ui).sense(egui::Sense::click());
    for width in [64.0, 70.0, 90.0, 62.0, 50.0, 62.0] {
        builder = builder.column(Column::initial(width).clip(true));
    }
    builder
        .column(Column::remainder())
        .header(height, |mut header| {
            for head in heads {
                header.col(|ui| {
                    ui.label(RichText::new(head).small().color(theme.text.weak.0));
                });
            }
        })
        .body(|body| {
            body.rows(height, health.routers.len(), |mut row| {
                let router = &health.routers[row.index()];
                row.set_selected(router.router == cx.view.router);
                row.col(|ui| {
                    ui.label(router_name(router.router, chained));
                });
                row.col(|ui| {
                    ui.label(format::times(router.imbalance));
                });
                row.col(|ui| {
                    let part = ((router.imbalance - 1.0) / (most - 1.0).max(0.2)).clamp(0.0, 1.0);
                    bar(ui, part, theme.series(0));
                });
                row.col(|ui| {
                    ui.label(
                        router
                            .relative_entropy()
                            .map_or("–".to_owned(), |entropy| format!("{entropy:.2}")),
                    );
                });
                row.col(|ui| {
                    let count = router.dead.len();
                    let color = if count > 0 {
                        theme.state.bad.0
                    } else {
                        theme.text.normal.0
                    };
                    ui.label(RichText::new(count.to_string()).color(color));
                });
                row.col(|ui| {
                    let share = router.dropped as f32 / router.assignments.max(1) as f32;
                    ui.label(format::percent(share));
                });
                row.col(|ui| {
                    ui.label(format!("expert {}", router.fullest));
                });
                if row.response().clicked() {
                    cx.view.router = router.router;
                    cx.view.expert = router.fullest;
                    cx.requests.push(Request::Show(Panel::Expert));
                }
            });
        });
}

/// A label of a fixed width, at its left.
pub fn cell(ui: &mut Ui, width: f32, label: egui::Label) -> egui::Response {
    let layout = egui::Layout::left_to_right(egui::Align::Center);
    ui.allocate_ui_with_layout(egui::vec2(width, 18.0), layout, |ui| {
        ui.set_min_width(width);
        ui.set_max_width(width);
        ui.add(label)
    })
    .inner
}

/// A bar that fills `part` of the room.
pub fn bar(ui: &mut Ui, part: f32, color: egui::Color32) {
    let size = egui::vec2(ui.available_width() - 6.0, 8.0);
    let (rect, _) = ui.allocate_exact_size(size, egui::Sense::hover());
    let ground = ui.visuals().widgets.noninteractive.bg_stroke.color;
    ui.painter()
        .rect_filled(rect, 3.0, ground.gamma_multiply(0.6));
    let filled = egui::Rect::from_min_size(
        rect.min,
        egui::vec2(rect.width() * part.clamp(0.0, 1.0), rect.height()),
    );
    ui.painter().rect_filled(filled, 3.0, color);
}

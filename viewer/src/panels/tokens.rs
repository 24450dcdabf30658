//! The traced text.

use bellows_query::tokens::{
    ExpertTokens, Grouping, Hop, Saturation, Speciality, TokenClass, TokenPath, TracedText,
};
use bellows_query::{RouterId, Scale};
use egui::{RichText, ScrollArea, Ui};
use egui_extras::Column;

use super::balance::{bar, follow};
use super::load::{facts, router_name};
use super::{Cx, Panel, Request, controls};
use crate::app::Ink;
use crate::format;
use crate::theme::Theme;
use crate::widgets::{HeatMap, Segment, chart, keys, scale_bar, table_builder, token_text};

/// Controls of the text.
pub fn text_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::router(ui, cx);
    controls::caption(ui, cx.theme, "colour");
    let choices = [
        (Ink::Expert, "expert"),
        (Ink::Weight, "weight of one"),
        (Ink::Class, "class"),
    ];
    controls::choice(ui, cx.theme, &mut cx.view.ink, &choices);
    if cx.view.ink == Ink::Weight {
        controls::expert(ui, cx);
    }
}

/// The text.
pub fn text(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = TracedText {
        run,
        step: cx.view.step,
        router: cx.view.router,
    };
    let Some(map) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let k = map.k as usize;
    legend(ui, cx, map.experts);
    let most = map
        .weights
        .iter()
        .copied()
        .filter(|weight| weight.is_finite())
        .fold(0.0, f32::max);
    let weights = cx.ramp(Scale {
        min: 0.0,
        max: if most > 0.0 { most } else { 1.0 },
        neutral: None,
    });
    let (ink, expert, chosen) = (cx.view.ink, cx.view.expert, cx.view.token);
    let ground = |token: usize| match ink {
        Ink::Expert => {
            let first = map.chosen.get(token * k).copied().unwrap_or(u32::MAX);
            if first == u32::MAX {
                theme.plot.missing.0
            } else {
                theme.tint(
                    theme.series(first as usize),
                    if theme.dark { 0.62 } else { 0.5 },
                )
            }
        }
        Ink::Weight => (0..k)
            .find(|slot| map.chosen[token * k + slot] == expert)
            .map_or(theme.plot.missing.0, |slot| {
                weights.color(map.weights[token * k + slot])
            }),
        Ink::Class => theme.tint(
            class_color(theme, map.tokens[token].class),
            if theme.dark { 0.55 } else { 0.4 },
        ),
    };
    let mut hovered = None;
    let area = ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.spacing_mut().item_spacing.y = 4.0;
        for sequence in &map.sequences {
            let tokens = sequence.first..sequence.first + sequence.tokens;
            ui.add_space(4.0);
            ui.label(
                RichText::new(&sequence.source)
                    .small()
                    .color(theme.text.weak.0),
            );
            let segments: Vec<Segment<'_>> = tokens
                .clone()
                .map(|token| {
                    let cell = &map.tokens[token];
                    let ground = ground(token);
                    Segment {
                        text: &cell.text,
                        ground,
                        ink: theme.on(ground),
                        framed: chosen == (cell.sequence, cell.position),
                    }
                })
                .collect();
            let shown = token_text(ui, theme, &segments);
            if let Some(at) = shown.hovered {
                hovered = Some((sequence.first + at, shown.response));
            }
        }
    });
    _ = area;
    let Some((token, response)) = hovered else {
        return;
    };
    let cell = &map.tokens[token];
    if response.clicked() {
        cx.view.token = (cell.sequence, cell.position);
        if let Some(first) = map
            .chosen
            .get(token * k)
            .filter(|expert| **expert != u32::MAX)
        {
            cx.view.expert = *first;
        }
        cx.requests.push(Request::Show(Panel::TokenPath));
    }
    response.on_hover_ui_at_pointer(|ui| {
        ui.label(
            RichText::new(format::token(&cell.text))
                .monospace()
                .strong(),
        );
        ui.small(format!("{}, position {}", cell.class.name(), cell.position));
        for slot in 0..k {
            let (expert, weight) = (map.chosen[token * k + slot], map.weights[token * k + slot]);
            if expert == u32::MAX {
                continue;
            }
            ui.horizontal(|ui| {
                keys(
                    ui,
                    theme,
                    std::iter::once((
                        theme.series(expert as usize),
                        format!("expert {expert}").as_str(),
                    )),
                );
                ui.label(format!("{weight:.3}"));
            });
        }
    });
}

fn legend(ui: &mut Ui, cx: &Cx<'_>, experts: u32) {
    let theme = cx.theme;
    match cx.view.ink {
        Ink::Expert => {
            let names: Vec<String> = (0..experts.min(32))
                .map(|expert| expert.to_string())
                .collect();
            ui.horizontal_wrapped(|ui| {
                controls::caption(ui, theme, "first expert");
                keys(
                    ui,
                    theme,
                    names
                        .iter()
                        .enumerate()
                        .map(|(at, name)| (theme.series(at), name.as_str())),
                );
            });
        }
        Ink::Class => {
            ui.horizontal_wrapped(|ui| {
                keys(
                    ui,
                    theme,
                    TokenClass::ALL
                        .into_iter()
                        .map(|class| (class_color(theme, class), class.name())),
                );
            });
        }
        Ink::Weight => controls::caption(ui, theme, "tokens that chose the expert, by its weight"),
    }
}

fn class_color(theme: &Theme, class: TokenClass) -> egui::Color32 {
    let at = TokenClass::ALL
        .iter()
        .position(|other| *other == class)
        .unwrap_or(0);
    theme.series(at)
}

/// Controls of a token's path.
pub fn path_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let (mut sequence, mut position) = cx.view.token;
    ui.add(
        egui::DragValue::new(&mut sequence)
            .prefix("sequence ")
            .speed(0.05),
    );
    ui.add(
        egui::DragValue::new(&mut position)
            .prefix("position ")
            .speed(0.2),
    );
    cx.view.token = (sequence, position);
    controls::caption(ui, cx.theme, "or click a token of the text");
}

/// A token's path.
pub fn path(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let (sequence, position) = cx.view.token;
    let query = TokenPath {
        run,
        step: cx.view.step,
        sequence,
        position,
    };
    let Some(path) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 0.0;
        let (before, after) = &path.context;
        ui.label(
            RichText::new(format::token(before))
                .monospace()
                .color(theme.text.weak.0),
        );
        let ground = theme.surface.selected.0;
        ui.label(
            RichText::new(format::token(&path.token.text))
                .monospace()
                .strong()
                .background_color(ground),
        );
        ui.label(
            RichText::new(format::token(after))
                .monospace()
                .color(theme.text.weak.0),
        );
    });
    ui.add_space(4.0);
    let height = ui.text_style_height(&egui::TextStyle::Body) + 8.0;
    let chained = path.hops.iter().any(|hop| hop.router.iteration > 0);
    let mut target = None;
    table_builder(ui)
        .column(Column::initial(74.0))
        .column(Column::remainder().clip(true))
        .body(|body| {
            body.rows(height, path.hops.len(), |mut row| {
                let hop = &path.hops[row.index()];
                row.set_selected(hop.router == cx.view.router);
                row.col(|ui| {
                    ui.label(
                        RichText::new(format!("layer {}", router_name(hop.router, chained)))
                            .color(theme.text.weak.0),
                    );
                });
                row.col(|ui| {
                    if let Some(expert) = slots(ui, theme, hop) {
                        target = Some((hop.router, expert));
                    }
                });
            });
        });
    if let Some((router, expert)) = target {
        cx.view.router = router;
        cx.view.expert = expert;
        cx.requests.push(Request::Show(Panel::Expert));
    }
}

/// The experts of a hop as parts of a bar, by weight; the one that was clicked.
fn slots(ui: &mut Ui, theme: &Theme, hop: &Hop) -> Option<u32> {
    let total: f32 = hop.chosen.iter().map(|(_, weight)| weight.max(0.0)).sum();
    let (bar, response) = ui.allocate_exact_size(
        egui::vec2(ui.available_width() - 6.0, 18.0),
        egui::Sense::click(),
    );
    let font = egui::TextStyle::Small.resolve(ui.style());
    let pointer = response.hover_pos();
    let mut left = bar.left();
    let mut under = None;
    for (expert, weight) in &hop.chosen {
        let width = bar.width() * weight.max(0.0) / total.max(1e-9);
        let rect =
            egui::Rect::from_min_size(egui::pos2(left, bar.top()), egui::vec2(width, bar.height()));
        let inner = rect.shrink2(egui::vec2(1.0, 0.0));
        let color = theme.series(*expert as usize);
        ui.painter().rect_filled(inner, 4.0, color);
        let text = if width > 62.0 {
            format!("{expert}  {weight:.2}")
        } else {
            expert.to_string()
        };
        ui.painter()
            .with_clip_rect(inner.intersect(ui.clip_rect()))
            .text(
                rect.center(),
                egui::Align2::CENTER_CENTER,
                text,
                font.clone(),
                theme.on(color),
            );
        if pointer.is_some_and(|pos| rect.contains(pos)) {
            under = Some((*expert, *weight));
        }
        left += width;
    }
    let (expert, weight) = under?;
    let clicked = response.clicked();
    response.on_hover_text(format!(
        "expert {expert} of {}, weight {weight:.4}",
        hop.experts
    ));
    clicked.then_some(expert)
}

/// Controls of specialities.
pub fn speciality_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::router(ui, cx);
    controls::caption(ui, cx.theme, "by");
    let choices = Grouping::ALL.map(|group| (group, group.name()));
    controls::choice(ui, cx.theme, &mut cx.view.group, &choices);
}

/// Groups × experts.
pub fn speciality(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = Speciality {
        run,
        step: cx.view.step,
        router: cx.view.router,
        group: cx.view.group,
    };
    let Some(map) = cx.ask(ui, &query) else {
        return;
    };
    let ramp = cx.ramp(Scale {
        min: 0.0,
        max: 3.0,
        neutral: Some(1.0),
    });
    let columns = map.experts as usize;
    ui.horizontal(|ui| {
        scale_bar(ui, cx.theme, &ramp, &format::times);
        let told = format!(
            "lift over the base rate; the expert tells {} of the group",
            format::percent(map.relative_information as f32)
        );
        controls::caption(ui, cx.theme, &told);
    });
    let row = |row: usize| {
        let (name, count) = &map.groups[row];
        let mut name = format::token(name);
        if let Some((end, _)) = name.char_indices().nth(18) {
            name.truncate(end);
            name.push('…');
        }
        match map.repeated.get(row) {
            Some(share) if share.is_finite() => {
                format!("{name}  ({count}, {} again)", format::percent(*share))
            }
            _ => format!("{name}  ({count})"),
        }
    };
    let heat = HeatMap {
        name: "speciality",
        size: (map.groups.len(), columns),
        values: &map.lift,
        ramp: &ramp,
        row: &row,
        column: &|column| column.to_string(),
        titles: ("", "expert"),
        text: Some(&|row, column| format::times(map.lift[row * columns + column])),
        breaks: &|_| false,
        chosen: None,
        marker: None,
    };
    let shown = heat.show(ui, cx.theme);
    if let Some((row, column)) = shown.hovered {
        let at = row * columns + column;
        let (name, of) = &map.groups[row];
        shown.response.clone().on_hover_ui_at_pointer(|ui| {
            ui.strong(format!("{} at expert {column}", format::token(name)));
            facts(
                ui,
                "lift",
                &[
                    ("lift", format::times(map.lift[at])),
                    (
                        "tokens",
                        format!(
                            "{} of {}",
                            format::whole(map.counts[at]),
                            format::whole(*of)
                        ),
                    ),
                    (
                        "chosen again in the next iteration",
                        map.repeated
                            .get(row)
                            .map(|share| format::percent(*share))
                            .unwrap_or_default(),
                    ),
                ],
            );
        });
    }
    if let Some((_, column)) = shown.clicked {
        cx.view.expert = column as u32;
        cx.requests.push(Request::Show(Panel::TokensTop));
    }
}

/// Controls of one expert's tokens.
pub fn top_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::router(ui, cx);
    controls::expert(ui, cx);
    let choices = Grouping::ALL.map(|group| (group, group.name()));
    controls::choice(ui, cx.theme, &mut cx.view.group, &choices);
}

/// One expert's tokens by lift.
pub fn top(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = ExpertTokens {
        run,
        step: cx.view.step,
        router: cx.view.router,
        expert: cx.view.expert,
        group: cx.view.group,
        at_least: if cx.view.group == Grouping::Token {
            5
        } else {
            1
        },
    };
    let Some(list) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let most = list.rows.iter().map(|row| row.lift).fold(1.0, f32::max);
    let height = ui.text_style_height(&egui::TextStyle::Body) + 6.0;
    table_builder(ui)
        .column(Column::initial(150.0).clip(true).resizable(true))
        .column(Column::initial(56.0))
        .column(Column::initial(120.0))
        .column(Column::remainder())
        .header(height, |mut header| {
            for head in [list.group.name(), "lift", "", "tokens"] {
                header.col(|ui| {
                    ui.label(RichText::new(head).small().color(theme.text.weak.0));
                });
            }
        })
        .body(|body| {
            body.rows(height, list.rows.len(), |mut row| {
                let lift = &list.rows[row.index()];
                row.col(|ui| {
                    ui.label(RichText::new(format::token(&lift.label)).monospace());
                });
                row.col(|ui| {
                    ui.label(format::times(lift.lift));
                });
                row.col(|ui| bar(ui, lift.lift / most, theme.series(2)));
                row.col(|ui| {
                    ui.label(
                        RichText::new(format!("{} of {}", lift.count, lift.of))
                            .color(theme.text.weak.0),
                    );
                });
            });
        });
}

/// Controls of saturation.
pub fn saturation_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let choices = [(false, "all layers"), (true, "one")];
    controls::choice(ui, cx.theme, &mut cx.view.one_layer, &choices);
    if cx.view.one_layer {
        controls::router(ui, cx);
    }
}

/// Agreement of each trace with the last one.
pub fn saturation(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = Saturation {
        run,
        layer: cx.view.one_layer.then_some(cx.view.router.layer),
    };
    let Some(curves) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let (step, range, chosen) = (
        cx.view.step as f64,
        cx.view
            .range
            .map(|(first, last)| (first as f64, last as f64)),
        cx.view.router,
    );
    let points = |values: &[f32]| -> egui_plot::PlotPoints<'static> {
        curves
            .steps
            .iter()
            .zip(values)
            .filter(|(_, value)| value.is_finite())
            .map(|(step, value)| [*step as f64, f64::from(*value)])
            .collect()
    };
    let name = |router: RouterId| format!("layer {}", router_name(router, true));
    let few = curves.agreement.len() <= theme.series.len();
    if few {
        ui.horizontal_wrapped(|ui| {
            let names: Vec<String> = curves
                .agreement
                .iter()
                .map(|(router, _)| name(*router))
                .collect();
            keys(
                ui,
                theme,
                names
                    .iter()
                    .enumerate()
                    .map(|(at, name)| (theme.series(at), name.as_str())),
            );
            keys(ui, theme, std::iter::once((theme.text.strong.0, "mean")));
        });
    }
    let plot = chart::plot(ui, "saturation", theme, |value| {
        format::percent(value as f32)
    })
    .include_y(0.0)
    .include_y(1.0);
    let response = chart::show(ui, plot, |plot| {
        chart::marks(plot, theme, step, range);
        for (at, (router, values)) in curves.agreement.iter().enumerate() {
            let color = match (few, *router == chosen) {
                (true, _) => theme.series(at),
                (false, true) => theme.state.accent.0,
                (false, false) => theme.text.weak.0.gamma_multiply(0.4),
            };
            plot.line(
                egui_plot::Line::new(name(*router), points(values))
                    .color(color)
                    .width(1.2),
            );
        }
        plot.line(
            egui_plot::Line::new("mean", points(&curves.mean))
                .color(theme.text.strong.0)
                .width(2.0),
        );
        let left = curves.steps.first().map_or(0.0, |step| *step as f64);
        chart::level(
            plot,
            "chance",
            (left, f64::from(curves.chance)),
            (theme.text.weak.0, theme.surface.panel.0),
            true,
        );
    });
    follow(ui, cx, &response);
}

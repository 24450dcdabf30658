//! Which expert follows which.

use bellows_query::flow::{Combinations, FlowStrength, Revisits, Sankey, SankeyPath, Transitions};
use bellows_query::{RouterId, Scale};
use egui::{RichText, Ui};
use egui_extras::Column;

use super::balance::{bar, cell};
use super::load::{facts, router_name};
use super::{Cx, Panel, Request, controls};
use crate::app::{FlowPath, FlowValue};
use crate::format;
use crate::widgets::{Flow, FlowLink, FlowNode, HeatMap, scale_bar, table_builder};

/// Controls of the streams.
pub fn sankey_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.run() else { return };
    let layers = run.shape.layers();
    let chained = layers.iter().any(|layer| run.shape.iterations(*layer) > 1);
    let mut choices = vec![
        (FlowPath::Next, "to the next layer"),
        (FlowPath::All, "all layers"),
    ];
    if chained {
        choices.insert(0, (FlowPath::Iterations, "iterations"));
    } else if cx.view.path == FlowPath::Iterations {
        cx.view.path = FlowPath::Next;
    }
    controls::choice(ui, cx.theme, &mut cx.view.path, &choices);
    if cx.view.path != FlowPath::All {
        let names: Vec<(u32, String)> = layers
            .iter()
            .map(|layer| (*layer, format!("layer {layer}")))
            .collect();
        controls::menu(ui, "Layer", &mut cx.view.router.layer, &names);
    }
    let most = run
        .shape
        .routers
        .iter()
        .map(|(_, experts)| *experts)
        .max()
        .unwrap_or(1);
    if most > 4 {
        let count = egui::DragValue::new(&mut cx.view.sankey_experts)
            .range(2..=most.min(64))
            .speed(0.1)
            .suffix(" experts");
        ui.add(count)
            .on_hover_text("How many experts a stage shows by themselves, the fullest");
    }
}

/// The streams.
pub fn sankey(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let layers = cx.run().map(|run| run.shape.layers()).unwrap_or_default();
    let path = cx.view.sankey_path(&layers);
    let query = Sankey {
        run,
        step: cx.view.step,
        path,
        experts: cx.view.sankey_experts,
    };
    let Some(diagram) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let short = diagram.stages.len() > 6;
    let nodes: Vec<FlowNode> = diagram
        .nodes
        .iter()
        .map(|node| FlowNode {
            stage: node.stage as usize,
            name: match node.expert {
                Some(expert) if short => expert.to_string(),
                Some(expert) => format!("{expert}  {}", format::percent(node.share)),
                None => format!("{} more", node.experts),
            },
            share: node.share,
            color: node
                .expert
                .map_or(theme.text.weak.0, |expert| theme.series(expert as usize)),
        })
        .collect();
    // Streams above chance stand out.
    let links: Vec<FlowLink> = diagram
        .links
        .iter()
        .map(|link| FlowLink {
            nodes: (link.from as usize, link.to as usize),
            share: link.share,
            strength: ((link.lift - 0.8) / 1.2).clamp(0.0, 1.0),
        })
        .collect();
    let single = matches!(path, SankeyPath::Iterations { .. });
    let stages: Vec<String> = diagram
        .stages
        .iter()
        .map(|router| {
            if single {
                format!("iteration {}", router.iteration)
            } else {
                router_name(*router, true)
            }
        })
        .collect();
    let chosen = diagram.nodes.iter().position(|node| {
        diagram.stages[node.stage as usize] == cx.view.router && node.expert == Some(cx.view.expert)
    });
    let shown = Flow {
        nodes: &nodes,
        links: &links,
        stages: &stages,
        chosen,
    }
    .show(ui, theme);
    let name = |node: usize| {
        let node = &diagram.nodes[node];
        let router = diagram.stages[node.stage as usize];
        match node.expert {
            Some(expert) => format!("{router}, expert {expert}"),
            None => format!("{router}, {} other experts", node.experts),
        }
    };
    if let Some(node) = shown.node {
        shown.response.clone().on_hover_ui_at_pointer(|ui| {
            ui.strong(name(node));
            ui.label(format!(
                "{} of the pairs",
                format::percent(diagram.nodes[node].share)
            ));
        });
        if let (true, Some(expert)) = (shown.response.clicked(), diagram.nodes[node].expert) {
            cx.view.router = diagram.stages[diagram.nodes[node].stage as usize];
            cx.view.expert = expert;
            cx.requests.push(Request::Show(Panel::Expert));
        }
    }
    if let Some(link) = shown.link.map(|link| &diagram.links[link]) {
        shown.response.on_hover_ui_at_pointer(|ui| {
            ui.strong(format!(
                "{}\n→ {}",
                name(link.from as usize),
                name(link.to as usize)
            ));
            facts(
                ui,
                "stream",
                &[
                    ("of all pairs", format::percent(link.share)),
                    ("P(after | before)", format::percent(link.conditional)),
                    ("against chance", format::times(link.lift)),
                ],
            );
        });
    }
}

/// The router after the chosen one; the one before where it is the last.
pub fn neighbours(cx: &Cx<'_>) -> Option<(RouterId, RouterId)> {
    let run = cx.run()?;
    let from = cx.view.router;
    match run.shape.after(from) {
        Some(to) => Some((from, to)),
        None => {
            let at = run
                .shape
                .routers
                .iter()
                .position(|(router, _)| *router == from)?;
            let before = run.shape.routers.get(at.checked_sub(1)?)?.0;
            Some((before, from))
        }
    }
}

/// Which pair of routers.
pub fn pair(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.run() else { return };
    let Some((from, _)) = neighbours(cx) else {
        return;
    };
    let names: Vec<(RouterId, String)> = run
        .shape
        .routers
        .windows(2)
        .map(|pair| {
            let (from, to) = (pair[0].0, pair[1].0);
            let name = if from.layer == to.layer {
                format!(
                    "layer {}: iteration {} → {}",
                    from.layer, from.iteration, to.iteration
                )
            } else {
                format!("layer {} → layer {}", from.layer, to.layer)
            };
            (from, name)
        })
        .collect();
    let mut chosen = from;
    controls::menu(ui, "Between which routers", &mut chosen, &names);
    if chosen != from {
        cx.view.router = chosen;
    }
}

/// Controls of the matrix.
pub fn matrix_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    pair(ui, cx);
    let choices = [
        (FlowValue::Conditional, "P(after | before)"),
        (FlowValue::Lift, "against independence"),
        (FlowValue::Count, "pairs"),
    ];
    controls::choice(ui, cx.theme, &mut cx.view.flow, &choices);
    controls::order(ui, cx);
}

/// The matrix.
pub fn matrix(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let Some((from, to)) = neighbours(cx) else {
        let query = FlowStrength {
            run,
            step: cx.view.step,
        };
        // There are not two routers: the store says why.
        _ = cx.ask(ui, &query);
        return;
    };
    let query = Transitions {
        run,
        step: cx.view.step,
        from,
        to,
        order: cx.view.order,
    };
    let Some(flow) = cx.ask(ui, &query) else {
        return;
    };
    let (rows, columns) = (flow.rows.len(), flow.columns.len());
    let counts: Vec<f32>;
    let (values, scale): (&[f32], Scale) = match cx.view.flow {
        FlowValue::Conditional => (&flow.conditional, from_zero(&flow.conditional)),
        FlowValue::Lift => {
            let most = flow
                .lift
                .iter()
                .copied()
                .filter(|lift| lift.is_finite())
                .fold(2.0, f32::max);
            (
                &flow.lift,
                Scale {
                    min: 0.0,
                    max: most.min(4.0),
                    neutral: Some(1.0),
                },
            )
        }
        FlowValue::Count => {
            counts = flow.counts.iter().map(|count| *count as f32).collect();
            (&counts, from_zero(&counts))
        }
    };
    let shown_as = cx.view.flow;
    let write = move |value: f32| match shown_as {
        FlowValue::Conditional => format::percent(value),
        FlowValue::Lift => format::times(value),
        FlowValue::Count => format::count(f64::from(value)),
    };
    let ramp = cx.ramp(scale);
    ui.horizontal(|ui| {
        scale_bar(ui, cx.theme, &ramp, &write);
        let told = format!(
            "{:.3} nats, {} of what could be told",
            flow.mutual_information,
            format::percent(flow.relative_information as f32)
        );
        controls::caption(ui, cx.theme, &told);
    });
    let titles = (
        format!("expert of {}", brief(from)),
        format!("expert of {}", brief(to)),
    );
    let map = HeatMap {
        name: "flow",
        size: (rows, columns),
        values,
        ramp: &ramp,
        row: &|row| flow.rows[row].to_string(),
        column: &|column| flow.columns[column].to_string(),
        titles: (&titles.0, &titles.1),
        text: Some(&|row, column| write(values[row * columns + column])),
        breaks: &|_| false,
        chosen: None,
        marker: None,
    };
    let shown = map.show(ui, cx.theme);
    if let Some((row, column)) = shown.hovered {
        let at = row * columns + column;
        shown.response.clone().on_hover_ui_at_pointer(|ui| {
            ui.strong(format!(
                "expert {} → expert {}",
                flow.rows[row], flow.columns[column]
            ));
            facts(
                ui,
                "flow",
                &[
                    ("P(after | before)", format::percent(flow.conditional[at])),
                    ("P(after)", format::percent(flow.independent[column])),
                    ("against independence", format::times(flow.lift[at])),
                    ("pairs", format::whole(flow.counts[at])),
                ],
            );
        });
    }
    if let Some((row, _)) = shown.clicked {
        cx.view.router = from;
        cx.view.expert = flow.rows[row];
        cx.requests.push(Request::Show(Panel::Expert));
    }
}

fn brief(router: RouterId) -> String {
    format!("layer {}, iteration {}", router.layer, router.iteration)
}

/// A scale from zero to the largest value.
pub fn from_zero(values: &[f32]) -> Scale {
    let most = values
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .fold(0.0, f32::max);
    Scale {
        min: 0.0,
        max: if most > 0.0 { most } else { 1.0 },
        neutral: None,
    }
}

/// A panel without controls: it says where the cursor stands.
pub fn plain_controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let text = format!("at step {}", cx.view.step);
    controls::caption(ui, cx.theme, &text);
}

/// How much each router tells about the next one.
pub fn strength(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = FlowStrength {
        run,
        step: cx.view.step,
    };
    let Some(table) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let most = table
        .pairs
        .iter()
        .map(|pair| pair.relative_information)
        .fold(0.01, f64::max);
    let height = ui.text_style_height(&egui::TextStyle::Body) + 6.0;
    table_builder(ui)
        .sense(egui::Sense::click())
        .column(Column::initial(92.0))
        .column(Column::initial(52.0))
        .column(Column::initial(70.0).at_least(40.0))
        .column(Column::remainder().clip(true))
        .header(height, |mut header| {
            for head in ["from → to", "told", "", "strongest pair"] {
                header.col(|ui| {
                    ui.label(RichText::new(head).small().color(theme.text.weak.0));
                });
            }
        })
        .body(|body| {
            body.rows(height, table.pairs.len(), |mut row| {
                let pair = &table.pairs[row.index()];
                row.set_selected(pair.from == cx.view.router);
                row.col(|ui| {
                    ui.label(format!(
                        "{} → {}",
                        router_name(pair.from, true),
                        router_name(pair.to, true)
                    ));
                });
                row.col(|ui| {
                    ui.label(format::percent(pair.relative_information as f32));
                });
                row.col(|ui| {
                    bar(
                        ui,
                        (pair.relative_information / most) as f32,
                        theme.series(2),
                    )
                });
                row.col(|ui| {
                    let (before, after) = pair.strongest;
                    ui.label(format!("{before} → {after}, {}", format::times(pair.lift)));
                });
                if row.response().clicked() {
                    cx.view.router = pair.from;
                    cx.requests.push(Request::Show(Panel::FlowMatrix));
                }
            });
        });
}

/// The share of tokens that an expert sees again.
pub fn revisits(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = Revisits {
        run,
        step: cx.view.step,
    };
    let Some(table) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let most = table
        .layers
        .iter()
        .flat_map(|layer| [layer.share, layer.chance])
        .fold(0.01, f32::max);
    egui::ScrollArea::vertical()
        .auto_shrink(false)
        .show(ui, |ui| {
            for layer in &table.layers {
                ui.horizontal(|ui| {
                    let name = format!(
                        "layer {}: {} → {}",
                        layer.from.layer, layer.from.iteration, layer.to.iteration
                    );
                    cell(ui, 96.0, egui::Label::new(name));
                    let color = if layer.share >= layer.chance {
                        theme.series(2)
                    } else {
                        theme.series(1)
                    };
                    cell(
                        ui,
                        40.0,
                        egui::Label::new(RichText::new(format::percent(layer.share)).strong()),
                    );
                    let size = egui::vec2((ui.available_width() - 96.0).max(30.0), 12.0);
                    let (rect, response) = ui.allocate_exact_size(size, egui::Sense::hover());
                    let at =
                        |share: f32| rect.left() + rect.width() * (share / most).clamp(0.0, 1.0);
                    ui.painter().rect_filled(rect, 3.0, theme.surface.raised.0);
                    let filled = egui::Rect::from_min_max(
                        rect.min,
                        egui::pos2(at(layer.share), rect.bottom()),
                    );
                    ui.painter().rect_filled(filled, 3.0, color);
                    ui.painter().vline(
                        at(layer.chance),
                        rect.expand(2.0).y_range(),
                        egui::Stroke::new(2.0, theme.plot.cursor.0),
                    );
                    response.on_hover_text(if layer.traced {
                        "counted over the traced tokens"
                    } else {
                        "counted over all tokens of the step"
                    });
                    controls::caption(
                        ui,
                        theme,
                        &format!("chance {}", format::percent(layer.chance)),
                    );
                });
                experts_strip(ui, cx, layer);
                ui.add_space(4.0);
            }
            controls::caption(ui, theme, "strips: the share by expert, from none to all");
        });
}

fn experts_strip(ui: &mut Ui, cx: &Cx<'_>, layer: &bellows_query::flow::LayerRevisits) {
    let count = layer.experts.len();
    if count == 0 {
        return;
    }
    let ramp = cx.ramp(Scale {
        min: 0.0,
        max: 1.0,
        neutral: None,
    });
    let (rect, response) =
        ui.allocate_exact_size(egui::vec2(ui.available_width(), 12.0), egui::Sense::hover());
    let width = rect.width() / count as f32;
    for (expert, share) in layer.experts.iter().enumerate() {
        let cell = egui::Rect::from_min_size(
            rect.min + egui::vec2(expert as f32 * width, 0.0),
            egui::vec2(
                (width - if width > 4.0 { 1.0 } else { 0.0 }).max(0.5),
                rect.height(),
            ),
        );
        ui.painter().rect_filled(cell, 0.0, ramp.color(*share));
    }
    if let Some(pos) = response.hover_pos() {
        let expert = (((pos.x - rect.left()) / width) as usize).min(count - 1);
        response.on_hover_text(format!(
            "expert {expert}: {}",
            format::percent(layer.experts[expert])
        ));
    }
}

/// How many combinations of experts are used.
pub fn combinations(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = Combinations {
        run,
        step: cx.view.step,
    };
    let Some(table) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let possible = |log: f64| {
        if log < 6.0 {
            format::whole(10f64.powf(log).round() as u64)
        } else {
            format!("10^{log:.1}")
        }
    };
    egui::ScrollArea::vertical()
        .auto_shrink(false)
        .show(ui, |ui| {
            controls::caption(
                ui,
                theme,
                &format!(
                    "of {} traced tokens at step {}",
                    format::whole(table.tokens),
                    table.step
                ),
            );
            for layer in &table.layers {
                ui.horizontal_wrapped(|ui| {
                    ui.label(RichText::new(format!("layer {}", layer.layer)).strong());
                    for (iteration, sets) in layer.sets.iter().enumerate() {
                        ui.label(format!(
                            "it. {iteration}: {} of {} sets",
                            format::whole(*sets),
                            possible(layer.possible_sets_log10)
                        ));
                    }
                });
                ui.horizontal_wrapped(|ui| {
                    ui.label(format!(
                        "chains: {} of {}",
                        format::whole(layer.chains),
                        possible(layer.possible_chains_log10)
                    ));
                    let weak = RichText::new(format!(
                        "as diverse as {:.0} equally frequent ones",
                        layer.effective_chains
                    ))
                    .color(theme.text.weak.0);
                    ui.label(weak);
                });
                for (chain, share) in layer.top.iter().take(3) {
                    let text: Vec<String> = chain
                        .iter()
                        .map(|set| set.iter().map(u32::to_string).collect::<Vec<_>>().join("+"))
                        .collect();
                    ui.horizontal(|ui| {
                        ui.add_space(12.0);
                        ui.label(
                            RichText::new(text.join("  →  "))
                                .monospace()
                                .color(theme.text.normal.0),
                        );
                        ui.label(
                            RichText::new(format::percent(*share))
                                .small()
                                .color(theme.text.weak.0),
                        );
                    });
                }
                ui.add_space(6.0);
            }
        });
}

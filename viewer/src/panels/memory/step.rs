use bellows_query::memory::{Foretold, MemoryStep, StepLedger};
use egui::{Align2, Rect, Stroke, Ui, pos2};
use egui_plot::{Line, PlotPoints};

use super::super::load::facts;
use super::super::{Cx, Panel, Request, controls};
use super::{Stack, hatch, limits, pointer, stairs};
use crate::app::Moment;
use crate::format;
use crate::widgets::{chart, keys, line_keys};

/// Which moment is chosen.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let text = match cx.view.moment {
        Moment::Chosen(moment) => format!("moment {moment} of the record at step {}", cx.view.step),
        _ => format!(
            "the record at step {}; click a moment to see its owners",
            cx.view.step
        ),
    };
    controls::caption(ui, cx.theme, &text);
}

/// The stack within the step, phases above it.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = MemoryStep {
        run,
        step: cx.view.step,
    };
    let Some(ledger) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let parts = parts(&ledger);
    ui.horizontal_wrapped(|ui| {
        keys(
            ui,
            theme,
            ledger
                .kinds
                .iter()
                .map(|kind| (theme.kind(kind), kind.as_str())),
        );
        let mut lines = Vec::new();
        if ledger
            .moments
            .iter()
            .any(|moment| moment.reserved.is_some())
        {
            lines.push((theme.text.weak.0, "reserved"));
        }
        if ledger.moments.iter().any(|moment| moment.in_use.is_some()) {
            lines.push((theme.text.strong.0, "in use"));
        }
        if !parts.is_empty() {
            lines.push((theme.plot.plan.0, "foretold, by layer"));
        }
        line_keys(ui, theme, lines.into_iter());
    });
    let spans: Vec<(f64, f64)> = (0..ledger.moments.len())
        .map(|at| (at as f64, at as f64 + 1.0))
        .collect();
    let top = ledger
        .moments
        .iter()
        .map(|moment| moment.total.max(moment.reserved.unwrap_or(0)))
        .chain(parts.iter().map(|(.., part)| part.bytes))
        .max()
        .unwrap_or(1) as f64;
    let room = ui.available_rect_before_wrap();
    let layers = if parts.is_empty() { 0.0 } else { LAYERS };
    let band = PHASES + layers;
    let below = Rect::from_min_max(pos2(room.left(), room.top() + band + 2.0), room.max);
    let response = ui
        .scope_builder(egui::UiBuilder::new().max_rect(below), |ui| {
            let plot = chart::plot(ui, "step", theme, format::bytes)
                .y_grid_spacer(chart::binary_grid)
                .include_y(0.0)
                .x_axis_formatter(|mark, _| if mark.value.fract() == 0.0 { format!("{}", mark.value) } else { String::new() });
            chart::show(ui, plot, |plot| {
                    Stack { kinds: &ledger.kinds, bytes: &ledger.bytes }.draw(plot, theme, &spans, 0.85);
                    let line = |name: &'static str, of: fn(&bellows_query::memory::LedgerMoment) -> Option<u64>| {
                        Line::new(name, PlotPoints::Owned(stairs(&spans, |at| of(&ledger.moments[at])))).width(1.4).allow_band(false)
                    };
                    plot.line(line("reserved", |moment| moment.reserved).color(theme.text.weak.0));
                    plot.line(line("in use", |moment| moment.in_use).color(theme.text.strong.0));
                    for phase in parts.chunk_by(|(.., one), (.., next)| one.phase == next.phase) {
                        let spans: Vec<(f64, f64)> = phase.iter().map(|(from, to, _)| (*from, *to)).collect();
                        let points = stairs(&spans, |at| Some(phase[at].2.bytes));
                        let line = Line::new("foretold", PlotPoints::Owned(points)).width(1.4).allow_band(false);
                        plot.line(line.color(theme.plot.plan.0));
                    }
                    limits(plot, theme, ledger.limit, ledger.planned, (0.0, top));
                })
        })
        .inner;
    ui.advance_cursor_after_rect(room);
    bands(
        ui,
        cx,
        &ledger,
        &parts,
        &response,
        Rect::from_min_max(room.min, pos2(room.right(), room.top() + band)),
    );
    let under = response
        .response
        .hover_pos()
        .map(|pos| response.transform.value_from_position(pos).x);
    let part = under.and_then(|x| parts.iter().find(|(from, to, _)| (*from..*to).contains(&x)));
    let Some(at) = under
        .filter(|x| *x >= 0.0 && *x < ledger.moments.len() as f64)
        .map(|x| x as usize)
    else {
        return;
    };
    let moment = &ledger.moments[at];
    if response.response.clicked() {
        cx.view.moment = Moment::Chosen(moment.moment);
        cx.requests.push(Request::Show(Panel::MemoryTree));
    }
    let count = ledger.kinds.len();
    response.response.on_hover_ui_at_pointer(|ui| {
        ui.strong(format!("moment {}: {}", moment.moment, moment.phase));
        let mut rows = vec![("all owners", format::bytes(moment.total as f64))];
        for (kind, bytes) in ledger
            .kinds
            .iter()
            .zip(&ledger.bytes[at * count..(at + 1) * count])
            .rev()
        {
            rows.push((kind.as_str(), format::bytes(*bytes as f64)));
        }
        rows.push((
            "reserved",
            moment
                .reserved
                .map(|bytes| format::bytes(bytes as f64))
                .unwrap_or_default(),
        ));
        rows.push((
            "in use",
            moment
                .in_use
                .map(|bytes| format::bytes(bytes as f64))
                .unwrap_or_default(),
        ));
        rows.push((
            "fragmentation",
            moment
                .fragmentation()
                .map(format::percent)
                .unwrap_or_default(),
        ));
        if let Some((.., part)) = part {
            rows.push((
                "foretold",
                format!("{}, {}", format::bytes(part.bytes as f64), place(part)),
            ));
        }
        facts(ui, "moment", &rows);
    });
}

/// Height of the strip that names phases, and of the one below it that names layers.
const PHASES: f32 = 16.0;
const LAYERS: f32 = 13.0;

/// What the plan foretold, from where to where: the parts of a phase share its moments.
fn parts(ledger: &StepLedger) -> Vec<(f64, f64, &Foretold)> {
    let mut parts = Vec::new();
    for band in &ledger.bands {
        let phase = band.phase.split_whitespace().next().unwrap_or(&band.phase);
        let here: Vec<&Foretold> = ledger
            .foretold
            .iter()
            .filter(|part| {
                part.phase == phase && (band.layer.is_none() || part.layer == band.layer)
            })
            .collect();
        let width = (band.last + 1 - band.first) as f64 / here.len().max(1) as f64;
        for (at, part) in here.into_iter().enumerate() {
            let from = band.first as f64 + at as f64 * width;
            parts.push((from, from + width, part));
        }
    }
    parts
}

fn place(part: &Foretold) -> String {
    match part.layer {
        Some(layer) => format!("layer {layer}"),
        None if part.phase == "optimizer" => "all weights".to_owned(),
        None => "embedding, head and loss".to_owned(),
    }
}

/// What training was doing, over the moments.
fn bands(
    ui: &Ui,
    cx: &Cx<'_>,
    ledger: &StepLedger,
    parts: &[(f64, f64, &Foretold)],
    response: &egui_plot::PlotResponse<()>,
    strip: Rect,
) {
    let theme = cx.theme;
    let frame = *response.transform.frame();
    let painter = ui.painter_at(Rect::from_x_y_ranges(
        frame.x_range(),
        egui::Rangef::new(strip.top(), frame.bottom()),
    ));
    let font = egui::TextStyle::Small.resolve(ui.style());
    let x = |moment: f64| {
        response
            .transform
            .position_from_point(&egui_plot::PlotPoint::new(moment, 0.0))
            .x
    };
    for band in &ledger.bands {
        let phase = band.phase.split_whitespace().next().unwrap_or(&band.phase);
        let color = theme.phase(phase);
        let rect = Rect::from_x_y_ranges(
            x(band.first as f64)..=x(band.last as f64 + 1.0),
            strip.top()..=strip.top() + PHASES,
        )
        .shrink2(egui::vec2(0.5, 0.0));
        painter.rect_filled(rect, 2.0, theme.tint(color, 0.45));
        let name = match band.layer {
            Some(layer) if rect.width() < 90.0 => layer.to_string(),
            _ => band.phase.clone(),
        };
        let galley = painter.layout_no_wrap(name, font.clone(), theme.text.strong.0);
        if galley.size().x + 6.0 < rect.width() {
            painter.galley(
                Align2::CENTER_CENTER
                    .anchor_size(rect.center(), galley.size())
                    .min,
                galley,
                theme.text.strong.0,
            );
        }
        painter.vline(
            rect.right(),
            frame.y_range(),
            Stroke::new(1.0, theme.plot.grid.0),
        );
    }
    let named: Vec<_> = parts
        .iter()
        .filter(|(.., part)| part.phase != "optimizer")
        .collect();
    let write = |name: String| painter.layout_no_wrap(name, font.clone(), theme.text.normal.0);
    // All of them long or all of them short.
    let long = named.iter().all(|(from, to, part)| match part.layer {
        Some(layer) => write(format!("layer {layer}")).size().x + 6.0 < x(*to) - x(*from),
        None => true,
    });
    for (from, to, part) in named {
        let rect = Rect::from_x_y_ranges(
            x(*from)..=x(*to),
            strip.top() + PHASES + 1.0..=strip.bottom(),
        )
        .shrink2(egui::vec2(0.5, 0.0));
        painter.rect_filled(rect, 1.0, theme.tint(theme.phase(&part.phase), 0.2));
        let galley = write(match part.layer {
            Some(layer) if long => format!("layer {layer}"),
            Some(layer) => layer.to_string(),
            None => "head".to_owned(),
        });
        if galley.size().x + 4.0 < rect.width() {
            let place = Align2::CENTER_CENTER.anchor_size(rect.center(), galley.size());
            painter.galley(place.min, galley, theme.text.normal.0);
        }
    }
    if ledger.bands.is_empty() {
        hatch(&painter, strip, theme.plot.grid.0);
    }
    painter.add(pointer(
        pos2(x(ledger.peak as f64 + 0.5), frame.top() + 8.0),
        theme.plot.cursor.0,
    ));
    if let Moment::Chosen(moment) = cx.view.moment
        && let Some(at) = ledger
            .moments
            .iter()
            .position(|other| other.moment == moment)
    {
        painter.rect_stroke(
            Rect::from_x_y_ranges(x(at as f64)..=x(at as f64 + 1.0), frame.y_range()),
            0.0,
            Stroke::new(1.5, theme.state.accent.0),
            egui::StrokeKind::Inside,
        );
    }
}

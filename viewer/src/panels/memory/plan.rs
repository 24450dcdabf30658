use bellows_query::memory::{MemoryFit, PlanMode};
use egui::{RichText, Ui};
use egui_extras::Column;

use super::super::balance::bar;
use super::super::{Cx, controls};
use crate::format;
use crate::theme::Theme;
use crate::widgets::table_builder;

/// What the numbers are.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::caption(
        ui,
        cx.theme,
        "the plan made before the run, for every way to keep activations",
    );
}

/// A row a mode and length.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let Some(plan) = cx.ask(ui, &MemoryFit { run }) else {
        return;
    };
    let theme = cx.theme;
    let bytes =
        |bytes: Option<u64>| bytes.map_or("–".to_owned(), |bytes| format::bytes(bytes as f64));
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 18.0;
        super::super::expert::figure(ui, theme, "to keep within", &bytes(plan.limit));
        super::super::expert::figure(ui, theme, "measured peak", &bytes(plan.measured));
        if let (Some(batch), Some(length)) = plan.batch {
            super::super::expert::figure(
                ui,
                theme,
                "planned for",
                &format!("{batch} × {} tokens", format::whole(length)),
            );
        }
    });
    ui.label(RichText::new(&plan.verdict).color(theme.text.normal.0));
    for advice in &plan.advice {
        ui.label(RichText::new(advice).small().color(theme.text.weak.0));
    }
    let most = plan
        .modes
        .iter()
        .filter_map(|mode| mode.peak)
        .chain(plan.measured)
        .max()
        .unwrap_or(1) as f32;
    // A limit far above everything would leave nothing of the bars.
    let most = match plan.limit {
        Some(limit) if limit as f32 <= 3.0 * most => most.max(limit as f32),
        _ => most,
    };
    let height = ui.text_style_height(&egui::TextStyle::Body) + 8.0;
    let mut builder = table_builder(ui);
    for width in [112.0, 64.0, 76.0, 190.0, 120.0] {
        builder = builder.column(Column::initial(width).clip(true));
    }
    builder
        .column(Column::remainder().clip(true))
        .header(height, |mut header| {
            for head in [
                "mode",
                "chunk",
                "peak",
                "by kind",
                "longest that fits",
                "largest batch",
            ] {
                header.col(|ui| {
                    ui.label(RichText::new(head).small().color(theme.text.weak.0));
                });
            }
        })
        .body(|body| {
            body.rows(height, plan.modes.len(), |mut row| {
                let mode = &plan.modes[row.index()];
                row.set_selected(mode.chosen);
                row.col(|ui| {
                    ui.label(&mode.mode);
                    if mode.chosen {
                        ui.label(RichText::new("chosen").small().color(theme.state.accent.0));
                    }
                });
                row.col(|ui| {
                    ui.label(mode.chunk.map_or("–".to_owned(), format::whole));
                });
                row.col(|ui| {
                    let color = match mode.fits {
                        Some(false) => theme.state.bad.0,
                        Some(true) => theme.state.good.0,
                        None => theme.text.normal.0,
                    };
                    ui.label(RichText::new(bytes(mode.peak)).color(color));
                });
                row.col(|ui| stack(ui, theme, mode, most));
                row.col(|ui| {
                    ui.label(mode.longest.map_or("–".to_owned(), |tokens| {
                        format!("{} tokens", format::whole(tokens))
                    }));
                });
                row.col(|ui| {
                    ui.label(mode.largest_batch.map_or("–".to_owned(), |batch| {
                        format!("{} sequences", format::whole(batch))
                    }));
                });
            });
        });
}

fn stack(ui: &mut Ui, theme: &Theme, mode: &PlanMode, most: f32) {
    if mode.kinds.is_empty() {
        bar(ui, mode.peak.unwrap_or(0) as f32 / most, theme.series(0));
        return;
    }
    let (rect, response) = ui.allocate_exact_size(
        egui::vec2(ui.available_width() - 6.0, 12.0),
        egui::Sense::hover(),
    );
    let mut left = rect.left();
    for (kind, bytes) in &mode.kinds {
        let width = rect.width() * *bytes as f32 / most;
        let part = egui::Rect::from_min_size(
            egui::pos2(left, rect.top()),
            egui::vec2(width, rect.height()),
        );
        ui.painter().rect_filled(part, 0.0, theme.kind(kind));
        left += width;
    }
    response.on_hover_ui(|ui| {
        for (kind, bytes) in &mode.kinds {
            ui.label(format!("{kind}: {}", format::bytes(*bytes as f64)));
        }
    });
}

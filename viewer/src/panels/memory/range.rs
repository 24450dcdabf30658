use bellows_query::memory::MemoryRange;
use egui::{RichText, Ui};
use egui_extras::Column;

use super::super::{Cx, controls};
use crate::format;
use crate::widgets::table_builder;

/// Which range.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let text = match cx.view.range {
        Some((first, last)) => format!("steps {first} to {last}"),
        None => "the whole run; select a range on the timeline to narrow it".to_owned(),
    };
    controls::caption(ui, cx.theme, &text);
}

/// A row a kind.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = MemoryRange {
        run,
        span: cx.view.window(),
    };
    let Some(table) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let height = ui.text_style_height(&egui::TextStyle::Body) + 7.0;
    let mut builder = table_builder(ui);
    builder = builder.column(Column::initial(118.0));
    for _ in 0..4 {
        builder = builder.column(Column::initial(76.0));
    }
    builder
        .column(Column::remainder())
        .header(height, |mut header| {
            for head in ["kind", "least", "most", "mean", "at first", "at last"] {
                header.col(|ui| {
                    ui.label(RichText::new(head).small().color(theme.text.weak.0));
                });
            }
        })
        .body(|body| {
            body.rows(height, table.rows.len(), |mut row| {
                let kind = &table.rows[row.index()];
                row.col(|ui| {
                    let (rect, _) =
                        ui.allocate_exact_size(egui::vec2(9.0, 9.0), egui::Sense::hover());
                    let color = match kind.name.as_str() {
                        "total" | "in_use" => theme.text.strong.0,
                        "reserved" => theme.text.weak.0,
                        name => theme.kind(name),
                    };
                    ui.painter().rect_filled(rect, 2.0, color);
                    ui.label(kind.name.replace('_', " "));
                });
                for bytes in [
                    kind.min as f64,
                    kind.max as f64,
                    kind.mean,
                    kind.first as f64,
                    kind.last as f64,
                ] {
                    row.col(|ui| {
                        ui.label(format::bytes(bytes));
                    });
                }
            });
        });
}

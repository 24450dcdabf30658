use bellows_query::{Cell, Table};
use egui::{Align, Layout, RichText, Ui};
use egui_extras::{Column, TableBuilder};

use crate::format;
use crate::theme::Theme;

/// A table as all of them look: striped rows that fill the room, cells centred from top to bottom.
pub fn table_builder(ui: &mut Ui) -> TableBuilder<'_> {
    TableBuilder::new(ui)
        .striped(true)
        .auto_shrink(false)
        .cell_layout(Layout::left_to_right(Align::Center))
}

/// Every number of an answer, in rows; only those in sight are laid out.
pub fn table(ui: &mut Ui, theme: &Theme, table: &Table) {
    let height = ui.text_style_height(&egui::TextStyle::Body) + 5.0;
    let numeric: Vec<bool> = (0..table.columns.len())
        .map(|column| {
            table
                .rows
                .iter()
                .take(16)
                .any(|row| matches!(row[column], Cell::Count(_) | Cell::Number(_)))
        })
        .collect();
    let side = |column: usize| {
        if numeric[column] {
            Layout::right_to_left(Align::Center)
        } else {
            Layout::left_to_right(Align::Center)
        }
    };
    egui::ScrollArea::horizontal().show(ui, |ui| {
        let mut builder = table_builder(ui);
        for _ in &table.columns {
            builder = builder.column(
                Column::initial(96.0)
                    .at_least(48.0)
                    .resizable(true)
                    .clip(true),
            );
        }
        builder
            .header(height + 4.0, |mut header| {
                for (column, head) in table.columns.iter().enumerate() {
                    header.col(|ui| {
                        ui.with_layout(side(column), |ui| {
                            let name = head.name.replace('_', " ");
                            ui.label(RichText::new(name).small().color(theme.text.weak.0));
                            if !head.unit.is_empty() {
                                ui.label(RichText::new(head.unit).small().color(theme.text.weak.0));
                            }
                        });
                    });
                }
            })
            .body(|body| {
                body.rows(height, table.rows.len(), |mut line| {
                    let row = &table.rows[line.index()];
                    for (column, cell) in row.iter().enumerate() {
                        line.col(|ui| {
                            ui.with_layout(side(column), |ui| {
                                ui.label(text(cell, table.columns[column].unit));
                            });
                        });
                    }
                });
            });
    });
}

fn text(cell: &Cell, unit: &str) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Count(count) if unit == "bytes" => format::bytes(*count as f64),
        Cell::Count(count) => format::whole(*count),
        Cell::Number(number) => format::number(*number),
        Cell::Missing => "–".to_owned(),
    }
}

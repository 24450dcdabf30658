//! Settings side by side.

use bellows_query::scalars::ConfigDifferences;
use egui::{RichText, Ui};
use egui_extras::Column;

use super::{Cx, controls};
use crate::widgets::table_builder;

/// All settings, or those in which runs differ.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    if cx.runs.len() > 1 {
        let choices = [(false, "all settings"), (true, "differences")];
        controls::choice(ui, cx.theme, &mut cx.view.only_different, &choices);
    } else {
        controls::caption(ui, cx.theme, "open another run to see what differs");
    }
}

/// A row a setting, a column a run.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    if cx.need_run(ui).is_none() {
        return;
    }
    let query = ConfigDifferences {
        runs: cx.runs.iter().map(|run| run.id).collect(),
        only_different: cx.view.only_different && cx.runs.len() > 1,
    };
    let Some(table) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let height = ui.text_style_height(&egui::TextStyle::Body) + 5.0;
    let mut builder = table_builder(ui);
    builder = builder.column(Column::initial(210.0).clip(true).resizable(true));
    for _ in 1..table.runs.len() {
        builder = builder.column(Column::initial(140.0).clip(true).resizable(true));
    }
    builder
        .column(Column::remainder().clip(true))
        .header(height, |mut header| {
            header.col(|ui| {
                ui.label(RichText::new("setting").small().color(theme.text.weak.0));
            });
            for run in &table.runs {
                header.col(|ui| {
                    ui.label(RichText::new(run).small().color(theme.text.weak.0));
                });
            }
        })
        .body(|body| {
            body.rows(height, table.settings.len(), |mut row| {
                let setting = &table.settings[row.index()];
                row.col(|ui| {
                    let (section, key) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
                    ui.spacing_mut().item_spacing.x = 0.0;
                    if !section.is_empty() {
                        ui.label(RichText::new(format!("{section}.")).color(theme.text.weak.0));
                    }
                    ui.label(key);
                });
                for value in &setting.values {
                    row.col(|ui| {
                        let color = if setting.differs {
                            theme.state.accent.0
                        } else {
                            theme.text.normal.0
                        };
                        let text = value.as_deref().unwrap_or("–");
                        ui.label(RichText::new(text).monospace().color(color))
                            .on_hover_text(text);
                    });
                }
            });
        });
}

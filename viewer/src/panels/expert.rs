//! Everything about one expert.

use bellows_query::Gap;
use bellows_query::routing::{ExpertCard, Neighbour};
use bellows_query::tokens::Lift;
use egui::{RichText, ScrollArea, Ui};

use super::balance::{bar, cell, follow};
use super::load::columns;
use super::{Cx, controls};
use crate::format;
use crate::theme::Theme;
use crate::widgets::chart;

/// Router and expert.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    controls::router(ui, cx);
    controls::expert(ui, cx);
}

/// The card.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let query = ExpertCard {
        run,
        router: cx.view.router,
        expert: cx.view.expert,
        step: cx.view.step,
        columns: columns(ui, 60.0),
    };
    let Some(card) = cx.ask(ui, &query) else {
        return;
    };
    let theme = cx.theme;
    let bias = card.bias.map(|bias| format!("{bias:+.4}"));
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 18.0;
        let figures = [
            ("load", Some(format::times(card.load))),
            ("rank", Some(card.rank.to_string())),
            ("assignments", Some(format::whole(card.tokens))),
            ("probability", Some(format::percent(card.probability))),
            ("bias", bias),
        ];
        for (name, value) in figures {
            if let Some(value) = value {
                figure(ui, theme, name, &value);
            }
        }
    });
    let (step, range) = (
        cx.view.step as f64,
        cx.view
            .range
            .map(|(first, last)| (first as f64, last as f64)),
    );
    let height = (ui.available_height() * 0.42).clamp(70.0, 220.0);
    let plot = chart::plot(ui, "expert", theme, |value| format::times(value as f32))
        .height(height)
        .include_y(0.0);
    let response = chart::show(ui, plot, |plot| {
        chart::marks(plot, theme, step, range);
        chart::curve(
            plot,
            "load",
            &card.history,
            theme.series(0),
            chart::Look::default(),
        );
        let left = card.history.first().map_or(0.0, |point| point.x);
        chart::level(
            plot,
            "even share",
            (left, 1.0),
            (theme.text.weak.0, theme.surface.panel.0),
            true,
        );
    });
    follow(ui, cx, &response);
    ui.add_space(4.0);
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.columns_const(|[left, middle, right]| {
            for column in [&mut *left, &mut *middle, &mut *right] {
                // Columns justify what they hold; texts read better at their left.
                *column = column.new_child(
                    egui::UiBuilder::new()
                        .max_rect(column.max_rect())
                        .layout(egui::Layout::top_down(egui::Align::LEFT)),
                );
            }
            heading(left, theme, "given more often than others");
            specialities(left, theme, &card.specialities);
            heading(middle, theme, "its tokens come from");
            neighbours(middle, cx, &card.before);
            heading(right, theme, "its tokens go to");
            neighbours(right, cx, &card.after);
        });
    });
}

/// A number with its name above it.
pub fn figure(ui: &mut Ui, theme: &Theme, name: &str, value: &str) {
    ui.vertical(|ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        ui.label(RichText::new(name).small().color(theme.text.weak.0));
        ui.label(RichText::new(value).heading().color(theme.text.strong.0));
    });
}

fn heading(ui: &mut Ui, theme: &Theme, text: &str) {
    ui.label(RichText::new(text).small().color(theme.text.weak.0));
}

fn absent(ui: &mut Ui, theme: &Theme, gap: &Gap) {
    let label = ui.label(
        RichText::new(gap.to_string())
            .small()
            .color(theme.text.weak.0),
    );
    if let Some(remedy) = gap.remedy() {
        label.on_hover_text(remedy);
    }
}

fn specialities(ui: &mut Ui, theme: &Theme, list: &Result<Vec<Lift>, Gap>) {
    let list = match list {
        Ok(list) => list,
        Err(gap) => return absent(ui, theme, gap),
    };
    let most = list.iter().map(|lift| lift.lift).fold(1.0, f32::max);
    for lift in list.iter().take(8) {
        line(
            ui,
            theme,
            &format::token(&lift.label),
            lift.lift,
            most,
            true,
        )
        .on_hover_text(format!("{} of {} occurrences", lift.count, lift.of));
    }
    if list.is_empty() {
        heading(ui, theme, "nothing stands out");
    }
}

fn neighbours(ui: &mut Ui, cx: &mut Cx<'_>, list: &Result<Vec<Neighbour>, Gap>) {
    let list = match list {
        Ok(list) => list,
        Err(gap) => return absent(ui, cx.theme, gap),
    };
    let most = list
        .iter()
        .map(|neighbour| neighbour.lift)
        .fold(1.0, f32::max);
    for neighbour in list.iter().take(8) {
        let name = format!(
            "{}·{}  expert {}",
            neighbour.router.layer, neighbour.router.iteration, neighbour.expert
        );
        let response =
            line(ui, cx.theme, &name, neighbour.lift, most, false).on_hover_text(format!(
                "{} of its pairs; click to go there",
                format::percent(neighbour.share)
            ));
        if response.interact(egui::Sense::click()).clicked() {
            cx.view.router = neighbour.router;
            cx.view.expert = neighbour.expert;
        }
    }
}

fn line(
    ui: &mut Ui,
    theme: &Theme,
    name: &str,
    lift: f32,
    most: f32,
    mono: bool,
) -> egui::Response {
    ui.horizontal(|ui| {
        let text = RichText::new(name).color(theme.text.normal.0);
        let text = if mono { text.monospace() } else { text };
        let width = ui.available_width();
        cell(ui, width * 0.46, egui::Label::new(text).truncate());
        ui.label(
            RichText::new(format::times(lift))
                .small()
                .color(theme.text.normal.0),
        );
        bar(ui, lift / most, theme.series(2));
    })
    .response
}

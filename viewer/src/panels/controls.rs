//! Controls that panels share.

use bellows_query::RouterId;
use bellows_query::routing::{Measure, Order};
use egui::{Button, ComboBox, CornerRadius, Frame, Margin, RichText, Stroke, Ui};

use super::Cx;
use crate::theme::Theme;

/// A row of choices of which one is on.
pub fn choice<T: Copy + PartialEq>(
    ui: &mut Ui,
    theme: &Theme,
    value: &mut T,
    choices: &[(T, &str)],
) {
    // Frames do not wrap by themselves.
    let font = egui::TextStyle::Small.resolve(ui.style());
    let width: f32 = choices
        .iter()
        .map(|(_, name)| {
            ui.painter()
                .layout_no_wrap((*name).to_owned(), font.clone(), theme.text.weak.0)
                .size()
                .x
                + 15.0
        })
        .sum();
    if ui.layout().main_wrap() && ui.available_size_before_wrap().x < width + 4.0 {
        ui.end_row();
    }
    let frame = Frame::new()
        .fill(theme.surface.raised.0)
        .stroke(Stroke::new(1.0, theme.surface.border.0))
        .corner_radius(CornerRadius::same(6))
        .inner_margin(Margin::same(1));
    frame.show(ui, |ui| {
        ui.spacing_mut().item_spacing.x = 1.0;
        ui.spacing_mut().button_padding = egui::vec2(7.0, 1.0);
        ui.spacing_mut().interact_size.y = 18.0;
        ui.horizontal(|ui| {
            for (choice, name) in choices {
                let on = *value == *choice;
                let color = if on {
                    theme.text.strong.0
                } else {
                    theme.text.weak.0
                };
                let button = Button::selectable(on, RichText::new(*name).small().color(color))
                    .corner_radius(CornerRadius::same(5));
                if ui.add(button).clicked() {
                    *value = *choice;
                }
            }
        });
    });
}

/// A choice from a list that is too long for a row.
pub fn menu<T: Copy + PartialEq>(ui: &mut Ui, name: &str, value: &mut T, choices: &[(T, String)]) {
    let text = choices
        .iter()
        .find(|(choice, _)| choice == value)
        .map_or_else(|| "–".to_owned(), |(_, text)| text.clone());
    let response = ComboBox::from_id_salt((name, ui.scope_id()))
        .selected_text(RichText::new(text).small())
        .width(0.0)
        .height(360.0)
        .show_ui(ui, |ui| {
            for (choice, text) in choices {
                ui.selectable_value(value, *choice, text.as_str());
            }
        })
        .response;
    response.on_hover_text(name);
}

/// A small caption before a control.
pub fn caption(ui: &mut Ui, theme: &Theme, text: &str) {
    let text = RichText::new(text).small().color(theme.text.weak.0);
    // A line that is too long must not push what is drawn below it out of sight.
    ui.add(egui::Label::new(text).truncate());
}

/// Which router: layer, and iteration where there are several.
pub fn router(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.run() else { return };
    let layers = run.shape.layers();
    if layers.is_empty() {
        return;
    }
    let RouterId {
        mut layer,
        mut iteration,
    } = cx.view.router;
    let names: Vec<(u32, String)> = layers
        .iter()
        .map(|layer| (*layer, format!("layer {layer}")))
        .collect();
    menu(ui, "Layer", &mut layer, &names);
    let iterations = run.shape.iterations(layer);
    iteration = iteration.min(iterations.saturating_sub(1));
    if iterations > 1 {
        let names: Vec<String> = (0..iterations)
            .map(|iteration| iteration.to_string())
            .collect();
        let choices: Vec<(u32, &str)> = (0..iterations)
            .zip(names.iter().map(String::as_str))
            .collect();
        caption(ui, cx.theme, "iteration");
        choice(ui, cx.theme, &mut iteration, &choices);
    }
    cx.view.router = RouterId { layer, iteration };
}

/// What a load is measured by.
pub fn measure(ui: &mut Ui, cx: &mut Cx<'_>) {
    let choices = Measure::ALL.map(|measure| (measure, measure.name()));
    choice(ui, cx.theme, &mut cx.view.measure, &choices);
}

/// In which order experts stand.
pub fn order(ui: &mut Ui, cx: &mut Cx<'_>) {
    let names = Order::ALL.map(|order| format!("by {}", order.name()));
    let choices: Vec<(Order, &str)> = Order::ALL
        .into_iter()
        .zip(names.iter().map(String::as_str))
        .collect();
    choice(ui, cx.theme, &mut cx.view.order, &choices);
}

/// Which expert of the chosen router.
pub fn expert(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(experts) = cx.run().and_then(|run| run.shape.experts(cx.view.router)) else {
        return;
    };
    cx.view.expert = cx.view.expert.min(experts.saturating_sub(1));
    let drag = egui::DragValue::new(&mut cx.view.expert)
        .range(0..=experts.saturating_sub(1))
        .speed(0.1)
        .prefix("expert ");
    ui.add(drag)
        .on_hover_text("Drag, or click to type a number");
}

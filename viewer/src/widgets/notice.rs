use bellows_query::Gap;
use egui::{Align, Layout, RichText, Ui, UiBuilder, Vec2};

use crate::theme::Theme;

/// Explains in the middle of the room why there is nothing to see, and what to do about it.
pub fn notice(ui: &mut Ui, theme: &Theme, gap: &Gap) {
    if gap.is_opening() {
        return waiting(ui, theme, &gap.to_string());
    }
    let (sign, color) = match gap {
        Gap::NewerSchema { .. } | Gap::Unreadable { .. } => ("!", theme.state.bad.0),
        Gap::TooEarly { .. } => ("→", theme.state.accent.0),
        _ => ("–", theme.text.weak.0),
    };
    middle(ui, |ui| {
        ui.label(RichText::new(sign).heading().size(26.0).color(color));
        ui.add_space(4.0);
        ui.label(RichText::new(capital(&gap.to_string())).color(theme.text.normal.0));
        if let Some(remedy) = gap.remedy() {
            ui.label(RichText::new(capital(&remedy)).color(theme.text.weak.0));
        }
    });
}

/// Says that an answer is being worked out.
pub fn waiting(ui: &mut Ui, theme: &Theme, what: &str) {
    middle(ui, |ui| {
        ui.add(egui::Spinner::new().size(20.0).color(theme.text.weak.0));
        ui.add_space(4.0);
        ui.label(RichText::new(capital(what)).color(theme.text.weak.0));
    });
}

fn middle(ui: &mut Ui, content: impl FnOnce(&mut Ui)) {
    let room = ui.available_rect_before_wrap();
    let width = room.width().min(460.0);
    let height = room.height().min(110.0);
    let rect = egui::Rect::from_center_size(room.center(), Vec2::new(width, height));
    let builder = UiBuilder::new()
        .max_rect(rect)
        .layout(Layout::top_down(Align::Center));
    ui.scope_builder(builder, content);
    ui.advance_cursor_after_rect(room);
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        // A path or a name stays as it is.
        Some(first)
            if text
                .chars()
                .nth(1)
                .is_some_and(|second| second.is_lowercase() || second == ' ') =>
        {
            first.to_uppercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

use std::sync::Arc;

use egui::text::LayoutJob;
use egui::{
    Align, FontId, Layout, Margin, Rect, RichText, Role, Sense, TextStyle, Ui, UiBuilder,
    WidgetInfo, vec2,
};

use super::{Cx, Request};
use crate::export::Format;
use crate::widgets;

/// A panel in the window: controls, the drawing or its table, and its summary.
pub fn pane(ui: &mut Ui, cx: &mut Cx<'_>) {
    let frame = egui::Frame::new().inner_margin(Margin {
        left: 10,
        right: 8,
        top: 6,
        bottom: 6,
    });
    frame.show(ui, |ui| {
        bar(ui, cx, true);
        ui.add_space(2.0);
        content(ui, cx);
    });
}

/// A panel as a picture: with a headline that says of what.
pub fn alone(ui: &mut Ui, cx: &mut Cx<'_>) {
    let frame = egui::Frame::new()
        .fill(cx.theme.surface.panel.0)
        .inner_margin(Margin::same(14));
    frame.show(ui, |ui| {
        ui.set_min_size(ui.available_size());
        let panel = cx.panel;
        ui.horizontal(|ui| {
            ui.label(
                RichText::new(panel.title())
                    .heading()
                    .color(cx.theme.text.strong.0),
            );
            let place = match (cx.run(), cx.view.range) {
                (Some(run), Some((first, last))) => {
                    format!("{}, steps {first} to {last}", run.name)
                }
                (Some(run), None) => format!("{}, step {}", run.name, cx.view.step),
                (None, _) => String::new(),
            };
            ui.label(RichText::new(place).color(cx.theme.text.weak.0));
        });
        bar(ui, cx, false);
        ui.add_space(4.0);
        content(ui, cx);
    });
}

fn bar(ui: &mut Ui, cx: &mut Cx<'_>, buttons: bool) {
    let panel = cx.panel;
    ui.horizontal_top(|ui| {
        let room = if buttons {
            ui.available_width() - 92.0
        } else {
            ui.available_width()
        };
        ui.scope(|ui| {
            ui.set_max_width(room);
            ui.horizontal_wrapped(|ui| {
                ui.set_min_height(ui.spacing().interact_size.y);
                for style in [TextStyle::Body, TextStyle::Button] {
                    ui.style_mut()
                        .text_styles
                        .insert(style, FontId::proportional(11.5));
                }
                panel.controls(ui, cx);
            });
        });
        if !buttons {
            return;
        }
        let size = vec2(ui.available_width(), ui.spacing().interact_size.y);
        ui.allocate_ui_with_layout(size, Layout::right_to_left(Align::Center), |ui| {
            ui.spacing_mut().item_spacing.x = 2.0;
            export_menu(ui, cx);
            let shown = cx.view.tables.contains(&panel);
            let label = RichText::new("Table").small();
            let button = egui::Button::selectable(shown, label);
            if ui
                .add(button)
                .on_hover_text("Every number of the drawing, in rows")
                .clicked()
            {
                if shown {
                    cx.view.tables.remove(&panel);
                } else {
                    cx.view.tables.insert(panel);
                }
            }
        });
    });
}

fn export_menu(ui: &mut Ui, cx: &mut Cx<'_>) {
    let panel = cx.panel;
    let button = egui::Button::new("")
        .frame_when_inactive(false)
        .min_size(vec2(26.0, 20.0));
    let menu = egui::containers::menu::MenuButton::from_button(button);
    let (response, _) = menu.ui(ui, |ui| {
        ui.set_min_width(150.0);
        for format in Format::ALL {
            if ui.button(format!("Export as {}…", format.name())).clicked() {
                cx.requests.push(Request::Export(panel, format));
            }
        }
        if ui.button("Copy the table").clicked() {
            cx.requests.push(Request::Export(panel, Format::Clipboard));
        }
    });
    response
        .widget_info(|| WidgetInfo::labeled(Role::Button, true, format!("{} menu", panel.title())));
    for dot in [-5.0, 0.0, 5.0] {
        let center = response.rect.center() + vec2(dot, 0.0);
        ui.painter()
            .circle_filled(center, 1.5, ui.style().interact(&response).text_color());
    }
    response.on_hover_text(panel.what());
}

fn content(ui: &mut Ui, cx: &mut Cx<'_>) {
    let panel = cx.panel;
    let room = ui.available_rect_before_wrap();
    let line = ui.text_style_height(&egui::TextStyle::Small);
    let footer = 2.0 * line + 12.0;
    let split = (room.bottom() - footer).max(room.top() + 40.0);
    let body = Rect::from_min_max(room.min, room.max - vec2(0.0, room.bottom() - split));
    let scope = ui.scope_builder(UiBuilder::new().max_rect(body).id_salt(panel.id()), |ui| {
        ui.set_clip_rect(ui.clip_rect().intersect(body));
        if cx.view.tables.contains(&panel) {
            tabular(ui, cx);
        } else {
            panel.body(ui, cx);
        }
    });
    ui.advance_cursor_after_rect(body);
    let summary: Arc<str> = match (&cx.shown, &cx.gap) {
        (Some(answer), _) => cx.kept.summary(panel, answer),
        (None, Some(gap)) => gap.to_string().into(),
        (None, None) => "".into(),
    };
    // What a screen reader says of the drawing.
    let drawing = ui.interact(
        scope.response.rect.intersect(body),
        ui.scope_id().with((panel.id(), "drawing")),
        Sense::hover(),
    );
    let described = format!("{}. {summary}", panel.title());
    drawing.widget_info(|| WidgetInfo::labeled(Role::Image, true, &described));

    let below = Rect::from_min_max(egui::pos2(room.left(), split + 8.0), room.max);
    ui.scope_builder(UiBuilder::new().max_rect(below), |ui| {
        ui.horizontal_top(|ui| {
            if cx.pending {
                ui.add(egui::Spinner::new().size(10.0).color(cx.theme.text.weak.0));
            }
            // Two lines; the rest is told under the pointer.
            let font = egui::TextStyle::Small.resolve(ui.style());
            let color = cx.theme.text.weak.0;
            let mut job = LayoutJob::simple(summary.to_string(), font, color, ui.available_width());
            job.wrap.max_rows = 2;
            let galley = ui.painter().layout_job(job);
            let label = ui.add(egui::Label::new(galley));
            label.widget_info(|| WidgetInfo::labeled(Role::Label, true, &*summary));
            label.on_hover_text(&*summary);
        });
    });
    ui.advance_cursor_after_rect(below);
}

/// The table of the answer that the panel would draw: it is asked out of sight.
fn tabular(ui: &mut Ui, cx: &mut Cx<'_>) {
    let panel = cx.panel;
    let mut hidden = ui.new_child(
        UiBuilder::new()
            .max_rect(ui.max_rect())
            .id_salt("out of sight")
            .invisible(),
    );
    panel.body(&mut hidden, cx);
    match (&cx.shown, &cx.gap) {
        (Some(answer), _) => {
            let rows = cx.kept.table(panel, answer);
            widgets::table(ui, cx.theme, &rows);
        }
        (None, Some(gap)) => widgets::notice(ui, cx.theme, &gap.clone()),
        (None, None) => widgets::waiting(ui, cx.theme, "reading the record"),
    }
}

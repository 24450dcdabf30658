use std::sync::Arc;

use bellows_query::{RunSnapshot, Store};
use egui::{Color32, CornerRadius, Stroke, Ui, Visuals, WidgetText};
use egui_tiles::{Behavior, SimplificationOptions, TabState, TileId, UiResponse};

use super::View;
use crate::panels::{Cx, Kept, Panel, Request, pane};
use crate::theme::Theme;

/// Draws the panels of a page.
pub struct Tiles<'a> {
    pub store: &'a Store,
    pub runs: &'a [Arc<RunSnapshot>],
    pub theme: &'a Theme,
    pub view: &'a mut View,
    pub kept: &'a mut Kept,
    pub requests: &'a mut Vec<Request>,
    pub under: &'a mut Option<Panel>,
    pub wait: bool,
}

impl Behavior<Panel> for Tiles<'_> {
    fn pane_ui(&mut self, ui: &mut Ui, _: TileId, panel: &mut Panel) -> UiResponse {
        let rect = ui.max_rect();
        let radius = CornerRadius {
            nw: 0,
            ne: 0,
            sw: 6,
            se: 6,
        };
        ui.painter()
            .rect_filled(rect, radius, self.theme.surface.panel.0);
        if ui.rect_contains_pointer(rect) {
            *self.under = Some(*panel);
        }
        let mut cx = Cx {
            store: self.store,
            runs: self.runs,
            theme: self.theme,
            view: self.view,
            kept: self.kept,
            wait: self.wait,
            requests: self.requests,
            panel: *panel,
            shown: None,
            gap: None,
            pending: false,
        };
        ui.push_id(panel.id(), |ui| pane(ui, &mut cx));
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, panel: &Panel) -> WidgetText {
        egui::RichText::new(panel.title())
            .family(egui::FontFamily::Name(crate::theme::STRONG.into()))
            .size(12.0)
            .into()
    }

    fn is_tab_closable(&self, _: &egui_tiles::Tiles<Panel>, _: TileId) -> bool {
        true
    }

    fn tab_bar_height(&self, _: &egui::Style) -> f32 {
        28.0
    }

    fn gap_width(&self, _: &egui::Style) -> f32 {
        6.0
    }

    fn tab_title_spacing(&self, _: &Visuals) -> f32 {
        12.0
    }

    fn tab_bar_color(&self, _: &Visuals) -> Color32 {
        self.theme.surface.background.0
    }

    fn tab_bg_color(
        &self,
        _: &Visuals,
        _: &egui_tiles::Tiles<Panel>,
        _: TileId,
        state: &TabState,
    ) -> Color32 {
        if state.active {
            self.theme.surface.panel.0
        } else {
            Color32::TRANSPARENT
        }
    }

    fn tab_outline_stroke(
        &self,
        _: &Visuals,
        _: &egui_tiles::Tiles<Panel>,
        _: TileId,
        _: &TabState,
    ) -> Stroke {
        Stroke::NONE
    }

    fn tab_bar_hline_stroke(&self, _: &Visuals) -> Stroke {
        Stroke::NONE
    }

    fn tab_text_color(
        &self,
        _: &Visuals,
        _: &egui_tiles::Tiles<Panel>,
        _: TileId,
        state: &TabState,
    ) -> Color32 {
        if state.active {
            self.theme.text.strong.0
        } else {
            self.theme.text.weak.0
        }
    }

    fn on_tab_button(
        &mut self,
        tiles: &mut egui_tiles::Tiles<Panel>,
        tile: TileId,
        response: egui::Response,
    ) -> egui::Response {
        match tiles.get_pane(&tile) {
            Some(panel) => response.on_hover_text(panel.what()),
            None => response,
        }
    }

    fn resize_stroke(&self, _: &egui::Style, state: egui_tiles::ResizeState) -> Stroke {
        match state {
            egui_tiles::ResizeState::Idle => Stroke::NONE,
            egui_tiles::ResizeState::Hovering => Stroke::new(2.0, self.theme.text.weak.0),
            egui_tiles::ResizeState::Dragging => Stroke::new(2.0, self.theme.state.accent.0),
        }
    }

    fn simplification_options(&self) -> SimplificationOptions {
        SimplificationOptions {
            all_panes_must_have_tabs: true,
            ..SimplificationOptions::default()
        }
    }
}

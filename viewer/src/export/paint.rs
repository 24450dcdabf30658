use std::sync::Arc;

use bellows_query::{Answer, Gap};
use egui::epaint::ClippedShape;
use egui::{Pos2, RawInput, Rect, TexturesDelta, Ui, vec2};

use super::Subject;
use crate::app::App;
use crate::panels::{Cx, Kept, alone};
use crate::theme;

/// A panel that was drawn, as shapes.
pub struct Painting {
    /// The context that drew it: it knows fonts and turns shapes into triangles.
    pub context: egui::Context,
    /// The shapes.
    pub shapes: Vec<ClippedShape>,
    /// Fonts and pictures.
    pub textures: TexturesDelta,
    /// Width and height, pixels.
    pub size: (u32, u32),
    /// Pixels a point.
    pub scale: f32,
    /// The answer that was drawn.
    pub answer: Option<Arc<dyn Answer>>,
    /// Why none was.
    pub gap: Option<Gap>,
}

/// The size of text is known, plots find their bounds, and texts their places, within this many passes.
const PASSES: usize = 5;

/// Draws a panel, waiting for its answers.
pub fn paint(subject: &Subject<'_>, size: (u32, u32)) -> Painting {
    let mut view = subject.view.clone();
    view.tables.clear();
    let runs: Vec<_> = subject
        .store
        .runs()
        .into_iter()
        .filter_map(|run| subject.store.run(run))
        .collect();
    let mut kept = Kept::default();
    let (mut answer, mut gap) = (None, None);
    let context = context();
    theme::apply(&context, subject.theme);
    context.set_zoom_factor(subject.text_size);
    let mut painting = draw(context, size, |ui| {
        let mut requests = Vec::new();
        let mut cx = Cx {
            store: subject.store,
            runs: &runs,
            theme: subject.theme,
            view: &mut view,
            kept: &mut kept,
            wait: true,
            requests: &mut requests,
            panel: subject.panel,
            shown: None,
            gap: None,
            pending: false,
        };
        alone(ui, &mut cx);
        (answer, gap) = (cx.shown, cx.gap);
    });
    (painting.answer, painting.gap) = (answer, gap);
    painting
}

/// Draws the whole window.
pub fn paint_window(app: &mut App, size: (u32, u32)) -> Painting {
    draw(context(), size, |ui| app.ui(ui))
}

fn context() -> egui::Context {
    let context = egui::Context::default();
    theme::install_fonts(&context);
    context
}

fn draw(context: egui::Context, size: (u32, u32), mut content: impl FnMut(&mut Ui)) -> Painting {
    let mut painting = Painting {
        context,
        shapes: Vec::new(),
        textures: TexturesDelta::default(),
        size,
        scale: 1.0,
        answer: None,
        gap: None,
    };
    for pass in 0..PASSES {
        let points = vec2(size.0 as f32, size.1 as f32) / painting.context.zoom_factor();
        let input = RawInput {
            screen_rect: Some(Rect::from_min_size(Pos2::ZERO, points)),
            time: Some(pass as f64),
            ..RawInput::default()
        };
        let output = painting.context.run_ui(input, &mut content);
        painting.textures.append(output.textures_delta);
        painting.shapes = output.shapes;
        painting.scale = output.pixels_per_point;
    }
    painting
}

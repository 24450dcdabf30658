use egui::{Align2, Color32, CornerRadius, Mesh, Pos2, Rect, Sense, Shape, TextStyle, Ui, Vec2};

use crate::theme::{Ramp, Theme};

/// A colour scale with the values of its ends and, where it has one, of its middle.
pub fn scale_bar(ui: &mut Ui, theme: &Theme, ramp: &Ramp, format: &dyn Fn(f32) -> String) {
    let font = TextStyle::Small.resolve(ui.style());
    let label = |ui: &Ui, place: f32| {
        ui.painter()
            .layout_no_wrap(format(ramp.value(place)), font.clone(), theme.text.weak.0)
    };
    let (low, high) = (label(ui, 0.0), label(ui, 1.0));
    let bar = 96.0;
    let size = Vec2::new(
        low.size().x + bar + high.size().x + 12.0,
        ui.spacing().interact_size.y,
    );
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    let y = rect.center().y;
    let band = Rect::from_min_max(
        Pos2::new(rect.left() + low.size().x + 6.0, y - 4.0),
        Pos2::new(rect.right() - high.size().x - 6.0, y + 4.0),
    );
    let painter = ui.painter();
    painter.add(gradient(ramp, band));
    painter.galley(
        Pos2::new(rect.left(), y - low.size().y / 2.0),
        low,
        theme.text.weak.0,
    );
    painter.galley(
        Pos2::new(band.right() + 6.0, y - high.size().y / 2.0),
        high,
        theme.text.weak.0,
    );
    if let Some(neutral) = ramp.scale.neutral {
        let x = band.center().x;
        painter.vline(
            x,
            band.expand(2.0).y_range(),
            egui::Stroke::new(1.0, theme.text.weak.0),
        );
        response.on_hover_text(format!("the middle colour is {}", format(neutral)));
    }
}

fn gradient(ramp: &Ramp, rect: Rect) -> Shape {
    const PARTS: u32 = 32;
    let mut mesh = Mesh::default();
    for part in 0..=PARTS {
        let place = part as f32 / PARTS as f32;
        let x = rect.left() + rect.width() * place;
        let color = ramp.at(place);
        mesh.colored_vertex(Pos2::new(x, rect.top()), color);
        mesh.colored_vertex(Pos2::new(x, rect.bottom()), color);
        if part > 0 {
            let at = 2 * part;
            mesh.add_triangle(at - 2, at - 1, at);
            mesh.add_triangle(at - 1, at, at + 1);
        }
    }
    Shape::mesh(mesh)
}

/// Names of areas with their colours, in a row that wraps.
pub fn keys<'a>(ui: &mut Ui, theme: &Theme, keys: impl Iterator<Item = (Color32, &'a str)>) {
    marked(ui, theme, Vec2::splat(9.0), keys);
}

/// Names of lines with their colours.
pub fn line_keys<'a>(ui: &mut Ui, theme: &Theme, keys: impl Iterator<Item = (Color32, &'a str)>) {
    marked(ui, theme, Vec2::new(11.0, 2.0), keys);
}

fn marked<'a>(
    ui: &mut Ui,
    theme: &Theme,
    mark: Vec2,
    keys: impl Iterator<Item = (Color32, &'a str)>,
) {
    let font = TextStyle::Small.resolve(ui.style());
    for (color, name) in keys {
        let galley =
            ui.painter()
                .layout_no_wrap(name.to_owned(), font.clone(), theme.text.normal.0);
        let size = Vec2::new(galley.size().x + 15.0, ui.spacing().interact_size.y);
        let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
        let dot = Rect::from_center_size(Pos2::new(rect.left() + 5.0, rect.center().y), mark);
        ui.painter()
            .rect_filled(dot, CornerRadius::same(mark.y.min(2.0) as u8), color);
        let corner = Align2::LEFT_CENTER.anchor_size(
            Pos2::new(rect.left() + 14.0, rect.center().y),
            galley.size(),
        );
        ui.painter().galley(corner.min, galley, theme.text.normal.0);
    }
}

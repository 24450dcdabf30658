use egui::{
    Color32, CornerRadius, FontId, Rect, Response, Sense, Stroke, StrokeKind, TextStyle, Ui, Vec2,
    pos2,
};

use crate::format;
use crate::theme::Theme;

/// A token of a text.
pub struct Segment<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its ground.
    pub ground: Color32,
    /// Its ink.
    pub ink: Color32,
    /// Whether it is framed.
    pub framed: bool,
}

/// What the pointer does on a text.
pub struct TextResponse {
    /// The response of the whole.
    pub response: Response,
    /// The token under the pointer.
    pub hovered: Option<usize>,
}

/// A text of tokens, each with a ground of its own; spaces are dots and lines break where the text does.
pub fn token_text(ui: &mut Ui, theme: &Theme, segments: &[Segment<'_>]) -> TextResponse {
    let font = TextStyle::Monospace.resolve(ui.style());
    let line = ui.fonts_mut(|fonts| fonts.row_height(&font)) + 5.0;
    let advance = ui.fonts_mut(|fonts| fonts.glyph_width(&font, 'x'));
    let width = ui.available_width();
    let places = lay_out(segments, width, line, advance);
    let height = places.last().map_or(0.0, |rect| rect.bottom());
    let (room, response) = ui.allocate_exact_size(Vec2::new(width, height), Sense::click());
    let pointer = response.hover_pos();
    let seen = ui.clip_rect();
    let mut hovered = None;
    for (at, (segment, place)) in segments.iter().zip(&places).enumerate() {
        let rect = place.translate(room.min.to_vec2());
        if !seen.intersects(rect) {
            continue;
        }
        draw(ui, theme, segment, rect, &font);
        if pointer.is_some_and(|pos| rect.contains(pos)) {
            hovered = Some(at);
            ui.painter().rect_stroke(
                rect,
                2.0,
                Stroke::new(1.0, theme.plot.cursor.0),
                StrokeKind::Inside,
            );
        }
    }
    TextResponse { response, hovered }
}

fn draw(ui: &Ui, theme: &Theme, segment: &Segment<'_>, rect: Rect, font: &FontId) {
    let inner = rect.shrink2(Vec2::new(0.5, 1.0));
    let painter = ui.painter();
    painter.rect_filled(inner, CornerRadius::same(2), segment.ground);
    if segment.framed {
        painter.rect_stroke(
            inner,
            2.0,
            Stroke::new(2.0, theme.plot.cursor.0),
            StrokeKind::Outside,
        );
    }
    let shown = format::token(segment.text);
    painter.text(
        pos2(rect.left() + 1.5, rect.center().y),
        egui::Align2::LEFT_CENTER,
        shown,
        font.clone(),
        segment.ink,
    );
}

/// Where each token stands: after the one before, in the next line where there is no room or where the one before ends a line.
fn lay_out(segments: &[Segment<'_>], width: f32, line: f32, advance: f32) -> Vec<Rect> {
    let (mut x, mut y) = (0.0, 0.0);
    let mut places = Vec::with_capacity(segments.len());
    for segment in segments {
        let characters = format::token(segment.text).chars().count().max(1);
        let wide = (characters as f32 * advance + 3.0).min(width.max(advance));
        if x > 0.0 && x + wide > width {
            x = 0.0;
            y += line;
        }
        places.push(Rect::from_min_size(pos2(x, y), Vec2::new(wide, line)));
        x += wide;
        if segment.text.ends_with('\n')
            || segment.text.contains('\n') && segment.text.trim().is_empty()
        {
            x = 0.0;
            y += line;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_line_ends_and_at_the_edge() {
        let segment = |text| Segment {
            text,
            ground: Color32::BLACK,
            ink: Color32::BLACK,
            framed: false,
        };
        let places = lay_out(
            &[
                segment("ab"),
                segment(";\n"),
                segment("x"),
                segment("much too long"),
            ],
            100.0,
            10.0,
            10.0,
        );
        assert_eq!(places[1].top(), 0.0);
        assert_eq!(places[2].min, pos2(0.0, 10.0));
        assert_eq!(places[3].min, pos2(0.0, 20.0));
        assert!(places.iter().all(|place| place.right() <= 100.0));
    }
}

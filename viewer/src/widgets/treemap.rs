use egui::text::{LayoutJob, TextWrapping};
use egui::{
    Color32, CornerRadius, FontId, Painter, Rect, Response, Sense, Stroke, StrokeKind, TextStyle,
    Ui, Vec2, pos2,
};

use crate::theme::Theme;

/// A tile of a [`TreeMap`].
pub struct Tile {
    /// Its name.
    pub name: String,
    /// What stands under the name.
    pub detail: String,
    /// Its size; tiles come from large to small.
    pub weight: f64,
    /// Its colour.
    pub color: Color32,
    /// What it is made of, from large to small; empty where it is one thing.
    pub parts: Vec<Tile>,
}

/// Rectangles whose areas are their weights (squarified, after Bruls, Huizing and van Wijk).
pub struct TreeMap<'a> {
    /// The tiles, from large to small.
    pub tiles: &'a [Tile],
}

impl TreeMap<'_> {
    /// Draws it into the rest of `ui`; the response, and the tile under the pointer with its part.
    pub fn show(&self, ui: &mut Ui, theme: &Theme) -> (Response, Option<(usize, Option<usize>)>) {
        let room = ui.available_rect_before_wrap();
        let response = ui.allocate_rect(room, Sense::click());
        let weights: Vec<f64> = self.tiles.iter().map(|tile| tile.weight).collect();
        let pointer = response.hover_pos();
        let small = TextStyle::Small.resolve(ui.style());
        let mut under = None;
        for (at, (tile, rect)) in self.tiles.iter().zip(squarify(&weights, room)).enumerate() {
            let head = small.size + 8.0;
            if tile.parts.len() > 1 && rect.height() > 3.0 * head && rect.width() > 60.0 {
                let rect = rect.shrink(1.0);
                let ground = theme.tint(tile.color, 0.28);
                ui.painter()
                    .rect_filled(rect, CornerRadius::same(4), ground);
                let title = format!("{}  {}", tile.name, tile.detail);
                let place = rect.min + Vec2::new(6.0, 4.0);
                let ink = theme.on(ground);
                write(
                    ui.painter(),
                    place,
                    &title,
                    &small,
                    ink,
                    rect.width() - 10.0,
                );
                if pointer.is_some_and(|pos| rect.contains(pos)) {
                    under = Some((at, None));
                }
                let inner = Rect::from_min_max(
                    rect.min + Vec2::new(2.0, head),
                    rect.max - Vec2::splat(2.0),
                );
                let part = flat(ui, theme, &tile.parts, inner, pointer);
                under = part.map(|part| (at, Some(part))).or(under);
            } else if flat(ui, theme, std::slice::from_ref(tile), rect, pointer).is_some() {
                under = Some((at, None));
            }
        }
        (response, under)
    }
}

/// Writes a line, cut where the room ends.
fn write(painter: &Painter, at: egui::Pos2, text: &str, font: &FontId, color: Color32, room: f32) {
    let mut job = LayoutJob::simple_singleline(text.to_owned(), font.clone(), color);
    job.wrap = TextWrapping::truncate_at_width(room);
    painter.galley(at, painter.layout_job(job), color);
}

/// Draws tiles without their parts; the one under the pointer.
fn flat(
    ui: &Ui,
    theme: &Theme,
    tiles: &[Tile],
    room: Rect,
    pointer: Option<egui::Pos2>,
) -> Option<usize> {
    let weights: Vec<f64> = tiles.iter().map(|tile| tile.weight).collect();
    let rects = squarify(&weights, room);
    let painter = ui.painter_at(room);
    let (small, body) = (
        TextStyle::Small.resolve(ui.style()),
        TextStyle::Body.resolve(ui.style()),
    );
    let mut under = None;
    for (at, (tile, rect)) in tiles.iter().zip(&rects).enumerate() {
        let rect = rect.shrink(1.0);
        if rect.width() < 0.5 || rect.height() < 0.5 {
            continue;
        }
        let hovered = pointer.is_some_and(|pos| rect.contains(pos));
        if hovered {
            under = Some(at);
        }
        painter.rect_filled(rect, CornerRadius::same(3), tile.color);
        if hovered {
            painter.rect_stroke(
                rect,
                3.0,
                Stroke::new(1.5, theme.plot.cursor.0),
                StrokeKind::Inside,
            );
        }
        if rect.height() < body.size + 8.0 || rect.width() < 40.0 {
            continue;
        }
        let ink = theme.on(tile.color);
        let corner = rect.min + Vec2::new(7.0, 5.0);
        let room = rect.width() - 12.0;
        write(&painter, corner, &tile.name, &body, ink, room);
        if rect.height() > body.size + small.size + 14.0 {
            let below = pos2(corner.x, corner.y + body.size + 5.0);
            write(
                &painter,
                below,
                &tile.detail,
                &small,
                ink.gamma_multiply(0.85),
                room,
            );
        }
    }
    under
}

/// A rectangle for each weight, weights from large to small; together they fill `room`.
pub fn squarify(weights: &[f64], room: Rect) -> Vec<Rect> {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return vec![Rect::from_min_size(room.min, Vec2::ZERO); weights.len()];
    }
    let scale = f64::from(room.width()) * f64::from(room.height()) / total;
    let areas: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let mut rects = Vec::with_capacity(areas.len());
    let mut left = room;
    let mut from = 0;
    while from < areas.len() {
        let side = f64::from(left.width().min(left.height()).max(f32::MIN_POSITIVE));
        let mut to = from + 1;
        while to < areas.len() && worst(&areas[from..=to], side) <= worst(&areas[from..to], side) {
            to += 1;
        }
        left = row(&areas[from..to], left, &mut rects);
        from = to;
    }
    rects
}

/// The greatest ratio of sides of a row along a side.
fn worst(areas: &[f64], side: f64) -> f64 {
    let sum: f64 = areas.iter().sum();
    let (least, most) = areas
        .iter()
        .fold((f64::INFINITY, 0.0f64), |(least, most), area| {
            (least.min(*area), most.max(*area))
        });
    if least <= 0.0 || sum <= 0.0 {
        return f64::INFINITY;
    }
    let square = side * side;
    (square * most / (sum * sum)).max(sum * sum / (square * least))
}

/// Lays a row along the shorter side, and says what is left.
fn row(areas: &[f64], room: Rect, rects: &mut Vec<Rect>) -> Rect {
    let sum: f64 = areas.iter().sum();
    let wide = room.width() >= room.height();
    let side = if wide { room.height() } else { room.width() };
    let depth = (sum / f64::from(side.max(f32::MIN_POSITIVE))) as f32;
    let mut along = 0.0;
    for area in areas {
        let length = if sum > 0.0 {
            side * (*area / sum) as f32
        } else {
            0.0
        };
        let corner = if wide {
            Vec2::new(0.0, along)
        } else {
            Vec2::new(along, 0.0)
        };
        let size = if wide {
            Vec2::new(depth, length)
        } else {
            Vec2::new(length, depth)
        };
        rects.push(Rect::from_min_size(room.min + corner, size));
        along += length;
    }
    let used = if wide {
        Vec2::new(depth, 0.0)
    } else {
        Vec2::new(0.0, depth)
    };
    Rect::from_min_max((room.min + used).min(room.max), room.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_the_weights_and_tiles_stay_inside() {
        let room = Rect::from_min_size(pos2(10.0, 20.0), Vec2::new(300.0, 200.0));
        let weights = [60.0, 30.0, 20.0, 10.0, 5.0, 1.0];
        let total: f64 = weights.iter().sum();
        let rects = squarify(&weights, room);
        assert_eq!(rects.len(), weights.len());
        for (rect, weight) in rects.iter().zip(weights) {
            let area = f64::from(rect.area());
            assert!(
                (area - 60_000.0 * weight / total).abs() < 60.0,
                "{rect:?} {weight}"
            );
            assert!(room.expand(0.5).contains_rect(*rect), "{rect:?}");
        }
        let square = rects[0].width() / rects[0].height();
        assert!((0.4..2.5).contains(&square), "{square}");
    }

    #[test]
    fn nothing_and_zeros_are_no_trouble() {
        let room = Rect::from_min_size(pos2(0.0, 0.0), Vec2::new(10.0, 10.0));
        assert!(squarify(&[], room).is_empty());
        assert!(
            squarify(&[0.0, 0.0], room)
                .iter()
                .all(|rect| rect.area() == 0.0)
        );
        assert_eq!(squarify(&[1.0, 0.0], room).len(), 2);
    }
}

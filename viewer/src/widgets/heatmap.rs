use egui::{
    Color32, ColorImage, CornerRadius, FontId, Id, Pos2, Rect, Response, Sense, Stroke, StrokeKind,
    TextStyle, TextureOptions, Ui, Vec2, pos2,
};

use super::axis;
use crate::theme::{Ramp, Theme};

/// Cells from this height and width on are set apart by thin lines.
const APART: f32 = 9.0;

/// A matrix of coloured cells with labelled rows and columns, as large as the room there is.
pub struct HeatMap<'a> {
    /// Tells it apart from the other ones of a panel.
    pub name: &'a str,
    /// Rows and columns.
    pub size: (usize, usize),
    /// Row by row; NaN where there is nothing.
    pub values: &'a [f32],
    /// The colours.
    pub ramp: &'a Ramp,
    /// A row's label.
    pub row: &'a dyn Fn(usize) -> String,
    /// A column's label.
    pub column: &'a dyn Fn(usize) -> String,
    /// What rows and columns are.
    pub titles: (&'a str, &'a str),
    /// What a cell says in itself, where there is room.
    pub text: Option<&'a dyn Fn(usize, usize) -> String>,
    /// Rows to set apart from the ones before them.
    pub breaks: &'a dyn Fn(usize) -> bool,
    /// A cell to frame.
    pub chosen: Option<(usize, usize)>,
    /// A column to mark with a line, as the time cursor does; parts of columns count.
    pub marker: Option<f32>,
}

/// What the pointer does on a [`HeatMap`].
pub struct HeatMapResponse {
    /// The grid's response.
    pub response: Response,
    /// The cell under the pointer.
    pub hovered: Option<(usize, usize)>,
    /// The cell that was clicked.
    pub clicked: Option<(usize, usize)>,
    /// Where along the columns the pointer was pressed or dragged, 0 to the number of columns.
    pub dragged: Option<f32>,
}

impl HeatMap<'_> {
    /// Draws it into the rest of `ui`.
    pub fn show(&self, ui: &mut Ui, theme: &Theme) -> HeatMapResponse {
        let (rows, columns) = self.size;
        let small = TextStyle::Small.resolve(ui.style());
        let (weak, normal) = (theme.text.weak.0, theme.text.normal.0);
        let left = axis::row_room(ui.painter(), rows, self.row, &small) + 10.0;
        let title = small.size + 5.0;
        let room = ui.available_rect_before_wrap();
        let grid = Rect::from_min_max(
            room.min + Vec2::new(left + title, small.size / 2.0),
            room.max - Vec2::new(6.0, small.size + 8.0 + title),
        );
        let response = ui.allocate_rect(room, Sense::click_and_drag());
        if rows == 0 || columns == 0 || grid.width() < 8.0 || grid.height() < 8.0 {
            return HeatMapResponse {
                response,
                hovered: None,
                clicked: None,
                dragged: None,
            };
        }
        let painter = ui.painter_at(room);
        self.cells(ui, grid, theme, &small);
        axis::rows(&painter, grid, rows, self.row, &small, normal);
        axis::columns(&painter, grid, columns, self.column, &small, normal);
        titles(&painter, room, grid, self.titles, &small, weak);

        let cell = Vec2::new(grid.width() / columns as f32, grid.height() / rows as f32);
        let cell_rect = |row: usize, column: usize| {
            Rect::from_min_size(
                grid.min + Vec2::new(column as f32 * cell.x, row as f32 * cell.y),
                cell,
            )
        };
        if let Some((row, column)) = self
            .chosen
            .filter(|(row, column)| *row < rows && *column < columns)
        {
            let frame = cell_rect(row, column).expand(1.0);
            painter.rect_stroke(
                frame,
                2.0,
                Stroke::new(3.0, theme.surface.panel.0),
                StrokeKind::Outside,
            );
            painter.rect_stroke(
                frame,
                2.0,
                Stroke::new(2.0, theme.plot.cursor.0),
                StrokeKind::Middle,
            );
        }
        if let Some(marker) = self
            .marker
            .filter(|marker| (0.0..=columns as f32).contains(marker))
        {
            let x = grid.left() + marker * cell.x;
            painter.vline(
                x,
                grid.y_range(),
                Stroke::new(3.0, theme.surface.panel.0.gamma_multiply(0.7)),
            );
            painter.vline(x, grid.y_range(), Stroke::new(1.0, theme.plot.cursor.0));
        }
        let place = |pos: Pos2| {
            let at = (pos - grid.min) / cell;
            (grid.contains(pos) && at.x >= 0.0 && at.y >= 0.0).then(|| {
                (
                    (at.y as usize).min(rows - 1),
                    (at.x as usize).min(columns - 1),
                )
            })
        };
        let hovered = response.hover_pos().and_then(place);
        if let Some((row, column)) = hovered {
            painter.rect_stroke(
                cell_rect(row, column),
                1.0,
                Stroke::new(1.0, theme.plot.cursor.0),
                StrokeKind::Outside,
            );
        }
        let pointer = response.interact_pointer_pos();
        HeatMapResponse {
            hovered,
            clicked: pointer.filter(|_| response.clicked()).and_then(place),
            dragged: pointer
                .filter(|pos| {
                    response.is_pointer_button_down_on() && grid.expand(12.0).contains(*pos)
                })
                .map(|pos| ((pos.x - grid.left()) / cell.x).clamp(0.0, columns as f32)),
            response,
        }
    }

    fn cells(&self, ui: &Ui, grid: Rect, theme: &Theme, font: &FontId) {
        let (rows, columns) = self.size;
        let pixels = self
            .values
            .iter()
            .map(|value| self.ramp.color(*value))
            .collect();
        let id: Id = ui.scope_id().with(self.name);
        let image = ColorImage::new([columns, rows], pixels);
        let texture = ui
            .ctx()
            .load_texture_cached(self.name, id, image, TextureOptions::NEAREST);
        let painter = ui.painter();
        let whole = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
        painter.image(texture.id(), grid, whole, Color32::WHITE);

        let cell = Vec2::new(grid.width() / columns as f32, grid.height() / rows as f32);
        let ground = theme.surface.panel.0;
        if cell.x >= 2.0 * APART {
            for column in 1..columns {
                painter.vline(
                    grid.left() + column as f32 * cell.x,
                    grid.y_range(),
                    Stroke::new(1.0, ground),
                );
            }
        }
        for row in 1..rows {
            let y = grid.top() + row as f32 * cell.y;
            let width = match ((self.breaks)(row), cell.y >= APART) {
                (true, true) => 4.0,
                (true, false) if cell.y >= 4.0 => 2.0,
                (false, true) => 1.0,
                _ => continue,
            };
            painter.hline(grid.x_range(), y, Stroke::new(width, ground));
        }
        if let Some(text) = self.text.filter(|_| cell.x >= 34.0 && cell.y >= 15.0) {
            for row in 0..rows {
                for column in 0..columns {
                    let value = self.values[row * columns + column];
                    if value.is_nan() {
                        continue;
                    }
                    let center = grid.min
                        + Vec2::new((column as f32 + 0.5) * cell.x, (row as f32 + 0.5) * cell.y);
                    let color = theme.on(self.ramp.color(value));
                    painter.text(
                        center,
                        egui::Align2::CENTER_CENTER,
                        text(row, column),
                        font.clone(),
                        color,
                    );
                }
            }
        }
        painter.rect_stroke(
            grid,
            CornerRadius::ZERO,
            Stroke::new(1.0, theme.surface.border.0),
            StrokeKind::Outside,
        );
    }
}

fn titles(
    painter: &egui::Painter,
    room: Rect,
    grid: Rect,
    titles: (&str, &str),
    font: &FontId,
    color: Color32,
) {
    let (rows, columns) = titles;
    painter.text(
        pos2(grid.center().x, room.bottom()),
        egui::Align2::CENTER_BOTTOM,
        columns,
        font.clone(),
        color,
    );
    let galley = painter.layout_no_wrap(rows.to_owned(), font.clone(), color);
    if galley.size().x > grid.height() + 2.0 * font.size {
        return;
    }
    let corner = pos2(room.left() + 1.0, grid.center().y + galley.size().x / 2.0);
    let upright = egui::epaint::TextShape::new(corner, galley, color)
        .with_angle(-std::f32::consts::FRAC_PI_2);
    painter.add(upright);
}

//! Dots in cells: eight a cell in braille, so that a small chart still shows a curve.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// Dots of a plot. What is drawn later lies on top, cell by cell.
pub(super) struct Dots {
    columns: usize,
    rows: usize,
    /// Which dots, and whose.
    cells: Vec<(u8, usize)>,
    styles: Vec<(Style, char)>,
}

/// The bit of a dot in braille, by column and row within its cell.
const BRAILLE: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

impl Dots {
    /// For an area.
    pub(super) fn new(area: Rect) -> Self {
        let (columns, rows) = (usize::from(area.width), usize::from(area.height));
        Self {
            columns,
            rows,
            cells: vec![(0, 0); columns * rows],
            styles: Vec::new(),
        }
    }

    /// Dots across.
    pub(super) fn width(&self) -> usize {
        self.columns * 2
    }

    /// Dots down.
    pub(super) fn height(&self) -> usize {
        self.rows * 4
    }

    /// Draws on top from now on, in this style; `plain` is the sign without braille.
    pub(super) fn layer(&mut self, style: Style, plain: char) {
        self.styles.push((style, plain));
    }

    /// A dot, from the left and from the top.
    pub(super) fn dot(&mut self, x: usize, y: usize) {
        if x >= self.width() || y >= self.height() {
            return;
        }
        let top = self.styles.len();
        let cell = &mut self.cells[y / 4 * self.columns + x / 2];
        if cell.1 != top {
            *cell = (0, top);
        }
        cell.0 |= BRAILLE[x % 2][y % 4];
    }

    /// Dots down a column.
    pub(super) fn bar(&mut self, x: usize, from: usize, to: usize) {
        for y in from.min(to)..=from.max(to) {
            self.dot(x, y);
        }
    }

    /// A line between two dots.
    pub(super) fn stroke(&mut self, from: (usize, usize), to: (usize, usize)) {
        let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
        for step in 0..=steps {
            let at = |a: usize, b: usize| {
                (a as f64 + (b as f64 - a as f64) * step as f64 / steps as f64).round() as usize
            };
            self.dot(at(from.0, to.0), at(from.1, to.1));
        }
    }

    /// Puts the dots on the screen.
    pub(super) fn draw(&self, area: Rect, buffer: &mut Buffer, ascii: bool) {
        for (index, &(dots, layer)) in self.cells.iter().enumerate() {
            if dots == 0 {
                continue;
            }
            let (x, y) = (index % self.columns, index / self.columns);
            let (style, plain) = self.styles[layer - 1];
            let symbol = if ascii {
                plain
            } else {
                char::from_u32(0x2800 + u32::from(dots)).unwrap_or(plain)
            };
            if let Some(cell) = buffer.cell_mut((area.x + x as u16, area.y + y as u16)) {
                cell.set_char(symbol).set_style(style);
            }
        }
    }
}

//! What fills memory, and when.

mod plan;
mod range;
mod step;
mod timeline;
mod tree;

pub use plan::{body as plan, controls as plan_controls};
pub use range::{body as range, controls as range_controls};
pub use step::{body as step, controls as step_controls};
pub use timeline::{body as timeline, controls as timeline_controls};
pub use tree::{body as tree, controls as tree_controls};

use egui::{Color32, Mesh, Pos2, Shape, Stroke, pos2};
use egui_plot::{PlotPoint, PlotUi};

use crate::theme::Theme;
use crate::widgets::chart;

/// Layers of a stack, drawn over one another.
struct Stack<'a> {
    kinds: &'a [String],
    /// `columns × kinds`: bytes.
    bytes: &'a [u64],
}

impl Stack<'_> {
    /// The upper edge of each layer at a column, from the bottom.
    fn edges(&self, column: usize) -> impl Iterator<Item = f64> {
        let count = self.kinds.len();
        let row = &self.bytes[column * count..(column + 1) * count];
        row.iter().scan(0.0, |sum, bytes| {
            *sum += *bytes as f64;
            Some(*sum)
        })
    }

    /// Draws columns as steps from `x` to `x`: what was measured holds until the next measurement.
    fn draw(&self, plot: &mut PlotUi<'_>, theme: &Theme, spans: &[(f64, f64)], alpha: f32) {
        let count = self.kinds.len();
        for kind in (0..count).rev() {
            let mut tops = Vec::with_capacity(spans.len() * 2);
            let mut floors = Vec::with_capacity(spans.len() * 2);
            let mut xs = Vec::with_capacity(spans.len() * 2);
            for (column, (from, to)) in spans.iter().enumerate() {
                let top = self.edges(column).nth(kind).unwrap_or(0.0);
                let floor = if kind == 0 {
                    0.0
                } else {
                    self.edges(column).nth(kind - 1).unwrap_or(0.0)
                };
                xs.extend([*from, *to]);
                tops.extend([top, top]);
                floors.extend([floor, floor]);
            }
            let color = theme.kind(&self.kinds[kind]).gamma_multiply(alpha);
            let area = egui_plot::FilledArea::new("", &xs, &floors, &tops)
                .fill_color(color)
                .allow_hover(false);
            plot.add(area);
        }
    }
}

/// The lines that a memory plot has beside the stack.
fn limits(
    plot: &mut PlotUi<'_>,
    theme: &Theme,
    limit: Option<u64>,
    planned: Option<u64>,
    (left, top): (f64, f64),
) {
    if let Some(planned) = planned {
        chart::level(
            plot,
            "planned peak",
            (left, planned as f64),
            (theme.plot.plan.0, theme.surface.panel.0),
            true,
        );
    }
    // A limit far above everything would flatten the drawing: it is in the summary then.
    if let Some(limit) = limit.filter(|limit| *limit as f64 <= top * 3.0) {
        chart::level(
            plot,
            "limit",
            (left, limit as f64),
            (theme.plot.limit.0, theme.surface.panel.0),
            false,
        );
    }
}

/// A line that holds each value until the next one.
fn stairs(spans: &[(f64, f64)], value: impl Fn(usize) -> Option<u64>) -> Vec<PlotPoint> {
    let mut points = Vec::with_capacity(spans.len() * 2);
    for (at, (from, to)) in spans.iter().enumerate() {
        if let Some(value) = value(at) {
            points.push(PlotPoint::new(*from, value as f64));
            points.push(PlotPoint::new(*to, value as f64));
        }
    }
    points
}

/// A hatching of thin slanted lines over a rectangle, which says "not measured".
fn hatch(painter: &egui::Painter, rect: egui::Rect, color: Color32) {
    let stroke = Stroke::new(1.0, color);
    let clip = painter.with_clip_rect(rect.intersect(painter.clip_rect()));
    let mut x = rect.left() - rect.height();
    while x < rect.right() {
        clip.line_segment(
            [pos2(x, rect.bottom()), pos2(x + rect.height(), rect.top())],
            stroke,
        );
        x += 6.0;
    }
}

/// A filled triangle that points at something below it.
fn pointer(at: Pos2, color: Color32) -> Shape {
    let mut mesh = Mesh::default();
    mesh.colored_vertex(pos2(at.x - 4.0, at.y - 6.0), color);
    mesh.colored_vertex(pos2(at.x + 4.0, at.y - 6.0), color);
    mesh.colored_vertex(at, color);
    mesh.add_triangle(0, 1, 2);
    Shape::mesh(mesh)
}

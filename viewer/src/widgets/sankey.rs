use egui::{
    Align2, Color32, CornerRadius, Mesh, Pos2, Rect, Response, Sense, Shape, Stroke, StrokeKind,
    TextStyle, Ui, Vec2, pos2,
};

use crate::theme::Theme;

/// A node of a [`Flow`].
pub struct FlowNode {
    /// Its stage, from the left.
    pub stage: usize,
    /// What it is called.
    pub name: String,
    /// Its share of its stage, 0 to 1.
    pub share: f32,
    /// Its colour.
    pub color: Color32,
}

/// A stream of a [`Flow`].
pub struct FlowLink {
    /// The node before and the node after.
    pub nodes: (usize, usize),
    /// Its width, as a share of the whole stream, 0 to 1.
    pub share: f32,
    /// How much it stands out, 0 to 1.
    pub strength: f32,
}

/// Streams between nodes in stages, from left to right: a Sankey diagram.
pub struct Flow<'a> {
    /// The nodes, by stage.
    pub nodes: &'a [FlowNode],
    /// The streams.
    pub links: &'a [FlowLink],
    /// The stages' names.
    pub stages: &'a [String],
    /// A node to frame.
    pub chosen: Option<usize>,
}

/// What the pointer does on a [`Flow`].
pub struct FlowResponse {
    /// The response of the whole.
    pub response: Response,
    /// The node under the pointer.
    pub node: Option<usize>,
    /// The stream under the pointer.
    pub link: Option<usize>,
}

const BAR: f32 = 11.0;
const PARTS: usize = 20;

struct Ribbon {
    from: Rect,
    to: Rect,
}

impl Ribbon {
    /// Its upper and lower edge at a part of the way.
    fn at(&self, part: f32) -> (Pos2, Pos2) {
        // The smooth step whose slope is 0 at both ends.
        let bend = part * part * (3.0 - 2.0 * part);
        let mix = |a: f32, b: f32| a + (b - a) * bend;
        let x = self.from.right() + (self.to.left() - self.from.right()) * part;
        (
            pos2(x, mix(self.from.top(), self.to.top())),
            pos2(x, mix(self.from.bottom(), self.to.bottom())),
        )
    }

    fn contains(&self, pos: Pos2) -> bool {
        let width = self.to.left() - self.from.right();
        let part = (pos.x - self.from.right()) / width.max(1.0);
        if !(0.0..=1.0).contains(&part) {
            return false;
        }
        let (top, bottom) = self.at(part);
        pos.y >= top.y - 0.5 && pos.y <= bottom.y + 0.5
    }

    fn shape(&self, from: Color32, to: Color32) -> Shape {
        let mut mesh = Mesh::default();
        for part in 0..=PARTS {
            let place = part as f32 / PARTS as f32;
            let (top, bottom) = self.at(place);
            let color = from.lerp_to_gamma(to, place);
            mesh.colored_vertex(top, color);
            mesh.colored_vertex(bottom, color);
            if part > 0 {
                let at = 2 * part as u32;
                mesh.add_triangle(at - 2, at - 1, at);
                mesh.add_triangle(at - 1, at, at + 1);
            }
        }
        Shape::mesh(mesh)
    }
}

impl Flow<'_> {
    /// Draws it into the rest of `ui`.
    pub fn show(&self, ui: &mut Ui, theme: &Theme) -> FlowResponse {
        let room = ui.available_rect_before_wrap();
        let response = ui.allocate_rect(room, Sense::click());
        let font = TextStyle::Small.resolve(ui.style());
        let mut shown = FlowResponse {
            response,
            node: None,
            link: None,
        };
        let stages = self.stages.len();
        if stages < 2 || room.width() < 80.0 || room.height() < 60.0 {
            return shown;
        }
        let area = Rect::from_min_max(
            room.min + Vec2::new(4.0, font.size + 8.0),
            room.max - Vec2::new(46.0, 4.0),
        );
        let bars = self.bars(area);
        let ribbons = self.ribbons(&bars);
        let painter = ui.painter_at(room);
        let pointer = shown.response.hover_pos();
        shown.node = pointer.and_then(|pos| {
            bars.iter()
                .position(|bar| bar.expand2(Vec2::new(4.0, 0.5)).contains(pos))
        });
        if shown.node.is_none() {
            // The last one drawn is on top.
            shown.link =
                pointer.and_then(|pos| ribbons.iter().rposition(|ribbon| ribbon.contains(pos)));
        }
        let focus = shown.node;
        for (at, (link, ribbon)) in self.links.iter().zip(&ribbons).enumerate() {
            if ribbon.from.height() < 0.15 {
                continue;
            }
            let (before, after) = link.nodes;
            let touched = focus.is_some_and(|node| node == before || node == after);
            let alpha = match (shown.link, focus) {
                (Some(link), _) if link == at => 0.85,
                (Some(_), _) => 0.10,
                (None, Some(_)) if touched => 0.75,
                (None, Some(_)) => 0.07,
                (None, None) => 0.12 + 0.55 * link.strength.clamp(0.0, 1.0),
            };
            let color = |node: usize| self.nodes[node].color.gamma_multiply(alpha);
            painter.add(ribbon.shape(color(before), color(after)));
        }
        for (at, (node, bar)) in self.nodes.iter().zip(&bars).enumerate() {
            painter.rect_filled(*bar, CornerRadius::same(2), node.color);
            if self.chosen == Some(at) || shown.node == Some(at) {
                painter.rect_stroke(
                    *bar,
                    2.0,
                    Stroke::new(1.5, theme.plot.cursor.0),
                    StrokeKind::Outside,
                );
            }
            if bar.height() >= font.size - 2.0 {
                let place = pos2(bar.right() + 4.0, bar.center().y);
                // A ground of its own keeps a name readable over streams.
                let galley =
                    painter.layout_no_wrap(node.name.clone(), font.clone(), theme.text.normal.0);
                let rect = Align2::LEFT_CENTER.anchor_size(place, galley.size());
                let ground = theme.surface.panel.0.gamma_multiply(0.7);
                painter.rect_filled(rect.expand2(Vec2::new(2.0, 0.0)), 2.0, ground);
                painter.galley(rect.min, galley, theme.text.normal.0);
            }
        }
        for (stage, name) in self.stages.iter().enumerate() {
            let x = stage_x(area, stage, stages) + BAR / 2.0;
            let align = if stage == 0 {
                Align2::LEFT_TOP
            } else {
                Align2::CENTER_TOP
            };
            let x = if stage == 0 { area.left() } else { x };
            painter.text(
                pos2(x, room.top()),
                align,
                name,
                font.clone(),
                theme.text.weak.0,
            );
        }
        shown
    }

    fn bars(&self, area: Rect) -> Vec<Rect> {
        let stages = self.stages.len();
        let mut counts = vec![0usize; stages];
        for node in self.nodes {
            counts[node.stage] += 1;
        }
        let mut below = vec![area.top(); stages];
        self.nodes
            .iter()
            .map(|node| {
                let count = counts[node.stage];
                let gap = (area.height() * 0.2 / count as f32).min(5.0);
                let height = area.height() - gap * count.saturating_sub(1) as f32;
                let x = stage_x(area, node.stage, stages);
                let top = below[node.stage];
                let rect = Rect::from_min_size(
                    pos2(x, top),
                    Vec2::new(BAR, (height * node.share).max(0.5)),
                );
                below[node.stage] = rect.bottom() + gap;
                rect
            })
            .collect()
    }

    fn ribbons(&self, bars: &[Rect]) -> Vec<Ribbon> {
        let mut out: Vec<f32> = bars.iter().map(Rect::top).collect();
        let mut into = out.clone();
        let sums = |of: fn(&FlowLink) -> usize| {
            let mut sums = vec![0.0f32; bars.len()];
            for link in self.links {
                sums[of(link)] += link.share;
            }
            sums
        };
        let (leaving, entering) = (sums(|link| link.nodes.0), sums(|link| link.nodes.1));
        self.links
            .iter()
            .map(|link| {
                let (before, after) = link.nodes;
                let part = |bar: usize, sum: f32, below: &mut f32| {
                    let height = bars[bar].height() * link.share / sum.max(f32::MIN_POSITIVE);
                    let rect =
                        Rect::from_min_size(pos2(bars[bar].left(), *below), Vec2::new(BAR, height));
                    *below += height;
                    rect
                };
                Ribbon {
                    from: part(before, leaving[before], &mut out[before]),
                    to: part(after, entering[after], &mut into[after]),
                }
            })
            .collect()
    }
}

fn stage_x(area: Rect, stage: usize, stages: usize) -> f32 {
    area.left() + (area.width() - BAR) * stage as f32 / (stages - 1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_fill_the_bars_they_leave_and_enter() {
        let node = |stage, share| FlowNode {
            stage,
            name: String::new(),
            share,
            color: Color32::BLACK,
        };
        let nodes = [node(0, 0.75), node(0, 0.25), node(1, 0.5), node(1, 0.5)];
        let link = |from, to, share| FlowLink {
            nodes: (from, to),
            share,
            strength: 1.0,
        };
        let links = [link(0, 2, 0.5), link(0, 3, 0.25), link(1, 3, 0.25)];
        let stages = ["a".to_owned(), "b".to_owned()];
        let flow = Flow {
            nodes: &nodes,
            links: &links,
            stages: &stages,
            chosen: None,
        };
        let bars = flow.bars(Rect::from_min_size(pos2(0.0, 0.0), Vec2::new(200.0, 100.0)));
        let ribbons = flow.ribbons(&bars);
        let total: f32 = ribbons.iter().map(|ribbon| ribbon.from.height()).sum();
        let heights: f32 = bars[..2].iter().map(Rect::height).sum();
        assert!((total - heights).abs() < 1e-3);
        assert!(
            (ribbons[1].to.bottom() - ribbons[2].to.top()).abs() < 1e-3,
            "they lie on one another"
        );
        assert!(ribbons[0].contains(ribbons[0].at(0.5).0 + Vec2::new(0.0, 1.0)));
        assert!(!ribbons[0].contains(pos2(-5.0, 0.0)));
    }
}

use egui::epaint::{ClippedPrimitive, Mesh, Primitive, Vertex, WHITE_UV};
use egui::{Color32, Pos2, TextureId};

use super::Canvas;
use super::span::{self, Corner, Paint};
use super::texture::{Texture, Textures};

/// Whole pixels: from left and top to before right and bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Bounds {
    pub fn intersect(self, other: Self) -> Self {
        Self {
            left: self.left.max(other.left),
            top: self.top.max(other.top),
            right: self.right.min(other.right),
            bottom: self.bottom.min(other.bottom),
        }
    }

    pub fn is_empty(self) -> bool {
        self.left >= self.right || self.top >= self.bottom
    }
}

/// A triangle, or two that make an upright rectangle of one colour, as letters and pictures are.
#[derive(Clone, Copy)]
pub struct Piece {
    primitive: u32,
    /// Its first index in the mesh.
    index: u32,
    rectangle: bool,
    /// The pixels that it may touch.
    pub bounds: Bounds,
}

/// All pieces of a frame, from back to front.
#[derive(Default)]
pub struct Pieces(Vec<Piece>);

/// A hash of two numbers.
pub fn mix(hash: u64, with: u64) -> u64 {
    // The halves of a product of 64-bit numbers, as in wyhash.
    let product =
        u128::from(hash ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(with ^ 0x8bb8_4b93_962e_acc9);
    (product as u64) ^ ((product >> 64) as u64)
}

fn hash_of(vertex: &Vertex) -> u64 {
    let pair = |at: Pos2| u64::from(at.x.to_bits()) << 32 | u64::from(at.y.to_bits());
    let color = u32::from_le_bytes(vertex.color.to_array());
    mix(mix(pair(vertex.pos), pair(vertex.uv)), color.into())
}

/// Whether a mesh's vertex is without texture.
fn plain(mesh: &Mesh, vertex: &Vertex) -> bool {
    mesh.texture_id == TextureId::default() && vertex.uv == WHITE_UV
}

impl Pieces {
    /// Takes a frame's meshes apart, and tells each piece that may be seen, with its number and hash.
    pub fn collect(
        &mut self,
        primitives: &[ClippedPrimitive],
        scale: f32,
        whole: Bounds,
        textures: &Textures,
        mut tell: impl FnMut(u32, &Piece, u64),
    ) {
        self.0.clear();
        for (
            number,
            ClippedPrimitive {
                clip_rect,
                primitive,
            },
        ) in primitives.iter().enumerate()
        {
            let Primitive::Mesh(mesh) = primitive else {
                continue;
            };
            let Some(texture) = textures.get(mesh.texture_id) else {
                continue;
            };
            let pixel = |points: f32| (points * scale).round() as i32;
            let clip = Bounds {
                left: pixel(clip_rect.min.x),
                top: pixel(clip_rect.min.y),
                right: pixel(clip_rect.max.x),
                bottom: pixel(clip_rect.max.y),
            };
            let clip = clip.intersect(whole);
            if clip.is_empty() {
                continue;
            }
            let clip_hash = mix(
                (clip.left as u64) << 32 | clip.top as u64,
                (clip.right as u64) << 32 | clip.bottom as u64,
            );
            let mut index = 0;
            while index + 3 <= mesh.indices.len() {
                let rectangle = rectangle(mesh, index).is_some();
                let count = if rectangle { 4 } else { 3 };
                let corners = corners(mesh, index, count);
                let piece = Piece {
                    primitive: number as u32,
                    index: index as u32,
                    rectangle,
                    bounds: touched(&corners[..count], scale).intersect(clip),
                };
                index += if rectangle { 6 } else { 3 };
                let invisible = corners[..count]
                    .iter()
                    .all(|corner| corner.color == Color32::TRANSPARENT);
                if piece.bounds.is_empty() || invisible {
                    continue;
                }
                let mut hash = corners[..count]
                    .iter()
                    .fold(clip_hash, |hash, corner| mix(hash, hash_of(corner)));
                if !corners[..count].iter().all(|corner| plain(mesh, corner)) {
                    hash = mix(hash, texture.version);
                }
                tell(self.0.len() as u32, &piece, hash);
                self.0.push(piece);
            }
        }
    }

    /// Draws a piece onto a canvas.
    pub fn draw(
        &self,
        piece: u32,
        primitives: &[ClippedPrimitive],
        scale: f32,
        textures: &Textures,
        canvas: &mut Canvas<'_>,
    ) {
        let piece = &self.0[piece as usize];
        let Primitive::Mesh(mesh) = &primitives[piece.primitive as usize].primitive else {
            return;
        };
        let Some(texture) = textures.get(mesh.texture_id) else {
            return;
        };
        let bounds = piece.bounds.intersect(canvas.bounds);
        let index = piece.index as usize;
        if piece.rectangle {
            let [first, .., last] = corners(mesh, index, 4);
            let paint = paint(mesh, texture, &[first, last]);
            span::rectangle(
                canvas,
                bounds,
                &paint,
                corner(first, texture, scale),
                corner(last, texture, scale),
            );
        } else {
            let [a, b, c, _] = corners(mesh, index, 3);
            let paint = paint(mesh, texture, &[a, b, c]);
            span::triangle(
                canvas,
                bounds,
                &paint,
                [a, b, c].map(|vertex| corner(vertex, texture, scale)),
            );
        }
    }
}

/// What fills a piece.
fn paint<'a>(mesh: &Mesh, texture: &'a Texture, corners: &[&Vertex]) -> Paint<'a> {
    Paint {
        texture: (!corners.iter().all(|corner| plain(mesh, corner))).then_some(texture),
        color: corners
            .iter()
            .all(|corner| corner.color == corners[0].color)
            .then(|| corners[0].color.to_array()),
    }
}

fn corner(vertex: &Vertex, texture: &Texture, scale: f32) -> Corner {
    Corner {
        at: [vertex.pos.x * scale, vertex.pos.y * scale],
        texel: [
            vertex.uv.x * texture.width as f32,
            vertex.uv.y * texture.height as f32,
        ],
        color: vertex.color.to_array().map(f32::from),
    }
}

/// The vertices of a piece: three, or the four of a rectangle from its upper left to its lower right corner.
fn corners(mesh: &Mesh, index: usize, count: usize) -> [&Vertex; 4] {
    let vertex = |at: usize| &mesh.vertices[mesh.indices[index + at] as usize];
    let last = if count == 4 {
        rectangle(mesh, index).unwrap_or(2)
    } else {
        2
    };
    [vertex(0), vertex(1), vertex(2), vertex(last)]
}

/// Where the fourth corner is among the six indices, if two triangles from `index` on are an upright rectangle of one
/// colour.
fn rectangle(mesh: &Mesh, index: usize) -> Option<usize> {
    let indices = mesh.indices.get(index..index + 6)?;
    let &[a, b, c, d, e, f] = indices else {
        return None;
    };
    // As egui writes letters and pictures.
    if !((d == c && e == b) || (d == b && e == c)) {
        return None;
    }
    let [first, right, below, last] = [a, b, c, f].map(|at| &mesh.vertices[at as usize]);
    let upright = |first: Pos2, right: Pos2, below: Pos2, last: Pos2| {
        first.y == right.y && first.x == below.x && last.x == right.x && last.y == below.y
    };
    let same = [right, below, last]
        .iter()
        .all(|corner| corner.color == first.color);
    let ordered = first.pos.x < last.pos.x && first.pos.y < last.pos.y;
    (same
        && ordered
        && upright(first.pos, right.pos, below.pos, last.pos)
        && upright(first.uv, right.uv, below.uv, last.uv))
    .then_some(5)
}

/// The pixels whose centres may be inside; none for places that are no numbers.
fn touched(corners: &[&Vertex], scale: f32) -> Bounds {
    let nothing = Bounds {
        left: 0,
        top: 0,
        right: 0,
        bottom: 0,
    };
    let (mut min, mut max) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    for corner in corners {
        for (side, at) in [corner.pos.x, corner.pos.y].into_iter().enumerate() {
            if !at.is_finite() {
                return nothing;
            }
            min[side] = min[side].min(at * scale);
            max[side] = max[side].max(at * scale);
        }
    }
    // Casts of numbers that are too large end at the largest.
    let whole = |at: f32| at as i32;
    Bounds {
        left: whole((min[0] - 0.51).ceil()),
        top: whole((min[1] - 0.51).ceil()),
        right: whole((max[0] - 0.49).ceil()),
        bottom: whole((max[1] - 0.49).ceil()),
    }
}

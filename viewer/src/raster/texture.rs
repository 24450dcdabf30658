use std::collections::HashMap;

use egui::epaint::ImageData;
use egui::{TextureFilter, TextureId, TextureOptions, TextureWrapMode, TexturesDelta};

use super::pixel::{Pixel, rounded};

/// A texture, as egui hands it over.
pub struct Texture {
    pub width: usize,
    pub height: usize,
    texels: Vec<Pixel>,
    pub smooth: bool,
    wrap: TextureWrapMode,
    /// Another number after every change, of all textures.
    pub version: u64,
}

/// All textures there are.
#[derive(Default)]
pub struct Textures {
    known: HashMap<TextureId, Texture>,
    versions: u64,
}

impl Textures {
    pub fn get(&self, id: TextureId) -> Option<&Texture> {
        self.known.get(&id)
    }

    pub fn set(&mut self, delta: &mut TexturesDelta) {
        for (id, deltas) in delta.set.drain() {
            for delta in deltas {
                self.versions += 1;
                let ImageData::Color(image) = &delta.image;
                let [width, height] = image.size;
                let texels = || image.pixels.iter().map(|color| color.to_array());
                match (delta.pos, self.known.get_mut(&id)) {
                    (Some([left, top]), Some(texture)) => {
                        let right = (left + width).min(texture.width);
                        if right <= left {
                            continue;
                        }
                        let rows = texture.texels.chunks_mut(texture.width).skip(top);
                        for (to, from) in rows.zip(image.pixels.chunks(width)) {
                            for (to, from) in to[left..right].iter_mut().zip(from) {
                                *to = from.to_array();
                            }
                        }
                        texture.version = self.versions;
                    }
                    (None, _) => {
                        let TextureOptions {
                            magnification,
                            wrap_mode,
                            ..
                        } = delta.options;
                        let texture = Texture {
                            width,
                            height,
                            texels: texels().collect(),
                            smooth: magnification == TextureFilter::Linear,
                            wrap: wrap_mode,
                            version: self.versions,
                        };
                        self.known.insert(id, texture);
                    }
                    // A part of a texture that was never there.
                    (Some(_), None) => {}
                }
            }
        }
    }

    pub fn free(&mut self, delta: &mut TexturesDelta) {
        for id in delta.free.drain() {
            self.known.remove(&id);
        }
    }
}

impl Texture {
    /// The texel at a column and row, which may be outside.
    fn texel(&self, column: i32, row: i32) -> Pixel {
        let inside = |at: i32, count: usize| {
            let count = count as i32;
            (match self.wrap {
                TextureWrapMode::ClampToEdge => at.clamp(0, count - 1),
                TextureWrapMode::Repeat => at.rem_euclid(count),
                TextureWrapMode::MirroredRepeat => {
                    let phase = at.rem_euclid(2 * count);
                    phase.min(2 * count - 1 - phase)
                }
            }) as usize
        };
        self.texels[inside(row, self.height) * self.width + inside(column, self.width)]
    }

    /// Texels of a row from a column on, where they all are inside.
    pub fn row(&self, column: i32, row: i32, count: usize) -> Option<&[Pixel]> {
        let (column, row) = (usize::try_from(column).ok()?, usize::try_from(row).ok()?);
        if row >= self.height || column + count > self.width {
            return None;
        }
        let start = row * self.width + column;
        self.texels.get(start..start + count)
    }

    /// The colour at a place, in texels.
    pub fn sample(&self, x: f32, y: f32) -> Pixel {
        if !self.smooth {
            return self.texel(x.floor() as i32, y.floor() as i32);
        }
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right_part, bottom_part) = (x - left, y - top);
        let (left, top) = (left as i32, top as i32);
        let corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
            .map(|(right, down)| self.texel(left + right, top + down));
        let parts = [
            (1.0 - right_part) * (1.0 - bottom_part),
            right_part * (1.0 - bottom_part),
            (1.0 - right_part) * bottom_part,
            right_part * bottom_part,
        ];
        let mut sum = [0.0; 4];
        for (corner, part) in corners.into_iter().zip(parts) {
            for (sum, channel) in sum.iter_mut().zip(corner) {
                *sum += part * f32::from(channel);
            }
        }
        rounded(sum)
    }
}

//! Pixels by the processor: what egui draws, without a graphics driver.
//!
//! Files are painted by it, so that they need no adapter and look alike on every machine, and so is the window where the
//! adapter is a processor too ([`paint_by_processor`]): the shaders that a software driver compiles take five to twenty
//! times as long for the same picture, and paint all of it again for every frame.
//!
//! A frame is cut into tiles. Each knows a hash of the triangles that touch it, and is painted anew only if that changed:
//! a moved cursor costs what it moved over. Rules of coverage, filtering and blending are those of a graphics card, so
//! that the picture is the same within rounding.

mod pieces;
mod pixel;
mod present;
mod span;
#[cfg(test)]
mod tests;
mod texture;

use std::num::NonZero;
use std::sync::Mutex;

use egui::TexturesDelta;
use egui::epaint::ClippedPrimitive;

pub use present::paint_by_processor;

use pieces::{Bounds, Piece, Pieces};
use pixel::{BLACK, Pixel};
use texture::Textures;

/// Width of a tile, pixels.
const TILE_WIDTH: usize = 64;
/// Its height: tiles side by side make a band, which one thread paints.
const TILE_HEIGHT: usize = 32;

/// A picture that is painted again and again.
#[derive(Default)]
pub struct Raster {
    width: usize,
    height: usize,
    pixels: Vec<Pixel>,
    textures: Textures,
    tiles: Vec<Tile>,
    pieces: Pieces,
}

#[derive(Clone, Default)]
struct Tile {
    /// The pieces that touch it, in order.
    pieces: Vec<u32>,
    hash: u64,
    /// The hash of what is on the picture.
    painted: u64,
    /// Whether it changed since it was last taken away.
    changed: bool,
}

/// Pixels of the picture, row by row, that changed together.
pub struct Patch<'a> {
    /// Columns from the left and rows from the top.
    pub at: [usize; 2],
    /// Width and height.
    pub size: [usize; 2],
    /// The bytes from its first pixel on; a row begins [`Raster::stride`] bytes after the one before it.
    pub bytes: &'a [u8],
}

impl Raster {
    /// Takes over changes of textures, all but those that are to be forgotten: these may still be painted with.
    pub fn set_textures(&mut self, delta: &mut TexturesDelta) {
        self.textures.set(delta);
    }

    /// Forgets textures that are no longer painted with.
    pub fn free_textures(&mut self, delta: &mut TexturesDelta) {
        self.textures.free(delta);
    }

    /// Paints triangles, of `scale` pixels a point, into a picture of `size` pixels.
    pub fn paint(&mut self, primitives: &[ClippedPrimitive], scale: f32, size: [usize; 2]) {
        self.resize(size);
        self.sort(primitives, scale);
        let columns = self.columns();
        let dirty = self.tiles.iter().filter(|tile| tile.dirty()).count();
        if dirty > 0 {
            let (width, pieces, textures) = (self.width, &self.pieces, &self.textures);
            let bands = self
                .pixels
                .chunks_mut(width * TILE_HEIGHT)
                .zip(self.tiles.chunks_mut(columns))
                .enumerate()
                .filter(|(_, (_, tiles))| tiles.iter().any(Tile::dirty));
            let bands = Mutex::new(bands);
            let work = || {
                loop {
                    let Some((band, (pixels, tiles))) =
                        bands.lock().ok().and_then(|mut bands| bands.next())
                    else {
                        return;
                    };
                    for (column, tile) in tiles
                        .iter_mut()
                        .enumerate()
                        .filter(|(_, tile)| tile.dirty())
                    {
                        let mut canvas = Canvas::tile(pixels, width, band, column);
                        canvas.clear();
                        for piece in &tile.pieces {
                            pieces.draw(*piece, primitives, scale, textures, &mut canvas);
                        }
                        tile.painted = tile.hash;
                        tile.changed = true;
                    }
                }
            };
            let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
            // A thread takes as long to start as some tiles to paint.
            let helpers = (threads - 1).min(dirty / 8).min(7);
            std::thread::scope(|scope| {
                for _ in 0..helpers {
                    scope.spawn(work);
                }
                work();
            });
        }
    }

    /// Width and height, pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// Bytes from a row to the next one.
    pub fn stride(&self) -> usize {
        self.width * size_of::<Pixel>()
    }

    /// The whole picture: red, green, blue and alpha of every pixel, row by row.
    pub fn bytes(&self) -> &[u8] {
        self.pixels.as_flattened()
    }

    /// Hands what changed since the last time to `take`, neighbours together: a driver takes its time for every patch,
    /// however small.
    pub fn take_changes(&mut self, mut take: impl FnMut(Patch<'_>)) {
        let columns = self.columns().max(1);
        // Runs of tiles, first and after last, and the band where each began; bands that changed alike go on with them.
        let mut open: Vec<(usize, usize, usize)> = Vec::new();
        let mut closed: Vec<(usize, usize, usize, usize)> = Vec::new();
        let bands = self.tiles.len() / columns;
        for band in 0..=bands {
            let tiles = self.tiles.iter_mut().skip(band * columns).take(columns);
            let changed: Vec<bool> = tiles
                .map(|tile| std::mem::take(&mut tile.changed))
                .collect();
            let mut runs: Vec<(usize, usize, usize)> = Vec::new();
            for (column, _) in changed.iter().enumerate().filter(|(_, changed)| **changed) {
                match runs.last_mut() {
                    Some((_, end, _)) if *end == column => *end = column + 1,
                    _ => runs.push((column, column + 1, band)),
                }
            }
            for (first, end, began) in open {
                match runs.iter_mut().find(|run| (run.0, run.1) == (first, end)) {
                    Some(run) => run.2 = began,
                    None => closed.push((first, end, began, band)),
                }
            }
            open = runs;
        }
        for (first, end, began, ended) in closed {
            let (left, top) = (first * TILE_WIDTH, began * TILE_HEIGHT);
            let size = [
                (end * TILE_WIDTH).min(self.width) - left,
                (ended * TILE_HEIGHT).min(self.height) - top,
            ];
            let start = top * self.width + left;
            let end = start + (size[1] - 1) * self.width + size[0];
            take(Patch {
                at: [left, top],
                size,
                bytes: self.pixels[start..end].as_flattened(),
            });
        }
    }

    fn columns(&self) -> usize {
        self.width.div_ceil(TILE_WIDTH)
    }

    fn resize(&mut self, [width, height]: [usize; 2]) {
        if [width, height] != self.size() {
            (self.width, self.height) = (width, height);
            self.pixels = vec![BLACK; width * height];
            let count = self.columns() * height.div_ceil(TILE_HEIGHT);
            self.tiles = vec![Tile::default(); count];
        }
    }

    /// Tells every tile which pieces touch it.
    fn sort(&mut self, primitives: &[ClippedPrimitive], scale: f32) {
        for tile in &mut self.tiles {
            tile.pieces.clear();
            // An empty tile is not one that was never painted. Pieces are told in points: what a
            // point is belongs to them.
            tile.hash = pieces::mix(1, scale.to_bits().into());
        }
        let whole = Bounds {
            left: 0,
            top: 0,
            right: self.width as i32,
            bottom: self.height as i32,
        };
        let columns = self.columns();
        let tiles = &mut self.tiles;
        self.pieces.collect(
            primitives,
            scale,
            whole,
            &self.textures,
            |at, piece: &Piece, hash| {
                let Bounds {
                    left,
                    top,
                    right,
                    bottom,
                } = piece.bounds;
                for row in top as usize / TILE_HEIGHT..=(bottom as usize - 1) / TILE_HEIGHT {
                    for column in left as usize / TILE_WIDTH..=(right as usize - 1) / TILE_WIDTH {
                        let tile = &mut tiles[row * columns + column];
                        tile.pieces.push(at);
                        tile.hash = pieces::mix(tile.hash, hash);
                    }
                }
            },
        );
    }
}

impl Tile {
    fn dirty(&self) -> bool {
        self.hash != self.painted
    }
}

/// The part of the picture that is painted.
struct Canvas<'a> {
    /// Rows of a band.
    pixels: &'a mut [Pixel],
    stride: usize,
    /// The band's first row in the picture.
    first: i32,
    /// The part, in the picture.
    bounds: Bounds,
}

impl<'a> Canvas<'a> {
    fn tile(pixels: &'a mut [Pixel], stride: usize, band: usize, column: usize) -> Self {
        let (left, top) = (column * TILE_WIDTH, band * TILE_HEIGHT);
        let bounds = Bounds {
            left: left as i32,
            top: top as i32,
            right: (left + TILE_WIDTH).min(stride) as i32,
            bottom: (top + pixels.len() / stride) as i32,
        };
        Self {
            pixels,
            stride,
            first: top as i32,
            bounds,
        }
    }

    fn clear(&mut self) {
        let Bounds {
            left,
            top,
            right,
            bottom,
        } = self.bounds;
        for row in top..bottom {
            self.row(row, left, right).fill(BLACK);
        }
    }

    /// Pixels of a row, from one column to before another; both inside of the bounds.
    fn row(&mut self, row: i32, left: i32, right: i32) -> &mut [Pixel] {
        let start = (row - self.first) as usize * self.stride;
        &mut self.pixels[start + left as usize..start + right as usize]
    }
}

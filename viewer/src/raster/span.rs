use super::Canvas;
use super::pieces::Bounds;
use super::pixel::{Pixel, fill, multiply, over, rounded};
use super::texture::Texture;

/// A corner of a piece.
#[derive(Clone, Copy)]
pub struct Corner {
    /// Pixels from the upper left of the picture.
    pub at: [f32; 2],
    /// Texels from the upper left of the texture.
    pub texel: [f32; 2],
    /// 0 to 255.
    pub color: [f32; 4],
}

/// What fills a piece.
pub struct Paint<'a> {
    pub texture: Option<&'a Texture>,
    /// The colour, where it is one.
    pub color: Option<Pixel>,
}

/// A number that grows by so much a column and a row.
#[derive(Clone, Copy, Default)]
struct Slope {
    /// At the centre of the picture's first pixel.
    start: f64,
    column: f64,
    row: f64,
}

impl Slope {
    /// At the centre of a pixel.
    fn at(self, column: i32, row: i32) -> f32 {
        (self.start + self.column * f64::from(column) + self.row * f64::from(row)) as f32
    }
}

/// What is told of every pixel.
struct Slopes {
    texel: [Slope; 2],
    color: [Slope; 4],
}

/// Parts of a pixel that places are rounded to, as graphics cards do.
const PARTS: f64 = 256.0;
/// Places farther out than this many pixels are taken for as far out.
const FAR: f64 = (1 << 21) as f64;

fn fixed(place: f32) -> i64 {
    (f64::from(place).clamp(-FAR, FAR) * PARTS).round() as i64
}

/// The first pixel whose centre is not left of a place.
fn first_pixel(place: f32) -> i32 {
    let half = PARTS as i64 / 2;
    (fixed(place) - half + PARTS as i64 - 1).div_euclid(PARTS as i64) as i32
}

/// Fills an upright rectangle of one colour.
pub fn rectangle(
    canvas: &mut Canvas<'_>,
    bounds: Bounds,
    paint: &Paint<'_>,
    from: Corner,
    to: Corner,
) {
    let bounds = bounds.intersect(Bounds {
        left: first_pixel(from.at[0]),
        top: first_pixel(from.at[1]),
        right: first_pixel(to.at[0]),
        bottom: first_pixel(to.at[1]),
    });
    if bounds.is_empty() {
        return;
    }
    let along = |side: usize| {
        let [low, high] = [from.at[side], to.at[side]].map(f64::from);
        let [first, last] = [from.texel[side], to.texel[side]].map(f64::from);
        let step = (last - first) / (high - low);
        (first + (0.5 - low) * step, step)
    };
    let ((start_x, column), (start_y, row)) = (along(0), along(1));
    let texel = [
        Slope {
            start: start_x,
            column,
            row: 0.0,
        },
        Slope {
            start: start_y,
            column: 0.0,
            row,
        },
    ];
    let slopes = Slopes {
        texel,
        color: [Slope::default(); 4],
    };
    for row in bounds.top..bounds.bottom {
        span(canvas, row, (bounds.left, bounds.right), paint, &slopes);
    }
}

/// Fills a triangle: the pixels whose centres are inside, of those on an edge the ones on left and top edges, so that
/// neighbours neither overlap nor leave gaps.
pub fn triangle(canvas: &mut Canvas<'_>, bounds: Bounds, paint: &Paint<'_>, corners: [Corner; 3]) {
    let [a, mut b, mut c] = corners.map(|corner| (corner, corner.at.map(fixed)));
    let twice = |a: [i64; 2], b: [i64; 2], c: [i64; 2]| {
        (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    };
    let area = twice(a.1, b.1, c.1);
    if area == 0 || bounds.is_empty() {
        return;
    }
    if area < 0 {
        std::mem::swap(&mut b, &mut c);
    }
    let center = |pixel: i32| i64::from(pixel) * PARTS as i64 + PARTS as i64 / 2;
    let (x, y) = (center(bounds.left), center(bounds.top));
    let mut edges = [(a.1, b.1), (b.1, c.1), (c.1, a.1)].map(|([ax, ay], [bx, by])| {
        let (column, row) = (ay - by, bx - ax);
        let on_edge = column > 0 || (column == 0 && row > 0);
        let value = column * (x - ax) + row * (y - ay) - i64::from(!on_edge);
        (value, column * PARTS as i64, row * PARTS as i64)
    });
    let slopes = slopes(paint, [a.0, b.0, c.0]);
    for row in bounds.top..bounds.bottom {
        let (mut left, mut right) = (0, i64::from(bounds.right - bounds.left));
        for (value, column, down) in &mut edges {
            // Where the edge's sign changes; quotients are exact enough in 64 bits wherever pixels are.
            if *column > 0 {
                left = left.max((-(*value as f64) / *column as f64).ceil() as i64);
            } else if *column < 0 {
                right = right.min((*value as f64 / -*column as f64).floor() as i64 + 1);
            } else if *value < 0 {
                right = 0;
            }
            *value += *down;
        }
        if left < right {
            let columns = (bounds.left + left as i32, bounds.left + right as i32);
            span(canvas, row, columns, paint, &slopes);
        }
    }
}

fn slopes(paint: &Paint<'_>, corners: [Corner; 3]) -> Slopes {
    let [a, b, c] = corners;
    let place = |corner: Corner| corner.at.map(f64::from);
    let ([ax, ay], [bx, by], [cx, cy]) = (place(a), place(b), place(c));
    let area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
    let slope = |of: &dyn Fn(&Corner) -> f32| {
        let [at_a, at_b, at_c] = [&a, &b, &c].map(|corner| f64::from(of(corner)));
        if area == 0.0 {
            return Slope {
                start: at_a,
                ..Slope::default()
            };
        }
        let (to_b, to_c) = (at_b - at_a, at_c - at_a);
        let column = (to_b * (cy - ay) - to_c * (by - ay)) / area;
        let row = (to_c * (bx - ax) - to_b * (cx - ax)) / area;
        Slope {
            start: at_a + column * (0.5 - ax) + row * (0.5 - ay),
            column,
            row,
        }
    };
    Slopes {
        texel: match paint.texture {
            Some(_) => [0, 1].map(|side| slope(&|corner| corner.texel[side])),
            None => [Slope::default(); 2],
        },
        color: match paint.color {
            None => [0, 1, 2, 3].map(|channel| slope(&|corner| corner.color[channel])),
            Some(_) => [Slope::default(); 4],
        },
    }
}

fn span(
    canvas: &mut Canvas<'_>,
    row: i32,
    (left, right): (i32, i32),
    paint: &Paint<'_>,
    slopes: &Slopes,
) {
    let pixels = canvas.row(row, left, right);
    match (paint.texture, paint.color) {
        (None, Some(color)) => fill(pixels, color),
        (Some(texture), Some(color)) => textured(pixels, texture, color, slopes, left, row),
        (texture, None) => {
            let mut color = slopes.color.map(|slope| slope.at(left, row));
            let step = slopes.color.map(|slope| slope.column as f32);
            for (pixel, column) in pixels.iter_mut().zip(left..) {
                // Rounding may leave the corners' colours by a little.
                let own = rounded(color);
                over(
                    pixel,
                    texture.map_or(own, |texture| {
                        let [x, y] = slopes.texel.map(|slope| slope.at(column, row));
                        multiply(own, texture.sample(x, y))
                    }),
                );
                for (color, step) in color.iter_mut().zip(step) {
                    *color += step;
                }
            }
        }
    }
}

/// How far a place may be from the middle of a texel, or a step from one texel, to be taken for it.
const NEAR: f32 = 1.0 / 64.0;

fn textured(
    pixels: &mut [Pixel],
    texture: &Texture,
    color: Pixel,
    slopes: &Slopes,
    left: i32,
    row: i32,
) {
    let [along, down] = slopes.texel;
    let [x, y] = slopes.texel.map(|slope| slope.at(left, row));
    let straight = down.column == 0.0;
    let white = color == [255; 4];
    let tinted = |texel: Pixel| if white { texel } else { multiply(texel, color) };
    // Letters: a texel a pixel, none between two.
    let aligned = |place: f32| (place - place.floor() - 0.5).abs() < NEAR;
    if straight
        && (along.column as f32 - 1.0).abs() * pixels.len() as f32 <= NEAR
        && aligned(x)
        && aligned(y)
        && let Some(texels) = texture.row(x.floor() as i32, y.floor() as i32, pixels.len())
    {
        for (pixel, texel) in pixels.iter_mut().zip(texels) {
            if *texel != [0; 4] {
                over(pixel, tinted(*texel));
            }
        }
        return;
    }
    if straight && !texture.smooth {
        // Pictures of cells: a cell is many pixels.
        let mut at = 0;
        let place = |at: usize| along.at(left + at as i32, row).floor();
        while at < pixels.len() {
            let cell = place(at);
            let mut end = at + 1;
            while end < pixels.len() && place(end) == cell {
                end += 1;
            }
            fill(&mut pixels[at..end], tinted(texture.sample(cell + 0.5, y)));
            at = end;
        }
        return;
    }
    for (pixel, column) in pixels.iter_mut().zip(left..) {
        let [x, y] = slopes.texel.map(|slope| slope.at(column, row));
        over(pixel, tinted(texture.sample(x, y)));
    }
}

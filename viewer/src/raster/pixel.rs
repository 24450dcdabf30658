/// Red, green, blue and alpha; colours are multiplied by alpha, as egui's are.
pub type Pixel = [u8; 4];

/// What a picture is before anything is painted.
pub const BLACK: Pixel = [0, 0, 0, 255];

/// The product of two parts of 255, rounded.
fn product(a: u32, b: u32) -> u32 {
    let product = a * b + 128;
    (product + (product >> 8)) >> 8
}

/// Both colours multiplied.
pub fn multiply(a: Pixel, b: Pixel) -> Pixel {
    std::array::from_fn(|channel| product(a[channel].into(), b[channel].into()) as u8)
}

/// Puts a colour over a pixel.
#[inline]
pub fn over(below: &mut Pixel, color: Pixel) {
    let rest = u32::from(255 - color[3]);
    for (below, color) in below.iter_mut().zip(color) {
        // Colours brighter than their alpha add light, up to white.
        *below = (u32::from(color) + product((*below).into(), rest)).min(255) as u8;
    }
}

/// Puts a colour over pixels.
pub fn fill(pixels: &mut [Pixel], color: Pixel) {
    if color[3] == 255 {
        pixels.fill(color);
    } else {
        pixels.iter_mut().for_each(|pixel| over(pixel, color));
    }
}

/// The nearest colour of four numbers, 0 to 255.
pub fn rounded(color: [f32; 4]) -> Pixel {
    color.map(|channel| (channel + 0.5) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_rounded_as_exact_ones_are() {
        for a in 0..=255u32 {
            for b in 0..=255u32 {
                let exact = (f64::from(a) * f64::from(b) / 255.0).round() as u32;
                assert_eq!(product(a, b), exact, "{a} {b}");
            }
        }
    }

    #[test]
    fn nothing_changes_under_what_is_transparent_and_all_does_under_what_is_not() {
        let mut pixel = [10, 20, 30, 255];
        over(&mut pixel, [0; 4]);
        assert_eq!(pixel, [10, 20, 30, 255]);
        over(&mut pixel, [1, 2, 3, 255]);
        assert_eq!(pixel, [1, 2, 3, 255]);
        over(&mut pixel, [255, 255, 255, 0]);
        assert_eq!(pixel, [255; 4], "light that is added ends at white");
    }
}

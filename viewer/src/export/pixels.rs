use image::{ImageFormat, RgbaImage};

use super::Painting;
use crate::raster::Raster;

/// Why there are no pixels.
#[derive(Debug, thiserror::Error)]
pub enum PixelsError {
    /// The picture has more pixels than fit, or none.
    #[error("a picture of {0}×{1} pixels cannot be made: sides go from 1 to {MOST}")]
    Size(usize, usize),
    /// The file cannot be made.
    #[error("the picture cannot be made a PNG file: {0}")]
    Encoding(#[from] image::ImageError),
}

/// The longest side of a picture, pixels.
const MOST: usize = 32_768;

/// A painting as pixels, without a graphics adapter.
///
/// # Errors
///
/// Where it is too large.
pub fn image(painting: Painting) -> Result<RgbaImage, PixelsError> {
    let Painting {
        context,
        shapes,
        mut textures,
        size,
        scale,
        ..
    } = painting;
    let size = [size.0, size.1].map(|pixels| pixels as usize);
    let [width, height] = size;
    let wrong = || PixelsError::Size(width, height);
    if size.iter().any(|side| !(1..=MOST).contains(side)) {
        textures.clear();
        return Err(wrong());
    }
    let triangles = context.tessellate(shapes, scale);
    let mut raster = Raster::default();
    raster.set_textures(&mut textures);
    raster.paint(&triangles, scale, size);
    textures.clear();
    RgbaImage::from_raw(width as u32, height as u32, raster.bytes().to_vec()).ok_or_else(wrong)
}

/// A painting as a PNG file.
///
/// # Errors
///
/// Where it is too large.
pub fn png(painting: Painting) -> Result<Vec<u8>, PixelsError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image(painting)?.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

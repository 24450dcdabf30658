use std::sync::mpsc;
use std::time::Duration;

use eframe::egui_wgpu::{
    RenderState, RendererOptions, ScreenDescriptor, WgpuConfiguration, WgpuSetup,
    WgpuSetupCreateNew,
};
use image::{ImageFormat, RgbaImage};

use super::Painting;

/// Turns shapes into pixels on whatever adapter there is, a software one too, without a window.
pub struct Pixels {
    state: RenderState,
}

/// Why there are no pixels.
#[derive(Debug, thiserror::Error)]
pub enum PixelsError {
    /// There is no adapter.
    #[error(
        "no graphics adapter can draw the picture: {0}; install a driver, such as the software one of mesa-vulkan-drivers, or export as SVG, which needs none"
    )]
    NoAdapter(String),
    /// The adapter failed, or the picture is too large for it.
    #[error("the graphics adapter failed: {0}")]
    Failed(String),
}

/// How long an adapter may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Pixels {
    /// Opens an adapter.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub fn new() -> Result<Self, PixelsError> {
        // OpenGL looks for a display, and complains where there is none: only if nothing else works.
        Self::on(wgpu::Backends::PRIMARY).or_else(|_| Self::on(wgpu::Backends::SECONDARY))
    }

    fn on(backends: wgpu::Backends) -> Result<Self, PixelsError> {
        let mut setup = WgpuSetupCreateNew::without_display_handle();
        setup.instance_descriptor.backends = backends;
        let setup = WgpuSetup::CreateNew(setup);
        let instance = pollster::block_on(setup.new_instance());
        let configuration = WgpuConfiguration {
            wgpu_setup: setup,
            ..WgpuConfiguration::default()
        };
        let state = RenderState::create(
            &configuration,
            &instance,
            None,
            RendererOptions::PREDICTABLE,
        );
        let state =
            pollster::block_on(state).map_err(|error| PixelsError::NoAdapter(error.to_string()))?;
        Ok(Self { state })
    }

    /// The adapter's name.
    pub fn adapter(&self) -> String {
        self.state.adapter.get_info().name
    }

    /// A painting as a PNG file.
    ///
    /// # Errors
    ///
    /// Where it is too large, or the adapter fails.
    pub fn png(&self, painting: Painting) -> Result<Vec<u8>, PixelsError> {
        let image = self.image(painting)?;
        let mut bytes = std::io::Cursor::new(Vec::new());
        image
            .write_to(&mut bytes, ImageFormat::Png)
            .map_err(|error| PixelsError::Failed(error.to_string()))?;
        Ok(bytes.into_inner())
    }

    /// A painting as pixels.
    ///
    /// # Errors
    ///
    /// Where it is too large, or the adapter fails.
    pub fn image(&self, painting: Painting) -> Result<RgbaImage, PixelsError> {
        let Painting {
            context,
            shapes,
            mut textures,
            size,
            scale,
            ..
        } = painting;
        let pixels = |points: u32| (points as f32 * scale).round() as u32;
        let size = [pixels(size.0), pixels(size.1)];
        let most = self.state.device.limits().max_texture_dimension_2d;
        if size.iter().any(|side| *side == 0 || *side > most) {
            return Err(PixelsError::Failed(format!(
                "{}×{} pixels are more than its {most}",
                size[0], size[1]
            )));
        }
        let triangles = context.tessellate(shapes, scale);
        let screen = ScreenDescriptor {
            size_in_pixels: size,
            pixels_per_point: scale,
        };
        let (device, queue) = (&self.state.device, &self.state.queue);
        let mut renderer = self.state.renderer.write();
        for (id, deltas) in textures.set.drain() {
            for delta in deltas {
                renderer.update_texture(device, queue, id, &delta);
            }
        }
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let commands = renderer.update_buffers(device, queue, &mut encoder, &triangles, &screen);
        let target = device.create_texture(&wgpu::TextureDescriptor {
            label: None,
            size: wgpu::Extent3d {
                width: size[0],
                height: size[1],
                depth_or_array_layers: 1,
            },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: self.state.target_format,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let view = target.create_view(&wgpu::TextureViewDescriptor::default());
        let mut pass = encoder
            .begin_render_pass(&wgpu::RenderPassDescriptor {
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &view,
                    resolve_target: None,
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                        store: wgpu::StoreOp::Store,
                    },
                    depth_slice: None,
                })],
                ..wgpu::RenderPassDescriptor::default()
            })
            .forget_lifetime();
        renderer.render(&mut pass, &triangles, &screen);
        drop(pass);
        queue.submit(
            commands
                .into_iter()
                .chain(std::iter::once(encoder.finish())),
        );
        for id in textures.free.drain() {
            renderer.free_texture(&id);
        }
        self.read(&target, size)
    }

    fn read(
        &self,
        texture: &wgpu::Texture,
        [width, height]: [u32; 2],
    ) -> Result<RgbaImage, PixelsError> {
        let failed = |error: &dyn std::fmt::Display| PixelsError::Failed(error.to_string());
        let (device, queue) = (&self.state.device, &self.state.queue);
        // Rows in a buffer begin at multiples of 256 bytes.
        let stride = (width * 4).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(stride) * u64::from(height),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_texture_to_buffer(
            texture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &buffer,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(stride),
                    rows_per_image: None,
                },
            },
            texture.size(),
        );
        queue.submit(std::iter::once(encoder.finish()));
        let slice = buffer.slice(..);
        let (sender, receiver) = mpsc::channel();
        slice.map_async(wgpu::MapMode::Read, move |result| _ = sender.send(result));
        let wait = wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(PATIENCE),
        };
        device.poll(wait).map_err(|error| failed(&error))?;
        receiver
            .recv()
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        let mapped = slice.get_mapped_range().map_err(|error| failed(&error))?;
        let bytes: Vec<u8> = mapped
            .chunks_exact(stride as usize)
            .flat_map(|row| &row[..(width * 4) as usize])
            .copied()
            .collect();
        RgbaImage::from_raw(width, height, bytes)
            .ok_or_else(|| PixelsError::Failed("the picture is incomplete".to_owned()))
    }
}

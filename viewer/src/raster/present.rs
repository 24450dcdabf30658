use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eframe::egui_wgpu::{
    Callback, CallbackResources, CallbackTrait, RenderState, ScreenDescriptor,
};
use egui::epaint::{ClippedShape, PaintCallbackInfo};
use egui::{Context, FullOutput, Shape};

use super::Raster;

/// Where a window's adapter is a processor: has what it shows painted by [`Raster`], and the adapter only put it on the
/// screen. Anywhere else nothing changes. Whether it did.
pub fn paint_by_processor(context: &Context, state: &RenderState) -> bool {
    if state.adapter.get_info().device_type != wgpu::DeviceType::Cpu {
        return false;
    }
    let screen = Screen::new(&state.device, state.target_format);
    state.renderer.write().callback_resources.insert(screen);
    context.add_plugin(Processor::default());
    true
}

/// Takes the shapes of every frame, and leaves one that shows their picture.
#[derive(Default)]
struct Processor(Shared);

type Shared = Arc<Mutex<Raster>>;

fn lock(raster: &Shared) -> MutexGuard<'_, Raster> {
    raster.lock().unwrap_or_else(PoisonError::into_inner)
}

impl egui::Plugin for Processor {
    fn debug_name(&self) -> &'static str {
        "paint by the processor"
    }

    fn output_hook(&mut self, context: &Context, output: &mut FullOutput) {
        let scale = output.pixels_per_point;
        let rect = context.viewport_rect();
        let size =
            [rect.width(), rect.height()].map(|side| (side * scale).round().max(0.0) as usize);
        let triangles = context.tessellate(std::mem::take(&mut output.shapes), scale);
        let mut raster = lock(&self.0);
        raster.set_textures(&mut output.textures_delta);
        raster.paint(&triangles, scale, size);
        raster.free_textures(&mut output.textures_delta);
        let picture = Callback::new_paint_callback(rect, Picture(self.0.clone()));
        output
            .shapes
            .push(ClippedShape::new(rect, Shape::Callback(picture)));
    }
}

/// Shows the picture of a [`Raster`] in all of the window.
struct Picture(Shared);

impl CallbackTrait for Picture {
    fn prepare(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        _: &ScreenDescriptor,
        _: &mut wgpu::CommandEncoder,
        resources: &mut CallbackResources,
    ) -> Vec<wgpu::CommandBuffer> {
        if let Some(screen) = resources.get_mut::<Screen>() {
            screen.upload(device, queue, &mut lock(&self.0));
        }
        Vec::new()
    }

    fn paint(
        &self,
        _: PaintCallbackInfo,
        pass: &mut wgpu::RenderPass<'static>,
        resources: &CallbackResources,
    ) {
        if let Some(screen) = resources.get::<Screen>() {
            screen.paint(pass);
        }
    }
}

/// What an adapter needs to show a picture.
struct Screen {
    pipeline: wgpu::RenderPipeline,
    layout: wgpu::BindGroupLayout,
    format: wgpu::TextureFormat,
    picture: Option<(wgpu::Texture, wgpu::BindGroup)>,
}

/// One triangle over all of the window, each pixel as it is in the picture.
const SHADER: &str = "
@group(0) @binding(0) var picture: texture_2d<f32>;

@vertex
fn corner(@builtin(vertex_index) index: u32) -> @builtin(position) vec4f {
    return vec4f(f32(index & 1u) * 4.0 - 1.0, f32(index >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn pixel(@builtin(position) position: vec4f) -> @location(0) vec4f {
    return textureLoad(picture, min(vec2u(position.xy), textureDimensions(picture) - 1u), 0);
}
";

impl Screen {
    fn new(device: &wgpu::Device, target: wgpu::TextureFormat) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("picture"),
            source: wgpu::ShaderSource::Wgsl(SHADER.into()),
        });
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("picture"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::FRAGMENT,
                ty: wgpu::BindingType::Texture {
                    sample_type: wgpu::TextureSampleType::Float { filterable: false },
                    view_dimension: wgpu::TextureViewDimension::D2,
                    multisampled: false,
                },
                count: None,
            }],
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some("picture"),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("picture"),
            layout: Some(&pipeline_layout),
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: Some("corner"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                buffers: &[],
            },
            primitive: wgpu::PrimitiveState::default(),
            depth_stencil: None,
            multisample: wgpu::MultisampleState::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: Some("pixel"),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                targets: &[Some(target.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        Self {
            pipeline,
            layout,
            // The same numbers on the screen as in the picture, whatever the screen makes of them.
            format: if target.is_srgb() {
                wgpu::TextureFormat::Rgba8UnormSrgb
            } else {
                wgpu::TextureFormat::Rgba8Unorm
            },
            picture: None,
        }
    }

    fn upload(&mut self, device: &wgpu::Device, queue: &wgpu::Queue, raster: &mut Raster) {
        let [width, height] = raster.size().map(|side| side as u32);
        if width == 0 || height == 0 {
            return;
        }
        let extent = |[width, height]: [u32; 2]| wgpu::Extent3d {
            width,
            height,
            depth_or_array_layers: 1,
        };
        let stride = raster.stride() as u32;
        let write = |texture: &wgpu::Texture, [x, y]: [u32; 2], size: [u32; 2], bytes: &[u8]| {
            queue.write_texture(
                wgpu::TexelCopyTextureInfo {
                    origin: wgpu::Origin3d { x, y, z: 0 },
                    ..texture.as_image_copy()
                },
                bytes,
                wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(stride),
                    rows_per_image: None,
                },
                extent(size),
            );
        };
        if let Some((texture, _)) = &self.picture
            && texture.size() == extent([width, height])
        {
            raster.take_changes(|patch| {
                let [at, size] = [patch.at, patch.size].map(|pair| pair.map(|side| side as u32));
                write(texture, at, size, patch.bytes);
            });
            return;
        }
        let texture = device.create_texture(&wgpu::TextureDescriptor {
            label: Some("picture"),
            size: extent([width, height]),
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: self.format,
            usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
            view_formats: &[],
        });
        write(&texture, [0, 0], [width, height], raster.bytes());
        raster.take_changes(|_| {});
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("picture"),
            layout: &self.layout,
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::TextureView(&view),
            }],
        });
        self.picture = Some((texture, group));
    }

    fn paint(&self, pass: &mut wgpu::RenderPass<'static>) {
        if let Some((_, group)) = &self.picture {
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.draw(0..3, 0..1);
        }
    }
}

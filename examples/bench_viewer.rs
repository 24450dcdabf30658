//! How long the viewer takes to open a large record and to draw a frame while its time cursor jumps, on every page:
//! questions and layout, triangles and their pixels, and what the adapter does until a window could show them. Where the
//! adapter is a processor, as in the window, [`bellows_viewer::raster`] makes the pixels; after `adapter`, it does not.
//!
//! ```sh
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer          # 1,000 steps
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer -- 10000 # 6 GB on the disk
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer -- RUN   # one that is there
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer -- RUN adapter
//! ```

#[path = "generated_record/mod.rs"]
mod generated_record;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bellows_query::{Options, RunId, Store};
use bellows_viewer::app::{App, Settings, Workspace};
use bellows_viewer::raster;
use bellows_viewer::theme::{self, Theme};
use eframe::egui_wgpu::{
    RenderState, RendererOptions, ScreenDescriptor, WgpuConfiguration, WgpuSetup,
    WgpuSetupCreateNew,
};
use generated_record::Size;

const SIZE: (u32, u32) = (1480, 920);
const FRAMES: u64 = 60;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1);
    let steps = argument
        .as_deref()
        .map_or(Some(1000), |argument| argument.parse::<u64>().ok());
    let folder = std::env::temp_dir().join(format!("bellows-bench-viewer-{}", std::process::id()));
    let run = match (steps, &argument) {
        (None, Some(path)) => PathBuf::from(path),
        (steps, _) => {
            let steps = steps.unwrap_or(1000);
            let size = Size {
                steps,
                rare: (steps / 20).max(1),
                ..Size::LARGE
            };
            generated_record::write(&folder, "generated", size)?
        }
    };
    let by_adapter = std::env::args()
        .nth(2)
        .is_some_and(|word| word == "adapter");
    let measured = measure(&run, by_adapter);
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder)?;
    }
    measured
}

fn measure(run: &Path, by_adapter: bool) -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let store = Store::new(Options::default());
    let id = store.open(run);
    let mut screen = Screen::new(&store, id, by_adapter)?;
    screen.frame()?;
    println!(
        "first frame        {:.0} ms after the start",
        milliseconds(began.elapsed())
    );
    while store
        .run(id)
        .is_some_and(|run| run.range().is_none() && run.problem.is_none())
    {
        screen.frame()?;
    }
    screen.frame()?;
    println!("first frame of it  {:.0} ms", milliseconds(began.elapsed()));
    store.wait(id, Duration::from_secs(600));
    println!("all of it read     {:.0} ms", milliseconds(began.elapsed()));
    let (first, last) = store
        .run(id)
        .and_then(|run| run.range())
        .ok_or("nothing was recorded")?;
    for page in Workspace::ALL {
        let view = screen.app.view_mut();
        view.workspace = page;
        view.pinned = Some(first);
        for _ in 0..4 {
            screen.frame()?;
        }
        let mut times = Vec::new();
        screen.spent = [Duration::ZERO; 3];
        let spent = processor_time();
        for frame in 0..FRAMES {
            // Steps far apart, as a dragged cursor passes them.
            let place = frame * 7919 % FRAMES;
            screen.app.view_mut().step = first + (last - first) * place / FRAMES;
            let began = Instant::now();
            screen.frame()?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let at = |part: f64| milliseconds(times[((times.len() - 1) as f64 * part) as usize]);
        // On a machine that other programs share, only the processor's time means something.
        let spent = match (spent, processor_time()) {
            (Some(before), Some(after)) => format!("{:.1} ms", (after - before) / FRAMES as f64),
            _ => "unknown".to_owned(),
        };
        let mean = screen
            .spent
            .map(|spent| milliseconds(spent) / FRAMES as f64);
        println!(
            "scrub {:<9} {:5.1} ms a frame, 95 % below {:5.1}, worst {:5.1}; mean of questions and layout {:.1}, pixels {:.1}, adapter {:.1}; processor time {spent}",
            page.name().to_lowercase(),
            at(0.5),
            at(0.95),
            at(1.0),
            mean[0],
            mean[1],
            mean[2],
        );
    }
    let memory = store.memory();
    println!(
        "held               {} MiB of {} MiB",
        (memory.histories + memory.answers) >> 20,
        memory.limit >> 20
    );
    Ok(())
}

struct Screen {
    app: App,
    context: egui::Context,
    state: RenderState,
    target: wgpu::Texture,
    time: f64,
    clock: Clock,
    /// Spent on questions and layout, on pixels by the processor, and by the adapter so far.
    spent: [Duration; 3],
}

/// When the last layout was done, and the picture was not.
#[derive(Clone, Default)]
struct Clock(Arc<Mutex<Option<Instant>>>);

impl egui::Plugin for Clock {
    fn debug_name(&self) -> &'static str {
        "clock"
    }

    fn output_hook(&mut self, _: &egui::Context, _: &mut egui::FullOutput) {
        *self.0.lock().unwrap() = Some(Instant::now());
    }
}

impl Screen {
    fn new(
        store: &Store,
        run: RunId,
        by_adapter: bool,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let setup = WgpuSetup::from(WgpuSetupCreateNew::without_display_handle());
        let instance = pollster::block_on(setup.new_instance());
        let configuration = WgpuConfiguration {
            wgpu_setup: setup,
            ..WgpuConfiguration::default()
        };
        let state =
            RenderState::create(&configuration, &instance, None, RendererOptions::default());
        let state = pollster::block_on(state)?;
        let (width, height) = SIZE;
        let target = state.device.create_texture(&wgpu::TextureDescriptor {
            label: None,
            size: wgpu::Extent3d {
                width,
                height,
                depth_or_array_layers: 1,
            },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: state.target_format,
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            view_formats: &[],
        });
        let context = egui::Context::default();
        theme::install_fonts(&context);
        let clock = Clock::default();
        context.add_plugin(clock.clone());
        let by_processor = !by_adapter && raster::paint_by_processor(&context, &state);
        println!(
            "adapter            {}, pixels by {}",
            state.adapter.get_info().name,
            if by_processor {
                "the viewer"
            } else {
                "the adapter"
            }
        );
        let mut app = App::new(store.clone(), Theme::dark(), Settings::default(), None);
        app.view_mut().run = Some(run);
        Ok(Self {
            app,
            context,
            state,
            target,
            time: 0.0,
            clock,
            spent: [Duration::ZERO; 3],
        })
    }

    fn frame(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.time += 1.0 / 60.0;
        let (width, height) = SIZE;
        let input = egui::RawInput {
            screen_rect: Some(egui::Rect::from_min_size(
                egui::Pos2::ZERO,
                egui::vec2(width as f32, height as f32),
            )),
            time: Some(self.time),
            ..egui::RawInput::default()
        };
        let began = Instant::now();
        let mut output = self.context.run_ui(input, |ui| self.app.ui(ui));
        let layout = self
            .clock
            .0
            .lock()
            .unwrap()
            .take()
            .ok_or("no layout was made")?;
        let triangles = self
            .context
            .tessellate(output.shapes, output.pixels_per_point);
        let pixels = Instant::now();
        let screen = ScreenDescriptor {
            size_in_pixels: [width, height],
            pixels_per_point: output.pixels_per_point,
        };
        self.show(&triangles, &mut output.textures_delta, &screen)?;
        let parts = [layout - began, pixels - layout, pixels.elapsed()];
        for (spent, part) in self.spent.iter_mut().zip(parts) {
            *spent += part;
        }
        Ok(())
    }

    /// What a window does with a frame, but for putting it on the screen.
    fn show(
        &self,
        triangles: &[egui::ClippedPrimitive],
        textures: &mut egui::TexturesDelta,
        screen: &ScreenDescriptor,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let (device, queue) = (&self.state.device, &self.state.queue);
        let mut renderer = self.state.renderer.write();
        for (id, deltas) in textures.set.drain() {
            for delta in deltas {
                renderer.update_texture(device, queue, id, &delta);
            }
        }
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let commands = renderer.update_buffers(device, queue, &mut encoder, triangles, screen);
        let view = self
            .target
            .create_view(&wgpu::TextureViewDescriptor::default());
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
        renderer.render(&mut pass, triangles, screen);
        drop(pass);
        queue.submit(
            commands
                .into_iter()
                .chain(std::iter::once(encoder.finish())),
        );
        for id in textures.free.drain() {
            renderer.free_texture(&id);
        }
        device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    }
}

/// What this process has taken of all processors so far, milliseconds; Linux tells it in hundredths of a second.
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 * 10.0)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

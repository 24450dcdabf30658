//! What pages look like, in both themes.

use bellows_viewer::app::{App, Workspace};
use bellows_viewer::raster::Raster;
use bellows_viewer::theme::{self, Theme};
use egui::TexturesDelta;
use egui_kittest::wgpu::{WgpuTestRenderer, default_wgpu_setup};
use egui_kittest::{Harness, SnapshotOptions, TestRenderer};
use image::{Rgba, RgbaImage};

use crate::support;

/// Whether there is anything to draw pictures with.
fn adapter() -> Result<(), String> {
    let setup = default_wgpu_setup();
    let instance = pollster::block_on(setup.new_instance());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    if adapters.is_empty() {
        return Err("there is no graphics adapter, not even a software one".to_owned());
    }
    Ok(())
}

fn page(theme: Theme, workspace: Workspace) -> App {
    let (store, run) = support::open(&support::real());
    let mut app = support::app(&store, run, theme);
    let view = app.view_mut();
    view.workspace = workspace;
    view.pinned = Some(20);
    view.token = (0, 3);
    app
}

fn window(app: App, renderer: impl TestRenderer + 'static) -> Harness<'static, App> {
    let mut window = Harness::builder()
        .with_size([1000.0, 640.0])
        .with_context_setup(theme::install_fonts)
        .renderer(renderer)
        .build_ui_state(|ui, app: &mut App| app.ui(ui), app);
    window.run_steps(5);
    window
}

/// As the headless export does, and the window where there is no graphics card.
#[derive(Default)]
struct ByProcessor {
    raster: Raster,
    /// Textures to forget, once the frame was painted that may still show them.
    gone: TexturesDelta,
    /// Whether nothing of the last picture is kept.
    anew: bool,
}

impl TestRenderer for ByProcessor {
    fn handle_delta(&mut self, delta: &mut TexturesDelta) {
        self.raster.free_textures(&mut self.gone);
        self.raster.set_textures(delta);
        self.gone.free = std::mem::take(&mut delta.free);
    }

    fn render(
        &mut self,
        context: &egui::Context,
        output: &egui::FullOutput,
    ) -> Result<RgbaImage, String> {
        let scale = output.pixels_per_point;
        let size = context.viewport_rect().size() * scale;
        let triangles = context.tessellate(output.shapes.clone(), scale);
        let size = [size.x, size.y].map(|side| side.round() as usize);
        if self.anew {
            self.raster.paint(&[], scale, [0, 0]);
        }
        self.raster.paint(&triangles, scale, size);
        RgbaImage::from_raw(size[0] as u32, size[1] as u32, self.raster.bytes().to_vec())
            .ok_or_else(|| "the picture is incomplete".to_owned())
    }
}

impl Drop for ByProcessor {
    fn drop(&mut self) {
        self.gone.clear();
    }
}

fn looks(theme: Theme, workspace: Workspace) {
    let name = format!("{}-{}", workspace.name().to_lowercase(), theme.name);
    let mut window = window(page(theme, workspace), ByProcessor::default());
    let options = SnapshotOptions::new()
        .threshold(0.6)
        .output_path("tests/window/pictures");
    window.snapshot_options(&name, &options);
}

/// Pixels of which a channel differs by more than rounding explains.
fn differences(one: &RgbaImage, other: &RgbaImage) -> usize {
    assert_eq!(one.dimensions(), other.dimensions());
    let differ = |one: &Rgba<u8>, other: &Rgba<u8>| {
        // Grounds differ: black, and nothing.
        let [one, other] = [one, other].map(|pixel| &pixel.0[..3]);
        one.iter()
            .zip(other)
            .any(|(one, other)| one.abs_diff(*other) > 3)
    };
    one.pixels()
        .zip(other.pixels())
        .filter(|(one, other)| differ(one, other))
        .count()
}

#[test]
fn an_adapter_and_the_processor_paint_the_same() {
    if let Err(reason) = adapter() {
        println!("SKIPPED an_adapter_and_the_processor_paint_the_same: {reason}");
        return;
    }
    for theme in [Theme::dark(), Theme::light()] {
        for workspace in Workspace::ALL {
            let renderer = WgpuTestRenderer::from_setup(default_wgpu_setup());
            let expected = window(page(theme.clone(), workspace), renderer)
                .render()
                .unwrap();
            let painted = window(page(theme.clone(), workspace), ByProcessor::default())
                .render()
                .unwrap();
            let differences = differences(&expected, &painted);
            println!("{} {}: {differences} pixels", workspace.name(), theme.name);
            // None with llvmpipe; other drivers interpolate along thin edges as they like.
            assert!(
                differences <= 40,
                "{} {}: {differences} pixels",
                workspace.name(),
                theme.name
            );
        }
    }
}

#[test]
fn a_picture_that_was_painted_over_is_the_same_as_one_painted_at_once() {
    for workspace in Workspace::ALL {
        let [mut over, mut anew] = [false, true].map(|anew| {
            let mut renderer = ByProcessor::default();
            renderer.anew = anew;
            window(page(Theme::dark(), workspace), renderer)
        });
        for step in [60, 10, 30, 50] {
            let [over, anew] = [&mut over, &mut anew].map(|window| {
                window.state_mut().view_mut().step = step;
                window.run_steps(2);
                window.render().unwrap()
            });
            assert!(over == anew, "{} at {step}", workspace.name());
        }
    }
}

macro_rules! pages {
    ($($dark:ident $light:ident $page:ident)+) => {
        $(
            #[test]
            fn $dark() {
                looks(Theme::dark(), Workspace::$page);
            }

            #[test]
            fn $light() {
                looks(Theme::light(), Workspace::$page);
            }
        )+
    };
}

pages! {
    overview_dark_looks_as_it_did overview_light_looks_as_it_did Overview
    routing_dark_looks_as_it_did routing_light_looks_as_it_did Routing
    flow_dark_looks_as_it_did flow_light_looks_as_it_did Flow
    tokens_dark_looks_as_it_did tokens_light_looks_as_it_did Tokens
    compare_dark_looks_as_it_did compare_light_looks_as_it_did Compare
    memory_dark_looks_as_it_did memory_light_looks_as_it_did Memory
}

//! What pages look like, in both themes.

use bellows_viewer::app::Workspace;
use bellows_viewer::theme::{self, Theme};
use egui_kittest::{Harness, SnapshotOptions};

use crate::support;

/// Whether there is anything to draw pictures with.
pub fn adapter() -> Result<(), String> {
    let setup = egui_kittest::wgpu::default_wgpu_setup();
    let instance = pollster::block_on(setup.new_instance());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    if adapters.is_empty() {
        return Err("there is no graphics adapter, not even a software one".to_owned());
    }
    Ok(())
}

fn page(theme: Theme, workspace: Workspace) {
    let name = format!("{}-{}", workspace.name().to_lowercase(), theme.name);
    if let Err(reason) = adapter() {
        println!("SKIPPED {name}_looks_as_it_did: {reason}");
        return;
    }
    let (store, run) = support::open(&support::real());
    let mut app = support::app(&store, run, theme);
    let view = app.view_mut();
    view.workspace = workspace;
    view.pinned = Some(20);
    view.token = (0, 3);
    let mut window = Harness::builder()
        .with_size([1000.0, 640.0])
        .with_context_setup(theme::install_fonts)
        .wgpu()
        .build_ui_state(|ui, app: &mut bellows_viewer::app::App| app.ui(ui), app);
    window.run_steps(5);
    // Drivers round differently at edges: some hundred of 640,000 pixels may.
    let options = SnapshotOptions::new()
        .threshold(1.5)
        .max_failed_pixels(600)
        .output_path("tests/window/pictures");
    window.snapshot_options(&name, &options);
}

macro_rules! pages {
    ($($dark:ident $light:ident $page:ident)+) => {
        $(
            #[test]
            fn $dark() {
                page(Theme::dark(), Workspace::$page);
            }

            #[test]
            fn $light() {
                page(Theme::light(), Workspace::$page);
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

use std::path::{Path, PathBuf};
use std::time::Duration;

use bellows_query::{Options, RunId, Store};
use bellows_viewer::app::{App, Settings};
use bellows_viewer::panels::Panel;
use bellows_viewer::theme::{self, Theme};
use egui_kittest::Harness;

use crate::generated_record::{self, Size};

/// Longer than anything takes, on any machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A record of sixty steps of `examples/rust-code.toml`, made by the program.
pub fn real() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("query/tests/data/rust-code")
}

/// A store with a run, all of it read.
pub fn open(path: &Path) -> (Store, RunId) {
    let store = Store::new(Options::default());
    let run = store.open(path);
    store.wait(run, PATIENCE);
    (store, run)
}

/// A window on a run, at its last step.
pub fn app(store: &Store, run: RunId, theme: Theme) -> App {
    let mut app = App::new(store.clone(), theme, Settings::default(), None).waiting();
    let view = app.view_mut();
    view.run = Some(run);
    view.step = store
        .run(run)
        .and_then(|run| run.range())
        .map_or(0, |(_, last)| last);
    app
}

/// A window that can be looked at and clicked.
pub fn window(app: App, size: [f32; 2]) -> Harness<'static, App> {
    let mut window = Harness::builder()
        .with_size(size)
        .with_context_setup(theme::install_fonts)
        .build_ui_state(|ui, app: &mut App| app.ui(ui), app);
    window.run_steps(4);
    window
}

/// A window with one panel in front, on its page.
pub fn with_panel(store: &Store, run: RunId, panel: Panel) -> Harness<'static, App> {
    let mut app = app(store, run, Theme::dark());
    let view = app.view_mut();
    view.workspace = panel.workspace();
    view.layouts.show(panel.workspace(), panel);
    view.pinned = Some(0);
    window(app, [1400.0, 900.0])
}

/// A record of a large model: as many layers, iterations and experts as the bench has, in fewer steps.
pub fn generate(root: &Path) -> PathBuf {
    let size = Size {
        steps: 400,
        rare: 100,
        ..Size::LARGE
    };
    generated_record::write(root, "large", size).unwrap()
}

//! What can be typed after `bellows-viewer`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bellows_query::{Options, RouterId, RunId, Store};
use clap::Parser;
use clap::builder::PossibleValuesParser;

use crate::app::{App, Settings, View, Workspace};
use crate::export::{self, ExportError, Format, Subject};
use crate::panels::Panel;
use crate::raster;
use crate::theme::{self, Theme, ThemeError};

/// The desktop viewer of Bellows: where tokens are routed and where memory goes.
#[derive(Debug, Parser)]
#[command(
    name = "bellows-viewer",
    version,
    after_help = "\
Examples:
  bellows-viewer runs/rust-code                    one run, live or finished
  bellows-viewer runs/plain runs/stream            two, to compare
  bellows-viewer runs/rust-code --panel routing-load --step 200 --screenshot load.png
  bellows-viewer runs/rust-code --panel memory-tree --screenshot tree.svg
  bellows-viewer runs/rust-code --panel tokens-top --screenshot top.csv
  bellows-viewer --list-panels

Ctrl+K in the window finds every command, and what you type in the run."
)]
pub struct Arguments {
    /// Folders of runs; the first is looked at, the second compared with it
    #[arg(value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Bring this panel to the front; `--list-panels` tells their names
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Panel::ALL.map(Panel::id)), hide_possible_values = true)]
    pub panel: Option<String>,
    /// Bring this page to the front
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(["overview", "routing", "flow", "tokens", "compare", "memory"]))]
    pub page: Option<String>,
    /// Put the time cursor on this step
    #[arg(long, value_name = "STEP")]
    pub step: Option<u64>,
    /// Select these steps, as in 100..200
    #[arg(long, value_name = "FIRST..LAST", value_parser = range)]
    pub range: Option<(u64, u64)>,
    /// Compare with this step
    #[arg(long, value_name = "STEP")]
    pub compare_step: Option<u64>,
    /// The layer that panels of one layer show
    #[arg(long, value_name = "N")]
    pub layer: Option<u32>,
    /// The iteration of that layer
    #[arg(long, value_name = "N")]
    pub iteration: Option<u32>,
    /// The expert that panels of one expert show
    #[arg(long, value_name = "N")]
    pub expert: Option<u32>,
    /// Write the panel, or the page, to this file and end, without a window; .png, .svg, or .csv for the panel's table
    #[arg(long, value_name = "FILE")]
    pub screenshot: Option<PathBuf>,
    /// Width and height of what is written, or of the window
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    pub size: Option<(u32, u32)>,
    /// dark, light, or a theme file
    #[arg(long, value_name = "THEME")]
    pub theme: Option<String>,
    /// Size of text, 1 is normal
    #[arg(long, value_name = "FACTOR")]
    pub text_size: Option<f32>,
    /// Memory that histories and answers may take, such as 256MiB
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = bytes)]
    pub memory_limit: u64,
    /// Neither read nor write the settings that are kept from window to window
    #[arg(long)]
    pub no_settings: bool,
    /// Tell the panels' names
    #[arg(long)]
    pub list_panels: bool,
    /// Print a theme file to start your own from
    #[arg(long, value_name = "THEME", value_parser = PossibleValuesParser::new(["dark", "light"]))]
    pub print_theme: Option<String>,
}

/// Why the viewer ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path is no run.
    #[error("{} is no run: {why}; `bellows runs` lists those there are", path.display())]
    NoRun {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A picture of nothing.
    #[error(
        "--screenshot needs a run, as in `bellows-viewer runs/rust-code --screenshot load.png`"
    )]
    NothingToShow,
    /// The file's name does not say what it is to be.
    #[error("cannot tell from {} what to write; end its name in .png, .svg or .csv", .0.display())]
    UnknownFormat(PathBuf),
    /// The theme is none.
    #[error(transparent)]
    Theme(#[from] ThemeError),
    /// Nothing was exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// There is no window.
    #[error("cannot open a window: {0}; `--screenshot FILE` needs none")]
    Window(String),
}

impl Error {
    /// 2 for bad usage or input, 1 for a failure.
    pub fn exit_code(&self) -> ExitCode {
        let input = match self {
            Self::NoRun { .. } | Self::NothingToShow | Self::UnknownFormat(_) | Self::Theme(_) => {
                true
            }
            Self::Export(error) => matches!(
                error,
                ExportError::Empty { .. } | ExportError::NoTable { .. }
            ),
            Self::Window(_) => false,
        };
        ExitCode::from(if input { 2 } else { 1 })
    }
}

/// Runs the viewer until its window is closed, or writes what was asked for.
///
/// # Errors
///
/// [`Error`].
pub fn run(arguments: Arguments) -> Result<(), Error> {
    if arguments.list_panels {
        for panel in Panel::ALL {
            println!("{:<20} {}", panel.id(), panel.what());
        }
        return Ok(());
    }
    if let Some(text) = arguments.print_theme.as_deref().and_then(Theme::source) {
        print!("{text}");
        return Ok(());
    }
    for path in &arguments.runs {
        check(path)?;
    }
    let file = (!arguments.no_settings && arguments.screenshot.is_none())
        .then(Settings::file)
        .flatten();
    let mut settings = file.as_deref().map(Settings::load).unwrap_or_default();
    if let Some(theme) = &arguments.theme {
        settings.theme.clone_from(theme);
    }
    if let Some(size) = arguments.text_size {
        settings.text_size = size.clamp(*Settings::TEXT_SIZES.start(), *Settings::TEXT_SIZES.end());
    }
    let theme = match Theme::load(&settings.theme) {
        Ok(theme) => theme,
        Err(error) if arguments.theme.is_some() => return Err(error.into()),
        // A theme file that is gone since is no reason not to start.
        Err(_) => Theme::dark(),
    };
    match arguments.screenshot.clone() {
        Some(target) => picture(&arguments, settings, theme, &target),
        None => window(&arguments, settings, file, theme),
    }
}

/// A run that is not there is told before a window opens; one that is damaged is shown with what is wrong.
fn check(path: &Path) -> Result<(), Error> {
    let wrong = |why: &str| Error::NoRun {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    if !path.exists() {
        return Err(wrong("there is nothing"));
    }
    if !bellows_record::is_run(path) {
        return Err(wrong("it has no manifest.json"));
    }
    Ok(())
}

/// How long a picture waits for a run to be read.
const PATIENCE: Duration = Duration::from_secs(600);

fn picture(
    arguments: &Arguments,
    settings: Settings,
    theme: Theme,
    target: &Path,
) -> Result<(), Error> {
    let format = Format::of(target).ok_or_else(|| Error::UnknownFormat(target.to_owned()))?;
    let store = Store::new(Options {
        memory_limit: arguments.memory_limit,
        ..Options::default()
    });
    let runs: Vec<RunId> = arguments.runs.iter().map(|path| store.open(path)).collect();
    let main = *runs.first().ok_or(Error::NothingToShow)?;
    for run in &runs {
        store.wait(*run, PATIENCE);
    }
    if let Some(problem) = store.run(main).and_then(|run| run.problem.clone()) {
        return Err(Error::NoRun {
            path: arguments.runs[0].clone(),
            why: problem.to_string(),
        });
    }
    let size = arguments.size.unwrap_or((1600, 900));
    let text_size = settings.text_size;
    let mut app = App::new(store.clone(), theme.clone(), settings, None).waiting();
    look(arguments, &store, &runs, app.view_mut());
    match panel(arguments) {
        Some(panel) => {
            let subject = Subject {
                store: &store,
                theme: &theme,
                view: app.view_mut(),
                panel,
                text_size,
            };
            export::write(&subject, format, size, target)?;
        }
        None => export::write_window(&mut app, format, size, target)?,
    }
    Ok(())
}

fn panel(arguments: &Arguments) -> Option<Panel> {
    arguments.panel.as_deref().and_then(Panel::named)
}

/// Sets the view as the arguments ask.
fn look(arguments: &Arguments, store: &Store, runs: &[RunId], view: &mut View) {
    view.run = runs.first().copied();
    view.other = runs.get(1).copied();
    let known = view.run.and_then(|run| store.run(run));
    let first = known
        .as_ref()
        .and_then(|run| run.shape.routers.first().copied());
    if let Some((router, _)) = first {
        view.router = router;
    }
    if let Some(layer) = arguments.layer {
        view.router = RouterId {
            layer,
            iteration: 0,
        };
    }
    view.router.iteration = arguments.iteration.unwrap_or(view.router.iteration);
    view.expert = arguments.expert.unwrap_or(view.expert);
    view.range = arguments.range;
    view.pinned = arguments.compare_step;
    let last = known
        .and_then(|run| run.range())
        .map_or(0, |(_, last)| last);
    view.step = arguments.step.unwrap_or(last);
    if let Some(page) = &arguments.page {
        let named = Workspace::ALL
            .into_iter()
            .find(|workspace| workspace.name().eq_ignore_ascii_case(page));
        view.workspace = named.unwrap_or(view.workspace);
    }
    if let Some(panel) = panel(arguments) {
        view.workspace = panel.workspace();
        view.layouts.show(panel.workspace(), panel);
    }
}

fn window(
    arguments: &Arguments,
    settings: Settings,
    file: Option<PathBuf>,
    theme: Theme,
) -> Result<(), Error> {
    // The store is older than the window that it has to wake.
    let awake: Arc<OnceLock<egui::Context>> = Arc::default();
    let waker = awake.clone();
    let notify = move || {
        if let Some(context) = waker.get() {
            context.request_repaint();
        }
    };
    let store = Store::new(Options {
        memory_limit: arguments.memory_limit,
        notify: Arc::new(notify),
    });
    let runs: Vec<RunId> = arguments.runs.iter().map(|path| store.open(path)).collect();
    let (width, height) = arguments.size.unwrap_or((1480, 920));
    let viewport = egui::ViewportBuilder::default()
        .with_title("Bellows")
        .with_app_id("bellows-viewer")
        .with_inner_size([width as f32, height as f32])
        .with_min_inner_size([640.0, 420.0])
        .with_drag_and_drop(true);
    let options = eframe::NativeOptions {
        viewport,
        ..eframe::NativeOptions::default()
    };
    let mut app = App::new(store.clone(), theme, settings, file);
    look(arguments, &store, &runs, app.view_mut());
    eframe::run_native(
        "bellows-viewer",
        options,
        Box::new(move |creation| {
            theme::install_fonts(&creation.egui_ctx);
            if let Some(state) = &creation.wgpu_render_state {
                raster::paint_by_processor(&creation.egui_ctx, state);
            }
            _ = awake.set(creation.egui_ctx.clone());
            Ok(Box::new(app))
        }),
    )
    .map_err(|error| Error::Window(error.to_string()))
}

fn size(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once(['x', '×'])
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    match parsed {
        Some((width, height))
            if (100..=16_384).contains(&width) && (100..=16_384).contains(&height) =>
        {
            Ok((width, height))
        }
        Some(_) => Err("sides go from 100 to 16384".to_owned()),
        None => Err("write it as 1600x900".to_owned()),
    }
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let parsed = text
        .split_once("..")
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed
        .map(|(first, last): (u64, u64)| (first.min(last), first.max(last)))
        .ok_or_else(|| "write it as 100..200".to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_alphabetic());
    let number: f64 = digits
        .trim()
        .parse()
        .map_err(|_| "write it as 512MiB".to_owned())?;
    let unit = match text[digits.len()..].trim().to_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kib" | "kb" => 1 << 10,
        "m" | "mib" | "mb" => 1 << 20,
        "g" | "gib" | "gb" => 1 << 30,
        unit => return Err(format!("{unit:?} is no unit; take KiB, MiB or GiB")),
    };
    if number > 0.0 && number.is_finite() {
        Ok((number * unit as f64) as u64)
    } else {
        Err("it has to be more than 0".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_ranges_and_bytes_are_read_as_people_write_them() {
        assert_eq!(size("1600x900"), Ok((1600, 900)));
        assert!(size("1600").is_err() && size("1x1").is_err() && size("99999x100").is_err());
        assert_eq!(range("200..100"), Ok((100, 200)));
        assert!(range("100-200").is_err());
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert!(bytes("0").is_err() && bytes("5 parsecs").is_err());
    }

    #[test]
    fn what_is_no_run_is_told_before_a_window_opens() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing")] {
            let arguments = Arguments::parse_from(["bellows-viewer", path.to_str().unwrap()]);
            let error = run(arguments).unwrap_err();
            assert!(matches!(error, Error::NoRun { .. }), "{error}");
            assert!(error.to_string().contains("bellows runs"));
        }
    }
}

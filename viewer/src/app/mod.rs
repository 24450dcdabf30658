//! The window: pages of panels, the time cursor, commands, undo, and what is remembered.

mod bars;
mod command;
mod dialogs;
mod history;
mod layout;
mod palette;
mod settings;
mod tiles;
mod timeline;
mod transport;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellows_query::search::{Hit, Target};
use bellows_query::{RouterId, RunId, RunSnapshot, Store};
use egui::{Frame, Margin, Panel as Side, Ui};

pub use command::Command;
pub use layout::{Layouts, Workspace};
pub use settings::Settings;
pub use transport::Transport;
pub use view::{FlowPath, FlowValue, Ink, Moment, View};

use crate::export::{self, Format};
use crate::panels::{Kept, Panel, Request};
use crate::theme::{self, Theme};
use history::History;
use palette::{Choice, Palette};

/// The viewer.
pub struct App {
    store: Store,
    theme: Theme,
    styled: bool,
    view: View,
    settings: Settings,
    file: Option<PathBuf>,
    saved: Settings,
    transport: Transport,
    history: History,
    palette: Palette,
    dialogs: dialogs::Dialogs,
    kept: Kept,
    requests: Vec<Request>,
    /// Runs whose first step was shown.
    met: Vec<RunId>,
    /// The panel that the pointer was over last.
    under: Option<Panel>,
    wait: bool,
}

impl App {
    /// A window on a store's runs. Settings are kept in `file`, if there is one.
    pub fn new(store: Store, theme: Theme, settings: Settings, file: Option<PathBuf>) -> Self {
        let mut view = View::new(settings.layouts.clone());
        view.workspace = settings.page;
        Self {
            store,
            theme,
            styled: false,
            view,
            saved: settings.clone(),
            settings,
            file,
            transport: Transport::default(),
            history: History::default(),
            palette: Palette::default(),
            dialogs: dialogs::Dialogs::default(),
            kept: Kept::default(),
            requests: Vec::new(),
            met: Vec::new(),
            under: None,
            wait: false,
        }
    }

    /// Answers are waited for: for tests and pictures.
    pub fn waiting(mut self) -> Self {
        self.wait = true;
        self
    }

    /// What is looked at.
    pub fn view_mut(&mut self) -> &mut View {
        &mut self.view
    }

    /// Draws a frame.
    pub fn ui(&mut self, ui: &mut Ui) {
        if !self.styled {
            theme::apply(ui.ctx(), &self.theme);
            ui.ctx().set_zoom_factor(self.settings.text_size);
            self.styled = true;
        }
        let runs = self.runs();
        self.meet(&runs);
        self.dropped(ui);
        let busy = self.dialogs.open();
        let chosen = self
            .palette
            .show(ui, &self.theme, &self.store, &self.store.runs());
        match chosen {
            Some(Choice::Command(command)) => self.run(ui, command),
            Some(Choice::Found(hit)) => self.go_to(&hit),
            None => {}
        }
        if !busy {
            for command in Command::pressed(ui.ctx()) {
                self.run(ui, command);
            }
        }
        self.advance(ui);

        let bar = Frame::new()
            .fill(self.theme.surface.panel.0)
            .inner_margin(Margin::symmetric(10, 6));
        let mut commands = Vec::new();
        Side::top("top").frame(bar).show(ui, |ui| {
            commands.extend(bars::top(
                ui,
                &self.theme,
                &runs,
                &mut self.view,
                &self.history,
            ));
        });
        let main = self.main();
        Side::bottom("time")
            .frame(bar)
            .exact_size(58.0)
            .show(ui, |ui| {
                let view = &mut self.view;
                commands.extend(timeline::show(
                    ui,
                    &self.theme,
                    &self.store,
                    main.as_ref(),
                    view,
                    &mut self.transport,
                    self.wait,
                ));
            });
        let ground = Frame::new()
            .fill(self.theme.surface.background.0)
            .inner_margin(Margin::symmetric(6, 6));
        egui::CentralPanel::default().frame(ground).show(ui, |ui| {
            if runs.is_empty() {
                dialogs::welcome(ui, &self.theme, &mut self.requests);
            } else {
                self.tiles(ui, &runs);
            }
        });
        for command in commands {
            self.run(ui, command);
        }
        self.dialogs.show(ui, &self.theme, &mut self.requests);
        self.answer_requests(ui);
        self.end(ui);
    }

    fn runs(&self) -> Vec<Arc<RunSnapshot>> {
        self.store
            .runs()
            .into_iter()
            .filter_map(|run| self.store.run(run))
            .collect()
    }

    fn main(&self) -> Option<Arc<RunSnapshot>> {
        self.store.run(self.view.run?)
    }

    /// A run that can be read for the first time is looked at where it is most telling: at its end.
    fn meet(&mut self, runs: &[Arc<RunSnapshot>]) {
        if self
            .view
            .run
            .is_none_or(|run| runs.iter().all(|other| other.id != run))
        {
            self.view.run = runs.first().map(|run| run.id);
        }
        for run in runs {
            if self.met.contains(&run.id) {
                continue;
            }
            let Some((_, last)) = run.range() else {
                continue;
            };
            self.met.push(run.id);
            if self.view.run == Some(run.id) && self.view.step == 0 {
                self.view.step = last;
                self.transport.follow = run.liveness.is_some_and(bellows_record::Liveness::is_live);
                if let Some((router, _)) = run.shape.routers.first() {
                    self.view.router = *router;
                }
            }
        }
    }

    fn dropped(&mut self, ui: &Ui) {
        let paths: Vec<PathBuf> = ui.input(|input| {
            let files = &input.raw.dropped_files;
            files
                .iter()
                .map(|file| file.path().to_owned())
                .filter(|path| !path.as_os_str().is_empty())
                .collect()
        });
        for path in paths {
            self.requests.push(Request::Open(path));
        }
    }

    fn advance(&mut self, ui: &Ui) {
        let Some(run) = self.main() else { return };
        let seconds = ui.input(|input| input.stable_dt);
        self.view.step = self
            .transport
            .advance(&run, self.view.step, self.view.range, seconds);
        if self.transport.playing {
            ui.ctx().request_repaint();
        }
    }

    fn tiles(&mut self, ui: &mut Ui, runs: &[Arc<RunSnapshot>]) {
        let workspace = self.view.workspace;
        // Taken out while it is drawn: panels change the view that holds it.
        let mut tree = self.view.layouts.tree(workspace).clone();
        let mut pages = tiles::Tiles {
            store: &self.store,
            runs,
            theme: &self.theme,
            view: &mut self.view,
            kept: &mut self.kept,
            requests: &mut self.requests,
            under: &mut self.under,
            wait: self.wait,
        };
        tree.ui(&mut pages, ui);
        *self.view.layouts.tree(workspace) = tree;
    }

    fn run(&mut self, ui: &Ui, command: Command) {
        let main = self.main();
        let range = main.as_ref().and_then(|run| run.range());
        let hold = |transport: &mut Transport| transport.follow = false;
        match command {
            Command::Play => {
                hold(&mut self.transport);
                self.transport.playing = !self.transport.playing;
            }
            Command::Next | Command::Previous => {
                hold(&mut self.transport);
                if let Some(run) = &main {
                    self.view.step =
                        transport::neighbour(run, self.view.step, command == Command::Next);
                }
            }
            Command::First | Command::Last => {
                hold(&mut self.transport);
                if let Some((first, last)) = range {
                    self.view.step = if command == Command::First {
                        first
                    } else {
                        last
                    };
                }
            }
            Command::Follow => self.transport.follow = !self.transport.follow,
            Command::Repeat => self.transport.repeat = !self.transport.repeat,
            Command::Faster | Command::Slower => self.transport.shift(command == Command::Faster),
            Command::ClearRange => self.view.range = None,
            Command::Pin => self.view.pinned = Some(self.view.step),
            Command::Unpin => (self.view.pinned, self.view.other) = (None, None),
            Command::NextLayer | Command::PreviousLayer => {
                self.step_layer(command == Command::NextLayer)
            }
            Command::NextIteration => {
                let layer = self.view.router.layer;
                let count = main.map_or(1, |run| run.shape.iterations(layer)).max(1);
                self.view.router.iteration = (self.view.router.iteration + 1) % count;
            }
            Command::NextMeasure => {
                self.view.measure = next(&bellows_query::routing::Measure::ALL, self.view.measure)
            }
            Command::NextOrder => {
                self.view.order = next(&bellows_query::routing::Order::ALL, self.view.order)
            }
            Command::Page(page) => self.view.workspace = page,
            Command::Show(panel) => self.show(panel),
            Command::Export => {
                let visible = self.view.layouts.visible(self.view.workspace);
                let panel = self
                    .under
                    .filter(|panel| visible.contains(panel))
                    .or(visible.first().copied());
                self.requests
                    .extend(panel.map(|panel| Request::Export(panel, Format::Png)));
            }
            Command::Open => self.dialogs.ask_open(),
            Command::Palette => self.palette.toggle(),
            Command::Theme => self.change_theme(if self.theme.dark { "light" } else { "dark" }),
            Command::NextScale => {
                let names: Vec<String> = self.theme.scale_names().map(str::to_owned).collect();
                let now = self
                    .view
                    .scale
                    .clone()
                    .unwrap_or_else(|| self.theme.scales.default.clone());
                self.view.scale = Some(next(&names, now));
            }
            Command::Larger => self.resize(ui, 1.1),
            Command::Smaller => self.resize(ui, 1.0 / 1.1),
            Command::FirstSize => self.resize(ui, 1.0 / self.settings.text_size),
            Command::Undo => _ = self.history.undo(&mut self.view),
            Command::Redo => _ = self.history.redo(&mut self.view),
            Command::ResetLayout => self.view.layouts.reset(self.view.workspace),
            Command::Quit => ui.ctx().send_viewport_cmd(egui::ViewportCommand::Close),
        }
    }

    fn show(&mut self, panel: Panel) {
        // A panel that stands on this page already is not looked for on another.
        let here = self
            .view
            .layouts
            .tree(self.view.workspace)
            .tiles
            .find_pane(&panel)
            .is_some();
        if !here {
            self.view.workspace = panel.workspace();
        }
        self.view.layouts.show(self.view.workspace, panel);
    }

    fn step_layer(&mut self, forward: bool) {
        let Some(run) = self.main() else { return };
        let layers = run.shape.layers();
        let at = layers
            .iter()
            .position(|layer| *layer == self.view.router.layer)
            .unwrap_or(0);
        let to = if forward {
            at + 1
        } else {
            at.saturating_sub(1)
        };
        if let Some(layer) = layers.get(to) {
            let iteration = self
                .view
                .router
                .iteration
                .min(run.shape.iterations(*layer).saturating_sub(1));
            self.view.router = RouterId {
                layer: *layer,
                iteration,
            };
        }
    }

    fn change_theme(&mut self, name: &str) {
        match Theme::load(name) {
            Ok(theme) => {
                self.theme = theme;
                self.styled = false;
                name.clone_into(&mut self.settings.theme);
                // Scales have other names in other themes.
                self.view.scale = self
                    .view
                    .scale
                    .take()
                    .filter(|scale| self.theme.scales.sequential.contains_key(scale));
            }
            Err(error) => self.dialogs.tell(error.to_string()),
        }
    }

    fn resize(&mut self, ui: &Ui, factor: f32) {
        let (least, most) = (*Settings::TEXT_SIZES.start(), *Settings::TEXT_SIZES.end());
        self.settings.text_size = (self.settings.text_size * factor).clamp(least, most);
        ui.ctx().set_zoom_factor(self.settings.text_size);
    }

    fn go_to(&mut self, hit: &Hit) {
        self.view.run = Some(hit.run);
        match &hit.target {
            Target::Metric(metric) => {
                self.view.metrics = vec![metric.clone()];
                self.show(Panel::Scalars);
            }
            Target::Setting(_) => self.show(Panel::Config),
            Target::Event(step) | Target::Sample(step) => {
                self.view.step = *step;
                self.show(Panel::Events);
            }
            Target::Token(sequence, position) => {
                self.view.token = (*sequence, *position);
                self.show(Panel::TokenPath);
            }
            Target::Expert(router, expert) => {
                (self.view.router, self.view.expert) = (*router, *expert);
                self.show(Panel::Expert);
            }
            Target::Router(router) => self.view.router = *router,
            Target::Step(step) => self.view.step = *step,
        }
    }

    fn answer_requests(&mut self, ui: &Ui) {
        for request in std::mem::take(&mut self.requests) {
            match request {
                Request::Show(panel) => self.show(panel),
                Request::Export(panel, Format::Clipboard) => {
                    match export::table(&self.subject(panel)) {
                        Ok(csv) => {
                            ui.ctx().copy_text(csv);
                            self.dialogs.tell(format!(
                                "The table of “{}” is in the clipboard.",
                                panel.title()
                            ));
                        }
                        Err(error) => self.dialogs.tell(error.to_string()),
                    }
                }
                Request::Export(panel, format) => {
                    let run = self
                        .main()
                        .map_or_else(|| "run".to_owned(), |run| run.name.replace('/', "-"));
                    let name = format!(
                        "{run}-{}-{}.{}",
                        panel.id(),
                        self.view.step,
                        format.ending()
                    );
                    let path = Path::new(&self.settings.export_folder).join(name);
                    self.dialogs.ask_export(panel, format, &path);
                }
                Request::Write {
                    panel,
                    format,
                    path,
                    size,
                } => {
                    let written = export::write(&self.subject(panel), format, size, &path);
                    match written {
                        Ok(()) => {
                            self.settings.export_folder = path
                                .parent()
                                .map_or_else(String::new, |folder| folder.display().to_string());
                            self.dialogs.tell(format!("Wrote {}", path.display()));
                        }
                        Err(error) => self.dialogs.tell(error.to_string()),
                    }
                }
                Request::Open(path) => {
                    let run = self.store.open(&path);
                    self.view.run = Some(run);
                    self.view.step = 0;
                    self.met.retain(|other| *other != run);
                }
                Request::Close(run) => {
                    self.store.close(run);
                    self.view.other = self.view.other.filter(|other| *other != run);
                    self.met.retain(|other| *other != run);
                }
            }
        }
    }

    fn subject(&self, panel: Panel) -> export::Subject<'_> {
        export::Subject {
            store: &self.store,
            theme: &self.theme,
            view: &self.view,
            panel,
            text_size: self.settings.text_size,
        }
    }

    fn end(&mut self, ui: &Ui) {
        let (now, held) = ui.input(|input| (input.time, input.pointer.any_down()));
        let settled = !held && !self.transport.playing && !self.transport.follow;
        self.history.note(&self.view, now, settled);
        self.settings.page = self.view.workspace;
        if settled && self.settings.layouts != self.view.layouts {
            self.settings.layouts = self.view.layouts.clone();
        }
        if settled && self.saved != self.settings {
            self.saved = self.settings.clone();
            if let Some(error) = self
                .file
                .as_deref()
                .and_then(|file| self.settings.save(file).err())
            {
                self.file = None;
                self.dialogs
                    .tell(format!("Settings cannot be kept: {error}"));
            }
        }
    }
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut Ui, _: &mut eframe::Frame) {
        Self::ui(self, ui);
    }
}

/// The one after `now`, around the end.
fn next<T: PartialEq + Clone>(all: &[T], now: T) -> T {
    let at = all
        .iter()
        .position(|other| *other == now)
        .map_or(0, |at| at + 1);
    all.get(at % all.len().max(1)).cloned().unwrap_or(now)
}

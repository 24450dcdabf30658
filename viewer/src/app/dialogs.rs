use std::path::{Path, PathBuf};

use egui::{Align2, RichText, TextEdit, Ui, vec2};

use crate::export::Format;
use crate::panels::{Panel, Request};
use crate::theme::Theme;

/// Questions that are asked in front of everything, and short messages.
#[derive(Default)]
pub struct Dialogs {
    asked: Option<Asked>,
    message: Option<(String, f64)>,
    fresh: Option<String>,
}

enum Asked {
    Open {
        path: String,
        found: Vec<PathBuf>,
    },
    Export {
        panel: Panel,
        format: Format,
        path: String,
        width: u32,
        height: u32,
    },
}

/// How long a message stays, seconds.
const STAYS: f64 = 5.0;

impl Dialogs {
    /// Whether a question waits.
    pub fn open(&self) -> bool {
        self.asked.is_some()
    }

    /// Asks which run to open.
    pub fn ask_open(&mut self) {
        let root = Path::new("runs");
        let found = bellows_record::list_runs(root)
            .map(|list| list.runs.into_iter().map(|run| run.path).collect())
            .unwrap_or_default();
        self.asked = Some(Asked::Open {
            path: String::new(),
            found,
        });
    }

    /// Asks where to export a panel to.
    pub fn ask_export(&mut self, panel: Panel, format: Format, path: &Path) {
        let path = path.display().to_string();
        self.asked = Some(Asked::Export {
            panel,
            format,
            path,
            width: 1600,
            height: 900,
        });
    }

    /// Shows a message for a while.
    pub fn tell(&mut self, message: String) {
        self.fresh = Some(message);
    }

    /// Shows what is asked and told.
    pub fn show(&mut self, ui: &Ui, theme: &Theme, requests: &mut Vec<Request>) {
        self.message(ui, theme);
        let Some(asked) = &mut self.asked else { return };
        let mut done = false;
        let area = egui::Modal::default_area(egui::Id::unique("dialog"))
            .anchor(Align2::CENTER_TOP, vec2(0.0, 120.0));
        let modal = egui::Modal::new(egui::Id::unique("dialog"))
            .area(area)
            .backdrop_color(theme.surface.background.0.gamma_multiply(0.45))
            .show(ui.ctx(), |ui| {
                ui.set_width(480.0);
                match asked {
                    Asked::Open { path, found } => done = open(ui, theme, path, found, requests),
                    Asked::Export {
                        panel,
                        format,
                        path,
                        width,
                        height,
                    } => {
                        done = export(ui, theme, *panel, *format, path, (width, height), requests);
                    }
                }
            });
        if done || modal.should_close() {
            self.asked = None;
        }
    }

    fn message(&mut self, ui: &Ui, theme: &Theme) {
        let now = ui.input(|input| input.time);
        if let Some(fresh) = self.fresh.take() {
            self.message = Some((fresh, now));
        }
        let Some((text, since)) = &self.message else {
            return;
        };
        let left = STAYS - (now - since);
        if left <= 0.0 {
            self.message = None;
            return;
        }
        ui.ctx().request_repaint_after_secs(left as f32);
        egui::Area::new(egui::Id::unique("message"))
            .anchor(Align2::RIGHT_BOTTOM, vec2(-16.0, -76.0))
            .order(egui::Order::Tooltip)
            .interactable(false)
            .show(ui.ctx(), |ui| {
                egui::Frame::popup(ui.style())
                    .inner_margin(12)
                    .show(ui, |ui| {
                        ui.set_max_width(420.0);
                        ui.label(RichText::new(text).color(theme.text.strong.0));
                    });
            });
    }
}

fn open(
    ui: &mut Ui,
    theme: &Theme,
    path: &mut String,
    found: &[PathBuf],
    requests: &mut Vec<Request>,
) -> bool {
    ui.label(
        RichText::new("Open a run")
            .heading()
            .color(theme.text.strong.0),
    );
    let edit = TextEdit::singleline(path)
        .hint_text("folder of a run, such as runs/rust-code")
        .desired_width(f32::INFINITY);
    let edit = ui.add(edit);
    let enter = edit.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
    if !enter {
        edit.request_focus();
    }
    let mut chosen = (enter && !path.trim().is_empty()).then(|| PathBuf::from(path.trim()));
    if found.is_empty() {
        ui.label(
            RichText::new("There are no runs under runs/ here.")
                .small()
                .color(theme.text.weak.0),
        );
    }
    egui::ScrollArea::vertical()
        .max_height(260.0)
        .show(ui, |ui| {
            for run in found {
                if ui
                    .selectable_label(false, run.display().to_string())
                    .clicked()
                {
                    chosen = Some(run.clone());
                }
            }
        });
    match chosen {
        Some(run) => {
            requests.push(Request::Open(run));
            true
        }
        None => false,
    }
}

fn export(
    ui: &mut Ui,
    theme: &Theme,
    panel: Panel,
    format: Format,
    path: &mut String,
    (width, height): (&mut u32, &mut u32),
    requests: &mut Vec<Request>,
) -> bool {
    ui.label(
        RichText::new(format!("Export “{}” as {}", panel.title(), format.name()))
            .heading()
            .color(theme.text.strong.0),
    );
    let edit = ui.add(TextEdit::singleline(path).desired_width(f32::INFINITY));
    let enter = edit.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
    let mut write = enter;
    let mut cancel = false;
    ui.horizontal(|ui| {
        if format != Format::Csv {
            ui.add(
                egui::DragValue::new(width)
                    .range(200..=8000)
                    .suffix(" wide"),
            );
            ui.add(
                egui::DragValue::new(height)
                    .range(150..=8000)
                    .suffix(" high"),
            );
        }
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            write |= ui.button("Write").clicked();
            cancel = ui.button("Cancel").clicked();
        });
    });
    if write {
        requests.push(Request::Write {
            panel,
            format,
            path: PathBuf::from(path.trim()),
            size: (*width, *height),
        });
    }
    write || cancel
}

/// What a window without a run shows.
pub fn welcome(ui: &mut Ui, theme: &Theme, requests: &mut Vec<Request>) {
    let room = ui.available_rect_before_wrap();
    let rect = egui::Rect::from_center_size(room.center(), vec2(460.0, 320.0));
    ui.scope_builder(
        egui::UiBuilder::new()
            .max_rect(rect)
            .layout(egui::Layout::top_down(egui::Align::Center)),
        |ui| {
            ui.label(
                RichText::new("Bellows")
                    .heading()
                    .size(28.0)
                    .color(theme.text.strong.0),
            );
            ui.label(
                RichText::new("Drop a run's folder here, or open one:").color(theme.text.weak.0),
            );
            ui.add_space(8.0);
            let list = bellows_record::list_runs(Path::new("runs"));
            let runs = list.map(|list| list.runs).unwrap_or_default();
            for run in runs.iter().take(8) {
                if ui
                    .add(
                        egui::Button::new(run.path.display().to_string())
                            .min_size(vec2(320.0, 28.0)),
                    )
                    .clicked()
                {
                    requests.push(Request::Open(run.path.clone()));
                }
            }
            if runs.is_empty() {
                ui.label(
                    RichText::new("bellows view runs/NAME")
                        .monospace()
                        .color(theme.text.normal.0),
                );
            }
        },
    );
    ui.advance_cursor_after_rect(room);
}

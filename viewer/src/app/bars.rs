use std::sync::Arc;

use bellows_query::{Loading, RunSnapshot, Severity};
use egui::{Align, Button, Layout, RichText, Ui, vec2};

use super::history::History;
use super::{Command, View, Workspace};
use crate::format;
use crate::theme::{STRONG, Theme};

/// The bar at the top; the commands that were clicked.
pub fn top(
    ui: &mut Ui,
    theme: &Theme,
    runs: &[Arc<RunSnapshot>],
    view: &mut View,
    history: &History,
) -> Vec<Command> {
    let mut commands = Vec::new();
    ui.horizontal(|ui| {
        run_menu(ui, theme, runs, view, &mut commands);
        ui.add_space(10.0);
        ui.spacing_mut().item_spacing.x = 2.0;
        for page in Workspace::ALL {
            let on = view.workspace == page;
            let color = if on {
                theme.text.strong.0
            } else {
                theme.text.weak.0
            };
            let text = RichText::new(page.name()).color(color);
            let text = if on {
                text.family(egui::FontFamily::Name(STRONG.into()))
            } else {
                text
            };
            let response = ui.add(Button::selectable(on, text).min_size(vec2(0.0, 26.0)));
            if response
                .on_hover_text(keys(ui, Command::Page(page)))
                .clicked()
            {
                commands.push(Command::Page(page));
            }
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            ui.spacing_mut().item_spacing.x = 4.0;
            let mut button = |ui: &mut Ui, text: &str, command: Command, enabled: bool| {
                let response = ui.add_enabled(
                    enabled,
                    Button::new(RichText::new(text).color(theme.text.normal.0))
                        .frame_when_inactive(false),
                );
                let hint = format!("{}  {}", command.name(), keys(ui, command));
                if response.on_hover_text(hint).clicked() {
                    commands.push(command);
                }
            };
            button(
                ui,
                if theme.dark { "Light" } else { "Dark" },
                Command::Theme,
                true,
            );
            button(ui, "Redo", Command::Redo, history.can_redo());
            button(ui, "Undo", Command::Undo, history.can_undo());
            let search = format!("Search and commands   {}", keys(ui, Command::Palette));
            let text = RichText::new(search).small().color(theme.text.weak.0);
            if ui
                .add(Button::new(text).min_size(vec2(190.0, 24.0)))
                .clicked()
            {
                commands.push(Command::Palette);
            }
            if let Some(run) = view.run.and_then(|id| runs.iter().find(|run| run.id == id)) {
                status(ui, theme, run);
            }
        });
    });
    commands
}

fn keys(ui: &Ui, command: Command) -> String {
    command
        .shortcut()
        .map_or_else(String::new, |keys| ui.ctx().format_shortcut(&keys))
}

fn run_menu(
    ui: &mut Ui,
    theme: &Theme,
    runs: &[Arc<RunSnapshot>],
    view: &mut View,
    commands: &mut Vec<Command>,
) {
    let main = view.run.and_then(|id| runs.iter().find(|run| run.id == id));
    let name = main.map_or("no run", |run| run.name.as_str());
    let title = RichText::new(format!("{name}      "))
        .family(egui::FontFamily::Name(STRONG.into()))
        .size(14.0)
        .color(theme.text.strong.0);
    let button = Button::new(title).min_size(vec2(0.0, 26.0));
    let (response, _) = egui::containers::menu::MenuButton::from_button(button).ui(ui, |ui| {
        ui.set_min_width(220.0);
        for (at, run) in runs.iter().enumerate() {
            let text = RichText::new(&run.name).color(theme.series(at));
            if ui
                .selectable_label(view.run == Some(run.id), text)
                .on_hover_text(run.path.display().to_string())
                .clicked()
            {
                view.run = Some(run.id);
            }
        }
        ui.separator();
        if ui.button("Open a run…").clicked() {
            commands.push(Command::Open);
        }
    });
    let at = response.rect.right_center() - vec2(14.0, 0.0);
    let points = [vec2(-4.0, -2.0), vec2(4.0, -2.0), vec2(0.0, 3.0)]
        .map(|offset| at + offset)
        .to_vec();
    ui.painter().add(egui::Shape::convex_polygon(
        points,
        theme.text.weak.0,
        egui::Stroke::NONE,
    ));
}

/// Whether the run lives, how much was read, what is wrong.
fn status(ui: &mut Ui, theme: &Theme, run: &RunSnapshot) {
    let warnings = run
        .notes
        .iter()
        .filter(|note| note.severity == Severity::Warning)
        .count();
    if warnings > 0 {
        let text = if warnings == 1 {
            "1 warning".to_owned()
        } else {
            format!("{warnings} warnings")
        };
        ui.label(RichText::new(text).color(theme.state.warn.0))
            .on_hover_ui(|ui| {
                for note in run
                    .notes
                    .iter()
                    .filter(|note| note.severity == Severity::Warning)
                {
                    ui.label(format!("{}: {}", note.file, note.text));
                    ui.small(&note.remedy);
                }
            });
    }
    if let Loading::Reading { read, of } = run.loading
        && of > 0
    {
        let text = format!("{} read", format::percent(read as f32 / of as f32));
        ui.label(RichText::new(text).small().color(theme.text.weak.0));
    }
    if run.liveness.is_some_and(bellows_record::Liveness::is_live) {
        ui.label(RichText::new("live").small().color(theme.state.good.0));
        let (rect, _) = ui.allocate_exact_size(vec2(10.0, 10.0), egui::Sense::hover());
        ui.painter()
            .circle_filled(rect.center(), 4.0, theme.state.good.0);
    }
}

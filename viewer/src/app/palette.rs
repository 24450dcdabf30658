use std::sync::Arc;

use bellows_query::search::{Hit, Hits, Search, Target};
use bellows_query::{RunId, Store};
use egui::{Align2, Key, Modifiers, RichText, ScrollArea, TextEdit, Ui, vec2};

use super::Command;
use crate::format;
use crate::theme::Theme;

/// The list of commands that is searched by typing; what is typed is looked for in the run too.
#[derive(Default)]
pub struct Palette {
    open: bool,
    text: String,
    chosen: usize,
    found: Option<Arc<Hits>>,
}

/// What was chosen in the palette.
pub enum Choice {
    /// A command.
    Command(Command),
    /// Something found in a run.
    Found(Hit),
}

enum Row<'a> {
    Command(Command),
    Found(&'a Hit),
}

impl Palette {
    /// Opens or closes it.
    pub fn toggle(&mut self) {
        self.open = !self.open;
        self.text.clear();
        self.chosen = 0;
        self.found = None;
    }

    /// Shows it where it is open; what was chosen.
    pub fn show(
        &mut self,
        ui: &Ui,
        theme: &Theme,
        store: &Store,
        runs: &[RunId],
    ) -> Option<Choice> {
        if !self.open {
            return None;
        }
        let context = ui.ctx();
        let keys = |modifiers, key| context.input_mut(|input| input.consume_key(modifiers, key));
        if keys(Modifiers::NONE, Key::Escape) {
            self.open = false;
            return None;
        }
        let down = keys(Modifiers::NONE, Key::ArrowDown);
        let up = keys(Modifiers::NONE, Key::ArrowUp);
        let enter = keys(Modifiers::NONE, Key::Enter);
        self.search(store, runs);
        let found = self.found.clone();
        let rows = rows(&self.text, found.as_deref());
        let last = rows.len().saturating_sub(1);
        self.chosen = if down {
            self.chosen + 1
        } else {
            self.chosen.saturating_sub(usize::from(up))
        }
        .min(last);
        let mut choice = (enter && !rows.is_empty()).then_some(self.chosen);
        let area = egui::Modal::default_area(egui::Id::unique("palette"))
            .anchor(Align2::CENTER_TOP, vec2(0.0, 70.0));
        let modal = egui::Modal::new(egui::Id::unique("palette"))
            .area(area)
            .backdrop_color(theme.surface.background.0.gamma_multiply(0.45))
            .show(context, |ui| {
                ui.set_width(520.0);
                let edit = TextEdit::singleline(&mut self.text)
                    .hint_text("A command, a panel, “expert 3”, a step, or words of the run")
                    .desired_width(f32::INFINITY)
                    .margin(egui::Margin::symmetric(10, 7));
                let edit = ui.add(edit);
                if edit.changed() {
                    self.chosen = 0;
                }
                edit.request_focus();
                ui.add_space(4.0);
                ScrollArea::vertical()
                    .max_height(380.0)
                    .auto_shrink([false, true])
                    .show(ui, |ui| {
                        for (at, row) in rows.iter().enumerate() {
                            let response = line(ui, theme, row, at == self.chosen);
                            if at == self.chosen && (up || down) {
                                response.scroll_to_me(None);
                            }
                            if response.clicked() {
                                choice = Some(at);
                            }
                        }
                        if rows.is_empty() {
                            ui.label(
                                RichText::new(
                                    "Nothing is called that, and the run does not have it.",
                                )
                                .color(theme.text.weak.0),
                            );
                        }
                    });
            });
        if modal.should_close() {
            self.open = false;
        }
        let row = rows.into_iter().nth(choice?)?;
        self.open = false;
        Some(match row {
            Row::Command(command) => Choice::Command(command),
            Row::Found(hit) => Choice::Found(hit.clone()),
        })
    }

    fn search(&mut self, store: &Store, runs: &[RunId]) {
        let text = self.text.trim();
        if text.len() < 2 && text.parse::<u64>().is_err() {
            self.found = None;
            return;
        }
        let query = Search {
            runs: runs.to_vec(),
            text: text.to_owned(),
            limit: 8,
        };
        if let Some(Ok(hits)) = store.ask(&query).answer {
            self.found = Some(hits);
        }
    }
}

fn rows<'a>(text: &str, found: Option<&'a Hits>) -> Vec<Row<'a>> {
    let mut commands: Vec<(i32, Command)> = Command::all()
        .filter_map(|command| Some((fits(text, command)?, command)))
        .collect();
    commands.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    let hits = found.map_or(&[][..], |found| &found.hits);
    let commands = commands
        .into_iter()
        .map(|(_, command)| Row::Command(command));
    commands.chain(hits.iter().map(Row::Found)).collect()
}

/// How well a command fits what was typed: by its name, a panel also by a phrase of what it shows.
fn fits(typed: &str, command: Command) -> Option<i32> {
    /// Below every name that holds what was typed.
    const SHOWN: i32 = 0;
    let shows = |command| match command {
        Command::Show(panel) => {
            let typed = typed.trim().to_lowercase();
            (typed.len() > 2 && panel.what().to_lowercase().contains(&typed)).then_some(SHOWN)
        }
        _ => None,
    };
    score(typed, &command.name()).or_else(|| shows(command))
}

/// How well a name fits what was typed: its letters have to occur in order; whole words count most.
fn score(typed: &str, name: &str) -> Option<i32> {
    let (typed, name) = (typed.trim().to_lowercase(), name.to_lowercase());
    if typed.is_empty() {
        return Some(0);
    }
    if let Some(at) = name.find(&typed) {
        let starts = at == 0 || name[..at].ends_with([' ', ':']);
        return Some(if starts { 200 } else { 100 } - at as i32);
    }
    let mut left = name.chars();
    let mut gaps = 0;
    for letter in typed.chars().filter(|letter| !letter.is_whitespace()) {
        gaps += left.position(|other| other == letter)? as i32;
    }
    // Letters that lie far apart fit by chance.
    (gaps <= 6).then_some(50 - gaps)
}

fn line(ui: &mut Ui, theme: &Theme, row: &Row<'_>, chosen: bool) -> egui::Response {
    let (name, side) = match row {
        Row::Command(command) => (
            command.name(),
            command
                .shortcut()
                .map_or_else(String::new, |keys| ui.ctx().format_shortcut(&keys)),
        ),
        Row::Found(hit) => (
            format::token(&hit.text).replace('·', " "),
            kind(&hit.target).to_owned(),
        ),
    };
    let (rect, response) =
        ui.allocate_exact_size(vec2(ui.available_width(), 26.0), egui::Sense::click());
    response.widget_info(|| egui::WidgetInfo::selected(egui::Role::Button, true, chosen, &name));
    let painter = ui.painter().with_clip_rect(rect.intersect(ui.clip_rect()));
    if chosen || response.hovered() {
        let fill = if chosen {
            theme.surface.selected.0
        } else {
            theme.surface.hover.0
        };
        painter.rect_filled(rect, 5.0, fill);
    }
    let font = egui::TextStyle::Body.resolve(ui.style());
    let small = egui::TextStyle::Small.resolve(ui.style());
    painter.text(
        rect.left_center() + vec2(10.0, 0.0),
        Align2::LEFT_CENTER,
        name,
        font,
        theme.text.strong.0,
    );
    painter.text(
        rect.right_center() - vec2(10.0, 0.0),
        Align2::RIGHT_CENTER,
        side,
        small,
        theme.text.weak.0,
    );
    response
}

fn kind(target: &Target) -> &'static str {
    match target {
        Target::Metric(_) => "metric",
        Target::Setting(_) => "setting",
        Target::Event(_) => "event",
        Target::Sample(_) => "sample",
        Target::Token(..) => "token",
        Target::Expert(..) => "expert",
        Target::Router(_) => "router",
        Target::Step(_) => "step",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_finds_the_command_that_is_meant() {
        let first = |typed: &str| match rows(typed, None).into_iter().next() {
            Some(Row::Command(command)) => command.name(),
            _ => String::new(),
        };
        assert_eq!(first("undo"), "Undo the last change of the view");
        assert_eq!(first("page: mem"), "Page: Memory");
        assert_eq!(first("satu"), "Panel: Saturation");
        assert_eq!(first("dead ex"), "Panel: Balance");
        assert!(rows("zzzz", None).is_empty());
    }
}

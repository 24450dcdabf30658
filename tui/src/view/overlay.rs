//! What lies over a screen: the keys, a question, a line being typed.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::Canvas;
use super::form::{self, typed};
use super::frame::{cell, dialog, scrolled, wrap};
use crate::app::{App, Confirm, HelpScreen, Overlay, Prompt, Screen};
use crate::keys;
use crate::query::warnings::{DEAD_RECORDS, OVERLOADED};

/// Columns of a question's text.
const QUESTION: usize = 60;

pub(super) fn draw(app: &mut App, canvas: &mut Canvas<'_>, area: Rect) {
    let read_only = app.options.read_only;
    // A run that is started from the form is started knowing what its plan says, which may come
    // after the question.
    let plan = match &app.screen {
        Screen::Form(form) => form::verdict(form, QUESTION, canvas),
        _ => Vec::new(),
    };
    match &mut app.overlay {
        None => {}
        Some(Overlay::Help(screen)) => app.page = help(screen, read_only, canvas, area),
        Some(Overlay::Confirm(question)) => confirm(question, plan, canvas, area),
        Some(Overlay::Prompt(question)) => prompt(question, canvas, area),
    }
}

fn help(screen: &mut HelpScreen, read_only: bool, canvas: &mut Canvas<'_>, area: Rect) -> usize {
    let theme = canvas.theme;
    let mut lines: Vec<Line<'static>> = Vec::new();
    for binding in keys::bindings(screen.context, read_only) {
        let names: Vec<String> = binding
            .keys
            .iter()
            .map(|key| keys::shown(key, canvas.glyphs.ascii))
            .collect();
        lines.push(Line::from(vec![
            cell(&names.join(" "), 16, false, theme.accent),
            Span::styled(binding.help, theme.text),
        ]));
    }
    lines.push(Line::raw(""));
    for text in legend(screen.context, canvas) {
        lines.extend(
            wrap(&text, 72)
                .into_iter()
                .map(|line| Line::styled(line, theme.dim)),
        );
    }
    let height = (lines.len() as u16).min(area.height.saturating_sub(5));
    let inner = dialog(
        canvas,
        area,
        76,
        height,
        &format!("Keys: {}", screen.context.title()),
    );
    let fits = usize::from(inner.height);
    let furthest = lines.len().saturating_sub(fits);
    screen.scroll = screen.scroll.min(furthest);
    let left = furthest - screen.scroll;
    for (row, line) in lines.into_iter().skip(screen.scroll).take(fits).enumerate() {
        canvas.line(inner, row as u16, line);
    }
    if left > 0 {
        // On the frame, where it hides nothing.
        let frame = Rect {
            y: inner.y + inner.height,
            height: 1,
            ..inner
        };
        canvas.line_right(
            frame,
            0,
            Line::styled(format!(" {left} more ↓ "), theme.dim),
        );
    }
    fits
}

/// What signs and words mean.
fn legend(context: keys::Context, canvas: &Canvas<'_>) -> Vec<String> {
    use bellows_record::Liveness;
    let glyphs = canvas.glyphs;
    match context {
        keys::Context::Home => {
            let states = [
                Liveness::Running,
                Liveness::Paused,
                Liveness::Stopped,
                Liveness::Finished,
                Liveness::Failed,
                Liveness::Crashed,
            ];
            let signs: Vec<String> = states
                .iter()
                .map(|state| format!("{} {state}", glyphs.state(*state)))
                .collect();
            vec![
                format!("{}. Crashed: its process is gone or silent for 15 seconds.", signs.join("  ")),
                "The small curve is the loss from the first step to the newest.".to_owned(),
            ]
        }
        keys::Context::Charts | keys::Context::Compare => vec![
            "The bright line is smoothed, the dim one behind it is what was recorded; where a column stands for several steps it shows their smallest and largest, so no spike is lost. Crosses are validation.".to_owned(),
        ],
        keys::Context::Routing => {
            let ramp: Vec<String> = [0.0, 0.5, 1.0, 2.0, 3.0]
                .iter()
                .map(|share| format!("{} {share}", glyphs.heat(*share)))
                .collect();
            vec![
                format!("Load in even shares: {}.", ramp.join("  ")),
                format!("Fullest: the load of the fullest expert. Entropy: of the router's probabilities, 100 % is undecided. Overloaded: {OVERLOADED} even shares or more. A warning about a dead expert means no token in {DEAD_RECORDS} records."),
            ]
        }
        keys::Context::Memory => vec![
            "The ledger names what is known of memory; the allocator's totals stand beside it and are no part of the sum.".to_owned(),
        ],
        _ => Vec::new(),
    }
}

fn confirm(question: &Confirm, plan: Vec<Line<'static>>, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    let mut lines: Vec<Line<'static>> = question
        .consequence
        .iter()
        .flat_map(|line| wrap(line, QUESTION))
        .map(|line| Line::styled(line, theme.text))
        .collect();
    if !plan.is_empty() {
        lines.push(Line::raw(""));
        lines.push(Line::styled("Memory plan", theme.title));
        lines.extend(plan);
    }
    // The answers are always seen, whatever there is to say.
    let height = (lines.len() as u16 + 2).min(area.height.saturating_sub(2));
    let inner = dialog(
        canvas,
        area,
        QUESTION as u16 + 2,
        height,
        &question.question,
    );
    for (row, line) in lines.into_iter().enumerate() {
        if row as u16 + 2 > inner.height {
            break;
        }
        canvas.line(inner, row as u16, line);
    }
    let answer = Line::from(vec![
        Span::styled("y", theme.accent),
        Span::styled(" yes   ", theme.dim),
        Span::styled("n", theme.accent),
        Span::styled(" no", theme.dim),
    ]);
    canvas.line(inner, inner.height.saturating_sub(1), answer);
}

/// Choices that a prompt shows at once.
const CHOICES: usize = 8;

fn prompt(question: &Prompt, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    let hint = wrap(&question.hint, QUESTION);
    let complaint = question
        .complaint
        .as_ref()
        .map_or(Vec::new(), |text| wrap(text, QUESTION));
    let shown = question.choices.len().min(CHOICES);
    let rows = hint.len() + shown + usize::from(shown > 0) + complaint.len() + 2;
    let width = QUESTION as u16 + 2;
    let inner = dialog(canvas, area, width, rows as u16, &question.title);
    let mut row = 0;
    for line in hint {
        canvas.line(inner, row, Line::styled(line, theme.dim));
        row += 1;
    }
    row += 1;
    let mut spans = vec![Span::styled("> ", theme.accent)];
    spans.extend(typed(&question.text, QUESTION - 2, true, canvas));
    canvas.line(inner, row, Line::from(spans));
    for line in complaint {
        row += 1;
        canvas.line(inner, row, Line::styled(line, theme.bad));
    }
    if shown == 0 {
        return;
    }
    row += 1;
    let chosen = question.chosen();
    let first = scrolled(chosen.unwrap_or(0), question.choices.len(), shown);
    for (index, (choice, note)) in question.choices.iter().enumerate().skip(first).take(shown) {
        row += 1;
        let is_chosen = chosen == Some(index);
        let pointer = if is_chosen {
            canvas.glyphs.pointer()
        } else {
            " "
        };
        let style = if is_chosen { theme.title } else { theme.text };
        canvas.line(
            inner,
            row,
            Line::from(vec![
                Span::styled(pointer, theme.accent),
                Span::raw(" "),
                cell(choice, 12, false, style),
                Span::styled(note.clone(), theme.dim),
            ]),
        );
    }
    if first + shown < question.choices.len() {
        let more = format!(" {} more", question.choices.len() - first - shown);
        canvas.line_right(inner, row, Line::styled(more, theme.dim));
    }
}

//! What lies over a screen: the keys, a question, a line being typed.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::Canvas;
use super::form::typed;
use super::frame::{cell, dialog, wrap};
use crate::app::{App, Confirm, HelpScreen, Overlay, Prompt};
use crate::keys;
use crate::query::warnings::{DEAD_RECORDS, OVERLOADED};

pub(super) fn draw(app: &mut App, canvas: &mut Canvas<'_>, area: Rect) {
    let read_only = app.options.read_only;
    match &mut app.overlay {
        None => {}
        Some(Overlay::Help(screen)) => app.page = help(screen, read_only, canvas, area),
        Some(Overlay::Confirm(question)) => confirm(question, canvas, area),
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
        canvas.line_right(
            inner,
            inner.height - 1,
            Line::styled(format!(" {left} more ↓"), theme.dim),
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
                "The small curve is the loss of the newest steps.".to_owned(),
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

fn confirm(question: &Confirm, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    let lines: Vec<String> = question
        .consequence
        .iter()
        .flat_map(|line| wrap(line, 60))
        .collect();
    let inner = dialog(canvas, area, 62, lines.len() as u16 + 2, &question.question);
    for (row, line) in lines.iter().enumerate() {
        canvas.line(inner, row as u16, Line::styled(line.clone(), theme.text));
    }
    let answer = Line::from(vec![
        Span::styled("y", theme.accent),
        Span::styled(" yes   ", theme.dim),
        Span::styled("n", theme.accent),
        Span::styled(" no", theme.dim),
    ]);
    canvas.line(inner, lines.len() as u16 + 1, answer);
}

fn prompt(question: &Prompt, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    let hint = wrap(&question.hint, 60);
    let complaint = question
        .complaint
        .as_ref()
        .map_or(Vec::new(), |text| wrap(text, 60));
    let rows = hint.len() + complaint.len() + 2;
    let inner = dialog(canvas, area, 62, rows as u16, &question.title);
    let mut row = 0;
    for line in hint {
        canvas.line(inner, row, Line::styled(line, theme.dim));
        row += 1;
    }
    row += 1;
    let mut spans = vec![Span::styled("> ", theme.accent)];
    spans.extend(typed(&question.text, 58, true, canvas));
    canvas.line(inner, row, Line::from(spans));
    for line in complaint {
        row += 1;
        canvas.line(inner, row, Line::styled(line, theme.bad));
    }
}

//! The form of a new run.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::frame::{cell, heading, wrap};
use super::{Canvas, split_top};
use crate::app::{FieldKind, Form, Target, TextLine, Verdict};

/// Draws it.
pub(super) fn draw(form: &Form, canvas: &mut Canvas<'_>, area: Rect) {
    let theme = canvas.theme;
    heading(
        canvas,
        area,
        0,
        "New run",
        if form.checking {
            "checking"
        } else {
            "what is left empty is as the configuration says"
        },
    );
    let body = split_top(area, 2)[1];
    let width = usize::from(area.width);
    let field_width = (width.saturating_sub(24) / 2).clamp(20, 60);
    for (index, field) in form.fields.iter().enumerate() {
        let chosen = index == form.selected;
        let place = Rect {
            y: body.y + index as u16,
            height: 1,
            ..body
        };
        if index as u16 >= body.height {
            break;
        }
        let mut spans = vec![
            Span::styled(
                if chosen { canvas.glyphs.pointer() } else { " " },
                theme.accent,
            ),
            Span::raw(" "),
            cell(
                field.label,
                18,
                false,
                if chosen { theme.title } else { theme.dim },
            ),
        ];
        let says = match field.kind {
            FieldKind::Setting(key) => form.resolved.get(key).cloned().unwrap_or_default(),
            FieldKind::Config | FieldKind::More => String::new(),
        };
        if field.text.as_str().is_empty() && !chosen {
            spans.push(cell(&says, field_width, false, theme.dim));
        } else {
            spans.extend(typed(&field.text, field_width, chosen, canvas));
        }
        spans.push(Span::raw("  "));
        let hint = if chosen && field.text.as_str().is_empty() && !says.is_empty() {
            format!("{says}; {}", field.hint)
        } else {
            field.hint.to_owned()
        };
        spans.push(Span::styled(
            crate::format::clip(&hint, width.saturating_sub(field_width + 24)),
            if chosen { theme.text } else { theme.frame },
        ));
        canvas.line(place, 0, Line::from(spans));
        canvas.targets.push((place, Target::Field(index)));
    }
    let below = split_top(body, form.fields.len() as u16 + 1)[1];
    let mut row = 0;
    if let Some(trouble) = &form.trouble {
        for line in trouble
            .lines()
            .flat_map(|line| wrap(line, width.saturating_sub(4)))
        {
            canvas.line(below, row, Line::styled(format!("  {line}"), theme.bad));
            row += 1;
        }
        return;
    }
    heading(
        canvas,
        below,
        row,
        "Memory plan",
        "what `bellows plan` says of these settings",
    );
    for line in verdict(form, width.saturating_sub(4), canvas) {
        row += 1;
        let mut spans = vec![Span::raw("  ")];
        spans.extend(line.spans);
        canvas.line(below, row, Line::from(spans));
    }
}

/// What the plan says, in lines of at most `width` columns: for the form and for the question
/// before the run is started.
pub(super) fn verdict(form: &Form, width: usize, canvas: &Canvas<'_>) -> Vec<Line<'static>> {
    let theme = canvas.theme;
    let said = |text: &str, style| -> Vec<Line<'static>> {
        wrap(text, width)
            .into_iter()
            .map(|line| Line::styled(line, style))
            .collect()
    };
    match &form.verdict {
        Verdict::Awaited if form.is_empty() => said("name a configuration first", theme.dim),
        Verdict::Awaited => said("waiting for the answer", theme.dim),
        Verdict::None(why) => said(why, theme.dim),
        Verdict::Said(plan) => {
            let (sign, style) = match plan.fits {
                Some(true) => ("fits", theme.good),
                Some(false) => ("does not fit", theme.bad),
                None => ("", theme.warn),
            };
            let (first, rest) = plan
                .lines
                .split_first()
                .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
            // The plan's own words say it already, most likely.
            let head = match first.to_lowercase().contains(sign) {
                true => first.to_owned(),
                false => format!("{sign}: {first}"),
            };
            let mut lines = said(&head, style);
            lines.extend(rest.iter().flat_map(|line| said(line, theme.text)));
            lines
        }
    }
}

/// A line being typed, with its place shown.
pub(super) fn typed(
    text: &TextLine,
    width: usize,
    here: bool,
    canvas: &Canvas<'_>,
) -> Vec<Span<'static>> {
    let theme = canvas.theme;
    if !here {
        return vec![cell(text.as_str(), width, false, theme.text)];
    }
    let characters: Vec<char> = text.as_str().chars().collect();
    // The end of a long text is where one types.
    let first = (text.place() + 1).saturating_sub(width);
    let part = |range: std::ops::Range<usize>| -> String {
        characters
            .get(range.start.min(characters.len())..range.end.min(characters.len()))
            .unwrap_or_default()
            .iter()
            .collect()
    };
    let before = part(first..text.place());
    let at = characters.get(text.place()).copied().unwrap_or(' ');
    let after = part(text.place() + 1..first + width);
    let used = before.chars().count() + 1 + after.chars().count();
    vec![
        Span::styled(before, theme.text),
        Span::styled(
            at.to_string(),
            theme
                .selected
                .add_modifier(ratatui::style::Modifier::REVERSED),
        ),
        Span::styled(after, theme.text),
        Span::raw(" ".repeat(width.saturating_sub(used))),
    ]
}

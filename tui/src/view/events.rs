//! What happened, and what deserves a look.

use bellows_record::EventKind;
use bellows_record::time::{OffsetDateTime, UtcOffset};
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::Canvas;
use super::frame::{harmless, scrolled, wrap};
use crate::app::RunScreen;
use crate::format;
use crate::query::warnings::Severity;
use crate::store::RunData;

/// Draws it; returns the lines that fit.
pub(super) fn draw(
    data: &RunData,
    screen: &mut RunScreen,
    now: OffsetDateTime,
    offset: UtcOffset,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let theme = canvas.theme;
    let mut lines: Vec<Line<'static>> = Vec::new();
    let width = usize::from(area.width).saturating_sub(8);
    lines.push(Line::styled(
        format!(" Warnings ({})", data.warnings.len()),
        theme.title,
    ));
    if data.warnings.is_empty() {
        lines.push(Line::styled(
            "   Nothing in the record deserves a look.",
            theme.dim,
        ));
    }
    for warning in &data.warnings {
        let style = match warning.severity {
            Severity::Note => theme.text,
            Severity::Warning => theme.warn,
            Severity::Serious => theme.bad,
        };
        let sign = canvas.glyphs.severity(warning.severity);
        lines.push(Line::from(vec![
            Span::styled(format!("   {sign} {}", warning.title), style),
            Span::styled(format!("  step {}", format::whole(warning.step)), theme.dim),
        ]));
        let reason = wrap(&warning.reason, width);
        lines.extend(
            reason
                .into_iter()
                .map(|line| Line::styled(format!("     {line}"), theme.text)),
        );
    }
    if !data.notes.is_empty() {
        lines.push(Line::raw(""));
        lines.push(Line::styled(" Left out", theme.title));
        for note in &data.notes {
            let note = wrap(note, width);
            lines.extend(
                note.into_iter()
                    .map(|line| Line::styled(format!("   {line}"), theme.warn)),
            );
        }
    }
    lines.push(Line::raw(""));
    lines.push(Line::styled(
        format!(" Events ({}), the newest first", data.events.len()),
        theme.title,
    ));
    for event in data.events.iter().rev() {
        let local = event.time.to_offset(offset);
        let clock = if (now - event.time).whole_hours() < 20 {
            format!(
                "{:02}:{:02}:{:02}",
                local.hour(),
                local.minute(),
                local.second()
            )
        } else {
            format!(
                "{:04}-{:02}-{:02}",
                local.year(),
                u8::from(local.month()),
                local.day()
            )
        };
        let words = words(event);
        lines.push(Line::from(vec![
            Span::styled(format!("   {clock:<10} "), theme.dim),
            Span::styled(format!("{:>9}  ", format::whole(event.step)), theme.dim),
            Span::styled(
                format!("{:<11} ", event.kind),
                kind_style(&event.kind, canvas),
            ),
            Span::styled(
                format::clip(
                    &harmless(&words).replace('\n', " "),
                    width.saturating_sub(32),
                ),
                theme.text,
            ),
        ]));
    }
    list(screen, lines, canvas, area)
}

/// Lines that are scrolled through.
pub(super) fn list(
    screen: &mut RunScreen,
    lines: Vec<Line<'static>>,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let fits = usize::from(area.height);
    // The last page is the last place to scroll to.
    screen.line_count = lines.len().saturating_sub(fits) + 1;
    let first = scrolled(
        screen.line().min(screen.line_count - 1),
        screen.line_count,
        1,
    );
    for (row, line) in lines.into_iter().skip(first).take(fits).enumerate() {
        canvas.line(area, row as u16, line);
    }
    fits
}

fn words(event: &bellows_record::Event) -> String {
    let data = event
        .data
        .iter()
        .map(|(key, value)| match value.as_str() {
            Some(text) => format!("{key} {text}"),
            None => match value.as_f64() {
                Some(number) => format!("{key} {}", format::number(number)),
                None => format!("{key} {value}"),
            },
        })
        .collect::<Vec<_>>()
        .join(", ");
    match (event.reason.is_empty(), data.is_empty()) {
        (true, _) => data,
        (false, true) => event.reason.clone(),
        (false, false) => format!("{} ({data})", event.reason),
    }
}

fn kind_style(kind: &EventKind, canvas: &Canvas<'_>) -> Style {
    let theme = canvas.theme;
    match kind {
        EventKind::Warning | EventKind::Overflow | EventKind::Paused | EventKind::Stopped => {
            theme.warn
        }
        EventKind::Skipped | EventKind::Failed => theme.bad,
        EventKind::Checkpoint | EventKind::Finished | EventKind::Started | EventKind::Resumed => {
            theme.good
        }
        EventKind::Command | EventKind::Evaluated | EventKind::Other(_) => theme.accent,
    }
}

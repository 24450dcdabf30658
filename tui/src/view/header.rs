//! The head of a run's screen: the numbers a person looks at first.

use bellows_record::Liveness;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::Canvas;
use crate::format;
use crate::query::headline::Headline;
use crate::store::{Loading, RunData};
use crate::theme::Theme;

/// Lines of the head.
pub(super) const ROWS: u16 = 4;

/// Columns of a value at least.
const LEAST: usize = 6;

/// The style of what a run is doing.
pub(super) fn state_style(theme: &Theme, liveness: Liveness) -> Style {
    match liveness {
        Liveness::Running => theme.good,
        Liveness::Paused | Liveness::Stopped => theme.warn,
        Liveness::Finished => theme.text,
        Liveness::Failed | Liveness::Crashed => theme.bad,
    }
}

pub(super) fn draw(run: &RunData, canvas: &mut Canvas<'_>, area: Rect) {
    let head = Headline::of(run);
    first_line(run, &head, canvas, area);
    let (mut x, mut row) = (area.x + 1, 1);
    for (label, value, style) in facts(&head, canvas) {
        // A place for each, so that nothing moves when a value grows by a digit.
        let width = (label.len() + 1 + value.chars().count().max(LEAST)) as u16;
        if x + width > area.x + area.width {
            (x, row) = (area.x + 1, row + 1);
        }
        if row >= ROWS - 1 {
            break;
        }
        let place = Rect {
            x,
            y: area.y,
            width: width.min((area.x + area.width).saturating_sub(x)),
            height: area.height,
        };
        let line = Line::from(vec![
            Span::styled(format!("{label} "), canvas.theme.dim),
            Span::styled(value, style),
        ]);
        canvas.line(place, row, line);
        x += width + 2;
    }
}

fn first_line(run: &RunData, head: &Headline, canvas: &mut Canvas<'_>, area: Rect) {
    let (theme, glyphs) = (canvas.theme, canvas.glyphs);
    let mut left = vec![
        Span::raw(" "),
        Span::styled(
            format::clip(&run.name(), usize::from(area.width) / 3),
            theme.title,
        ),
        Span::raw("  "),
    ];
    if let Some(liveness) = run.liveness {
        let style = state_style(theme, liveness);
        left.push(Span::styled(
            format!("{} {liveness}", glyphs.state(liveness)),
            style,
        ));
        left.push(Span::raw("  "));
    }
    if !head.device.is_empty() && area.width >= 110 {
        left.push(Span::styled(
            format!("on {}  ", format::clip(&head.device, 40)),
            theme.dim,
        ));
    }
    if let Loading::History(read, all) = run.loading {
        let share = read as f64 / all.max(1) as f64 * 100.0;
        left.push(Span::styled(format!("reading {share:.0} %"), theme.warn));
    }
    let end = canvas.line(area, 0, Line::from(left));
    let (step, total) = head.step;
    let share = step as f64 / total.max(1) as f64;
    let mut right = Vec::new();
    if total > 0 {
        let counted = format!("step {} / {}", format::whole(step), format::whole(total));
        let percent = format!("{:.0} %", share * 100.0);
        let left_over = head
            .seconds_left
            .map(|seconds| format!("  {} left", format::duration(seconds)))
            .unwrap_or_default();
        let words = counted.len() + percent.len() + left_over.len() + 8;
        let room = usize::from((area.x + area.width).saturating_sub(end)).saturating_sub(words);
        right.push(Span::styled(counted, theme.text));
        right.push(Span::raw("  "));
        if room >= 6 {
            let (full, empty) = glyphs.bar(share, room.min(40));
            right.push(Span::styled(full, theme.accent));
            right.push(Span::styled(empty, theme.frame));
            right.push(Span::raw(" "));
        }
        right.push(Span::styled(percent, theme.text));
        right.push(Span::styled(left_over, theme.dim));
        right.push(Span::raw(" "));
    }
    canvas.line_right(area, 0, Line::from(right));
}

/// Name, value and style of everything that the record tells; what it does not is not there.
fn facts(head: &Headline, canvas: &Canvas<'_>) -> Vec<(&'static str, String, Style)> {
    let theme = canvas.theme;
    let none = || canvas.glyphs.none().to_owned();
    let number = |value: Option<f64>| value.map_or_else(none, format::number);
    let mut facts = vec![
        ("loss", number(head.loss), theme.title),
        (
            "val",
            head.validation
                .map_or_else(none, |(_, loss)| format::number(loss)),
            theme.title,
        ),
        ("grad", number(head.grad_norm), theme.text),
        ("rate", number(head.learning_rate), theme.text),
        (
            "tok/s",
            head.tokens_per_second.map_or_else(none, format::count),
            theme.text,
        ),
        ("tokens", format::count(head.tokens as f64), theme.text),
    ];
    if let Some(utilisation) = head.utilisation {
        facts.push(("MFU", format!("{:.0} %", utilisation * 100.0), theme.text));
    }
    if let Some(memory) = memory(head) {
        facts.push(("mem", memory, theme.text));
    }
    facts.push(("time", format::duration(head.seconds), theme.text));
    facts
}

/// Memory now, at its peak, and the limit: `17.2 / 20.0 / 24.0 GiB`, or each with its own unit where
/// they differ.
fn memory(head: &Headline) -> Option<String> {
    let (now, peak, limit) = head.memory;
    let parts: Vec<String> = [now, peak, limit]
        .into_iter()
        .flatten()
        .map(format::bytes)
        .collect();
    let unit = |text: &String| text.rsplit_once(' ').map(|(_, unit)| unit.to_owned());
    let common = unit(parts.first()?)?;
    if parts
        .iter()
        .any(|part| unit(part).as_ref() != Some(&common))
    {
        return Some(parts.join(" / "));
    }
    let numbers: Vec<&str> = parts
        .iter()
        .filter_map(|part| part.rsplit_once(' ').map(|(number, _)| number))
        .collect();
    Some(format!("{} {common}", numbers.join(" / ")))
}

//! The two lines at the bottom: the last word, and the keys of the screen.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::Canvas;
use crate::app::{App, Target};
use crate::format;
use crate::keys::{self, Binding};

pub(super) fn draw(app: &App, canvas: &mut Canvas<'_>, area: Rect) {
    message(app, canvas, area);
    let mut shown: Vec<&Binding> = keys::bindings(app.context(), app.options.read_only)
        .filter(|binding| binding.footer > 0 && app.is_possible(binding.action))
        .collect();
    shown.sort_by_key(|binding| binding.footer);
    // Help and the way out stay, whatever is left out for lack of room.
    let (rest, last): (Vec<&Binding>, Vec<&Binding>) =
        shown.into_iter().partition(|binding| binding.footer < 20);
    let ascii = canvas.glyphs.ascii;
    let width = |binding: &Binding| {
        let key = keys::shown(binding.keys[0], ascii);
        key.chars().count() + 1 + binding.label.len() + 2
    };
    let kept: usize = last.iter().map(|binding| width(binding)).sum();
    let mut left = usize::from(area.width).saturating_sub(kept + 1);
    let fitting: Vec<&Binding> = rest
        .into_iter()
        .take_while(|binding| {
            let fits = width(binding) <= left;
            left = left.saturating_sub(width(binding));
            fits
        })
        .collect();
    let mut x = area.x + 1;
    for binding in fitting.into_iter().chain(last) {
        let key = keys::shown(binding.keys[0], ascii);
        let place = Rect {
            x,
            y: area.y + 1,
            width: (width(binding) as u16 - 1).min((area.x + area.width).saturating_sub(x)),
            height: 1,
        };
        let line = Line::from(vec![
            Span::styled(key, canvas.theme.accent),
            Span::raw(" "),
            Span::styled(binding.label, canvas.theme.dim),
        ]);
        canvas.line(place, 0, line);
        canvas.targets.push((place, Target::Act(binding.action)));
        x += width(binding) as u16;
    }
}

fn message(app: &App, canvas: &mut Canvas<'_>, area: Rect) {
    let inner = Rect {
        x: area.x + 1,
        width: area.width.saturating_sub(2),
        ..area
    };
    let mut right = Vec::new();
    if app.pending > 0 {
        right.push(Span::styled(
            "waiting for the step to end ",
            canvas.theme.warn,
        ));
    }
    if app.options.read_only {
        right.push(Span::styled("read-only", canvas.theme.dim));
    }
    let taken: usize = right.iter().map(Span::width).sum();
    if let Some(message) = &app.message {
        let (sign, style) = if message.bad {
            ("!", canvas.theme.bad)
        } else {
            (canvas.glyphs.dot(), canvas.theme.good)
        };
        let room = usize::from(inner.width).saturating_sub(taken + 4);
        let text = format::clip(&message.text, room);
        canvas.line(
            inner,
            0,
            Line::from(vec![
                Span::styled(format!("{sign} "), style),
                Span::styled(text, style),
            ]),
        );
    }
    canvas.line_right(inner, 0, Line::from(right));
}

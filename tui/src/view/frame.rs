//! Frames and blocks of text that more than one screen uses.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Widget};
use unicode_width::UnicodeWidthChar;

use super::Canvas;

/// A frame in the middle of an area with room for `width` × `height`; returns its inside.
pub(super) fn dialog(
    canvas: &mut Canvas<'_>,
    area: Rect,
    width: u16,
    height: u16,
    title: &str,
) -> Rect {
    let width = (width + 4).min(area.width);
    let height = (height + 2).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, canvas.buffer);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(canvas.theme.frame)
        .title(Line::styled(format!(" {title} "), canvas.theme.title));
    block.render(place, canvas.buffer);
    Rect {
        x: place.x + 2,
        y: place.y + 1,
        width: place.width.saturating_sub(4),
        height: place.height.saturating_sub(2),
    }
}

/// A heading with a thin line after it.
pub(super) fn heading(canvas: &mut Canvas<'_>, area: Rect, row: u16, text: &str, note: &str) {
    let theme = canvas.theme;
    let room = usize::from(area.width).saturating_sub(columns(text) + 4);
    let spans = vec![
        Span::styled(format!(" {text} "), theme.title),
        Span::styled(crate::format::clip(note, room), theme.dim),
        Span::raw(" "),
    ];
    let x = canvas.line(area, row, Line::from(spans));
    let rest = (area.x + area.width).saturating_sub(x + 1);
    if row < area.height {
        canvas
            .buffer
            .set_string(x, area.y + row, "─".repeat(usize::from(rest)), theme.frame);
    }
}

/// A text in lines of at most `width` columns, broken between words where it can be.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut used = 0;
        for word in paragraph.split_inclusive(' ') {
            let long: usize = columns(word);
            if used + columns(word.trim_end()) > width && used > 0 {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            if long > width {
                for character in word.chars() {
                    let wide = character_width(character);
                    if used + wide > width && used > 0 {
                        lines.push(std::mem::take(&mut line));
                        used = 0;
                    }
                    line.push(character);
                    used += wide;
                }
            } else {
                line.push_str(word);
                used += long;
            }
        }
        lines.push(line);
    }
    lines
}

fn columns(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

fn character_width(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// Text that is safe to show: control characters would move the terminal's own cursor.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\t' => ' ',
            '\n' => '\n',
            control if control.is_control() => '\u{fffd}',
            other => other,
        })
        .collect()
}

/// `text` in a column: padded, or cut with an ellipsis.
pub(super) fn cell(text: &str, width: usize, right: bool, style: Style) -> Span<'static> {
    let text = crate::format::clip(text, width);
    let missing = width.saturating_sub(columns(&text));
    let padding = " ".repeat(missing);
    Span::styled(
        if right {
            padding + &text
        } else {
            text + &padding
        },
        style,
    )
}

/// The first line to show so that `selected` is seen.
pub(super) fn scrolled(selected: usize, count: usize, rows: usize) -> usize {
    let rows = rows.max(1);
    if count <= rows {
        return 0;
    }
    // Some lines of context around the selected one.
    selected
        .saturating_sub(rows.saturating_sub(1) / 2)
        .min(count - rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_text_loses_nothing_and_fits() {
        let text = "a word, averyveryverylongword and the rest\n\nlast";
        let lines = wrap(text, 10);
        assert!(
            lines
                .iter()
                .all(|line| line.trim_end().chars().count() <= 10),
            "{lines:?}"
        );
        let joined: String = lines.concat();
        assert_eq!(joined.replace(' ', ""), text.replace([' ', '\n'], ""));
    }

    #[test]
    fn escape_sequences_in_a_sample_reach_no_terminal() {
        assert_eq!(
            harmless("a\u{1b}[31mb\r\n\tc"),
            "a\u{fffd}[31mb\u{fffd}\n c"
        );
    }
}

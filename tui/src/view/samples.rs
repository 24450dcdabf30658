//! What the model wrote.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::Canvas;
use super::events::list;
use super::frame::{harmless, wrap};
use crate::app::RunScreen;
use crate::format;
use crate::store::RunData;

/// Samples shown; older ones are in the file.
const SHOWN: usize = 200;

/// Draws it; returns the lines that fit.
pub(super) fn draw(
    data: &RunData,
    screen: &mut RunScreen,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let theme = canvas.theme;
    if data.samples.is_empty() {
        canvas.line(
            area,
            1,
            Line::styled(
                "  The model wrote nothing yet; T asks it to, sample.every does now and then.",
                theme.dim,
            ),
        );
        screen.line_count = 0;
        return 1;
    }
    let width = usize::from(area.width).saturating_sub(6);
    let mut lines = Vec::new();
    for sample in data.samples.iter().rev().take(SHOWN) {
        let settings: Vec<String> = sample
            .settings
            .iter()
            .filter(|(key, _)| *key != "seed")
            .map(|(key, value)| format!("{key} {value}"))
            .collect();
        lines.push(Line::from(vec![
            Span::styled(format!(" step {}", format::whole(sample.step)), theme.title),
            Span::styled(format!("  {}", settings.join(", ")), theme.dim),
        ]));
        // The prompt is dim, what the model added is not; a mark tells them apart without colour.
        let prompt = harmless(&sample.prompt);
        let text = harmless(&sample.text);
        for line in wrap(prompt.trim_end_matches('\n'), width) {
            lines.push(Line::styled(
                format!("   {} {line}", canvas.glyphs.pointer()),
                theme.dim,
            ));
        }
        for line in wrap(&text, width) {
            lines.push(Line::styled(format!("     {line}"), theme.text));
        }
        lines.push(Line::raw(""));
    }
    list(screen, lines, canvas, area)
}

//! The resolved configuration, and the plan where there is one.

use std::collections::BTreeMap;

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::frame::{cell, harmless};
use super::{Canvas, split_top};
use crate::app::RunScreen;
use crate::query::config::{json_settings, settings};
use crate::store::RunData;

/// Draws it; returns the lines that fit.
pub(super) fn draw(
    data: &RunData,
    screen: &mut RunScreen,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let theme = canvas.theme;
    let wanted = screen.filter.as_str().to_lowercase();
    let mut all = facts(data);
    if let Some(plan) = &data.plan {
        json_settings("plan", plan, &mut all);
    }
    all.extend(settings(&data.config));
    let fitting = |(key, value): &(&String, &String)| {
        let text = format!("{key} {value}").to_lowercase();
        wanted.split_whitespace().all(|word| text.contains(word))
    };
    let mut lines = Vec::new();
    let mut section = "";
    let width = usize::from(area.width);
    for (key, value) in all.iter().filter(fitting) {
        let head = key.split('.').next().unwrap_or_default();
        if head != section {
            if !lines.is_empty() {
                lines.push(Line::raw(""));
            }
            lines.push(Line::styled(format!(" {head}"), theme.title));
            section = head;
        }
        let name = key
            .strip_prefix(head)
            .unwrap_or(key)
            .trim_start_matches('.');
        lines.push(Line::from(vec![
            Span::raw("   "),
            cell(name, 34, false, theme.dim),
            Span::styled(
                crate::format::clip(
                    &harmless(value).replace('\n', "\\n"),
                    width.saturating_sub(40),
                ),
                theme.text,
            ),
        ]));
    }
    let [top, body] = split_top(area, u16::from(screen.filtering || !wanted.is_empty()));
    if top.height > 0 {
        let mut spans = vec![
            Span::styled(" / ", theme.accent),
            Span::styled(screen.filter.as_str().to_owned(), theme.text),
        ];
        if screen.filtering {
            spans.push(Span::styled(" ", theme.selected));
        }
        canvas.line(top, 0, Line::from(spans));
    }
    super::events::list(screen, lines, canvas, body)
}

/// What the manifest says of device and model, before the settings.
fn facts(data: &RunData) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let Some(manifest) = &data.manifest else {
        return facts;
    };
    for (section, value) in [
        (" device", serde_json::to_value(&manifest.info.device)),
        (
            " model in numbers",
            serde_json::to_value(&manifest.info.model),
        ),
    ] {
        if let Ok(value) = value {
            json_settings(section, &value, &mut facts);
        }
    }
    facts.insert(
        " run.version".to_owned(),
        manifest.info.program_version.clone(),
    );
    facts.insert(
        " run.process".to_owned(),
        format!("{} on {}", manifest.pid, manifest.hostname),
    );
    facts.insert(" run.directory".to_owned(), data.path.display().to_string());
    facts
}

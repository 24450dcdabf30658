//! Bytes: over the run, and whose they are.

use std::collections::BTreeMap;

use bellows_record::MemoryRow;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::chart::{Chart, Curve, Unit};
use super::frame::{cell, heading, scrolled};
use super::{Canvas, split_top};
use crate::app::{RunScreen, Target};
use crate::format;
use crate::store::{MemoryOwner, RunData};

/// The kind of what no owner explains of the memory in use.
const UNEXPLAINED: &str = "unexplained";

/// Draws it; returns the lines that fit.
pub(super) fn draw(
    data: &RunData,
    screen: &mut RunScreen,
    canvas: &mut Canvas<'_>,
    area: Rect,
) -> usize {
    let height = (area.height / 2).clamp(6, 22);
    let [chart, ledger] = split_top(area, height);
    timeline(data, screen, canvas, chart);
    tree(data, screen, canvas, ledger)
}

fn timeline(data: &RunData, screen: &mut RunScreen, canvas: &mut Canvas<'_>, area: Rect) {
    let mut curves = Vec::new();
    let mut add = |name: &str, values, canvas: &Canvas<'_>| {
        let index = curves.len();
        curves.push(Curve {
            name: name.replace('_', " "),
            letter: char::from_u32('a' as u32 + index as u32),
            values: [values, None],
            style: canvas.theme.series(index),
            sparse: false,
        });
    };
    for (name, values) in &data.memory.kinds {
        add(name, Some(values), canvas);
    }
    // The step's own reading where the ledger has no total.
    if !data.memory.kinds.contains_key(MemoryRow::IN_USE)
        && data.metrics.get("memory_bytes").is_some()
    {
        add("in use", data.metrics.get("memory_bytes"), canvas);
    }
    if curves.is_empty() {
        canvas.line(
            area,
            1,
            Line::styled(
                "  No memory was recorded yet (record.memory_every).",
                canvas.theme.dim,
            ),
        );
        return;
    }
    let limit = data.memory_limit();
    let chart = Chart {
        curves,
        steps: screen.charts.steps(),
        log: screen.charts.log,
        weight: 0.0,
        cursor: screen.charts.cursor,
        limit: limit.map(|bytes| (bytes as f64, "limit")),
        selected: false,
        unit: Unit::of("memory_bytes"),
    };
    screen.charts.plot = chart.draw(canvas, area);
}

/// A line of the tree.
struct Branch {
    depth: usize,
    /// What opens it; `None` for a leaf.
    key: Option<String>,
    name: String,
    bytes: u64,
}

fn tree(data: &RunData, screen: &mut RunScreen, canvas: &mut Canvas<'_>, area: Rect) -> usize {
    let view = &data.memory.view;
    screen.moments = view.moments.len();
    let (Some(step), false) = (view.step, view.moments.is_empty()) else {
        screen.line_count = 0;
        screen.branch = None;
        return 1;
    };
    let size = |owners: &[MemoryOwner]| -> u64 {
        owners
            .iter()
            .filter(|owner| owner.kind != MemoryRow::ALLOCATOR)
            .map(|owner| owner.bytes)
            .sum()
    };
    let fullest = (0..view.moments.len())
        .max_by_key(|&at| size(&view.moments[at].1))
        .unwrap_or(0);
    let shown = screen
        .moment
        .filter(|&at| at < view.moments.len())
        .unwrap_or(fullest);
    let (phase, owners) = &view.moments[shown];
    let total = size(owners);
    let unexplained: u64 = owners
        .iter()
        .filter(|owner| owner.kind == UNEXPLAINED)
        .map(|owner| owner.bytes)
        .sum();
    let rest = match unexplained {
        0 => String::new(),
        bytes => format!(", {} not", format::bytes(bytes)),
    };
    let note = format!(
        "step {}, {phase}{}: {} named{rest}",
        format::whole(step),
        if screen.moment.is_none() {
            ", the fullest moment"
        } else {
            ""
        },
        format::bytes(total - unexplained),
    );
    heading(canvas, area, 0, "Ledger", &note);
    let branches = branches(owners, screen);
    screen.line_count = branches.len();
    let selected = screen.line().min(branches.len().saturating_sub(1));
    screen.branch = branches.get(selected).and_then(|branch| branch.key.clone());
    let body = split_top(area, 1)[1];
    let fits = usize::from(body.height);
    let first = scrolled(selected, branches.len(), fits);
    let (theme, glyphs) = (canvas.theme, canvas.glyphs);
    for (line, (index, branch)) in branches
        .iter()
        .enumerate()
        .skip(first)
        .take(fits)
        .enumerate()
    {
        let place = Rect {
            y: body.y + line as u16,
            height: 1,
            ..body
        };
        let chosen = index == selected;
        let sign = match &branch.key {
            Some(key) => glyphs.branch(screen.open.contains(key)),
            None => " ",
        };
        let name = format!("{}{sign} {}", "  ".repeat(branch.depth), branch.name);
        let style = if chosen { theme.title } else { theme.text };
        let outside = branch.name.starts_with(MemoryRow::ALLOCATOR);
        let (full, empty) = glyphs.bar(
            if outside {
                0.0
            } else {
                branch.bytes as f64 / total.max(1) as f64
            },
            16,
        );
        let width = usize::from(area.width).saturating_sub(36).min(64);
        let spans = vec![
            Span::styled(if chosen { glyphs.pointer() } else { " " }, theme.accent),
            cell(&name, width, false, style),
            cell(&format::bytes(branch.bytes), 10, true, style),
            Span::raw("  "),
            Span::styled(full, theme.series(branch.depth)),
            Span::styled(empty, theme.frame),
        ];
        canvas.line(place, 0, Line::from(spans));
        canvas.targets.push((place, Target::Row(index)));
    }
    fits
}

/// Kinds, in them layers, in them owners; closed branches keep theirs.
fn branches(owners: &[MemoryOwner], screen: &RunScreen) -> Vec<Branch> {
    let mut kinds: BTreeMap<&str, BTreeMap<Option<u32>, Vec<&MemoryOwner>>> = BTreeMap::new();
    for owner in owners {
        kinds
            .entry(&owner.kind)
            .or_default()
            .entry(owner.layer)
            .or_default()
            .push(owner);
    }
    let sum = |owners: &[&MemoryOwner]| owners.iter().map(|owner| owner.bytes).sum::<u64>();
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    // The allocator's totals are no part of the sum: they come last.
    kinds.sort_by_key(|(kind, layers)| {
        let bytes: u64 = layers.values().map(|owners| sum(owners)).sum();
        (*kind == MemoryRow::ALLOCATOR, std::cmp::Reverse(bytes))
    });
    let mut list = Vec::new();
    for (kind, layers) in kinds {
        if kind == MemoryRow::ALLOCATOR {
            list.extend(layers.values().flatten().map(|owner| Branch {
                depth: 0,
                key: None,
                name: format!("{kind}: {}", owner.name.replace('_', " ")),
                bytes: owner.bytes,
            }));
            continue;
        }
        list.push(Branch {
            depth: 0,
            key: Some(kind.to_owned()),
            name: kind.to_owned(),
            bytes: layers.values().map(|owners| sum(owners)).sum(),
        });
        if !screen.open.contains(kind) {
            continue;
        }
        for (layer, owners) in layers {
            let leaf = |depth: usize, owner: &&MemoryOwner| Branch {
                depth,
                key: None,
                name: owner.name.clone(),
                bytes: owner.bytes,
            };
            let Some(layer) = layer else {
                list.extend(owners.iter().map(|owner| leaf(1, owner)));
                continue;
            };
            let key = format!("{kind}/{layer}");
            list.push(Branch {
                depth: 1,
                name: format!("layer {layer}"),
                bytes: sum(&owners),
                key: Some(key.clone()),
            });
            if screen.open.contains(&key) {
                list.extend(owners.iter().map(|owner| leaf(2, owner)));
            }
        }
    }
    list
}

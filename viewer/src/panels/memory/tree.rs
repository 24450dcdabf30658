use bellows_query::memory::{MemoryAt, MemoryTree, Tree, TreeNode};
use egui::{Rect, RichText, ScrollArea, Ui, UiBuilder, pos2};

use super::super::balance::{bar, cell};
use super::super::{Cx, controls};
use crate::app::Moment;
use crate::format;
use crate::widgets::{Tile, TreeMap};

/// Which moment.
pub fn controls(ui: &mut Ui, cx: &mut Cx<'_>) {
    let mut choices = vec![
        (Moment::Cursor, "at the cursor"),
        (Moment::Peak, "at the peak"),
    ];
    let chosen;
    if let Moment::Chosen(moment) = cx.view.moment {
        chosen = format!("moment {moment}");
        choices.insert(1, (cx.view.moment, chosen.as_str()));
    }
    controls::choice(ui, cx.theme, &mut cx.view.moment, &choices);
}

/// Treemap above, tree below.
pub fn body(ui: &mut Ui, cx: &mut Cx<'_>) {
    let Some(run) = cx.need_run(ui) else { return };
    let at = match cx.view.moment {
        Moment::Cursor => MemoryAt::Step(cx.view.step),
        Moment::Chosen(moment) => MemoryAt::Moment(cx.view.step, moment),
        Moment::Peak => MemoryAt::Peak(cx.view.window()),
    };
    let Some(tree) = cx.ask(ui, &MemoryTree { run, at }) else {
        return;
    };
    let theme = cx.theme;
    let focus = find(&tree, &cx.view.memory_focus);
    ui.horizontal_wrapped(|ui| {
        ui.label(
            RichText::new(format::bytes(tree.nodes[focus].bytes as f64))
                .heading()
                .color(theme.text.strong.0),
        );
        let place = format!("step {}, moment {}: {}", tree.step, tree.moment, tree.phase);
        ui.label(RichText::new(place).small().color(theme.text.weak.0));
        crumbs(ui, cx, &tree, focus);
    });
    let room = ui.available_rect_before_wrap();
    let split = room.top() + room.height() * 0.5;
    let children: Vec<usize> = (1..tree.nodes.len())
        .filter(|node| tree.nodes[*node].parent == focus)
        .collect();
    let shown = if children.is_empty() {
        vec![focus]
    } else {
        children
    };
    let tile = |node: usize, at: usize, of: usize, parts: Vec<Tile>| {
        let node = &tree.nodes[node];
        // Siblings of one kind differ in depth of colour.
        let depth = if node.depth <= 1 {
            0.9
        } else {
            0.9 - 0.45 * (at as f32 / of.max(2) as f32)
        };
        Tile {
            name: node.name.clone(),
            detail: format!(
                "{}, {}",
                format::bytes(node.bytes as f64),
                format::percent(node.share)
            ),
            weight: node.bytes as f64,
            color: theme.tint(theme.kind(&node.kind), depth),
            parts,
        }
    };
    let mut below: Vec<Vec<usize>> = Vec::new();
    let tiles: Vec<Tile> = shown
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let parts: Vec<usize> = (node + 1..tree.nodes.len())
                .filter(|part| tree.nodes[*part].parent == *node)
                .collect();
            let tiles = parts
                .iter()
                .enumerate()
                .map(|(at, part)| tile(*part, at, parts.len(), Vec::new()))
                .collect();
            below.push(parts);
            tile(*node, at, shown.len(), tiles)
        })
        .collect();
    let map = Rect::from_min_max(room.min, pos2(room.right(), split - 4.0));
    let under = ui
        .scope_builder(UiBuilder::new().max_rect(map), |ui| {
            let (response, under) = TreeMap { tiles: &tiles }.show(ui, theme);
            if let Some((at, part)) = under {
                let tile = part.map_or(&tiles[at], |part| &tiles[at].parts[part]);
                response
                    .clone()
                    .on_hover_text_at_pointer(format!("{}\n{}", tile.name, tile.detail));
            }
            under
                .filter(|_| response.clicked())
                .map(|(at, part)| part.map_or(shown[at], |part| below[at][part]))
        })
        .inner;
    ui.advance_cursor_after_rect(map);
    if let Some(node) = under {
        cx.view.memory_focus = names(&tree, node);
    }
    let list = Rect::from_min_max(pos2(room.left(), split), room.max);
    ui.scope_builder(UiBuilder::new().max_rect(list), |ui| {
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            // Numbers stand below each other, however deep their names are indented.
            let numbers = ui.max_rect().left() + ui.available_width() * 0.45;
            for node in (1..tree.nodes.len()).filter(|node| tree.nodes[*node].parent == 0) {
                branch(ui, cx, &tree, node, numbers);
            }
        });
    });
}

fn crumbs(ui: &mut Ui, cx: &mut Cx<'_>, tree: &Tree, focus: usize) {
    let path = names(tree, focus);
    if path.is_empty() {
        return;
    }
    if ui.link("all").clicked() {
        cx.view.memory_focus.clear();
    }
    for (at, name) in path.iter().enumerate() {
        ui.label(RichText::new("/").color(cx.theme.text.weak.0));
        if ui.link(name).clicked() {
            cx.view.memory_focus = path[..=at].to_vec();
        }
    }
}

fn branch(ui: &mut Ui, cx: &mut Cx<'_>, tree: &Tree, node: usize, numbers: f32) {
    let children: Vec<usize> = (node + 1..tree.nodes.len())
        .filter(|child| tree.nodes[*child].parent == node)
        .collect();
    let id = ui.make_persistent_id(("memory", names(tree, node)));
    if children.is_empty() {
        ui.horizontal(|ui| {
            ui.add_space(18.0);
            line(ui, cx, tree, node, numbers);
        });
        return;
    }
    egui::collapsing_header::CollapsingState::load_with_default_open(
        ui.ctx(),
        id,
        tree.nodes[node].depth == 1,
    )
    .show_header(ui, |ui| line(ui, cx, tree, node, numbers))
    .body(|ui| {
        for child in children {
            branch(ui, cx, tree, child, numbers);
        }
    });
}

fn line(ui: &mut Ui, cx: &mut Cx<'_>, tree: &Tree, node: usize, numbers: f32) {
    let TreeNode {
        name,
        kind,
        bytes,
        share,
        depth,
        ..
    } = &tree.nodes[node];
    let theme = cx.theme;
    let color = theme.kind(kind);
    let (rect, _) = ui.allocate_exact_size(egui::vec2(9.0, 9.0), egui::Sense::hover());
    ui.painter().rect_filled(
        rect,
        2.0,
        color.gamma_multiply(1.0 - 0.25 * depth.saturating_sub(1) as f32),
    );
    let label = egui::Label::new(RichText::new(name))
        .truncate()
        .sense(egui::Sense::click());
    let room = (numbers - ui.cursor().left() - ui.spacing().item_spacing.x).max(30.0);
    if cell(ui, room, label)
        .on_hover_text("click to see it in the map")
        .clicked()
    {
        cx.view.memory_focus = names(tree, node);
    }
    cell(ui, 66.0, egui::Label::new(format::bytes(*bytes as f64)));
    cell(
        ui,
        44.0,
        egui::Label::new(RichText::new(format::percent(*share)).color(theme.text.weak.0)),
    );
    bar(ui, *share, color);
}

/// The names from the root's child down to a node; empty for the root.
fn names(tree: &Tree, mut node: usize) -> Vec<String> {
    let mut names = Vec::new();
    while node != 0 {
        names.push(tree.nodes[node].name.clone());
        node = tree.nodes[node].parent;
    }
    names.reverse();
    names
}

/// The node of those names, or the deepest one of them that there is.
fn find(tree: &Tree, names: &[String]) -> usize {
    let mut at = 0;
    for name in names {
        let child = (at + 1..tree.nodes.len())
            .find(|node| tree.nodes[*node].parent == at && tree.nodes[*node].name == *name);
        match child {
            Some(child) => at = child,
            None => break,
        }
    }
    at
}

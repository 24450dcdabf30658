use egui_tiles::{Linear, LinearDir, Tile, TileId, Tiles, Tree};
use serde::{Deserialize, Serialize};

use crate::panels::Panel;

/// A page of panels for one purpose.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Workspace {
    /// What runs there are, and how they do.
    Overview,
    /// How tokens are spread over experts.
    #[default]
    Routing,
    /// Which expert follows which.
    Flow,
    /// The traced text.
    Tokens,
    /// Two runs or steps.
    Compare,
    /// What fills memory.
    Memory,
}

impl Workspace {
    /// All of them, in the order of the bar.
    pub const ALL: [Self; 6] = [
        Self::Overview,
        Self::Routing,
        Self::Flow,
        Self::Tokens,
        Self::Compare,
        Self::Memory,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Routing => "Routing",
            Self::Flow => "Flow",
            Self::Tokens => "Tokens",
            Self::Compare => "Compare",
            Self::Memory => "Memory",
        }
    }

    fn index(self) -> usize {
        Self::ALL
            .iter()
            .position(|other| *other == self)
            .unwrap_or(0)
    }
}

/// The arrangement of every page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layouts(Vec<Tree<Panel>>);

impl Default for Layouts {
    fn default() -> Self {
        Self(Workspace::ALL.map(arrangement).into())
    }
}

impl Layouts {
    /// A page's arrangement.
    pub fn tree(&mut self, workspace: Workspace) -> &mut Tree<Panel> {
        // A file of settings may have fewer pages than this version.
        while self.0.len() < Workspace::ALL.len() {
            self.0.push(arrangement(Workspace::ALL[self.0.len()]));
        }
        &mut self.0[workspace.index()]
    }

    /// Puts a page back as it was.
    pub fn reset(&mut self, workspace: Workspace) {
        *self.tree(workspace) = arrangement(workspace);
    }

    /// Brings a panel to the front of a page; where it is missing, it is added as a tab.
    pub fn show(&mut self, workspace: Workspace, panel: Panel) {
        let tree = self.tree(workspace);
        match tree.tiles.find_pane(&panel) {
            Some(tile) => {
                tree.set_visible(tile, true);
                tree.make_active(|other, _| other == tile);
            }
            None => {
                let tile = tree.tiles.insert_pane(panel);
                match tree.root() {
                    Some(root) if tree.tiles.get(root).is_some_and(|root| !root.is_pane()) => {
                        tree.move_tile_to_container(tile, root, usize::MAX, true);
                    }
                    Some(root) => {
                        let root = tree.tiles.insert_horizontal_tile(vec![root, tile]);
                        *tree = Tree::new(tree.id(), root, tree.tiles.clone());
                    }
                    None => *tree = Tree::new(tree.id(), tile, tree.tiles.clone()),
                }
                tree.make_active(|other, _| other == tile);
            }
        }
    }

    /// The panels of a page that can be seen.
    pub fn visible(&mut self, workspace: Workspace) -> Vec<Panel> {
        let tree = self.tree(workspace);
        tree.active_tiles()
            .into_iter()
            .filter_map(|tile| tree.tiles.get_pane(&tile).copied())
            .collect()
    }
}

fn arrangement(workspace: Workspace) -> Tree<Panel> {
    let mut tiles = Tiles::default();
    let root = match workspace {
        Workspace::Overview => {
            let runs = tabs(&mut tiles, &[Panel::Runs, Panel::Events]);
            let config = tabs(&mut tiles, &[Panel::Config]);
            let left = split(&mut tiles, LinearDir::Vertical, runs, config, 0.55);
            let right = tabs(&mut tiles, &[Panel::Scalars]);
            split(&mut tiles, LinearDir::Horizontal, left, right, 0.42)
        }
        Workspace::Routing => {
            let load = tabs(&mut tiles, &[Panel::RoutingLoad]);
            let time = tabs(&mut tiles, &[Panel::RoutingTime]);
            let left = split(&mut tiles, LinearDir::Vertical, load, time, 0.5);
            let balance = tabs(&mut tiles, &[Panel::Balance, Panel::Health]);
            let expert = tabs(&mut tiles, &[Panel::Expert]);
            let right = split(&mut tiles, LinearDir::Vertical, balance, expert, 0.42);
            split(&mut tiles, LinearDir::Horizontal, left, right, 0.62)
        }
        Workspace::Flow => {
            let sankey = tabs(&mut tiles, &[Panel::FlowSankey]);
            let matrix = tabs(&mut tiles, &[Panel::FlowMatrix]);
            let top = split(&mut tiles, LinearDir::Horizontal, sankey, matrix, 0.56);
            let strength = tabs(&mut tiles, &[Panel::FlowStrength]);
            let revisits = tabs(&mut tiles, &[Panel::Revisits]);
            let combinations = tabs(&mut tiles, &[Panel::Combinations]);
            let right = split(
                &mut tiles,
                LinearDir::Horizontal,
                revisits,
                combinations,
                0.5,
            );
            let bottom = split(&mut tiles, LinearDir::Horizontal, strength, right, 0.34);
            split(&mut tiles, LinearDir::Vertical, top, bottom, 0.64)
        }
        Workspace::Tokens => {
            let text = tabs(&mut tiles, &[Panel::TokensText]);
            let path = tabs(&mut tiles, &[Panel::TokenPath, Panel::Saturation]);
            let special = tabs(&mut tiles, &[Panel::Speciality, Panel::TokensTop]);
            let right = split(&mut tiles, LinearDir::Vertical, special, path, 0.55);
            split(&mut tiles, LinearDir::Horizontal, text, right, 0.56)
        }
        Workspace::Compare => {
            let load = tabs(&mut tiles, &[Panel::CompareLoad]);
            let flow = tabs(&mut tiles, &[Panel::CompareFlow, Panel::Agreement]);
            split(&mut tiles, LinearDir::Vertical, load, flow, 0.55)
        }
        Workspace::Memory => {
            let timeline = tabs(&mut tiles, &[Panel::MemoryTimeline]);
            let step = tabs(
                &mut tiles,
                &[Panel::MemoryStep, Panel::MemoryRange, Panel::MemoryPlan],
            );
            let left = split(&mut tiles, LinearDir::Vertical, timeline, step, 0.52);
            let tree = tabs(&mut tiles, &[Panel::MemoryTree]);
            split(&mut tiles, LinearDir::Horizontal, left, tree, 0.6)
        }
    };
    Tree::new(egui::Id::unique(workspace.name()), root, tiles)
}

fn tabs(tiles: &mut Tiles<Panel>, panels: &[Panel]) -> TileId {
    let children: Vec<TileId> = panels
        .iter()
        .map(|panel| tiles.insert_pane(*panel))
        .collect();
    let first = children.first().copied();
    let id = tiles.insert_tab_tile(children);
    if let (Some(Tile::Container(egui_tiles::Container::Tabs(tabs))), Some(first)) =
        (tiles.get_mut(id), first)
    {
        tabs.set_active(first);
    }
    id
}

fn split(
    tiles: &mut Tiles<Panel>,
    direction: LinearDir,
    first: TileId,
    second: TileId,
    part: f32,
) -> TileId {
    tiles.insert_container(Linear::new_binary(direction, [first, second], part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_is_on_a_page() {
        let mut layouts = Layouts::default();
        let placed: Vec<Panel> = Workspace::ALL
            .into_iter()
            .flat_map(|workspace| {
                let tree = layouts.tree(workspace);
                tree.tiles
                    .tiles()
                    .filter_map(|tile| match tile {
                        Tile::Pane(panel) => Some(*panel),
                        Tile::Container(_) => None,
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        for panel in Panel::ALL {
            assert!(placed.contains(&panel), "{panel:?}");
        }
    }

    #[test]
    fn a_closed_panel_comes_back_and_a_layout_survives_its_file() {
        let mut layouts = Layouts::default();
        let tree = layouts.tree(Workspace::Routing);
        let tile = tree.tiles.find_pane(&Panel::Expert).unwrap();
        tree.remove_recursively(tile);
        assert!(!layouts.visible(Workspace::Routing).contains(&Panel::Expert));
        layouts.show(Workspace::Routing, Panel::Expert);
        assert!(
            layouts
                .tree(Workspace::Routing)
                .tiles
                .find_pane(&Panel::Expert)
                .is_some()
        );
        let text = serde_json::to_string(&layouts).unwrap();
        assert_eq!(serde_json::from_str::<Layouts>(&text).unwrap(), layouts);
    }

    #[test]
    fn a_file_with_fewer_pages_gets_the_rest() {
        let mut layouts: Layouts = serde_json::from_str("[]").unwrap();
        assert_eq!(
            *layouts.tree(Workspace::Memory),
            arrangement(Workspace::Memory)
        );
    }
}

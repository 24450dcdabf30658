use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::step::record;
use super::timeline::bytes;
use crate::store::Stream;
use crate::store::memory_record::{Owner, owners};
use crate::store::run::read;
use crate::{Answer, Cell, Cost, Gap, Query, RunId, Span, Store, Table};

/// Who holds the memory at one moment: kind → layer → owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryTree {
    /// The run.
    pub run: RunId,
    /// When.
    pub at: MemoryAt,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryAt {
    /// The largest moment of the record at the cursor.
    Step(u64),
    /// A moment of the record at the cursor.
    Moment(u64, u32),
    /// The largest moment of a range.
    Peak(Span),
}

/// Answers [`MemoryTree`].
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The recorded step.
    pub step: u64,
    /// The moment's number.
    pub moment: u32,
    /// What training was doing.
    pub phase: String,
    /// Bytes of all owners.
    pub total: u64,
    /// Bytes that the allocator had taken from the device.
    pub reserved: Option<u64>,
    /// Bytes that the allocator had given out.
    pub in_use: Option<u64>,
    /// The nodes, each before its children; the first is the whole. Siblings go from large to small.
    pub nodes: Vec<TreeNode>,
}

/// A kind, a layer or an owner.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeNode {
    /// Its parent, an index into [`Tree::nodes`]; the root is its own.
    pub parent: usize,
    /// 0 for the root, 1 for a kind, 2 for a layer, 3 for an owner.
    pub depth: u32,
    /// Its name.
    pub name: String,
    /// The kind that it belongs to; empty for the root.
    pub kind: String,
    /// The layer that it belongs to.
    pub layer: Option<u32>,
    /// Bytes.
    pub bytes: u64,
    /// Share of the whole, 0 to 1.
    pub share: f32,
}

impl Query for MemoryTree {
    type Answer = Tree;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<Tree, Gap> {
        let run = store.find(self.run)?;
        let (step, number) = match self.at {
            MemoryAt::Step(step) => (run.record_at(Stream::Memory, step)?, None),
            MemoryAt::Moment(step, moment) => (run.record_at(Stream::Memory, step)?, Some(moment)),
            MemoryAt::Peak(span) => {
                run.recorded(&run.snapshot(), Stream::Memory)?;
                let columns = run.memory().view(span.first, span.last, 1);
                let peak = columns
                    .iter()
                    .max_by_key(|column| (column.total.max, column.in_use.max));
                let Some(peak) = peak else {
                    return Err(Gap::Opening {
                        what: "the memory ledger",
                    });
                };
                (peak.at.0, Some(peak.at.1))
            }
        };
        let record = record(store, &run, step)?;
        let at = match number {
            Some(number) => record
                .moments
                .iter()
                .position(|moment| moment.moment == number),
            None => record.peak(),
        };
        let moment = at
            .map(|at| &record.moments[at])
            .ok_or_else(|| Gap::NoSuch {
                what: format!("moment {} at step {step}", number.unwrap_or(0)),
                range: format!("it has {} moments", record.moments.len()),
            })?;
        let streams = run.streams()?;
        let owners = owners(&read(&streams.memory), step, moment.moment)?;
        Ok(Tree {
            step,
            moment: moment.moment,
            phase: moment.phase.to_string(),
            total: moment.total(),
            reserved: moment.reserved,
            in_use: moment.in_use,
            nodes: nodes(owners),
        })
    }
}

/// Bytes of a kind by layer and owner.
type Layers = BTreeMap<Option<u32>, BTreeMap<String, u64>>;

fn nodes(owners: Vec<Owner>) -> Vec<TreeNode> {
    let mut kinds: BTreeMap<Arc<str>, Layers> = BTreeMap::new();
    for owner in owners {
        let of_layer = kinds
            .entry(owner.kind)
            .or_default()
            .entry(owner.layer)
            .or_default();
        *of_layer.entry(owner.name).or_default() += owner.bytes;
    }
    let sum = |owners: &BTreeMap<String, u64>| owners.values().sum::<u64>();
    let total: u64 = kinds
        .values()
        .flat_map(|layers| layers.values().map(sum))
        .sum();
    let share = |bytes: u64| {
        if total > 0 {
            (bytes as f64 / total as f64) as f32
        } else {
            0.0
        }
    };
    let mut nodes = vec![TreeNode {
        parent: 0,
        depth: 0,
        name: "all memory".to_owned(),
        kind: String::new(),
        layer: None,
        bytes: total,
        share: share(total),
    }];
    let mut kinds: Vec<_> = kinds
        .into_iter()
        .map(|(kind, layers)| (layers.values().map(sum).sum::<u64>(), kind, layers))
        .collect();
    kinds.sort_by_key(|kind| Reverse(kind.0));
    for (bytes, kind, layers) in kinds {
        let of_kind = nodes.len();
        let node = |parent, depth, name, layer, bytes| TreeNode {
            parent,
            depth,
            name,
            kind: kind.to_string(),
            layer,
            bytes,
            share: share(bytes),
        };
        nodes.push(node(0, 1, kind.to_string(), None, bytes));
        let mut layers: Vec<_> = layers
            .into_iter()
            .map(|(layer, owners)| (sum(&owners), layer, owners))
            .collect();
        layers.sort_by_key(|layer| Reverse(layer.0));
        for (bytes, layer, owners) in layers {
            let of_layer = nodes.len();
            let name = layer.map_or("no layer".to_owned(), |layer| format!("layer {layer}"));
            nodes.push(node(of_kind, 2, name, layer, bytes));
            let mut owners: Vec<_> = owners.into_iter().collect();
            owners.sort_by_key(|owner| Reverse(owner.1));
            nodes.extend(
                owners
                    .into_iter()
                    .map(|(name, bytes)| node(of_layer, 3, name, layer, bytes)),
            );
        }
    }
    nodes
}

impl Tree {
    /// The children of a node, the largest first.
    pub fn children(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        (node + 1..self.nodes.len()).filter(move |&child| self.nodes[child].parent == node)
    }
}

impl Answer for Tree {
    fn summary(&self) -> String {
        let of_depth = |depth| self.nodes.iter().filter(move |node| node.depth == depth);
        let kinds: Vec<_> = of_depth(1)
            .take(4)
            .map(|node| {
                format!(
                    "{} {} ({:.0} %)",
                    node.kind,
                    bytes(node.bytes),
                    node.share * 100.0
                )
            })
            .collect();
        let largest = of_depth(3).max_by_key(|node| node.bytes);
        let largest = largest.map_or(String::new(), |node| {
            format!(
                " The largest owner is {} ({}).",
                node.name,
                bytes(node.bytes)
            )
        });
        format!(
            "Memory at step {}, moment {} ({}): {}; {}.{largest}",
            self.step,
            self.moment,
            self.phase,
            bytes(self.total),
            kinds.join(", ")
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Memory by owner at step {}, moment {} ({})",
                self.step, self.moment, self.phase
            ),
            &[
                ("kind", ""),
                ("layer", ""),
                ("owner", ""),
                ("bytes", "B"),
                ("share", ""),
            ],
        );
        for node in self.nodes.iter().filter(|node| node.depth == 3) {
            table.push([
                node.kind.clone().into(),
                node.layer.into(),
                node.name.clone().into(),
                node.bytes.into(),
                node.share.into(),
            ]);
        }
        let mut allocator = |name: &str, bytes: Option<u64>| {
            if let Some(bytes) = bytes {
                table.push([
                    "allocator".into(),
                    Cell::Missing,
                    name.into(),
                    bytes.into(),
                    Cell::Missing,
                ]);
            }
        };
        allocator("reserved", self.reserved);
        allocator("in use", self.in_use);
        table
    }

    fn bytes(&self) -> usize {
        self.nodes
            .iter()
            .map(|node| size_of::<TreeNode>() + node.name.capacity() + node.kind.capacity())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_adds_up_and_goes_from_large_to_small() {
        let owner = |kind: &str, layer, name: &str, bytes| Owner {
            kind: kind.into(),
            layer,
            name: name.to_owned(),
            bytes,
        };
        let tree = nodes(vec![
            owner("weights", Some(0), "a", 10),
            owner("weights", Some(1), "b", 30),
            owner("gradients", None, "c", 50),
            owner("weights", Some(1), "d", 35),
            // The same owner twice: one leaf.
            owner("weights", Some(1), "b", 5),
        ]);
        let names: Vec<_> = tree
            .iter()
            .map(|node| (node.depth, node.name.as_str(), node.bytes))
            .collect();
        assert_eq!(
            names,
            [
                (0, "all memory", 130),
                (1, "weights", 80),
                (2, "layer 1", 70),
                (3, "b", 35),
                (3, "d", 35),
                (2, "layer 0", 10),
                (3, "a", 10),
                (1, "gradients", 50),
                (2, "no layer", 50),
                (3, "c", 50),
            ]
        );
        assert_eq!(tree[9].parent, 8);
        assert!((tree[1].share - 80.0 / 130.0).abs() < 1e-6);
        assert_eq!(nodes(Vec::new()).len(), 1);
    }
}

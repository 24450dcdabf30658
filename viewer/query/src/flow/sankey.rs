use std::collections::BTreeMap;

use super::pairs::Pairs;
use crate::store::transition_record::TransitionRecord;
use crate::{Answer, Cell, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// The streams of tokens through a row of routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sankey {
    /// The run.
    pub run: RunId,
    /// The cursor.
    pub step: u64,
    /// Through which routers.
    pub path: SankeyPath,
    /// How many experts a stage shows by themselves, the fullest; the rest is one node.
    pub experts: u32,
}

/// A row of routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SankeyPath {
    /// All iterations of a layer.
    Iterations {
        /// The layer.
        layer: u32,
    },
    /// All iterations of all layers from one to another.
    Layers {
        /// The first layer.
        first: u32,
        /// The last layer.
        last: u32,
    },
}

/// Answers [`Sankey`].
#[derive(Clone, Debug, PartialEq)]
pub struct SankeyDiagram {
    /// The recorded step.
    pub step: u64,
    /// The stages, from left to right.
    pub stages: Vec<RouterId>,
    /// The nodes, by stage, the fullest first and the rest last.
    pub nodes: Vec<SankeyNode>,
    /// The streams between nodes of neighbouring stages, by `from` and then `to`.
    pub links: Vec<SankeyLink>,
}

/// An expert, or all experts of a stage that have no node of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SankeyNode {
    /// Its stage, an index into [`SankeyDiagram::stages`].
    pub stage: u32,
    /// The expert; `None` for the rest.
    pub expert: Option<u32>,
    /// How many experts it stands for.
    pub experts: u32,
    /// Its share of the stage's pairs, 0 to 1.
    pub share: f32,
}

/// A stream between two nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SankeyLink {
    /// The node before, an index into [`SankeyDiagram::nodes`].
    pub from: u32,
    /// The node after.
    pub to: u32,
    /// Its share of all pairs between the two stages, 0 to 1: the stream's width.
    pub share: f32,
    /// P(to | from).
    pub conditional: f32,
    /// P(to | from) / P(to): 1 is chance.
    pub lift: f32,
}

impl Query for Sankey {
    type Answer = SankeyDiagram;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<SankeyDiagram, Gap> {
        let run = store.find(self.run)?;
        let record = TransitionRecord::at(store, &run, self.step)?;
        let (first, last) = match self.path {
            SankeyPath::Iterations { layer } => (layer, layer),
            SankeyPath::Layers { first, last } => (first.min(last), first.max(last)),
        };
        let within = |router: RouterId| (first..=last).contains(&router.layer);
        let hops: Vec<_> = record
            .pairs
            .keys()
            .copied()
            .filter(|&(from, to)| within(from) && within(to))
            .collect();
        if hops.is_empty() {
            return Err(Gap::NotRecorded {
                what: "a transition".to_owned(),
                why: if first == last {
                    format!("layer {first} has one iteration")
                } else {
                    format!("none lies between layers {first} and {last}")
                },
                remedy: "choose more layers".to_owned(),
            });
        }
        let mut stages = vec![hops[0].0];
        stages.extend(hops.iter().map(|&(_, to)| to));
        let pairs = hops
            .iter()
            .map(|&(from, to)| Pairs::of(&run, &record, from, to))
            .collect::<Result<Vec<_>, _>>()?;
        let mut diagram = SankeyDiagram {
            step: record.step,
            stages,
            nodes: Vec::new(),
            links: Vec::new(),
        };
        // By stage: which node an expert belongs to.
        let mut node_of: Vec<Vec<u32>> = Vec::new();
        for stage in 0..diagram.stages.len() {
            // What arrives is what leaves, times k; the last stage knows only what arrives.
            let counts = pairs
                .get(stage)
                .map_or_else(|| &pairs[stage - 1].of_column, |pairs| &pairs.of_row);
            node_of.push(add_stage(
                &mut diagram.nodes,
                stage as u32,
                counts,
                self.experts.max(1) as usize,
            ));
        }
        for (hop, pairs) in pairs.iter().enumerate() {
            add_links(&mut diagram, pairs, &node_of[hop], &node_of[hop + 1]);
        }
        Ok(diagram)
    }
}

/// Adds the nodes of a stage; returns which node each expert belongs to.
fn add_stage(nodes: &mut Vec<SankeyNode>, stage: u32, counts: &[u64], most: usize) -> Vec<u32> {
    let total: u64 = counts.iter().sum();
    let share = |count: u64| count as f32 / total.max(1) as f32;
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&expert| std::cmp::Reverse(counts[expert]));
    let mut node_of = vec![0; counts.len()];
    // A rest of one expert is that expert.
    let alone = if counts.len() <= most + 1 {
        counts.len()
    } else {
        most
    };
    for &expert in &order[..alone] {
        node_of[expert] = nodes.len() as u32;
        nodes.push(SankeyNode {
            stage,
            expert: Some(expert as u32),
            experts: 1,
            share: share(counts[expert]),
        });
    }
    if alone < counts.len() {
        for &expert in &order[alone..] {
            node_of[expert] = nodes.len() as u32;
        }
        nodes.push(SankeyNode {
            stage,
            expert: None,
            experts: (counts.len() - alone) as u32,
            share: share(order[alone..].iter().map(|&expert| counts[expert]).sum()),
        });
    }
    node_of
}

fn add_links(diagram: &mut SankeyDiagram, pairs: &Pairs, from: &[u32], to: &[u32]) {
    let mut streams: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    let (mut of_from, mut of_to) = (BTreeMap::<u32, u64>::new(), BTreeMap::<u32, u64>::new());
    for (row, &from) in pairs.counts.chunks(pairs.columns.max(1)).zip(from) {
        for (&count, &to) in row.iter().zip(to) {
            if count > 0 {
                *streams.entry((from, to)).or_default() += count;
                *of_from.entry(from).or_default() += count;
                *of_to.entry(to).or_default() += count;
            }
        }
    }
    let total = pairs.total as f32;
    for ((from, to), count) in streams {
        let conditional = count as f32 / of_from[&from] as f32;
        diagram.links.push(SankeyLink {
            from,
            to,
            share: count as f32 / total,
            conditional,
            lift: conditional / (of_to[&to] as f32 / total),
        });
    }
}

impl Answer for SankeyDiagram {
    fn summary(&self) -> String {
        let name = |node: u32| {
            let node = &self.nodes[node as usize];
            let stage = self.stages[node.stage as usize];
            match node.expert {
                Some(expert) => format!("expert {expert} of {stage}"),
                None => format!("the other {} experts of {stage}", node.experts),
            }
        };
        let single = |link: &&SankeyLink| {
            let alone = |node: u32| self.nodes[node as usize].expert.is_some();
            alone(link.from) && alone(link.to)
        };
        let widest = self
            .links
            .iter()
            .filter(single)
            .max_by(|a, b| a.share.total_cmp(&b.share));
        let widest = widest.map_or(String::new(), |link| {
            format!(
                " The widest stream goes from {} to {}: {:.1} % of all, {:.1} times chance.",
                name(link.from),
                name(link.to),
                link.share * 100.0,
                link.lift
            )
        });
        format!(
            "Streams of tokens through {} routers at step {}.{widest}",
            self.stages.len(),
            self.step
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Streams of tokens, step {}", self.step),
            &[
                ("from_layer", ""),
                ("from_iteration", ""),
                ("from_expert", ""),
                ("to_layer", ""),
                ("to_iteration", ""),
                ("to_expert", ""),
                ("share", ""),
                ("conditional", ""),
                ("lift", ""),
            ],
        );
        for link in &self.links {
            let [from, to] = [link.from, link.to].map(|node| &self.nodes[node as usize]);
            let [before, after] = [from, to].map(|node| self.stages[node.stage as usize]);
            let name = |node: &SankeyNode| match node.expert {
                Some(expert) => Cell::from(expert),
                None => Cell::from("other"),
            };
            table.push([
                before.layer.into(),
                before.iteration.into(),
                name(from),
                after.layer.into(),
                after.iteration.into(),
                name(to),
                link.share.into(),
                link.conditional.into(),
                link.lift.into(),
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        self.nodes.len() * size_of::<SankeyNode>() + self.links.len() * size_of::<SankeyLink>()
    }
}

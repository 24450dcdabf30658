use std::collections::BTreeSet;

use bellows_query::flow::SankeyPath;
use bellows_query::routing::{BalanceFigure, Measure, Order};
use bellows_query::scalars::Axis;
use bellows_query::tokens::Grouping;
use bellows_query::{RouterId, RunId, Span};

use super::layout::{Layouts, Workspace};
use crate::panels::Panel;

/// What is looked at, and how: all that undo takes back.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The page in front.
    pub workspace: Workspace,
    /// How each page is laid out.
    pub layouts: Layouts,
    /// The run that panels are about.
    pub run: Option<RunId>,
    /// The run it is compared with; the same run at another step where there is none.
    pub other: Option<RunId>,
    /// The time cursor.
    pub step: u64,
    /// The step that the cursor is compared with.
    pub pinned: Option<u64>,
    /// The selected range of steps.
    pub range: Option<(u64, u64)>,
    /// The router that panels of one router show.
    pub router: RouterId,
    /// The expert that the expert's panel shows.
    pub expert: u32,
    /// What a load is measured by.
    pub measure: Measure,
    /// In which order experts stand.
    pub order: Order,
    /// Whether the load panel shows the chosen layer alone.
    pub one_layer: bool,
    /// What the balance panel draws.
    pub figure: BalanceFigure,
    /// What cells of the flow matrix are.
    pub flow: FlowValue,
    /// Through what the Sankey diagram flows.
    pub path: FlowPath,
    /// How many experts a stage of the Sankey diagram shows by themselves.
    pub sankey_experts: u32,
    /// The token whose path is shown: sequence and position.
    pub token: (u32, u32),
    /// How tokens are coloured.
    pub ink: Ink,
    /// What tokens are counted together by.
    pub group: Grouping,
    /// The metrics that are drawn.
    pub metrics: Vec<String>,
    /// What runs along the curves' axis.
    pub axis: Axis,
    /// Smoothing of curves, thousandths.
    pub smoothing: u16,
    /// Whether curves' outliers are cut off.
    pub clip: bool,
    /// Whether curves have a logarithmic axis.
    pub log: bool,
    /// Which moment the memory tree shows.
    pub moment: Moment,
    /// The node that the treemap shows: the names from kind to owner.
    pub memory_focus: Vec<String>,
    /// Whether memory of the run compared with is laid over.
    pub overlay: bool,
    /// Whether settings in which runs agree are hidden.
    pub only_different: bool,
    /// The sequential colour scale, if not the theme's own.
    pub scale: Option<String>,
    /// Panels that show their table.
    pub tables: BTreeSet<Panel>,
}

/// What a cell of the flow matrix is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowValue {
    /// P(after | before).
    #[default]
    Conditional,
    /// That over independence.
    Lift,
    /// Slot pairs.
    Count,
}

/// Through what the Sankey diagram flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowPath {
    /// The iterations of the chosen layer.
    #[default]
    Iterations,
    /// The chosen layer and the next one, all iterations.
    Next,
    /// All layers.
    All,
}

/// How tokens are coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ink {
    /// Each expert a colour of its own.
    #[default]
    Expert,
    /// The chosen expert's weight, the others grey.
    Weight,
    /// What the token is in its text.
    Class,
}

/// Which moment the memory tree shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// The largest one of the cursor's step.
    #[default]
    Cursor,
    /// A chosen one of the cursor's step.
    Chosen(u32),
    /// The largest one of the run or the selected range.
    Peak,
}

impl View {
    /// The view that a new window has.
    pub fn new(layouts: Layouts) -> Self {
        Self {
            workspace: Workspace::default(),
            layouts,
            run: None,
            other: None,
            step: 0,
            pinned: None,
            range: None,
            router: RouterId {
                layer: 0,
                iteration: 0,
            },
            expert: 0,
            measure: Measure::default(),
            order: Order::default(),
            one_layer: false,
            figure: BalanceFigure::default(),
            flow: FlowValue::default(),
            path: FlowPath::default(),
            sankey_experts: 12,
            token: (0, 0),
            ink: Ink::default(),
            group: Grouping::Class,
            metrics: Vec::new(),
            axis: Axis::default(),
            smoothing: 0,
            clip: true,
            log: false,
            moment: Moment::default(),
            memory_focus: Vec::new(),
            overlay: true,
            only_different: false,
            scale: None,
            tables: BTreeSet::new(),
        }
    }

    /// The selected range, or the cursor.
    pub fn span(&self) -> Span {
        self.range.map_or_else(
            || Span::at(self.step),
            |(first, last)| Span::between(first, last),
        )
    }

    /// The selected range, or everything.
    pub fn window(&self) -> Span {
        self.range
            .map_or(Span::ALL, |(first, last)| Span::between(first, last))
    }

    /// The other side of a comparison: the other run at the cursor, or this one at the pinned step.
    pub fn compared(&self) -> Option<(RunId, u64)> {
        match self.other {
            Some(other) => Some((other, self.pinned.unwrap_or(self.step))),
            None => Some((self.run?, self.pinned?)),
        }
    }

    /// The row of routers that the Sankey diagram shows, of `layers` with experts.
    pub fn sankey_path(&self, layers: &[u32]) -> SankeyPath {
        let layer = self.router.layer;
        let after = layers
            .iter()
            .copied()
            .find(|other| *other > layer)
            .unwrap_or(layer);
        match self.path {
            FlowPath::Iterations => SankeyPath::Iterations { layer },
            FlowPath::Next => SankeyPath::Layers {
                first: layer,
                last: after,
            },
            FlowPath::All => SankeyPath::Layers {
                first: layers.first().copied().unwrap_or(0),
                last: layers.last().copied().unwrap_or(0),
            },
        }
    }
}

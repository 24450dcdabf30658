//! What a run is looked at through: one module a panel or a family of them.
//!
//! A panel asks the store its questions, draws the answer, and hands the answer on to its frame, which shows its
//! summary and, on demand, its table.

mod balance;
mod compare;
mod config;
mod context;
mod controls;
mod expert;
mod flow;
mod frame;
mod load;
mod memory;
mod runs;
mod scalars;
mod tokens;

use egui::Ui;
use serde::{Deserialize, Serialize};

use crate::app::Workspace;

pub use context::{Cx, Kept, Request};
pub use frame::{alone, pane};
pub use load::columns;

macro_rules! panels {
    ($($(#[$doc:meta])* $panel:ident { $id:literal, $title:literal, $page:ident, $controls:path, $body:path, $what:literal })+) => {
        /// A panel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Panel {
            $($(#[$doc])* #[serde(rename = $id)] $panel,)+
        }

        impl Panel {
            /// All of them.
            pub const ALL: [Self; [$($id),+].len()] = [$(Self::$panel),+];

            /// Its name on the command line.
            pub fn id(self) -> &'static str {
                match self { $(Self::$panel => $id,)+ }
            }

            /// Its title.
            pub fn title(self) -> &'static str {
                match self { $(Self::$panel => $title,)+ }
            }

            /// What it shows, in a sentence.
            pub fn what(self) -> &'static str {
                match self { $(Self::$panel => $what,)+ }
            }

            /// The page it is on.
            pub fn workspace(self) -> Workspace {
                match self { $(Self::$panel => Workspace::$page,)+ }
            }

            /// The panel of that name.
            pub fn named(id: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|panel| panel.id() == id)
            }

            fn controls(self, ui: &mut Ui, cx: &mut Cx<'_>) {
                match self { $(Self::$panel => $controls(ui, cx),)+ }
            }

            fn body(self, ui: &mut Ui, cx: &mut Cx<'_>) {
                match self { $(Self::$panel => $body(ui, cx),)+ }
            }
        }
    };
}

panels! {
    /// Open runs.
    Runs { "runs", "Runs", Overview, runs::controls, runs::body,
        "The open runs: what they are, how far they have come, and what is wrong with their files." }
    /// Events and samples.
    Events { "events", "Events", Overview, runs::event_controls, runs::events,
        "What happened in the run, and what the model wrote at the cursor." }
    /// Curves of metrics.
    Scalars { "scalars", "Curves", Overview, scalars::controls, scalars::body,
        "Metrics over steps, tokens or time, of every open run." }
    /// Settings of runs.
    Config { "config", "Configuration", Overview, config::controls, config::body,
        "The settings of the open runs side by side." }
    /// Load at the cursor.
    RoutingLoad { "routing-load", "Load", Routing, load::controls, load::body,
        "The load of every expert by layer and iteration, at the cursor or summed over the selected range." }
    /// Load over time.
    RoutingTime { "routing-time", "Load over time", Routing, load::time_controls, load::time,
        "The load of one router's experts over the run." }
    /// Balance over time.
    Balance { "routing-balance", "Balance", Routing, balance::controls, balance::body,
        "Imbalance, entropy, dead experts or dropped assignments of every router over the run." }
    /// Balance at the cursor.
    Health { "routing-health", "Routers", Routing, balance::health_controls, balance::health,
        "How balanced each router is, at the cursor or over the selected range." }
    /// One expert.
    Expert { "expert", "Expert", Routing, expert::controls, expert::body,
        "One expert: its load, what it is given more often than others, where its tokens come from and go." }
    /// Streams through routers.
    FlowSankey { "flow-sankey", "Streams", Flow, flow::sankey_controls, flow::sankey,
        "The streams of tokens from expert to expert through iterations and layers." }
    /// Transition matrix.
    FlowMatrix { "flow-matrix", "Affinity", Flow, flow::matrix_controls, flow::matrix,
        "Which expert follows which: P(after | before), and against independence." }
    /// How much routers tell about each other.
    FlowStrength { "flow-strength", "Dependence", Flow, flow::plain_controls, flow::strength,
        "How much each router's choice tells about the next one's." }
    /// Tokens that see an expert again.
    Revisits { "flow-revisits", "Seen again", Flow, flow::plain_controls, flow::revisits,
        "The share of tokens that an expert sees again in a later iteration, against chance." }
    /// Combinations of experts.
    Combinations { "flow-combinations", "Combinations", Flow, flow::plain_controls, flow::combinations,
        "How many different combinations of experts tokens use, against what is possible." }
    /// Traced text.
    TokensText { "tokens-text", "Text", Tokens, tokens::text_controls, tokens::text,
        "The traced text, each token in the colour of its expert." }
    /// One token's path.
    TokenPath { "tokens-path", "Path", Tokens, tokens::path_controls, tokens::path,
        "One token's way through all layers and iterations." }
    /// Specialities by group.
    Speciality { "tokens-speciality", "Specialities", Tokens, tokens::speciality_controls, tokens::speciality,
        "What each expert is given more often than others: by class of token, by source, by token." }
    /// One expert's tokens.
    TokensTop { "tokens-top", "Top tokens", Tokens, tokens::top_controls, tokens::top,
        "The chosen expert's tokens by lift over the base rate." }
    /// When routing settled.
    Saturation { "tokens-saturation", "Saturation", Tokens, tokens::saturation_controls, tokens::saturation,
        "How early routing settled: agreement of each trace with the last one." }
    /// Loads compared.
    CompareLoad { "compare-load", "Load compared", Compare, compare::controls, compare::load,
        "Loads of two runs or two steps side by side, and their difference." }
    /// Transitions compared.
    CompareFlow { "compare-flow", "Affinity compared", Compare, compare::flow_controls, compare::flow,
        "P(after | before) of two runs or two steps, and their difference." }
    /// Agreement of traces.
    Agreement { "compare-agreement", "Agreement", Compare, compare::agreement_controls, compare::agreement,
        "The share of traced choices that two traces make alike." }
    /// Memory over the run.
    MemoryTimeline { "memory-timeline", "Memory over the run", Memory, memory::timeline_controls, memory::timeline,
        "The ledger over the run, stacked by kind, with the allocator's lines, the limit and the plan." }
    /// Memory within a step.
    MemoryStep { "memory-step", "Within the step", Memory, memory::step_controls, memory::step,
        "The ledger within the cursor's step, moment by moment, with phases." }
    /// Statistics of memory.
    MemoryRange { "memory-range", "Statistics", Memory, memory::range_controls, memory::range,
        "Least, most and mean bytes by kind over the selected range." }
    /// What would fit.
    MemoryPlan { "memory-plan", "What would fit", Memory, memory::plan_controls, memory::plan,
        "The plan's numbers for longer sequences and other ways to keep activations." }
    /// Who holds memory.
    MemoryTree { "memory-tree", "Owners", Memory, memory::tree_controls, memory::tree,
        "Who holds the memory at one moment: kind, layer, owner." }
}

#[cfg(test)]
mod tests {
    use super::Panel;

    #[test]
    fn a_panel_is_found_by_its_name_and_names_are_unique() {
        for panel in Panel::ALL {
            assert_eq!(Panel::named(panel.id()), Some(panel));
            assert!(panel.what().ends_with('.'));
        }
        assert_eq!(Panel::named("no-such-panel"), None);
    }
}

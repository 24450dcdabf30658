use super::StreamRow;
use super::table::table_row;

table_row! {
    /// A row of `routing.<n>.arrows`: what one expert was given in one step.
    ///
    /// Every expert of every layer and iteration has its row, those without tokens too.
    pub struct RoutingRow {
        /// Decoder layer, from 0; dense layers have no rows.
        pub layer: u32,
        /// Chain-of-Experts iteration, from 0.
        pub iteration: u32,
        /// Routed expert, from 0.
        pub expert: u32,
        /// Assignments: tokens that chose this expert in one of their k slots, dropped ones included.
        pub tokens: u64,
        /// Mean over the step's tokens of the router's probability for this expert (its mass): the
        /// P of the load-balancing loss. For sigmoid routers, of the scores normalised over experts.
        pub probability: f32,
        /// The score-correction bias of loss-free balancing that this step routed with; null without one.
        pub bias: Option<f32>,
    }
}

impl StreamRow for RoutingRow {
    const STREAM: &'static str = "routing";
}

table_row! {
    /// A row of `routers.<n>.arrows`: one layer and iteration as a whole in one step.
    ///
    /// Apart from [`RoutingRow`], so that summing a column counts nothing twice.
    pub struct RouterRow {
        /// Decoder layer, from 0.
        pub layer: u32,
        /// Chain-of-Experts iteration, from 0.
        pub iteration: u32,
        /// Tokens that were routed (not assignments: those are k a token).
        pub tokens: u64,
        /// Assignments dropped because their expert was full.
        pub dropped: u64,
        /// Mean over tokens of the entropy of the router's probabilities, nats.
        pub entropy: f32,
    }
}

impl StreamRow for RouterRow {
    const STREAM: &'static str = "routers";
}

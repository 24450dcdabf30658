//! What panels are drawn with. Widgets know numbers and colours, nothing of runs.

mod axis;
pub mod chart;
mod heatmap;
mod legend;
mod notice;
mod sankey;
mod table;
mod text;
mod treemap;

pub use heatmap::{HeatMap, HeatMapResponse};
pub use legend::{keys, line_keys, scale_bar};
pub use notice::{notice, waiting};
pub use sankey::{Flow, FlowLink, FlowNode, FlowResponse};
pub use table::{table, table_builder};
pub use text::{Segment, TextResponse, token_text};
pub use treemap::{Tile, TreeMap};

//! Questions about runs, live or finished: every number that the desktop viewer shows, without a window.
//!
//! Two layers. [`Store`] reads runs through `bellows-record` alone, follows live ones in a thread of
//! its own and keeps what it holds under a memory limit. A [`Query`] is a plain value that says what is asked,
//! and its [`Answer`] holds numbers that are ready to be drawn, with a sentence for those who cannot see the drawing
//! and a table of everything in it. A question that has no answer ends in a [`Gap`], which says why and what to do.
//!
//! ```
//! use bellows_query::{Answer, Options, Store, routing::{Measure, Order, RoutingLoad}, Span};
//! # use bellows_record::{RoutingRow, RunInfo, RunState, RunWriter};
//! # let directory = tempfile::tempdir()?;
//! # let writer = RunWriter::create(directory.path(), "run", RunInfo::default(), "")?;
//! # let path = writer.path().to_owned();
//! # writer.routing(1, (0..4).map(|expert| RoutingRow {
//! #     layer: 0, iteration: 0, expert, tokens: 10 * u64::from(expert), probability: 0.25, bias: None,
//! # }).collect())?;
//! # writer.finish(RunState::Finished)?;
//! let store = Store::new(Options::default());
//! let run = store.open(&path);
//! let load = store.answer(&RoutingLoad {
//!     run,
//!     span: Span::at(1),
//!     measure: Measure::Tokens,
//!     order: Order::Index,
//!     layer: None,
//! })?;
//! assert_eq!(load.values, [0.0, 2.0 / 3.0, 4.0 / 3.0, 2.0]);
//! println!("{}", load.summary());
//! println!("{}", load.table().to_csv());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | questions |
//! |---|---|
//! | [`routing`] | load of experts at a step, in a range and over time; balance; one expert |
//! | [`flow`] | which expert follows which; experts seen again; combinations used |
//! | [`tokens`] | the traced text; one token's path; what experts specialise in; when routing settled |
//! | [`compare`] | two runs or two steps |
//! | [`memory`] | the ledger over a run, within a step, as a tree; statistics; what the plan says |
//! | [`scalars`] | curves of metrics; differences of configurations |
//! | [`search`] | words, experts and settings found in a run |

pub mod compare;
pub mod flow;
mod gap;
pub mod memory;
mod query;
pub mod routing;
pub mod scalars;
pub mod search;
mod span;
mod store;
mod table;
pub mod tokens;

pub use gap::Gap;
pub use query::{Answer, Asked, Cost, Query, Scale};
pub use span::{RouterId, Sampled, Span};
pub use store::{
    Loading, MemoryUse, Note, Notify, Options, RunId, RunSnapshot, Severity, Shape, Store,
};
pub use table::{Cell, Column, Table};

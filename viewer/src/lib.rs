//! The desktop viewer of Bellows: where tokens are routed and where memory goes.
//!
//! It knows a run through its directory alone. `bellows-query` reads the directory in the background and answers
//! questions; [`panels`] ask and draw; [`app`] is the window around them: pages, time cursor, commands, undo. [`widgets`]
//! know numbers and colours only, [`theme`] has every colour, [`raster`] paints
//! where there is no graphics card, [`export`] turns a panel into a file without a window.

pub mod app;
pub mod cli;
pub mod export;
pub mod format;
pub mod panels;
pub mod raster;
pub mod theme;
pub mod widgets;

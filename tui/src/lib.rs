//! The terminal dashboard of Bellows.
//!
//! It knows a run through two things alone: its directory, read by `bellows-record`, and its control
//! socket. So it links neither the engine nor the trainer, and can watch runs that another machine
//! writes.
//!
//! [`store`] reads in the background and keeps what it read small; [`query`] answers questions
//! about it; [`app`] is what is shown and what keys change; [`view`] draws it. [`keys`] and
//! [`theme`] are one table each. [`terminal`] ties them to a real terminal.

pub mod app;
pub mod cli;
pub mod format;
pub mod keys;
pub mod launch;
pub mod query;
pub mod store;
pub mod terminal;
pub mod theme;
pub mod view;

//! From files on disk to batches, through the public interface: one module a kind of hazard.

mod batches;
mod cache;
mod common;
mod corpus;
mod formats;
mod records;

//! What is known of runs: read in the background, kept small, shared with the screens.
//!
//! [`RunFollower`] follows one run, [`HomeFollower`] the list of a directory. Each is a thread of
//! its own that reads files and nothing else; screens take a read lock for as long as they draw. What
//! a thread has read it hands over in small slices, so that a screen never waits for a history.

mod follow;
mod home;
mod memory;
mod metrics;
mod pyramid;
mod routing;
mod run;

pub use follow::{Focus, RunFollower};
pub use home::{HomeData, HomeFollower, HomeRow};
pub use memory::{MemoryData, MemoryOwner, MemoryView};
pub use metrics::MetricStore;
pub use pyramid::{Bucket, Pyramid};
pub use routing::{ExpertLoad, RouterHistory, RouterView, RoutingData, RoutingView};
pub use run::{Loading, RunData};

use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Called from a background thread when there is something new to show.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// Data that a thread writes and the screens read. The lock is fair: a thread that writes one slice
/// after the other lets a waiting screen in between.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<RwLock<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Shared<T> {
    /// Shares `data`.
    pub fn new(data: T) -> Self {
        Self(Arc::new(RwLock::new(data)))
    }

    /// Reads it. Not to be called by who holds a guard of it: a thread that waits to write would
    /// keep both waiting.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    /// Writes it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write()
    }
}

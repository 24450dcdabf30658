use std::hash::Hash;
use std::sync::Arc;

use crate::{Gap, RunId, Store, Table};

/// A question about one or more runs: a plain value, so that equal questions are answered once.
pub trait Query: Clone + Eq + Hash + Send + Sync + 'static {
    /// What answers it.
    type Answer: Answer;

    /// The runs it asks about: when they get longer, it is answered anew.
    fn runs(&self) -> Vec<RunId>;

    /// What answering takes.
    fn cost(&self) -> Cost;

    /// Answers in the calling thread, from the record as it is now. Call it through [`Store::answer`] or
    /// [`Store::ask`], which remember.
    ///
    /// # Errors
    ///
    /// A [`Gap`] where there is no answer.
    fn answer(&self, store: &Store) -> Result<Self::Answer, Gap>;
}

/// An answer: numbers to draw, a sentence, a table.
pub trait Answer: Send + Sync + 'static {
    /// What a person who cannot see the drawing should know, in a sentence or three.
    fn summary(&self) -> String;

    /// Every number that is drawn.
    fn table(&self) -> Table;

    /// About how many bytes it holds, for the store's memory limit.
    fn bytes(&self) -> usize;
}

/// What answering a [`Query`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A record or less: a millisecond or some. [`Store::ask`] answers at once, in the calling thread.
    Frame,
    /// Many records. [`Store::ask`] hands it to a thread.
    Background,
}

/// What [`Store::ask`] has to say.
#[derive(Debug)]
pub struct Asked<A> {
    /// The newest answer; `None` while the first one is being worked out.
    pub answer: Option<Result<Arc<A>, Gap>>,
    /// A newer one is being worked out; the store notifies when it is there.
    pub pending: bool,
}

/// How colours should be laid over an answer's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The value of the first colour.
    pub min: f32,
    /// The value of the last colour.
    pub max: f32,
    /// For differences and for ratios with a neutral value: that value, and a scale that diverges from it.
    pub neutral: Option<f32>,
}

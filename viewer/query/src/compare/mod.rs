//! Two runs, or two steps of one, as a difference. Side by side they are two ordinary questions.

mod agreement;
mod load;
mod transitions;

pub use agreement::{Agreement, AgreementTable};
pub use load::{LoadChange, LoadDifference};
pub use transitions::{TransitionChange, TransitionDifference};

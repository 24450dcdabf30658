//! What is checked before each step: the plan plus what is in use, against the limit.

use bellows_engine::plan::Prediction;
use bellows_engine::step::Backpropagation;

use super::{Planner, words};
use crate::ui::bytes;

/// What a step does about memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on as it was.
    Go,
    /// It goes on in another way, for a reason.
    Change(Backpropagation, String),
    /// It must not be taken, for a reason.
    Stop(String),
}

/// Checks steps against a plan.
#[derive(Clone, Debug)]
pub struct Guard {
    planner: Planner,
    prediction: Prediction,
}

impl Guard {
    /// Checks the steps of the plan's choice, which `prediction` is about.
    pub fn new(planner: Planner, prediction: Prediction) -> Self {
        Self {
            planner,
            prediction,
        }
    }

    /// How the next step backpropagates.
    pub fn way(&self) -> Backpropagation {
        self.prediction.way
    }

    /// Bytes that the run may use, where they are known.
    pub fn limit(&self) -> Option<u64> {
        self.planner.limit()
    }

    /// The step that the plan is about.
    pub fn prediction(&self) -> &Prediction {
        &self.prediction
    }

    /// Whether the next step fits beside a checkpoint that is being written, where `in_use` bytes
    /// are, of which `resident` are weights and moments: the update copies each of which the
    /// checkpoint still holds a handle.
    pub fn fits_beside_checkpoint(&self, in_use: u64, resident: u64) -> bool {
        let mut copies = self.prediction.resident();
        if !self.planner.target.gpu {
            // The values to be written lie in the same memory.
            copies += self.prediction.weights();
        }
        self.fits(in_use.saturating_sub(resident) + copies)
    }

    /// Whether the next step fits beside `beside` bytes that are in use for other things.
    fn fits(&self, beside: u64) -> bool {
        let needed = self.prediction.needed().saturating_add(beside);
        self.planner.limit().is_none_or(|limit| needed <= limit)
    }

    /// Looks before a step at `in_use` bytes, of which `resident` are weights and moments.
    pub fn check(&mut self, in_use: u64, resident: u64) -> Verdict {
        let beside = in_use.saturating_sub(resident);
        let Some(limit) = self.planner.limit().filter(|_| !self.fits(beside)) else {
            return Verdict::Go;
        };
        let why = format!(
            "the next step needs {} beside {} that are in use for other things, of {}",
            bytes(self.prediction.needed()),
            bytes(beside),
            bytes(limit)
        );
        let answer = self.planner.plan(beside);
        match answer.plan.chosen() {
            Some(other) => {
                let (way, prediction) = (other.prediction.way, other.prediction.clone());
                let reason = format!("{why}: it goes on in {}", words::ways(way));
                self.prediction = prediction;
                Verdict::Change(way, reason)
            }
            None => Verdict::Stop(match answer.plan.nearest {
                Some(nearest) => format!("{why}; what fits is {}", words::settings(nearest)),
                None => why,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ByteSize;
    use crate::config::RunConfig;
    use crate::device::DeviceChoice;
    use bellows_engine::kernels::Compute;
    use bellows_engine::plan::Mode;

    fn guard(limit: u64) -> Guard {
        let mut config = RunConfig::default();
        config.model.vocab_size = 512;
        config.train.sequence_length = 4096;
        config.train.batch_size = 1;
        config.train.memory_limit = Some(ByteSize(limit));
        let opened = DeviceChoice::Cpu.open().expect("the CPU is always there");
        let planner = Planner::new(&config, &opened, Compute::F32);
        let answer = planner.plan(0);
        let chosen = answer.plan.chosen().expect("it fits").prediction.clone();
        assert_eq!(answer.plan.chosen().map(|c| c.mode), Some(Mode::Plain));
        Guard::new(planner.clone(), chosen)
    }

    fn needed(mode: Mode) -> u64 {
        let planner = guard(u64::MAX >> 1).planner;
        let plan = planner.plan(0).plan;
        let candidate = plan.candidates.iter().find(|other| other.mode == mode);
        candidate.expect("every mode").prediction.needed()
    }

    #[test]
    fn memory_that_others_take_turns_a_step_to_a_way_that_needs_less() {
        let mut guard = guard(needed(Mode::Plain) + 1000);
        let resident = guard.prediction().resident();
        assert_eq!(guard.check(resident + 1000, resident), Verdict::Go);
        let Verdict::Change(way, reason) = guard.check(resident + 1001, resident) else {
            panic!("plain does not fit any more");
        };
        assert!(matches!(way, Backpropagation::Streamed(_)));
        assert_eq!(guard.way(), way);
        assert!(reason.contains("in use for other things"), "{reason}");
        // Once changed it is what the next step is checked against.
        assert_eq!(guard.check(resident + 1001, resident), Verdict::Go);
    }

    #[test]
    fn beside_a_checkpoint_an_update_needs_room_for_copies() {
        let needed = needed(Mode::Plain);
        let prediction = guard(needed).prediction;
        let (resident, weights) = (prediction.resident(), prediction.weights());
        let room = guard(needed + resident + weights + 1000);
        assert!(room.fits_beside_checkpoint(resident + 1000, resident));
        assert!(!room.fits_beside_checkpoint(resident + 1001, resident));
        assert!(!guard(needed + resident).fits_beside_checkpoint(resident, resident));
    }

    #[test]
    fn where_nothing_fits_any_more_the_run_stops_and_says_what_would() {
        let limit = needed(Mode::Plain);
        let mut guard = guard(limit);
        let Verdict::Stop(reason) = guard.check(limit, 0) else {
            panic!("all of the memory is taken");
        };
        assert!(
            reason.contains("needs") && reason.contains("of"),
            "{reason}"
        );
    }
}

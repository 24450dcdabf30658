//! Where a pass spends its time: each stage of the kernels waited for and timed, for benches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use burn_cubecl::tensor::CubeTensor;
use cubecl::MemoryScope;
use cubecl::logging::{LaunchObservation, LaunchObserver};

use crate::gpu::settle;
use crate::here::Here;
use crate::host;

/// What the runs of one stage add up to.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What it computes.
    pub name: &'static str,
    /// How often it ran.
    pub runs: usize,
    /// Seconds from its first launch until the device had finished it.
    pub seconds: f64,
    /// Floating-point operations of its matrix products; 0 for stages that move numbers.
    pub operations: f64,
    /// The most bytes in use when it ended.
    pub bytes: u64,
}

static LAUNCHES: Here<u64> = Here::new();
static STAGES: Here<Option<Vec<Stage>>> = Here::new();

/// How often this thread has launched one of this crate's kernels.
pub fn launches() -> u64 {
    settle();
    LAUNCHES.get()
}

/// Counts a launch.
pub(crate) fn launched() {
    LAUNCHES.with(|count| *count += 1);
}

/// Runs `work` and returns how many kernels were launched meanwhile, this crate's and Burn's, on
/// whatever thread. 0 on the CPU backend, which launches none.
pub fn all_launches_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    #[derive(Default)]
    struct Count(AtomicU64);
    impl LaunchObserver for Count {
        fn launched(&self, _kernel: &'static str) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    settle();
    let count = Arc::new(Count::default());
    let observation = LaunchObservation::new(count.clone());
    let result = work();
    settle();
    drop(observation);
    (result, count.0.load(Ordering::Relaxed))
}

/// Runs `work` and returns the stages that the kernels went through on this thread, in the order
/// of their first runs. Each stage is waited for, so that their times add up to more than `work`
/// takes alone, by what a wait costs.
pub fn stages_of<T>(work: impl FnOnce() -> T) -> (T, Vec<Stage>) {
    settle();
    let outer = STAGES.replace(Some(Vec::new()));
    let result = work();
    settle();
    let stages = STAGES.replace(outer).unwrap_or_default();
    (result, stages)
}

/// Runs a stage's launches on the device of `on`; timed, if anyone asked.
pub(crate) fn stage<T>(
    on: &CubeTensor,
    name: &'static str,
    operations: f64,
    launches: impl FnOnce() -> T,
) -> T {
    if STAGES.with(|stages| stages.is_none()) {
        return launches();
    }
    host::wait(on);
    let start = Instant::now();
    let result = launches();
    host::wait(on);
    let seconds = start.elapsed().as_secs_f64();
    let report = on.client.memory_report(MemoryScope::Device);
    let bytes = report.usage().bytes_in_use;
    STAGES.with(|stages| {
        let Some(stages) = stages else { return };
        match stages.iter_mut().find(|stage| stage.name == name) {
            Some(stage) => {
                stage.runs += 1;
                stage.seconds += seconds;
                stage.operations += operations;
                stage.bytes = stage.bytes.max(bytes);
            }
            None => stages.push(Stage {
                name,
                runs: 1,
                seconds,
                operations,
                bytes,
            }),
        }
    });
    result
}

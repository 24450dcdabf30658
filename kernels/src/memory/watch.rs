//! Reading what is in use, and keeping the most.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::{Backend, DispatchDevice};
use burn::tensor::Device;
use burn_cubecl::CubeBackend;
use cubecl::logging::{LaunchObservation, LaunchObserver};

use super::counting;
use super::ledger::{self, Held, Sums};
use super::owner::{Place, Stage, place};
use crate::gpu::settle;

/// Memory in use at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes of live buffers.
    pub in_use: u64,
    /// Bytes that the allocator took from the device; on the CPU those in use.
    pub reserved: u64,
}

/// The moments of a step at which memory is most, in order.
pub const PEAKS: [&str; 4] = ["forward", "backward", "optimizer", "idle"];

/// Which of [`PEAKS`] a stage belongs to.
fn moment_of(stage: Stage) -> usize {
    match stage {
        Stage::Forward => 0,
        Stage::Recompute | Stage::Backward => 1,
        Stage::Optimizer => 2,
        Stage::Outside => 3,
    }
}

/// The fullest moment of one phase of a step.
#[derive(Clone, Debug)]
pub struct Moment {
    /// One of [`PEAKS`].
    pub phase: &'static str,
    /// The layer that was at work.
    pub layer: Option<u32>,
    /// The most that was read.
    pub reading: Reading,
    /// Who held what, where a ledger was kept: read within a hundredth of the most.
    pub held: Vec<Held>,
    /// What was in use when `held` was read.
    pub held_at: Reading,
}

/// The fullest reading so far, and a snapshot close to it.
#[derive(Clone, Debug, Default)]
struct Peak {
    seen: bool,
    reading: Reading,
    layer: Option<u32>,
    held_at: Reading,
    now: Option<Place>,
    sums: Sums,
}

impl Peak {
    fn take_in(&mut self, reading: Reading, now: Place, on_device: bool) {
        let first = !std::mem::replace(&mut self.seen, true);
        if !first && reading.in_use <= self.reading.in_use {
            return;
        }
        self.reading.in_use = reading.in_use;
        self.reading.reserved = self.reading.reserved.max(reading.reserved);
        self.layer = now.layer();
        let grown = reading.in_use > self.held_at.in_use + self.held_at.in_use / 100;
        if ledger::is_kept() && (first || grown) {
            self.held_at = reading;
            self.now = Some(now);
            self.sums = ledger::sums(on_device);
        }
    }

    fn moment(self, phase: &'static str) -> Option<Moment> {
        self.seen.then(|| Moment {
            phase,
            layer: self.layer,
            reading: self.reading,
            held: self
                .now
                .map_or_else(Vec::new, |now| ledger::owners(&self.sums, now)),
            held_at: self.held_at,
        })
    }
}

#[derive(Debug, Default)]
struct Peaks([Peak; PEAKS.len()]);

impl Peaks {
    fn take_in(&mut self, reading: Reading, on_device: bool) {
        let now = place();
        self.0[moment_of(now.stage())].take_in(reading, now, on_device);
    }

    fn moments(self) -> Vec<Moment> {
        let peaks = self.0.into_iter().zip(PEAKS);
        peaks
            .filter_map(|(peak, phase)| peak.moment(phase))
            .collect()
    }
}

/// Looks at the device before every so many launches.
struct Launches {
    device: Device,
    every: u64,
    launches: AtomicU64,
    peaks: Mutex<Peaks>,
}

impl Launches {
    fn read(&self) {
        if let Some(reading) = of_device(&self.device) {
            let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
            peaks.take_in(reading, true);
        }
    }
}

impl LaunchObserver for Launches {
    fn launched(&self, _kernel: &'static str) {
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(self.every) {
            self.read();
        }
    }
}

/// Peaks of the CPU's allocator, while anyone watches them.
static COUNTED: Mutex<Option<Peaks>> = Mutex::new(None);
static COUNTING: AtomicBool = AtomicBool::new(false);

/// Called by the allocator, whose bookkeeping counts nothing meanwhile, when it has given out
/// more.
pub(super) fn counted(in_use: u64) {
    if !COUNTING.load(Ordering::Relaxed) {
        return;
    }
    let mut peaks = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(peaks) = peaks.as_mut() {
        let reading = Reading {
            in_use,
            reserved: in_use,
        };
        peaks.take_in(reading, false);
    }
}

/// Watches of devices that are alive.
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// Before the place of work changes: what was asked for in the old place is run, where anybody
/// looks at it.
pub(super) fn settle_place() {
    if ledger::is_kept() || WATCHES.load(Ordering::Relaxed) > 0 {
        settle();
    }
}

/// Keeps the fullest moment of each phase until it is finished. One at a time on the CPU.
pub struct Watch(Way);

enum Way {
    Device {
        launches: Arc<Launches>,
        _observation: LaunchObservation,
    },
    Counted,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// Reads before every launch of which `every` divides the number, which costs a visit to the
    /// device's thread, but no wait for the device. On the CPU every block is counted.
    pub fn new(device: &Device, every: u64) -> Self {
        if of_device(device).is_none() {
            counting::uncounted(|| {
                *COUNTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Peaks::default());
            });
            COUNTING.store(true, Ordering::Relaxed);
            return Self(Way::Counted);
        }
        let launches = Arc::new(Launches {
            device: device.clone(),
            every: every.max(1),
            launches: AtomicU64::new(0),
            peaks: Mutex::default(),
        });
        settle();
        WATCHES.fetch_add(1, Ordering::Relaxed);
        let observation = LaunchObservation::new(launches.clone());
        Self(Way::Device {
            launches,
            _observation: observation,
        })
    }

    /// Reads now, whatever was launched.
    pub fn look(&self) {
        match &self.0 {
            Way::Device { launches, .. } => {
                settle();
                launches.read();
            }
            Way::Counted => {
                if let Some(in_use) = counting::in_use() {
                    counting::uncounted(|| counted(in_use));
                }
            }
        }
    }

    /// The fullest moment of each phase that was seen.
    pub fn finish(self) -> Vec<Moment> {
        match self.0 {
            Way::Device {
                launches,
                _observation,
            } => {
                settle();
                drop(_observation);
                WATCHES.fetch_sub(1, Ordering::Relaxed);
                let mut peaks = launches
                    .peaks
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *peaks).moments()
            }
            Way::Counted => {
                COUNTING.store(false, Ordering::Relaxed);
                let peaks = COUNTED
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                peaks.map_or_else(Vec::new, Peaks::moments)
            }
        }
    }
}

/// Asks CubeCL itself: launches are looked at from the device's own thread, where Burn's fusion
/// could not run its queue.
fn of_device(device: &Device) -> Option<Reading> {
    let device = match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device) => device.clone(),
        _ => return None,
    };
    CubeBackend::memory_pool_usage(&device).map(|usage| Reading {
        in_use: usage.bytes_in_use,
        reserved: usage.bytes_reserved,
    })
}

/// Memory in use on `device`: of its pools, or of the program's allocator where that counts.
pub fn in_use(device: &Device) -> Option<Reading> {
    settle();
    of_device(device).or_else(|| {
        counting::in_use().map(|in_use| Reading {
            in_use,
            reserved: in_use,
        })
    })
}

/// Runs `work` and returns the most bytes that were in use on `device` before any launch
/// meanwhile, with what its allocator had reserved; on the CPU those of the program's allocator,
/// 0 where it does not count. Slower than running `work` alone: every launch asks the allocator.
pub fn peak_during<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Reading) {
    let watch = Watch::new(device, 1);
    let result = work();
    let moments = watch.finish();
    let most = |of: fn(&Moment) -> u64| moments.iter().map(of).max().unwrap_or(0);
    let peak = Reading {
        in_use: most(|moment| moment.reading.in_use),
        reserved: most(|moment| moment.reading.reserved),
    };
    (result, peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_keeps_the_most_and_where_it_was() {
        let mut peak = Peak::default();
        for (in_use, layer) in [(5, 1), (9, 2), (7, 3)] {
            let reading = Reading {
                in_use,
                reserved: 10,
            };
            peak.take_in(reading, Place::NOWHERE.in_layer(Some(layer)), false);
        }
        let moment = peak.moment("forward").expect("something was read");
        assert_eq!((moment.reading.in_use, moment.layer), (9, Some(2)));
        assert!(Peak::default().moment("forward").is_none());
    }
}

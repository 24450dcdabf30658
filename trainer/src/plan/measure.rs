//! One step of a configuration, predicted and measured.

use bellows_engine::kernels::memory::{Ledger, Moment, Watch, in_use};
use bellows_engine::model::{Decoder, Init, Sequences};
use bellows_engine::objective::{Objective, Targets};
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig, own_parameters};
use bellows_engine::plan::{ByKind, Load, Prediction, Target, predict};
use bellows_engine::step::{IGNORE, MicroBatch, Settings, run_with};
use burn::tensor::Device;

use super::Sample;
use crate::error::Error;

/// What was predicted and what was.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The prediction.
    pub predicted: Prediction,
    /// The fullest moment of each phase, before every launch.
    pub moments: Vec<Moment>,
    /// Bytes in use without the model, before it was made or when it was gone.
    pub before: u64,
}

impl Measured {
    /// The most bytes that were in use for the model and its step.
    pub fn peak(&self) -> u64 {
        self.fullest().map_or(0, |moment| {
            moment.reading.in_use.saturating_sub(self.before)
        })
    }

    /// What the allocator had reserved.
    pub fn reserved(&self) -> u64 {
        let reserved = self.moments.iter().map(|moment| moment.reading.reserved);
        reserved.max().unwrap_or(0)
    }

    /// The fullest moment.
    pub fn fullest(&self) -> Option<&Moment> {
        let moments = self.moments.iter();
        moments.max_by_key(|moment| moment.reading.in_use)
    }

    /// How far the prediction is off, as a share of what was measured.
    pub fn error(&self) -> f64 {
        let (predicted, measured) = (self.predicted.peak().total() as f64, self.peak() as f64);
        (predicted - measured) / measured.max(1.0)
    }

    /// Bytes by kind at the measured peak, and what no owner explains.
    pub fn by_kind(&self) -> (ByKind, u64) {
        let mut bytes = ByKind::default();
        let Some(moment) = self.fullest() else {
            return (bytes, 0);
        };
        // On the CPU what the program held before is in the ledger as well.
        let held = moment.held.iter().filter(|held| held.owner != "program");
        for held in held {
            bytes[held.kind as usize] += held.bytes;
        }
        let named: u64 = bytes.iter().sum();
        let in_use = moment.held_at.in_use.saturating_sub(self.before);
        (bytes, in_use.saturating_sub(named))
    }
}

/// What the objective of `sample` is told of its tokens.
fn targets_of(sample: &Sample) -> Targets {
    let Load { batch, time, .. } = sample.load;
    match sample.objective {
        Objective::Dpo { .. } => Targets::Pairs {
            reference: vec![-(time as f32); batch],
        },
        Objective::Grpo { .. } => Targets::Groups {
            advantages: (0..batch).map(|row| row as f32 - 0.5).collect(),
            old: vec![-1.0; batch * time],
            reference: vec![-1.0; batch * time],
        },
        _ => Targets::Labels,
    }
}

/// Takes two steps of `sample` on `device`, which has no autodiff: the first compiles kernels and
/// makes the moments, the second is measured.
///
/// # Errors
/// If the device fails, or nothing counts the memory in use.
pub fn measure(sample: &Sample, device: &Device) -> Result<Measured, Error> {
    sample.model.validate()?;
    let failed = |error: String| Error::failed(format!("{}: {error}", sample.name));
    let sync = || device.sync().map_err(|error| failed(error.to_string()));
    device.memory_cleanup();
    let before = in_use(device).ok_or_else(|| failed("nothing counts memory here".into()))?;
    let tracked = device.clone().autodiff();
    let mut init = Init::random(&tracked, 0, 0.02).with_numerics(sample.numerics);
    let mut model = Decoder::new(&mut init, &sample.model);
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let Load { batch, time, .. } = sample.load;
    let mut micro_batch = MicroBatch {
        targets: targets_of(sample),
        ..made_up_batch(sample.model.vocab_size, batch, time)
    };
    if sample.load.documents {
        // Two a row.
        let halves = (0..batch * time).map(|at| u32::from(at % time >= time / 2));
        micro_batch.sequences.documents = Some(halves.collect());
    }
    let batches = vec![micro_batch; sample.load.micro_batches];
    let settings = Settings {
        backpropagation: sample.way,
        objective: sample.objective,
        ..Settings::default()
    };
    let mut moments = Vec::new();
    for measured in [false, true] {
        sync()?;
        if measured {
            device.memory_cleanup();
        }
        let ledger = measured.then(Ledger::new);
        if measured {
            own_parameters(&model);
            optimizer.own_moments();
        }
        let watch = measured.then(|| Watch::new(device, 1));
        let result = run_with(
            &model,
            &batches,
            &sample.router,
            &tracked,
            &mut NoObserver,
            &settings,
        );
        model = optimizer.apply(model, result.gradients, 1e-4);
        optimizer.outcome();
        if let Some(watch) = watch {
            watch.look();
            moments = watch.finish();
        }
        drop(ledger);
    }
    let target = Target::of(device, sample.numerics);
    // What stays on the CPU without the model was not its: buffers of the matrix product, whose size
    // is the processor's affair.
    drop((model, optimizer));
    sync()?;
    let left = match target.gpu {
        true => 0,
        false => in_use(device).map_or(0, |reading| reading.in_use),
    };
    Ok(Measured {
        predicted: predict(&sample.model, &sample.load, target, sample.way),
        moments,
        before: before.in_use.max(left),
    })
}

/// A batch of made-up tokens, each the label of the one before it: for measurements, which any
/// tokens serve.
pub fn made_up_batch(vocabulary: usize, batch: usize, time: usize) -> MicroBatch {
    let ids: Vec<i32> = (0..batch * time)
        .map(|at| ((at * 7919 + at / 3) % vocabulary) as i32)
        .collect();
    let labels = (0..batch * time)
        .map(|at| match at % time + 1 < time {
            true => ids[at + 1],
            false => IGNORE,
        })
        .collect();
    MicroBatch {
        sequences: Sequences::plain(batch, time, ids),
        labels,
        ..MicroBatch::default()
    }
}

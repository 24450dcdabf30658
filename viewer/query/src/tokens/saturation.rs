use crate::store::Stream;
use crate::store::trace_record::{NOBODY, TraceRecord};
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// How early routing settled: at each traced step, how much of the last trace's choices were made already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Saturation {
    /// The run.
    pub run: RunId,
    /// One layer alone.
    pub layer: Option<u32>,
}

/// Answers [`Saturation`].
#[derive(Clone, Debug, PartialEq)]
pub struct SaturationCurves {
    /// Traced steps, ascending; the last one is what the others are compared with.
    pub steps: Vec<u64>,
    /// By router: the share of the last step's choices that a step made already, 0 to 1, by step.
    pub agreement: Vec<(RouterId, Vec<f32>)>,
    /// Their mean, by step.
    pub mean: Vec<f32>,
    /// The share that two random choices of k experts agree in: k / experts.
    pub chance: f32,
}

impl Query for Saturation {
    type Answer = SaturationCurves;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<SaturationCurves, Gap> {
        let run = store.find(self.run)?;
        let snapshot = run.snapshot();
        let steps = run.recorded(&snapshot, Stream::Traces)?;
        let last = TraceRecord::of_step(store, &run, steps[steps.len() - 1])?;
        if steps.len() < 2 {
            return Err(Gap::NotRecorded {
                what: "a second trace".to_owned(),
                why: format!(
                    "only step {} has one, and nothing to compare it with",
                    steps[0]
                ),
                remedy: "train on, or with a smaller record.traces_every".to_owned(),
            });
        }
        let routers: Vec<RouterId> = last
            .routers
            .iter()
            .copied()
            .filter(|router| self.layer.is_none_or(|layer| router.layer == layer))
            .collect();
        if routers.is_empty() {
            return Err(Gap::NoSuch {
                what: "such layer in the traces".to_owned(),
                range: format!("{} routers are in them", last.routers.len()),
            });
        }
        let mut curves = SaturationCurves {
            steps: Vec::new(),
            agreement: routers.iter().map(|&router| (router, Vec::new())).collect(),
            mean: Vec::new(),
            chance: last.k as f32 / run.experts(routers[0]).unwrap_or(1).max(1) as f32,
        };
        for &step in steps {
            // A trace that is damaged leaves its step out; asking for its text says why.
            let Ok(trace) = TraceRecord::of_step(store, &run, step) else {
                continue;
            };
            let mut sum = 0.0;
            for (router, curve) in &mut curves.agreement {
                let share = shared(&trace, &last, *router).map_or(f32::NAN, |(share, _)| share);
                sum += share;
                curve.push(share);
            }
            curves.steps.push(step);
            curves.mean.push(sum / curves.agreement.len() as f32);
        }
        Ok(curves)
    }
}

/// Of the later choices of a router: the share that the earlier trace made too, and the share of tokens with the same first
/// choice.
pub(crate) fn shared(
    earlier: &TraceRecord,
    later: &TraceRecord,
    router: RouterId,
) -> Option<(f32, f32)> {
    let (before, after) = (earlier.chosen(router)?, later.chosen(router)?);
    let (mut same, mut all, mut first, mut tokens) = (0u64, 0u64, 0u64, 0u64);
    for (at, after) in after.chunks(later.k).enumerate() {
        let token = &later.probe.tokens[at];
        let Some(place) = earlier.probe.place(token.sequence, token.position) else {
            continue;
        };
        let before = &before[place * earlier.k..][..earlier.k];
        tokens += 1;
        first += u64::from(before[0] == after[0]);
        for expert in after.iter().filter(|&&expert| expert != NOBODY) {
            all += 1;
            same += u64::from(before.contains(expert));
        }
    }
    (all > 0).then(|| (same as f32 / all as f32, first as f32 / tokens as f32))
}

impl SaturationCurves {
    /// The first step from which on the mean agreement stays at or above a share.
    pub fn settled(&self, share: f32) -> Option<u64> {
        let below = self
            .mean
            .iter()
            .rposition(|&mean| mean < share || mean.is_nan());
        self.steps.get(below.map_or(0, |at| at + 1)).copied()
    }
}

impl Answer for SaturationCurves {
    fn summary(&self) -> String {
        let settled = match self.settled(0.8) {
            Some(step) => format!("from step {step} on at least 80 % of them are as in the end"),
            None => "they have not settled".to_owned(),
        };
        format!(
            "Agreement of the traced tokens' choices with those of step {}, over {} traces: {settled}; chance is {:.0} %.",
            self.steps.last().copied().unwrap_or(0),
            self.steps.len(),
            self.chance * 100.0
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            "Agreement of routing with the last trace",
            &[
                ("step", ""),
                ("layer", ""),
                ("iteration", ""),
                ("agreement", ""),
            ],
        );
        for (at, &step) in self.steps.iter().enumerate() {
            for (router, curve) in &self.agreement {
                table.push([
                    step.into(),
                    router.layer.into(),
                    router.iteration.into(),
                    curve[at].into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        (self.agreement.len() + 3) * (self.steps.len() * 8 + 32)
    }
}

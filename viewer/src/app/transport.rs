use bellows_query::RunSnapshot;

/// How the time cursor moves by itself.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Whether it moves.
    pub playing: bool,
    /// Records a second.
    pub speed: f32,
    /// Whether it begins again at the end.
    pub repeat: bool,
    /// Whether it stays at the newest record of a live run.
    pub follow: bool,
    /// Parts of a record that time has passed.
    part: f32,
}

/// The speeds there are, records a second.
pub const SPEEDS: [f32; 7] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

impl Default for Transport {
    fn default() -> Self {
        Self {
            playing: false,
            speed: 10.0,
            repeat: true,
            follow: false,
            part: 0.0,
        }
    }
}

impl Transport {
    /// Where the cursor stands after `seconds`.
    pub fn advance(
        &mut self,
        run: &RunSnapshot,
        step: u64,
        range: Option<(u64, u64)>,
        seconds: f32,
    ) -> u64 {
        let Some((first, last)) = run.range() else {
            return step;
        };
        if self.follow {
            return last;
        }
        if !self.playing {
            return step;
        }
        // A slow frame must not skip what a person wants to see.
        self.part += self.speed * seconds.min(0.25);
        let whole = self.part.floor();
        self.part -= whole;
        let (first, last) = range.unwrap_or((first, last));
        let mut at = step.clamp(first, last);
        for _ in 0..whole as u32 {
            let next = neighbour(run, at, true);
            at = if next == at || next > last {
                if !self.repeat {
                    self.playing = false;
                    break;
                }
                first
            } else {
                next
            };
        }
        at
    }

    /// The next speed up or down.
    pub fn shift(&mut self, up: bool) {
        let at = SPEEDS
            .iter()
            .position(|speed| *speed >= self.speed)
            .unwrap_or(0);
        let at = if up {
            (at + 1).min(SPEEDS.len() - 1)
        } else {
            at.saturating_sub(1)
        };
        self.speed = SPEEDS[at];
    }
}

/// The record after or before a step: of routing where there is any, else of metrics.
pub fn neighbour(run: &RunSnapshot, step: u64, forward: bool) -> u64 {
    let Some((first, last)) = run.range() else {
        return step;
    };
    let steps = [&run.routing, &run.memory, &run.traces]
        .into_iter()
        .find(|steps| !steps.is_empty());
    let next = match (steps, forward) {
        (Some(steps), true) => steps
            .get(steps.partition_point(|other| *other <= step))
            .copied(),
        (Some(steps), false) => steps
            .partition_point(|other| *other < step)
            .checked_sub(1)
            .map(|at| steps[at]),
        (None, true) => Some(step.saturating_add(1)),
        (None, false) => step.checked_sub(1),
    };
    next.unwrap_or(step).clamp(first, last)
}

use std::fmt;

use time::{Duration, OffsetDateTime};

use crate::{Manifest, RunState, now, process};

/// A writer renews its manifest about every two seconds; this much silence means that it is gone.
const SILENCE: Duration = Duration::seconds(15);

/// What a reader concludes about a run: the writer's last word, checked against its heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Training now.
    Running,
    /// Alive, waiting to be told to go on.
    Paused,
    /// Ended early on request.
    Stopped,
    /// Took all its steps.
    Finished,
    /// Ended by an error.
    Failed,
    /// Says that it runs, but its heartbeat stopped or its process is gone: killed, or lost power.
    Crashed,
}

impl Liveness {
    /// Judges a manifest as of now, on this machine.
    pub fn of(manifest: &Manifest) -> Self {
        // A process id tells nothing on another machine or in another container.
        let exists = (manifest.process_scope == process::scope())
            .then(|| process::exists(manifest.pid))
            .flatten();
        Self::judge(manifest, now(), exists)
    }

    /// Whether a process is behind the run.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    fn judge(manifest: &Manifest, now: OffsetDateTime, process_exists: Option<bool>) -> Self {
        let state = match manifest.state {
            RunState::Stopped => return Self::Stopped,
            RunState::Finished => return Self::Finished,
            RunState::Failed => return Self::Failed,
            RunState::Running => Self::Running,
            RunState::Paused => Self::Paused,
        };
        if now - manifest.heartbeat > SILENCE || process_exists == Some(false) {
            Self::Crashed
        } else {
            state
        }
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Progress, RunInfo, SCHEMA_VERSION};

    fn manifest(state: RunState, heartbeat: OffsetDateTime) -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION,
            name: "run".into(),
            run_id: "1".into(),
            created: heartbeat,
            info: RunInfo::default(),
            state,
            progress: Progress::default(),
            segment: 0,
            segments: Vec::new(),
            pid: 1,
            hostname: String::new(),
            process_scope: String::new(),
            heartbeat,
            extra: Default::default(),
        }
    }

    #[test]
    fn silence_or_a_missing_process_is_a_crash_and_an_ended_run_stays_ended() {
        let beat = OffsetDateTime::UNIX_EPOCH;
        let soon = beat + Duration::seconds(14);
        let late = beat + Duration::seconds(16);
        let running = manifest(RunState::Running, beat);
        assert_eq!(Liveness::judge(&running, soon, None), Liveness::Running);
        assert_eq!(
            Liveness::judge(&running, soon, Some(true)),
            Liveness::Running
        );
        assert_eq!(
            Liveness::judge(&running, soon, Some(false)),
            Liveness::Crashed
        );
        assert_eq!(
            Liveness::judge(&running, late, Some(true)),
            Liveness::Crashed
        );
        let paused = manifest(RunState::Paused, beat);
        assert_eq!(Liveness::judge(&paused, soon, Some(true)), Liveness::Paused);
        assert_eq!(
            Liveness::judge(&paused, late, Some(true)),
            Liveness::Crashed
        );
        for (state, seen) in [
            (RunState::Stopped, Liveness::Stopped),
            (RunState::Finished, Liveness::Finished),
            (RunState::Failed, Liveness::Failed),
        ] {
            assert_eq!(
                Liveness::judge(&manifest(state, beat), late, Some(false)),
                seen
            );
        }
    }

    // A heartbeat from the future is a clock that differs, not a dead writer.
    #[test]
    fn a_clock_ahead_of_ours_is_not_a_crash() {
        let ahead = manifest(
            RunState::Running,
            OffsetDateTime::UNIX_EPOCH + Duration::hours(2),
        );
        assert_eq!(
            Liveness::judge(&ahead, OffsetDateTime::UNIX_EPOCH, None),
            Liveness::Running
        );
    }
}

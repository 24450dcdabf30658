use crate::store::trace_record::TraceRecord;
use crate::tokens::TokenCell;
use crate::tokens::saturation::shared;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// How many of the traced tokens' choices are the same at two traces: of one run, or of two that share probe set and
/// experts' numbers (one resumed or trained on from the other).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    /// One run and cursor.
    pub before: (RunId, u64),
    /// The other.
    pub after: (RunId, u64),
}

/// Answers [`Agreement`].
#[derive(Clone, Debug, PartialEq)]
pub struct AgreementTable {
    /// The traced steps.
    pub steps: (u64, u64),
    /// Of two runs, not of two steps of one.
    pub two_runs: bool,
    /// Tokens that both have.
    pub tokens: u64,
    /// By router: the share of choices that both made, and that of tokens with the same first choice, 0 to 1.
    pub routers: Vec<(RouterId, f32, f32)>,
    /// k / experts.
    pub chance: f32,
}

impl Query for Agreement {
    type Answer = AgreementTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.before.0, self.after.0]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<AgreementTable, Gap> {
        let trace = |(run, step): (RunId, u64)| TraceRecord::at(store, &*store.find(run)?, step);
        let (before, after) = (trace(self.before)?, trace(self.after)?);
        let same = |token: &&TokenCell| {
            let place = before.probe.place(token.sequence, token.position);
            place.is_some_and(|place| before.probe.tokens[place].token == token.token)
        };
        let tokens = after.probe.tokens.iter().filter(same).count();
        if tokens < after.probe.tokens.len() {
            return Err(Gap::Different {
                why: format!(
                    "the probe texts differ: {tokens} of {} tokens are the same",
                    after.probe.tokens.len()
                ),
            });
        }
        let routers: Vec<_> = after
            .routers
            .iter()
            .filter_map(|&router| {
                shared(&before, &after, router).map(|(share, first)| (router, share, first))
            })
            .collect();
        if routers.is_empty() {
            return Err(Gap::Different {
                why: "the traces have no router in common".to_owned(),
            });
        }
        let experts = store.find(self.after.0)?.experts(routers[0].0).unwrap_or(1);
        Ok(AgreementTable {
            steps: (before.step, after.step),
            two_runs: self.before.0 != self.after.0,
            tokens: tokens as u64,
            chance: after.k as f32 / experts.max(1) as f32,
            routers,
        })
    }
}

impl Answer for AgreementTable {
    fn summary(&self) -> String {
        let mean =
            self.routers.iter().map(|router| router.1).sum::<f32>() / self.routers.len() as f32;
        let (tokens, mean, chance) = (self.tokens, mean * 100.0, self.chance * 100.0);
        let (before, after) = self.steps;
        let other = match (self.two_runs, before == after) {
            (true, true) => "in both runs".to_owned(),
            (true, false) => format!("in the other run at step {before}"),
            (false, _) => format!("at step {before}"),
        };
        format!(
            "Of the choices of {tokens} traced tokens at step {after}, {mean:.1} % are the same {other}; chance is {chance:.0} %."
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Agreement of choices, step {} with step {}",
                self.steps.1, self.steps.0
            ),
            &[
                ("layer", ""),
                ("iteration", ""),
                ("same_choices", ""),
                ("same_first_choice", ""),
            ],
        );
        for &(router, share, first) in &self.routers {
            table.push([
                router.layer.into(),
                router.iteration.into(),
                share.into(),
                first.into(),
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        self.routers.len() * 16
    }
}

use super::Grouping;
use super::groups::Groups;
use crate::store::trace_record::{NOBODY, TraceRecord};
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Scale, Store, Table};

/// How much each expert of a router is given of each class or source of tokens, against the base rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Speciality {
    /// The run.
    pub run: RunId,
    /// The cursor; the answer is of the last trace up to it.
    pub step: u64,
    /// The router.
    pub router: RouterId,
    /// What is counted together. By [`Grouping::Token`] the 40 most frequent tokens are shown.
    pub group: Grouping,
}

/// Answers [`Speciality`]: matrices of groups (rows) × experts (columns).
#[derive(Clone, Debug, PartialEq)]
pub struct SpecialityMap {
    /// The traced step.
    pub step: u64,
    /// The router.
    pub router: RouterId,
    /// The groups, and how many traced tokens each has.
    pub groups: Vec<(String, u64)>,
    /// Columns.
    pub experts: u32,
    /// `groups × experts`: tokens of the group that chose the expert.
    pub counts: Vec<u64>,
    /// `groups × experts`: P(expert | group) / P(expert); 1 is the base rate, NaN for an expert without tokens.
    pub lift: Vec<f32>,
    /// By group: the share of its tokens' choices that the layer's next iteration repeats; empty after the last one.
    pub repeated: Vec<f32>,
    /// Mutual information of group and expert over the entropy of groups, 0 to 1: how much the expert tells.
    pub relative_information: f64,
}

/// Tokens shown by their own text.
const MOST_TOKENS: usize = 40;

impl Query for Speciality {
    type Answer = SpecialityMap;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<SpecialityMap, Gap> {
        let run = store.find(self.run)?;
        let trace = TraceRecord::at(store, &run, self.step)?;
        let groups = Groups::of(
            &trace,
            self.router,
            run.experts(self.router).unwrap_or(0),
            self.group,
        )?;
        let shown = match self.group {
            Grouping::Token => groups.groups.len().min(MOST_TOKENS),
            Grouping::Class | Grouping::Source => groups.groups.len(),
        };
        let experts = groups.experts;
        let lift = (0..shown).flat_map(|group| (0..experts).map(move |expert| (group, expert)));
        Ok(SpecialityMap {
            step: trace.step,
            router: self.router,
            experts: experts as u32,
            counts: groups.counts[..shown * experts].to_vec(),
            lift: lift
                .map(|(group, expert)| groups.lift(group, expert))
                .collect(),
            repeated: self.repeated(&trace, &groups, shown),
            relative_information: information(&groups),
            groups: groups.groups[..shown].to_vec(),
        })
    }
}

impl Speciality {
    /// By group: the share of its choices that the layer's next iteration repeats.
    fn repeated(&self, trace: &TraceRecord, groups: &Groups, shown: usize) -> Vec<f32> {
        let next = RouterId {
            layer: self.router.layer,
            iteration: self.router.iteration + 1,
        };
        let (Some(before), Some(after)) = (trace.chosen(self.router), trace.chosen(next)) else {
            return Vec::new();
        };
        let mut of_group = vec![(0u64, 0u64); groups.groups.len()];
        let choices = before.chunks(trace.k).zip(after.chunks(trace.k));
        for (&group, (before, after)) in groups.of_token.iter().zip(choices) {
            for expert in before.iter().filter(|&&expert| expert != NOBODY) {
                let entry = &mut of_group[group as usize];
                entry.0 += u64::from(after.contains(expert));
                entry.1 += 1;
            }
        }
        of_group[..shown]
            .iter()
            .map(|&(again, all)| again as f32 / all as f32)
            .collect()
    }
}

/// Mutual information of group and expert over the entropy of groups.
fn information(groups: &Groups) -> f64 {
    let total = groups.counts.iter().sum::<u64>() as f64;
    let of_group: Vec<u64> = groups
        .counts
        .chunks(groups.experts.max(1))
        .map(|row| row.iter().sum())
        .collect();
    let mut information = 0.0;
    for (group, row) in groups.counts.chunks(groups.experts.max(1)).enumerate() {
        for (expert, &count) in row.iter().enumerate() {
            if count > 0 {
                let expected = of_group[group] as f64 * groups.of_expert[expert] as f64 / total;
                information += count as f64 / total * (count as f64 / expected).ln();
            }
        }
    }
    let most = crate::flow::pairs::entropy(&of_group);
    if most > 0.0 {
        information.max(0.0) / most
    } else {
        0.0
    }
}

impl SpecialityMap {
    /// How lifts should be coloured, by their logarithm to base 2.
    pub fn lift_scale(&self) -> Scale {
        Scale {
            min: -2.0,
            max: 2.0,
            neutral: Some(0.0),
        }
    }
}

impl Answer for SpecialityMap {
    fn summary(&self) -> String {
        let experts = self.experts as usize;
        let worth = |&at: &usize| self.lift[at].is_finite() && self.counts[at] >= 5;
        let most = (0..self.lift.len())
            .filter(worth)
            .max_by(|&a, &b| self.lift[a].total_cmp(&self.lift[b]));
        let most = most.map_or(String::new(), |at| {
            format!(
                " Most: {} at expert {}, {:.1} times the base rate.",
                self.groups[at / experts].0,
                at % experts,
                self.lift[at]
            )
        });
        format!(
            "{} groups of tokens at {}, step {}: the expert tells {:.1} % of the group.{most}",
            self.groups.len(),
            self.router,
            self.step,
            self.relative_information * 100.0
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Tokens by group and expert at {}, step {}",
                self.router, self.step
            ),
            &[
                ("group", ""),
                ("group_tokens", ""),
                ("expert", ""),
                ("tokens", ""),
                ("lift", ""),
                ("repeated_in_next_iteration", ""),
            ],
        );
        for (group, (name, tokens)) in self.groups.iter().enumerate() {
            for expert in 0..self.experts as usize {
                let at = group * self.experts as usize + expert;
                table.push([
                    name.clone().into(),
                    (*tokens).into(),
                    expert.into(),
                    self.counts[at].into(),
                    self.lift[at].into(),
                    self.repeated.get(group).copied().into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.counts.len() * 12 + self.groups.len() * 64
    }
}

//! Tokens counted together.

use std::collections::HashMap;

use super::Grouping;
use crate::store::trace_record::{NOBODY, Probe, TraceRecord};
use crate::{Gap, RouterId};

/// How often each group of tokens chose each expert.
pub(crate) struct Groups {
    /// Names of the groups, and how many tokens each has; the largest first.
    pub(crate) groups: Vec<(String, u64)>,
    /// Experts, as many as were chosen or as the router has.
    pub(crate) experts: usize,
    /// `groups × experts`.
    pub(crate) counts: Vec<u64>,
    /// By expert: tokens of all groups that chose it.
    pub(crate) of_expert: Vec<u64>,
    /// Tokens of all groups.
    pub(crate) tokens: u64,
    /// Each token's group.
    pub(crate) of_token: Vec<u32>,
}

impl Groups {
    pub(crate) fn of(
        trace: &TraceRecord,
        router: RouterId,
        experts: u32,
        by: Grouping,
    ) -> Result<Self, Gap> {
        let chosen = trace.router(router)?;
        let most = chosen
            .iter()
            .filter(|&&expert| expert != NOBODY)
            .max()
            .map_or(0, |most| most + 1);
        let experts = experts.max(most) as usize;
        let (groups, of_token) = group(&trace.probe, by);
        let mut found = Self {
            counts: vec![0; groups.len() * experts],
            of_expert: vec![0; experts],
            tokens: of_token.len() as u64,
            groups,
            experts,
            of_token,
        };
        for (&group, choices) in found.of_token.iter().zip(chosen.chunks(trace.k)) {
            for &expert in choices.iter().filter(|&&expert| expert != NOBODY) {
                found.counts[group as usize * experts + expert as usize] += 1;
                found.of_expert[expert as usize] += 1;
            }
        }
        Ok(found)
    }

    /// P(expert | group) / P(expert); NaN for an expert without tokens.
    pub(crate) fn lift(&self, group: usize, expert: usize) -> f32 {
        let of_group =
            self.counts[group * self.experts + expert] as f64 / self.groups[group].1 as f64;
        let base = self.of_expert[expert] as f64 / self.tokens as f64;
        (of_group / base) as f32
    }
}

/// The groups, the largest first, and each token's.
fn group(probe: &Probe, by: Grouping) -> (Vec<(String, u64)>, Vec<u32>) {
    let name = |token: &'_ super::TokenCell| match by {
        Grouping::Token => token.text.clone(),
        Grouping::Class => token.class.name().to_owned(),
        Grouping::Source => token.source.to_string(),
    };
    let mut places: HashMap<String, u32> = HashMap::new();
    let mut groups: Vec<(String, u64)> = Vec::new();
    let mut of_token: Vec<u32> = Vec::with_capacity(probe.tokens.len());
    for token in &probe.tokens {
        let name = name(token);
        let place = *places.entry(name).or_insert_with_key(|name| {
            groups.push((name.clone(), 0));
            groups.len() as u32 - 1
        });
        groups[place as usize].1 += 1;
        of_token.push(place);
    }
    let mut order: Vec<u32> = (0..groups.len() as u32).collect();
    order.sort_by(|&a, &b| {
        let [a, b] = [a, b].map(|at| &groups[at as usize]);
        b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0))
    });
    let mut new = vec![0; order.len()];
    for (place, &old) in order.iter().enumerate() {
        new[old as usize] = place as u32;
    }
    of_token
        .iter_mut()
        .for_each(|group| *group = new[*group as usize]);
    (
        order
            .iter()
            .map(|&old| std::mem::take(&mut groups[old as usize]))
            .collect(),
        of_token,
    )
}

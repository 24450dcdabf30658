//! The ledger of a step's memory as rows of the record, and in words.

use std::collections::BTreeMap;

use bellows_engine::kernels::memory::{Moment, PEAKS};
use bellows_record::MemoryRow;

use crate::ui::bytes;

/// Rows of the fullest moments of a step's phases: every owner, what no owner explains, and the
/// allocator's totals.
pub fn rows_of(moments: &[Moment]) -> Vec<MemoryRow> {
    let mut rows = Vec::new();
    for moment in moments.iter().filter(|moment| !moment.held.is_empty()) {
        let index = PEAKS.iter().position(|phase| *phase == moment.phase);
        let row = |layer, kind: &'static str, owner, bytes| MemoryRow {
            moment: index.unwrap_or(PEAKS.len()) as u32,
            phase: moment.phase.into(),
            layer,
            kind: kind.into(),
            owner,
            bytes,
        };
        let mut named = 0;
        for held in &moment.held {
            named += held.bytes;
            let owner = held.owner.clone();
            rows.push(row(held.layer, held.kind.as_str(), owner, held.bytes));
        }
        let unexplained = moment.held_at.in_use.saturating_sub(named);
        if unexplained > 0 {
            let owner = MemoryRow::UNEXPLAINED.into();
            rows.push(row(None, MemoryRow::UNEXPLAINED, owner, unexplained));
        }
        for (owner, bytes) in [
            (MemoryRow::IN_USE, moment.held_at.in_use),
            (MemoryRow::PEAK, moment.reading.in_use),
            (MemoryRow::RESERVED, moment.reading.reserved),
        ] {
            rows.push(row(None, MemoryRow::ALLOCATOR, owner.into(), bytes));
        }
    }
    rows
}

/// The fullest moment by kind: "step 120, backward: weights 1.2 GiB, …, of 5.1 GiB in use".
pub fn in_words(step: u64, moments: &[Moment]) -> Option<String> {
    let fullest = moments
        .iter()
        .max_by_key(|moment| moment.reading.in_use)
        .filter(|moment| !moment.held.is_empty())?;
    let mut kinds = BTreeMap::new();
    for held in &fullest.held {
        *kinds.entry(held.kind).or_insert(0) += held.bytes;
    }
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|(kind, held)| format!("{} {}", kind.as_str(), bytes(held)))
        .collect();
    Some(format!(
        "of step {step} in its {} phase: {}, of {} in use",
        fullest.phase,
        kinds.join(", "),
        bytes(fullest.reading.in_use)
    ))
}

#[cfg(test)]
mod tests {
    use bellows_engine::kernels::memory::{Held, Kind, Reading};

    use super::*;

    #[test]
    fn what_no_owner_explains_has_a_row_of_its_own() {
        let reading = Reading {
            in_use: 100,
            reserved: 160,
        };
        let held = |kind, layer, bytes| Held {
            kind,
            layer,
            owner: "attention".into(),
            bytes,
        };
        let moment = Moment {
            phase: "backward",
            layer: Some(1),
            reading,
            held: vec![
                held(Kind::Activations, Some(1), 60),
                held(Kind::Workspace, None, 33),
            ],
            held_at: reading,
        };
        let rows = rows_of(std::slice::from_ref(&moment));
        let named: Vec<(&str, u64)> = rows
            .iter()
            .map(|row| (row.kind.as_ref(), row.bytes))
            .collect();
        let expected = [
            ("activations", 60),
            ("workspace", 33),
            ("unexplained", 7),
            ("allocator", 100),
            ("allocator", 100),
            ("allocator", 160),
        ];
        assert_eq!(named, expected);
        assert!(rows.iter().all(|row| row.moment == 1));
        let words = in_words(3, &[moment]).expect("a ledger");
        assert!(
            words.contains("step 3") && words.contains("activations 60 B"),
            "{words}"
        );
    }
}

//! Sequences of whole documents.
//!
//! Documents are put into rows once, in an order that the seed decides; an epoch is all rows, in an
//! order of its own. Rows of one pair or group stay next to each other. So here too any sequence
//! can be computed from its number.

use std::ops::Range;

use super::LoaderConfig;
use super::order::Permutation;
use crate::config::Packing;
use crate::store::TokenStore;

/// Which documents are in which row.
#[derive(Debug)]
pub(super) struct Rows {
    /// Documents, row after row.
    documents: Vec<u64>,
    /// Where each row's begin, and the end.
    starts: Vec<usize>,
    /// First row of what stays together, and the end.
    units: Vec<u64>,
}

/// The order of one epoch.
#[derive(Debug)]
pub(super) struct RowOrder {
    permutation: Option<Permutation>,
    /// First place of each unit in the epoch.
    starts: Vec<u64>,
}

impl Rows {
    /// `None` where sequences are cut from the run of documents.
    pub fn new(store: &TokenStore, config: &LoaderConfig) -> Option<Rows> {
        let count = store.document_count();
        match config.packing {
            Packing::Respect | Packing::Ignore => None,
            Packing::Off => Some(Rows {
                documents: (0..count).collect(),
                starts: (0..=count as usize).collect(),
                units: groups(store),
            }),
            Packing::Whole => {
                let order = config
                    .shuffle
                    .then(|| Permutation::new(count.max(1), config.seed, u64::MAX));
                let documents =
                    (0..count).map(|place| order.map_or(place, |order| order.at(place)));
                let documents: Vec<u64> = documents.collect();
                let mut starts = vec![0];
                let mut used = 0;
                for (place, &document) in documents.iter().enumerate() {
                    let length = store.document_len(document);
                    if used > 0 && used + length > config.sequence_length as u64 {
                        starts.push(place);
                        used = 0;
                    }
                    used += length;
                }
                starts.push(documents.len());
                Some(Rows {
                    units: (0..starts.len() as u64).collect(),
                    documents,
                    starts,
                })
            }
        }
    }

    /// Rows of an epoch.
    pub fn len(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// The documents of a row.
    pub fn documents(&self, row: u64) -> &[u64] {
        let row = row as usize;
        &self.documents[self.starts[row]..self.starts[row + 1]]
    }

    /// Rows that stay together, by number.
    pub fn units(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.units.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The order of an epoch; without a seed as they are.
    pub fn order(&self, seed: Option<u64>, epoch: u64) -> RowOrder {
        let count = self.units.len() as u64 - 1;
        let permutation =
            seed.map(|seed| Permutation::new(count.max(1), seed, epoch.wrapping_mul(2)));
        let mut place = 0;
        let starts = (0..count)
            .map(|index| {
                let unit = permutation.map_or(index, |order| order.at(index)) as usize;
                let start = place;
                place += self.units[unit + 1] - self.units[unit];
                start
            })
            .collect();
        RowOrder {
            permutation,
            starts,
        }
    }

    /// The row at a place of an epoch.
    pub fn at(&self, order: &RowOrder, place: u64) -> u64 {
        let index = order.starts.partition_point(|start| *start <= place) - 1;
        let unit = order
            .permutation
            .map_or(index as u64, |p| p.at(index as u64));
        self.units[unit as usize] + place - order.starts[index]
    }
}

/// First document of each row of a file, and the end: a pair or group is several documents of one.
pub(crate) fn groups(store: &TokenStore) -> Vec<u64> {
    let mut starts = Vec::new();
    let mut before = None;
    for index in 0..store.document_count() {
        let document = store.document(index);
        let key = document.row.map(|row| (document.file, row));
        if key.is_none() || key != before {
            starts.push(index);
        }
        before = key;
    }
    starts.push(store.document_count());
    starts
}

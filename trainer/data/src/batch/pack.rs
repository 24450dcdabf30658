//! Cutting the run of documents into sequences.
//!
//! The documents of an epoch, in its order, are one run of T tokens; epoch follows epoch without a
//! gap. Sequence number g is the S tokens from position g·S on. A long document is thus cut into
//! consecutive pieces, and a sequence at the end of an epoch is filled with the beginning of the
//! next: no token is ever left out, and none comes twice in an epoch. Any sequence can be computed
//! from its number alone, which is what makes resuming exact.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::order::{EpochOrder, sequence_order};
use super::{Batch, IGNORE_INDEX, LoaderConfig, PADDING_SEGMENT, Side, Span};
use crate::config::Packing;

/// Orders kept: the current epoch's, the next one's (for sequences across the boundary and
/// prefetching), and the one before.
const KEPT_ORDERS: usize = 3;

pub(crate) struct Packer {
    pub side: Side,
    pub config: LoaderConfig,
    orders: Mutex<VecDeque<(u64, Arc<EpochOrder>)>>,
}

/// A place in the endless run of documents.
struct Walk<'a> {
    packer: &'a Packer,
    epoch: u64,
    order: Arc<EpochOrder>,
    place: u64,
    /// Position within the document.
    offset: u64,
}

impl Packer {
    /// `side` must hold at least one token.
    pub fn new(side: Side, config: LoaderConfig) -> Packer {
        Packer {
            side,
            config,
            orders: Mutex::default(),
        }
    }

    fn tokens(&self) -> u64 {
        self.side.store().len()
    }

    fn length(&self) -> u64 {
        self.config.sequence_length as u64
    }

    fn order(&self, epoch: u64) -> Arc<EpochOrder> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = orders.iter().find(|(e, _)| *e == epoch) {
            return order.clone();
        }
        let seed = self.config.shuffle.then_some(self.config.seed);
        let order = Arc::new(EpochOrder::new(self.side.store(), seed, epoch));
        orders.push_back((epoch, order.clone()));
        if orders.len() > KEPT_ORDERS {
            orders.pop_front();
        }
        order
    }

    /// The number, in the run of tokens, of the sequence that is handed out as the `n`-th:
    /// sequences that start in the same epoch are handed out in a random order, so that the pieces
    /// of a long document do not follow each other.
    fn shuffled(&self, n: u64) -> u64 {
        if !self.config.shuffle {
            return n;
        }
        // A sequence belongs to the epoch in which it starts; products in 128 bits, for no number
        // of epochs may overflow.
        let (length, tokens) = (u128::from(self.length()), u128::from(self.tokens()));
        let epoch = u128::from(n) * length / tokens;
        let first = (epoch * tokens).div_ceil(length) as u64;
        let end = ((epoch + 1) * tokens).div_ceil(length) as u64;
        first + sequence_order(end - first, self.config.seed, epoch as u64).at(n - first)
    }

    /// The batch whose first sequence is handed out as the `first`-th.
    pub fn batch(&self, first: u64) -> Batch {
        let mut batch = self.empty(first);
        for row in 0..self.config.batch_size {
            self.fill(&mut batch, row, self.shuffled(first + row as u64), u64::MAX);
        }
        batch
    }

    /// A batch of the given sequences of one pass over the documents; what lies behind its end, and
    /// missing rows, are padding.
    pub fn single_pass(&self, first: u64, sequences: &[u64]) -> Batch {
        let mut batch = self.empty(first);
        for (row, sequence) in sequences.iter().enumerate() {
            self.fill(&mut batch, row, *sequence, self.tokens());
        }
        batch
    }

    pub fn empty(&self, first: u64) -> Batch {
        let size = self.config.batch_size * self.config.sequence_length;
        Batch {
            sequence: first,
            batch_size: self.config.batch_size,
            sequence_length: self.config.sequence_length,
            input_ids: vec![self.side.pad as i32; size],
            labels: vec![IGNORE_INDEX; size],
            segment_ids: vec![PADDING_SEGMENT; size],
            position_ids: vec![0; size],
            spans: Vec::new(),
        }
    }

    fn walk(&self, position: u128) -> Walk<'_> {
        let tokens = u128::from(self.tokens());
        let (epoch, within) = ((position / tokens) as u64, (position % tokens) as u64);
        let order = self.order(epoch);
        let place = order.locate(within);
        let start = order.document(place).map_or(0, |(_, start)| start);
        Walk {
            packer: self,
            epoch,
            order,
            place,
            offset: within - start,
        }
    }

    /// Fills a row with the tokens of a sequence, as far as they lie before position `end` of the
    /// run.
    fn fill(&self, batch: &mut Batch, row: usize, sequence: u64, end: u64) {
        let position = u128::from(sequence) * u128::from(self.length());
        let available = u128::from(end)
            .saturating_sub(position)
            .min(u128::from(self.length())) as usize;
        if available == 0 {
            return;
        }
        let mut walk = self.walk(position);
        let mut column = 0;
        let mut segment = 0;
        while column < available {
            let (document, offset, length) = walk.take((available - column) as u64);
            let span = Span {
                row,
                column,
                length: length as usize,
                document,
                offset,
            };
            self.fill_span(batch, &span, segment);
            batch.spans.push(span);
            column += length as usize;
            segment += 1;
        }
        // With documents flowing into each other, the last label is the first token of whatever
        // comes next.
        if self.config.packing == Packing::Ignore
            && position + (available as u128) < u128::from(end)
        {
            let (document, offset, _) = walk.take(1);
            let at = self.side.store().document(document).tokens.start + offset;
            batch.labels[row * self.config.sequence_length + available - 1] = self.label(at);
        }
    }

    pub(super) fn fill_span(&self, batch: &mut Batch, span: &Span, segment: i32) {
        let store = self.side.store();
        let tokens = store.document(span.document).tokens;
        let base = span.row * self.config.sequence_length + span.column;
        let respect = self.config.packing == Packing::Respect;
        for i in 0..span.length {
            let at = tokens.start + span.offset + i as u64;
            batch.input_ids[base + i] = store.token(at) as i32;
            batch.segment_ids[base + i] = if respect { segment } else { 0 };
            batch.position_ids[base + i] = if respect { i } else { span.column + i } as i32;
            if at + 1 < tokens.end {
                batch.labels[base + i] = self.label(at + 1);
            }
        }
        // The end of the document before is followed by this one's first token.
        if !respect && span.column > 0 {
            batch.labels[base - 1] = self.label(tokens.start + span.offset);
        }
    }

    fn label(&self, at: u64) -> i32 {
        if self.side.store().is_trained(at) {
            self.side.store().token(at) as i32
        } else {
            IGNORE_INDEX
        }
    }
}

impl Walk<'_> {
    /// The next at most `limit` tokens, within one document: the document, the position in it, and
    /// how many.
    fn take(&mut self, limit: u64) -> (u64, u64, u64) {
        loop {
            let Some((document, _)) = self.order.document(self.place) else {
                self.epoch += 1;
                self.order = self.packer.order(self.epoch);
                self.place = 0;
                continue;
            };
            let left = self.packer.side.store().document_len(document) - self.offset;
            let (offset, length) = (self.offset, left.min(limit));
            if length == left {
                self.place += 1;
                self.offset = 0;
            } else {
                self.offset += length;
            }
            if length > 0 {
                return (document, offset, length);
            }
        }
    }
}

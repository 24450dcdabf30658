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
use super::rows::{RowOrder, Rows};
use super::{Batch, IGNORE_INDEX, LoaderConfig, PADDING_SEGMENT, Side, Span};
use crate::config::Packing;

/// Tokens that a device computes together at any rate.
const TILE: usize = 16;

/// Orders kept: the current epoch's, the next one's (for sequences across the boundary and
/// prefetching), and the one before.
const KEPT_ORDERS: usize = 3;

pub(crate) struct Packer {
    pub side: Side,
    pub config: LoaderConfig,
    orders: Kept<EpochOrder>,
    /// Rows of whole documents, where sequences are such.
    rows: Option<Rows>,
    row_orders: Kept<RowOrder>,
}

/// The last few epochs' orders.
struct Kept<T>(Mutex<VecDeque<(u64, Arc<T>)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Kept<T> {
    fn get(&self, epoch: u64, make: impl FnOnce() -> T) -> Arc<T> {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = orders.iter().find(|(e, _)| *e == epoch) {
            return order.clone();
        }
        let order = Arc::new(make());
        orders.push_back((epoch, order.clone()));
        if orders.len() > KEPT_ORDERS {
            orders.pop_front();
        }
        order
    }
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
            rows: Rows::new(side.store(), &config),
            side,
            config,
            orders: Kept::default(),
            row_orders: Kept::default(),
        }
    }

    fn tokens(&self) -> u64 {
        self.side.store().len()
    }

    fn length(&self) -> u64 {
        self.config.sequence_length as u64
    }

    fn order(&self, epoch: u64) -> Arc<EpochOrder> {
        self.orders.get(epoch, || {
            EpochOrder::new(self.side.store(), self.seed(), epoch)
        })
    }

    fn seed(&self) -> Option<u64> {
        self.config.shuffle.then_some(self.config.seed)
    }

    /// Sequences of one pass over the documents; where they are cut from the run of documents, the
    /// last is not full.
    pub fn sequences(&self) -> u64 {
        match &self.rows {
            Some(rows) => rows.len(),
            None => self.tokens().div_ceil(self.length()),
        }
    }

    /// The same, the last counted as far as it is full.
    pub fn epoch_sequences(&self) -> f64 {
        match &self.rows {
            Some(rows) => rows.len() as f64,
            None => self.tokens() as f64 / self.length() as f64,
        }
    }

    /// Numbers of some `wanted` of these, spread evenly; pairs and groups are whole.
    pub fn spread(&self, wanted: u64) -> Vec<u64> {
        let available = self.sequences();
        let pick = |count: u64, of: u64| {
            (0..count).map(move |i| (u128::from(i) * u128::from(of) / u128::from(count)) as u64)
        };
        let Some(rows) = &self.rows else {
            return pick(wanted.min(available), available).collect();
        };
        let units: Vec<_> = rows.units().collect();
        let count = units.len() as u64;
        // As many as make the rows wanted on average.
        let some = (u128::from(wanted) * u128::from(count) / u128::from(available.max(1))) as u64;
        pick(some.clamp(1, count), count)
            .flat_map(|unit| units[unit as usize].clone())
            .collect()
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
        if let Some(rows) = &self.rows {
            for row in 0..self.config.batch_size {
                let number = first + row as u64;
                let (epoch, place) = (number / rows.len(), number % rows.len());
                let order = self
                    .row_orders
                    .get(epoch, || rows.order(self.seed(), epoch));
                self.fill_whole(&mut batch, row, rows.documents(rows.at(&order, place)));
            }
            return self.trimmed(batch);
        }
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
            if let Some(rows) = &self.rows {
                self.fill_whole(&mut batch, row, rows.documents(*sequence));
                continue;
            }
            self.fill(&mut batch, row, *sequence, self.tokens());
        }
        self.trimmed(batch)
    }

    /// Rows of one document each end where the longest does: what is behind it would be computed
    /// for nothing. Whole tiles are left, so that few lengths occur.
    fn trimmed(&self, mut batch: Batch) -> Batch {
        if self.config.packing == Packing::Off {
            batch.trim(TILE);
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

    /// Fills a row with whole documents. What is left gets the same documents again without
    /// labels: routers then see and balance the text that is trained on, and no padding.
    fn fill_whole(&self, batch: &mut Batch, row: usize, documents: &[u64]) {
        let length = self.config.sequence_length;
        let mut column = 0;
        for (segment, &document) in documents.iter().cycle().enumerate() {
            if column == length {
                break;
            }
            let own = self.side.store().document_len(document) as usize;
            let span = Span {
                row,
                column,
                length: own.min(length - column),
                document,
                offset: 0,
            };
            self.fill_span(batch, &span, segment as i32);
            if segment < documents.len() {
                batch.spans.push(span);
            } else {
                let start = row * length + column;
                batch.labels[start..start + span.length].fill(IGNORE_INDEX);
            }
            column += span.length;
        }
    }

    pub(super) fn fill_span(&self, batch: &mut Batch, span: &Span, segment: i32) {
        let store = self.side.store();
        let tokens = store.document(span.document).tokens;
        let base = span.row * self.config.sequence_length + span.column;
        let respect = self.config.packing != Packing::Ignore;
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

//! A batch as the decoder wants it: ids, rotations and masks on the device.

use std::ops::Range;

use bellows_kernels::attention::HIDDEN;
use bellows_kernels::memory::{enter_part, note};
use bellows_kernels::rope::Rotation;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::rotary;
use crate::config::ModelConfig;

/// Token sequences on the host: `batch` rows of `time` tokens, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequences {
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub time: usize,
    /// Token ids `[batch · time]`.
    pub ids: Vec<i32>,
    /// Document of each token; tokens of different documents don't see each other.
    pub documents: Option<Vec<u32>>,
    /// Position of each token; absent: 0, 1, 2, … in each row.
    pub positions: Option<Vec<i32>>,
}

impl Sequences {
    /// One document a row, counted from position 0.
    pub fn plain(batch: usize, time: usize, ids: Vec<i32>) -> Self {
        Self {
            batch,
            time,
            ids,
            documents: None,
            positions: None,
        }
    }
}

/// Some rows of a batch, and of each the same tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Rows.
    pub rows: Range<usize>,
    /// Tokens of each row.
    pub tokens: Range<usize>,
}

impl Part {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.rows.len() * self.tokens.len()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its values out of one for each token of a batch whose rows have `time` tokens.
    fn of<T: Copy>(&self, values: &[T], time: usize) -> Vec<T> {
        let rows = self.rows.clone();
        rows.flat_map(|row| &values[row * time..][self.tokens.clone()])
            .copied()
            .collect()
    }
}

/// Keys and values of the tokens seen so far, a pair `[batch, heads, past, width]` a layer.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    /// One entry a layer, once that layer has run.
    pub layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    /// Tokens of the past.
    pub length: usize,
}

impl Cache {
    /// An empty cache for a model of `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![None; layers],
            length: 0,
        }
    }
}

/// A batch on the device.
#[derive(Clone, Debug)]
pub struct Input {
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub time: usize,
    /// Token ids `[batch · time]`.
    pub ids: Tensor<1, Int>,
    /// Cosines and sines of the tokens' positions.
    pub rotation: Rotation,
    /// Mask of layers that see every earlier token `[batch or 1, 1, time, past + time]`.
    pub full_mask: Tensor<4>,
    /// Mask of sliding-window layers, where the model has any.
    pub sliding_mask: Option<Tensor<4>>,
}

impl Input {
    /// Uploads `sequences`, `past` tokens of which are in a [`Cache`] already (documents and a
    /// past together have no use and are not combined).
    pub fn new(config: &ModelConfig, sequences: &Sequences, past: usize, device: &Device) -> Self {
        let seen = Seen::of(sequences, past, sequences.documents.as_deref());
        Self::upload(config, sequences, &seen, device)
    }

    /// Uploads `part` of `sequences`, to be read after the tokens before it in its rows: its masks
    /// are as wide as the keys up to its end.
    pub fn part(config: &ModelConfig, sequences: &Sequences, part: &Part, device: &Device) -> Self {
        let time = sequences.time;
        let own = Sequences {
            batch: part.rows.len(),
            time: part.tokens.len(),
            ids: part.of(&sequences.ids, time),
            documents: None,
            positions: sequences
                .positions
                .as_ref()
                .map(|positions| part.of(positions, time)),
        };
        let up_to_end = Part {
            tokens: 0..part.tokens.end,
            ..part.clone()
        };
        let documents = sequences.documents.as_ref();
        let documents = documents.map(|documents| up_to_end.of(documents, time));
        let seen = Seen::of(&own, part.tokens.start, documents.as_deref());
        Self::upload(config, &own, &seen, device)
    }

    fn upload(config: &ModelConfig, sequences: &Sequences, seen: &Seen, device: &Device) -> Self {
        let device = &device.clone().without_autodiff();
        let Sequences { batch, time, .. } = *sequences;
        let ids = Tensor::from_data(
            TensorData::new(sequences.ids.clone(), [batch * time]),
            device,
        );
        let past = seen.past;
        let rotation = match &sequences.positions {
            Some(positions) => {
                rotary::rotation(&config.rope, config.rotary_dim(), positions, batch, device)
            }
            None => {
                let positions: Vec<i32> = (past as i32..(past + time) as i32).collect();
                rotary::rotation(&config.rope, config.rotary_dim(), &positions, 1, device)
            }
        };
        let slides =
            (0..config.num_hidden_layers).any(|layer| config.layer_window(layer).is_some());
        let input = Self {
            batch,
            time,
            ids,
            rotation,
            full_mask: seen.mask(None, device),
            sliding_mask: slides.then(|| seen.mask(config.sliding_window, device)),
        };
        let _part = enter_part("input");
        note(&input.rotation.cos);
        note(&input.rotation.sin);
        note(&input.full_mask);
        input
    }
}

/// Who may see whom: `time` queries a row, after `past` tokens.
struct Seen<'a> {
    rows: usize,
    past: usize,
    time: usize,
    /// Document of each token, those of the past included where they are in this batch.
    documents: Option<&'a [u32]>,
}

impl<'a> Seen<'a> {
    fn of(sequences: &Sequences, past: usize, documents: Option<&'a [u32]>) -> Self {
        Self {
            rows: documents.map_or(1, |_| sequences.batch),
            past,
            time: sequences.time,
            documents,
        }
    }

    fn mask(&self, window: Option<usize>, device: &Device) -> Tensor<4> {
        let Self {
            rows, past, time, ..
        } = *self;
        let length = past + time;
        let window = window.unwrap_or(usize::MAX);
        let mut values = vec![HIDDEN; rows * time * length];
        for row in 0..rows {
            let documents = self
                .documents
                .map(|documents| &documents[row * length..(row + 1) * length]);
            for query in 0..time {
                let at = (row * time + query) * length;
                let last = past + query;
                let first = (last + 1).saturating_sub(window);
                match documents {
                    None => values[at + first..=at + last].fill(0.0),
                    Some(documents) => {
                        for key in first..=last {
                            if documents[key] == documents[last] {
                                values[at + key] = 0.0;
                            }
                        }
                    }
                }
            }
        }
        Tensor::from_data(TensorData::new(values, [rows, 1, time, length]), device)
    }
}

//! A batch as the decoder wants it: ids, rotations and who sees whom, on the device.

use std::ops::Range;

use bellows_kernels::attention::Visible;
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
    /// Document of each token; tokens of different documents don't see each other. A document is
    /// a run of tokens with one number: where the number changes, another begins.
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
    /// What layers see that see every earlier token of a document.
    pub full: Visible,
    /// What sliding-window layers see, where the model has any.
    pub sliding: Option<Visible>,
}

impl Input {
    /// Uploads `sequences`, `past` tokens of which are in a [`Cache`] already (documents and a
    /// past together have no use and are not combined).
    pub fn new(config: &ModelConfig, sequences: &Sequences, past: usize, device: &Device) -> Self {
        let documents = sequences.documents.as_deref();
        let starts = documents.map(|documents| starts(documents, sequences.time, 0));
        Self::upload(config, sequences, past, starts, device)
    }

    /// Uploads `part` of `sequences`, to be read after the tokens before it in its rows.
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
        let past = part.tokens.start;
        let starts = sequences.documents.as_ref().map(|documents| {
            let up_to_end = Part {
                tokens: 0..part.tokens.end,
                ..part.clone()
            };
            starts(&up_to_end.of(documents, time), part.tokens.end, past)
        });
        Self::upload(config, &own, past, starts, device)
    }

    /// `starts`: the first position of each token's document, by row.
    fn upload(
        config: &ModelConfig,
        sequences: &Sequences,
        past: usize,
        starts: Option<Vec<i32>>,
        device: &Device,
    ) -> Self {
        let device = &device.clone().without_autodiff();
        let Sequences { batch, time, .. } = *sequences;
        let ids = Tensor::from_data(
            TensorData::new(sequences.ids.clone(), [batch * time]),
            device,
        );
        let rotation = match &sequences.positions {
            Some(positions) => {
                rotary::rotation(&config.rope, config.rotary_dim(), positions, batch, device)
            }
            None => {
                let positions: Vec<i32> = (past as i32..(past + time) as i32).collect();
                rotary::rotation(&config.rope, config.rotary_dim(), &positions, 1, device)
            }
        };
        let full = Visible {
            window: None,
            starts: starts.map(|starts| {
                let data = TensorData::new(starts, [batch, time]);
                Tensor::from_data(data, device)
            }),
        };
        let slides =
            (0..config.num_hidden_layers).any(|layer| config.layer_window(layer).is_some());
        Self {
            batch,
            time,
            ids,
            rotation,
            sliding: slides.then(|| Visible {
                window: config.sliding_window,
                ..full.clone()
            }),
            full,
        }
    }
}

/// Where the document of each token begins, for tokens from `from` on of rows of `time` tokens.
fn starts(documents: &[u32], time: usize, from: usize) -> Vec<i32> {
    let mut starts = Vec::new();
    for row in documents.chunks(time.max(1)) {
        let mut start = 0;
        for (at, &document) in row.iter().enumerate() {
            if at > 0 && document != row[at - 1] {
                start = at;
            }
            if at >= from {
                starts.push(start as i32);
            }
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_starts_where_its_number_changes_and_rows_are_apart() {
        // The second row begins with the document number that the first one ends with.
        let documents = [0, 0, 1, 1, 1, 3, 4, 4];
        assert_eq!(starts(&documents, 4, 0), [0, 0, 2, 2, 0, 1, 2, 2]);
    }

    #[test]
    fn a_chunk_knows_where_a_document_before_it_began() {
        assert_eq!(starts(&[0, 7, 7, 7, 9, 9], 6, 3), [1, 4, 4]);
    }
}

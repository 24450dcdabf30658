//! Documents packed into one row, and sliding windows.

use bellows_engine::config::{LayerType, ModelConfig};
use bellows_engine::model::Sequences;

use crate::batches::{ids, logits};
use crate::device::test_device;
use crate::models::{VOCABULARY, build, coe, qwen3_sliding};
use crate::numbers::{assert_close, distance};

/// Documents of 4, 3 and 1 tokens in a row of 8.
const LENGTHS: [usize; 3] = [4, 3, 1];

fn packed(rows: usize) -> Sequences {
    let mut documents = Vec::new();
    let mut positions = Vec::new();
    for (document, length) in LENGTHS.into_iter().enumerate() {
        documents.extend(vec![document as u32; length]);
        positions.extend(0..length as i32);
    }
    Sequences {
        batch: rows,
        time: 8,
        ids: ids(3, 8 * rows),
        documents: Some(documents.repeat(rows)),
        positions: Some(positions.repeat(rows)),
    }
}

#[test]
fn a_packed_document_computes_what_it_computes_alone() {
    let Some(device) = test_device() else { return };
    for config in [qwen3_sliding(), coe()] {
        let model = build(&config, &device);
        let sequences = packed(2);
        let together = logits(&model, &sequences, &device);
        let mut start = 8;
        // The second row: a mask that forgets the row would show.
        for length in LENGTHS {
            let ids = sequences.ids[start..start + length].to_vec();
            let alone = logits(&model, &Sequences::plain(1, length, ids), &device);
            let within = &together[start * VOCABULARY..(start + length) * VOCABULARY];
            assert_close("a document's logits", within, &alone);
            start += length;
        }
        let mut open = packed(2);
        open.documents = None;
        assert!(distance(&logits(&model, &open, &device), &together) > 1e-3);
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let both = logits(&model, &Sequences::plain(2, 4, ids(3, 8)), &device);
    let second = Sequences::plain(1, 4, ids(3, 8)[4..].to_vec());
    let alone = logits(&model, &second, &device);
    assert_close("the second row", &both[4 * VOCABULARY..], &alone);
}

#[test]
fn a_sliding_window_sees_its_last_tokens_and_no_more() {
    let Some(device) = test_device() else { return };
    let one_layer = |kind| ModelConfig {
        num_hidden_layers: 1,
        layer_types: vec![kind],
        ..qwen3_sliding()
    };
    let model = build(&one_layer(LayerType::SlidingAttention), &device);
    let row = Sequences::plain(1, 8, ids(3, 8));
    let whole = logits(&model, &row, &device);
    for last in 2..8 {
        let window = Sequences {
            positions: Some((last as i32 - 2..=last as i32).collect()),
            ..Sequences::plain(1, 3, row.ids[last - 2..=last].to_vec())
        };
        let alone = logits(&model, &window, &device);
        let at = last * VOCABULARY..(last + 1) * VOCABULARY;
        assert_close("the last token", &whole[at], &alone[2 * VOCABULARY..]);
    }
    let open = build(&one_layer(LayerType::FullAttention), &device);
    assert!(distance(&logits(&open, &row, &device), &whole) > 1e-3);
}

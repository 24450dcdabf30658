//! Conversations, pairs and groups by TRL's columns, and sequences of whole documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use bellows_data::{
    Batch, DataConfig, DataError, Dataset, IGNORE_INDEX, LoaderConfig, NoProgress, Packing,
    RecordForm, RecordsConfig, SourceConfig, Split, TrainOn, ValidationConfig,
};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::common::{Place, loader_config, prepare};

fn config(place: &Place, form: RecordForm, fraction: f64) -> DataConfig {
    let records = RecordsConfig {
        paths: vec![place.glob("rows.*")],
        form: Some(form),
        train_on: TrainOn::Completion,
        ..RecordsConfig::default()
    };
    let parquet = place.path("rows.parquet").exists();
    DataConfig {
        validation: ValidationConfig {
            fraction,
            paths: vec![],
        },
        ..place.config(match parquet {
            true => SourceConfig::Parquet(records),
            false => SourceConfig::Jsonl(records),
        })
    }
}

fn write(place: &Place, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    place.write("rows.jsonl", lines.join("\n"));
}

/// Pairs whose completions have different lengths.
fn pairs(count: usize) -> Vec<Value> {
    let pair = |i: usize| {
        json!({"prompt": format!("question {i}: "), "chosen": "yes ".repeat(1 + i % 5),
               "rejected": "no ".repeat(1 + i % 3)})
    };
    (0..count).map(pair).collect()
}

fn alone(length: usize, rows: usize) -> LoaderConfig {
    LoaderConfig {
        packing: Packing::Off,
        ..loader_config(length, rows)
    }
}

/// The text of a row's labels.
fn labels(dataset: &Dataset, batch: &Batch, row: usize) -> String {
    let row = &batch.labels[row * batch.sequence_length..(row + 1) * batch.sequence_length];
    let ids: Vec<u32> = row
        .iter()
        .filter(|l| **l != IGNORE_INDEX)
        .map(|l| *l as u32)
        .collect();
    dataset.tokenizer().decode(&ids).unwrap()
}

#[test]
fn rows_that_are_no_pair_are_left_out_and_named_by_their_line() {
    let place = Place::new();
    let mut rows = pairs(6);
    rows[1] = json!({"prompt": "p", "chosen": "c"});
    rows[4] = json!({"prompt": "p", "chosen": 7, "rejected": "r"});
    write(&place, &rows);
    let dataset = prepare(&config(&place, RecordForm::Preference, 0.0));
    let left_out: Vec<_> = dataset
        .report()
        .skipped
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert!(
        left_out[0].contains("rows.jsonl:2: has no column \"rejected\""),
        "{left_out:?}"
    );
    assert!(
        left_out[1].contains("rows.jsonl:5: column \"chosen\" is not text"),
        "{left_out:?}"
    );
    let groups = dataset.groups(Split::Train);
    assert_eq!(groups, [0..2, 2..4, 4..6, 6..8]);
    write(&place, &[json!({"text": "x"})]);
    let error = Dataset::prepare(&config(&place, RecordForm::Supervised, 0.0), &NoProgress);
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("rows.jsonl:1: has neither \"messages\""),
        "{message}"
    );
}

#[test]
fn a_batch_is_as_long_as_its_longest_completion_and_loses_no_token_of_it() {
    let place = Place::new();
    let mut rows = pairs(23);
    rows[9]["chosen"] = json!("yes ".repeat(40));
    write(&place, &rows);
    let dataset = prepare(&config(&place, RecordForm::Preference, 0.0));
    let mut loader = dataset.loader(&alone(512, 4)).unwrap();
    let mut lengths = Vec::new();
    for _ in 0..11 {
        let batch = loader.next_batch();
        let length = batch.sequence_length;
        let longest = batch.spans.iter().map(|span| span.length).max().unwrap();
        assert!(
            (longest..longest + 16).contains(&length),
            "{longest}: {length}"
        );
        assert_eq!(batch.input_ids.len(), 4 * length);
        for span in &batch.spans {
            let whole = dataset.document_len(Split::Train, span.document);
            assert_eq!(span.length as u64, whole);
            let text = labels(&dataset, &batch, span.row);
            assert!(
                text.starts_with("yes ") || text.starts_with("no "),
                "{text}"
            );
            let words = text
                .trim_end_matches("<|endoftext|>")
                .split_whitespace()
                .count();
            let pair = (span.document / 2) as usize;
            let wanted = match span.document % 2 {
                0 if pair == 9 => 40,
                0 => 1 + pair % 5,
                _ => 1 + pair % 3,
            };
            assert_eq!(words, wanted, "{text}");
        }
        lengths.push(length);
    }
    assert!(
        lengths.iter().any(|length| *length != lengths[0]),
        "{lengths:?}"
    );
}

#[test]
fn a_pair_stays_together_in_every_epoch_and_every_resumed_one() {
    let place = Place::new();
    write(&place, &pairs(23));
    let dataset = prepare(&config(&place, RecordForm::Preference, 0.0));
    let config = alone(32, 4);
    let mut loader = dataset.loader(&config).unwrap();
    let mut seen = BTreeMap::new();
    let mut orders = Vec::new();
    // Two epochs of 46 sequences.
    for number in 0..23 {
        let batch = loader.next_batch();
        assert_eq!(batch, loader.batch_at(number));
        for pair in batch.spans.chunks(2) {
            assert_eq!((pair[0].row % 2, pair[0].column), (0, 0));
            assert_eq!(pair[0].document % 2, 0, "the chosen one comes first");
            assert_eq!(pair[1].document, pair[0].document + 1);
            *seen.entry(pair[0].document).or_insert(0) += 1;
            orders.push(pair[0].document);
        }
        assert_eq!(batch.spans.len(), 4);
    }
    assert!(
        seen.len() == 23 && seen.values().all(|count| *count == 2),
        "{seen:?}"
    );
    assert_ne!(
        orders[..23],
        orders[23..],
        "each epoch has an order of its own"
    );
    let mut again = dataset.resume_loader(&config, &loader.state()).unwrap();
    assert_eq!(again.next_batch(), loader.next_batch());
    assert!((loader.epoch() - 2.0).abs() < 0.1);
}

#[test]
fn what_fills_a_sequence_is_its_own_text_and_has_no_labels() {
    let place = Place::new();
    // One pair is long, and the batch with it.
    let mut rows = pairs(4);
    rows.push(json!({"prompt": "p", "chosen": "qwxzvj ".repeat(64), "rejected": "r"}));
    write(&place, &rows);
    let dataset = prepare(&config(&place, RecordForm::Preference, 0.0));
    let batch = dataset
        .pass(Split::Train, &alone(64, 10))
        .unwrap()
        .batches()
        .next()
        .unwrap();
    for row in 0..8 {
        let span = batch.spans[row];
        assert_eq!(
            (span.row, span.document),
            (row, row as u64),
            "a pass is in order"
        );
        let of = |values: &[i32]| values[row * 64..(row + 1) * 64].to_vec();
        let (ids, segments) = (of(&batch.input_ids), of(&batch.segment_ids));
        let own = span.length;
        assert!(own < 31);
        assert_eq!(ids[own..2 * own.min(32)], ids[..2 * own.min(32) - own]);
        assert_eq!(
            (segments[own - 1], segments[own], segments[2 * own.min(31)]),
            (0, 1, 2)
        );
        assert_eq!(of(&batch.position_ids)[own], 0);
        assert!(
            of(&batch.labels)[own - 1..]
                .iter()
                .all(|label| *label == IGNORE_INDEX)
        );
        let wanted = match row % 2 {
            0 => "yes ".repeat(1 + row / 2 % 5),
            _ => "no ".repeat(1 + row / 2 % 3),
        };
        assert_eq!(labels(&dataset, &batch, row), wanted + "<|endoftext|>");
    }
}

#[test]
fn whole_documents_share_a_sequence_and_are_cut_only_where_one_alone_is_too_long() {
    let place = Place::new();
    let rows = (0..30).map(|i| {
        let words = if i == 7 { 60 } else { 1 + i % 6 };
        json!({"prompt": format!("{i}: "), "completion": "word ".repeat(words)})
    });
    write(&place, &rows.collect::<Vec<_>>());
    let dataset = prepare(&config(&place, RecordForm::Supervised, 0.0));
    let config = LoaderConfig {
        packing: Packing::Whole,
        ..loader_config(24, 2)
    };
    let pass = dataset.pass(Split::Train, &config).unwrap();
    let rows: usize = pass
        .batches()
        .map(|batch| batch.spans.iter().filter(|s| s.column == 0).count())
        .sum();
    assert!(rows < 30, "some share a sequence");
    let mut loader = dataset.loader(&config).unwrap();
    let mut seen = BTreeMap::new();
    // Each epoch has as many sequences, whatever their order.
    for _ in 0..rows {
        for span in loader.next_batch().spans {
            assert_eq!(span.offset, 0);
            let whole = dataset.document_len(Split::Train, span.document);
            assert_eq!(
                span.length as u64,
                whole.min(24),
                "document {}",
                span.document
            );
            *seen.entry(span.document).or_insert(0) += 1;
        }
    }
    assert!(
        seen.len() == 30 && seen.values().all(|count| *count == 2),
        "{seen:?}"
    );
}

#[test]
fn a_group_s_rewards_and_old_log_probabilities_are_those_of_its_tokens() {
    let place = Place::new();
    let mut group = json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1.5, -2]});
    write(&place, &[group.clone(), group.clone()]);
    let dataset = prepare(&config(&place, RecordForm::Groups, 0.0));
    assert_eq!(dataset.groups(Split::Train), [0..2, 2..4]);
    assert_eq!(dataset.reward(Split::Train, 3), Some(-2.0));
    let old =
        |dataset: &Dataset, document| dataset.old_log_probabilities(Split::Train, document, 64);
    assert_eq!(old(&dataset, 0), None, "nobody gave them");
    // One token, and the one that ends the text: it was written in one case, and cut in the other.
    group["old_logprobs"] = json!([[-0.5, -0.25], [-1.0]]);
    write(&place, &[group.clone()]);
    let dataset = prepare(&config(&place, RecordForm::Groups, 0.0));
    assert_eq!(old(&dataset, 0), Some(vec![-0.5, -0.25]));
    assert_eq!(old(&dataset, 1), Some(vec![-1.0]));
    let count = |document| dataset.label_count(Split::Train, document, 64);
    assert_eq!(
        (count(0), count(1)),
        (2, 1),
        "an end that nobody wrote is not trained on"
    );
    // A sequence too short for the completion has as many values as labels.
    assert_eq!(
        dataset.old_log_probabilities(Split::Train, 0, 1),
        Some(vec![-0.5])
    );
    assert!(dataset.from_cache() || prepare(&config(&place, RecordForm::Groups, 0.0)).from_cache());
}

#[test]
fn log_probabilities_of_other_tokens_end_the_run_at_their_line() {
    let place = Place::new();
    let group = |old: Value| json!({"prompt": "p", "completions": ["a", "b"], "rewards": [1, 0], "old_logprobs": old});
    write(
        &place,
        &[
            group(json!([[-1], [-1]])),
            group(json!([[-1], [-1, -1, -1]])),
        ],
    );
    let error =
        Dataset::prepare(&config(&place, RecordForm::Groups, 0.0), &NoProgress).unwrap_err();
    assert!(matches!(error, DataError::Row { row: 2, .. }));
    let message = error.to_string();
    assert!(
        message.contains("rows.jsonl:2: old_logprobs has 3 values"),
        "{message}"
    );
}

#[test]
fn groups_from_parquet_are_those_of_json() {
    let rows: Vec<Value> = (0..40)
        .map(|i| {
            json!({"prompt": format!("p{i}"), "completions": ["a", "b", format!("c{i}")],
                   "rewards": [0.0, f64::from(i), -1.0]})
        })
        .collect();
    let lines = Place::new();
    write(&lines, &rows);
    let parquet = Place::new();
    let prompts = rows.iter().map(|row| row["prompt"].as_str().unwrap());
    let prompts: ArrayRef = Arc::new(StringArray::from_iter_values(prompts));
    let mut completions = ListBuilder::new(StringBuilder::new());
    let mut rewards = ListBuilder::new(Float64Builder::new());
    for row in &rows {
        for at in 0..3 {
            completions
                .values()
                .append_value(row["completions"][at].as_str().unwrap());
            rewards
                .values()
                .append_value(row["rewards"][at].as_f64().unwrap());
        }
        completions.append(true);
        rewards.append(true);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("prompt", prompts),
        ("completions", Arc::new(completions.finish())),
        ("rewards", Arc::new(rewards.finish())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(parquet.path("rows.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let found = [&lines, &parquet].map(|place| {
        let dataset = prepare(&config(place, RecordForm::Groups, 0.0));
        let documents = 0..dataset.documents(Split::Train);
        let rewards: Vec<_> = documents.map(|d| dataset.reward(Split::Train, d)).collect();
        let pass = dataset.pass(Split::Train, &alone(16, 4)).unwrap();
        let batches: Vec<Batch> = pass.batches().collect();
        (dataset.groups(Split::Train), rewards, batches)
    });
    assert_eq!(found[0].0.len(), 40);
    assert!(found[0] == found[1]);
}

#[test]
fn a_few_validation_batches_hold_whole_pairs_from_all_over_the_split() {
    let place = Place::new();
    write(&place, &pairs(200));
    let dataset = prepare(&config(&place, RecordForm::Preference, 0.3));
    let documents = dataset.documents(Split::Validation);
    assert!(documents > 60 && documents.is_multiple_of(2));
    let set = dataset.validation(&alone(32, 4), Some(5)).unwrap();
    assert_eq!(set.len(), 5);
    let spans: Vec<_> = set.batches().flat_map(|batch| batch.spans).collect();
    assert_eq!(spans.len(), 20);
    for pair in spans.chunks(2) {
        assert_eq!(
            (pair[0].document % 2, pair[0].document + 1),
            (0, pair[1].document)
        );
    }
    assert!(spans.last().unwrap().document > documents * 3 / 4);
}

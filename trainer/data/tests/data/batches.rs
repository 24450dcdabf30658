//! Batches: order, packing, labels, resuming.

use std::collections::BTreeMap;

use crate::common::{Place, loader_config, prepare};
use bellows_data::{
    Batch, DataError, Dataset, IGNORE_INDEX, Loader, LoaderConfig, LoaderState, Packing, Split,
};

fn take(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count).map(|_| loader.next_batch()).collect()
}

#[test]
fn the_same_seed_gives_the_same_batches_and_another_seed_others() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let batches = |seed| {
        take(
            &mut dataset
                .loader(&LoaderConfig {
                    seed,
                    ..loader_config(24, 3)
                })
                .unwrap(),
            20,
        )
    };
    assert_eq!(batches(1), batches(1));
    assert_ne!(batches(1), batches(2));
}

#[test]
fn a_resumed_loader_continues_exactly_across_epochs() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let config = loader_config(64, 3);
    let mut loader = dataset.loader(&config).unwrap();
    let per_epoch = (dataset.tokens(Split::Train) / 192) as usize;
    let total = 3 * per_epoch + 5;
    let whole = take(&mut loader, total);
    for stop in [
        0,
        1,
        per_epoch - 1,
        per_epoch,
        per_epoch + 1,
        2 * per_epoch + 3,
    ] {
        let mut first = dataset.loader(&config).unwrap();
        take(&mut first, stop);
        let state = serde_json::to_string(&first.state()).unwrap();
        let state: LoaderState = serde_json::from_str(&state).unwrap();
        let mut second = dataset.resume_loader(&config, &state).unwrap();
        assert_eq!(
            take(&mut second, total - stop),
            whole[stop..],
            "stopped after {stop}"
        );
        assert_eq!(second.batch_at(stop as u64), first.batch_at(stop as u64));
    }
}

#[test]
fn a_state_of_other_data_or_settings_is_refused() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let config = loader_config(32, 2);
    let state = dataset.loader(&config).unwrap().state();
    let refused = |config: &LoaderConfig, state: &LoaderState| {
        dataset.resume_loader(config, state).err().unwrap()
    };
    assert!(matches!(
        refused(
            &LoaderConfig {
                seed: 8,
                ..config.clone()
            },
            &state
        ),
        DataError::StateMismatch {
            field: "the seed",
            ..
        }
    ));
    assert!(matches!(
        refused(
            &LoaderConfig {
                sequence_length: 16,
                ..config.clone()
            },
            &state
        ),
        DataError::StateMismatch { .. }
    ));
    let other = LoaderState {
        dataset: "another".into(),
        ..state.clone()
    };
    assert!(matches!(
        refused(&config, &other),
        DataError::CorpusChanged { .. }
    ));
    assert!(
        dataset
            .resume_loader(
                &LoaderConfig {
                    batch_size: 5,
                    ..config
                },
                &state
            )
            .is_ok()
    );
    assert!(matches!(
        dataset.loader(&loader_config(0, 1)),
        Err(DataError::Config { .. })
    ));
}

/// How often each token of each document was handed out.
fn count(batches: &[Batch]) -> BTreeMap<(u64, u64), u32> {
    let mut seen = BTreeMap::new();
    for span in batches.iter().flat_map(|b| &b.spans) {
        for at in span.offset..span.offset + span.length as u64 {
            *seen.entry((span.document, at)).or_default() += 1;
        }
    }
    seen
}

#[test]
fn every_token_of_an_epoch_comes_exactly_once_apart_from_a_tail_that_opens_the_next() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let tokens = dataset.tokens(Split::Train);
    let config = loader_config(48, 1);
    let mut loader = dataset.loader(&config).unwrap();
    // An epoch's sequences are those that start in it: the last may reach into the next epoch, by
    // less than a sequence.
    let sequences = tokens.div_ceil(48);
    let batches = take(&mut loader, sequences as usize);
    let seen = count(&batches);
    assert_eq!(seen.len() as u64, tokens, "a token was left out");
    let again: u64 = seen.values().map(|n| u64::from(n - 1)).sum();
    assert_eq!(again, sequences * 48 - tokens);
    // Over as many epochs as the sequence is long, nothing is over.
    let mut loader = dataset.loader(&config).unwrap();
    let seen = count(&take(&mut loader, tokens as usize));
    assert!(seen.len() as u64 == tokens && seen.values().all(|n| *n == 48));
}

#[test]
fn labels_positions_and_segments_stop_at_a_documents_end() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let eos = dataset.tokenizer().eos_id() as i32;
    let mut loader = dataset.loader(&loader_config(200, 2)).unwrap();
    let mut ends = 0;
    for batch in take(&mut loader, 10) {
        assert_eq!(batch.token_count(), 400);
        for row in 0..2 {
            let at = |column: usize| row * 200 + column;
            for column in 0..200 {
                let (id, label) = (batch.input_ids[at(column)], batch.labels[at(column)]);
                let starts = column == 0
                    || batch.segment_ids[at(column)] != batch.segment_ids[at(column - 1)];
                if starts {
                    assert_eq!(batch.position_ids[at(column)], 0);
                } else {
                    assert_eq!(
                        batch.position_ids[at(column)],
                        batch.position_ids[at(column - 1)] + 1
                    );
                }
                if id == eos {
                    ends += 1;
                    assert_eq!(
                        label, IGNORE_INDEX,
                        "a document's end predicts the next document"
                    );
                    assert!(
                        column == 199
                            || batch.segment_ids[at(column + 1)]
                                == batch.segment_ids[at(column)] + 1
                    );
                } else if column < 199 {
                    assert_eq!(label, batch.input_ids[at(column + 1)]);
                } else {
                    assert_ne!(label, IGNORE_INDEX, "the token after the sequence is known");
                }
            }
        }
    }
    assert!(ends > 10);
}

#[test]
fn ignored_boundaries_give_one_run_of_text() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let config = LoaderConfig {
        packing: Packing::Ignore,
        shuffle: false,
        ..loader_config(50, 1)
    };
    let batches = take(&mut dataset.loader(&config).unwrap(), 60);
    for pair in batches.windows(2) {
        assert_eq!(pair[0].labels[..49], pair[0].input_ids[1..]);
        assert_eq!(
            pair[0].labels[49], pair[1].input_ids[0],
            "the label of the last position is the next sequence's first token"
        );
        assert!(pair[0].segment_ids.iter().all(|s| *s == 0));
        assert!(pair[0].position_ids.iter().copied().eq(0..50));
    }
}

#[test]
fn pieces_of_a_long_document_do_not_follow_each_other_when_shuffled() {
    let place = Place::new();
    let dataset = prepare(&place.texts(40));
    let batches = take(&mut dataset.loader(&loader_config(16, 1)).unwrap(), 200);
    let follows = batches.windows(2).filter(|pair| {
        let (last, first) = (pair[0].spans.last().unwrap(), pair[1].spans[0]);
        last.document == first.document && first.offset == last.offset + last.length as u64
    });
    assert!(follows.count() < 10);
}

#[test]
fn a_corpus_shorter_than_a_sequence_fills_it_from_several_epochs() {
    let place = Place::new();
    let mut config = place.texts(2);
    config.validation.fraction = 0.0;
    let dataset = prepare(&config);
    let tokens = dataset.tokens(Split::Train);
    let length = tokens as usize * 5 + 3;
    let mut loader = dataset.loader(&loader_config(length, 2)).unwrap();
    let batch = loader.next_batch();
    assert_eq!(batch.token_count(), 2 * length);
    assert!(count(&[batch]).values().all(|n| (10..=12).contains(n)));
    assert!(loader.epoch() > 10.0);
}

#[test]
fn validation_is_the_same_every_time_covers_the_split_once_and_pads_its_end() {
    let place = Place::new();
    let dataset = prepare(&place.texts(60));
    let tokens = dataset.tokens(Split::Validation);
    let whole = dataset.validation(&loader_config(32, 4), None).unwrap();
    let batches: Vec<Batch> = whole.batches().collect();
    assert_eq!(
        batches,
        dataset
            .validation(
                &LoaderConfig {
                    seed: 99,
                    ..loader_config(32, 4)
                },
                None
            )
            .unwrap()
            .batches()
            .collect::<Vec<_>>()
    );
    assert_eq!(whole.len(), batches.len());
    let seen = count(&batches);
    assert!(seen.len() as u64 == tokens && seen.values().all(|n| *n == 1));
    let last = batches.last().unwrap();
    let padding = last
        .segment_ids
        .iter()
        .filter(|s| **s == bellows_data::PADDING_SEGMENT)
        .count();
    assert_eq!(padding, last.input_ids.len() - last.token_count());
    assert!(
        last.segment_ids
            .iter()
            .zip(&last.labels)
            .all(|(s, l)| *s >= 0 || *l == IGNORE_INDEX)
    );

    let few = dataset.validation(&loader_config(32, 2), Some(2)).unwrap();
    assert_eq!(few.len(), 2);
    assert_eq!(
        count(&few.batches().collect::<Vec<_>>())
            .values()
            .sum::<u32>(),
        128
    );
    let beyond = dataset
        .validation(&loader_config(32, 2), Some(100_000))
        .unwrap();
    assert_eq!(
        count(&beyond.batches().collect::<Vec<_>>()).len() as u64,
        tokens
    );
}

#[test]
fn the_unigram_entropy_is_that_of_the_labels() {
    let place = Place::new();
    let dataset = prepare(&place.texts(60));
    let set = dataset.validation(&loader_config(32, 2), Some(3)).unwrap();
    let mut counts = BTreeMap::<i32, f64>::new();
    for label in set
        .batches()
        .flat_map(|b| b.labels)
        .filter(|l| *l != IGNORE_INDEX)
    {
        *counts.entry(label).or_default() += 1.0;
    }
    let total: f64 = counts.values().sum();
    let expected: f64 = counts
        .values()
        .map(|n| -(n / total) * (n / total).ln())
        .sum();
    assert!((set.unigram_entropy() - expected).abs() < 1e-9);
    for split in Split::ALL {
        assert!((0.5..6.0).contains(&dataset.unigram_entropy(split)));
    }
}

#[test]
fn the_probe_set_is_fixed_named_and_of_different_sources() {
    let place = Place::new();
    let dataset = prepare(&place.texts(60));
    let probe = dataset.probe(24, 4).unwrap();
    assert_eq!(probe.batch, dataset.probe(24, 4).unwrap().batch);
    assert_eq!((probe.sequences.len(), probe.batch.batch_size), (4, 4));
    let mut sources: Vec<&str> = probe.sequences.iter().map(|s| s.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), 4);
    for sequence in &probe.sequences {
        assert_eq!(sequence.tokens.len(), sequence.length);
        assert!(sequence.document.ends_with(&sequence.source));
        assert!(sequence.tokens.concat().starts_with("document "));
    }
    assert_eq!(
        dataset.probe(24, 100_000).unwrap().sequences.len() as u64,
        dataset.documents(Split::Validation)
    );
}

#[test]
fn a_batch_names_where_it_came_from() {
    let place = Place::new();
    let dataset: Dataset = prepare(&place.texts(40));
    let mut loader = dataset.loader(&loader_config(300, 2)).unwrap();
    let batch = loader.next_batch();
    let origins = loader.origins(&batch);
    assert_eq!(origins.iter().map(|o| o.length).sum::<usize>(), 600);
    for origin in &origins {
        let first = origin.row * 300 + origin.column;
        let ids: Vec<u32> = batch.input_ids[first..first + origin.length]
            .iter()
            .map(|id| *id as u32)
            .collect();
        let text = std::fs::read_to_string(&origin.document).unwrap();
        let piece = dataset
            .tokenizer()
            .decode(&ids)
            .unwrap()
            .replace("<|endoftext|>", "");
        assert!(text.contains(&piece), "{origin}");
    }
    assert!(loader.describe(&batch).contains(&origins[0].document));
}

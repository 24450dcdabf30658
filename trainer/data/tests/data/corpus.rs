//! What can be wrong with a corpus: each has one clear outcome.

use std::collections::BTreeSet;

use crate::common::{At, Place, loader_config, prepare};
use bellows_data::{
    DataConfig, DataError, Dataset, NoProgress, Progress, RecordsConfig, RustSourcesConfig,
    SourceConfig, Split, Stage, TextConfig, TokenizerConfig, ValidationConfig,
};

fn text(place: &Place, pattern: &str) -> DataConfig {
    place.config(SourceConfig::Text(TextConfig {
        paths: vec![place.glob(pattern)],
        separator: None,
    }))
}

#[test]
fn invalid_utf8_is_replaced_and_counted() {
    let place = Place::new();
    let mut config = place.texts(30);
    place.write("bad.txt", b"caf\xe9 and \xff\xfe more\nfine \xf0\x9f\x98\n");
    config.validation.fraction = 0.0;
    let dataset = prepare(&config);
    let report = dataset.report();
    assert_eq!(
        (
            report.replaced_sequences,
            report.documents_with_replacements
        ),
        (4, 1)
    );
    assert!(
        report
            .warnings
            .iter()
            .any(|w| w.contains("4 invalid UTF-8 sequences")),
        "{:?}",
        report.warnings
    );
    assert_eq!(report.train.documents, 31);
}

#[test]
fn a_file_that_vanishes_midway_is_counted_and_told_and_the_rest_is_used() {
    let place = Place::new();
    let config = place.texts(30);
    let gone = place.path("004.txt");
    // The sample for the tokenizer was read by then; the file goes before the corpus is.
    let progress = At::new(Stage::Tokenize, || std::fs::remove_file(&gone).unwrap());
    let dataset = Dataset::prepare(&config, &progress).unwrap();
    let report = dataset.report().clone();
    assert_eq!((report.skipped_files, report.unreadable_files), (1, 1));
    assert_eq!(report.train.documents + report.validation.documents, 29);
    assert!(
        report.skipped[0].reason.contains("vanished")
            && report.skipped[0].path.ends_with("004.txt")
    );
    assert!(
        progress
            .warnings
            .lock()
            .unwrap()
            .iter()
            .any(|w| w.contains("vanished"))
    );

    // The run can be resumed on exactly what it saw …
    assert_eq!(
        Dataset::reopen(&config, dataset.id(), &NoProgress)
            .unwrap()
            .id(),
        dataset.id()
    );
    // … and what it saw is never taken for the whole corpus, should the file come back.
    let modified = std::fs::metadata(place.path("005.txt"))
        .unwrap()
        .modified()
        .unwrap();
    place.write("004.txt", "back again\n");
    std::fs::File::options()
        .write(true)
        .open(&gone)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    assert_eq!(prepare(&config).report().skipped_files, 0);
}

#[test]
fn a_corpus_that_vanishes_as_a_whole_is_an_error() {
    let place = Place::new();
    let config = place.texts(3);
    let folder = place.path("");
    let progress = At::new(Stage::Tokenize, || {
        std::fs::remove_dir_all(&folder).unwrap()
    });
    let error = Dataset::prepare(&config, &progress).unwrap_err();
    assert!(matches!(&error, DataError::NoText { .. }), "{error}");
    assert!(error.to_string().contains("vanished"), "{error}");
    assert_eq!(
        std::fs::read_dir(place.dir.path().join("cache/tokens"))
            .unwrap()
            .count(),
        0,
        "nothing half-written stays"
    );
}

#[test]
fn a_corpus_without_text_says_what_was_looked_at_and_why_it_was_left_out() {
    let place = Place::new();
    place.write("empty.txt", "");
    place.write("blank.txt", " \n\t\n");
    place.write("wide.txt", b"\xff\xfeh\0i\0");
    for tokenizer in [TokenizerConfig::default(), tokenizer_file(&place)] {
        let error = Dataset::prepare(
            &DataConfig {
                tokenizer,
                ..text(&place, "*.txt")
            },
            &NoProgress,
        )
        .unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, DataError::NoText { .. }), "{message}");
        assert!(
            message.contains("*.txt")
                && message.contains("2 empty documents")
                && message.contains("UTF-16"),
            "{message}"
        );
    }
}

/// A tokenizer that exists already, so that nothing has to be learned.
fn tokenizer_file(place: &Place) -> TokenizerConfig {
    let other = Place::new();
    let dataset = prepare(&other.texts(30));
    let folder = place.path("tokenizer");
    std::fs::create_dir_all(&folder).unwrap();
    dataset.tokenizer().save(&folder).unwrap();
    TokenizerConfig {
        path: Some(folder),
        ..TokenizerConfig::default()
    }
}

#[test]
fn no_file_at_all_names_the_glob() {
    let place = Place::new();
    let error = Dataset::prepare(&text(&place, "*.md"), &NoProgress).unwrap_err();
    assert!(
        matches!(&error, DataError::NoFiles { looked_at, .. } if looked_at[0].ends_with("*.md")),
        "{error}"
    );
}

#[test]
fn a_single_text_file_keeps_its_end_for_validation() {
    let place = Place::new();
    let lines: String = (0..2000)
        .map(|i| format!("line number {i} of the only file\n"))
        .collect();
    place.write("only.txt", &lines);
    let dataset = prepare(&DataConfig {
        validation: ValidationConfig {
            fraction: 0.1,
            paths: vec![],
        },
        ..text(&place, "only.txt")
    });
    let report = dataset.report();
    assert_eq!(
        report.train.bytes + report.validation.bytes,
        lines.len() as u64
    );
    let share = report.validation.bytes as f64 / lines.len() as f64;
    assert!((0.09..=0.1).contains(&share), "{share}");
    let set = dataset.validation(&loader_config(16, 1), Some(1)).unwrap();
    let batch = set.batches().next().unwrap();
    let ids: Vec<u32> = batch.input_ids.iter().map(|id| *id as u32).collect();
    assert!(
        dataset
            .tokenizer()
            .decode(&ids)
            .unwrap()
            .starts_with("line number 18")
    );
}

#[test]
fn a_separator_line_cuts_a_file_into_documents() {
    let place = Place::new();
    let body: Vec<String> = (0..200)
        .map(|i| format!("text {i}\nsecond line\n"))
        .collect();
    place.write(
        "all.txt",
        format!("{}<|end|>\r\n<|end|>\n", body.join("<|end|>\n")),
    );
    let source = SourceConfig::Text(TextConfig {
        paths: vec![place.glob("all.txt")],
        separator: Some("<|end|>".into()),
    });
    let dataset = prepare(&DataConfig {
        validation: ValidationConfig {
            fraction: 0.3,
            paths: vec![],
        },
        ..place.config(source)
    });
    let report = dataset.report();
    assert_eq!(report.train.documents + report.validation.documents, 200);
    assert_eq!(report.empty_documents, 1);
    assert!(
        (30..=90).contains(&report.validation.documents),
        "{}",
        report.validation.documents
    );
    let batch = dataset.loader(&loader_config(32, 4)).unwrap().next_batch();
    let ids: Vec<u32> = batch.input_ids.iter().map(|id| *id as u32).collect();
    assert!(
        !dataset
            .tokenizer()
            .decode(&ids)
            .unwrap()
            .contains("<|end|>")
    );
}

#[test]
fn separate_validation_files_are_used_whole_and_may_not_overlap() {
    let place = Place::new();
    let mut config = place.texts(5);
    let held_out = place.write("held/out.txt", "held out\n");
    config.validation.paths = vec![held_out.display().to_string()];
    let dataset = prepare(&config);
    assert_eq!(
        (
            dataset.documents(Split::Train),
            dataset.documents(Split::Validation)
        ),
        (5, 1)
    );
    config.validation.paths = vec![place.glob("001.txt")];
    assert!(matches!(
        Dataset::prepare(&config, &NoProgress),
        Err(DataError::Config { .. })
    ));
}

#[test]
fn a_split_that_leaves_validation_empty_is_an_error_and_none_is_fine() {
    let place = Place::new();
    place.write("rows.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    let source = SourceConfig::Jsonl(RecordsConfig {
        paths: vec![place.glob("rows.jsonl")],
        ..RecordsConfig::default()
    });
    let mut config = place.config(source);
    config.validation.fraction = 1e-9;
    assert!(matches!(
        Dataset::prepare(&config, &NoProgress),
        Err(DataError::NoValidation { documents: 2, .. })
    ));
    config.validation.fraction = 0.0;
    let dataset = prepare(&config);
    assert!(!dataset.has_validation());
    assert!(matches!(
        dataset.validation(&loader_config(8, 1), None),
        Err(DataError::NoValidationSplit)
    ));
    assert!(matches!(
        dataset.probe(8, 1),
        Err(DataError::NoValidationSplit)
    ));
}

#[test]
fn versions_of_one_crate_never_fall_on_both_sides_of_the_tokens() {
    let place = Place::new();
    for i in 0..30 {
        for version in ["1.0.0", "2.0.0-rc.1"] {
            let body = format!("// crate{i} {version}\nfn f{i}() {{}}\n").repeat(1 + i % 3);
            place.write(&format!("index/crate-{i}-{version}/src/lib.rs"), body);
        }
    }
    let rust = RustSourcesConfig {
        registry: Some(place.path("")),
        ..RustSourcesConfig::default()
    };
    let config = DataConfig {
        validation: ValidationConfig {
            fraction: 0.3,
            paths: vec![],
        },
        ..place.config(SourceConfig::RustSources(rust))
    };
    let dataset = prepare(&config);
    let mut sources: [BTreeSet<String>; 2] = Default::default();
    let whole = dataset.validation(&loader_config(64, 4), None).unwrap();
    sources[1].extend(
        whole
            .batches()
            .flat_map(|b| whole.origins(&b))
            .map(|o| o.source),
    );
    let mut loader = dataset.loader(&loader_config(64, 4)).unwrap();
    while loader.epoch() < 1.0 {
        let batch = loader.next_batch();
        sources[0].extend(loader.origins(&batch).into_iter().map(|o| o.source));
    }
    assert_eq!(sources[0].len() + sources[1].len(), 30);
    assert!(sources[0].is_disjoint(&sources[1]));
    assert_eq!(
        dataset.report().train.documents + dataset.report().validation.documents,
        60
    );
}

#[test]
fn cancelling_leaves_nothing_behind() {
    struct Impatient;
    impl Progress for Impatient {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let place = Place::new();
    let config = place.texts(5);
    assert!(matches!(
        Dataset::prepare(&config, &Impatient),
        Err(DataError::Cancelled)
    ));
    prepare(&config);
}

#[test]
fn a_text_longer_than_a_piece_is_one_document_and_loses_nothing() {
    let place = Place::new();
    // No line end for more than a mebibyte, characters of several bytes, then lines.
    let text = format!("{}\n{}", "é€😀x".repeat(110_000), "a line\n".repeat(10_000));
    place.write("long.txt", &text);
    place.write("held.txt", "held out\n");
    let mut config = text_only(&place);
    config.validation.paths = vec![place.glob("held.txt")];
    let dataset = prepare(&config);
    assert_eq!(dataset.documents(Split::Train), 1);
    assert_eq!(
        (
            dataset.report().train.bytes,
            dataset.report().replaced_sequences
        ),
        (text.len() as u64, 0)
    );
    let mut plain = loader_config(4096, 1);
    plain.shuffle = false;
    let mut loader = dataset.loader(&plain).unwrap();
    let mut ids: Vec<u32> = Vec::new();
    while (ids.len() as u64) < dataset.tokens(Split::Train) {
        ids.extend(loader.next_batch().input_ids.iter().map(|id| *id as u32));
    }
    ids.truncate(dataset.tokens(Split::Train) as usize);
    assert_eq!(ids.pop(), Some(dataset.tokenizer().eos_id()));
    assert!(dataset.tokenizer().decode(&ids).unwrap() == text);
}

fn text_only(place: &Place) -> DataConfig {
    text(place, "long.txt")
}

#[test]
fn contradicting_settings_are_refused_with_their_key() {
    let place = Place::new();
    let records = |records: RecordsConfig| {
        place.config(SourceConfig::Jsonl(RecordsConfig {
            paths: vec!["x".into()],
            ..records
        }))
    };
    let key = |config: &DataConfig| match config.validate() {
        Err(DataError::Config { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    let both = RecordsConfig {
        text_column: Some("a".into()),
        template: Some("b".into()),
        ..RecordsConfig::default()
    };
    assert_eq!(key(&records(both)), "data.source.template");
    let lone = RecordsConfig {
        completion: Some("a".into()),
        ..RecordsConfig::default()
    };
    assert_eq!(key(&records(lone)), "data.source.completion");
    let masked = RecordsConfig {
        train_on: bellows_data::TrainOn::Completion,
        ..RecordsConfig::default()
    };
    assert_eq!(key(&records(masked)), "data.source.train_on");
    let mut config = text(&place, "*.txt");
    config.validation.fraction = 0.7;
    assert_eq!(key(&config), "data.validation.fraction");
    config.validation.fraction = 0.1;
    config.tokenizer.vocab_size = 100;
    assert_eq!(key(&config), "data.tokenizer.vocab_size");
}

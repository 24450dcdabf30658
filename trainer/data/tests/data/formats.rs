//! JSON Lines and Parquet: columns, templates, chats, masks.

use std::sync::Arc;

use crate::common::{Place, loader_config, prepare};
use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields};
use bellows_data::{
    DataConfig, DataError, Dataset, IGNORE_INDEX, NoProgress, RecordsConfig, SourceConfig, Split,
    TokenizerConfig, TrainOn,
};
use parquet::arrow::ArrowWriter;

fn write_parquet(place: &Place, name: &str, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(place.path(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn strings(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn questions(place: &Place, rows: usize) {
    let question = strings((0..rows).map(|i| format!("What is {i} plus {i}?")));
    let answer = strings((0..rows).map(|i| format!("{i} + {i} = {}\n#### {}", 2 * i, 2 * i)));
    write_parquet(
        place,
        "train.parquet",
        vec![("question", question), ("answer", answer)],
    );
}

fn records(place: &Place, name: &str) -> RecordsConfig {
    RecordsConfig {
        paths: vec![place.glob(name)],
        ..RecordsConfig::default()
    }
}

fn gsm8k(place: &Place, train_on: TrainOn) -> DataConfig {
    place.config(SourceConfig::Parquet(RecordsConfig {
        template: Some("Question: {{ question }}\nAnswer: ".into()),
        completion: Some("{{ answer }}".into()),
        train_on,
        ..records(place, "train.parquet")
    }))
}

/// All of a side's text, and the text of its labels.
fn texts(dataset: &Dataset) -> (String, String) {
    let mut config = loader_config(64, 1);
    config.shuffle = false;
    let mut loader = dataset.loader(&config).unwrap();
    let (mut input, mut labels) = (Vec::new(), Vec::new());
    let mut left = dataset.tokens(Split::Train) as usize;
    while left > 0 {
        let batch = loader.next_batch();
        let now = left.min(64);
        input.extend(batch.input_ids[..now].iter().map(|id| *id as u32));
        labels.extend(
            batch.labels[..now]
                .iter()
                .filter(|l| **l != IGNORE_INDEX)
                .map(|l| *l as u32),
        );
        left -= now;
    }
    (
        dataset.tokenizer().decode(&input).unwrap(),
        dataset.tokenizer().decode(&labels).unwrap(),
    )
}

#[test]
fn questions_and_answers_from_parquet_train_on_all_or_on_the_answer_only() {
    let place = Place::new();
    questions(&place, 400);
    let all = prepare(&gsm8k(&place, TrainOn::All));
    let (text, labels) = texts(&all);
    assert!(
        text.contains(
            "Question: What is 7 plus 7?\nAnswer: 7 + 7 = 14\n#### 14<|endoftext|>Question"
        ),
        "{}",
        &text[..200]
    );
    assert!(labels.contains("What is 7"));
    let answers = prepare(&gsm8k(&place, TrainOn::Completion));
    let (same, labels) = texts(&answers);
    assert_eq!(text, same);
    assert!(
        labels.contains("7 + 7 = 14\n#### 14<|endoftext|>8 + 8")
            && !labels.contains("What")
            && !labels.contains("Answer")
    );
    assert!(answers.unigram_entropy(Split::Train) < all.unigram_entropy(Split::Train));
    assert!(
        (5..=40).contains(&all.documents(Split::Validation)),
        "{}",
        all.documents(Split::Validation)
    );
    let origin = &all.loader(&loader_config(8, 1)).unwrap();
    let batch = origin.batch_at(0);
    assert!(origin.describe(&batch).contains("train.parquet:"));
}

#[test]
fn a_missing_parquet_column_names_the_key_and_the_columns_there_are() {
    let place = Place::new();
    questions(&place, 3);
    let config = place.config(SourceConfig::Parquet(RecordsConfig {
        template: Some("{{ prompt }}".into()),
        ..records(&place, "train.parquet")
    }));
    let error = Dataset::prepare(&config, &NoProgress).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, DataError::Column { .. }), "{message}");
    for part in [
        "train.parquet",
        "\"prompt\"",
        "data.source.template",
        "question, answer",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_truncated_parquet_file_and_one_that_is_none_are_errors_that_name_the_file() {
    let place = Place::new();
    questions(&place, 300);
    let whole = std::fs::read(place.path("train.parquet")).unwrap();
    for bytes in [
        &whole[..whole.len() - 9],
        &whole[..whole.len() / 2],
        b"not a parquet file at all",
        b"",
    ] {
        place.write("train.parquet", bytes);
        let error = Dataset::prepare(&gsm8k(&place, TrainOn::All), &NoProgress).unwrap_err();
        assert!(matches!(error, DataError::Parquet { .. }), "{error}");
        assert!(error.to_string().contains("train.parquet"));
    }
}

#[test]
fn invalid_utf8_in_parquet_is_replaced_and_counted_too() {
    let place = Place::new();
    questions(&place, 300);
    // Somewhere in a stored string, which the writer does not compress here.
    let path = place.path("train.parquet");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(16)
        .position(|w| w == b"What is 150 plus")
        .unwrap();
    let mut bytes = bytes;
    bytes[at] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    let dataset = prepare(&gsm8k(&place, TrainOn::All));
    assert_eq!(
        (
            dataset.report().replaced_sequences,
            dataset.report().documents_with_replacements
        ),
        (1, 1)
    );
    assert_eq!(
        dataset.documents(Split::Train) + dataset.documents(Split::Validation),
        300
    );
}

#[test]
fn chats_from_parquet_and_jsonl_give_the_same_masked_tokens() {
    let place = Place::new();
    let fields = Fields::from(vec![
        Field::new("role", DataType::Utf8, true),
        Field::new("content", DataType::Utf8, true),
    ]);
    let message = StructBuilder::new(
        fields,
        vec![
            Box::new(StringBuilder::new()),
            Box::new(StringBuilder::new()),
        ],
    );
    let mut list = ListBuilder::new(message);
    let mut lines = String::new();
    for i in 0..100 {
        let turns = [
            ("user", format!("count to {i}")),
            ("assistant", format!("one to {i}")),
        ];
        for (role, content) in &turns {
            list.values()
                .field_builder::<StringBuilder>(0)
                .unwrap()
                .append_value(role);
            list.values()
                .field_builder::<StringBuilder>(1)
                .unwrap()
                .append_value(content);
            list.values().append(true);
        }
        list.append(true);
        let json: Vec<_> = turns
            .iter()
            .map(|(role, content)| serde_json::json!({"role": role, "content": content}))
            .collect();
        lines.push_str(&format!(
            "{}\n",
            serde_json::json!({"messages": json, "site": i % 3})
        ));
    }
    let site: ArrayRef = Arc::new(Int64Array::from_iter_values((0..100).map(|i| i % 3)));
    write_parquet(
        &place,
        "chat.parquet",
        vec![("messages", Arc::new(list.finish())), ("site", site)],
    );
    place.write("chat.jsonl", lines);
    let form = |name| RecordsConfig {
        messages_column: Some("messages".into()),
        source_column: Some("site".into()),
        train_on: TrainOn::Completion,
        ..records(&place, name)
    };
    let mut parquet = place.config(SourceConfig::Parquet(form("chat.parquet")));
    let mut jsonl = place.config(SourceConfig::Jsonl(form("chat.jsonl")));
    for config in [&mut parquet, &mut jsonl] {
        config.validation.fraction = 0.0;
    }
    let (parquet, jsonl) = (prepare(&parquet), prepare(&jsonl));
    assert_eq!(texts(&parquet), texts(&jsonl));
    let (text, labels) = texts(&jsonl);
    assert!(text.starts_with("<|im_start|>user\ncount to 0<|im_end|>\n<|im_start|>assistant\none to 0<|im_end|>\n<|endoftext|>"));
    assert!(labels.starts_with("one to 0<|im_end|>\n<|endoftext|>one to 1"));
    let marker = jsonl.tokenizer().encode("<|im_start|>").unwrap();
    assert_eq!(marker.len(), 1, "the template's markers are single tokens");
    assert_eq!(jsonl.report().train.sources, 3);
    let loader = jsonl.loader(&loader_config(8, 1)).unwrap();
    assert!(["0", "1", "2"].contains(&loader.origins(&loader.batch_at(0))[0].source.as_str()));
}

#[test]
fn bad_rows_are_left_out_counted_and_named_by_line() {
    let place = Place::new();
    let good: String = (0..50)
        .map(|i| format!("{{\"text\": \"row {i}\"}}\n"))
        .collect();
    let bad = b"\n{\"text\": 5}\nnot json\n[1]\n{\"other\": 1}\n{\"text\": null}\n{\"text\": \"\"}\n{\"text\": \"caf\xe9\"}\n";
    place.write("rows.jsonl", [good.as_bytes(), bad].concat());
    let mut config = place.config(SourceConfig::Jsonl(records(&place, "rows.jsonl")));
    config.validation.fraction = 0.0;
    let dataset = prepare(&config);
    let report = dataset.report();
    assert_eq!(
        (
            report.train.documents,
            report.skipped_rows,
            report.empty_documents,
            report.replaced_sequences
        ),
        (51, 5, 1, 1)
    );
    let first = report.skipped[0].to_string();
    assert!(
        first.contains("rows.jsonl:52:") && first.contains("is not text"),
        "{first}"
    );
    assert!(
        report
            .skipped
            .iter()
            .any(|s| s.row == Some(55) && s.reason.contains("no column \"text\""))
    );
}

#[test]
fn when_every_row_is_bad_the_error_says_why() {
    let place = Place::new();
    place.write("rows.jsonl", "{\"body\": \"x\"}\n{\"body\": \"y\"}\n");
    let error = Dataset::prepare(
        &place.config(SourceConfig::Jsonl(records(&place, "rows.jsonl"))),
        &NoProgress,
    )
    .unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, DataError::NoText { .. }) && message.contains("no column \"text\""),
        "{message}"
    );
}

#[test]
fn special_tokens_in_plain_text_do_not_end_documents_unless_asked_for() {
    let place = Place::new();
    let rows: String = (0..40)
        .map(|i| format!("{{\"text\": \"before {i} <|endoftext|> after\"}}\n"))
        .collect();
    place.write("rows.jsonl", rows);
    let mut config = place.config(SourceConfig::Jsonl(records(&place, "rows.jsonl")));
    config.validation.fraction = 0.0;
    let ends = |config: &DataConfig| {
        let dataset = prepare(config);
        let eos = dataset.tokenizer().eos_id() as i32;
        let config = bellows_data::LoaderConfig {
            shuffle: false,
            ..loader_config(dataset.tokens(Split::Train) as usize, 1)
        };
        dataset
            .loader(&config)
            .unwrap()
            .next_batch()
            .input_ids
            .iter()
            .filter(|id| **id == eos)
            .count()
    };
    assert_eq!(ends(&config), 40);
    config.tokenizer.parse_special_tokens = Some(true);
    assert_eq!(ends(&config), 80);
}

#[test]
fn a_tokenizer_from_a_folder_brings_its_special_tokens_and_chat_template() {
    let place = Place::new();
    let rows: String = (0..60)
        .map(|i| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"hello {i}\"}}, {{\"role\": \"assistant\", \"content\": \"yes\"}}]}}\n"))
        .collect();
    place.write("chat.jsonl", rows);
    let source = SourceConfig::Jsonl(RecordsConfig {
        messages_column: Some("messages".into()),
        ..records(&place, "chat.jsonl")
    });
    let mut config = place.config(source);
    config.tokenizer.special_tokens = vec!["<s>".into(), "</s>".into()];
    config.validation.fraction = 0.0;
    let folder = place.path("tokenizer");
    std::fs::create_dir(&folder).unwrap();
    prepare(&config).tokenizer().save(&folder).unwrap();
    let settings = serde_json::json!({
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "chat_template": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    });
    std::fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
    config.tokenizer = TokenizerConfig {
        path: Some(folder.clone()),
        bos_token: Some("<s>".into()),
        ..TokenizerConfig::default()
    };
    let (text, labels) = texts(&prepare(&config));
    assert!(
        text.starts_with("<s>[user] hello 0\n[assistant] yes\n</s><s>[user] hello 1"),
        "{}",
        &text[..80]
    );
    assert!(
        labels.starts_with("[user] hello 0"),
        "the first token of a document is nobody's label"
    );
    config.tokenizer.eos_token = Some("<missing>".into());
    let message = Dataset::prepare(&config, &NoProgress)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("<missing>") && message.contains("data.tokenizer.eos_token"),
        "{message}"
    );
}

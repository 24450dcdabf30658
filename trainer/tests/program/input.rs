//! Bad input that only shows when files are opened. What the configuration itself tells is tested
//! in `tests/cli.rs`.

use crate::common::Folder;

fn nothing_was_begun(folder: &Folder) {
    assert!(!folder.path("runs").exists(), "a run was begun");
}

#[test]
fn a_corpus_without_text_is_refused() {
    let folder = Folder::new();
    for (name, contents) in [("empty", ""), ("blank", " \n\n\t\n")] {
        folder.write(&format!("{name}/a.txt"), contents);
        let paths = format!("data.source.paths=['{name}/*.txt']");
        folder.train("run", &[&paths]).refused(&[name, "text"]);
    }
    folder
        .train("run", &["data.source.paths=['nowhere/*.txt']"])
        .refused(&["nowhere/*.txt"]);
    folder
        .train("run", &["data.source.paths=['missing.txt']"])
        .refused(&["missing.txt"]);
    nothing_was_begun(&folder);
}

#[test]
fn invalid_utf_8_is_replaced_and_counted() {
    let folder = Folder::new();
    folder.write(
        "corpus/latin.txt",
        b"the caf\xe9 on the m\xfcle far away from home\n",
    );
    let done = folder.train("run", &["train.steps=1"]).ok();
    assert!(
        done.stderr
            .contains("2 invalid UTF-8 sequences in 1 documents"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_tokenizer_larger_than_the_models_vocabulary_is_refused() {
    let folder = Folder::new();
    folder
        .train("run", &["model.vocab_size=299"])
        .refused(&["model.vocab_size is 299", "300 tokens"]);
    nothing_was_begun(&folder);
    folder.train("run", &["train.steps=1"]).ok();
    let path = format!(
        "data.tokenizer.path='{}'",
        folder.checkpoint("run", 1, "tokenizer.json").display()
    );
    folder
        .train("second", &[&path, "model.vocab_size=299"])
        .refused(&[
            "300 tokens",
            "model.vocab_size is only 299",
            "model.vocab_size = 0",
        ]);
    assert!(!folder.run("second").exists());
    // A larger vocabulary than the tokenizer's is padding, and fine.
    folder
        .train("third", &[&path, "model.vocab_size=304", "train.steps=1"])
        .ok();
}

#[test]
fn a_tokenizer_that_is_none_is_refused_by_name() {
    let folder = Folder::new();
    folder.write("broken.json", "{\"model\": 3}");
    for name in ["broken.json", "absent.json"] {
        let path = format!("data.tokenizer.path='{name}'");
        folder.train("run", &[&path]).refused(&[name]);
    }
    nothing_was_begun(&folder);
}

#[test]
fn folders_that_are_no_runs_or_models_are_refused() {
    let folder = Folder::new();
    for command in [
        "resume nowhere",
        "generate nowhere -p the --device cpu",
        "eval nowhere --device cpu",
        "export nowhere --output out",
        "import nowhere --output out",
        "verify nowhere",
    ] {
        folder.bellows(command).refused(&["nowhere"]);
    }
    for command in [
        "resume corpus",
        "generate corpus -p the --device cpu",
        "eval corpus --data run.toml --device cpu",
        "export corpus --output out",
        "import corpus --output out",
        "verify corpus",
    ] {
        folder.bellows(command).refused(&["corpus"]);
    }
    assert!(!folder.path("out").exists(), "something was written");
}

#[test]
fn a_checkpoint_that_is_not_there_is_refused_with_those_that_are() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    for command in [
        "resume runs/run --from 7",
        "generate runs/run --checkpoint 7 -p the --device cpu",
        "eval runs/run --checkpoint 7 --device cpu",
        "export runs/run --checkpoint 7 --output out",
    ] {
        folder.bellows(command).refused(&["\"7\"", "12"]);
    }
}

#[test]
fn a_device_that_does_not_exist_is_refused_by_every_command() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    for command in [
        "train run.toml --device gpu:99",
        "resume runs/run --from 6 --device gpu:99",
        "generate runs/run -p the --device gpu:99",
        "eval runs/run --device gpu:99",
        "verify runs/run --device gpu:99",
    ] {
        folder
            .bellows(command)
            .refused(&["there is no device gpu:99", "cpu"]);
    }
    assert_eq!(folder.metrics("run").len(), 12, "the run was touched");
}

#[test]
fn an_output_folder_with_something_in_it_is_refused() {
    let folder = Folder::new();
    folder.train("run", &["train.steps=1"]).ok();
    folder.write("out/precious.txt", "mine");
    folder
        .bellows("export runs/run --output out")
        .refused(&["out is not empty", "nothing is overwritten"]);
    assert_eq!(folder.text("out/precious.txt"), "mine");
}

#[test]
fn an_evaluation_without_validation_data_is_refused() {
    let folder = Folder::new();
    let settings = ["data.validation.fraction=0.0", "train.steps=2"];
    let done = folder.train("run", &settings).ok();
    assert!(!done.stdout.contains("validation loss"), "{}", done.stdout);
    folder
        .bellows("eval runs/run --device cpu")
        .refused(&["no validation split", "data.validation"]);
}

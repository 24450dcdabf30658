//! A run that goes on equals one that was never interrupted, bit for bit.

use crate::common::Folder;

/// What makes a resume hard: everything that has a state of its own or sums over a step.
const VARIANTS: [(&str, &[&str]); 7] = [
    (
        "loss-free",
        &[
            "train.accumulation=2",
            "model.scoring_func='sigmoid'",
            "model.topk_method='noaux_tc'",
            "model.score_correction_bias=true",
            "router.balance='none'",
            "router.bias_update_speed=0.01",
            "router.z_loss_coefficient=0.01",
        ],
    ),
    (
        "exact-global",
        &[
            "train.accumulation=3",
            "router.balance='global'",
            "router.balance_coefficient=0.05",
            "router.z_loss_coefficient=0.01",
            "schedule.kind='linear'",
        ],
    ),
    (
        "running-buffer",
        &[
            "train.accumulation=2",
            "router.balance='global-running'",
            "router.balance_coefficient=0.05",
            "model.use_igate=false",
            // No part of a checkpoint, and none that a resumed run may miss there.
            "model.kernels='reference'",
        ],
    ),
    (
        "streamed",
        &[
            "train.memory='stream'",
            "stream.chunk=12",
            "stream.keep='host'",
            "train.accumulation=2",
            "router.balance='global'",
            "router.balance_coefficient=0.05",
        ],
    ),
    (
        "checkpointed",
        &["train.memory='checkpoint'", "stream.keep='compute'"],
    ),
    (
        "capacity",
        &[
            "model.capacity_factor=1.0",
            "data.packing='ignore'",
            "schedule.kind='wsd'",
            "schedule.decay_steps=4",
        ],
    ),
    (
        "dense-tied",
        &[
            "model.model_type='llama'",
            "model.attention='gqa'",
            "model.n_routed_experts=0",
            "model.n_shared_experts=0",
            "model.inner_iter=1",
            "model.tie_word_embeddings=true",
            "optimizer.max_grad_norm=0.0",
            "data.shuffle=false",
        ],
    ),
];

/// Steps that pass over the corpus more than once, so that the order of a second epoch counts too.
const STEPS: u64 = 72;

#[test]
fn going_on_from_a_checkpoint_repeats_the_run_exactly() {
    let folder = Folder::new();
    for (name, settings) in VARIANTS {
        let mut settings = settings.to_vec();
        settings.extend(["train.steps=72", "checkpoint.every=30", "evaluate.every=12"]);
        folder.train(name, &settings).ok();
        let again = format!("{name}-again");
        folder.copy_run(name, &again);
        let resumed = folder
            .bellows(&format!("resume runs/{again} --from 30"))
            .ok();
        assert!(
            resumed.stderr.contains("from step 30"),
            "{}",
            resumed.stderr
        );
        folder.assert_equal_runs(name, &again, STEPS);
        // What else there is of a run's state: data, counts, validation loss.
        let state = |run: &str| {
            let file = folder.checkpoint(run, STEPS, "state.json");
            let text = std::fs::read(file).expect("a state");
            let mut state: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            state["seconds"] = serde_json::Value::Null;
            state
        };
        assert_eq!(state(name), state(&again), "{name}");
        // The last text is drawn from the same random numbers.
        let sample = |run: &str| {
            let text = std::fs::read_to_string(folder.run(run).join("samples.jsonl"));
            let text = text.expect("samples");
            let last = text.lines().last().expect("a sample");
            let sample: serde_json::Value = serde_json::from_str(last).expect("JSON");
            sample["text"].clone()
        };
        assert_eq!(sample(name), sample(&again), "{name}");
    }
}

#[test]
fn the_variants_are_what_their_names_say() {
    let folder = Folder::new();
    let mut losses = Vec::new();
    for (name, settings) in VARIANTS {
        let mut settings = settings.to_vec();
        settings.push("train.steps=3");
        folder.train(name, &settings).ok();
        let last = &folder.metrics(name)[&3];
        let dropped = last["dropped"] != "0";
        assert_eq!(dropped, name == "capacity", "{name}");
        let z = last.get("z_loss").is_some_and(|z| z != "null");
        assert_eq!(z, matches!(name, "loss-free" | "exact-global"), "{name}");
        losses.push(last["loss"].clone());
    }
    // Loss-free balancing moved its bias, by the update speed a step.
    let bytes = folder.checkpoint("loss-free", 3, "model.safetensors");
    let bytes = std::fs::read(bytes).expect("a checkpoint");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
    let biases: Vec<f32> = tensors
        .tensors()
        .iter()
        .filter(|(name, _)| name.ends_with("e_score_correction_bias"))
        .flat_map(|(_, tensor)| tensor.data().chunks_exact(4))
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect();
    // Two layers, two iterations, four experts.
    assert_eq!(biases.len(), 16);
    assert!(biases.iter().any(|bias| *bias != 0.0), "{biases:?}");
    assert!(biases.iter().all(|bias| bias.abs() < 0.0301), "{biases:?}");
    losses.sort();
    losses.dedup();
    assert_eq!(losses.len(), VARIANTS.len(), "{losses:?}");
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let folder = Folder::new();
    let settings = VARIANTS[0].1;
    folder.train("one", settings).ok();
    folder.train("two", settings).ok();
    folder.assert_equal_runs("one", "two", 12);
    let mut command = folder.train_command("three", settings);
    crate::common::finish(command.args(["--seed", "1"])).ok();
    assert_ne!(folder.metrics("one"), folder.metrics("three"));
}

#[test]
fn a_finished_run_goes_on_only_with_more_steps() {
    let folder = Folder::new();
    folder.train("run", &["schedule.kind='constant'"]).ok();
    folder
        .bellows("resume runs/run")
        .refused(&["step 12 of 12", "--steps"]);
    folder
        .bellows("resume runs/run --steps 12")
        .refused(&["--steps"]);
    folder.bellows("resume runs/run --steps 15").ok();
    // A constant learning rate does not see where the end is.
    folder
        .train("longer", &["schedule.kind='constant'", "train.steps=15"])
        .ok();
    let (resumed, whole) = (folder.metrics("run"), folder.metrics("longer"));
    assert_eq!(resumed.len(), 15);
    // Step 12 was the end of one run and is the middle of the other: both are due an evaluation.
    assert_eq!(resumed, whole);
    let config = folder.text("runs/run/config.toml");
    assert!(config.contains("steps = 15"), "{config}");
    // The next resume knows of the new number of steps.
    folder
        .bellows("resume runs/run")
        .refused(&["step 15 of 15"]);
}

#[test]
fn going_back_leaves_nothing_of_the_steps_that_are_replaced() {
    let folder = Folder::new();
    folder.train("run", &["checkpoint.keep_last=2"]).ok();
    // Step 12 is newer than step 9, and would be kept, and gone on from, in its place.
    folder.bellows("resume runs/run --from 6 --steps 9").ok();
    assert_eq!(folder.checkpoints("run"), [6, 9]);
    folder.bellows("resume runs/run").refused(&["step 9 of 9"]);
    let reader = bellows_record::RunReader::open(&folder.run("run")).expect("a run");
    let rows = reader.metrics().read_all().expect("metrics");
    assert_eq!(rows.last().map(|row| row.step), Some(9));
}

#[test]
fn a_resume_that_is_refused_takes_nothing_away() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    let config = folder.text("runs/run/config.toml");
    let other = config.replace("sequence_length = 32", "sequence_length = 16");
    folder.write("runs/run/config.toml", other);
    folder
        .bellows("resume runs/run --from 6")
        .refused(&["sequence"]);
    assert_eq!(folder.checkpoints("run"), [6, 12]);
    assert_eq!(folder.state("run"), "finished");
}

#[test]
fn a_run_whose_corpus_holds_fewer_tokens_than_asked_for_goes_on() {
    let folder = Folder::new();
    folder
        .train("run", &["data.tokenizer.vocab_size=4000"])
        .ok();
    let config = folder.text("runs/run/config.toml");
    assert!(!config.contains("vocab_size = 4000"), "{config}");
    folder.copy_run("run", "again");
    std::fs::remove_dir_all(folder.path("cache")).expect("it was there");
    folder.bellows("resume runs/again --from 6").ok();
    folder.assert_equal_runs("run", "again", 12);
}

#[test]
fn a_run_resumes_after_its_corpus_is_gone_while_its_cache_is_there() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    folder.copy_run("run", "again");
    std::fs::remove_dir_all(folder.path("corpus")).expect("it was there");
    folder.bellows("resume runs/again --from 6").ok();
    folder.assert_equal_runs("run", "again", 12);
}

#[test]
fn another_corpus_than_the_runs_is_refused() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    std::fs::remove_dir_all(folder.path("cache")).expect("it was there");
    folder.copy_run("run", "same");
    // Made anew from the same texts, the tokens are the same.
    folder.bellows("resume runs/same --from 6").ok();
    folder.assert_equal_runs("run", "same", 12);
    std::fs::remove_dir_all(folder.path("cache")).expect("it was there");
    folder.write(
        "corpus/99.txt",
        "one more document that nobody asked for.\n",
    );
    folder
        .bellows("resume runs/run --from 6")
        .refused(&["corpus"]);
}

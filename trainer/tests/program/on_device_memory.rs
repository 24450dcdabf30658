//! A device that refuses memory although the plan said that there was some.

use crate::common::Folder;

/// Tokens of the run's micro-batches: 16 sequences of 32.
const TOKENS: u64 = 512;

/// Largest inner width whose weights a test may make.
const WIDEST: u64 = 1 << 17;

#[test]
fn a_buffer_that_the_device_refuses_ends_the_run_in_words_and_not_in_a_panic() {
    let folder = Folder::new();
    let skip = |reason: &str| {
        let test = std::thread::current();
        println!("SKIPPED {}: {reason}", test.name().unwrap_or("unnamed"));
    };
    match std::env::var("BELLOWS_TEST_DEVICE").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("cpu") => {
            skip("the CPU backend has no device that could refuse");
            return;
        }
        Ok("gpu") => {}
        other => panic!("BELLOWS_TEST_DEVICE is {other:?}; it must be \"cpu\" or \"gpu\""),
    }
    let devices = folder.bellows("devices --json").ok().json();
    let largest = &devices["adapters"][0]["details"]["max_buffer_bytes"];
    // An inner activation of a little more than the device binds at once, on a limit that says that
    // there is room: what a user does who overstates the memory.
    let inner = largest.as_u64().expect("bytes") / (4 * TOKENS) + 64;
    if inner > WIDEST {
        skip("the device takes buffers larger than a test should make");
        return;
    }
    let settings = [
        "run.device='gpu'",
        "train.precision='f32'",
        "train.memory='plain'",
        "train.memory_limit='64TiB'",
        "train.batch_size=16",
        "model.first_k_dense_replace=2",
        &format!("model.intermediate_size={inner}"),
        "evaluate.batches=1",
    ];
    let words = [
        "step 1 ran out of memory",
        "the device refused memory",
        "by the plan, weights",
        "there is no checkpoint yet",
        "--memory SIZE",
    ];
    folder.train("run", &settings).told(1, &words);
    assert_eq!(folder.state("run"), "failed");
}

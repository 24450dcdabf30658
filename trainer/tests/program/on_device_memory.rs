//! A device that refuses memory although the plan said that there was some.

use crate::common::Folder;

/// One layer whose inner activation, a buffer of 4 GiB, is more than any adapter of WebGPU binds at
/// once, on a limit that says there is room: what a user would do who overstates the memory.
const TOO_LARGE: [&str; 10] = [
    "run.device='gpu'",
    "train.precision='f32'",
    "train.memory='plain'",
    "train.memory_limit='64TiB'",
    "train.batch_size=1",
    "train.sequence_length=16384",
    "model.n_routed_experts=0",
    "model.inner_iter=1",
    "model.intermediate_size=65536",
    "evaluate.batches=1",
];

#[test]
fn a_buffer_that_the_device_refuses_ends_the_run_in_words_and_not_in_a_panic() {
    let folder = Folder::new();
    match std::env::var("BELLOWS_TEST_DEVICE").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("cpu") => {
            let test = std::thread::current();
            let name = test.name().unwrap_or("unnamed");
            println!("SKIPPED {name}: the CPU backend has no device that could refuse");
            return;
        }
        Ok("gpu") => {}
        other => panic!("BELLOWS_TEST_DEVICE is {other:?}; it must be \"cpu\" or \"gpu\""),
    }
    let words = [
        "step 1 ran out of memory",
        "the device refused memory",
        "weights",
        "there is no checkpoint yet",
        "--memory SIZE",
    ];
    folder.train("run", &TOO_LARGE).told(1, &words);
    assert_eq!(folder.state("run"), "failed");
}

//! Which checkpoints stay.

use crate::common::Folder;

#[test]
fn the_newest_and_every_nth_checkpoint_are_kept() {
    let folder = Folder::new();
    let settings = [
        "train.steps=23",
        "checkpoint.every=2",
        "checkpoint.keep_last=3",
        "checkpoint.keep_every=8",
    ];
    folder.train("run", &settings).ok();
    // 23 is the end of the run, whatever `every` says.
    assert_eq!(folder.checkpoints("run"), [8, 16, 20, 22, 23]);
    folder
        .train("least", &["checkpoint.every=0", "checkpoint.keep_last=1"])
        .ok();
    assert_eq!(folder.checkpoints("least"), [12]);
}

/// A model that forgets what its first steps learned: its best checkpoint is an old one.
const FORGETS: [&str; 10] = [
    "train.steps=20",
    "optimizer.learning_rate=20.0",
    "optimizer.weight_decay=0.0",
    "schedule.kind='constant'",
    "schedule.warmup_steps=100",
    "checkpoint.every=5",
    "checkpoint.keep_last=2",
    "checkpoint.keep_best=true",
    "evaluate.every=1",
    "evaluate.batches=0",
];

#[test]
fn the_checkpoint_with_the_lowest_validation_loss_is_kept_however_old() {
    let folder = Folder::new();
    folder.train("run", &FORGETS).ok();
    let losses = folder.metrics("run").into_iter().map(|(step, row)| {
        let loss: f64 = row["validation_loss"].parse().expect("a number");
        (step, loss)
    });
    let (best, loss) = losses
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .expect("there are steps");
    assert!(best < 15, "the run did not forget: the best step is {best}");
    assert_eq!(folder.checkpoints("run"), [best, 15, 20]);
    let evaluated = folder
        .bellows("eval runs/run --checkpoint best --json --device cpu")
        .ok()
        .json();
    assert_eq!(evaluated["validation_loss"], loss);
    // A run that goes on from a worse checkpoint still knows the best one.
    folder.bellows("resume runs/run --steps 30").ok();
    let kept = folder.checkpoints("run");
    assert_eq!(kept[kept.len() - 2..], [25, 30]);
    assert!(kept.contains(&best), "{kept:?}");
    let mut all = FORGETS.to_vec();
    all.extend(["checkpoint.keep_best=false", "checkpoint.keep_last=1"]);
    folder.train("newest", &all).ok();
    assert_eq!(folder.checkpoints("newest"), [20]);
}

//! What the viewer's questions cost on a large record: time to open it, to answer at a cursor that jumps about, to read all
//! of its history, and until a live run's step is known; and the memory that it takes.
//!
//! ```sh
//! cargo run --release -p bellows-query --example bench_viewer_query             # generates 1,000 steps
//! cargo run --release -p bellows-query --example bench_viewer_query -- 10000    # 6 GB on the disk for a while
//! cargo run --release -p bellows-query --example bench_viewer_query -- RUN      # a run that is there
//! ```

#[path = "generated_record/mod.rs"]
mod generated_record;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bellows_query::flow::{FlowStrength, Transitions};
use bellows_query::memory::{MemoryAt, MemoryTimeline, MemoryTree};
use bellows_query::routing::{Balance, BalanceFigure, LoadOverTime, Measure, Order, RoutingLoad};
use bellows_query::tokens::{Saturation, TracedText};
use bellows_query::{Loading, Options, Query, RunId, Span, Store};
use bellows_record::{RunState, RunWriter};
use generated_record::Size;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1);
    let given = argument
        .as_deref()
        .filter(|argument| argument.parse::<u64>().is_err())
        .map(PathBuf::from);
    let steps = match &argument {
        Some(argument) if given.is_none() => argument.parse()?,
        _ => 1000,
    };
    let folder = std::env::temp_dir().join(format!("bellows-bench-{}", std::process::id()));
    let run = match &given {
        Some(run) => run.clone(),
        None => {
            let began = Instant::now();
            let size = Size {
                steps,
                rare: (steps / 20).max(1),
                ..Size::LARGE
            };
            let run = generated_record::write(&folder, "generated", size)?;
            println!(
                "generated          {steps} steps in {:.1} s",
                began.elapsed().as_secs_f64()
            );
            run
        }
    };
    let measured = measure(&run).and_then(|()| live(&folder));
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder)?;
    }
    measured.map_err(Into::into)
}

fn measure(run: &Path) -> Result<(), String> {
    let store = Store::new(Options::default());
    let began = Instant::now();
    let id = store.open(run);
    let load = |step| RoutingLoad {
        run: id,
        span: Span::at(step),
        measure: Measure::Tokens,
        order: Order::Index,
        layer: None,
    };
    let first = store
        .answer(&load(u64::MAX))
        .map_err(|gap| gap.to_string())?;
    println!(
        "open               {:.0} ms to the loads of {} experts in {} routers at step {}",
        milliseconds(began),
        first.experts,
        first.routers.len(),
        first.steps.first
    );
    let snapshot = store.run(id).ok_or("the run is gone")?;
    let steps = snapshot.routing.to_vec();
    scrub("load, scrubbed", &steps, |step| ask(&store, &load(step)))?;
    let complete = loop {
        let snapshot = store.run(id).ok_or("the run is gone")?;
        if snapshot.loading == Loading::Complete {
            break milliseconds(began);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    println!("whole history      {:.1} s after opening", complete / 1e3);
    scrub("load, again", &steps, |step| ask(&store, &load(step)))?;
    scrub("memory tree", &steps, |step| {
        ask(
            &store,
            &MemoryTree {
                run: id,
                at: MemoryAt::Step(step),
            },
        )
    })?;
    rest(&store, id, &snapshot.shape)?;
    let memory = store.memory();
    println!(
        "memory             {:.0} MiB of histories, {:.0} MiB of answers, limit {:.0} MiB{}",
        mebibytes(memory.histories),
        mebibytes(memory.answers),
        mebibytes(memory.limit),
        resident().map_or(String::new(), |bytes| format!(
            ", {:.0} MiB resident",
            mebibytes(bytes)
        ))
    );
    Ok(())
}

/// Questions that are asked once and drawn many times.
fn rest(store: &Store, id: RunId, shape: &bellows_query::Shape) -> Result<(), String> {
    let router = shape.routers.first().ok_or("the run has no routers")?.0;
    let columns = 1600;
    let time = LoadOverTime {
        run: id,
        router,
        span: Span::ALL,
        columns,
        measure: Measure::Tokens,
        order: Order::Index,
    };
    once("load over time", store, &time)?;
    once(
        "… by similarity",
        store,
        &LoadOverTime {
            order: Order::Cluster,
            ..time
        },
    )?;
    once(
        "balance over time",
        store,
        &Balance {
            run: id,
            span: Span::ALL,
            columns,
            figure: BalanceFigure::Imbalance,
        },
    )?;
    once(
        "memory timeline",
        store,
        &MemoryTimeline {
            run: id,
            span: Span::ALL,
            columns,
        },
    )?;
    if let Some(to) = shape.after(router) {
        let step = u64::MAX;
        once(
            "transition matrix",
            store,
            &Transitions {
                run: id,
                step,
                from: router,
                to,
                order: Order::Cluster,
            },
        )?;
        once("all transitions", store, &FlowStrength { run: id, step })?;
    }
    once(
        "traced text",
        store,
        &TracedText {
            run: id,
            step: u64::MAX,
            router,
        },
    )?;
    once(
        "saturation",
        store,
        &Saturation {
            run: id,
            layer: None,
        },
    )
}

fn ask<Q: Query>(store: &Store, query: &Q) -> Result<(), String> {
    store.answer(query).map(drop).map_err(|gap| gap.to_string())
}

fn once<Q: Query>(name: &str, store: &Store, query: &Q) -> Result<(), String> {
    let began = Instant::now();
    match store.answer(query) {
        Ok(_) => println!("{name:<18} {:.1} ms", milliseconds(began)),
        Err(gap) => println!("{name:<18} {gap}"),
    }
    Ok(())
}

/// Jumps about in the run, as a hand on the time line does.
fn scrub(
    name: &str,
    steps: &[u64],
    mut ask: impl FnMut(u64) -> Result<(), String>,
) -> Result<(), String> {
    const JUMPS: usize = 300;
    let mut times: Vec<f64> = Vec::with_capacity(JUMPS);
    for jump in 0..JUMPS {
        let step = steps[jump * 7919 % steps.len()];
        let began = Instant::now();
        ask(step)?;
        times.push(milliseconds(began));
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{name:<18} {:.2} ms a step in the median, {:.2} ms at worst of {JUMPS} jumps",
        times[JUMPS / 2],
        times[JUMPS - 1]
    );
    Ok(())
}

/// How long a written step takes until the store knows it.
fn live(folder: &Path) -> Result<(), String> {
    let size = Size {
        steps: 1000,
        ..Size::LARGE
    };
    let words = |error: bellows_record::RecordError| error.to_string();
    let writer = RunWriter::create(
        folder,
        "live",
        generated_record::info(size),
        generated_record::CONFIG,
    )
    .map_err(words)?;
    let store = Store::new(Options::default());
    let id = store.open(writer.path());
    let mut worst = 0.0f64;
    for step in 1..=20 {
        generated_record::record(&writer, size, step).map_err(words)?;
        writer.flush().map_err(words)?;
        let began = Instant::now();
        while store.run(id).is_none_or(|run| {
            run.routing.last() != Some(&step) || run.steps.is_none_or(|steps| steps.1 < step)
        }) {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!(
                    "step {step} of a live run is not known after ten seconds"
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        worst = worst.max(milliseconds(began));
    }
    println!("live               {worst:.0} ms at worst until a written step is known");
    writer.finish(RunState::Finished).map_err(words)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What this process holds, where the system says so in a file.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}

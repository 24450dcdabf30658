//! Writes a large generated record, to look at with the viewer or to measure it with.
//!
//! ```sh
//! cargo run --release -p bellows-query --example generate_record -- DIR          # 10,000 steps, 6 GB
//! cargo run --release -p bellows-query --example generate_record -- DIR 500 4 2 16   # steps, layers, iterations, experts
//! ```

#[path = "generated_record/mod.rs"]
mod generated_record;

use std::path::PathBuf;
use std::time::Instant;

use generated_record::Size;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().ok_or(
        "say in which folder: generate_record DIR [STEPS [LAYERS [ITERATIONS [EXPERTS]]]]",
    )?);
    let mut size = Size::LARGE;
    if let Some(steps) = arguments.next() {
        size.steps = steps.parse()?;
        size.rare = (size.steps / 20).max(1);
    }
    for value in [&mut size.layers, &mut size.iterations, &mut size.experts] {
        if let Some(given) = arguments.next() {
            *value = given.parse()?;
        }
    }
    size.k = size.k.min((size.experts / 4).max(1));
    let began = Instant::now();
    let run = generated_record::write(&root, "generated", size)?;
    println!(
        "{} written in {:.1} s",
        run.display(),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

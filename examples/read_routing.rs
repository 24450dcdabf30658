//! Shows how evenly a run's experts are used, from its record alone: no engine, no model, no device.
//!
//! ```sh
//! cargo run --release --example read_routing -- runs/rust-code
//! ```

use std::error::Error;
use std::path::PathBuf;

use bellows_record::RunReader;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("give the folder of a run")?;
    let run = RunReader::open(&PathBuf::from(path))?;
    let model = &run.manifest().info.model;
    println!(
        "{} ({}): {} layers with {} experts, {} chosen a token",
        run.manifest().name,
        run.liveness(),
        model.moe_layers,
        model.experts,
        model.experts_per_token
    );

    let (mut routing, mut routers) = (run.routing(), run.routers());
    routing.poll()?; // finds the steps that were recorded; a running run has more at the next poll
    routers.poll()?;
    let (Some(first), Some(last)) = (routing.steps().next(), routing.latest()) else {
        return Err(
            "the run recorded no routing: is it a mixture, and record.routing_every above 0?"
                .into(),
        );
    };
    for step in [first, last] {
        println!("step {step}");
        let rows = routing.read(step)?;
        for router in routers.read(step)? {
            let bars: String = rows
                .iter()
                .filter(|row| (row.layer, row.iteration) == (router.layer, router.iteration))
                .map(|row| {
                    // 4 of 8 is an even share of the assignments.
                    let even = router.tokens * u64::from(model.experts_per_token);
                    let eighths = 4 * row.tokens * u64::from(model.experts) / even.max(1);
                    ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][eighths.min(7) as usize]
                })
                .collect();
            println!(
                "  layer {} iteration {}  {bars}  entropy {:.2} nat",
                router.layer, router.iteration, router.entropy
            );
        }
    }
    Ok(())
}

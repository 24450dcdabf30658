//! How long the viewer takes to open a large record and to draw a frame while its time cursor jumps: layout, triangles,
//! pixels on whatever adapter there is, and reading them back, on every page.
//!
//! ```sh
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer          # 1,000 steps
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer -- 10000 # 6 GB on the disk
//! cargo run --release --manifest-path viewer/Cargo.toml --target-dir target --example bench_viewer -- RUN   # one that is there
//! ```

#[path = "generated_record/mod.rs"]
mod generated_record;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bellows_query::{Options, RunId, Store};
use bellows_viewer::app::{App, Settings, Workspace};
use bellows_viewer::export::{Painting, Pixels};
use bellows_viewer::theme::{self, Theme};
use generated_record::Size;

const SIZE: (u32, u32) = (1480, 920);
const FRAMES: u64 = 60;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1);
    let steps = argument
        .as_deref()
        .map_or(Some(1000), |argument| argument.parse::<u64>().ok());
    let folder = std::env::temp_dir().join(format!("bellows-bench-viewer-{}", std::process::id()));
    let run = match (steps, &argument) {
        (None, Some(path)) => PathBuf::from(path),
        (steps, _) => {
            let steps = steps.unwrap_or(1000);
            let size = Size {
                steps,
                rare: (steps / 20).max(1),
                ..Size::LARGE
            };
            generated_record::write(&folder, "generated", size)?
        }
    };
    let measured = measure(&run);
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder)?;
    }
    measured
}

fn measure(run: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let pixels = Pixels::new()?;
    println!("adapter            {}", pixels.adapter());
    let began = Instant::now();
    let store = Store::new(Options::default());
    let id = store.open(run);
    let mut screen = Screen::new(&store, id, pixels);
    screen.frame()?;
    println!(
        "first frame        {:.0} ms after the start",
        milliseconds(began.elapsed())
    );
    while store
        .run(id)
        .is_some_and(|run| run.range().is_none() && run.problem.is_none())
    {
        screen.frame()?;
    }
    screen.frame()?;
    println!("first frame of it  {:.0} ms", milliseconds(began.elapsed()));
    store.wait(id, Duration::from_secs(600));
    println!("all of it read     {:.0} ms", milliseconds(began.elapsed()));
    let (first, last) = store
        .run(id)
        .and_then(|run| run.range())
        .ok_or("nothing was recorded")?;
    for page in Workspace::ALL {
        screen.app.view_mut().workspace = page;
        for _ in 0..4 {
            screen.frame()?;
        }
        let mut times = Vec::new();
        screen.layout = Duration::ZERO;
        let spent = processor_time();
        for frame in 0..FRAMES {
            // Steps far apart, as a dragged cursor passes them.
            let place = frame * 7919 % FRAMES;
            screen.app.view_mut().step = first + (last - first) * place / FRAMES;
            let began = Instant::now();
            screen.frame()?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let at = |part: f64| milliseconds(times[((times.len() - 1) as f64 * part) as usize]);
        // On a machine that other programs share, only the processor's time means something.
        let spent = match (spent, processor_time()) {
            (Some(before), Some(after)) => format!("{:.1} ms", (after - before) / FRAMES as f64),
            _ => "unknown".to_owned(),
        };
        println!(
            "scrub {:<12} {:.1} ms a frame, 95 % below {:.1}, worst {:.1}; questions and layout {:.1} ms; processor time {spent}",
            page.name().to_lowercase(),
            at(0.5),
            at(0.95),
            at(1.0),
            milliseconds(screen.layout) / FRAMES as f64,
        );
    }
    let memory = store.memory();
    println!(
        "held               {} MiB of {} MiB",
        (memory.histories + memory.answers) >> 20,
        memory.limit >> 20
    );
    Ok(())
}

struct Screen {
    app: App,
    context: egui::Context,
    pixels: Pixels,
    time: f64,
    /// Spent on questions and layout so far.
    layout: Duration,
}

impl Screen {
    fn new(store: &Store, run: RunId, pixels: Pixels) -> Self {
        let context = egui::Context::default();
        theme::install_fonts(&context);
        let mut app = App::new(store.clone(), Theme::dark(), Settings::default(), None);
        app.view_mut().run = Some(run);
        Self {
            app,
            context,
            pixels,
            time: 0.0,
            layout: Duration::ZERO,
        }
    }

    fn frame(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.time += 1.0 / 60.0;
        let (width, height) = SIZE;
        let input = egui::RawInput {
            screen_rect: Some(egui::Rect::from_min_size(
                egui::Pos2::ZERO,
                egui::vec2(width as f32, height as f32),
            )),
            time: Some(self.time),
            ..egui::RawInput::default()
        };
        let began = Instant::now();
        let output = self.context.run_ui(input, |ui| self.app.ui(ui));
        self.layout += began.elapsed();
        self.pixels.image(Painting {
            context: self.context.clone(),
            shapes: output.shapes,
            textures: output.textures_delta,
            size: SIZE,
            scale: 1.0,
            answer: None,
            gap: None,
        })?;
        Ok(())
    }
}

/// What this process has taken of all processors so far, milliseconds; Linux tells it in hundredths of a second.
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 * 10.0)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! `bellows generate`.

use std::io::Read;

use bellows_engine::generate::Sampling;
use burn::module::Module;
use serde_json::json;

use crate::cli::GenerateArgs;
use crate::error::Error;
use crate::models::{ModelFolder, resolve};
use crate::run::continue_text;
use crate::ui::Ui;

/// Continues a text.
///
/// # Errors
/// If the folder holds no usable model, or the prompt cannot be read (exit code 2).
pub fn run(args: GenerateArgs, ui: &Ui) -> Result<(), Error> {
    let mut prompt = args.prompt.clone();
    if prompt == "-" {
        prompt.clear();
        std::io::stdin()
            .read_to_string(&mut prompt)
            .map_err(|error| {
                Error::input("cannot read the prompt from standard input").because(error)
            })?;
    }
    let folder = ModelFolder::open(&resolve(&args.model, args.checkpoint)?)?;
    let tokenizer = folder.tokenizer()?;
    let opened = args.device.open()?;
    let compute = args.precision.of_flag(&opened)?.compute;
    let model = {
        let _spinner = ui.spinner("loading the model");
        folder.load_in(&opened.device, compute)?.valid()
    };
    let mut texts = Vec::new();
    for sample in 0..args.samples {
        let sampling = Sampling {
            max_tokens: args.max_tokens,
            temperature: args.temperature,
            top_k: (args.top_k > 0).then_some(args.top_k),
            top_p: (args.top_p < 1.0).then_some(args.top_p),
            seed: args.seed.wrapping_add(sample as u64),
        };
        let text = continue_text(&model, &tokenizer, &prompt, &sampling, &opened.device)?;
        if !args.json {
            if args.samples > 1 {
                ui.status("Sample", format!("{} of {}", sample + 1, args.samples));
            }
            ui.print(format!("{prompt}{text}"));
        }
        texts.push(json!({ "seed": sampling.seed, "text": text }));
    }
    if args.json {
        ui.json(&json!({
            "model": folder.path(),
            "device": opened.label,
            "prompt": prompt,
            "samples": texts,
        }));
    }
    Ok(())
}

//! Trains a small Chain-of-Experts model on this very file, byte by byte: the engine as a library.
//!
//! ```sh
//! cargo run --release --example train_moe
//! ```

use bellows_engine::burn::tensor::Device;
use bellows_engine::config::{ConfigError, ModelConfig, ModelType};
use bellows_engine::model::{Decoder, Init, Sequences};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::step::{self, MicroBatch};

const TIME: usize = 64;

fn main() -> Result<(), ConfigError> {
    let bytes = include_bytes!("train_moe.rs").iter();
    let text: Vec<i32> = bytes.map(|&byte| byte.into()).collect();
    let config = ModelConfig {
        model_type: ModelType::CoeDeepseekV2,
        vocab_size: 256,
        hidden_size: 64,
        num_hidden_layers: 2,
        n_routed_experts: 8,
        num_experts_per_tok: 2,
        moe_intermediate_size: 32,
        inner_iter: 2, // the chain: what the experts made is routed, and goes through them, again
        ..ModelConfig::default()
    };
    config.validate()?;
    let device = Device::flex().autodiff();
    let mut init = Init::random(&device, 0, config.initializer_range);
    let mut model = Decoder::new(&mut init, &config);
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let objective = RouterObjective::default();
    for number in 1..=300 {
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        for row in 0..8 {
            let start = (8 * number + row) * 997 % (text.len() - TIME);
            ids.extend(&text[start..start + TIME]);
            labels.extend(&text[start + 1..=start + TIME]);
        }
        let sequences = Sequences::plain(8, TIME, ids);
        let batch = MicroBatch {
            sequences,
            labels,
            ..MicroBatch::default()
        };
        let result = step::run(&model, &[batch], &objective, &device, &mut NoObserver);
        (model, _) = optimizer.update(model, result.gradients, 3e-3);
        if number == 1 || number % 50 == 0 {
            // Of the first layer, in its first iteration: 8 rows of 64 bytes, 2 experts each.
            let chosen = &result.frequencies.chosen[0];
            let loss = result.losses.cross_entropy;
            println!("step {number:3}  loss {loss:.3}  bytes by expert {chosen:?}");
        }
    }
    Ok(())
}

//! What a step needs besides weights, plainly, with checkpoints and streamed. Alone in its program:
//! tests beside it would allocate from the same pools, and it counts all that the program allocates.

#[path = "../../../kernels/tests/on_device/device.rs"]
mod device;

use bellows_engine::config::{ModelConfig, ModelType};
use bellows_engine::kernels::memory::{Counting, in_use, peak_during};
use bellows_engine::model::{Decoder, Init, Sequences};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::step::{Backpropagation, MicroBatch, Settings, run_with};
use bellows_engine::stream::{self, Keep};
use burn::tensor::Device;

use device::test_device;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TIME: usize = 1024;
const VOCABULARY: usize = 32;

/// Layers whose activations outweigh their weights by far: dense ones, then chains of experts, of whose
/// rows a driver on a processor keeps nothing at all.
fn model(device: &Device) -> Decoder {
    let config = ModelConfig {
        model_type: ModelType::CoeDeepseekV2,
        vocab_size: VOCABULARY,
        hidden_size: 32,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        first_k_dense_replace: 3,
        intermediate_size: 512,
        n_routed_experts: 4,
        num_experts_per_tok: 2,
        moe_intermediate_size: 256,
        inner_iter: 2,
        inner_residual: true,
        max_position_embeddings: TIME,
        ..ModelConfig::default()
    };
    config.validate().expect("a valid model");
    Decoder::new(&mut Init::random(device, 17, 0.1), &config)
}

/// The most bytes in use during one step beyond those before it.
fn peak(model: &Decoder, device: &Device, backpropagation: Backpropagation) -> usize {
    let ids: Vec<i32> = (0..TIME).map(|at| (at * at % VOCABULARY) as i32).collect();
    let batch = MicroBatch {
        labels: ids.clone(),
        sequences: Sequences::plain(1, TIME, ids),
        ..MicroBatch::default()
    };
    let settings = Settings {
        backpropagation,
        ..Settings::default()
    };
    let objective = RouterObjective::default();
    let step = || {
        let batches = std::slice::from_ref(&batch);
        run_with(
            model,
            batches,
            &objective,
            device,
            &mut NoObserver,
            &settings,
        )
    };
    device.sync().expect("the device works");
    let before = in_use(device).expect("pools, or the allocator of this program");
    let (result, peak) = peak_during(device, step);
    drop(result);
    peak.in_use.saturating_sub(before.in_use) as usize
}

#[test]
fn streaming_needs_less_than_checkpoints_and_these_less_than_a_plain_step() {
    let Some(device) = test_device() else { return };
    let device = device.autodiff();
    let model = model(&device);
    let streamed = |chunk| {
        Backpropagation::Streamed(stream::Settings {
            chunk,
            keep: Keep::F32,
            keep_attention: false,
        })
    };
    let of = |way| peak(&model, &device, way);
    // Once before, so that what is made once in a program's life counts for nobody.
    of(streamed(Some(64)));
    let stream = of(streamed(Some(64)));
    let checkpoint = of(streamed(None));
    let plain = of(Backpropagation::Plain);
    println!("bytes: stream {stream}, checkpoint {checkpoint}, plain {plain}");
    // By more than rounding of the allocator: with the reference of attention a chunk's scores and
    // the masks are most of what a streamed step needs, and masks are half as large as whole ones.
    assert!(
        stream * 3 < checkpoint * 2,
        "{stream} is not far below {checkpoint}"
    );
    assert!(
        checkpoint * 2 < plain,
        "{checkpoint} is not far below {plain}"
    );
}

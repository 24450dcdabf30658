//! Flash attention on plain Burn tensors: forward and backward on a GPU, beside the same by plain
//! tensor operations.
//!
//! `cargo run --release --example flash_attention [TOKENS]`

use std::time::Instant;

use bellows_engine::kernels::Kernels;
use bellows_engine::kernels::attention::{Settings, Visible, attention};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};

fn main() {
    let tokens = std::env::args()
        .nth(1)
        .map_or(Ok(1024), |word| word.parse());
    let Ok(tokens) = tokens else {
        eprintln!("error: the one argument is a number of tokens");
        std::process::exit(2);
    };
    let gpu = Device::wgpu_options()
        .device_kind(DeviceKind::DefaultDevice)
        .init();
    let device = gpu.unwrap_or_else(|error| {
        println!("no GPU ({error}): both lines are plain operations on the CPU");
        Device::flex()
    });
    let device = device.autodiff();
    // One sequence, 8 query heads on 4 of keys, 64 features a head; at most 512 tokens back.
    let random = |heads: usize| {
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::<4>::random([1, heads, tokens, 64], normal, &device).require_grad()
    };
    let (query, key, value) = (random(8), random(4), random(4));
    let visible = Visible::default().within(512);

    let mut slopes = Vec::new();
    for kernels in [Kernels::Fused, Kernels::Reference] {
        let settings = Settings {
            kernels,
            ..Settings::default()
        };
        // The first pass compiles.
        for pass in ["first", "second"] {
            let start = Instant::now();
            let (q, k, v) = (query.clone(), key.clone(), value.clone());
            let y = attention(q, k, v, &visible, 0.125, settings);
            let gradients = y.powf_scalar(2.0).sum().backward();
            let slope = query.grad(&gradients).expect("y depends on the query");
            let largest = slope.clone().abs().max().into_scalar::<f32>();
            println!(
                "{kernels:?}, {pass} pass: {:.1} ms, largest slope {largest:.6}",
                start.elapsed().as_secs_f64() * 1e3
            );
            slopes.push(slope);
        }
    }
    let (fused, plain) = (slopes[1].clone(), slopes[3].clone());
    let difference = fused.sub(plain).abs().max().into_scalar::<f32>();
    println!("largest difference of slopes: {difference:.1e}");
}

//! Generation with cached keys and values.

use bellows_engine::generate::{Sampling, generate};
use bellows_engine::model::{Cache, Decoder, Input, Sequences};
use burn::module::Module;
use burn::tensor::Device;

use crate::batches::{ids, logits};
use crate::device::test_device;
use crate::models::{VOCABULARY, build, coe, deepseek_v3, qwen3_sliding};
use crate::numbers::{assert_close, host};

fn greedy(max_tokens: usize) -> Sampling {
    Sampling {
        max_tokens,
        temperature: 0.0,
        ..Sampling::default()
    }
}

fn generated(
    model: &Decoder,
    prompt: &[u32],
    stop: Option<u32>,
    sampling: &Sampling,
    device: &Device,
) -> Vec<u32> {
    let mut tokens = Vec::new();
    generate(&model.valid(), prompt, stop, sampling, device, |token| {
        tokens.push(token);
        true
    });
    tokens
}

#[test]
fn cached_logits_equal_the_full_forward_token_by_token() {
    let Some(device) = test_device() else { return };
    // Grouped heads with a window shorter than the text, compressed queries, a chain.
    for config in [qwen3_sliding(), deepseek_v3(), coe()] {
        let model = build(&config, &device);
        let ids = ids(3, 8);
        let whole = logits(&model, &Sequences::plain(1, 8, ids.clone()), &device);
        let model = model.valid();
        let mut cache = Cache::new(config.num_hidden_layers);
        // A prompt, a stretch of several tokens after it, then one at a time.
        for (start, end) in [(0, 3), (3, 5), (5, 6), (6, 7), (7, 8)] {
            let part = Sequences::plain(1, end - start, ids[start..end].to_vec());
            let input = Input::new(&config, &part, cache.length, &device);
            let found = model.logits(model.forward(&input, Some(&mut cache)).hidden);
            let wanted = &whole[start * VOCABULARY..end * VOCABULARY];
            assert_close("logits", &host(found), wanted);
        }
        assert_eq!(cache.length, 8);
    }
}

#[test]
fn greedy_generation_takes_the_likeliest_token_of_the_full_forward() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let found = generated(&model, &[3, 1, 4], None, &greedy(5), &device);
    let mut text = vec![3, 1, 4];
    for _ in 0..5 {
        let sequences = Sequences::plain(1, text.len(), text.clone());
        let logits = logits(&model, &sequences, &device);
        let last = &logits[logits.len() - VOCABULARY..];
        let best = (0..VOCABULARY).max_by(|&a, &b| last[a].total_cmp(&last[b]));
        text.push(best.expect("a vocabulary") as i32);
    }
    let wanted: Vec<u32> = text[3..].iter().map(|&id| id as u32).collect();
    assert_eq!(found, wanted);
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let Some(device) = test_device() else { return };
    let model = build(&qwen3_sliding(), &device);
    let draw = |seed| {
        let sampling = Sampling {
            max_tokens: 12,
            temperature: 1.5,
            seed,
            ..Sampling::default()
        };
        generated(&model, &[3, 1, 4], None, &sampling, &device)
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn generation_ends_at_the_stop_token_at_refusal_and_at_the_context() {
    let Some(device) = test_device() else { return };
    let model = build(&qwen3_sliding(), &device);
    let all = generated(&model, &[3, 1, 4], None, &greedy(6), &device);
    assert_eq!(all.len(), 6);
    let stop = all[2];
    let first = all
        .iter()
        .position(|&token| token == stop)
        .expect("it is there");
    let stopped = generated(&model, &[3, 1, 4], Some(stop), &greedy(6), &device);
    assert_eq!(
        stopped,
        all[..first],
        "the stop token is not part of the text"
    );

    let mut calls = 0;
    generate(
        &model.valid(),
        &[3, 1, 4],
        None,
        &greedy(6),
        &device,
        |_| {
            calls += 1;
            calls < 2
        },
    );
    assert_eq!(calls, 2);

    let mut config = qwen3_sliding();
    config.max_position_embeddings = 5;
    let short = build(&config, &device);
    let text = generated(&short, &[3, 1, 4], None, &greedy(6), &device);
    // Three tokens of prompt and two more fit; the last of them still predicts one.
    assert_eq!(text, all[..3]);
    // Of a prompt longer than the context, the end counts.
    let long = generated(&short, &[9, 9, 9, 7, 3, 1, 4], None, &greedy(1), &device);
    let end = generated(&short, &[7, 3, 1, 4], None, &greedy(1), &device);
    assert_eq!(long, end);
    assert!(generated(&short, &[], None, &greedy(6), &device).is_empty());
}

//! Attention against head-by-head attention with a whole mask, whose gradients are Burn's own.

use bellows_kernels::attention::reference::BLOCK;
use bellows_kernels::attention::{
    HIDDEN, KeySums, Known, Scope, Settings, Tier, Tile, Tiles, Visible, attention, attention_again,
};
use bellows_kernels::calls::{self, Path};
use bellows_kernels::vjp::seed;
use bellows_kernels::{Compute, Kernels, memcheck};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::device::test_device;
use crate::oracle::{Leaf, Leaves, TOLERANCE, assert_close, host, leaf, noise, noisy, run, tensor};

const SCALE: f64 = 0.7;

/// A shape, and who sees whom in it.
#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    heads: usize,
    groups: usize,
    time: usize,
    length: usize,
    width: usize,
    value_width: usize,
    window: Option<usize>,
    /// First positions of the queries' documents, by row; of one row for all or a row each.
    starts: Option<Vec<Vec<i32>>>,
}

impl Case {
    /// Two query heads on one of keys, all earlier positions visible.
    fn square(time: usize, width: usize) -> Self {
        Self {
            batch: 1,
            heads: 2,
            groups: 1,
            time,
            length: time,
            width,
            value_width: width,
            window: None,
            starts: None,
        }
    }

    fn leaves(&self) -> [Leaf; 3] {
        let (b, g, s) = (self.batch, self.groups, self.length);
        [
            noisy("query", &[b, self.heads, self.time, self.width]),
            noisy("key", &[b, g, s, self.width]),
            noisy("value", &[b, g, s, self.value_width]),
        ]
    }

    fn visible(&self, device: &Device) -> Visible {
        Visible {
            window: self.window,
            starts: self.starts.as_ref().map(|rows| {
                let data = TensorData::new(rows.concat(), [rows.len(), self.time]);
                memcheck::place_integers(Tensor::<2, Int>::from_data(data, device))
            }),
        }
    }

    fn mask(&self, device: &Device) -> Tensor<4> {
        let mut values = Vec::new();
        for row in 0..self.batch {
            for query in 0..self.time {
                let position = self.length - self.time + query;
                let windowed = (position + 1).saturating_sub(self.window.unwrap_or(usize::MAX));
                let start = self
                    .starts
                    .as_ref()
                    .map_or(0, |rows| rows[row.min(rows.len() - 1)][query] as usize);
                let first = windowed.max(start);
                values.extend((0..self.length).map(|key| {
                    if (first..=position).contains(&key) {
                        0.0
                    } else {
                        HIDDEN
                    }
                }));
            }
        }
        let shape = [self.batch, 1, self.time, self.length];
        tensor(values, shape, device)
    }

    fn ours(&self, leaves: &Leaves, settings: Settings) -> Tensor<4> {
        let visible = self.visible(&leaves.device);
        let (query, key, value) = (leaves.at(0), leaves.at(1), leaves.at(2));
        attention(query, key, value, &visible, SCALE, settings)
    }

    /// Head by head, no grouping tricks.
    fn plain(&self, leaves: &Leaves) -> Tensor<4> {
        let (query, key, value): (Tensor<4>, Tensor<4>, Tensor<4>) =
            (leaves.at(0), leaves.at(1), leaves.at(2));
        let mask = self.mask(&leaves.device);
        let outputs = (0..self.heads)
            .map(|head| {
                let group = head / (self.heads / self.groups);
                let query = query.clone().narrow(1, head, 1);
                let key = key.clone().narrow(1, group, 1).swap_dims(2, 3);
                let scores = query.matmul(key) * SCALE + mask.clone();
                softmax(scores, 3).matmul(value.clone().narrow(1, group, 1))
            })
            .collect();
        Tensor::cat(outputs, 1)
    }

    /// Result and gradients on `device`, in each of `ways`, against the oracle's on the CPU.
    fn check_in(&self, device: &Device, ways: &[Way]) {
        let leaves = self.leaves();
        let wanted = run(&leaves, &Device::flex(), |leaves| self.plain(leaves));
        for way in ways {
            let found = run(&leaves, device, |leaves| self.ours(leaves, way.settings));
            let what = |part: &str| format!("{part}, {way:?}, {self:?}");
            let tolerance = way.tolerance;
            assert_close(&what("result"), &found.result, &wanted.result, tolerance);
            for (index, name) in ["query", "key", "value"].into_iter().enumerate() {
                let (found, wanted) = (&found.gradients[index], &wanted.gradients[index]);
                assert_close(&what(name), found, wanted, tolerance);
            }
        }
    }

    /// In f32, and with cooperative matrices where there are some.
    fn check(&self, device: &Device) {
        let mut ways = vec![Way::new(Compute::F32, None)];
        ways.extend(cooperative_ways(device, self.width, self.value_width));
        self.check_in(device, &ways);
    }
}

/// A way to compute.
#[derive(Clone, Copy, Debug)]
struct Way {
    settings: Settings,
    tolerance: f32,
}

impl Way {
    /// In 16 bits, operands and weights are rounded once each, and in backward the slopes as well:
    /// each rounding moves a sum by at most its own unit relative to the largest term, and the
    /// exponents' errors, some √D units, are as large as those of all others together. Eight
    /// roundings of the largest value hold all of it.
    fn new(compute: Compute, tier: Option<Tier>) -> Self {
        Self {
            settings: Settings {
                kernels: Kernels::Fused,
                compute,
                tier,
            },
            tolerance: match compute {
                Compute::F32 => TOLERANCE,
                _ => 8.0 * compute.rounding(),
            },
        }
    }
}

const HALVES: [Compute; 2] = [Compute::F16, Compute::Bf16];

/// Plain tiles in the 16-bit types that the device stores.
fn plain_halves(device: &Device) -> Vec<Way> {
    HALVES
        .into_iter()
        .filter(|compute| *device != Device::flex() && compute.stored_by(device))
        .map(|compute| Way::new(compute, Some(Tier::Plain)))
        .collect()
}

/// The cooperative tier, as its rule would run it, one way a type.
fn cooperative_ways(device: &Device, width: usize, value_width: usize) -> Vec<Way> {
    let mut ways = Vec::new();
    for compute in HALVES {
        let Ok(own) = Tier::cooperative(device, compute, width, value_width) else {
            continue;
        };
        let whole = |tile| Tile {
            scope: Scope::Workgroup,
            ..tile
        };
        let workgroups = Tiles {
            forward: whole(own.forward),
            query: whole(own.query),
            keys: whole(own.keys),
            ..own
        };
        // The rule's, and what it would be on a device that computes with no single elements.
        for tiles in [own, workgroups] {
            for held in [true, false] {
                let tiles = Tiles { held, ..tiles };
                if tiles.run_on(device, compute, width, value_width) {
                    ways.push(Way::new(compute, Some(Tier::Cooperative(tiles))));
                }
            }
        }
    }
    ways
}

#[test]
fn grouped_heads_and_unequal_value_width_equal_head_by_head_attention() {
    let Some(device) = test_device() else { return };
    // Grouped, one head a group, one group for all.
    for (heads, groups, value_width) in [(4, 2, 8), (2, 2, 24), (3, 1, 16)] {
        let case = Case {
            batch: 2,
            heads,
            groups,
            value_width,
            ..Case::square(21, 16)
        };
        case.check(&device);
    }
}

#[test]
fn latent_attentions_wide_queries_and_narrow_values_equal_plain_attention() {
    let Some(device) = test_device() else { return };
    let case = Case {
        heads: 2,
        groups: 2,
        value_width: 128,
        ..Case::square(35, 192)
    };
    case.check(&device);
}

#[test]
fn tiles_and_blocks_that_end_midway_change_nothing() {
    let Some(device) = test_device() else { return };
    // One more than tiles of 32 and 64, one less than a tile of 128, and more than a block of
    // the reference.
    for time in [33, BLOCK + 1, 127] {
        Case::square(time, 8).check(&device);
    }
}

#[test]
fn more_scores_than_are_held_at_a_time_change_nothing() {
    let Some(device) = test_device() else { return };
    // Of 32 heads in all the reference holds the scores of 27 queries, and backward of 64 keys.
    let large = Case {
        batch: 2,
        heads: 16,
        groups: 8,
        length: 150,
        ..Case::square(130, 8)
    };
    let windowed = Case {
        window: Some(40),
        ..large.clone()
    };
    let starts = (0..130).map(|query| (query + 20) / 50 * 50).collect();
    let packed = Case {
        starts: Some(vec![starts]),
        ..large.clone()
    };
    for case in [large, windowed, packed] {
        case.check(&device);
    }
}

#[test]
fn gradients_of_keys_summed_over_chunks_are_those_of_all_queries_at_once() {
    let Some(device) = test_device() else { return };
    let case = Case {
        heads: 4,
        groups: 2,
        value_width: 16,
        ..Case::square(20, 8)
    };
    let wanted = run(&case.leaves(), &Device::flex(), |leaves| case.plain(leaves));
    let [query, key, value] = case.leaves().map(|leaf| leaf.into_values());
    let query: Tensor<4> = tensor(query, [1, 4, 20, 8], &device);
    let key: Tensor<4> = tensor(key, [1, 2, 20, 8], &device);
    let value: Tensor<4> = tensor(value, [1, 2, 20, 16], &device);
    // What the result of `run` is multiplied by.
    let upstream: Tensor<4> = tensor(noise(99, 4 * 20 * 16), [1, 4, 20, 16], &device);
    // From the last chunk to the first, whose keys the later ones have read.
    let mut sums = None;
    let (mut dkeys, mut dvalues) = (Vec::new(), Vec::new());
    for (start, end) in [(12, 20), (0, 12)] {
        let into = KeySums::new(sums.take());
        let part = |of: &Tensor<4>, from: usize| of.clone().narrow(2, from, end - from);
        let own = Tensor::from_inner(part(&query, start)).require_grad();
        let (key, value) = (part(&key, 0), part(&value, 0));
        let (visible, settings) = (Visible::default(), Settings::default());
        let into_sums = Some(&into);
        let (y, _) = attention_again(own, key, value, &visible, SCALE, settings, into_sums, None);
        drop(seed(y, part(&upstream, start)).backward());
        let (dkey, dvalue) = into.take().expect("a backward pass ran");
        dkeys.insert(0, dkey.clone().narrow(2, start, end - start));
        dvalues.insert(0, dvalue.clone().narrow(2, start, end - start));
        if start > 0 {
            sums = Some((dkey.narrow(2, 0, start), dvalue.narrow(2, 0, start)));
        }
    }
    for (found, wanted) in [
        (dkeys, &wanted.gradients[1]),
        (dvalues, &wanted.gradients[2]),
    ] {
        let found = host(Tensor::cat(found, 2));
        assert_close("keys or values", &found, wanted, TOLERANCE);
    }
}

#[test]
fn a_known_result_is_taken_as_it_is_and_gives_the_gradients_of_a_computed_one() {
    let Some(device) = test_device() else { return };
    // One width that the kernels pad.
    for (width, value_width) in [(8, 16), (6, 5)] {
        let case = Case {
            heads: 4,
            groups: 2,
            value_width,
            ..Case::square(20, width)
        };
        let [query, key, value] = case.leaves().map(|leaf| leaf.into_values());
        let query: Tensor<4> = tensor(query, [1, 4, 20, width], &device);
        let key: Tensor<4> = tensor(key, [1, 2, 20, width], &device);
        let value: Tensor<4> = tensor(value, [1, 2, 20, value_width], &device);
        let upstream = noise(99, 4 * 20 * value_width);
        let upstream: Tensor<4> = tensor(upstream, [1, 4, 20, value_width], &device);
        let pass = |known: Option<Known>| {
            let leaf = |of: &Tensor<4>| Tensor::from_inner(of.clone()).require_grad();
            let (q, k, v) = (leaf(&query), leaf(&key), leaf(&value));
            let (y, found) = attention_again(
                q.clone(),
                k.clone(),
                v.clone(),
                &Visible::default(),
                SCALE,
                Settings::default(),
                None,
                known,
            );
            let mut raw = seed(y.clone(), upstream.clone()).backward();
            let gradients = [q, k, v].map(|leaf| host(leaf.grad_remove(&mut raw).expect("used")));
            (host(y.inner()), gradients, found)
        };
        let (computed, gradients, known) = pass(None);
        let again = pass(Some(known.clone()));
        assert_eq!((again.0, again.1), (computed.clone(), gradients));
        let raised = Known {
            y: known.y.add_scalar(1.0),
            ..known
        };
        let raised = pass(Some(raised)).0;
        assert!(
            computed
                .iter()
                .zip(raised)
                .all(|(y, raised)| y + 1.0 == raised)
        );
    }
}

#[test]
fn queries_behind_a_longer_past_see_all_of_it() {
    let Some(device) = test_device() else { return };
    // One token against a cache, a chunk that is no tile, a chunk behind less than a tile.
    for (time, length) in [(1, 70), (37, 101), (40, 43)] {
        let case = Case {
            length,
            ..Case::square(time, 16)
        };
        case.check(&device);
    }
}

#[test]
fn heads_of_8_40_and_256_features_and_of_no_multiple_of_8_are_padded_inside() {
    let Some(device) = test_device() else { return };
    for (width, value_width) in [(8, 8), (40, 40), (256, 256), (6, 5)] {
        let case = Case {
            value_width,
            ..Case::square(34, width)
        };
        case.check(&device);
    }
}

#[test]
fn a_head_wider_than_the_kernels_take_still_computes() {
    let Some(device) = test_device() else { return };
    Case::square(5, 264).check(&device);
}

#[test]
fn a_sliding_window_hides_what_is_before_it() {
    let Some(device) = test_device() else { return };
    // Itself and one more, within a tile, over tiles, as long as the sequence, longer.
    for window in [2, 5, 40, 70, 1000] {
        let case = Case {
            window: Some(window),
            ..Case::square(70, 8)
        };
        case.check(&device);
    }
    let chunk = Case {
        window: Some(20),
        length: 90,
        ..Case::square(41, 8)
    };
    chunk.check(&device);
}

#[test]
fn who_sees_nothing_but_itself_gets_its_own_value() {
    let Some(device) = test_device() else { return };
    // A window of one, and a sequence of one token.
    for (time, window) in [(40, Some(1)), (1, None)] {
        let case = Case {
            heads: 1,
            window,
            ..Case::square(time, 8)
        };
        let mut ways = vec![Way::new(Compute::F32, None)];
        ways.extend(cooperative_ways(&device, 8, 8));
        for way in ways {
            let leaves = case.leaves();
            let found = run(&leaves, &device, |leaves| case.ours(leaves, way.settings));
            let [_, _, value] = leaves;
            let value = value.into_values();
            assert_close("result", &found.result, &value, way.tolerance);
            // The one weight is 1 whatever the scores: their slopes cancel.
            for gradient in &found.gradients[..2] {
                assert!(gradient.iter().all(|slope| slope.abs() < way.tolerance));
            }
        }
    }
}

/// Where documents of these lengths start, for each of their tokens from `from` on.
fn starts(lengths: &[usize], from: usize) -> Vec<i32> {
    let mut starts = Vec::new();
    let mut start = 0;
    for &length in lengths {
        starts.extend(vec![start as i32; length]);
        start += length;
    }
    starts.split_off(from)
}

#[test]
fn packed_documents_do_not_see_one_another_in_any_row() {
    let Some(device) = test_device() else { return };
    // A document of one token, of whole tiles, of a tile and a bit; other ones in the other row.
    let rows = vec![starts(&[1, 32, 33, 4], 0), starts(&[64, 3, 3], 0)];
    let mut case = Case {
        batch: 2,
        starts: Some(rows),
        ..Case::square(70, 8)
    };
    case.check(&device);
    case.window = Some(9);
    case.check(&device);
    // One row for all.
    case.starts = Some(vec![starts(&[30, 40], 0)]);
    case.check(&device);
    // A chunk behind documents that ended before it, and in the middle of one.
    case.window = None;
    case.time = 25;
    case.starts = Some(vec![starts(&[10, 50, 10], 45)]);
    case.check(&device);
}

#[test]
fn sixteen_bits_stay_within_their_rounding_in_plain_tiles() {
    let Some(device) = test_device() else { return };
    let case = Case {
        heads: 4,
        groups: 2,
        length: 70,
        window: Some(50),
        ..Case::square(37, 40)
    };
    for compute in HALVES {
        if device == Device::flex() {
            break;
        }
        if !compute.stored_by(&device) {
            println!(
                "SKIPPED sixteen_bits_stay_within_their_rounding_in_plain_tiles: the device does \
                 not store {compute:?}"
            );
            return;
        }
        case.check_in(&device, &[Way::new(compute, Some(Tier::Plain))]);
    }
}

#[test]
fn every_tile_of_the_cooperative_tier_computes_the_same() {
    let Some(device) = test_device() else { return };
    let case = Case {
        batch: 2,
        heads: 4,
        groups: 2,
        length: 300,
        window: Some(140),
        starts: Some(vec![starts(&[90, 100, 110], 50), starts(&[300], 50)]),
        ..Case::square(250, 64)
    };
    for compute in HALVES {
        let found = Tier::cooperative(&device, compute, case.width, case.value_width);
        let Tiles { forward, .. } = match found {
            Ok(tiles) => tiles,
            Err(reason) => {
                println!(
                    "SKIPPED every_tile_of_the_cooperative_tier_computes_the_same: {compute:?}: \
                     {reason}"
                );
                return;
            }
        };
        let mut ways = Vec::new();
        use Scope::{Subgroup, Workgroup};
        for (scope, subgroups, columns, joint, held) in [
            (Subgroup, 8, 32, true, true),
            (Subgroup, 8, 32, true, false),
            (Subgroup, 4, 32, false, true),
            (Subgroup, 2, 16, true, true),
            (Subgroup, 8, 16, false, false),
            (Subgroup, 4, 64, true, true),
            (Workgroup, 8, 32, true, true),
            (Workgroup, 4, 32, false, false),
            (Workgroup, 4, 64, true, true),
        ] {
            let tile = Tile {
                scope,
                subgroups: subgroups.min(forward.subgroups),
                columns,
            };
            let tiles = Tiles {
                forward: tile,
                query: tile,
                keys: tile,
                joint,
                held,
            };
            // Not all devices have the memory for all of them.
            if tiles.run_on(&device, compute, case.width, case.value_width) {
                ways.push(Way::new(compute, Some(Tier::Cooperative(tiles))));
            }
        }
        assert!(!ways.is_empty(), "the rule's own tiles fit");
        case.check_in(&device, &ways);
    }
}

#[test]
fn rising_scores_rescale_what_was_summed_before() {
    let Some(device) = test_device() else { return };
    // The largest score of a row is its last: every tile raises it, by more than any headroom.
    let (time, width) = (150, 16);
    let rows = |rise: f32, seed: u64| -> Vec<f32> {
        let noise = noise(seed, time * width);
        let value = |(at, noise): (usize, f32)| noise * 0.2 + rise * (at / width) as f32;
        noise.into_iter().enumerate().map(value).collect()
    };
    let leaves = || {
        [
            leaf(
                "query",
                &[1, 1, time, width],
                rows(0.0, 1).iter().map(|x| x + 1.0).collect(),
            ),
            leaf("key", &[1, 1, time, width], rows(0.02, 2)),
            leaf("value", &[1, 1, time, width], rows(0.0, 3)),
        ]
    };
    let case = Case {
        heads: 1,
        ..Case::square(time, width)
    };
    let wanted = run(&leaves(), &Device::flex(), |leaves| case.plain(leaves));
    let mut ways = vec![Way::new(Compute::F32, None)];
    ways.extend(cooperative_ways(&device, width, width));
    for way in ways {
        let found = run(&leaves(), &device, |leaves| case.ours(leaves, way.settings));
        // Scores of some thirty, in which a rounding moves an exponent thirty times as far.
        let tolerance = match way.settings.compute {
            Compute::F32 => 1e-4,
            compute => 32.0 * compute.rounding(),
        };
        assert_close("result", &found.result, &wanted.result, tolerance);
        for (found, wanted) in found.gradients.iter().zip(&wanted.gradients) {
            assert_close("gradient", found, wanted, tolerance);
        }
    }
}

#[test]
fn scores_that_rise_past_the_end_of_a_type_count_all_the_same() {
    let Some(device) = test_device() else { return };
    // Operands that 16 bits hold exactly, one feature that rises from tile to tile: by what a row's
    // weights may become until its sum is read again, by what that reading finds in time in bf16
    // alone, by more than any sum holds. Then one key above all others, late and first, and
    // scores that fall.
    let (time, width, value_width) = (600, 24, 16);
    let exact = |seed, count| -> Vec<f32> {
        noise(seed, count)
            .iter()
            .map(|x| (x * 4.0).round() / 4.0)
            .collect()
    };
    let rises: [&dyn Fn(usize) -> f32; 6] = [
        &|key| (key / 32) as f32,
        &|key| (key / 32) as f32 * 4.0,
        &|key| (key / 32) as f32 * 64.0,
        &|key| if key == 300 { 128.0 } else { 0.0 },
        &|key| if key == 0 { 12.0 } else { 0.0 },
        &|key| -((key / 32) as f32) * 16.0,
    ];
    for (at, rise) in rises.into_iter().enumerate() {
        let leaves = || {
            let mut query = exact(1, time * width);
            let mut key = exact(2, time * width);
            for row in 0..time {
                query[row * width] = 1.0;
                key[row * width] = rise(row);
            }
            [
                leaf("query", &[1, 1, time, width], query),
                leaf("key", &[1, 1, time, width], key),
                leaf(
                    "value",
                    &[1, 1, time, value_width],
                    exact(3, time * value_width),
                ),
            ]
        };
        let case = Case {
            heads: 1,
            value_width,
            ..Case::square(time, width)
        };
        let wanted = run(&leaves(), &Device::flex(), |leaves| case.plain(leaves));
        let mut ways = vec![Way::new(Compute::F32, None)];
        ways.extend(plain_halves(&device));
        ways.extend(cooperative_ways(&device, width, value_width));
        for way in ways {
            let found = run(&leaves(), &device, |leaves| case.ours(leaves, way.settings));
            // The log-sum-exps are as large as the scores: their own rounding, in f32, moves weights.
            let tolerance = way.tolerance.max(1e-3);
            let what = |part: &str| format!("{part}, {way:?}, rise {at}");
            assert_close(&what("result"), &found.result, &wanted.result, tolerance);
            // In 16 bits the query's slopes are differences of products with keys as large as scores.
            let mut compared = vec![(1, "key"), (2, "value")];
            if way.settings.compute == Compute::F32 {
                compared.push((0, "query"));
            }
            for (index, name) in compared {
                let (found, wanted) = (&found.gradients[index], &wanted.gradients[index]);
                assert_close(&what(name), found, wanted, tolerance);
            }
        }
    }
}

#[test]
fn long_sequences_with_windows_documents_and_odd_widths_equal_plain_attention() {
    let Some(device) = test_device() else { return };
    // Enough tiles that all rows see whole for several readings of their sums.
    let long = Case {
        heads: 3,
        groups: 3,
        length: 640,
        value_width: 24,
        ..Case::square(601, 40)
    };
    let windowed = Case {
        window: Some(333),
        ..long.clone()
    };
    let packed = Case {
        starts: Some(vec![starts(&[310, 1, 16, 313], 39)]),
        ..long.clone()
    };
    let both = Case {
        window: Some(290),
        ..packed.clone()
    };
    for case in [long, windowed, packed, both] {
        case.check(&device);
    }
}

#[test]
fn a_hidden_key_has_no_effect_and_no_gradient_even_with_large_scores() {
    let Some(device) = test_device() else { return };
    // Scores of some hundreds: exponentials of them alone overflow f32.
    let values = |seed, count| -> Vec<f32> {
        noise(seed, count)
            .iter()
            .map(|value| value * 20.0)
            .collect()
    };
    // Nobody sees the first two of five positions: they are another document's.
    let case = Case {
        heads: 2,
        groups: 2,
        length: 5,
        starts: Some(vec![vec![2; 3]]),
        ..Case::square(3, 8)
    };
    let outcome = |hidden_value: f32| {
        let mut keys = values(2, 2 * 5 * 8);
        keys[..2 * 8].fill(hidden_value);
        let leaves = [
            leaf("query", &[1, 2, 3, 8], values(1, 48)),
            leaf("key", &[1, 2, 5, 8], keys),
            leaf("value", &[1, 2, 5, 8], values(3, 80)),
        ];
        run(&leaves, &device, |leaves| {
            case.ours(leaves, Settings::default())
        })
    };
    let (small, large) = (outcome(0.0), outcome(50.0));
    assert_eq!(small.result, large.result);
    assert_close("query", &small.gradients[0], &large.gradients[0], 0.0);
    for gradient in &large.gradients[1..] {
        assert!(gradient.iter().all(|value| value.is_finite()));
        assert_eq!(gradient[..16], [0.0; 16]);
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(device) = test_device() else { return };
    let case = Case {
        heads: 4,
        groups: 2,
        window: Some(50),
        ..Case::square(100, 24)
    };
    let mut ways = vec![Way::new(Compute::F32, None)];
    ways.extend(cooperative_ways(&device, 24, 24));
    for way in ways {
        let outcome = || {
            let outcome = run(&case.leaves(), &device, |leaves| {
                case.ours(leaves, way.settings)
            });
            let all = outcome.gradients.concat().into_iter().chain(outcome.result);
            all.map(f32::to_bits).collect::<Vec<_>>()
        };
        assert!(outcome() == outcome(), "{way:?}");
    }
}

#[test]
fn bounds_checks_change_no_bit() {
    let Some(device) = test_device() else { return };
    let case = Case {
        heads: 4,
        groups: 2,
        value_width: 16,
        starts: Some(vec![starts(&[20, 31], 10)]),
        length: 51,
        ..Case::square(41, 24)
    };
    let mut ways = vec![Way::new(Compute::F32, None)];
    ways.extend(cooperative_ways(&device, 24, 16));
    for way in ways {
        let outcome = || {
            let outcome = run(&case.leaves(), &device, |leaves| {
                case.ours(leaves, way.settings)
            });
            let all = outcome.gradients.concat().into_iter().chain(outcome.result);
            all.map(f32::to_bits).collect::<Vec<_>>()
        };
        let unchecked = outcome();
        assert!(
            unchecked == memcheck::with_bounds_checks(outcome),
            "{way:?}"
        );
    }
}

#[test]
fn strided_operands_are_read_as_they_are() {
    let Some(device) = test_device() else { return };
    // As projections leave them: [B, T, heads, D], swapped.
    let case = Case {
        heads: 4,
        groups: 2,
        ..Case::square(13, 8)
    };
    let leaves = [
        noisy("query", &[1, 13, 4, 8]),
        noisy("key", &[1, 13, 2, 8]),
        noisy("value", &[1, 13, 2, 8]),
    ];
    let swapped = |leaves: &Leaves, at: usize| leaves.at::<4>(at).swap_dims(1, 2);
    let found = run(&leaves, &device, |leaves| {
        attention(
            swapped(leaves, 0),
            swapped(leaves, 1),
            swapped(leaves, 2),
            &case.visible(&leaves.device),
            SCALE,
            Settings::default(),
        )
    });
    let wanted = run(&leaves, &Device::flex(), |leaves| {
        let parts = [0, 1, 2].map(|at| swapped(leaves, at));
        let [query, key, value] = parts;
        attention(
            query,
            key,
            value,
            &case.visible(&leaves.device),
            SCALE,
            Settings::default(),
        )
    });
    assert_close("result", &found.result, &wanted.result, TOLERANCE);
    for (found, wanted) in found.gradients.iter().zip(&wanted.gradients) {
        assert_close("gradient", found, wanted, TOLERANCE);
    }
}

/// Other tests only add to what is counted: no other one takes.
#[test]
fn what_computed_is_told_and_the_reference_is_never_called_kernels() {
    let Some(device) = test_device() else { return };
    let on_gpu = device != Device::flex();
    let case = Case::square(3, 8);
    run(&case.leaves(), &device, |leaves| {
        case.ours(leaves, Settings::default())
    });
    let told = calls::take();
    let attention: Vec<Path> = told
        .iter()
        .filter(|calls| calls.family == "attention" && calls.count > 0)
        .map(|calls| calls.path)
        .collect();
    let kernels = attention
        .iter()
        .any(|path| matches!(path, Path::Kernels(_)));
    assert_eq!(kernels, on_gpu, "{told:?}");
    assert!(on_gpu || attention.contains(&Path::Reference), "{told:?}");
}

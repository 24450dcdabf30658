//! A plan in words and tables.

use bellows_engine::kernels::memory::Kind;
use bellows_engine::plan::{Candidate, MOST_TOKENS, Nearest, Phase};
use bellows_engine::step::Backpropagation;
use bellows_engine::stream::Settings;

use super::{Answer, Measured};
use crate::ui::{Table, bytes};

/// The plan in one sentence, without its end.
pub fn verdict(answer: &Answer<'_>) -> String {
    let limit = answer.question.limit;
    let of_limit = |needed: u64| match limit {
        Some(limit) => format!("{} of {}", bytes(needed), bytes(limit)),
        None => bytes(needed),
    };
    let beside = match answer.question.beside {
        0 => String::new(),
        beside => format!(" beside {} that are in use already", bytes(beside)),
    };
    match answer.plan.chosen() {
        Some(candidate) => {
            let fits = match limit {
                Some(_) => "fits",
                None => "needs, where no limit is known",
            };
            format!(
                "{fits}: {} at the peak{beside}, in {} mode{}{}",
                of_limit(candidate.prediction.needed()),
                candidate.mode.as_str(),
                in_chunks(candidate.chunk()),
                match candidate.keeps_attention() {
                    true => ", the results of attention kept",
                    false => "",
                }
            )
        }
        None => {
            let asked = least(answer);
            let needs = match answer.question.oversized(&asked.prediction) {
                Some(most) => format!(
                    "{} in one buffer for the rows of a mixture's choices, and the device's largest \
                     buffer holds {}",
                    bytes(asked.prediction.largest_rows),
                    bytes(most)
                ),
                None => format!("{}{beside}", of_limit(asked.prediction.needed())),
            };
            format!(
                "does not fit: {} mode needs {needs}{}",
                asked.mode.as_str(),
                match answer.plan.nearest {
                    Some(nearest) => format!("; the nearest that fits is {}", settings(nearest)),
                    None => "; nothing smaller fits either".into(),
                }
            )
        }
    }
}

/// Of the modes that the run may take, the one that needs least.
pub(super) fn least<'a>(answer: &'a Answer<'_>) -> &'a Candidate {
    let candidates = answer.plan.candidates.iter();
    candidates
        .filter(|candidate| answer.question.may_take(candidate.mode))
        .min_by_key(|candidate| candidate.prediction.needed())
        .expect("a mode is allowed")
}

fn in_chunks(chunk: Option<usize>) -> String {
    chunk.map_or_else(String::new, |chunk| format!(" in chunks of {chunk} tokens"))
}

/// The settings that `nearest` is.
pub(super) fn settings(nearest: Nearest) -> String {
    match nearest {
        Nearest::Mode(mode) => format!("train.memory = \"{}\"", mode.as_str()),
        Nearest::HostMemory => "train.memory = \"stream\" with stream.keep = \"host\"".into(),
        Nearest::Batch(batch, mode) => {
            format!("train.batch_size = {batch} ({} mode)", mode.as_str())
        }
        Nearest::Time(time, mode) => format!(
            "train.batch_size = 1 with train.sequence_length = {time} ({} mode)",
            mode.as_str()
        ),
    }
}

/// What to do where it does not fit.
pub fn advice(answer: &Answer<'_>) -> Vec<String> {
    let mut advice = Vec::new();
    let Some(nearest) = answer.plan.nearest else {
        let asked = least(answer);
        if answer.plan.chosen.is_none() && answer.question.oversized(&asked.prediction).is_some() {
            advice.push(
                "set train.batch_size or train.sequence_length lower, or with train.memory = \"stream\" \
                 stream.chunk"
                    .into(),
            );
        } else if answer.plan.chosen.is_none() {
            advice.push(
                format!(
                    "give it more memory or train a smaller model: weights and the optimizer's moments alone take {}",
                    bytes(least(answer).prediction.resident())
                ),
            );
        }
        return advice;
    };
    advice.push(format!("set {}", settings(nearest)));
    if let Nearest::Batch(batch, _) = nearest {
        let load = answer.question.load;
        let accumulation = (load.batch * load.micro_batches).div_ceil(batch);
        advice.push(format!(
            "train.accumulation = {accumulation} then keeps the tokens of a step"
        ));
    }
    advice.push("`bellows plan` shows what each mode needs".into());
    advice
}

/// How activations are kept, in words, for the record.
pub fn ways(backpropagation: Backpropagation) -> String {
    match backpropagation {
        Backpropagation::Plain => "plain".to_owned(),
        Backpropagation::Streamed(Settings {
            chunk,
            keep,
            keep_attention,
        }) => {
            let way = match chunk {
                None => "checkpoint".to_owned(),
                Some(chunk) => format!("stream in chunks of {chunk} tokens"),
            };
            let what = match keep_attention {
                true => "inputs and attention",
                false => "inputs",
            };
            format!("{way}, {what} kept as {}", keep.as_str())
        }
    }
}

const KINDS: [(&str, Kind); 5] = [
    ("weights", Kind::Weights),
    ("gradients", Kind::Gradients),
    ("optimizer", Kind::Optimizer),
    ("activations", Kind::Activations),
    ("workspace", Kind::Workspace),
];

/// The peak of each mode by kind, and what would fit.
pub fn table(answer: &Answer<'_>) -> Table {
    let mut table = Table::new([
        "mode",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "workspace",
        "peak",
        "reserved",
        "fits",
        "longest sequence",
        "largest batch",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 7, 9, 10]);
    // No more than `MOST_TOKENS` are looked at.
    let number = |value: Option<usize>, others: usize| match value {
        None => "–".to_owned(),
        Some(n) if n * others * 100 > 99 * MOST_TOKENS => format!("≥ {n}"),
        Some(n) => n.to_string(),
    };
    let load = answer.question.load;
    for (index, (candidate, (_, time, batch))) in answer
        .plan
        .candidates
        .iter()
        .zip(answer.largest())
        .enumerate()
    {
        let peak = candidate.prediction.peak();
        let [weights, gradients, optimizer, activations, workspace] =
            KINDS.map(|(_, kind)| bytes(peak.bytes[kind as usize]));
        let chosen = answer.plan.chosen == Some(index);
        table.row([
            format!(
                "{}{}{}{}",
                candidate.mode.as_str(),
                candidate
                    .chunk()
                    .map_or_else(String::new, |chunk| format!(" {chunk}")),
                match candidate.keeps_attention() {
                    true => ", attention kept",
                    false => "",
                },
                if chosen { " *" } else { "" }
            ),
            weights,
            gradients,
            optimizer,
            activations,
            workspace,
            bytes(peak.total()),
            bytes(candidate.prediction.needed()),
            match candidate.fits {
                Some(true) => "yes".into(),
                Some(false) => "no".into(),
                None => "?".into(),
            },
            number(time, load.batch),
            number(batch, load.time),
        ]);
    }
    table
}

/// The fullest moment of each phase of the chosen mode, or of the one that needs least.
pub fn phases(answer: &Answer<'_>) -> Table {
    let candidate = answer.plan.chosen().unwrap_or_else(|| least(answer));
    let mut table = Table::new([
        "phase",
        "fullest in",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "workspace",
        "in use",
    ])
    .right(&[2, 3, 4, 5, 6, 7]);
    for phase in [Phase::Forward, Phase::Backward, Phase::Optimizer] {
        let Some(moment) = candidate.prediction.of(phase) else {
            continue;
        };
        let [weights, gradients, optimizer, activations, workspace] =
            KINDS.map(|(_, kind)| bytes(moment.bytes[kind as usize]));
        table.row([
            phase.as_str().into(),
            match (moment.layer, phase) {
                (Some(layer), _) => format!("layer {layer}"),
                (None, Phase::Optimizer) => "the update".into(),
                (None, _) => "embedding and head".into(),
            },
            weights,
            gradients,
            optimizer,
            activations,
            workspace,
            bytes(moment.total()),
        ]);
    }
    table
}

/// The fullest moment of each phase, predicted and measured, by kind.
pub fn phases_measured(found: &Measured) -> Table {
    let mut table = Table::new([
        "phase",
        "by",
        "layer",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "workspace",
        "unexplained",
        "in use",
    ])
    .right(&[3, 4, 5, 6, 7, 8, 9]);
    let layer = |layer: Option<usize>| layer.map_or_else(|| "–".to_owned(), |n| n.to_string());
    for phase in [Phase::Forward, Phase::Backward, Phase::Optimizer] {
        if let Some(moment) = found.predicted.of(phase) {
            let [a, b, c, d, e] = KINDS.map(|(_, kind)| bytes(moment.bytes[kind as usize]));
            let total = bytes(moment.total());
            table.row([
                phase.as_str().into(),
                "plan".into(),
                layer(moment.layer),
                a,
                b,
                c,
                d,
                e,
                String::new(),
                total,
            ]);
        }
        let measured = found.moments.iter();
        for moment in measured.filter(|moment| moment.phase == phase.as_str()) {
            let of = |kind: Kind| -> u64 {
                let held = moment.held.iter().filter(|held| held.owner != "program");
                let held = held.filter(|held| held.kind == kind);
                held.map(|held| held.bytes).sum()
            };
            let [a, b, c, d, e] = KINDS.map(|(_, kind)| bytes(of(kind)));
            let named: u64 = Kind::ALL.into_iter().map(of).sum();
            let in_use = moment.held_at.in_use.saturating_sub(found.before);
            table.row([
                phase.as_str().into(),
                "measured".into(),
                layer(moment.layer.map(|layer| layer as usize)),
                a,
                b,
                c,
                d,
                e,
                bytes(in_use.saturating_sub(named)),
                bytes(moment.reading.in_use.saturating_sub(found.before)),
            ]);
        }
    }
    table
}

/// Who holds memory at the measured peak, the largest first.
pub fn owners(found: &Measured) -> Table {
    let mut table = Table::new(["owner", "layer", "kind", "bytes"]).right(&[1, 3]);
    let Some(moment) = found.fullest() else {
        return table;
    };
    let mut held = moment.held.clone();
    held.sort_by_key(|held| std::cmp::Reverse(held.bytes));
    for held in held.into_iter().take(16) {
        table.row([
            held.owner.into_owned(),
            held.layer.map_or_else(|| "–".to_owned(), |n| n.to_string()),
            held.kind.as_str().into(),
            bytes(held.bytes),
        ]);
    }
    table
}

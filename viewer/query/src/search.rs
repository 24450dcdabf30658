//! Words found in a run.

use crate::scalars::config::settings;
use crate::store::run::Run;
use crate::store::trace_record::Probe;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// Looks for words in metrics' names, settings, events, samples, the probe text and experts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Search {
    /// The runs.
    pub runs: Vec<RunId>,
    /// The words: all have to occur, whatever their case. `expert 3`, `layer 2` and a step's number find those.
    pub text: String,
    /// The most hits of a kind.
    pub limit: usize,
}

/// Answers [`Search`].
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// The words.
    pub text: String,
    /// What was found, the best first.
    pub hits: Vec<Hit>,
    /// How many more there are.
    pub more: usize,
}

/// Something found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The run.
    pub run: RunId,
    /// Where it leads.
    pub target: Target,
    /// What to show of it.
    pub text: String,
}

/// Where a hit leads.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A metric, by its key.
    Metric(String),
    /// A setting, by its key.
    Setting(String),
    /// An event, at its step.
    Event(u64),
    /// A sample, at its step.
    Sample(u64),
    /// A token of the probe text: sequence and position.
    Token(u32, u32),
    /// An expert.
    Expert(RouterId, u32),
    /// A layer's first router.
    Router(RouterId),
    /// A step.
    Step(u64),
}

impl Query for Search {
    type Answer = Hits;

    fn runs(&self) -> Vec<RunId> {
        self.runs.clone()
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<Hits, Gap> {
        let mut found = Hits {
            text: self.text.clone(),
            hits: Vec::new(),
            more: 0,
        };
        let words: Vec<String> = self
            .text
            .split_whitespace()
            .map(str::to_lowercase)
            .collect();
        if words.is_empty() {
            return Ok(found);
        }
        for &id in &self.runs {
            let run = store.find(id)?;
            self.places(&run, &words, &mut found);
            self.texts(store, &run, &words, &mut found);
        }
        Ok(found)
    }
}

impl Search {
    /// Experts, layers and steps that the words name.
    fn places(&self, run: &Run, words: &[String], found: &mut Hits) {
        let snapshot = run.snapshot();
        let number = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            words.get(at + 1)?.parse::<u32>().ok()
        };
        let (layer, iteration) = (number("layer"), number("iteration"));
        let fits = |router: &RouterId| {
            layer.is_none_or(|layer| router.layer == layer)
                && iteration.is_none_or(|iteration| router.iteration == iteration)
        };
        let mut hits = Vec::new();
        if let Some(expert) = number("expert") {
            let routers = snapshot
                .shape
                .routers
                .iter()
                .filter(|(router, experts)| fits(router) && expert < *experts);
            hits.extend(routers.map(|&(router, _)| {
                (
                    Target::Expert(router, expert),
                    format!("expert {expert} of {router}"),
                )
            }));
        } else if layer.is_some() {
            let routers = snapshot
                .shape
                .routers
                .iter()
                .filter(|(router, _)| fits(router));
            hits.extend(routers.map(|&(router, experts)| {
                (
                    Target::Router(router),
                    format!("{router}: {experts} experts"),
                )
            }));
        }
        let step = match words {
            [word] => word.parse().ok(),
            [step, word] if step == "step" => word.parse().ok(),
            _ => None,
        };
        if let (Some(step), Some((first, last))) = (step, snapshot.range())
            && (first..=last).contains(&step)
        {
            hits.push((
                Target::Step(step),
                format!("step {step} of {}", snapshot.name),
            ));
        }
        self.add(run, hits.into_iter(), found);
    }

    /// Names and texts that hold all words.
    fn texts(&self, store: &Store, run: &Run, words: &[String], found: &mut Hits) {
        let snapshot = run.snapshot();
        let holds = |text: &str| {
            let text = text.to_lowercase();
            words.iter().all(|word| text.contains(word.as_str()))
        };
        let metrics = snapshot.metrics.iter().filter(|name| holds(name));
        self.add(
            run,
            metrics.map(|name| (Target::Metric(name.clone()), name.clone())),
            found,
        );
        let settings = settings(&snapshot).unwrap_or_default();
        let settings = settings
            .into_iter()
            .map(|(key, value)| (Target::Setting(key.clone()), format!("{key} = {value}")));
        self.add(run, settings.filter(|(_, text)| holds(text)), found);
        let events = snapshot.events.iter().rev().map(|event| {
            let text = format!("{} at step {}: {}", event.kind, event.step, event.reason);
            (Target::Event(event.step), text)
        });
        self.add(run, events.filter(|(_, text)| holds(text)), found);
        let samples = snapshot.samples.iter().rev().map(|sample| {
            let text = format!("step {}: {}{}", sample.step, sample.prompt, sample.text);
            (Target::Sample(sample.step), text)
        });
        self.add(
            run,
            samples
                .filter(|(_, text)| holds(text))
                .map(|(target, text)| (target, shortened(&text))),
            found,
        );
        if let Ok(probe) = Probe::of_run(store, run) {
            let tokens = probe
                .tokens
                .iter()
                .filter(|token| holds(&token.text) || holds(&token.source));
            let hits = tokens.map(|token| {
                let text = format!("{:?} in {}", token.text, token.source);
                (Target::Token(token.sequence, token.position), text)
            });
            self.add(run, hits, found);
        }
    }

    fn add(&self, run: &Run, hits: impl Iterator<Item = (Target, String)>, found: &mut Hits) {
        for (at, (target, text)) in hits.enumerate() {
            if at < self.limit {
                found.hits.push(Hit {
                    run: run.id,
                    target,
                    text,
                });
            } else {
                found.more += 1;
            }
        }
    }
}

/// The first characters of a text, on one line.
fn shortened(text: &str) -> String {
    const MOST: usize = 120;
    let mut short: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    if short.len() < text.len() && text.chars().count() > MOST {
        short.push('…');
    }
    short
}

impl Answer for Hits {
    fn summary(&self) -> String {
        match (self.hits.len(), self.more) {
            (0, _) => format!("Nothing matches {:?}.", self.text),
            (found, 0) => format!("{found} found for {:?}.", self.text),
            (found, more) => format!("{found} shown for {:?}, {more} more.", self.text),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Found for {:?}", self.text),
            &[("kind", ""), ("where", ""), ("text", "")],
        );
        for hit in &self.hits {
            let (kind, place) = match &hit.target {
                Target::Metric(key) => ("metric", key.clone()),
                Target::Setting(key) => ("setting", key.clone()),
                Target::Event(step) => ("event", format!("step {step}")),
                Target::Sample(step) => ("sample", format!("step {step}")),
                Target::Token(sequence, position) => {
                    ("token", format!("sequence {sequence} position {position}"))
                }
                Target::Expert(router, expert) => ("expert", format!("{router} expert {expert}")),
                Target::Router(router) => ("router", router.to_string()),
                Target::Step(step) => ("step", step.to_string()),
            };
            table.push([kind.into(), place.into(), hit.text.clone().into()]);
        }
        table
    }

    fn bytes(&self) -> usize {
        self.hits
            .iter()
            .map(|hit| size_of::<Hit>() + hit.text.capacity() + 32)
            .sum()
    }
}

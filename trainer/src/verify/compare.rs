//! Golden numbers against the engine's, key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bellows_engine::model::Decoder;
use bellows_engine::optim::Gradients;
use bellows_engine::step::StepResult;
use bellows_engine::weights::{
    NamedTensor, Naming, SafetensorsSource, TensorSource, WeightError, Whole, snapshot_tensors,
    wholes,
};
use burn::tensor::Tensor;

use super::report::{Check, Computed, Report};

/// Largest error of a logit, absolute.
const LOGITS: f64 = 1e-4;
/// Largest error of a gradient, ‖g − g*‖ / ‖g*‖.
const GRADIENT: f64 = 1e-3;
/// Largest error of a streamed gradient or loss, relative to the unstreamed one.
const STREAMED: f64 = 1e-5;
/// Two gradients below this norm are equal.
const NO_GRADIENT: f64 = 1e-6;
/// Largest error of a weight after two steps, ‖w − w*‖ / ‖w* − w₀‖.
const WEIGHT: f64 = 2e-2;
/// Under this gradient norm a weight is not judged: AdamW divides by the gradient's size and so
/// amplifies its rounding.
const TINY_GRADIENT: f64 = 1e-4;

/// A golden file, and what was compared so far.
pub struct Golden<'a> {
    source: &'a SafetensorsSource<'a>,
    used: BTreeSet<String>,
    absent: Vec<String>,
    checks: Vec<Check>,
    not_judged: Vec<String>,
    gradient_norms: BTreeMap<String, f64>,
}

/// The values of a tensor, row by row.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec::<f32>().expect("converted to f32")
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    norm(a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)))
}

impl<'a> Golden<'a> {
    pub fn new(source: &'a SafetensorsSource<'a>) -> Self {
        Self {
            source,
            used: BTreeSet::new(),
            absent: Vec::new(),
            checks: Vec::new(),
            not_judged: Vec::new(),
            gradient_norms: BTreeMap::new(),
        }
    }

    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    pub fn ids(&self, name: &str) -> Result<Vec<i32>, WeightError> {
        self.source.read_i32(name)
    }

    /// The golden values under `key`, or a note that there are none. A shape other than the
    /// engine's is an error.
    fn take(
        &mut self,
        key: &str,
        shape: Option<&[usize]>,
    ) -> Result<Option<Vec<f32>>, WeightError> {
        let Some(found) = self.source.shape(key) else {
            self.absent.push(key.to_owned());
            return Ok(None);
        };
        self.used.insert(key.to_owned());
        self.source.read(key, shape.unwrap_or(&found)).map(Some)
    }

    fn largest_difference(&mut self, key: &str, values: &[f32]) -> Result<(), WeightError> {
        let Some(golden) = self.take(key, None)? else {
            return Ok(());
        };
        let error = if golden.len() == values.len() {
            let differences = golden.iter().zip(values).map(|(&a, &b)| (a - b).abs());
            differences.map(f64::from).fold(0.0, worse)
        } else {
            f64::INFINITY
        };
        self.checks.push(Check::new(key, error, LOGITS));
        Ok(())
    }

    pub fn logits(&mut self, values: &[f32]) -> Result<(), WeightError> {
        self.largest_difference("logits", values)
    }

    pub fn router_logits(&mut self, layer: usize, values: &[f32]) -> Result<(), WeightError> {
        self.largest_difference(&format!("router_logits.{layer}"), values)
    }

    pub fn scalar(&mut self, key: &str, value: f64, tolerance: f64) -> Result<(), WeightError> {
        if let Some(golden) = self.take(key, Some(&[1]))? {
            let error = (f64::from(golden[0]) - value).abs();
            self.checks.push(Check::new(key, error, tolerance));
        }
        Ok(())
    }

    pub fn gradients(&mut self, model: &Decoder, gradients: &Gradients) -> Result<(), WeightError> {
        for whole in wholes(model) {
            let of_block = |(name, value): &(String, Tensor<1>)| {
                let gradient = gradients.by_name.get(name).cloned();
                host(gradient.unwrap_or_else(|| value.zeros_like()))
            };
            let values: Vec<f32> = whole.blocks.iter().flat_map(of_block).collect();
            let Whole { name, shape, .. } = whole;
            for part in reference_tensors(model, &name, &shape, &values) {
                let key = format!("grad.{}", part.name);
                let Some(golden) = self.take(&key, Some(&part.shape))? else {
                    continue;
                };
                let wanted = norm(golden.iter().map(|&value| f64::from(value)));
                let found = norm(part.values.iter().map(|&value| f64::from(value)));
                let error = if wanted < NO_GRADIENT && found < NO_GRADIENT {
                    0.0
                } else {
                    distance(&part.values, &golden) / wanted
                };
                self.checks.push(Check::new(&key, error, GRADIENT));
                self.gradient_norms.insert(part.name, wanted);
            }
        }
        Ok(())
    }

    /// Losses and gradients of a streamed step against those of the same step in one piece.
    pub fn streamed(&mut self, whole: &StepResult, streamed: &StepResult) {
        let gap = (whole.losses.total - streamed.losses.total).abs();
        let error = gap / whole.losses.total.abs();
        self.checks.push(Check::new("stream.loss", error, STREAMED));
        for (name, gradient) in &whole.gradients.by_name {
            let wanted = host(gradient.clone());
            let found = match streamed.gradients.by_name.get(name) {
                Some(found) => host(found.clone()),
                None => vec![f32::NAN; wanted.len()],
            };
            let size = |values: &[f32]| norm(values.iter().map(|&value| f64::from(value)));
            let error = if size(&wanted) < NO_GRADIENT && size(&found) < NO_GRADIENT {
                0.0
            } else {
                distance(&found, &wanted) / size(&wanted)
            };
            let key = format!("stream.{name}");
            self.checks.push(Check::new(&key, error, STREAMED));
        }
    }

    pub fn weights_after(&mut self, start: &Decoder, end: &Decoder) -> Result<(), WeightError> {
        for (before, after) in wholes(start).into_iter().zip(wholes(end)) {
            let tensors =
                |whole: Whole| reference_tensors(start, &whole.name, &whole.shape, &whole.values());
            let (before, after) = (tensors(before), tensors(after));
            for (before, after) in before.into_iter().zip(after) {
                let key = format!("step2.{}", after.name);
                let Some(golden) = self.take(&key, Some(&after.shape))? else {
                    continue;
                };
                let gradient = self.gradient_norms.get(&after.name);
                if gradient.is_some_and(|&gradient| gradient < TINY_GRADIENT) {
                    self.not_judged.push(key);
                    continue;
                }
                let moved = distance(&golden, &before.values);
                let error = distance(&after.values, &golden) / moved;
                self.checks.push(Check::new(&key, error, WEIGHT));
            }
        }
        Ok(())
    }

    pub fn finish(self, folder: &Path, tokens: usize, computed: Vec<Computed>) -> Report {
        let unused = self
            .source
            .names()
            .into_iter()
            .filter(|name| name != "input_ids" && !self.used.contains(name))
            .collect();
        Report {
            folder: folder.to_owned(),
            tokens,
            checks: self.checks,
            not_judged: self.not_judged,
            absent: self.absent,
            not_produced: unused,
            computed,
        }
    }
}

/// NaN is the worst of all.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b <= a { a } else { b }
}

fn reference_tensors(
    model: &Decoder,
    name: &str,
    shape: &[usize],
    values: &[f32],
) -> Vec<NamedTensor> {
    snapshot_tensors(model.config(), Naming::Reference, name, shape, values)
}

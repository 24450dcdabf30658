//! AdamW in plain tensor operations.

use burn::tensor::Tensor;

use super::{Moments, Parameter, Settings, Step};
use crate::host;

/// Updates every parameter, or none where the norm of the gradients is not finite; returns that
/// norm, for which it waits.
pub fn update(parameters: Vec<Parameter>, step: &Step) -> (Vec<(Tensor<1>, Moments<1>)>, f64) {
    let gradients: Vec<Tensor<1>> = parameters
        .iter()
        .map(|parameter| parameter.gradient.clone())
        .collect();
    let norm = global_norm(&gradients, step.loss_scale);
    drop(gradients);
    // torch's clip_grad_norm_, epsilon included.
    let clip = step
        .max_norm
        .map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
    let updated = parameters.into_iter().map(|parameter| {
        if norm.is_finite() {
            let settings = step.settings(parameter.weight_decay, clip / step.loss_scale);
            self::step(
                parameter.value,
                parameter.gradient,
                parameter.moments,
                &settings,
            )
        } else {
            let zeros = || parameter.value.zeros_like();
            let moments = parameter.moments.unwrap_or_else(|| Moments {
                first: zeros(),
                second: zeros(),
            });
            (parameter.value, moments)
        }
    });
    (updated.collect(), norm)
}

/// L2 norm of all `gradients` together, each divided by `loss_scale`. Reads the sums of squares
/// back.
pub fn global_norm(gradients: &[Tensor<1>], loss_scale: f64) -> f64 {
    if gradients.is_empty() {
        return 0.0;
    }
    let squares = gradients.iter().map(|gradient| {
        // Divided first: the squares of scaled gradients could overflow.
        let gradient = if loss_scale == 1.0 {
            gradient.clone()
        } else {
            gradient.clone().div_scalar(loss_scale)
        };
        gradient.square().sum()
    });
    host::floats(Tensor::cat(squares.collect(), 0))
        .into_iter()
        .map(f64::from)
        .sum::<f64>()
        .sqrt()
}

/// Updates one parameter; `None` for the moments starts them at zero. Shapes are all equal.
pub fn step<const D: usize>(
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    moments: Option<Moments<D>>,
    settings: &Settings,
) -> (Tensor<D>, Moments<D>) {
    let Settings { beta1, beta2, .. } = *settings;
    let gradient = if settings.clip == 1.0 {
        gradient
    } else {
        gradient.mul_scalar(settings.clip)
    };
    let squared = gradient.clone().square().mul_scalar(1.0 - beta2);
    let scaled = gradient.mul_scalar(1.0 - beta1);
    let moments = match moments {
        Some(old) => Moments {
            first: old.first.mul_scalar(beta1).add(scaled),
            second: old.second.mul_scalar(beta2).add(squared),
        },
        None => Moments {
            first: scaled,
            second: squared,
        },
    };
    let correction1 = 1.0 - beta1.powf(settings.step as f64);
    let correction2 = 1.0 - beta2.powf(settings.step as f64);
    let denominator = moments
        .second
        .clone()
        .sqrt()
        .div_scalar(correction2.sqrt())
        .add_scalar(settings.eps);
    let update = moments
        .first
        .clone()
        .div(denominator)
        .mul_scalar(settings.learning_rate / correction1);
    let decay = settings.learning_rate * settings.weight_decay;
    let parameter = if decay == 0.0 {
        parameter
    } else {
        parameter.mul_scalar(1.0 - decay)
    };
    (parameter.sub(update), moments)
}

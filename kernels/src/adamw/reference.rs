//! AdamW in plain tensor operations.

use burn::tensor::Tensor;

use super::{Moments, Settings};

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

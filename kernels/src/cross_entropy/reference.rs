//! Linear cross-entropy in plain tensor operations, chunk by chunk.

use burn::tensor::{Bool, IndexingUpdateOp, Int, Tensor};

use super::{Gradients, Losses, Pass, Settings, Slopes, objective};
use crate::memory::own_gradient;

/// Tokens whose logits lie in the workspace at one time, in three buffers, and never more than
/// stay near a CPU; all of them where it has no end.
pub fn tokens_at_once(vocabulary: usize, settings: &Settings) -> usize {
    if settings.workspace == usize::MAX {
        return usize::MAX;
    }
    let row = 3 * vocabulary.max(1) * size_of::<f32>();
    (settings.workspace / row).clamp(1, 1024)
}

/// Some tokens, their labels and logits.
struct Chunk {
    rows: Tensor<2>,
    /// `[n, 1]`, 0 where ignored.
    labels: Tensor<2, Int>,
    /// `[n]`.
    ignored: Tensor<1, Bool>,
    start: usize,
    length: usize,
}

impl Chunk {
    fn all<'a>(
        hidden: &'a Tensor<2>,
        labels: &'a Tensor<1, Int>,
        size: usize,
    ) -> impl Iterator<Item = Self> + 'a {
        let [tokens, _] = hidden.dims();
        (0..tokens).step_by(size).map(move |start| {
            let length = size.min(tokens - start);
            let labels = labels.clone().narrow(0, start, length);
            Self {
                rows: hidden.clone().narrow(0, start, length),
                ignored: labels.clone().lower_scalar(0),
                labels: labels.clamp_min(0).unsqueeze_dim(1),
                start,
                length,
            }
        })
    }

    fn part(&self, of: &Tensor<1>) -> Tensor<1> {
        of.clone().narrow(0, self.start, self.length)
    }

    /// Every logit's exponential over the largest's, the sums of these and every loss.
    fn losses(&self, head: &Tensor<2>) -> (Tensor<2>, Tensor<2>, Losses) {
        let logits = self.rows.clone().matmul(head.clone().transpose());
        let largest = logits.clone().max_dim(1);
        let shifted = logits.sub(largest.clone());
        let target = shifted.clone().gather(1, self.labels.clone());
        let exponentials = shifted.exp();
        let sums = exponentials.clone().sum_dim(1);
        let logs = sums.clone().log();
        let losses = Losses {
            losses: logs
                .clone()
                .sub(target)
                .squeeze_dim::<1>(1)
                .mask_fill(self.ignored.clone(), 0.0),
            log_sum_exp: logs.add(largest).squeeze_dim::<1>(1),
        };
        (exponentials, sums, losses)
    }

    /// `slopes` of these tokens `[n]`, 0 where ignored.
    fn slopes(&self, slopes: Slopes) -> (Tensor<2>, Tensor<2>) {
        let mask = |slope: Tensor<1>| {
            slope
                .mask_fill(self.ignored.clone(), 0.0)
                .unsqueeze_dim::<2>(1)
        };
        let label = mask(slopes.losses);
        let all = match slopes.log_sum_exp {
            Some(slope) => label.clone().add(mask(slope)),
            None => label.clone(),
        };
        (label, all)
    }

    /// Adds the gradients of these tokens; `probabilities` are weighted by their slope already.
    fn add_gradients(
        &self,
        probabilities: Tensor<2>,
        label_slopes: Tensor<2>,
        head: &Tensor<2>,
        sums: &mut Sums,
    ) {
        let dlogits = probabilities.scatter(
            1,
            self.labels.clone(),
            label_slopes.neg(),
            IndexingUpdateOp::Add,
        );
        sums.hidden.push(dlogits.clone().matmul(head.clone()));
        let part = dlogits.transpose().matmul(self.rows.clone());
        let sum = match sums.head.take() {
            Some(sum) => sum.add(part),
            None => part,
        };
        own_gradient(&sum);
        sums.head = Some(sum);
    }
}

/// Gradients so far.
struct Sums {
    hidden: Vec<Tensor<2>>,
    head: Option<Tensor<2>>,
}

impl Sums {
    fn new(head: Option<Tensor<2>>) -> Self {
        Self {
            hidden: Vec::new(),
            head,
        }
    }

    fn finish(self, hidden: &Tensor<2>, head: &Tensor<2>) -> Gradients {
        Gradients {
            hidden: joined(self.hidden, || hidden.zeros_like()),
            head: self.head.unwrap_or_else(|| head.zeros_like()),
        }
    }
}

fn joined<const D: usize>(parts: Vec<Tensor<D>>, none: impl FnOnce() -> Tensor<D>) -> Tensor<D> {
    if parts.is_empty() {
        return none();
    }
    Tensor::cat(parts, 0)
}

fn gathered(parts: Vec<Losses>, hidden: &Tensor<2>) -> Losses {
    let (losses, log_sum_exp): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .map(|part| (part.losses, part.log_sum_exp))
        .unzip();
    let none = || Tensor::zeros([0], &hidden.device());
    Losses {
        losses: joined(losses, none),
        log_sum_exp: joined(log_sum_exp, none),
    }
}

/// [`super::forward`].
pub fn forward(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    settings: &Settings,
) -> Losses {
    let size = tokens_at_once(head.dims()[0], settings);
    let parts = Chunk::all(&hidden, &labels, size)
        .map(|chunk| chunk.losses(&head).2)
        .collect();
    gathered(parts, &hidden)
}

/// [`super::backward`].
pub fn backward(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    log_sum_exp: Tensor<1>,
    slopes: Slopes,
    head_sum: Option<Tensor<2>>,
    settings: &Settings,
) -> Gradients {
    let size = tokens_at_once(head.dims()[0], settings);
    let mut sums = Sums::new(head_sum);
    for chunk in Chunk::all(&hidden, &labels, size) {
        let own = Slopes {
            losses: chunk.part(&slopes.losses),
            log_sum_exp: slopes.log_sum_exp.as_ref().map(|slope| chunk.part(slope)),
        };
        let (label_slopes, all_slopes) = chunk.slopes(own);
        let logits = chunk.rows.clone().matmul(head.clone().transpose());
        let log_sum_exp = chunk.part(&log_sum_exp).unsqueeze_dim::<2>(1);
        let probabilities = logits.sub(log_sum_exp).exp().mul(all_slopes);
        chunk.add_gradients(probabilities, label_slopes, &head, &mut sums);
    }
    sums.finish(&hidden, &head)
}

/// [`super::forward_backward`].
pub fn forward_backward(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
    head_sum: Option<Tensor<2>>,
    settings: &Settings,
) -> Pass {
    let size = tokens_at_once(head.dims()[0], settings);
    let mut sums = Sums::new(head_sum);
    let mut parts = Vec::new();
    for chunk in Chunk::all(&hidden, &labels, size) {
        let (exponentials, totals, losses) = chunk.losses(&head);
        let weight = chunk.part(&weights).mul_scalar(settings.loss_scale);
        let of_log_sum_exp = (settings.z_loss != 0.0).then(|| {
            let twice = losses.log_sum_exp.clone().mul_scalar(2.0 * settings.z_loss);
            twice.mul(weight.clone())
        });
        let (label_slopes, all_slopes) = chunk.slopes(Slopes {
            losses: weight,
            log_sum_exp: of_log_sum_exp,
        });
        let probabilities = exponentials.mul(all_slopes.div(totals));
        chunk.add_gradients(probabilities, label_slopes, &head, &mut sums);
        parts.push(losses);
    }
    let losses = gathered(parts, &hidden);
    Pass {
        objective: objective(&losses, labels, weights, settings),
        losses,
        gradients: sums.finish(&hidden, &head),
    }
}

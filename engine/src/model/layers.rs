//! The small parts: linear projection, normalisation, embedding.

use bellows_kernels::embedding::{add_gradient, embedding};
use bellows_kernels::linear::linear;
use bellows_kernels::memory::note;
use bellows_kernels::norm::{add_rms_norm, rms_norm};
use bellows_kernels::{Compute, Kernels};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::{Init, Numerics};

/// `y = x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`, as checkpoints hold it.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// How it computes.
    #[module(skip)]
    pub numerics: Numerics,
}

impl Linear {
    /// A projection from `input` to `output` features.
    pub fn new(init: &mut Init, input: usize, output: usize, bias: bool) -> Self {
        Self {
            weight: init.normal([output, input]),
            bias: bias.then(|| init.constant([output], 0.0)),
            numerics: init.numerics(),
        }
    }

    /// A projection without a bias that is held and multiplied in f32 whatever the model computes
    /// in: a router's choices must not depend on the precision.
    pub fn in_f32(init: &mut Init, input: usize, output: usize) -> Self {
        Self {
            weight: init.normal_in_f32([output, input]),
            bias: None,
            numerics: Numerics {
                compute: Compute::F32,
                ..init.numerics()
            },
        }
    }

    /// `x`: `[rows, in]`; returns `[rows, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let Numerics {
            kernels, compute, ..
        } = self.numerics;
        let y = linear(x, self.weight.val(), compute, kernels);
        match &self.bias {
            Some(bias) => {
                let y = y.add(bias.val().unsqueeze());
                note(&y);
                y
            }
            None => y,
        }
    }
}

/// Root-mean-square normalisation with a learned scale.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    #[module(skip)]
    pub eps: f64,
    /// How it computes.
    #[module(skip)]
    pub numerics: Numerics,
}

impl RmsNorm {
    /// A normalisation over `width` features.
    pub fn new(init: &mut Init, width: usize, eps: f64) -> Self {
        Self {
            weight: init.constant([width], 1.0),
            eps,
            numerics: init.numerics(),
        }
    }

    /// Normalises the last axis of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.weight.val(), self.eps, self.numerics.kernels)
    }

    /// The residual stream, with what is still to be added to it added, and normalised.
    pub fn forward_stream(&self, stream: Stream) -> (Tensor<2>, Tensor<2>) {
        let Stream { residual, update } = stream;
        let Some(update) = update else {
            return (residual.clone(), self.forward(residual));
        };
        let (weight, kernels) = (self.weight.val(), self.numerics.kernels);
        add_rms_norm(update, residual, weight, self.eps, kernels)
    }
}

/// The residual stream between two parts of a decoder, `[batch · time, hidden]`. A part's output
/// is added to it by the normalisation that reads it next, in one pass over both.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The stream so far.
    pub residual: Tensor<2>,
    /// What is still to be added.
    pub update: Option<Tensor<2>>,
}

impl Stream {
    /// The stream with everything added.
    pub fn sum(self) -> Tensor<2> {
        match self.update {
            Some(update) => {
                let sum = self.residual.add(update);
                note(&sum);
                sum
            }
            None => self.residual,
        }
    }
}

/// Token embedding.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, hidden]`.
    pub weight: Param<Tensor<2>>,
    /// Token whose row gets no gradient from look-ups.
    #[module(skip)]
    pub padding: Option<usize>,
    #[module(skip)]
    kernels: Kernels,
}

impl Embedding {
    /// An embedding of `vocabulary` tokens.
    pub fn new(init: &mut Init, vocabulary: usize, hidden: usize, padding: Option<usize>) -> Self {
        Self {
            weight: init.normal([vocabulary, hidden]),
            padding,
            kernels: init.numerics().kernels,
        }
    }

    /// `ids`: `[rows]`; returns `[rows, hidden]`.
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        embedding(self.weight.val(), ids, self.padding, self.kernels)
    }

    /// Adds the gradient `dy` `[rows, hidden]` of [`Embedding::forward`] to `sum`, a gradient of
    /// the weight, all without autodiff; in place where `sum` is the only handle.
    pub fn add_gradient(&self, sum: Tensor<2>, ids: Tensor<1, Int>, dy: Tensor<2>) -> Tensor<2> {
        add_gradient(sum, ids, dy, self.padding)
    }
}

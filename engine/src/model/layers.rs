//! The small parts: linear projection, normalisation, embedding.

use bellows_kernels::norm::rms_norm;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::Init;

/// `y = x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`, as checkpoints hold it.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// A projection from `input` to `output` features.
    pub fn new(init: &mut Init, input: usize, output: usize, bias: bool) -> Self {
        Self {
            weight: init.normal([output, input]),
            bias: bias.then(|| init.constant([output], 0.0)),
        }
    }

    /// `x`: `[rows, in]`; returns `[rows, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = x.matmul(self.weight.val().transpose());
        match &self.bias {
            Some(bias) => y.add(bias.val().unsqueeze()),
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
}

impl RmsNorm {
    /// A normalisation over `width` features.
    pub fn new(init: &mut Init, width: usize, eps: f64) -> Self {
        Self {
            weight: init.constant([width], 1.0),
            eps,
        }
    }

    /// Normalises the last axis of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.weight.val(), self.eps)
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
}

impl Embedding {
    /// An embedding of `vocabulary` tokens.
    pub fn new(init: &mut Init, vocabulary: usize, hidden: usize, padding: Option<usize>) -> Self {
        Self {
            weight: init.normal([vocabulary, hidden]),
            padding,
        }
    }

    /// `ids`: `[rows]`; returns `[rows, hidden]`.
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let rows = self.weight.val().select(0, ids.clone());
        match self.padding {
            None => rows,
            Some(padding) => {
                let [count, hidden] = rows.dims();
                let hold = ids
                    .equal_scalar(padding as i64)
                    .reshape([count, 1])
                    .expand([count, hidden]);
                rows.clone().mask_where(hold, rows.detach())
            }
        }
    }
}

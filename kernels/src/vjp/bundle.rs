//! Inputs whose number is known only when the program runs, as one.

use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor};

use super::{AnyTensor, custom_vjp, lock};

/// Takes the gradients of bundled inputs and hands each to its own.
#[derive(Debug)]
pub struct Handover {
    gradients: Arc<Mutex<Vec<Option<AnyTensor>>>>,
    /// Nobody reads its value.
    unread: Tensor<1>,
}

impl Handover {
    /// Takes a gradient for every input, in order; returns the gradient of the one input that stands
    /// for them.
    pub fn give(self, gradients: Vec<AnyTensor>) -> AnyTensor {
        let mut own = lock(&self.gradients);
        debug_assert_eq!(own.len(), gradients.len(), "a gradient an input");
        *own = gradients.into_iter().map(Some).collect();
        drop(own);
        self.unread.into()
    }
}

/// `tensors` of `device` as one input of [`custom_vjp`], whose inputs are a fixed number. The
/// pullback has to hand their gradients over, which the steps of the bundle, one a tensor, then pass
/// on.
///
/// # Panics
/// As [`custom_vjp`].
pub fn bundle(tensors: Vec<AnyTensor>, device: &Device) -> (AnyTensor, Handover) {
    let gradients = Arc::new(Mutex::new(tensors.iter().map(|_| None).collect::<Vec<_>>()));
    let unread = Tensor::<1>::empty([1], &device.clone().without_autodiff());
    let mut anchor = unread.clone();
    for (index, tensor) in tensors.into_iter().enumerate() {
        let (gradients, value) = (gradients.clone(), unread.clone());
        anchor = custom_vjp([anchor.into(), tensor], unread.clone(), move |_, needs| {
            let mut own = lock(&gradients)[index].take();
            [
                needs[0].then(|| value.into()),
                needs[1].then(|| own.take().expect("the pullback handed them over")),
            ]
        });
    }
    (anchor.into(), Handover { gradients, unread })
}

//! Whole models on the device under test: what must hold however a step is divided, stored,
//! packed or repeated.

mod accumulation;
#[cfg(feature = "fusion")]
mod arithmetic;
mod balance;
mod batches;
mod blocks;
#[path = "../../../kernels/tests/on_device/device.rs"]
mod device;
mod generation;
mod loss_free;
mod models;
mod numbers;
mod numerics;
mod objectives;
mod observation;
mod optimizer;
mod packing;
mod reads;
mod streaming;
mod weights;

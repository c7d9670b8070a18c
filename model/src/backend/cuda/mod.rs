//! Kernels for NVIDIA's cards, and what runs them: a [`Driver`].
//!
//! Every kernel is in `kernels/`, one file an operation. With the feature `emulate` the same text is compiled for the
//! processor as well, so that it is tested where there is no card: [`Emulation`].

mod driver;
#[cfg(feature = "emulate")]
mod emulation;

pub use driver::{Address, Driver, Dtype, Factor, Grid, Product};
#[cfg(feature = "emulate")]
pub use emulation::Emulation;

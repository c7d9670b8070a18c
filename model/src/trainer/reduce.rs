//! Between the passes of a batch and the update: one gradient out of many.

use crate::Result;
use crate::backend::Backend;

/// Sums the gradients of all lanes in the order of their numbers, wherever they were computed.
///
/// Where several processes share the lanes of a batch, each owns some of them and every one ends with the same sum: that
/// of lane 0, lane 1 and so on, the order of a single process, so that the bits are the same for any number of them.
pub trait Reduce<B: Backend>: Send + Sync {
    /// Leaves the sum in the first of `lanes` and zeros in the others.
    fn sum(&mut self, backend: &B, lanes: &mut [B::Floats]) -> Result<()>;
}

/// All lanes are in this process.
#[derive(Debug, Clone, Copy)]
pub struct Here;

impl<B: Backend> Reduce<B> for Here {
    fn sum(&mut self, backend: &B, lanes: &mut [B::Floats]) -> Result<()> {
        backend.sum_lanes(lanes)
    }
}

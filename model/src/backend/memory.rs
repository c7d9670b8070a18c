//! The memory of a device: weights, numbers, activations, and the batches that operations go over.

use super::sealed::Sealed;
use crate::Result;
use crate::rotations::Rotations;
use crate::tokens::Ragged;
use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

/// Memory of a device, all of which fails where the device does, as by running out.
#[allow(clippy::missing_errors_doc)] // said once, above
pub trait Memory: Sealed + Clone + Debug + Send + Sync + 'static {
    /// Weights: master copies of f32 and, where activations have another type, working copies in theirs.
    type Weights: Debug + Send + Sync;
    /// Numbers of f32: gradients of weights, moments, one number for each row.
    type Floats: Debug + Send + Sync;
    /// Activations in the backend's own type.
    type Buffer: Send + Sync;
    /// A batch with its positions' rotations.
    type Batch: Deref<Target = Ragged> + Send + Sync;
    /// Which tokens go to which experts, with which weight.
    type Routes: Send + Sync;
    /// Keys and values of what one sequence has read, in one layer.
    type Cache: Send + Sync;

    /// The largest relative error of an activation's rounding.
    fn rounding(&self) -> f64 {
        2f64.powi(-24)
    }

    /// Whether losses must be scaled for small gradients not to be lost.
    fn scales_loss(&self) -> bool {
        false
    }

    /// Takes weights from the host.
    fn weights(&self, host: Vec<f32>) -> Result<Self::Weights>;
    /// The master copies, all of them.
    fn read_weights<'a>(&self, weights: &'a Self::Weights) -> Result<Cow<'a, [f32]>>;
    /// Takes numbers from the host.
    fn floats(&self, host: Vec<f32>) -> Result<Self::Floats>;
    /// So many zeros.
    fn zeros(&self, len: usize) -> Result<Self::Floats>;
    /// The numbers on the host.
    fn read<'a>(&self, floats: &'a Self::Floats) -> Result<Cow<'a, [f32]>>;
    /// Takes activations of this width from the host.
    fn buffer(&self, host: &[f32], width: usize) -> Result<Self::Buffer>;
    /// Activations on the host.
    fn read_buffer(&self, x: &Self::Buffer) -> Result<Vec<f32>>;
    /// Takes a batch to the device; `rotations` reach its last position.
    fn batch(&self, batch: Ragged, rotations: &Arc<Rotations>) -> Result<Self::Batch>;

    /// The most bytes of the device's own memory that were in use; `None` where it is the process's.
    fn peak_bytes(&self) -> Option<usize> {
        None
    }

    /// A copy.
    fn copy(&self, x: &Self::Buffer) -> Result<Self::Buffer>;
    /// Zeros of the same shape.
    fn zeros_like(&self, x: &Self::Buffer) -> Result<Self::Buffer>;
    /// Makes numbers zero.
    fn clear(&self, floats: &mut Self::Floats) -> Result<()>;
}

//! The memory of a device: weights, f32 arrays, activations, and the batches that operations process.

use super::sealed::Sealed;
use crate::Result;
use crate::layout::Layout;
use crate::rotations::Rotations;
use crate::tokens::Ragged;
use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// What was asked of a device that runs beside the process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Activity {
    /// Number of kernels, matrix products, copies and fills that were queued.
    pub operations: u64,
    /// Number of times that the process waited for the device.
    pub waits: u64,
    /// How long it waited.
    pub waited: Duration,
}

/// Memory of a device. Every operation returns an error if the device fails, for example by running out of memory.
#[allow(clippy::missing_errors_doc)] // stated once, above
pub trait Memory: Sealed + Clone + Debug + Send + Sync + 'static {
    /// Weights: f32 master copies and, if activations have another type, working copies in that type.
    type Weights: Debug + Send + Sync;
    /// Flat arrays of f32: gradients of weights, moments, per-row values.
    type Floats: Debug + Send + Sync;
    /// Values of [`Self::Floats`] on their way to the host.
    type Fetched: Send;
    /// The norm of a gradient, on its way to the host, and the factor of the gradient in the updates, where these read it.
    type GradScale: Send;
    /// Activations in the backend's own type.
    type Buffer: Send + Sync;
    /// A batch, with the rotations of its positions.
    type Batch: Deref<Target = Ragged> + Send + Sync;
    /// The assignment of tokens to experts, with the weight of each.
    type Routes: Send + Sync;
    /// Keys and values of the positions that one sequence has read, in one layer.
    type Cache: Send + Sync;

    /// The largest relative rounding error of an activation.
    fn rounding(&self) -> f64 {
        2f64.powi(-24)
    }

    /// Whether losses must be scaled so that small gradients do not underflow.
    fn scales_loss(&self) -> bool {
        false
    }

    /// Copies weights from the host.
    fn weights(&self, host: Vec<f32>) -> Result<Self::Weights>;
    /// Prepares weights that are only read from now on for products with few rows, as in generation; may take as much memory
    /// again.
    fn pack(&self, _weights: &mut Self::Weights, _layout: &Layout) {}
    /// Returns the master copies of all weights.
    fn read_weights<'a>(&self, weights: &'a Self::Weights) -> Result<Cow<'a, [f32]>>;
    /// Copies f32 values from the host.
    fn floats(&self, host: Vec<f32>) -> Result<Self::Floats>;
    /// Allocates `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Floats>;
    /// Copies the values to the host, or borrows them if they are there.
    fn read<'a>(&self, floats: &'a Self::Floats) -> Result<Cow<'a, [f32]>>;
    /// Starts to copy the values to the host, without waiting for the device.
    fn fetch(&self, floats: Self::Floats) -> Result<Self::Fetched>;
    /// Returns the values; waits until they are there, but not for operations queued after [`Self::fetch`].
    fn fetched(&self, values: Self::Fetched) -> Result<Vec<f32>>;
    /// Copies activations with rows of `width` elements from the host.
    fn buffer(&self, host: &[f32], width: usize) -> Result<Self::Buffer>;
    /// Copies activations to the host.
    fn read_buffer(&self, x: &Self::Buffer) -> Result<Vec<f32>>;
    /// Copies a batch to the device; `rotations` must cover its last position.
    fn batch(&self, batch: Ragged, rotations: &Arc<Rotations>) -> Result<Self::Batch>;

    /// Peak use of the device's own memory in bytes; `None` if the device uses the memory of the process.
    fn peak_bytes(&self) -> Option<usize> {
        None
    }

    /// What was asked of the device so far; `None` if operations run in the process.
    fn activity(&self) -> Option<Activity> {
        None
    }

    /// Returns a copy of a buffer.
    fn copy(&self, x: &Self::Buffer) -> Result<Self::Buffer>;
    /// Returns zeros of the same shape.
    fn zeros_like(&self, x: &Self::Buffer) -> Result<Self::Buffer>;
    /// Sets all values to zero.
    fn clear(&self, floats: &mut Self::Floats) -> Result<()>;
}

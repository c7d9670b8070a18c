//! Host memory. Activations come from per-thread pools; arrays that live as long as a model do not.

use super::{Buffer, Cpu, PIECE, Weights, attention, router};
use crate::Result;
use crate::backend::Memory;
use crate::layout::Layout;
use crate::optimizer::GradScale;
use crate::rotations::Rotations;
use crate::tokens::Ragged;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// A batch with the shared table of rotations.
pub struct Batch {
    ragged: Ragged,
    pub(super) rotations: Arc<Rotations>,
}

impl Deref for Batch {
    type Target = Ragged;
    fn deref(&self) -> &Ragged {
        &self.ragged
    }
}

impl Memory for Cpu {
    type Weights = Weights;
    type Floats = Buffer;
    type Fetched = Buffer;
    type GradScale = GradScale;
    type Buffer = Buffer;
    type Batch = Batch;
    type Routes = router::Routes;
    type Cache = attention::Cache;

    fn weights(&self, host: Vec<f32>) -> Result<Weights> {
        Ok(host.into())
    }

    fn pack(&self, weights: &mut Weights, layout: &Layout) {
        weights.pack(layout.matrices());
    }

    fn read_weights<'a>(&self, weights: &'a Weights) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Borrowed(weights))
    }

    fn floats(&self, host: Vec<f32>) -> Result<Buffer> {
        Ok(Buffer::from(host))
    }

    fn zeros(&self, len: usize) -> Result<Buffer> {
        Ok(Buffer::from(vec![0.0; len]))
    }

    fn read<'a>(&self, floats: &'a Buffer) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Borrowed(floats))
    }

    fn fetch(&self, floats: Buffer) -> Result<Buffer> {
        Ok(floats)
    }

    fn fetched(&self, values: Buffer) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn buffer(&self, host: &[f32], _: usize) -> Result<Buffer> {
        Ok(Buffer::copy_of(host))
    }

    fn read_buffer(&self, x: &Buffer) -> Result<Vec<f32>> {
        Ok(x.to_vec())
    }

    fn batch(&self, ragged: Ragged, rotations: &Arc<Rotations>) -> Result<Batch> {
        Ok(Batch { ragged, rotations: rotations.clone() })
    }

    fn copy(&self, x: &Buffer) -> Result<Buffer> {
        Ok(Buffer::copy_of(x))
    }

    fn zeros_like(&self, x: &Buffer) -> Result<Buffer> {
        Ok(Buffer::zeros(x.len()))
    }

    fn clear(&self, floats: &mut Buffer) -> Result<()> {
        floats.par_chunks_mut(PIECE).for_each(|piece| piece.fill(0.0));
        Ok(())
    }
}

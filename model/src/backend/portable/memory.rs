//! Device memory as candle tensors.

use super::{Portable, attention, experts};
use crate::Result;
use crate::backend::Memory;
use crate::optimizer::GradScale;
use crate::rotations::Rotations;
use crate::tokens::Ragged;
use candle_core::{DType, Tensor};
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

/// A batch, with the parts of it that operations need on the device.
pub struct Batch {
    ragged: Ragged,
    /// Token ids, `(n,)`.
    pub(super) ids: Tensor,
    /// Cosines and sines of every position, `(n, 1, head_dim / 2)`.
    pub(super) angles: [Tensor; 2],
    pub(super) padding: attention::Padding,
}

impl Deref for Batch {
    type Target = Ragged;
    fn deref(&self) -> &Ragged {
        &self.ragged
    }
}

impl Memory for Portable {
    type Weights = Tensor;
    type Floats = Tensor;
    type Fetched = Tensor;
    type GradScale = GradScale;
    type Buffer = Tensor;
    type Batch = Batch;
    type Routes = experts::Routes;
    type Cache = attention::Cache;

    fn weights(&self, host: Vec<f32>) -> Result<Tensor> {
        self.floats(host)
    }

    fn read_weights<'a>(&self, weights: &'a Tensor) -> Result<Cow<'a, [f32]>> {
        self.read(weights)
    }

    fn floats(&self, host: Vec<f32>) -> Result<Tensor> {
        let len = host.len();
        Ok(Tensor::from_vec(host, len, &self.0)?)
    }

    fn zeros(&self, len: usize) -> Result<Tensor> {
        Ok(Tensor::zeros(len, DType::F32, &self.0)?)
    }

    fn read<'a>(&self, floats: &'a Tensor) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Owned(floats.flatten_all()?.to_vec1()?))
    }

    fn fetch(&self, floats: Tensor) -> Result<Tensor> {
        Ok(floats)
    }

    fn fetched(&self, values: Tensor) -> Result<Vec<f32>> {
        self.read_buffer(&values)
    }

    fn buffer(&self, host: &[f32], width: usize) -> Result<Tensor> {
        Ok(Tensor::from_slice(host, (host.len() / width, width), &self.0)?)
    }

    fn read_buffer(&self, x: &Tensor) -> Result<Vec<f32>> {
        Ok(x.flatten_all()?.to_vec1()?)
    }

    fn batch(&self, ragged: Ragged, rotations: &Arc<Rotations>) -> Result<Batch> {
        let (n, half) = (ragged.len(), rotations.at(0).0.len());
        let (mut cos, mut sin) = (Vec::with_capacity(n * half), Vec::with_capacity(n * half));
        for position in ragged.positions() {
            let (c, s) = rotations.at(position);
            cos.extend_from_slice(c);
            sin.extend_from_slice(s);
        }
        let table = |values: Vec<f32>| Tensor::from_vec(values, (n, 1, half), &self.0);
        Ok(Batch {
            ids: Tensor::new(ragged.ids.as_slice(), &self.0)?,
            angles: [table(cos)?, table(sin)?],
            padding: attention::Padding::new(&ragged, &self.0)?,
            ragged,
        })
    }

    fn copy(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn zeros_like(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.zeros_like()?)
    }

    fn clear(&self, floats: &mut Tensor) -> Result<()> {
        *floats = floats.zeros_like()?;
        Ok(())
    }
}

//! The token embedding.

use super::context::{Context, Form, apply, with_slice};
use crate::ops::math;
use candle_core::{CpuStorage, CustomOp1, Device, Result, Shape, Tensor, Var};
use std::sync::Arc;

/// Names the dropout of the embedding.
const PLACE: u64 = 0;

/// The embedding of every position: `(n, d_model)`.
pub fn forward(context: &Arc<Context>, form: Form) -> Result<Tensor> {
    match form {
        Form::Fused => {
            // The graph of a training pass starts at a variable; this one carries no value.
            let root = Var::zeros(1, candle_core::DType::F32, &Device::Cpu)?;
            apply(context, root.as_tensor(), Embedding(context.clone()))
        }
        Form::Plain => plain(context),
    }
}

fn plain(context: &Context) -> Result<Tensor> {
    let table = context.plain(&context.layout().embedding)?;
    let ids = Tensor::new(context.batch.ids.as_slice(), table.device())?;
    let x = table.index_select(&ids, 0)?;
    match context.dropout(PLACE) {
        Some(dropout) => &x * dropout.mask(x.shape(), x.device())?,
        None => Ok(x),
    }
}

struct Embedding(Arc<Context>);

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &candle_core::Layout) -> Result<(CpuStorage, Shape)> {
        let (ids, d) = (&self.0.batch.ids, self.0.config.d_model);
        let mut x = Vec::with_capacity(ids.len() * d);
        self.0.with_weights(|w| {
            let table = &w[self.0.layout().embedding.clone()];
            for &id in ids {
                x.extend_from_slice(&table[id as usize * d..][..d]);
            }
        })?;
        if let Some(dropout) = self.0.dropout(PLACE) {
            dropout.apply(&mut x);
        }
        Ok((CpuStorage::F32(x), Shape::from((ids.len(), d))))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dx: &Tensor) -> Result<Option<Tensor>> {
        let d = self.0.config.d_model;
        let dropped = match self.0.dropout(PLACE) {
            Some(dropout) => &(dx * dropout.mask(dx.shape(), dx.device())?)?,
            None => dx,
        };
        with_slice(dropped, |dx| {
            self.0.with_gradients(|g| {
                let table = &mut g[self.0.layout().embedding.clone()];
                for (&id, dx) in self.0.batch.ids.iter().zip(dx.chunks_exact(d)) {
                    math::add_assign(&mut table[id as usize * d..][..d], dx);
                }
            })
        })??;
        Ok(None)
    }
}

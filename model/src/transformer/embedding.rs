//! The token embedding.

use super::context::Context;
use crate::ops::math;
use candle_core::{Result, Tensor};

/// Names the dropout of the embedding.
const PLACE: u64 = 0;

/// The plain form: the embedding of every position, `(n, d_model)`.
pub fn plain(context: &Context) -> Result<Tensor> {
    let table = context.plain(&context.layout().embedding.range)?;
    let ids = Tensor::new(context.batch.ids.as_slice(), table.device())?;
    let x = table.index_select(&ids, 0)?;
    match context.dropout(PLACE) {
        Some(dropout) => &x * dropout.mask(x.shape(), x.device())?,
        None => Ok(x),
    }
}

/// Writes the embedding of every position to `x`, `(n, d_model)`.
pub fn look_up(context: &Context, x: &mut [f32], weights: &[f32]) {
    let d = context.config.d_model;
    let table = &weights[context.layout().embedding.range.clone()];
    for (row, &id) in x.chunks_exact_mut(d).zip(&context.batch.ids) {
        row.copy_from_slice(&table[id as usize * d..][..d]);
    }
    if let Some(dropout) = context.dropout(PLACE) {
        dropout.apply(x);
    }
}

/// Adds the gradient of the table; `dx`, `(n, d_model)`, is used up.
pub fn backward(context: &Context, dx: &mut [f32], grads: &mut [f32]) {
    let d = context.config.d_model;
    if let Some(dropout) = context.dropout(PLACE) {
        dropout.apply(dx);
    }
    let table = &mut grads[context.layout().embedding.range.clone()];
    for (&id, dx) in context.batch.ids.iter().zip(dx.chunks_exact(d)) {
        math::add_assign(&mut table[id as usize * d..][..d], dx);
    }
}

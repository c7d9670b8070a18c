//! Embedding and blocks of the fused form: one node of candle's graph.
//!
//! States and activations live in pooled buffers. On the way back the gradient of the residual stream is one
//! buffer to which every half of a block adds.

use super::context::{Context, apply, with_slice};
use super::{attention, embedding, feed_forward};
use crate::ops::scratch::Buffer;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use std::sync::{Arc, Mutex, PoisonError};

/// The states after the last block, before the last norm: `(n, d_model)`.
pub fn hidden(context: &Arc<Context>) -> Result<Tensor> {
    // The graph of a training pass starts at a variable; this one carries no value.
    let root = Var::zeros(1, DType::F32, &Device::Cpu)?;
    apply(context, root.as_tensor(), Stack { context: context.clone(), kept: Mutex::default() })
}

/// The states after the embedding and after each block, `(n, d_model)` each. Without gradient.
pub fn states(context: &Context) -> Result<Vec<Tensor>> {
    let (blocks, last) = context.with_weights(|weights| run(context, weights, Keep::States))?;
    let shape = (context.batch.len(), context.config.d_model);
    let all = blocks.into_iter().map(|block| block.x).chain([last]);
    all.map(|x| Tensor::from_vec(x.into_vec(), shape, &Device::Cpu)).collect()
}

/// What stays of a forward pass.
#[derive(Clone, Copy, PartialEq)]
enum Keep {
    Nothing,
    /// The states between the halves of blocks; activations are computed again when they are needed.
    States,
    Everything,
}

/// What stays of one block.
struct Block {
    /// Its input, `(n, d_model)`.
    x: Buffer,
    /// The state between its halves, `(n, d_model)`.
    middle: Buffer,
    activations: Option<(attention::Saved, feed_forward::Saved)>,
}

/// Runs embedding and blocks; returns what is kept and the last state.
fn run(context: &Context, weights: &[f32], keep: Keep) -> (Vec<Block>, Buffer) {
    let len = context.batch.len() * context.config.d_model;
    let mut blocks = vec![];
    let mut x = Buffer::dirty(len);
    embedding::look_up(context, &mut x, weights);
    for layer in 0..context.config.n_layers {
        let mut middle = Buffer::dirty(len);
        let attention = attention::forward(context, layer, &mut middle, &x, weights);
        let mut y = Buffer::dirty(len);
        let feed_forward = feed_forward::forward(context, layer, &mut y, &middle, weights);
        if keep != Keep::Nothing {
            let activations = (keep == Keep::Everything).then_some((attention, feed_forward));
            blocks.push(Block { x, middle, activations });
        }
        x = y;
    }
    (blocks, x)
}

struct Stack {
    context: Arc<Context>,
    kept: Mutex<Vec<Block>>,
}

impl CustomOp1 for Stack {
    fn name(&self) -> &'static str {
        "blocks"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let context = &self.context;
        let keep = match (context.trains(), context.recomputes()) {
            (false, _) => Keep::Nothing,
            (true, true) => Keep::States,
            (true, false) => Keep::Everything,
        };
        let (blocks, last) = context.with_weights(|weights| run(context, weights, keep))?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = blocks;
        Ok((CpuStorage::F32(last.into_vec()), Shape::from((context.batch.len(), context.config.d_model))))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let context = &self.context;
        let blocks = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        if blocks.len() != context.config.n_layers {
            candle_core::bail!("the blocks went backward twice");
        }
        let mut dx = with_slice(dy, Buffer::copy_of)?;
        context.with_weights(|weights| {
            context.with_gradients(|grads| {
                for (layer, block) in blocks.into_iter().enumerate().rev() {
                    let Block { x, middle, activations } = block;
                    let (attention, feed_forward) = activations.unzip();
                    feed_forward::backward(context, layer, &mut dx, &middle, feed_forward, weights, grads);
                    attention::backward(context, layer, &mut dx, &x, attention, weights, grads);
                }
                embedding::backward(context, &mut dx, grads);
            })
        })??;
        Ok(None)
    }
}

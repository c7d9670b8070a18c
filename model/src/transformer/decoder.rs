//! Reading a sequence piece by piece: keys and values of what was read stay in a cache.
//!
//! The cache is allocated once for the wanted length. A piece is the whole prompt or one token; its attention half
//! is here, the rest of a block is the same code as everywhere.

use super::attention::heads;
use super::context::{Context, Form, Mode, with_slice_mut};
use super::{Transformer, embedding, feed_forward, head};
use crate::ops::attention::{self as op, Qkv};
use crate::ops::gemm::linear;
use crate::ops::rms_norm;
use crate::ops::rope::{self, Rotations};
use crate::ops::scratch::Buffer;
use crate::tokens::Ragged;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// Rotated keys, and values, of one layer: `(n_kv_heads, capacity, head_dim)` each.
struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

/// One sequence that is being read.
pub struct Decoder<'a> {
    model: &'a Transformer,
    form: Form,
    layers: Vec<LayerCache>,
    rotations: Arc<Rotations>,
    capacity: usize,
    /// Positions read so far.
    len: usize,
}

impl<'a> Decoder<'a> {
    /// An empty cache for `capacity` positions.
    pub fn new(model: &'a Transformer, form: Form, capacity: usize) -> Result<Self> {
        let config = &model.config;
        let zeros =
            || Tensor::zeros((config.n_kv_heads, capacity, config.head_dim()), DType::F32, model.device());
        let layers = (0..config.n_layers).map(|_| Ok(LayerCache { keys: zeros()?, values: zeros()? }));
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { model, form, layers, rotations: model.rotations(capacity), capacity, len: 0 })
    }

    /// Positions read so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads further ids and returns the logits of what follows the last of them, `(vocab_size,)`.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        if ids.is_empty() {
            return Err(Error::Input("nothing to read; a prompt needs at least one token".into()));
        }
        if self.len + ids.len() > self.capacity {
            let (len, more, capacity) = (self.len, ids.len(), self.capacity);
            return Err(Error::Input(format!(
                "{len} tokens were read and {more} more do not fit into a cache of {capacity}"
            )));
        }
        let batch = Ragged::prompts(&[ids]);
        let context = Context::new(self.model, self.form, batch, Mode::Infer, self.rotations.clone())?;
        let x = match self.form {
            Form::Fused => context.with_weights(|weights| self.run(&context, weights))??,
            Form::Plain => self.run_plain(&context)?,
        };
        self.len += ids.len();
        let logits = head::logits(&context, &x, &[ids.len() - 1])?;
        Ok(logits.flatten_all()?.to_vec1::<f32>()?)
    }

    /// Embedding and blocks over the cache: `(n, d_model)`.
    fn run(&self, context: &Context, weights: &[f32]) -> candle_core::Result<Tensor> {
        let shape = (context.batch.len(), context.config.d_model);
        let mut x = Buffer::dirty(shape.0 * shape.1);
        let mut middle = Buffer::dirty(x.len());
        embedding::look_up(context, &mut x, weights);
        for (layer, cache) in self.layers.iter().enumerate() {
            attend(context, layer, &mut middle, &x, weights, cache, self.len)?;
            feed_forward::forward(context, layer, &mut x, &middle, weights);
        }
        Tensor::from_slice(&x, shape, &candle_core::Device::Cpu)
    }

    /// The plain form of [`Self::run`].
    fn run_plain(&self, context: &Context) -> candle_core::Result<Tensor> {
        let mut x = embedding::plain(context)?;
        for (layer, cache) in self.layers.iter().enumerate() {
            x = attend_plain(context, layer, &x, cache, self.len)?;
            x = feed_forward::plain(context, layer, &x)?;
        }
        Ok(x)
    }
}

/// Writes the attention half of a block to `y`. `x`, `y`: `(n, d_model)`, the positions from `start` on.
fn attend(
    context: &Context,
    layer: usize,
    y: &mut [f32],
    x: &[f32],
    weights: &[f32],
    cache: &LayerCache,
    start: usize,
) -> candle_core::Result<()> {
    let (block, heads) = (&context.layout().blocks[layer], heads(context));
    let (d, n, hd, repeats) = (context.config.d_model, context.batch.len(), heads.head_dim, heads.repeats());
    let capacity = cache.keys.dim(1)?;
    let mut normed = Buffer::dirty(n * d);
    let mut inverse = Buffer::dirty(n);
    let norm = &weights[block.attention_norm.clone()];
    rms_norm::forward(&mut normed, &mut inverse, x, norm, context.config.norm_eps as f32);
    let mut qkv = Buffer::dirty(n * heads.qkv_width());
    linear(&mut qkv, &normed, &weights[block.wqkv.range.clone()], n, d, false);

    let scale = 1.0 / (hd as f32).sqrt();
    let mut q = Buffer::dirty(n * heads.width());
    let mut out = normed; // its room is free now: width and d_model are equal
    with_slice_mut(&cache.keys, |keys| {
        with_slice_mut(&cache.values, |values| {
            for (t, row) in qkv.chunks_exact(heads.qkv_width()).enumerate() {
                let angles = context.rotations.at(start + t);
                for (h, x) in row[..heads.width()].chunks_exact(hd).enumerate() {
                    let place = ((h / repeats * n + t) * repeats + h % repeats) * hd;
                    rope::rotate(&mut q[place..place + hd], x, angles, scale);
                }
                let (k, v) = row[heads.width()..].split_at(heads.n_kv_heads * hd);
                for (h, (k, v)) in k.chunks_exact(hd).zip(v.chunks_exact(hd)).enumerate() {
                    let place = (h * capacity + start + t) * hd;
                    rope::rotate(&mut keys[place..place + hd], k, angles, 1.0);
                    values[place..place + hd].copy_from_slice(v);
                }
            }
            op::forward_cached(&mut out, Qkv { q: &q, k: keys, v: values }, start, heads);
        })
    })??;
    y.copy_from_slice(x);
    linear(y, &out, &weights[block.wo.range.clone()], n, heads.width(), true);
    Ok(())
}

/// The plain form of [`attend`].
fn attend_plain(
    context: &Context,
    layer: usize,
    x: &Tensor,
    cache: &LayerCache,
    start: usize,
) -> candle_core::Result<Tensor> {
    let (block, heads) = (&context.layout().blocks[layer], heads(context));
    let (n, hd) = (context.batch.len(), heads.head_dim);
    let normed = rms_norm::plain(x, &context.plain(&block.attention_norm)?, context.config.norm_eps)?;
    let qkv = normed.matmul(&context.plain(&block.wqkv.range)?.t()?)?; // (n, qkv_width)
    let (cos, sin) = context.rotations.tensors(start..start + n, x.device())?;
    let split = |first: usize, count: usize| {
        qkv.narrow(1, first * hd, count * hd)?.reshape((n, count, hd))?.transpose(0, 1)?.contiguous()
    };
    let q = rope::plain(&split(0, heads.n_heads)?, &cos, &sin)?;
    let k = rope::plain(&split(heads.n_heads, heads.n_kv_heads)?, &cos, &sin)?;
    let v = split(heads.n_heads + heads.n_kv_heads, heads.n_kv_heads)?;
    cache.keys.slice_set(&k, 1, start)?;
    cache.values.slice_set(&v, 1, start)?;
    let read = |cache: &Tensor| cache.narrow(1, 0, start + n)?.unsqueeze(0);
    let out = op::plain(&q.unsqueeze(0)?, &read(&cache.keys)?, &read(&cache.values)?, None)?
        .squeeze(0)?
        .transpose(0, 1)?
        .reshape((n, heads.width()))?;
    x + out.matmul(&context.plain(&block.wo.range)?.t()?)?
}

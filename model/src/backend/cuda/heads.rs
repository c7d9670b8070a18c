//! Queries, keys and values: their memory, and the arguments of the kernels that rotate them and attend to them.

use super::memory::{Batch, Buffer};
use super::{Cuda, args, attention};
use crate::Result;
use crate::backend::{Attention, Qkv};
use crate::spec::Heads;

impl Cuda {
    /// The arguments of `split_heads` and `join_heads`.
    pub(super) fn heads_arguments(
        &self,
        rows: &Buffer,
        qkv: &Qkv<Self>,
        batch: &Batch,
        heads: Heads,
    ) -> args::SplitHeads {
        args::SplitHeads {
            rows: rows.room.at,
            q: qkv.q.room.at,
            k: qkv.k.room.at,
            v: qkv.v.room.at,
            cos: batch.rotations.cos.at,
            sin: batch.rotations.sin.at,
            positions: batch.positions.at,
            n: batch.len() as i32,
            n_kv_heads: heads.n_kv_heads as i32,
            repeats: heads.repeats() as i32,
            head_dim: heads.head_dim as i32,
            scale: (1.0 / (heads.head_dim as f64).sqrt()) as f32,
        }
    }

    /// Allocates queries, keys and values of `n` positions.
    pub(super) fn room_for_heads(&self, n: usize, heads: Heads) -> Result<Qkv<Self>> {
        Ok(Qkv {
            q: self.dirty(n * heads.width())?,
            k: self.dirty(n * heads.kv_width())?,
            v: self.dirty(n * heads.kv_width())?,
        })
    }

    /// The shape of attention among a batch's own positions.
    pub(super) fn shape(&self, batch: &Batch, attention: &Attention) -> attention::Shape {
        attention::Shape {
            heads: attention.heads,
            n: batch.len(),
            n_keys: batch.len(),
            window: attention.window,
            dropout: attention.dropout,
            dtype: self.dtype(),
        }
    }
}

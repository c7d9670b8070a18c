//! Keys and values of one sequence in one layer.

use super::Vector;
use crate::backend::Qkv;
use crate::backend::cpu::math::LANES;
use crate::backend::cpu::{Buffer, Cpu};
use crate::spec::Heads;
use std::ops::Range;

/// Keys and values of the positions that a sequence has read.
pub struct Cache {
    /// Rotated keys in blocks of [`LANES`] positions, `(n_kv_heads, capacity / LANES, head_dim, LANES)`: a query reads them
    /// in this order.
    k: Vec<f32>,
    /// Values, `(n_kv_heads, capacity, head_dim)`, and [`LANES`] elements more, so that whole vectors can be read.
    v: Vec<f32>,
    capacity: usize,
    heads: Heads,
}

impl Cache {
    /// Creates a cache for at least `capacity` positions.
    pub fn new(heads: Heads, capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(LANES);
        let len = capacity * heads.kv_width();
        Self { k: vec![0.0; len], v: vec![0.0; len + LANES], capacity, heads }
    }

    /// Stores the keys and values of some rows of a batch, `(n_kv_heads, n, head_dim)`, from position `at` on.
    pub fn append(&mut self, at: usize, qkv: &Qkv<Cpu>, rows: Range<usize>) {
        let (hd, capacity) = (self.heads.head_dim, self.capacity);
        let n = qkv.k.len() / self.heads.kv_width();
        for head in 0..self.heads.n_kv_heads {
            let from = (head * n + rows.start) * hd..(head * n + rows.end) * hd;
            let to = (head * capacity + at) * hd;
            self.v[to..to + from.len()].copy_from_slice(&qkv.v[from.clone()]);
            let keys = &mut self.k[head * capacity * hd..][..capacity * hd];
            for (position, key) in (at..).zip(qkv.k[from].chunks_exact(hd)) {
                let block = &mut keys[position / LANES * hd * LANES..][..hd * LANES];
                for (column, &element) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(key) {
                    column[position % LANES] = element;
                }
            }
        }
    }

    /// Copies the first `read` positions of another cache of the same heads.
    pub fn copy(&mut self, from: &Cache, read: usize) {
        let hd = self.heads.head_dim;
        let (room, from_room) = (self.capacity * hd, from.capacity * hd);
        for (to, from, read) in
            [(&mut self.k, &from.k, read.next_multiple_of(LANES)), (&mut self.v, &from.v, read)]
        {
            for (to, from) in
                to.chunks_exact_mut(room).zip(from.chunks_exact(from_room)).take(self.heads.n_kv_heads)
            {
                to[..read * hd].copy_from_slice(&from[..read * hd]);
            }
        }
    }

    /// The keys and values of a head: blocks of keys, `(capacity / LANES, head_dim, LANES)`, and `(capacity, head_dim)` with
    /// [`LANES`] elements more.
    pub(super) fn head(&self, head: usize) -> (&[Vector], &[f32]) {
        let room = self.capacity * self.heads.head_dim;
        let (start, end) = (head * room, (head + 1) * room);
        (self.k[start..end].as_chunks().0, &self.v[start..end + LANES])
    }

    /// Returns the blocks of keys from that of position `first` to that before position `end`, side by side:
    /// `(head_dim, blocks, LANES)`.
    pub(super) fn columns(&self, head: usize, keys: Range<usize>) -> Buffer {
        let hd = self.heads.head_dim;
        let blocks = keys.start / LANES..keys.end.div_ceil(LANES);
        let mut columns = Buffer::dirty(hd * blocks.len() * LANES);
        let (to, from) = (columns.as_chunks_mut().0, self.head(head).0);
        for (place, block) in blocks.clone().enumerate() {
            for (d, column) in from[block * hd..][..hd].iter().enumerate() {
                to[d * blocks.len() + place] = *column;
            }
        }
        columns
    }
}

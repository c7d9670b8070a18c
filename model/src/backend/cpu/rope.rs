//! Rotary position embedding: converts queries, keys and values between the rows of the `wqkv` product and the per-head
//! layout of attention.

use super::Buffer;
use crate::backend::Qkv;
use crate::rotations::Rotations;
use crate::spec::Heads;
use crate::tokens::Ragged;

/// Rotates the vector of one head, scales it by `scale` and writes it to `y`.
#[inline(always)]
fn rotate(y: &mut [f32], x: &[f32], (cos, sin): (&[f32], &[f32]), scale: f32) {
    for (((y, x), c), s) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(cos).zip(sin) {
        y[0] = (x[0] * c - x[1] * s) * scale;
        y[1] = (x[0] * s + x[1] * c) * scale;
    }
}

/// Applies the inverse rotation and `scale`: the gradient of [`rotate`].
#[inline(always)]
fn rotate_back(dx: &mut [f32], dy: &[f32], (cos, sin): (&[f32], &[f32]), scale: f32) {
    for (((dx, dy), c), s) in dx.chunks_exact_mut(2).zip(dy.chunks_exact(2)).zip(cos).zip(sin) {
        dx[0] = (dy[0] * c + dy[1] * s) * scale;
        dx[1] = (dy[1] * c - dy[0] * s) * scale;
    }
}

/// Rotates queries and keys and arranges queries, keys and values by head. `qkv`: `(n, qkv_width)`.
pub fn split(qkv: &[f32], batch: &Ragged, rotations: &Rotations, heads: Heads) -> Qkv<super::Cpu> {
    let (hd, repeats, n) = (heads.head_dim, heads.repeats(), batch.len());
    let mut q = Buffer::dirty(n * heads.width());
    let (mut k, mut v) = (Buffer::dirty(n * heads.kv_width()), Buffer::dirty(n * heads.kv_width()));
    let scale = 1.0 / (hd as f32).sqrt();
    for (t, position) in batch.positions().enumerate() {
        let angles = rotations.at(position);
        let row = &qkv[t * heads.qkv_width()..][..heads.qkv_width()];
        for (h, x) in row[..heads.width()].chunks_exact(hd).enumerate() {
            let place = ((h / repeats * n + t) * repeats + h % repeats) * hd;
            rotate(&mut q[place..place + hd], x, angles, scale);
        }
        let (keys, values) = row[heads.width()..].split_at(heads.kv_width());
        for (h, (key, value)) in keys.chunks_exact(hd).zip(values.chunks_exact(hd)).enumerate() {
            let place = (h * n + t) * hd;
            rotate(&mut k[place..place + hd], key, angles, 1.0);
            v[place..place + hd].copy_from_slice(value);
        }
    }
    Qkv { q, k, v }
}

/// The gradient of [`split`]: `(n, qkv_width)`.
pub fn join(grad: &Qkv<super::Cpu>, batch: &Ragged, rotations: &Rotations, heads: Heads) -> Buffer {
    let (hd, repeats, n) = (heads.head_dim, heads.repeats(), batch.len());
    let mut qkv = Buffer::dirty(n * heads.qkv_width());
    let scale = 1.0 / (hd as f32).sqrt();
    for (t, position) in batch.positions().enumerate() {
        let angles = rotations.at(position);
        let row = &mut qkv[t * heads.qkv_width()..][..heads.qkv_width()];
        let (q, kv) = row.split_at_mut(heads.width());
        for (h, x) in q.chunks_exact_mut(hd).enumerate() {
            let place = ((h / repeats * n + t) * repeats + h % repeats) * hd;
            rotate_back(x, &grad.q[place..place + hd], angles, scale);
        }
        let (k, v) = kv.split_at_mut(heads.kv_width());
        for (h, (k, v)) in k.chunks_exact_mut(hd).zip(v.chunks_exact_mut(hd)).enumerate() {
            let place = (h * n + t) * hd;
            rotate_back(k, &grad.k[place..place + hd], angles, 1.0);
            v.copy_from_slice(&grad.v[place..place + hd]);
        }
    }
    qkv
}

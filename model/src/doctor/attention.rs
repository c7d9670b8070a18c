//! Checks of attention: rotation and per-head layout, attention within documents, continuation from caches.

use super::{EXACT, Gradients, Probe, ROUNDING, tensor, variable};
use crate::Result;
use crate::backend::{Attention, Backend, Dropout, Qkv};
use crate::reference;
use crate::rotations::Rotations;
use crate::spec::Heads;
use crate::tokens::Ragged;
use candle_core::{Device, Result as CandleResult, Tensor};
use std::sync::Arc;

pub fn check<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    heads(probe)?;
    for dropout in [None, Some(Dropout { seed: 5, rate: 0.2 })] {
        over_documents(probe, dropout)?;
    }
    cached(probe)
}

/// The reference's queries, keys and values: `(n_heads, n, head_dim)`, and `(n_kv_heads, n, head_dim)` twice.
///
/// `qkv`: `(n, qkv_width)`.
fn split(qkv: &Tensor, batch: &Ragged, heads: Heads, theta: f64) -> CandleResult<[Tensor; 3]> {
    let n = qkv.dim(0)?;
    let part = |first: usize, count: usize| {
        let part = qkv.narrow(1, first, count * heads.head_dim)?.reshape((n, count, heads.head_dim))?;
        part.transpose(0, 1)?.contiguous()
    };
    let positions = reference::positions(batch);
    let q = reference::rotate(&part(0, heads.n_heads)?, &positions, theta)?;
    let k = reference::rotate(&part(heads.width(), heads.n_kv_heads)?, &positions, theta)?;
    Ok([q, k, part(heads.width() + heads.kv_width(), heads.n_kv_heads)?])
}

/// Queries in the layout of backends, `(n_kv_heads, n, repeats, head_dim)`, times `1 / sqrt(head_dim)`.
fn grouped(q: &Tensor, heads: Heads) -> CandleResult<Tensor> {
    let groups = q.reshape((heads.n_kv_heads, heads.repeats(), q.dim(1)?, heads.head_dim))?;
    groups.transpose(1, 2)? / (heads.head_dim as f64).sqrt()
}

fn heads<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, heads, theta) =
        (probe.backend, probe.n(), probe.config.heads(), probe.config.rope_theta);
    let batch = on_device(probe, &probe.batch)?;
    let width = heads.qkv_width();
    let (qkv, other) = (probe.draw(n * width)?, probe.draw(n * width)?);
    let of_qkv = variable(&qkv, (n, width))?;
    let [q, k, v] = split(&of_qkv, &probe.batch, heads, theta)?;
    let q = grouped(&q, heads)?;
    let got = backend.split_heads(&backend.buffer(&qkv, width)?, &batch, heads)?;
    probe.compare_buffer("split_heads", ROUNDING, &got.q, &q)?;
    probe.compare_buffer("split_heads", ROUNDING, &got.k, &k)?;
    probe.compare_buffer("split_heads", EXACT, &got.v, &v)?;

    // Any values of the right shapes can serve as gradients; these are the split heads of other random values.
    let grad = backend.split_heads(&backend.buffer(&other, width)?, &batch, heads)?;
    let mut scalar = Tensor::new(0f64, &Device::Cpu)?;
    for (part, grad) in [(&q, &grad.q), (&k, &grad.k), (&v, &grad.v)] {
        let grad = tensor(&backend.read_buffer(grad)?, part.shape())?;
        scalar = (scalar + (part * grad)?.sum_all()?)?;
    }
    let back = Gradients::of(&scalar)?;
    let dqkv = back.by(&of_qkv)?;
    probe.compare_buffer("join_heads", ROUNDING, &backend.join_heads(&grad, &batch, heads)?, &dqkv)
}

/// The result of attention on the reference's queries, keys and values: `(n, width)`.
fn attend<B: Backend>(probe: &Probe<B>, [q, k, v]: [&Tensor; 3], dropout: Option<Dropout>) -> Result<Tensor> {
    let (n, heads) = (probe.n(), probe.config.heads());
    let visible = reference::visible(&probe.batch, probe.config.window);
    let visible = Tensor::from_vec(visible, (n, n), &Device::Cpu)?;
    let factors = |dropout: Dropout| {
        let count = (heads.n_heads * n * n) as u64;
        tensor(&(0..count).map(|i| dropout.factor(i)).collect::<Vec<f32>>(), (heads.n_heads, n, n))
    };
    let out = reference::attention(q, k, v, &visible, dropout.map(factors).transpose()?.as_ref())?;
    Ok(out.transpose(0, 1)?.reshape((n, heads.width()))?)
}

fn over_documents<B: Backend>(probe: &mut Probe<B>, dropout: Option<Dropout>) -> Result<()> {
    let (backend, n, heads) = (probe.backend, probe.n(), probe.config.heads());
    let batch = on_device(probe, &probe.batch)?;
    let width = heads.qkv_width();
    let (mut qkv, dout) = (probe.draw(n * width)?, probe.draw(n * heads.width())?);
    qkv.iter_mut().for_each(|x| *x *= 2.0); // makes some probabilities much larger than others
    let of_qkv = variable(&qkv, (n, width))?;
    let [q, k, v] = split(&of_qkv, &probe.batch, heads, probe.config.rope_theta)?;
    let want = attend(probe, [&q, &k, &v], dropout)?;
    let back = Gradients::through(&want, &tensor(&dout, (n, heads.width()))?)?;
    let dqkv = back.by(&of_qkv)?;

    let attention = Attention { dropout, ..Attention::of(probe.config) };
    let qkv: Qkv<B> = backend.split_heads(&backend.buffer(&qkv, width)?, &batch, heads)?;
    let (out, lse) = backend.attention(&qkv, &batch, &attention)?;
    probe.compare_buffer("attention", ROUNDING, &out, &want)?;
    let dout = backend.buffer(&dout, heads.width())?;
    let grad = backend.attention_backward(&dout, &out, &lse, &qkv, &batch, &attention)?;
    probe.compare_buffer("attention_backward", ROUNDING, &backend.join_heads(&grad, &batch, heads)?, &dqkv)
}

/// Checks the second half of each document, with the first half in a cache: appended to a copy of that cache, then as a
/// separate piece after it.
fn cached<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, heads) = (probe.backend, probe.n(), probe.config.heads());
    let width = heads.qkv_width();
    let qkv = probe.draw(n * width)?;
    let [q, k, v] = split(&tensor(&qkv, (n, width))?, &probe.batch, heads, probe.config.rope_theta)?;
    let want = attend(probe, [&q, &k, &v], None)?;
    let documents: Vec<[usize; 2]> = probe.batch.documents.windows(2).map(|d| [d[0], d[1]]).collect();
    let attention = Attention::of(probe.config);

    // Makes a batch of a part of each document.
    let part = |bounds: &[[usize; 2]], starts: Vec<usize>| -> Result<(B::Batch, Qkv<B>)> {
        let ids: Vec<&[u32]> = bounds.iter().map(|b| &probe.batch.ids[b[0]..b[1]]).collect();
        let batch = on_device(probe, &Ragged { starts, ..Ragged::prompts(&ids) })?;
        let rows: Vec<f32> = bounds.iter().flat_map(|b| &qkv[b[0] * width..b[1] * width]).copied().collect();
        let qkv = backend.split_heads(&backend.buffer(&rows, width)?, &batch, heads)?;
        Ok((batch, qkv))
    };
    let middles: Vec<usize> = documents.iter().map(|d| d[0] + (d[1] - d[0]) / 2).collect();
    let (mut firsts, mut copies, mut owns) = (vec![], vec![], vec![]);
    for (document, middle) in documents.iter().zip(&middles) {
        let (read, all) = (middle - document[0], document[1] - document[0]);
        let (mut first, mut copy) = (backend.cache(heads, read.max(1))?, backend.cache(heads, all + 3)?);
        if read > 0 {
            let (_, begin) = part(&[[document[0], *middle]], vec![0])?;
            backend.cache_append(&mut first, &begin, 0..read, 0, heads)?;
            backend.cache_copy(&mut copy, &first, read, heads)?;
        }
        firsts.push(first);
        copies.push(copy);
        owns.push(backend.cache(heads, all - read)?);
    }
    let ends: Vec<[usize; 2]> = documents.iter().zip(&middles).map(|(d, &middle)| [middle, d[1]]).collect();
    let read: Vec<usize> = documents.iter().zip(&middles).map(|(d, middle)| middle - d[0]).collect();
    let (batch, rest) = part(&ends, read.clone())?;
    let lens: Vec<usize> = ends.iter().map(|end| end[1] - end[0]).collect();
    for (i, bounds) in batch.documents.windows(2).enumerate() {
        backend.cache_append(&mut copies[i], &rest, bounds[0]..bounds[1], read[i], heads)?;
        backend.cache_append(&mut owns[i], &rest, bounds[0]..bounds[1], 0, heads)?;
    }
    let rows: Vec<u32> = ends.iter().flat_map(|end| end[0] as u32..end[1] as u32).collect();
    let want = want.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
    // Only the last position of each document, as in generation.
    let lasts: Vec<[usize; 2]> = documents.iter().map(|d| [d[1] - 1, d[1]]).collect();
    let (alone, last) = part(&lasts, documents.iter().map(|d| d[1] - d[0] - 1).collect())?;
    let whole = (0..read.len()).map(|i| vec![(&copies[i], read[i] + lens[i])]);
    let out = backend.attention_cached(&rest, &whole.collect::<Vec<_>>(), &batch, &attention)?;
    probe.compare_buffer("attention_cached", ROUNDING, &out, &want)?;
    let pieces = (0..read.len()).map(|i| vec![(&firsts[i], read[i]), (&owns[i], lens[i])]);
    let out = backend.attention_cached(&rest, &pieces.collect::<Vec<_>>(), &batch, &attention)?;
    probe.compare_buffer("attention_cached, shared prefix", ROUNDING, &out, &want)?;

    let ends: Vec<u32> = last_rows(&lens);
    let want = want.index_select(&Tensor::new(ends, &Device::Cpu)?, 0)?;
    let pieces = (0..read.len()).map(|i| vec![(&firsts[i], read[i]), (&owns[i], lens[i])]);
    let out = backend.attention_cached(&last, &pieces.collect::<Vec<_>>(), &alone, &attention)?;
    probe.compare_buffer("attention_cached, one position", ROUNDING, &out, &want)
}

/// The index of the last row of each of several consecutive documents of these lengths.
fn last_rows(lens: &[usize]) -> Vec<u32> {
    let ends = lens.iter().scan(0, |end, len| {
        *end += len;
        Some(*end as u32 - 1)
    });
    ends.collect()
}

fn on_device<B: Backend>(probe: &Probe<B>, batch: &Ragged) -> Result<B::Batch> {
    let rotations = Rotations::new(batch.reach(), probe.config.head_dim(), probe.config.rope_theta);
    probe.backend.batch(batch.clone(), &Arc::new(rotations))
}

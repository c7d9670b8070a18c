//! Checks of embedding, norms, linear layers, activation and head, and of operations that move rows.

use super::{EXACT, Gradients, Probe, ROUNDING, tensor, variable};
use crate::Result;
use crate::backend::{Backend, Columns, Dropout};
use crate::layout::Matrix;
use crate::reference;
use crate::rotations::Rotations;
use candle_core::{Device, Tensor};
use std::sync::Arc;

pub fn check<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    rows(probe)?;
    embedding(probe)?;
    norm(probe)?;
    head_norm(probe)?;
    let block = probe.layout.blocks[0].clone();
    let dense = block.dense.into_iter().flat_map(|dense| [dense.w13, dense.w2]);
    let router = block.experts.into_iter().map(|experts| experts.router);
    for m in [block.wqkv, block.wo].into_iter().chain(dense).chain(router) {
        linear(probe, &m)?;
    }
    swiglu(probe)?;
    head(probe)
}

/// Copies, sums, dropout, and rows that are selected and scattered back.
fn rows<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, d) = (probe.backend, probe.n(), probe.config.d_model);
    let (x, y) = (probe.draw(n * d)?, probe.draw(n * d)?);
    let (of_x, of_y) = (tensor(&x, (n, d))?, tensor(&y, (n, d))?);
    let x = backend.buffer(&x, d)?;
    probe.compare_buffer("copy", EXACT, &backend.copy(&x)?, &of_x)?;
    probe.compare_buffer("zeros_like", EXACT, &backend.zeros_like(&x)?, &of_x.zeros_like()?)?;
    let mut sum = backend.buffer(&y, d)?;
    backend.add(&mut sum, &x)?;
    probe.compare_buffer("add", ROUNDING, &sum, &(&of_x + of_y)?)?;

    let dropout = Dropout { seed: 7, rate: 0.3 };
    let factors: Vec<f32> = (0..(n * d) as u64).map(|i| dropout.factor(i)).collect();
    let mut dropped = backend.copy(&x)?;
    backend.dropout(&mut dropped, dropout)?;
    probe.compare_buffer("dropout", ROUNDING, &dropped, &(&of_x * tensor(&factors, (n, d))?)?)?;

    let places: Vec<u32> = (0..n as u32).filter(|i| i % 3 != 1).collect();
    let index = Tensor::new(places.as_slice(), &Device::Cpu)?;
    let (picked, of_picked) = (backend.select(&x, &places, d)?, of_x.index_select(&index, 0)?);
    probe.compare_buffer("select", EXACT, &picked, &of_picked)?;
    let put_back = of_x.zeros_like()?.index_add(&index, &of_picked, 0)?;
    probe.compare_buffer("scatter", EXACT, &backend.scatter(&picked, &places, n, d)?, &put_back)
}

fn embedding<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, table) = (probe.backend, probe.n(), probe.layout.embedding.clone());
    let rotations = Rotations::new(probe.batch.longest(), probe.config.head_dim(), probe.config.rope_theta);
    let batch = backend.batch(probe.batch.clone(), &Arc::new(rotations))?;
    let of_table = probe.matrix(&table)?;
    let want = of_table.index_select(&Tensor::new(probe.batch.ids.as_slice(), &Device::Cpu)?, 0)?;
    probe.compare_buffer("embed", EXACT, &backend.embed(&probe.w, &table, &batch)?, &want)?;

    let dx = probe.draw(n * table.d_in)?;
    let back = Gradients::through(&want, &tensor(&dx, (n, table.d_in))?)?;
    let dtable = back.by(&of_table)?;
    let (start, mut grads) = probe.some_gradients()?;
    backend.embed_backward(&mut grads, &table, &backend.buffer(&dx, table.d_in)?, &batch)?;
    probe.compare_gradients("embed_backward", &start, &grads, &[(&table.range, &dtable)])
}

fn norm<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, d, eps) = (probe.backend, probe.n(), probe.config.d_model, probe.config.norm_eps);
    let scale = probe.layout.blocks[0].attention_norm.clone();
    let (x, dy, start_dx) = (probe.draw(n * d)?, probe.draw(n * d)?, probe.draw(n * d)?);
    let (of_x, of_scale) = (variable(&x, (n, d))?, probe.param(&scale, d)?);
    let want = reference::rms_norm(&of_x, &of_scale, eps)?;
    let back = Gradients::through(&want, &tensor(&dy, (n, d))?)?;
    let (dx, dscale) = (back.by(&of_x)?, back.by(&of_scale)?);

    let (x, dy) = (backend.buffer(&x, d)?, backend.buffer(&dy, d)?);
    let (y, inverse) = backend.rms_norm(&x, &probe.w, &scale, eps)?;
    probe.compare_buffer("rms_norm", ROUNDING, &y, &want)?;
    let again = backend.rms_norm_recompute(&x, &inverse, &probe.w, &scale)?;
    probe.compare_buffer("rms_norm_recompute", ROUNDING, &again, &want)?;
    let (start, mut grads) = probe.some_gradients()?;
    let mut sum = backend.buffer(&start_dx, d)?;
    backend.rms_norm_backward(&mut sum, &mut grads, &dy, &x, &inverse, &probe.w, &scale)?;
    let dx = (tensor(&start_dx, (n, d))? + dx)?;
    probe.compare_buffer("rms_norm_backward", ROUNDING, &sum, &dx)?;
    probe.compare_gradients("rms_norm_backward", &start, &grads, &[(&scale, &dscale)])
}

/// The norms of queries, in the first columns, and of keys, in the columns after them.
fn head_norm<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let Some(scales) = probe.layout.blocks[0].qk_norms.clone() else { return Ok(()) };
    let (backend, n, eps, heads) = (probe.backend, probe.n(), probe.config.norm_eps, probe.config.heads());
    let (width, head_dim) = (heads.qkv_width(), heads.head_dim);
    for (scale, first, count) in
        [(&scales[0], 0, heads.n_heads), (&scales[1], heads.width(), heads.n_kv_heads)]
    {
        let columns = Columns { width, first, heads: count, head_dim };
        let (x, dy) = (probe.draw(n * width)?, probe.draw(n * width)?);
        let (of_x, of_scale) = (variable(&x, (n, width))?, probe.param(scale, head_dim)?);
        let inner = of_x.narrow(1, first, count * head_dim)?.reshape((n, count, head_dim))?;
        let inner = reference::rms_norm(&inner, &of_scale, eps)?.reshape((n, count * head_dim))?;
        let last = first + count * head_dim;
        let outer = [of_x.narrow(1, 0, first)?, inner, of_x.narrow(1, last, width - last)?];
        let filled: Vec<&Tensor> = outer.iter().filter(|part| part.elem_count() > 0).collect();
        let want = Tensor::cat(&filled, 1)?;
        let back = Gradients::through(&want, &tensor(&dy, (n, width))?)?;
        let (dx, dscale) = (back.by(&of_x)?, back.by(&of_scale)?);

        let x = backend.buffer(&x, width)?;
        let mut y = backend.copy(&x)?;
        let inverse = backend.head_norm(&mut y, columns, &probe.w, scale, eps)?;
        probe.compare_buffer("head_norm", ROUNDING, &y, &want)?;
        let (start, mut grads) = probe.some_gradients()?;
        let mut grad = backend.buffer(&dy, width)?;
        backend.head_norm_backward(&mut grad, &mut grads, &x, &inverse, columns, &probe.w, scale)?;
        probe.compare_buffer("head_norm_backward", ROUNDING, &grad, &dx)?;
        probe.compare_gradients("head_norm_backward", &start, &grads, &[(scale, &dscale)])?;
    }
    Ok(())
}

fn linear<B: Backend>(probe: &mut Probe<B>, m: &Matrix) -> Result<()> {
    let (backend, n) = (probe.backend, probe.n());
    let (x, dy) = (probe.draw(n * m.d_in)?, probe.draw(n * m.d_out)?);
    let (start_y, start_dx) = (probe.draw(n * m.d_out)?, probe.draw(n * m.d_in)?);
    let (of_x, of_w) = (variable(&x, (n, m.d_in))?, probe.matrix(m)?);
    let want = reference::linear(&of_x, &of_w)?;
    let back = Gradients::through(&want, &tensor(&dy, (n, m.d_out))?)?;
    let (dx, dw) = (back.by(&of_x)?, back.by(&of_w)?);

    let (x, dy) = (backend.buffer(&x, m.d_in)?, backend.buffer(&dy, m.d_out)?);
    probe.compare_buffer("linear", ROUNDING, &backend.linear(&x, &probe.w, m)?, &want)?;
    let mut y = backend.buffer(&start_y, m.d_out)?;
    backend.linear_add(&mut y, &x, &probe.w, m)?;
    probe.compare_buffer("linear_add", ROUNDING, &y, &(tensor(&start_y, (n, m.d_out))? + &want)?)?;
    let input_grad = backend.linear_input_grad(&dy, &probe.w, m)?;
    probe.compare_buffer("linear_input_grad", ROUNDING, &input_grad, &dx)?;
    let mut sum = backend.buffer(&start_dx, m.d_in)?;
    backend.linear_input_grad_add(&mut sum, &dy, &probe.w, m)?;
    let dx = (tensor(&start_dx, (n, m.d_in))? + dx)?;
    probe.compare_buffer("linear_input_grad_add", ROUNDING, &sum, &dx)?;
    let (start, mut grads) = probe.some_gradients()?;
    backend.linear_weight_grad(&mut grads, &dy, &x, m)?;
    probe.compare_gradients("linear_weight_grad", &start, &grads, &[(&m.range, &dw)])
}

/// With one weight per row, as for experts, and without.
fn swiglu<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, block) = (probe.backend, probe.n(), &probe.layout.blocks[0]);
    let experts = block.experts.as_ref().map(|experts| experts.hidden);
    let hidden = block.dense.as_ref().map(|dense| dense.hidden).or(experts).unwrap_or(1);
    for weighted in [false, true] {
        let (x, dy, weights) = (probe.draw(2 * n * hidden)?, probe.draw(n * hidden)?, probe.draw(n)?);
        let of_x = variable(&x, (n, 2 * hidden))?;
        let of_weights = match weighted {
            true => variable(&weights, (n, 1))?,
            false => variable(&vec![1.0; n], (n, 1))?,
        };
        let active = reference::swiglu(&of_x.narrow(1, 0, hidden)?, &of_x.narrow(1, hidden, hidden)?)?;
        let want = active.broadcast_mul(&of_weights)?;
        let back = Gradients::through(&want, &tensor(&dy, (n, hidden))?)?;
        let (dx, dweights) = (back.by(&of_x)?, back.by(&of_weights)?);

        let mut x = backend.buffer(&x, 2 * hidden)?;
        probe.compare_buffer("swiglu", ROUNDING, &backend.swiglu(&x, hidden)?, &active)?;
        let (mut y, weights) = (backend.buffer(&dy, hidden)?, backend.floats(weights)?);
        let got = backend.swiglu_backward(&mut y, &mut x, weighted.then_some(&weights), hidden)?;
        probe.compare_buffer("swiglu_backward", ROUNDING, &y, &want)?;
        probe.compare_buffer("swiglu_backward", ROUNDING, &x, &dx)?;
        probe.compare_floats("swiglu_backward", ROUNDING, &got, &dweights)?;
    }
    Ok(())
}

fn head<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, n, head) = (probe.backend, probe.n(), probe.layout.head.clone());
    let (x, weights, targets) = (probe.draw(n * head.d_in)?, probe.draw(n)?, probe.batch.targets.clone());
    let (of_x, of_head) = (variable(&x, (n, head.d_in))?, probe.matrix(&head)?);
    let index = Tensor::new(targets.as_slice(), &Device::Cpu)?.unsqueeze(1)?;
    let log_probs = reference::log_softmax(&reference::linear(&of_x, &of_head)?)?;
    let want = log_probs.gather(&index, 1)?.squeeze(1)?.neg()?;
    let back = Gradients::through(&want, &tensor(&weights, n)?)?;
    let (dx, dhead) = (back.by(&of_x)?, back.by(&of_head)?);

    let x = backend.buffer(&x, head.d_in)?;
    let nll = backend.cross_entropy(&x, &probe.w, &head, &targets)?;
    probe.compare_floats("cross_entropy", ROUNDING, &nll, &want)?;
    let (start, mut grads) = probe.some_gradients()?;
    let (nll, got) = backend.cross_entropy_backward(&mut grads, &x, &probe.w, &head, &targets, &weights)?;
    probe.compare_floats("cross_entropy_backward", ROUNDING, &nll, &want)?;
    probe.compare_buffer("cross_entropy_backward", ROUNDING, &got, &dx)?;
    probe.compare_gradients("cross_entropy_backward", &start, &grads, &[(&head.range, &dhead)])
}

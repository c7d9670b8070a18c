//! Checks of operations between passes: sums over lanes, optimizers, adapters.

use super::{EXACT, Gradients, Probe, ROUNDING, tensor, variable};
use crate::Result;
use crate::backend::{Adapter, Backend};
use crate::layout::{BlockLayout, Matrix};
use crate::optimizer::{AdamW, Muon};
use crate::reference;
use candle_core::Tensor;

pub fn check<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    sums(probe)?;
    adamw(probe)?;
    muon(probe)?;
    adapter(probe)
}

fn sums<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, len) = (probe.backend, probe.layout.len());
    let lanes: Vec<Vec<f32>> = (0..3).map(|_| probe.draw(len)).collect::<Result<_>>()?;
    let mut want = Tensor::zeros_like(&tensor(&lanes[0], len)?)?;
    for lane in &lanes {
        want = (want + tensor(lane, len)?)?;
    }
    let mut lanes = lanes.into_iter().map(|lane| backend.floats(lane)).collect::<Result<Vec<_>>>()?;
    let mut sum = lanes.remove(0);
    for lane in &mut lanes {
        backend.accumulate(&mut sum, lane)?;
        probe.compare_floats("accumulate", EXACT, lane, &want.zeros_like()?)?;
    }
    probe.compare_floats("accumulate", ROUNDING, &sum, &want)?;
    let ranges = [0..len, probe.layout.embedding.range.clone()];
    for (range, squares) in ranges.iter().zip(backend.sums_of_squares(&sum, &ranges)?) {
        let want = want.narrow(0, range.start, range.len())?.sqr()?.sum_all()?;
        probe.compare("sums_of_squares", ROUNDING, &[squares as f32], &want)?;
    }
    backend.clear(&mut sum)?;
    probe.compare_floats("clear", EXACT, &sum, &want.zeros_like()?)?;
    probe.compare_floats("zeros", EXACT, &backend.zeros(len)?, &want.zeros_like()?)
}

/// Updates a range of the weights; the others must not change.
fn adamw<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, len, range) = (probe.backend, probe.layout.len(), probe.layout.embedding.range.clone());
    let (first, grad) = (probe.draw(len)?, probe.draw(len)?);
    let second: Vec<f32> = probe.draw(len)?.iter().map(|x| x.abs()).collect();
    let step =
        AdamW { lr: 0.03, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 3, grad_scale: 0.7 };
    let of = |values: &[f32]| tensor(values, len);
    let all = [of(&probe.weights)?, of(&first)?, of(&second)?];
    let part = |x: &Tensor| x.narrow(0, range.start, range.len());
    let moments = [&part(&all[1])?, &part(&all[2])?];
    let updated = reference::adamw(&part(&all[0])?, moments, &part(&of(&grad)?)?, &step)?;
    let mut w = backend.weights(probe.weights.clone())?;
    let mut moments = [backend.floats(first)?, backend.floats(second)?];
    backend.adamw(&mut w, &mut moments, &backend.floats(grad)?, range.clone(), &step)?;
    let want = |number: usize| all[number].slice_scatter(&updated[number], 0, range.start);
    probe.compare("adamw", ROUNDING, &backend.read_weights(&w)?, &want(0)?)?;
    probe.compare_floats("adamw", ROUNDING, &moments[0], &want(1)?)?;
    probe.compare_floats("adamw", ROUNDING, &moments[1], &want(2)?)
}

/// Five iterations of a polynomial amplify the rounding error of the smallest singular values; over 1,000 random shapes
/// the worst deviation was 1.8e-7.
const NEWTON_SCHULZ: f64 = 1e-5;

fn muon<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, len) = (probe.backend, probe.layout.len());
    let of_block = |block: &BlockLayout| {
        let dense = block.dense.clone().into_iter().flat_map(|dense| [dense.w13, dense.w2]);
        [block.wqkv.clone(), block.wo.clone()].into_iter().chain(dense).collect::<Vec<_>>()
    };
    // The matrices of two blocks have the same shapes.
    let matrices: Vec<Matrix> = probe.layout.blocks.iter().flat_map(of_block).collect();
    let (momentum, grad) = (probe.draw(len)?, probe.draw(len)?);
    let step = Muon { lr: 0.1, momentum: 0.95, weight_decay: 0.1, grad_scale: 0.7 };
    let of = |values: &[f32]| tensor(values, len);
    let (mut weights, mut moment) = (of(&probe.weights)?, of(&momentum)?);
    for m in &matrices {
        let part = |values: &[f32]| tensor(&values[m.range.clone()], (m.d_out, m.d_in));
        let [w, v] = reference::muon(&part(&probe.weights)?, &part(&momentum)?, &part(&grad)?, &step)?;
        weights = weights.slice_scatter(&w.flatten_all()?, 0, m.range.start)?;
        moment = moment.slice_scatter(&v.flatten_all()?, 0, m.range.start)?;
    }
    let mut w = backend.weights(probe.weights.clone())?;
    let mut moments = [backend.floats(momentum)?, backend.zeros(len)?];
    backend.muon(&mut w, &mut moments, &backend.floats(grad)?, &matrices, &step)?;
    probe.compare("muon", NEWTON_SCHULZ, &backend.read_weights(&w)?, &weights)?;
    probe.compare_floats("muon", ROUNDING, &moments[0], &moment)?;
    probe.compare_floats("muon", EXACT, &moments[1], &moment.zeros_like()?) // there is no second moment
}

/// Low-rank adapters of `wo`: merged into it, and the gradients of `A` and `B` derived from its gradient.
fn adapter<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let (backend, scale, rank) = (probe.backend, 0.5, 3);
    let weight = probe.layout.blocks[0].wo.clone();
    let (d_in, d_out) = (weight.d_in, weight.d_out);
    let a = Matrix { range: 2..2 + rank * d_in, d_out: rank, d_in };
    let b = Matrix { range: a.range.end..a.range.end + d_out * rank, d_out, d_in: rank };
    let (base, adapters) = (probe.draw(d_out * d_in + 1)?, probe.draw(b.range.end)?);
    let dw = probe.draw(probe.layout.len())?;
    let of_a = variable(&adapters[a.range.clone()], (rank, d_in))?;
    let of_b = variable(&adapters[b.range.clone()], (d_out, rank))?;
    let merged = (tensor(&base[1..], (d_out, d_in))? + (of_b.matmul(&of_a)? * scale)?)?;
    let back = Gradients::through(&merged, &tensor(&dw[weight.range.clone()], (d_out, d_in))?)?;
    let (da, db) = (back.by(&of_a)?, back.by(&of_b)?);
    let all = tensor(&probe.weights, probe.weights.len())?;
    let all = all.slice_scatter(&merged.flatten_all()?, 0, weight.range.start)?;

    let adapter = Adapter { base: 1..1 + weight.range.len(), weight, a, b };
    let mut w = backend.weights(probe.weights.clone())?;
    let len = adapters.len();
    let (base, adapters) = (backend.floats(base)?, backend.weights(adapters)?);
    backend.adapt(&mut w, &base, &adapters, &adapter, scale)?;
    probe.compare("adapt", ROUNDING, &backend.read_weights(&w)?, &all)?;
    let mut grads = backend.zeros(len)?;
    backend.adapt_backward(&mut grads, &backend.floats(dw)?, &adapters, &adapter, scale)?;
    let grads = backend.read(&grads)?;
    probe.compare("adapt_backward", ROUNDING, &grads[adapter.a.range], &da)?;
    probe.compare("adapt_backward", ROUNDING, &grads[adapter.b.range], &db)
}

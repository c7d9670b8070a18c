//! Every fused operation at the sizes of a 256-wide model: `cargo bench -p mindscale-model`.
//!
//! One core each. `linear` is the yardstick: an operation whose time is far above its share of a product's is worth
//! a look.
#![allow(missing_docs)] // what criterion's macros generate

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use model::ops::adamw::AdamW;
use model::ops::attention::{self, Heads, Qkv, QkvGrad};
use model::ops::gemm::{linear, linear_input_grad, linear_weight_grad};
use model::ops::rope::{Rotations, rotate};
use model::ops::router::{Balancing, Routes};
use model::ops::{cross_entropy, math, rms_norm, swiglu};
use std::time::Duration;

/// Positions of a call.
const N: usize = 512;
/// Width of the residual stream.
const D: usize = 256;
/// Hidden size of the feed-forward.
const HIDDEN: usize = 704;
const VOCAB: usize = 6400;
const HEADS: Heads = Heads { n_heads: 8, n_kv_heads: 4, head_dim: 32 };

/// Numbers without meaning in [-1, 1).
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 2_654_435_761 % 65_536) as f32 / 32_768.0 - 1.0).collect()
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (d_in, d_out) in [(D, D), (D, 2 * HIDDEN), (HIDDEN, D)] {
        group.throughput(Throughput::Elements((2 * N * d_in * d_out) as u64)); // floating-point operations
        let (x, w, dy) = (values(N * d_in), values(d_in * d_out), values(N * d_out));
        let (mut y, mut dx, mut dw) = (values(N * d_out), values(N * d_in), values(d_in * d_out));
        let shape = format!("{d_in}x{d_out}");
        group.bench_function(BenchmarkId::new("forward", &shape), |b| {
            b.iter(|| linear(&mut y, &x, &w, N, d_in, false));
        });
        group.bench_function(BenchmarkId::new("input gradient", &shape), |b| {
            b.iter(|| linear_input_grad(&mut dx, &dy, &w, N, d_in, false));
        });
        group.bench_function(BenchmarkId::new("weight gradient", &shape), |b| {
            b.iter(|| linear_weight_grad(&mut dw, &dy, &x, N, d_in));
        });
    }
    group.finish();
}

fn norms_and_activations(c: &mut Criterion) {
    let (x, weight, dy) = (values(N * D), values(D), values(N * D));
    let (mut y, mut inverse) = (values(N * D), values(N));
    c.bench_function("rms_norm/forward", |b| {
        b.iter(|| rms_norm::forward(&mut y, &mut inverse, &x, &weight, 1e-5));
    });
    let (mut dx, mut dweight) = (values(N * D), values(D));
    c.bench_function("rms_norm/backward", |b| {
        b.iter(|| rms_norm::backward(&mut dx, &mut dweight, &dy, &x, &weight, &inverse));
    });

    let (inner, mut hidden) = (values(N * 2 * HIDDEN), values(N * HIDDEN));
    c.bench_function("swiglu/forward", |b| b.iter(|| swiglu::forward(&mut hidden, &inner, HIDDEN)));
    let (ones, mut dweights) = (vec![1.0; N], vec![0.0; N]);
    let (mut dhidden, mut dinner) = (hidden, inner);
    c.bench_function("swiglu/backward", |b| {
        b.iter(|| swiglu::backward_in_place(&mut dhidden, &mut dinner, &ones, &mut dweights, HIDDEN));
    });

    let rotations = Rotations::new(N, HEADS.head_dim, 10_000.0);
    let mut rotated = values(N * D);
    c.bench_function("rope", |b| {
        b.iter(|| {
            for (t, (y, x)) in rotated.chunks_exact_mut(D).zip(x.chunks_exact(D)).enumerate() {
                let heads = y.chunks_exact_mut(HEADS.head_dim).zip(x.chunks_exact(HEADS.head_dim));
                heads.for_each(|(y, x)| rotate(y, x, rotations.at(t), 0.2));
            }
        });
    });
}

fn attentions(c: &mut Criterion) {
    let kv = N * HEADS.n_kv_heads * HEADS.head_dim;
    let (q, k, v) = (values(N * D), values(kv), values(kv));
    let (mut out, mut lse) = (values(N * D), values(N * HEADS.n_heads));
    let qkv = || Qkv { q: &q, k: &k, v: &v };
    let mut group = c.benchmark_group("attention");
    for (name, documents) in
        [("one document", vec![0, N]), ("eight documents", (0..=8).map(|i| i * N / 8).collect())]
    {
        group.bench_function(BenchmarkId::new("forward", name), |b| {
            b.iter(|| attention::forward(&mut out, &mut lse, qkv(), &documents, HEADS, None));
        });
        let (mut dq, mut dk, mut dv) = (vec![0.0; N * D], vec![0.0; kv], vec![0.0; kv]);
        group.bench_function(BenchmarkId::new("backward", name), |b| {
            b.iter(|| {
                let grad = QkvGrad { q: &mut dq, k: &mut dk, v: &mut dv };
                attention::backward(grad, &q, &out, &lse, qkv(), &documents, HEADS, None);
            });
        });
    }
    // One new token after N - 1 others.
    let (one, mut one_out) = (values(D), values(D));
    group.bench_function("cached, one token", |b| {
        b.iter(|| attention::forward_cached(&mut one_out, Qkv { q: &one, k: &k, v: &v }, N - 1, HEADS));
    });
    group.finish();
}

fn heads(c: &mut Criterion) {
    let (x, embedding) = (values(N * D), values(VOCAB * D));
    let targets: Vec<u32> = (0..N).map(|i| (i * 7 % VOCAB) as u32).collect();
    let (mut nll, weights) = (values(N), vec![1.0; N]);
    c.bench_function("cross_entropy/forward", |b| {
        b.iter(|| cross_entropy::forward(&mut nll, &x, &embedding, &targets, D));
    });
    let (mut dx, mut dembedding) = (values(N * D), values(VOCAB * D));
    c.bench_function("cross_entropy/forward and backward", |b| {
        b.iter(|| {
            let gradients = (&mut dx[..], &mut dembedding[..]);
            let (nll, targets) = (&mut nll[..], &targets[..]);
            cross_entropy::forward_backward(nll, gradients.0, gradients.1, &x, &embedding, targets, &weights);
        });
    });
    let mut logits = values(VOCAB);
    c.bench_function("log_sum_exp/6400", |b| b.iter(|| math::log_sum_exp_in_place(&mut logits)));
}

fn routers(c: &mut Criterion) {
    let (experts, top_k) = (4, 2);
    let logits = values(N * experts);
    c.bench_function("router/forward", |b| {
        b.iter(|| Routes::new(logits.clone(), experts, top_k).by_expert());
    });
    let (routes, dweights) = (Routes::new(logits, experts, top_k), values(N * top_k));
    let balancing = Balancing { spans: vec![0, N], weight: 0.01, load: None };
    c.bench_function("router/backward", |b| b.iter(|| routes.backward(&dweights, &balancing)));
}

fn optimizer(c: &mut Criterion) {
    let n = 1 << 20;
    let (mut w, mut m, mut v, grad) = (values(n), vec![0.0; n], vec![0.0; n], values(n));
    let adam =
        AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 10, grad_scale: 1.0 };
    let mut group = c.benchmark_group("adamw");
    group.throughput(Throughput::Elements(n as u64));
    group.bench_function("update", |b| b.iter(|| adam.update(&mut w, &mut m, &mut v, &grad)));
    group.finish();
}

criterion_group! {
    name = ops;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = products, norms_and_activations, attentions, heads, routers, optimizer
}
criterion_main!(ops);

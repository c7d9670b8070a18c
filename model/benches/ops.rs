//! Benchmarks of the operations of the CPU backend at the sizes of a model of width 256: `cargo bench -p mindscale-model`.
//!
//! Each runs on one core. Use `linear` as the yardstick: an operation that takes too large a share of the time of a matrix
//! product is worth a look.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros generate undocumented items; operations of the CPU do not fail

use criterion::BatchSize::PerIteration;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use model::backend::cpu::gemm::{linear, linear_input_grad, linear_weight_grad};
use model::backend::{Attention, Balancing};
use model::layout::Layout;
use model::optimizer::{AdamW, GradScale};
use model::{Backend, Cpu, Memory, Mode, ModelConfig, Ragged, Sequence, Transformer};
use std::time::Duration;

/// Number of positions per call.
const N: usize = 512;

fn config() -> ModelConfig {
    ModelConfig { d_model: 256, n_layers: 1, n_heads: 8, n_kv_heads: 4, ..ModelConfig::default() }
}

/// Returns arbitrary numbers in [-1, 1).
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 2_654_435_761 % 65_536) as f32 / 32_768.0 - 1.0).collect()
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (d_in, d_out) in [(256, 256), (256, 1408), (704, 256), (64, 64), (64, 384), (192, 64)] {
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

/// Returns the layout of a model, its weights and a gradient buffer.
fn memory(config: &ModelConfig) -> (Layout, <Cpu as Memory>::Weights, <Cpu as Memory>::Floats) {
    let layout = Layout::new(config);
    let (w, grads) = (Cpu.weights(values(layout.len())).unwrap(), Cpu.zeros(layout.len()).unwrap());
    (layout, w, grads)
}

fn activations(width: usize) -> <Cpu as Memory>::Buffer {
    Cpu.buffer(&values(N * width), width).unwrap()
}

fn norms_and_activations(c: &mut Criterion) {
    let config = config();
    let (layout, w, mut grads) = memory(&config);
    let (norm, hidden) = (&layout.norm, config.ffn_dim());
    let (x, dy, mut dx) = (activations(256), activations(256), activations(256));
    c.bench_function("rms_norm/forward", |b| b.iter(|| Cpu.rms_norm(&x, &w, norm, 1e-5)));
    let inverse = Cpu.rms_norm(&x, &w, norm, 1e-5).unwrap().1;
    c.bench_function("rms_norm/backward", |b| {
        b.iter(|| Cpu.rms_norm_backward(&mut dx, &mut grads, &dy, &x, &inverse, &w, norm));
    });
    let (mut inner, mut active) = (activations(2 * hidden), activations(hidden));
    c.bench_function("swiglu/forward", |b| b.iter(|| Cpu.swiglu(&inner, hidden)));
    c.bench_function("swiglu/backward", |b| {
        b.iter(|| Cpu.swiglu_backward(&mut active, &mut inner, None, hidden));
    });
}

/// Returns a batch of `N` positions, divided into `documents` documents of equal length.
fn batch(model: &Transformer, documents: usize) -> <Cpu as Memory>::Batch {
    let row = Sequence {
        documents: vec![(N / documents) as u32; documents],
        ..Sequence::document(&(0..N as u32).collect::<Vec<_>>())
    };
    model.pass(Ragged::new([&row]), Mode::Infer).unwrap().into_batch()
}

fn attentions(c: &mut Criterion) {
    let config = config();
    let (model, attention) = (Transformer::new(&config, 1, &Cpu).unwrap(), Attention::of(&config));
    let heads = attention.heads;
    let (qkv, dout) = (activations(heads.qkv_width()), activations(heads.width()));
    let mut group = c.benchmark_group("attention");
    for (name, documents) in [("one document", 1), ("eight documents", 8), ("32 documents", 32)] {
        let batch = batch(&model, documents);
        let split = Cpu.split_heads(&qkv, &batch, heads).unwrap();
        group.bench_function(BenchmarkId::new("split", name), |b| {
            b.iter(|| Cpu.split_heads(&qkv, &batch, heads));
        });
        group.bench_function(BenchmarkId::new("forward", name), |b| {
            b.iter(|| Cpu.attention(&split, &batch, &attention));
        });
        let (out, lse) = Cpu.attention(&split, &batch, &attention).unwrap();
        group.bench_function(BenchmarkId::new("backward", name), |b| {
            b.iter(|| Cpu.attention_backward(&dout, &out, &lse, &split, &batch, &attention));
        });
    }
    group.finish();
    // One new token after N - 1 others.
    let mut cache = model.cache(N).unwrap();
    model.read(&mut cache, &(0..N as u32 - 1).collect::<Vec<_>>()).unwrap();
    c.bench_function("one token", |b| {
        b.iter_batched_ref(|| cache.fork(N), |cache| model.read(cache.as_mut().unwrap(), &[1]), PerIteration);
    });
}

fn heads(c: &mut Criterion) {
    let (layout, w, mut grads) = memory(&config());
    let (x, vocab) = (activations(256), layout.head.d_out);
    let targets: Vec<u32> = (0..N).map(|i| (i * 7 % vocab) as u32).collect();
    c.bench_function("cross_entropy/forward", |b| {
        b.iter(|| Cpu.cross_entropy(&x, &w, &layout.head, &targets));
    });
    c.bench_function("cross_entropy/forward and backward", |b| {
        b.iter(|| Cpu.cross_entropy_backward(&mut grads, &x, &w, &layout.head, &targets, &[1.0; N]));
    });
}

fn routers(c: &mut Criterion) {
    let layout = Layout::new(&ModelConfig { n_experts: 4, ..config() });
    let experts = layout.blocks[0].experts.as_ref().unwrap();
    let logits = activations(4);
    c.bench_function("router/forward", |b| b.iter(|| Cpu.route(&logits, experts)));
    let routes = Cpu.route(&logits, experts).unwrap();
    let dweights = Cpu.floats(values(N * experts.top_k)).unwrap();
    let balancing = Balancing { spans: vec![0, N], weight: 0.01, load: None };
    c.bench_function("router/backward", |b| {
        b.iter(|| Cpu.route_backward(&dweights, &routes, &balancing));
    });
}

fn optimizer(c: &mut Criterion) {
    let n = 1 << 20;
    let mut w = Cpu.weights(values(n)).unwrap();
    let (mut moments, grad) =
        ([Cpu.zeros(n).unwrap(), Cpu.zeros(n).unwrap()], Cpu.floats(values(n)).unwrap());
    let step = AdamW { lr: 1e-9, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 10 };
    let scale = GradScale { norm: 1.0, factor: Some(1.0) };
    let mut group = c.benchmark_group("adamw");
    group.throughput(Throughput::Elements(n as u64));
    group
        .bench_function("update", |b| b.iter(|| Cpu.adamw(&mut w, &mut moments, &grad, &scale, 0..n, &step)));
    group.finish();
}

criterion_group! {
    name = ops;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = products, norms_and_activations, attentions, heads, routers, optimizer
}
criterion_main!(ops);

//! Tests of the tiles, and of the kernels against a plain computation in f64.

use super::*;

#[test]
fn tiles_cover_every_row_and_key_once_and_the_longest_come_first() {
    let documents = [
        Document { q_start: 0, q_len: 200, k_start: 0, k_len: 200 },
        Document { q_start: 200, q_len: 0, k_start: 200, k_len: 0 },
        Document { q_start: 200, q_len: 1, k_start: 200, k_len: 900 },
    ];
    let plan = Plan::new(&documents, 2, 64, Dtype::Bf16);
    let tiles = |tiles: &[Tile]| tiles.iter().map(|tile| (tile.document, tile.first)).collect::<Vec<_>>();
    assert_eq!(tiles(&plan.query_tiles), [(2, 0), (0, 384), (0, 256), (0, 128), (0, 0)]);
    let keys = tiles(&plan.key_tiles);
    assert_eq!(keys.len(), 2 + 8);
    assert_eq!(keys[..3], [(0, 0), (0, 128), (2, 0)]);
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), keys.len());
}

#[test]
fn shared_memory_fits_every_gpu() {
    for (width, dtype) in WIDTHS.iter().flat_map(|&w| [Dtype::F32, Dtype::Bf16, Dtype::F16].map(|d| (w, d))) {
        let sizes = Sizes::of(width, dtype);
        for bytes in [sizes.forward, sizes.backward_keys, sizes.backward_queries] {
            assert!(bytes <= 99 << 10, "{width} {dtype:?}: {bytes}");
        }
    }
}

#[test]
fn heads_that_are_too_wide_are_refused() {
    let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 129 };
    let shape = Shape { heads, n: 1, n_keys: 1, window: None, dropout: None, dtype: Dtype::F32 };
    let error = shape.width().unwrap_err().to_string();
    assert_eq!(error, "attention on CUDA: head_dim is 129, expected at most 128; use more heads");
}

/// The kernels, on a GPU with the feature `cuda`, otherwise emulated on the CPU.
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod kernels {
    use super::*;
    use crate::backend::cuda::queue::Allocation;
    use half::{bf16, f16};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;
    use std::ops::Range;
    use std::sync::Arc;

    /// The queue of a device; `None` if there is no GPU.
    #[cfg(feature = "cuda")]
    fn queue(_: u64) -> Option<Arc<Queue>> {
        use crate::backend::{Cuda, Precision};
        Cuda::for_tests(Precision::F32).unwrap().map(|cuda| cuda.queue)
    }

    /// The queue of an emulated GPU; `seed` determines the order of its threads.
    #[cfg(not(feature = "cuda"))]
    fn queue(seed: u64) -> Option<Arc<Queue>> {
        use crate::backend::cuda::emulation::Emulation;
        Some(Queue::new(Box::new(Emulation::with_seed(seed))))
    }

    /// An attention operation on random inputs.
    struct Case {
        shape: Shape,
        documents: Vec<Document>,
        q: Vec<f64>,
        k: Vec<f64>,
        v: Vec<f64>,
        dout: Vec<f64>,
    }

    /// Expected values, and for each the sum of the magnitudes of its terms.
    #[derive(Default)]
    struct Expected {
        is: Vec<f64>,
        of: Vec<f64>,
    }

    impl Expected {
        fn zero(len: usize) -> Self {
            Self { is: vec![0.0; len], of: vec![0.0; len] }
        }
        fn add(&mut self, at: usize, term: f64, size: f64) {
            self.is[at] += term;
            self.of[at] += size;
        }
    }

    /// Converts numbers to the device's element type.
    fn encode(numbers: &[f64], dtype: Dtype) -> Vec<u8> {
        let encode = |&x: &f64| match dtype {
            Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
            Dtype::Bf16 => bf16::from_f64(x).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        };
        numbers.iter().flat_map(encode).collect()
    }

    fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
        let pair = |two: &[u8]| u16::from_le_bytes([two[0], two[1]]);
        let decode = |x: &[u8]| match dtype {
            Dtype::F32 => f64::from(f32::from_le_bytes([x[0], x[1], x[2], x[3]])),
            Dtype::Bf16 => bf16::from_bits(pair(x)).to_f64(),
            Dtype::F16 => f16::from_bits(pair(x)).to_f64(),
        };
        bytes.chunks_exact(dtype.size()).map(decode).collect()
    }

    impl Case {
        /// Documents of these lengths; `earlier`: range of the number of keys before each document's own.
        fn new(rng: &mut ChaCha8Rng, shape: Shape, lengths: &[usize], earlier: Range<usize>) -> Self {
            let mut documents: Vec<Document> = vec![];
            let (mut n, mut n_keys) = (0, 0);
            for &len in lengths {
                let keys = len + if earlier.is_empty() { 0 } else { rng.random_range(earlier.clone()) };
                let [q_start, q_len, k_start, k_len] = [n, len, n_keys, keys].map(|x| x as i32);
                documents.push(Document { q_start, q_len, k_start, k_len });
                (n, n_keys) = (n + len, n_keys + keys);
            }
            let Heads { n_heads, n_kv_heads, head_dim } = shape.heads;
            let mut numbers = |len: usize, scale: f64| -> Vec<f64> {
                let numbers = (0..len).map(|_| rng.sample::<f64, _>(StandardNormal) * scale);
                decode(&encode(&numbers.collect::<Vec<_>>(), shape.dtype), shape.dtype)
            };
            Self {
                q: numbers(n * n_heads * head_dim, 3.0 / (head_dim as f64).sqrt()),
                k: numbers(n_keys * n_kv_heads * head_dim, 1.0),
                v: numbers(n_keys * n_kv_heads * head_dim, 1.0),
                dout: numbers(n * n_heads * head_dim, 1.0),
                shape: Shape { n, n_keys, ..shape },
                documents,
            }
        }

        /// Computes `[out, lse, dq, dk, dv]`, one query at a time.
        fn expected(&self) -> [Expected; 5] {
            let Shape { heads, n, n_keys, window, dropout, dtype } = self.shape;
            let (hd, repeats) = (heads.head_dim, heads.repeats());
            let row = |x: &[f64], at: usize| x[at * hd..(at + 1) * hd].to_vec();
            let mut out = Expected::zero(self.q.len());
            let mut lse = Expected::zero(n * heads.n_heads);
            let [mut dq, mut dk, mut dv] = [self.q.len(), self.k.len(), self.v.len()].map(Expected::zero);
            let queries = self.documents.iter().flat_map(|of| (0..of.q_len as usize).map(move |p| (of, p)));
            for ((of, position), head) in queries.flat_map(|q| (0..heads.n_heads).map(move |head| (q, head)))
            {
                let (kv, at) = (head / repeats, of.q_start as usize + position);
                let query = (kv * n + at) * repeats + head % repeats; // row in (n_kv_heads, n, repeats)
                let joined = (at * heads.n_heads + head) * hd; // offset in (n, width)
                let end = position + (of.k_len - of.q_len) as usize + 1;
                let keys = end.saturating_sub(window.unwrap_or(end))..end;
                let key_at = |key: usize| kv * n_keys + of.k_start as usize + key;
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let size = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
                let (q, g) = (row(&self.q, query), self.dout[joined..joined + hd].to_vec());
                let of_keys = keys.clone().map(|key| (row(&self.k, key_at(key)), row(&self.v, key_at(key))));
                let of_keys: Vec<_> = of_keys.collect();
                let scores: Vec<f64> = of_keys.iter().map(|(k, _)| dot(&q, k)).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                // In f32 the error of the scores dominates that of their exponentials; for other types it is far below
                // the rounding.
                let largest = of_keys.iter().map(|(k, _)| size(&q, k)).fold(0.0, f64::max);
                let blur = if dtype == Dtype::F32 { 1.0 + largest } else { 1.0 };
                lse.add(query, top + total.ln(), 1.0 + largest);
                let probability = |i: usize| (scores[i] - top).exp() / total;
                let factor = |i: usize| {
                    let place = Dropout::probability(head, at, of.k_start as usize + keys.start + i, n);
                    dropout.map_or(1.0, |dropout| f64::from(dropout.factor(place)))
                };
                for (i, (_, v)) in of_keys.iter().enumerate() {
                    let p = probability(i) * factor(i);
                    (0..hd).for_each(|c| out.add(joined + c, p * v[c], (p * v[c]).abs() * blur));
                }
                let result = out.is[joined..joined + hd].to_vec();
                let (delta, delta_of) =
                    (dot(&result, &g), size(&result, &g) + size(&out.of[joined..joined + hd], &g));
                for (i, (k, v)) in of_keys.iter().enumerate() {
                    let (p, factor, key) = (probability(i), factor(i), key_at(keys.start + i) * hd);
                    let ds = p * (dot(v, &g) * factor - delta);
                    let ds_of = p * (size(v, &g) * factor + delta_of) * blur;
                    for c in 0..hd {
                        dq.add(query * hd + c, ds * k[c], ds_of * k[c].abs());
                        dk.add(key + c, ds * q[c], ds_of * q[c].abs());
                        dv.add(key + c, p * factor * g[c], (p * factor * g[c]).abs() * blur);
                    }
                }
            }
            [out, lse, dq, dk, dv]
        }

        /// Runs the kernels; without gradients if there are more keys than queries, which only occurs with caches.
        fn computed(&self, queue: &Arc<Queue>) -> Vec<Vec<f64>> {
            let Shape { heads, n, dtype, .. } = self.shape;
            let put = |numbers: &[f64]| queue.upload(&encode(numbers, dtype)).unwrap();
            // Elements that are not written stay NaN; in the emulation, writes out of bounds are errors.
            let room = |len: usize, dtype: Dtype| queue.upload(&vec![0xff_u8; len * dtype.size()]).unwrap();
            let get = |from: &Allocation, len: usize, dtype: Dtype| {
                decode(&queue.download::<u8>(from.at, len * dtype.size()).unwrap(), dtype)
            };
            let plan = Plan::new(&self.documents, heads.repeats(), heads.head_dim, dtype);
            let plan = DevicePlan {
                documents: queue.upload(&plan.documents).unwrap(),
                query_tiles: queue.upload(&plan.query_tiles).unwrap(),
                key_tiles: queue.upload(&plan.key_tiles).unwrap(),
                plan,
            };
            let inputs = [put(&self.q), put(&self.k), put(&self.v)];
            let qkv = inputs.each_ref().map(|input| input.at);
            let (out, lse) = (room(self.q.len(), dtype), room(n * heads.n_heads, Dtype::F32));
            forward(queue, &self.shape, &plan, qkv, out.at, lse.at).unwrap();
            let mut all = vec![get(&out, self.q.len(), dtype), get(&lse, n * heads.n_heads, Dtype::F32)];
            if self.shape.n == self.shape.n_keys {
                let (dout, delta) = (put(&self.dout), room(n * heads.n_heads, Dtype::F32));
                let lengths = [self.q.len(), self.k.len(), self.v.len()];
                let grads = lengths.map(|len| room(len, dtype));
                let outcome = [dout.at, out.at, lse.at, delta.at];
                backward(queue, &self.shape, &plan, qkv, outcome, grads.each_ref().map(|grad| grad.at))
                    .unwrap();
                all.extend(grads.iter().zip(lengths).map(|(grad, len)| get(grad, len, dtype)));
            }
            all
        }

        /// Compares the two; the error is measured relative to the type's epsilon times the sum of the terms' magnitudes.
        fn check(&self, seed: u64, name: &str) {
            let dtype = self.shape.dtype;
            // Twice half a unit in the last place; f16 also loses precision below its smallest normal number.
            let (epsilon, bound, least) = match dtype {
                Dtype::F32 => (f64::from(f32::EPSILON), 10.0, 1e-3),
                Dtype::Bf16 => (bf16::EPSILON.to_f64(), 1.5, 1e-2),
                Dtype::F16 => (f16::EPSILON.to_f64(), 1.5, 1e-2),
            };
            let Some(queue) = queue(seed) else { return };
            let expected = self.expected();
            for ((what, expected), computed) in
                ["out", "lse", "dq", "dk", "dv"].iter().zip(&expected).zip(self.computed(&queue))
            {
                let (epsilon, bound) =
                    if *what == "lse" { (f64::from(f32::EPSILON), 10.0) } else { (epsilon, bound) };
                for (i, x) in computed.iter().enumerate() {
                    let error = (x - expected.is[i]).abs() / (epsilon * (expected.of[i] + least));
                    let is = expected.is[i];
                    assert!(
                        error <= bound,
                        "{name}: {what}[{i}] is {x}, expected {is}: {error} epsilon of its terms"
                    );
                }
            }
        }
    }

    fn shape(kv_heads: usize, repeats: usize, head_dim: usize, dtype: Dtype) -> Shape {
        let heads = Heads { n_heads: kv_heads * repeats, n_kv_heads: kv_heads, head_dim };
        Shape { heads, n: 0, n_keys: 0, window: None, dropout: None, dtype }
    }

    const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

    #[test]
    fn every_width_of_heads_and_number_of_repeats() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let shapes = [
            (8, 4),
            (16, 1),
            (24, 2),
            (33, 2),
            (40, 3),
            (64, 1),
            (64, 2),
            (80, 7),
            (96, 1),
            (128, 2),
            (1, 1),
        ];
        for (i, (head_dim, repeats)) in shapes.into_iter().enumerate() {
            for dtype in DTYPES {
                // One position more than a key tile has, so that the last tile has few rows.
                let lengths = [rng.random_range(1..4), 129, rng.random_range(30..100)];
                let kv_heads = 1 + i % 2;
                let case = Case::new(&mut rng, shape(kv_heads, repeats, head_dim, dtype), &lengths, 0..0);
                case.check(i as u64, &format!("head_dim {head_dim}, repeats {repeats}, {dtype:?}"));
            }
        }
    }

    #[test]
    fn windows_and_dropout() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for (i, window) in [1, 2, 31, 64, 100].into_iter().enumerate() {
            for (dtype, rate) in DTYPES.into_iter().zip([0.3, 0.0, 0.5]) {
                let dropout = (rate > 0.0).then(|| Dropout { seed: rng.random(), rate });
                let shape =
                    Shape { window: Some(window), dropout, ..shape(2, 1 + i % 3, 16 << (i % 4), dtype) };
                let case = Case::new(&mut rng, shape, &[140, 1, 90], 0..0);
                case.check(i as u64, &format!("window {window}, dropout {rate}, {dtype:?}"));
            }
        }
    }

    #[test]
    fn keys_of_caches_before_the_queries() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for dtype in DTYPES {
            for (repeats, window) in [(1, None), (3, Some(40)), (4, None)] {
                let shape = Shape { window, ..shape(2, repeats, 64, dtype) };
                let case = Case::new(&mut rng, shape, &[1, 1, 20, 70, 1], 1..150);
                case.check(repeats as u64, &format!("repeats {repeats}, window {window:?}, {dtype:?}"));
            }
        }
    }

    #[test]
    fn hundreds_of_documents_and_empty_ones() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for dtype in DTYPES {
            let lengths: Vec<usize> = (0..300).map(|_| rng.random_range(0..4)).collect();
            Case::new(&mut rng, shape(1, 2, 32, dtype), &lengths, 0..0).check(1, &format!("{dtype:?}"));
            // No positions at all.
            Case::new(&mut rng, shape(1, 2, 32, dtype), &[0, 0], 0..0).check(1, &format!("{dtype:?}"));
        }
    }
}

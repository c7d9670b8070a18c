#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

#[test]
fn products_follow_the_definition() {
    // [1 2; 3 4; 5 6] [1 0 2; 0 1 3], computed by hand.
    let a = [1., 2., 3., 4., 5., 6.];
    let b = [1., 0., 2., 0., 1., 3.];
    let mut out = [1.0; 9];
    matmul(&mut out, 3, Mat::new(&a, 3, 2), Mat::new(&b, 2, 3), true);
    assert_eq!(out, [2., 3., 9., 4., 5., 19., 6., 7., 29.]);
}

#[test]
fn linear_layers_and_their_gradients_agree_on_shapes() {
    let (x, w) = ([1., 2.], [3., 4., 5., 6., 7., 8.]); // x (1, 2), w (3, 2)
    let mut y = [0.0; 3];
    linear(&mut y, &x, &w, 1, 2, false);
    assert_eq!(y, [11., 17., 23.]);
    let mut dx = [0.0; 2];
    linear_input_grad(&mut dx, &[1., 1., 1.], &w, 1, 2, false);
    assert_eq!(dx, [15., 18.]);
    let mut dw = [1.0; 6];
    linear_weight_grad(&mut dw, &[1., 2., 3.], &x, 1, 2);
    assert_eq!(dw, [2., 3., 3., 5., 4., 7.]);
}

#[test]
fn nothing_between_makes_zero_or_leaves_what_is_there() {
    let mut out = [1.0, 2.0, 3.0, 4.0];
    matmul(&mut out, 2, Mat::new(&[], 2, 0), Mat::new(&[], 0, 2), true);
    assert_eq!(out, [1.0, 2.0, 3.0, 4.0]);
    matmul(&mut out, 2, Mat::new(&[], 2, 0), Mat::new(&[], 0, 2), false);
    assert_eq!(out, [0.0; 4]);
    // Elements between and after the rows are not part of the product.
    let mut out = [1.0; 8];
    matmul(&mut out, 3, Mat::new(&[], 2, 0), Mat::new(&[], 0, 2), false);
    assert_eq!(out, [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let mut out = [1.0; 4];
    matmul(&mut out, 1, Mat::new(&[], 1, 0), Mat::new(&[], 0, 3), false);
    assert_eq!(out, [0.0, 0.0, 0.0, 1.0]);
}

/// Pseudo-random numbers in [-1, 1).
fn numbers(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mix = |i: u64| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..(rows * cols) as u64).map(|i| mix(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A product whose result is embedded in elements that must not change, as is `b` in others unless it is transposed.
#[derive(Debug, Clone, Copy)]
struct Product {
    m: usize,
    k: usize,
    n: usize,
    a_t: bool,
    b_t: bool,
    accumulate: bool,
    gap: usize,
}

impl Product {
    /// Whether, on every path, each element is a chain of fused multiply-adds in order, to the last bit.
    fn is_a_chain_everywhere(self, seed: u64) -> bool {
        let Product { m, k, n, a_t, b_t, accumulate, gap } = self;
        let stride = n + gap;
        let (a, b) = (numbers(m, k, seed), numbers(k, stride, seed ^ 1));
        let a = if a_t { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
        let b = if b_t { Mat::new(&b[..n * k], n, k).t() } else { Mat::strided(&b, k, n, stride) };
        let at = |x: Mat, i: usize, j: usize| x.data[i * x.row_stride + j * x.col_stride];
        let before = numbers(m, stride, seed ^ 2);
        let mut want = before.clone();
        for i in 0..m {
            for j in 0..n {
                let sum = &mut want[i * stride + j];
                let begin = if accumulate { *sum } else { 0.0 };
                *sum = (0..k).fold(begin, |sum, l| at(a, i, l).mul_add(at(b, l, j), sum));
            }
        }
        Path::ALL.into_iter().filter(|path| path.is_supported()).all(|path| {
            let mut out = before.clone();
            matmul_on(path, &mut out, stride, a, b, accumulate, Part::Whole);
            let mut packed = before.clone();
            matmul_packed(&mut packed, stride, a, &Packed::of(path, b), accumulate);
            let equal = |out: &[f32]| out.iter().zip(&want).all(|(x, y)| x.to_bits() == y.to_bits());
            equal(&out) && equal(&packed)
        })
    }
}

#[test]
fn every_height_and_width_of_a_tile_is_a_chain() {
    for m in 1..=30 {
        for n in 1..=50 {
            // With a gap, whole vectors of `b` can be read where it is.
            for (a_t, gap) in [(n % 2 == 0, 1), (false, 15)] {
                let product = Product { m, k: 3, n, a_t, b_t: false, accumulate: true, gap };
                assert!(product.is_a_chain_everywhere(7), "{product:?}");
            }
        }
    }
}

#[test]
fn every_way_to_cut_a_product_is_a_chain() {
    // More rows, inner positions and columns than one block holds, with operands that are packed and operands that are not.
    for (m, k, n) in
        [(550, 5, 9), (1100, 2, 20), (40, 257, 383), (15, 20, 600), (600, 3, 1300), (29, 513, 201)]
    {
        for way in 0..8 {
            let (a_t, b_t, accumulate) = (way & 1 == 1, way & 2 == 2, way & 4 == 4);
            let product = Product { m, k, n, a_t, b_t, accumulate, gap: 0 };
            assert!(product.is_a_chain_everywhere(way), "{product:?}");
        }
    }
}

#[test]
fn a_row_that_cores_share_is_a_chain() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    for (k, n, b_t, accumulate) in
        [(700, 1001, true, false), (513, 775, false, true), (ELEMENTS_PER_CORE, 33, true, true)]
    {
        let product = Product { m: 1, k, n, a_t: false, b_t, accumulate, gap: 2 };
        assert!(
            n * k / ELEMENTS_PER_CORE >= 2 && pool.install(|| product.is_a_chain_everywhere(5)),
            "{product:?}"
        );
    }
}

/// A matrix `(queries, keys)`, with zeros where a key is not visible.
fn visible_of(full: &[f32], keys: usize, mask: CausalMask) -> Vec<f32> {
    let element = |(i, &x)| if i % keys < mask.keys(i / keys) { x } else { 0.0 };
    full.iter().enumerate().map(element).collect()
}

#[test]
fn what_is_not_visible_is_passed_over_without_a_change_of_the_rest() {
    for (positions, repeats, prefix_keys) in
        [(1, 1, 0), (20, 2, 0), (33, 1, 31), (64, 2, 192), (70, 9, 0), (40, 3, 300)]
    {
        let (queries, keys, width) = (positions * repeats, prefix_keys + positions, 12);
        let mask = CausalMask { prefix_keys, repeats };
        assert_eq!((mask.keys(queries - 1), mask.first_query(keys - 1)), (keys, queries - repeats));
        let (q, k) = (numbers(queries, width, 1), numbers(keys, width, 2));
        let (q, k) = (Mat::new(&q, queries, width), Mat::new(&k, keys, width));
        for path in Path::ALL.into_iter().filter(|path| path.is_supported()) {
            let (mut scores, mut whole) = (vec![f32::NAN; queries * keys], vec![0.0; queries * keys]);
            matmul_on(path, &mut scores, keys, q, k.t(), false, Part::Visible(mask));
            matmul_on(path, &mut whole, keys, q, k.t(), false, Part::Whole);
            let p = visible_of(&whole, keys, mask);
            assert_eq!(visible_of(&scores, keys, mask), p);
            let untouched = scores.iter().filter(|x| x.is_nan()).count();
            assert!(positions < 64 || untouched > queries * positions / 8, "{untouched} were left out");

            let p = Mat::new(&p, queries, keys);
            let of = |a: Mat, b: Mat, part: Part| {
                let mut out = numbers(a.rows, width, 3);
                matmul_on(path, &mut out, width, a, b, true, part);
                out
            };
            assert_eq!(of(p, k, Part::OfVisible(mask)), of(p, k, Part::Whole));
            assert_eq!(of(p.t(), q, Part::OfVisibleTransposed(mask)), of(p.t(), q, Part::Whole));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_chains_of_fused_multiply_adds(
        m in 1usize..70, k in prop_oneof![1usize..70, 250usize..530], n in prop_oneof![1usize..70, 90usize..200],
        a_t: bool, b_t: bool, accumulate: bool, gap in 0usize..20, seed: u64,
    ) {
        let product = Product { m, k, n, a_t, b_t, accumulate, gap };
        prop_assert!(product.is_a_chain_everywhere(seed), "{product:?}");
    }
}

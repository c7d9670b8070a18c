//! Vectorizable element-wise arithmetic, with a fixed summation order.

use multiversion::multiversion;

/// Number of partial sums that every sum is split into, so that sums vectorize and their order never changes.
pub const LANES: usize = 16;

/// `e^x` to about 1e-7 relative for `x` in [-87, 88]; smaller arguments give 0.
///
/// Cody-Waite reduction to `[-ln 2 / 2, ln 2 / 2]` and a polynomial of degree 6 (Cephes, `expf`).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds a small number to an integer, which is then in the lowest bits of the sum. A conversion
    // by `as` checks for overflow and would not vectorize.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = power.mul_add(-LN2_HIGH, clamped);
    let r = power.mul_add(-LN2_LOW, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let e = (p * r).mul_add(r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { e * scale }
}

/// `e^x` accurate to the last one or two bits for `x` in [-708, 709]; smaller arguments give 0.
///
/// Like [`exp`], with the Taylor polynomial of degree 13, whose remainder is below 2^-57.
#[inline(always)]
fn exp_f64(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    const OVER_FACTORIALS: [f64; 12] = [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
    ];
    let clamped = x.clamp(-708.0, 709.0);
    let shifted = clamped.mul_add(std::f64::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = power.mul_add(-LN2_HIGH, clamped);
    let r = power.mul_add(-LN2_LOW, r);
    let mut e = 1.0 / 6_227_020_800.0;
    for over in OVER_FACTORIALS {
        e = r.mul_add(e, over);
    }
    let e = r.mul_add(e, 1.0);
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    if x < -708.0 { 0.0 } else { e * scale }
}

/// Replaces `x` by `e^((x - max) / temperature)`, where `max` is the largest element.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn exp_below_largest(x: &mut [f64], temperature: f64) {
    let mut lanes = [f64::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let largest = lanes.into_iter().chain(rest).fold(f64::NEG_INFINITY, f64::max);
    for x in x {
        *x = exp_f64((*x - largest) / temperature);
    }
}

/// Logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Reduces the partial results pairwise, in a fixed order.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger of two numbers; `b` if `a` is NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Inner product, with [`LANES`] partial sums.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    fold(lanes, |a, b| a + b)
}

/// Sum of `a[i] b[i] c[i]`, with [`LANES`] partial sums.
#[inline(always)]
pub fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest), (c, c_rest)) =
        (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i] * c[i];
        }
    }
    for (((lane, a), b), c) in lanes.iter_mut().zip(a_rest).zip(b_rest).zip(c_rest) {
        *lane += a * b * c;
    }
    fold(lanes, |a, b| a + b)
}

/// The largest element, or negative infinity if there is none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            lanes[i] = larger(chunk[i], lanes[i]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = larger(v, *lane);
    }
    fold(lanes, larger)
}

/// Replaces `x` by `e^(x - shift)` and returns the sum.
#[inline(always)]
pub fn exp_shifted_sum(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - shift);
            lanes[i] += chunk[i];
        }
    }
    for (i, v) in chunks.into_remainder().iter_mut().enumerate() {
        *v = exp(*v - shift);
        lanes[i] += *v;
    }
    fold(lanes, |a, b| a + b)
}

/// `log sum e^x` of a row; replaces the row by `e^(x - max)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn log_sum_exp_in_place(row: &mut [f32]) -> f32 {
    let max = max(row);
    let sum = exp_shifted_sum(row, max);
    max + sum.ln()
}

/// `log sum e^x` of a row, summed in f64.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn log_sum_exp(row: &[f32]) -> f64 {
    let max = max(row);
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(exp(chunk[i] - max));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp(x - max));
    }
    f64::from(max) + lanes.iter().sum::<f64>().ln()
}

/// `y += x`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn add_assign(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y += a x`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `y *= a`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn scale(y: &mut [f32], a: f32) {
    for y in y {
        *y *= a;
    }
}

/// Sum of squares in f64, with [`LANES`] partial sums.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
        }
    }
    for (i, &v) in chunks.remainder().iter().enumerate() {
        lanes[i] += f64::from(v) * f64::from(v);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut worst = 0.0f64;
        for i in -8700..=8800 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_of_double_precision_is_accurate_over_its_range() {
        let mut worst = 0.0f64;
        for i in -70_800..=70_900 {
            let x = f64::from(i) * 0.01;
            worst = worst.max(((exp_f64(x) - x.exp()) / x.exp()).abs());
        }
        assert!(worst < 5e-16, "relative error {worst:e}");
        for n in [1, 15, 16, 17, 100] {
            let mut x: Vec<f64> = (0..n).map(|i| f64::from(i * 7 % n) * 3.0 - 20.0).collect();
            let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let want: Vec<f64> = x.iter().map(|x| ((x - largest) / 0.7).exp()).collect();
            exp_below_largest(&mut x, 0.7);
            assert!(x.iter().zip(&want).all(|(x, want)| (x - want).abs() <= 5e-16 * want), "{n}");
        }
        let mut far = [0.0, -800.0, f64::NEG_INFINITY];
        exp_below_largest(&mut far, 1.0);
        assert_eq!(far, [1.0, 0.0, 0.0]);
        for broken in [[1.0, f64::NAN], [f64::INFINITY, 0.0], [f64::NEG_INFINITY; 2]] {
            let mut x = broken;
            exp_below_largest(&mut x, 1.0);
            assert!(x.iter().any(|x| x.is_nan()), "{broken:?}");
        }
    }

    #[test]
    fn log_sum_exp_is_accurate() {
        for n in [1, 15, 16, 17, 6400] {
            let row: Vec<f32> = (0..n).map(|i| 20.0 * (i as f32 * 0.7).sin()).collect();
            let max = row.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
            let want = max + row.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
            assert!((log_sum_exp(&row) - want).abs() < 1e-7, "{n}: {}", log_sum_exp(&row) - want);
        }
        assert!(log_sum_exp(&[1.0, f32::NAN]).is_nan() && log_sum_exp(&[1.0, f32::INFINITY]).is_nan());
    }

    #[test]
    fn sums_take_every_element_once() {
        for n in [0, 1, 15, 16, 17, 40] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let ones = vec![1.0; n];
            assert_eq!(dot(&a, &ones), (n * n.saturating_sub(1) / 2) as f32);
            assert_eq!(dot3(&ones, &a, &a), a.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(max(&a), if n == 0 { f32::NEG_INFINITY } else { n as f32 - 1.0 });
            let squares: f64 = a.iter().map(|&v| f64::from(v * v)).sum();
            assert_eq!(sum_of_squares(&a), squares);
        }
    }

    #[test]
    fn log_sum_exp_matches_double_precision() {
        let mut row = [1.0, -2.0, 0.5, 80.0, 79.0];
        let want = row.iter().map(|&v| (f64::from(v) - 80.0).exp()).sum::<f64>().ln() + 80.0;
        assert!((f64::from(log_sum_exp_in_place(&mut row)) - want).abs() < 1e-5);
    }
}

//! Dropout by a counter-based generator: whether element `i` is kept depends on the seed and `i` alone, so that the
//! backward pass reproduces the forward pass and the number of threads does not matter.

/// A stream of keep-or-drop decisions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Identifies the stream: seed, step, lane and layer, mixed together.
    pub seed: u64,
    /// Probability of dropping an element.
    pub rate: f32,
}

/// The finalizer of SplitMix64 (Steele et al. 2014).
#[inline(always)]
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Dropout {
    /// The element index of an attention probability: its offset in `(n_heads, n, n)`.
    #[inline(always)]
    pub fn probability(head: usize, position: usize, key: usize, n: usize) -> u64 {
        ((head * n + position) * n + key) as u64
    }

    /// Derives the stream of one use of dropout within a model.
    pub fn at(self, place: u64) -> Self {
        Self { seed: mix(self.seed ^ mix(place.wrapping_add(0x9e37_79b9_7f4a_7c15))), ..self }
    }

    /// The factor of element `index`: 0 or `1 / (1 - rate)`.
    #[inline(always)]
    pub fn factor(self, index: u64) -> f32 {
        let uniform = (mix(self.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 40) as f32
            * (1.0 / (1u64 << 24) as f32);
        if uniform < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
    }

    /// Multiplies every element by its factor.
    pub fn apply(self, x: &mut [f32]) {
        for (i, v) in (0..).zip(x) {
            *v *= self.factor(i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_at_its_rate_and_keeps_the_mean() {
        let dropout = Dropout { seed: 7, rate: 0.25 }.at(3);
        let mut x = vec![1.0f32; 100_000];
        dropout.apply(&mut x);
        let dropped = x.iter().filter(|&&v| v == 0.0).count() as f64 / 1e5;
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        // The standard deviation of the dropped fraction is 0.0014.
        assert!((dropped - 0.25).abs() < 0.006, "{dropped}");
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }
}

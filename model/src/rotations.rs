//! The table of rotary positions, on interleaved pairs (Su et al. 2021, eq. 34; MiniMind's `apply_rotary_emb`).

/// Cosines and sines of every position: `(positions, head_dim / 2)` each.
#[derive(Debug, Clone)]
pub struct Rotations {
    /// Cosines, position after position.
    pub cos: Vec<f32>,
    /// Sines, position after position.
    pub sin: Vec<f32>,
    half: usize,
}

impl Rotations {
    /// The table for positions below `positions`.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| (1.0 / theta.powf((2 * i) as f64 / head_dim as f64)) as f32).collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let (sin, cos) = angles.map(|a| f64::from(a).sin_cos()).map(|(s, c)| (s as f32, c as f32)).unzip();
        Self { cos, sin, half }
    }

    /// Cosines and sines of one position, `(head_dim / 2,)` each.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

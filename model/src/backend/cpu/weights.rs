//! Weights in host memory.

use super::gemm::Packed;
use crate::layout::Matrix;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

/// The weights of a model: `(weights,)`.
///
/// *Invariant:* packed matrices equal those of the weights; whoever borrows the weights to change them loses the packed ones.
#[derive(Debug)]
pub struct Weights {
    flat: Vec<f32>,
    /// Matrices in the order in which products read them, by the start of their range; see [`Self::pack`].
    packed: HashMap<usize, Packed>,
}

impl Weights {
    /// Stores the transposes of matrices in the order in which products with few rows read them, which takes as much memory
    /// again.
    pub fn pack<'a>(&mut self, matrices: impl Iterator<Item = &'a Matrix>) {
        let packed =
            matrices.map(|m| (m.range.start, Packed::transposed(&self.flat[m.range.clone()], m.d_in)));
        self.packed = packed.collect();
    }

    /// Returns the packed transpose of a matrix, if there is one.
    pub fn packed(&self, m: &Matrix) -> Option<&Packed> {
        self.packed.get(&m.range.start)
    }
}

impl From<Vec<f32>> for Weights {
    fn from(flat: Vec<f32>) -> Self {
        Self { flat, packed: HashMap::new() }
    }
}

impl Deref for Weights {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.flat
    }
}

impl DerefMut for Weights {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.packed.clear();
        &mut self.flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_weights_loses_packed_matrices() {
        let m = Matrix { range: 1..7, d_out: 2, d_in: 3 };
        let mut weights = Weights::from(vec![1.0; 8]);
        weights.pack([&m].into_iter());
        assert!(weights.packed(&m).is_some());
        weights[0] = 2.0;
        assert!(weights.packed(&m).is_none());
    }
}

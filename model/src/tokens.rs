//! What goes through a model: sequences laid end to end, without padding.

/// One row of a batch, with what is to be predicted at each position.
///
/// A row holds one document or several; attention and positions start anew with each document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequence {
    /// Token ids, `(len,)`.
    pub ids: Vec<u32>,
    /// The next token at each position, `(len,)`.
    pub targets: Vec<u32>,
    /// Weight of each position's loss, `(len,)`: 1 where it is trained on, 0 elsewhere.
    pub weights: Vec<f32>,
    /// Lengths of the documents of this row; they sum to `len`.
    pub documents: Vec<u32>,
    /// Positions that the mean loss divides by. Usually the sum of `weights`; MiniMind counts targets
    /// equal to 0 in the mean though their loss is 0.
    pub counted: f32,
}

impl Sequence {
    /// Number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row has no position.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

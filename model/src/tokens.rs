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
    /// One document without anything to predict.
    pub fn document(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            targets: vec![0; ids.len()],
            weights: vec![0.0; ids.len()],
            documents: vec![ids.len() as u32],
            counted: 0.0,
        }
    }

    /// One document of a prompt and an answer, of which the answer is to be predicted; its last token is not read.
    /// Neither is empty.
    pub fn answered(prompt: &[u32], answer: &[u32]) -> Self {
        let all = [prompt, answer].concat();
        let read = all.len() - 1;
        let is_answer = |i: usize| if i + 1 >= prompt.len() { 1.0 } else { 0.0 };
        Self {
            targets: all[1..].to_vec(),
            weights: (0..read).map(is_answer).collect(),
            counted: answer.len() as f32,
            ..Self::document(&all[..read])
        }
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row has no position.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Several sequences laid end to end: what one forward pass sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Ragged {
    /// Token ids, `(n,)`.
    pub ids: Vec<u32>,
    /// Targets, `(n,)`.
    pub targets: Vec<u32>,
    /// Loss weights, `(n,)`.
    pub weights: Vec<f32>,
    /// Offsets of the documents, `(documents + 1,)`.
    pub documents: Vec<usize>,
    /// Offsets of the sequences, `(sequences + 1,)`.
    pub rows: Vec<usize>,
    /// Position of each document's first token: 0 but where it goes on from a cache, `(documents,)`.
    pub starts: Vec<usize>,
}

impl Ragged {
    /// Lays sequences end to end.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut all = Self {
            ids: vec![],
            targets: vec![],
            weights: vec![],
            documents: vec![0],
            rows: vec![0],
            starts: vec![],
        };
        for sequence in sequences {
            for &len in sequence.documents.iter().filter(|&&len| len > 0) {
                all.documents.push(all.documents.last().copied().unwrap_or(0) + len as usize);
            }
            all.ids.extend(&sequence.ids);
            all.targets.extend(&sequence.targets);
            all.weights.extend(&sequence.weights);
            all.rows.push(all.ids.len());
        }
        debug_assert_eq!(all.documents.last(), all.rows.last());
        all.starts = vec![0; all.documents.len() - 1];
        all
    }

    /// Prompts, one document each, nothing to predict.
    pub fn prompts(prompts: &[impl AsRef<[u32]>]) -> Self {
        let sequences: Vec<Sequence> = prompts.iter().map(|p| Sequence::document(p.as_ref())).collect();
        Self::new(&sequences)
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The position of every token in its document, `(n,)`.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let documents = self.documents.windows(2).zip(&self.starts);
        documents.flat_map(|(bounds, start)| *start..start + bounds[1] - bounds[0])
    }

    /// Positions that a table of rotations must have.
    pub fn reach(&self) -> usize {
        let documents = self.documents.windows(2).zip(&self.starts);
        documents.map(|(bounds, start)| start + bounds[1] - bounds[0]).max().unwrap_or(0)
    }

    /// The [`crate::cost::squares`] of the documents, in sum.
    pub fn squares(&self, window: Option<usize>) -> u64 {
        self.documents.windows(2).map(|d| crate::cost::squares((d[1] - d[0]) as u64, window)).sum()
    }

    /// Length of the longest document.
    pub fn longest(&self) -> usize {
        self.documents.windows(2).map(|d| d[1] - d[0]).max().unwrap_or(0)
    }
}

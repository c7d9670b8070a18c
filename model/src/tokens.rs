//! Model inputs: sequences concatenated without padding.

/// One row of a batch, with the prediction target of each position.
///
/// A row contains one or more documents; attention and positions restart at each document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequence {
    /// Token ids, `(len,)`.
    pub ids: Vec<u32>,
    /// The next token at each position, `(len,)`.
    pub targets: Vec<u32>,
    /// Loss weight of each position, `(len,)`: 1 if it is trained on, otherwise 0.
    pub weights: Vec<f32>,
    /// Lengths of the documents of this row in tokens; they sum to `len`.
    pub documents: Vec<u32>,
    /// Number of positions by which the mean loss divides. Usually the sum of `weights`; MiniMind also counts targets equal
    /// to 0, although their loss is 0.
    pub counted: f32,
}

impl Sequence {
    /// Creates a row with one document and no prediction targets.
    pub fn document(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            targets: vec![0; ids.len()],
            weights: vec![0.0; ids.len()],
            documents: vec![ids.len() as u32],
            counted: 0.0,
        }
    }

    /// Creates a row with one document, a prompt and an answer, whose prediction targets are the tokens of the answer; the
    /// last of these is not an input. Neither may be empty.
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

    /// Returns the number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether the row has no positions.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Several sequences concatenated: the batch of one forward pass. `n` is the number of positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Ragged {
    /// Token ids, `(n,)`.
    pub ids: Vec<u32>,
    /// The next token at each position, `(n,)`.
    pub targets: Vec<u32>,
    /// Loss weights, `(n,)`.
    pub weights: Vec<f32>,
    /// Offsets of the documents, `(documents + 1,)`.
    pub documents: Vec<usize>,
    /// Offsets of the sequences, `(sequences + 1,)`.
    pub rows: Vec<usize>,
    /// Position of the first token of each document, `(documents,)`: 0 unless the document extends a cache.
    pub starts: Vec<usize>,
}

impl Ragged {
    /// Concatenates sequences.
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

    /// Concatenates prompts, each as one document without prediction targets.
    pub fn prompts(prompts: &[impl AsRef<[u32]>]) -> Self {
        let sequences: Vec<Sequence> = prompts.iter().map(|p| Sequence::document(p.as_ref())).collect();
        Self::new(&sequences)
    }

    /// Returns the number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there are no positions.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Iterates over the position of every token in its document, `(n,)`.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let documents = self.documents.windows(2).zip(&self.starts);
        documents.flat_map(|(bounds, start)| *start..start + bounds[1] - bounds[0])
    }

    /// Returns the number of positions that a table of rotations must cover.
    pub fn reach(&self) -> usize {
        let documents = self.documents.windows(2).zip(&self.starts);
        documents.map(|(bounds, start)| start + bounds[1] - bounds[0]).max().unwrap_or(0)
    }

    /// Returns the sum of [`crate::cost::attention_pairs_x2`] over the documents.
    pub fn squares(&self, window: Option<usize>) -> u64 {
        self.documents.windows(2).map(|d| crate::cost::attention_pairs_x2((d[1] - d[0]) as u64, window)).sum()
    }

    /// Returns the length of the longest document in this batch.
    pub fn longest(&self) -> usize {
        self.documents.windows(2).map(|d| d[1] - d[0]).max().unwrap_or(0)
    }
}

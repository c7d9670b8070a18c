//! Estimated duration of a step on a device that is described by a few rates: each operation takes as long as its
//! arithmetic or its memory traffic, whichever is longer (Williams et al. 2009, "Roofline"), plus a launch on a GPU.
//!
//! [`Gpu`]s are described by their data sheets, [`Processor`]s by a measurement of one or two seconds.

mod gpu;
mod processor;

pub use gpu::{GPU_POSITIONS, GPUS, Gpu, bytes, gpu_idle};
pub use processor::Processor;

use super::step::{self, Group, Operation, Trained};
use crate::config::ModelConfig;
use crate::trainer::Rule;
use crate::transformer::Recompute;

/// A training step, or a forward pass if nothing is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Number of items: rows, or pairs of answers.
    pub items: usize,
    /// Positions per row; each row is one document.
    pub len: usize,
    /// Number of lanes of a batch.
    pub lanes: usize,
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// What is trained.
    pub trained: Trained,
    /// The update rule of matrices.
    pub rule: Rule,
}

impl Step {
    /// Rows per item.
    fn rows(&self) -> usize {
        if self.trained == Trained::Preferences { 2 } else { 1 }
    }

    /// The operations of `items` items in groups of at most `positions` positions, with the number of groups of each size.
    fn groups(&self, model: &ModelConfig, items: usize, positions: usize) -> [(f64, step::Operations); 2] {
        let item = self.len.max(1) * self.rows();
        let whole = (positions / item).max(1);
        let of = |items: usize| {
            let group = Group { rows: (items * self.rows()) as f64, len: self.len };
            step::group(model, group, self.trained, self.recompute)
        };
        let (groups, rest) = (items / whole, items % whole);
        let last = if rest > 0 { (1.0, of(rest)) } else { (0.0, vec![]) };
        [(groups as f64, if groups > 0 { of(whole) } else { vec![] }), last]
    }
}

/// Seconds of a step, by kind of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Seconds {
    /// Products with weights.
    pub products: f64,
    /// Attention.
    pub attention: f64,
    /// Norms, activations, rotations, softmax and copies.
    pub passes: f64,
    /// Operations over all weights: sums of lanes and the update.
    pub weights: f64,
    /// Launch overhead.
    pub launches: f64,
}

impl Seconds {
    /// Total seconds.
    pub fn total(&self) -> f64 {
        self.products + self.attention + self.passes + self.weights + self.launches
    }

    /// Adds an operation that is executed `count` times.
    fn add(&mut self, count: f64, operation: &Operation, seconds: f64) {
        let part = match operation {
            Operation::Product { .. } => &mut self.products,
            Operation::Attention { .. } => &mut self.attention,
            Operation::Pass { .. } => &mut self.passes,
            Operation::Weights { .. } => &mut self.weights,
        };
        *part += count * seconds;
    }

    fn plus(self, count: f64, more: Self) -> Self {
        Self {
            products: self.products + count * more.products,
            attention: self.attention + count * more.attention,
            passes: self.passes + count * more.passes,
            weights: self.weights + count * more.weights,
            launches: self.launches + count * more.launches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn near(found: f64, want: f64) -> bool {
        (found / want - 1.0).abs() < 1e-12
    }

    /// A small model, and a step of six rows.
    pub fn tiny() -> (ModelConfig, Step) {
        let model = ModelConfig { d_model: 16, n_layers: 1, vocab_size: 40, ..ModelConfig::default() };
        let (recompute, trained) = (Recompute::None, Trained::Weights);
        (model, Step { items: 6, len: 300, lanes: 4, recompute, trained, rule: Rule::AdamW })
    }

    #[test]
    fn an_update_by_muon_takes_its_time_and_no_more_of_the_rest() {
        let (model, step) = tiny();
        let muon = Step { rule: Rule::Muon, ..step };
        let processor =
            Processor { threads: 2, flop: 1e-9, moves: vec![(1.0, 1e-9)], exponential: 0.0, row: 0.0 };
        let of = |step: &Step| {
            let gpu = GPUS[0].step(&model, step, crate::backend::Precision::Bf16);
            [gpu, processor.step(&model, step, 2)]
        };
        for (adamw, muon) in of(&step).into_iter().zip(of(&muon)) {
            assert!(muon.weights > adamw.weights && muon.launches >= adamw.launches);
            assert_eq!((muon.products, muon.passes), (adamw.products, adamw.passes));
        }
    }

    #[test]
    fn groups_are_those_of_the_trainer() {
        let (model, step) = tiny();
        let rows = |items, positions| {
            step.groups(&model, items, positions).map(|(often, operations)| {
                let positions = operations.iter().find_map(|(_, operation)| match operation {
                    Operation::Attention { positions, .. } => Some(*positions),
                    _ => None,
                });
                (often, positions.unwrap_or(0.0))
            })
        };
        assert_eq!(rows(6, 512), [(6.0, 300.0), (0.0, 0.0)]);
        assert_eq!(rows(7, 900), [(2.0, 900.0), (1.0, 300.0)]);
        assert_eq!(rows(1, 16_384), [(0.0, 0.0), (1.0, 300.0)]);
        let pairs = Step { trained: Trained::Preferences, ..step };
        assert_eq!(pairs.groups(&model, 3, 512)[0].0, 3.0);
    }
}

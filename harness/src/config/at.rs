//! Which weights of a training stage take an exam.

use super::{TrainStage, TrialConfig};
use serde::{Deserialize, Serialize};

/// The weights at one fraction of a stage's steps, or the mean of the weights at several fractions.
///
/// Averaging the last checkpoints: Vaswani et al. 2017, section 6.1; latest weight averaging (LAWA): Kaddour 2022
/// (arXiv:2209.14981), Sanyal et al. 2023 (arXiv:2306.03241).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExamPoint {
    /// Fractions of the steps, above 0 and at most 1, ascending; 1 is the end of the stage.
    pub shares: Vec<f64>,
}

/// Sound because fractions are never NaN: validation rejects such a configuration.
impl Eq for ExamPoint {}

impl Default for ExamPoint {
    fn default() -> Self {
        Self { shares: vec![1.0] }
    }
}

impl ExamPoint {
    /// Returns whether these are the weights at the end of the stage.
    pub fn is_final(&self) -> bool {
        self.shares == [1.0]
    }

    /// Returns the fraction of the stage's steps that the weights have been trained for.
    pub fn share(&self) -> f64 {
        self.shares.last().copied().unwrap_or(1.0)
    }
}

impl TrialConfig {
    /// Returns the weights that take an exam after each examined stage, in order; a mean comes last.
    pub fn examined(&self) -> Vec<ExamPoint> {
        let shares = self.exam.shares();
        let mut found: Vec<ExamPoint> =
            shares.iter().map(|&share| ExamPoint { shares: vec![share] }).collect();
        if self.exam.average_last > 1 {
            let first = shares.len().saturating_sub(self.exam.average_last);
            found.push(ExamPoint { shares: shares[first..].to_vec() });
        }
        found
    }

    /// Returns the fractions of a stage's steps, below 1, at which it keeps its weights.
    pub fn snapshots(&self, stage: TrainStage) -> Vec<f64> {
        match self.exams().contains(&stage) {
            true => self.exam.shares().into_iter().filter(|&share| share < 1.0).collect(),
            false => vec![],
        }
    }
}

impl super::ExamConfig {
    /// Returns the fractions of `at`, sorted and without repetitions.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = self.at.clone();
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        shares
    }
}

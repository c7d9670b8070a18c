//! Which weights of a training stage sit an exam.

use super::{TrainStage, TrialConfig};
use serde::{Deserialize, Serialize};

/// The weights after a share of a stage's steps, or the mean of those after several.
///
/// The mean of the last checkpoints: Vaswani et al. 2017, section 6.1; latest weight averaging, LAWA: Kaddour 2022
/// (arXiv:2209.14981), Sanyal et al. 2023 (arXiv:2306.03241).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct At {
    /// Above 0 and at most 1, ascending; 1 is the end of the stage.
    pub shares: Vec<f64>,
}

/// Shares are numbers: a configuration with another is refused.
impl Eq for At {}

impl Default for At {
    fn default() -> Self {
        Self { shares: vec![1.0] }
    }
}

impl At {
    /// The end of the stage.
    pub fn is_end(&self) -> bool {
        self.shares == [1.0]
    }

    /// The share of the stage that the weights have seen.
    pub fn share(&self) -> f64 {
        self.shares.last().copied().unwrap_or(1.0)
    }
}

impl TrialConfig {
    /// The weights that sit an exam after each examined stage, in order; means come last.
    pub fn examined(&self) -> Vec<At> {
        let shares = self.exam.shares();
        let mut found: Vec<At> = shares.iter().map(|&share| At { shares: vec![share] }).collect();
        if self.exam.average_last > 1 {
            let first = shares.len().saturating_sub(self.exam.average_last);
            found.push(At { shares: shares[first..].to_vec() });
        }
        found
    }

    /// The shares of a stage's steps, below 1, after which it keeps its weights.
    pub fn snapshots(&self, stage: TrainStage) -> Vec<f64> {
        match self.exams().contains(&stage) {
            true => self.exam.shares().into_iter().filter(|&share| share < 1.0).collect(),
            false => vec![],
        }
    }
}

impl super::ExamConfig {
    /// The shares of `at`, ascending, each once.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = self.at.clone();
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        shares
    }
}

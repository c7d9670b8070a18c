//! The stages of the recipe.

use super::{DataConfig, RowStyle, TrainStage, Training, TrialConfig};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One step of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Trains or takes over a tokenizer.
    Tokenizer,
    /// Turns text into token stores.
    Data,
    /// Next-token prediction over text.
    Pretrain,
    /// Next-token prediction over answers.
    Sft,
    /// The same with adapters.
    Lora,
    /// Preference optimisation.
    Dpo,
    /// The exam.
    Exam,
}

impl Stage {
    /// As in the names of stage runs.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tokenizer => "tokenizer",
            Stage::Data => "data",
            Stage::Pretrain => "pretrain",
            Stage::Sft => "sft",
            Stage::Lora => "lora",
            Stage::Dpo => "dpo",
            Stage::Exam => "exam",
        }
    }

    /// Whether a model runs in it, on the trial's device.
    pub fn computes(self) -> bool {
        !matches!(self, Stage::Tokenizer | Stage::Data)
    }

    /// The training stage of this name, where it is one.
    pub fn training(self) -> Option<TrainStage> {
        match self {
            Stage::Pretrain => Some(TrainStage::Pretrain),
            Stage::Sft => Some(TrainStage::Sft),
            Stage::Lora => Some(TrainStage::Lora),
            Stage::Dpo => Some(TrainStage::Dpo),
            Stage::Tokenizer | Stage::Data | Stage::Exam => None,
        }
    }
}

impl From<TrainStage> for Stage {
    fn from(stage: TrainStage) -> Self {
        match stage {
            TrainStage::Pretrain => Stage::Pretrain,
            TrainStage::Sft => Stage::Sft,
            TrainStage::Lora => Stage::Lora,
            TrainStage::Dpo => Stage::Dpo,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The keys that all training stages share, of one of them.
pub fn training_of(config: &TrialConfig, stage: TrainStage) -> &Training {
    match stage {
        TrainStage::Pretrain => &config.pretrain.training,
        TrainStage::Sft => &config.sft.training,
        TrainStage::Lora => &config.lora.training,
        TrainStage::Dpo => &config.dpo.training,
    }
}

/// The training stages of a trial, in the order of the recipe.
pub fn recipe(config: &TrialConfig) -> Vec<TrainStage> {
    [TrainStage::Pretrain, TrainStage::Sft, TrainStage::Lora, TrainStage::Dpo]
        .into_iter()
        .filter(|&stage| training_of(config, stage).enabled)
        .collect()
}

/// The key that names a training stage's files, and what it names.
pub fn patterns(data: &DataConfig, stage: TrainStage) -> (&'static str, &[String]) {
    match stage {
        TrainStage::Pretrain => ("data.pretrain", &data.pretrain),
        TrainStage::Lora if !data.lora.is_empty() => ("data.lora", &data.lora),
        TrainStage::Sft | TrainStage::Lora => ("data.sft", &data.sft),
        TrainStage::Dpo => ("data.dpo", &data.dpo),
    }
}

/// Characters that each turn of a conversation's history is cut to; MiniMind's rows have half of `seq_len`.
pub fn history_chars(config: &TrialConfig, stage: TrainStage) -> usize {
    match (config.data.rows, config.data.history_chars) {
        (RowStyle::Minimind, 0) => training_of(config, stage).seq_len / 2,
        (_, chars) => chars,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimind_rows_cut_a_history_to_half_of_seq_len() {
        let mut config = TrialConfig::default();
        config.sft.training.seq_len = 96;
        assert_eq!(history_chars(&config, TrainStage::Sft), 0);
        config.data.rows = RowStyle::Minimind;
        assert_eq!(history_chars(&config, TrainStage::Sft), 48);
        config.data.history_chars = 7;
        assert_eq!(history_chars(&config, TrainStage::Sft), 7);
    }
}

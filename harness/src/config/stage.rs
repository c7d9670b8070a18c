//! The stages of the recipe, and one table of everything that the program knows about each training stage.
//!
//! A new training stage is a variant of [`TrainStage`], a row of [`TRAINING`], a section of the configuration and, for
//! the built-in world, its rows.

use super::{AnswerLoss, DataConfig, Dpo, RowStyle, Sources, Training, TrialConfig};
use model::LoraConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A training stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainStage {
    /// Next-token prediction over text.
    Pretrain,
    /// Supervised fine-tuning: next-token prediction over answers.
    Sft,
    /// Supervised fine-tuning on multi-turn conversations, after `sft`.
    SftMulti,
    /// Supervised fine-tuning of low-rank adapters, which are merged at the end.
    Lora,
    /// Direct preference optimisation against a frozen reference model.
    Dpo,
}

/// Kind of the rows of a stage's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Pretraining text.
    Pretrain,
    /// Conversations.
    Conversations,
    /// Preference pairs.
    Preferences,
    /// Sequences of words with a target word for each, as probes have them.
    Labelled,
}

impl fmt::Display for RowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretrain => "pretraining text",
            Self::Conversations => "conversations",
            Self::Preferences => "preference pairs",
            Self::Labelled => "labelled sequences",
        })
    }
}

/// A key that names training files, with the key of the corresponding validation files.
pub struct StageFiles {
    /// Key of the training files, such as `data.sft`.
    pub key: &'static str,
    /// Reads the value of [`Self::key`].
    pub train: fn(&DataConfig) -> &Sources,
    /// Key of the validation files, such as `data.sft_val`.
    pub val_key: &'static str,
    /// Reads the value of [`Self::val_key`].
    pub val: fn(&DataConfig) -> &Sources,
}

/// Everything that the program knows about a training stage.
pub struct TrainSpec {
    /// The stage.
    pub stage: TrainStage,
    /// Name of its configuration section, of the folder of its data, and of the stage everywhere else.
    pub name: &'static str,
    /// Its name in labels of figures and tables.
    pub label: &'static str,
    /// Kind of its rows, unless the data is that of a probe.
    pub rows: RowKind,
    /// Keys of its files: its own first, then the fallback for when its own is empty.
    pub files: &'static [StageFiles],
    /// Keys of `[world]` that determine its rows of the built-in world, in addition to [`WORLD`].
    pub world: &'static [&'static str],
    /// Reads the keys that all training stages have.
    pub training: fn(&TrialConfig) -> &Training,
    /// Returns the keys that all training stages have, mutably.
    pub training_mut: fn(&mut TrialConfig) -> &mut Training,
    /// Reads which answers of a conversation carry loss.
    pub answers: fn(&TrialConfig) -> AnswerLoss,
    /// Reads the adapters that it trains; `None` if it trains the whole model.
    pub adapters: fn(&TrialConfig) -> Option<LoraConfig>,
    /// Reads how it learns from preference pairs; `None` if it learns by next-token prediction.
    pub preferences: fn(&TrialConfig) -> Option<&Dpo>,
}

/// Keys of `[world]` on which every part of the built-in world depends.
pub const WORLD: [&str; 5] =
    ["world.seed", "world.people", "world.seen_share", "world.teachers", "world.questions_per_subject"];

/// Builds the [`StageFiles`] of two keys of `[data]`.
macro_rules! files {
    ($train:ident, $val:ident) => {
        StageFiles {
            key: concat!("data.", stringify!($train)),
            train: |data| &data.$train,
            val_key: concat!("data.", stringify!($val)),
            val: |data| &data.$val,
        }
    };
}

/// The training stages, in recipe order.
pub const TRAINING: [TrainSpec; 5] = [
    TrainSpec {
        stage: TrainStage::Pretrain,
        name: "pretrain",
        label: "pretraining",
        rows: RowKind::Pretrain,
        files: &[files!(pretrain, pretrain_val)],
        world: &["world.paraphrases", "world.pretrain_rows", "world.pretrain_drills", "world.practice"],
        training: |config| &config.pretrain.training,
        training_mut: |config| &mut config.pretrain.training,
        answers: |_| AnswerLoss::Last,
        adapters: |_| None,
        preferences: |_| None,
    },
    TrainSpec {
        stage: TrainStage::Sft,
        name: "sft",
        label: "SFT",
        rows: RowKind::Conversations,
        files: &[files!(sft, sft_val)],
        world: &["world.sft_rows", "world.sft_drills", "world.sft_lives", "world.practice"],
        training: |config| &config.sft.training,
        training_mut: |config| &mut config.sft.training,
        answers: |config| config.sft.answer_loss,
        adapters: |_| None,
        preferences: |_| None,
    },
    TrainSpec {
        stage: TrainStage::SftMulti,
        name: "sft_multi",
        label: "multi-turn SFT",
        rows: RowKind::Conversations,
        files: &[files!(sft_multi, sft_multi_val)],
        world: &["world.sft_multi_rows", "world.practice"],
        training: |config| &config.sft_multi.training,
        training_mut: |config| &mut config.sft_multi.training,
        answers: |config| config.sft_multi.answer_loss,
        adapters: |_| None,
        preferences: |_| None,
    },
    TrainSpec {
        stage: TrainStage::Lora,
        name: "lora",
        label: "LoRA",
        rows: RowKind::Conversations,
        files: &[files!(lora, lora_val), files!(sft, sft_val)],
        world: &["world.sft_rows", "world.sft_drills", "world.sft_lives", "world.practice"],
        training: |config| &config.lora.training,
        training_mut: |config| &mut config.lora.training,
        answers: |config| config.lora.answer_loss,
        adapters: |config| Some(config.lora.adapters()),
        preferences: |_| None,
    },
    TrainSpec {
        stage: TrainStage::Dpo,
        name: "dpo",
        label: "DPO",
        rows: RowKind::Preferences,
        files: &[files!(dpo, dpo_val)],
        world: &["world.dpo_pairs", "world.practice"],
        training: |config| &config.dpo.training,
        training_mut: |config| &mut config.dpo.training,
        answers: |_| AnswerLoss::Last,
        adapters: |_| None,
        preferences: |config| Some(&config.dpo),
    },
];

impl TrainStage {
    /// Iterates over all training stages, in recipe order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        TRAINING.iter().map(|spec| spec.stage)
    }

    /// Returns the stage with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|stage| stage.name() == name)
    }

    /// Returns the stage's row of [`TRAINING`].
    pub fn spec(self) -> &'static TrainSpec {
        &TRAINING[self as usize]
    }

    /// Returns the name of the stage's configuration section, such as `pretrain`.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Returns the kind of its rows, unless the data is that of a probe.
    pub fn rows(self) -> RowKind {
        self.spec().rows
    }

    /// Returns whether it trains on preference pairs: two answers per row, and a reference model next to the trained
    /// one.
    pub fn compares_answers(self) -> bool {
        self.rows() == RowKind::Preferences
    }

    /// Returns the number of sequences per row.
    pub fn sequences_per_row(self) -> usize {
        if self.compares_answers() { 2 } else { 1 }
    }

    /// Returns the keys of the files that it reads: its own, or the fallback if its own is empty.
    fn effective_files(self, data: &DataConfig) -> &'static StageFiles {
        let files = self.spec().files;
        files.iter().find(|files| !(files.train)(data).is_empty()).unwrap_or(&files[0])
    }

    /// Returns the key and value of its training files: its own, or the fallback if its own is empty.
    pub fn files(self, data: &DataConfig) -> (&'static str, &Sources) {
        let read = self.effective_files(data);
        (read.key, (read.train)(data))
    }

    /// Returns the key and value of its validation files: its own, or those that belong to the training files that it
    /// reads; `None` if a share of the training files is held out instead.
    pub fn val_files(self, data: &DataConfig) -> Option<(&'static str, &Sources)> {
        let keys = [&self.spec().files[0], self.effective_files(data)];
        keys.into_iter().map(|files| (files.val_key, (files.val)(data))).find(|(_, sets)| !sets.is_empty())
    }

    /// Returns the stage's common training keys.
    pub fn training(self, config: &TrialConfig) -> &Training {
        (self.spec().training)(config)
    }

    /// Returns the number of positions of an optimizer step whose rows are all full.
    pub fn positions_of_step(self, config: &TrialConfig) -> u64 {
        let training = self.training(config);
        let rows = (training.rows_of_step() as u64).saturating_mul(self.sequences_per_row() as u64);
        rows.saturating_mul(training.seq_len as u64)
    }

    /// Returns the number of characters to which each turn of a conversation's history is cut, 0 for no cut; MiniMind's
    /// rows default to half of `seq_len`. Pretraining text, conversations in it, and preference pairs are never cut.
    pub fn history_chars(self, config: &TrialConfig) -> usize {
        match (self.rows(), config.data.rows, config.data.history_chars) {
            (RowKind::Pretrain | RowKind::Preferences, ..) => 0,
            (_, RowStyle::Minimind, 0) => self.training(config).seq_len / 2,
            (.., chars) => chars,
        }
    }
}

/// One step of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Trains a tokenizer or copies an existing one.
    Tokenizer,
    /// Tokenizes text into token stores.
    Data,
    /// Trains a model.
    Train(TrainStage),
    /// Takes the exam.
    Exam,
}

impl Stage {
    /// Returns the name that stage runs carry.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tokenizer => "tokenizer",
            Stage::Data => "data",
            Stage::Train(stage) => stage.name(),
            Stage::Exam => "exam",
        }
    }

    /// Returns the stage with this name.
    pub fn named(name: &str) -> Option<Self> {
        let others = [Stage::Tokenizer, Stage::Data, Stage::Exam].into_iter();
        others.chain(TrainStage::all().map(Stage::Train)).find(|stage| stage.name() == name)
    }

    /// Returns whether it runs a model, on the trial's device.
    pub fn computes(self) -> bool {
        !matches!(self, Stage::Tokenizer | Stage::Data)
    }

    /// Returns the training stage, if it is one.
    pub fn training(self) -> Option<TrainStage> {
        match self {
            Stage::Train(stage) => Some(stage),
            Stage::Tokenizer | Stage::Data | Stage::Exam => None,
        }
    }
}

impl From<TrainStage> for Stage {
    fn from(stage: TrainStage) -> Self {
        Stage::Train(stage)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| de::Error::custom(format!("{name:?} is not a stage")))
    }
}

/// Returns the enabled training stages of a trial, in recipe order.
pub fn recipe(config: &TrialConfig) -> Vec<TrainStage> {
    TrainStage::all().filter(|stage| stage.training(config).enabled).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_stands_in_the_order_of_the_stages_and_has_their_names() {
        for (index, spec) in TRAINING.iter().enumerate() {
            assert_eq!((spec.stage as usize, json!(spec.stage)), (index, json!(spec.name)));
            assert_eq!(serde_json::from_value::<Stage>(json!(spec.name)).unwrap(), Stage::Train(spec.stage));
            let mut config = TrialConfig::default();
            (spec.training_mut)(&mut config).steps = Some(7);
            assert_eq!(spec.stage.training(&config).steps, Some(7));
            assert_eq!(json!(config)[spec.name]["steps"], 7);
        }
        assert!(serde_json::from_value::<Stage>(json!("ppo")).is_err());
    }

    #[test]
    fn every_key_of_the_table_is_one_of_the_configuration() {
        for spec in &TRAINING {
            let files = spec.files.iter().flat_map(|files| [&files.key, &files.val_key]);
            for key in spec.world.iter().chain(&WORLD).chain(files) {
                assert!(super::super::find(key).is_some(), "{key}");
            }
        }
    }

    #[test]
    fn files_of_fine_tuning_serve_adapters_that_have_none() {
        let sources = |name: &str| Sources::from(vec![name.to_string()]);
        let mut data = DataConfig { sft: sources("a"), ..DataConfig::default() };
        assert_eq!(TrainStage::Lora.files(&data), ("data.sft", &sources("a")));
        assert_eq!(TrainStage::Lora.val_files(&data), None);
        data.sft_val = sources("v");
        assert_eq!(TrainStage::Lora.val_files(&data), Some(("data.sft_val", &sources("v"))));
        data.lora = sources("b");
        assert_eq!(TrainStage::Lora.files(&data), ("data.lora", &sources("b")));
        // Validation files of other training files do not serve these.
        assert_eq!(TrainStage::Lora.val_files(&data), None);
        assert_eq!(TrainStage::Sft.val_files(&data), Some(("data.sft_val", &sources("v"))));
        assert_eq!(TrainStage::Dpo.files(&data), ("data.dpo", &Sources::default()));
    }

    #[test]
    fn a_step_takes_its_rows_and_their_positions() {
        let mut config = TrialConfig::default();
        let training = &mut config.dpo.training;
        (training.batch_size, training.accumulation, training.seq_len) = (4, 3, 10);
        assert_eq!(config.dpo.training.rows_of_step(), 12);
        // A pair is two sequences.
        assert_eq!(TrainStage::Dpo.positions_of_step(&config), 240);
        (config.sft.training.batch_size, config.sft.training.accumulation) = (usize::MAX, 2);
        assert_eq!(TrainStage::Sft.positions_of_step(&config), u64::MAX);
    }

    #[test]
    fn preferences_are_learned_from_pairs() {
        for spec in &TRAINING {
            let config = TrialConfig::default();
            assert_eq!((spec.preferences)(&config).is_some(), spec.stage.compares_answers(), "{}", spec.name);
        }
    }

    #[test]
    fn minimind_rows_cut_a_history_to_half_of_seq_len() {
        let mut config = TrialConfig::default();
        config.sft.training.seq_len = 96;
        let cut = |config: &TrialConfig| TrainStage::Sft.history_chars(config);
        assert_eq!(cut(&config), 0);
        config.data.rows = RowStyle::Minimind;
        assert_eq!(cut(&config), 48);
        config.data.history_chars = 7;
        assert_eq!((cut(&config), TrainStage::Pretrain.history_chars(&config)), (7, 0));
    }
}

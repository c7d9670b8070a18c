//! The stages of the recipe: one table of all that the program knows of a stage that trains.
//!
//! A new one is a variant of [`TrainStage`], a row of [`TRAINING`], a section of the configuration and, for the
//! built-in world, its rows.

use super::{AnswerLoss, DataConfig, Dpo, RowStyle, Sources, Training, TrialConfig};
use model::LoraConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A stage that trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainStage {
    /// Next-token prediction over text.
    Pretrain,
    /// Next-token prediction over answers.
    Sft,
    /// The same over conversations of several turns, after those of one.
    SftMulti,
    /// The same with low-rank adapters, merged at the end.
    Lora,
    /// Direct preference optimisation against a frozen reference.
    Dpo,
}

/// What the rows of a stage's data are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Pretraining text.
    Pretrain,
    /// Conversations.
    Conversations,
    /// Preference pairs.
    Preferences,
    /// Sequences of words with what is to be said behind each, as probes have them.
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

/// A key that names files to train on, with the one that names files to validate on.
pub struct StageFiles {
    /// The key of the files to train on.
    pub key: &'static str,
    /// What it holds.
    pub train: fn(&DataConfig) -> &Sources,
    /// The key of the files to validate on.
    pub val_key: &'static str,
    /// What it holds.
    pub val: fn(&DataConfig) -> &Sources,
}

/// What the program knows of a training stage.
pub struct TrainSpec {
    /// The stage.
    pub stage: TrainStage,
    /// Its section of the configuration, the folder of its data, and its name everywhere.
    pub name: &'static str,
    /// What the rows of its data are.
    pub rows: RowKind,
    /// The keys of its files: its own, then the one that serves where that is empty.
    pub files: &'static [StageFiles],
    /// The keys of `[world]` that its rows of the built-in world follow from, beside [`WORLD`].
    pub world: &'static [&'static str],
    /// The keys that all training stages have.
    pub training: fn(&TrialConfig) -> &Training,
    /// The same, to be changed.
    pub training_mut: fn(&mut TrialConfig) -> &mut Training,
    /// Which answers of a conversation carry loss.
    pub answers: fn(&TrialConfig) -> AnswerLoss,
    /// The adapters that it trains; `None` trains the whole model.
    pub adapters: fn(&TrialConfig) -> Option<LoraConfig>,
    /// How it learns from preference pairs; `None` learns from next tokens.
    pub preferences: fn(&TrialConfig) -> Option<&Dpo>,
}

/// The keys of `[world]` on which all of the built-in world depends.
pub const WORLD: [&str; 5] =
    ["world.seed", "world.people", "world.seen_share", "world.teachers", "world.questions_per_subject"];

/// The keys of a section's files in `[data]`.
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

/// The training stages, in the order of the recipe.
pub const TRAINING: [TrainSpec; 5] = [
    TrainSpec {
        stage: TrainStage::Pretrain,
        name: "pretrain",
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
    /// All of them, in the order of the recipe.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        TRAINING.iter().map(|spec| spec.stage)
    }

    /// The stage with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|stage| stage.name() == name)
    }

    /// All that is known of it.
    pub fn spec(self) -> &'static TrainSpec {
        &TRAINING[self as usize]
    }

    /// The stage's section of the configuration, such as `pretrain`.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// What the rows of its data are.
    pub fn rows(self) -> RowKind {
        self.spec().rows
    }

    /// Whether it trains on preference pairs: two answers a row, a reference beside the model.
    pub fn compares_answers(self) -> bool {
        self.rows() == RowKind::Preferences
    }

    /// Sequences that a row is trained on as.
    pub fn sequences_per_row(self) -> usize {
        if self.compares_answers() { 2 } else { 1 }
    }

    /// The keys of the files that it reads: its own, or those that serve instead.
    fn serving(self, data: &DataConfig) -> &'static StageFiles {
        let files = self.spec().files;
        files.iter().find(|files| !(files.train)(data).is_empty()).unwrap_or(&files[0])
    }

    /// The key of the files that it trains on, and what that names: its own, or the one that serves instead.
    pub fn files(self, data: &DataConfig) -> (&'static str, &Sources) {
        let serving = self.serving(data);
        (serving.key, (serving.train)(data))
    }

    /// The key of the files that it validates on, and what that names: its own, or the one beside the files that it
    /// trains on; `None` where a share of those is held out instead.
    pub fn val_files(self, data: &DataConfig) -> Option<(&'static str, &Sources)> {
        let keys = [&self.spec().files[0], self.serving(data)];
        keys.into_iter().map(|files| (files.val_key, (files.val)(data))).find(|(_, sets)| !sets.is_empty())
    }

    /// The keys that all training stages have, of this one.
    pub fn training(self, config: &TrialConfig) -> &Training {
        (self.spec().training)(config)
    }

    /// Positions of an optimizer step whose rows are all full.
    pub fn positions_of_step(self, config: &TrialConfig) -> u64 {
        let training = self.training(config);
        let rows = (training.rows_of_step() as u64).saturating_mul(self.sequences_per_row() as u64);
        rows.saturating_mul(training.seq_len as u64)
    }

    /// Characters that each turn of a conversation's history is cut to, 0 for none; MiniMind's rows have half of
    /// `seq_len`. Texts, and the conversations among them, are told in full.
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
    /// Trains or takes over a tokenizer.
    Tokenizer,
    /// Turns text into token stores.
    Data,
    /// Trains a model.
    Train(TrainStage),
    /// The exam.
    Exam,
}

impl Stage {
    /// As in the names of stage runs.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tokenizer => "tokenizer",
            Stage::Data => "data",
            Stage::Train(stage) => stage.name(),
            Stage::Exam => "exam",
        }
    }

    /// The stage with this name.
    pub fn named(name: &str) -> Option<Self> {
        let others = [Stage::Tokenizer, Stage::Data, Stage::Exam].into_iter();
        others.chain(TrainStage::all().map(Stage::Train)).find(|stage| stage.name() == name)
    }

    /// Whether a model runs in it, on the trial's device.
    pub fn computes(self) -> bool {
        !matches!(self, Stage::Tokenizer | Stage::Data)
    }

    /// The training stage, where it is one.
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
        Self::named(&name).ok_or_else(|| de::Error::custom(format!("{name:?} is no stage")))
    }
}

/// The training stages of a trial, in the order of the recipe.
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
        // What serves other files does not serve these.
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

//! The configuration of a trial: every key with its type, default and documentation, declared once.
//!
//! Flows in: layers of TOML, environment and `--set`. Flows out: a [`TrialConfig`], complete and validated.
//! *Invariant:* nothing downstream reads a TOML file or an environment variable for settings.

mod at;
mod canonical;
mod choices;
mod document;
mod effect;
mod errors;
mod keys;
mod layers;
mod local;
mod near;
mod presets;
mod probe;
#[cfg(test)]
mod reference;
mod schema;
mod sources;
mod stage;
mod validate;
mod values;
mod world;

pub use crate::records::Norm;
pub use at::ExamPoint;
pub use canonical::{Canonical, setting_key, write_entry};
pub use choices::{
    Answer, AnswerLoss, BadRow, ExamFormat, OptimizerKind, Packing, RowStyle, Schedule, Source, UnknownKeys,
};
pub use document::{Content, Entry, Node};
pub use effect::{FILTERS, Idle, any_idle, differing, effective, idle};
pub use errors::{ConfigError, ConfigErrors};
pub use keys::{KeySpec, Kind, Section, UNSET, find, keys, largest, plain, sections, unknown_key};
pub use layers::{Layer, Overrides, Setting, Settings, load, load_layers};
pub use local::{Local, SWEEP_SECTIONS};
pub use near::{did_you_mean, near_file};
pub use presets::PRESETS;
pub use probe::{CapacityConfig, HopsConfig, PROBES, ProbeSpec, RecallConfig};
pub use schema::{closed, definitions, document, refer, table_of, trial_schema, value_of};
pub use sources::{NamedFiles, Sources, is_source_name, source_key};
pub use stage::{RowKind, Stage, StageFiles, TRAINING, TrainSpec, TrainStage, WORLD, recipe};
pub use validate::Problem;
pub use values::index_of;
pub use world::{PRACTICE, WorldConfig};

pub(crate) use document::parse;
pub(crate) use keys::is_section;
pub(crate) use layers::{config_of, get, leaves, not_a_key, set, settings};

use model::preference::PreferenceLoss;
use model::section::Table;
use model::{Cost, Device, LoraConfig, ModelConfig, Precision, Recompute, section};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

section! {
    /// Keys that every training stage has.
    pub struct Training {
        /// Whether the stage is part of the recipe.
        pub enabled: bool = true,
        /// Length of the stage in trained target tokens: the fewest full batches that reach this number; overrides
        /// `epochs`.
        #[schemars(range(min = 1))]
        pub tokens: Option<u64> = None,
        /// Length of the stage in floating-point operations: the number of full batches whose cost is nearest;
        /// overrides `tokens` and `epochs`.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub flops: Option<f64> = None,
        /// Length of the stage in optimizer steps of full batches; overrides `flops`, `tokens` and `epochs`.
        #[schemars(range(min = 1))]
        pub steps: Option<u64> = None,
        /// Length of the stage in passes over its data. Each pass trains every row exactly once, so the last batch may
        /// be smaller; a fractional pass trains that fraction of the rows.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub epochs: f64 = 1.0,
        /// Maximum length of a row in tokens.
        #[schemars(range(min = 2, max = 1 << 24))]
        pub seq_len: usize = 512,
        /// Rows of a micro-batch; an optimizer step takes `batch_size * accumulation` rows.
        #[schemars(range(min = 1))]
        pub batch_size: usize = 16,
        /// Micro-batches per optimizer step (gradient accumulation).
        #[schemars(range(min = 1))]
        pub accumulation: usize = 1,
        /// How documents become rows: `separated` packs several documents into a row, `single` puts one in each row, as
        /// MiniMind does.
        pub packing: Packing = Packing::Separated,
        /// Optimizer: `adamw`, `adam` or `muon`; adapters cannot use `muon`.
        pub optimizer: OptimizerKind = OptimizerKind::Adamw,
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub lr: f64 = 1e-3,
        /// Learning rate of the last step as a fraction of `lr`. MiniMind's schedule is that of a stage one step
        /// longer, so its last rate is slightly higher.
        #[schemars(range(min = 0, max = 1))]
        pub min_lr_ratio: f64 = 0.1,
        /// Learning-rate schedule after warm-up: `cosine`, `linear`, `constant` or `wsd`.
        pub schedule: Schedule = Schedule::Cosine,
        /// Steps of linear warm-up, the last of which has the full `lr`; so does the first step after warm-up.
        pub warmup_steps: u64 = 0,
        /// Fraction of the steps, at the end, over which the `wsd` schedule decays.
        #[schemars(range(min = 0, max = 1))]
        pub decay_share: f64 = 0.2,
        /// Decay rate of the first moment of Adam and AdamW.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub beta1: f64 = 0.9,
        /// Decay rate of the second moment of Adam and AdamW.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub beta2: f64 = 0.95,
        /// Added to the root of the second moment of Adam and AdamW.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub eps: f64 = 1e-8,
        /// Momentum coefficient of Muon.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub momentum: f64 = 0.95,
        /// Decoupled weight decay; `adam` has none, and norms are never decayed.
        #[schemars(range(min = 0))]
        pub weight_decay: f64 = 0.1,
        /// Multiplier of `lr` for the token embedding.
        #[schemars(range(min = 0))]
        pub embedding_lr: f64 = 1.0,
        /// Multiplier of `lr` for the matrices of the blocks, and for adapters.
        #[schemars(range(min = 0))]
        pub hidden_lr: f64 = 1.0,
        /// Multiplier of `lr` for an output head that is not tied to the embedding.
        #[schemars(range(min = 0))]
        pub head_lr: f64 = 1.0,
        /// Multiplier of `lr` for the scales of norms.
        #[schemars(range(min = 0))]
        pub norm_lr: f64 = 1.0,
        /// Multiplier of `weight_decay` for the token embedding.
        #[schemars(range(min = 0))]
        pub embedding_decay: f64 = 1.0,
        /// Multiplier of `weight_decay` for the matrices of the blocks, and for adapters.
        #[schemars(range(min = 0))]
        pub hidden_decay: f64 = 1.0,
        /// Multiplier of `weight_decay` for an output head that is not tied to the embedding.
        #[schemars(range(min = 0))]
        pub head_decay: f64 = 1.0,
        /// Maximum gradient norm; larger gradients are scaled down to it. 0 disables clipping.
        #[schemars(range(min = 0))]
        pub clip: f64 = 1.0,
        /// Lanes into which a batch is split for parallel work; a trial uses at most as many threads as lanes.
        #[schemars(range(min = 1))]
        pub lanes: usize = 4,
        /// Activations that the backward pass recomputes instead of keeping: `none`, `activations`, or whole `blocks`,
        /// which needs the least memory and a third more time. Does not affect results.
        pub recompute: Recompute = Recompute::None,
        /// Trained tokens between validations; 0 validates at the end only.
        pub val_every_tokens: u64 = 0,
        /// Maximum number of held-out tokens that one validation reads, per set if the validation sets are named.
        #[schemars(range(min = 1))]
        pub val_tokens: u64 = 100_000,
        /// Steps between checkpoints; 0 writes only the final one.
        pub checkpoint_every: u64 = 500,
        /// Number of most recent checkpoints kept while the stage runs.
        #[schemars(range(min = 1))]
        pub keep_checkpoints: usize = 2,
        /// Steps between checkpoints that are kept permanently; 0 keeps none.
        pub keep_every: u64 = 0,
        /// Whether to keep the checkpoint with the lowest validation loss permanently, as `best.ckpt`.
        pub keep_best: bool = false,
        /// Stop the stage as failed once the smoothed training loss is this far above its minimum, in nats; 0 disables
        /// the check. The loss is smoothed over about 20 steps.
        #[schemars(range(min = 0))]
        pub max_loss_rise: f64 = 0.0,
        /// Steps between rows of `metrics.csv`.
        #[schemars(range(min = 1))]
        pub log_every: u64 = 10,
    }
}

impl Training {
    /// Rows, or preference pairs, of a full optimizer step.
    pub fn rows_of_step(&self) -> usize {
        self.batch_size.saturating_mul(self.accumulation.max(1))
    }
}

/// Declares a training stage's section: the common keys and its own.
macro_rules! stage_section {
    ($(#[$about:meta])+ pub struct $name:ident { $( $(#[$attr:meta])+ pub $field:ident : $kind:ty = $default:expr, )* }) => {
        $(#[$about])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        pub struct $name {
            /// The keys common to every training stage.
            #[serde(flatten)]
            pub training: Training,
            $( $(#[$attr])+ pub $field: $kind, )*
        }

        impl $name {
            fn with(training: Training) -> Self {
                Self { training, $( $field: $default, )* }
            }
        }

        impl Table for $name {
            fn put(&self, values: &mut Vec<Value>) {
                self.training.put(values);
                $( values.push(json!(self.$field)); )*
            }

            fn set(&mut self, key: &str, value: Value) -> serde_json::Result<()> {
                match key {
                    $( stringify!($field) => self.$field = serde_json::from_value(value)?, )*
                    _ => self.training.set(key, value)?,
                }
                Ok(())
            }
        }
    };
}

stage_section! {
    /// `[pretrain]`: next-token prediction over text.
    pub struct Pretrain {}
}

stage_section! {
    /// `[sft]` and `[sft_multi]`: supervised fine-tuning on conversations.
    pub struct Sft {
        /// Which answers carry loss: `last`, the last answer with words left within `seq_len`, or `every` answer. A
        /// turn of the data may override it.
        pub answer_loss: AnswerLoss = AnswerLoss::Last,
    }
}

stage_section! {
    /// `[lora]`: fine-tuning of low-rank adapters on the conversations of `data.lora`, or of `data.sft` if that is
    /// empty.
    pub struct Lora {
        /// Which answers carry loss: `last`, the last answer with words left within `seq_len`, or `every` answer. A
        /// turn of the data may override it.
        pub answer_loss: AnswerLoss = AnswerLoss::Last,
        /// Rank of the adapters.
        #[schemars(range(min = 1))]
        pub rank: usize = 8,
        /// Scale of the adapters: their product is multiplied by `alpha / rank`.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub alpha: f64 = 8.0,
        /// Projections that get an adapter: any of `wq`, `wk`, `wv`, `wo`, `w1`, `w2`, `w3`.
        pub targets: Vec<String> = vec!["wq".into(), "wk".into()],
    }
}

stage_section! {
    /// `[dpo]`: direct preference optimisation.
    pub struct Dpo {
        /// Strength of the pull towards the reference model.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64 = 0.1,
        /// Preference loss: `sigmoid` (DPO) or `ipo`.
        pub loss: PreferenceLoss = PreferenceLoss::Sigmoid,
        /// Whether to divide each answer's log-probability by its length in tokens.
        pub length_normalised: bool = false,
    }
}

section! {
    /// `[tokenizer]`: byte-level BPE, trained on the pretraining text or read from a file.
    pub struct TokenizerConfig {
        /// A `tokenizer.json` or the folder that holds it; unset: a tokenizer of `model.vocab_size` entries is trained.
        pub path: Option<String> = None,
        /// Maximum number of characters of text that the tokenizer is trained on.
        #[schemars(range(min = 1))]
        pub train_chars: u64 = 50_000_000,
    }
}

section! {
    /// `[data]`: training files, filters and the held-out share.
    pub struct DataConfig {
        /// Source of the data: `world` (built in), `files`, or a probe: `hops`, `recall` or `capacity`.
        pub source: Source = Source::World,
        /// Files or globs of pretraining text: a list, or a table of lists by source name, as in
        /// `{ web = ["web/*.jsonl"], books = ["books.txt"] }`.
        pub pretrain: Sources = Sources::default(),
        /// Files or globs of conversations: a list, or a table of lists by source name.
        pub sft: Sources = Sources::default(),
        /// Files or globs of multi-turn conversations for `[sft_multi]`: a list, or a table of lists by source name.
        pub sft_multi: Sources = Sources::default(),
        /// Files or globs of conversations for `[lora]`: a list, or a table of lists by source name; empty: those of
        /// `sft`.
        pub lora: Sources = Sources::default(),
        /// Files or globs of preference pairs: a list, or a table of lists by source name.
        pub dpo: Sources = Sources::default(),
        /// Files or globs of text on which pretraining is validated instead of `val_share`: a list, or a table of lists
        /// by the name of the validation set; each named set has its own loss (`val_loss.NAME`).
        pub pretrain_val: Sources = Sources::default(),
        /// Validation files of `[sft]`, as `pretrain_val`.
        pub sft_val: Sources = Sources::default(),
        /// Validation files of `[sft_multi]`, as `pretrain_val`.
        pub sft_multi_val: Sources = Sources::default(),
        /// Validation files of `[lora]`, as `pretrain_val`; empty: those of `sft_val` if `[lora]` trains on the files
        /// of `sft`.
        pub lora_val: Sources = Sources::default(),
        /// Validation files of `[dpo]`, as `pretrain_val`.
        pub dpo_val: Sources = Sources::default(),
        /// Weight of each named source in the tokens that a stage trains on, as in `{ web = 0.7, books = 0.3 }`.
        /// Weights are relative to their sum; 0 leaves a source out. Each weight is a key, such as `data.mix.web`, and
        /// can be swept. Empty: a pass trains every row once.
        pub mix: BTreeMap<String, f64> = BTreeMap::new(),
        /// What to do with a row that cannot be read: `error` stops, `skip` leaves it out and counts it.
        pub on_bad_row: BadRow = BadRow::Error,
        /// What to do with content under a key or in a column that the file's layout does not have, such as `source` or
        /// a misspelt `histroy`: `error` stops, `ignore` skips it and reports the unused keys of each file.
        pub unknown_keys: UnknownKeys = UnknownKeys::Error,
        /// How conversations become rows: `turns`, or `minimind`, exactly as MiniMind v1 with its faults: if the answer
        /// is cut away the question carries loss, special tokens in user text become control tokens, and the loss
        /// starts anew after a `<s>assistant` inside a text.
        pub rows: RowStyle = RowStyle::Turns,
        /// Whether a special token that is spelled out in a text, such as `</s>`, becomes the control token; otherwise
        /// it is tokenized as plain characters. Such texts are counted in either case.
        pub special_tokens_in_text: bool = false,
        /// Share of the documents held out for validation, chosen by hash and never trained on; of each source if
        /// sources are named. A stage with validation files of its own holds out nothing.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub val_share: f64 = 0.01,
        /// Leave out texts with fewer characters (MiniMind's `data_process`).
        pub min_chars: usize = 0,
        /// Leave out texts with more characters; 0 is no limit.
        pub max_chars: usize = 0,
        /// Leave out texts with a smaller share of Chinese characters.
        #[schemars(range(min = 0, max = 1))]
        pub min_chinese_share: f64 = 0.0,
        /// Maximum number of characters of each turn before the last question of a conversation; longer turns are cut.
        /// 0 leaves them whole, except with `rows = "minimind"`, which then cuts them to half of `seq_len`.
        pub history_chars: usize = 0,
        /// Maximum number of rows to read of each kind, and of each named source and validation set; 0 reads all.
        pub max_rows: u64 = 0,
    }
}

section! {
    /// `[exam]`: question sheets in C-Eval's layout and how they are answered.
    pub struct ExamConfig {
        /// Whether trained models take the exam.
        pub enabled: bool = true,
        /// Folder of `<subject>_val.csv` or `.jsonl` question sheets; unset: those of the built-in world.
        pub sheets: Option<String> = None,
        /// Folder of `<subject>_dev.csv` or `.jsonl` sheets for few-shot prompts; unset: those of the built-in world.
        pub dev_sheets: Option<String> = None,
        /// How prompts are worded: as MiniMind does, in the chat template (`minimind`), or as plain text like the tasks
        /// `ceval-valid` of lm-evaluation-harness (`lm_eval`), which also suits models that were only pretrained.
        pub format: ExamFormat = ExamFormat::Minimind,
        /// How a question is answered: by the most likely `letter`, or by the option whose text is most likely, after a
        /// prompt that lists the options (`cloze`) or after the question alone (`continuation`).
        pub answer: Answer = Answer::Letter,
        /// How option texts are compared for `cloze` and `continuation`: by log-likelihood as it is (`raw`), per
        /// token, per byte, or minus the log-likelihood of the text without the question (`pmi`).
        pub norm: Norm = Norm::Byte,
        /// For `letter`: ask each question once per rotation of its options and answer by the mean over the rotations.
        pub rotate: bool = false,
        /// Solved questions of the dev sheets shown before each question; a prompt that is too long loses the first of
        /// them.
        #[schemars(range(max = 1000))]
        pub shots: usize = 0,
        /// Stages whose model takes the exam; empty: the last one only.
        pub after: Vec<TrainStage> = vec![],
        /// Whether to search the training text for the questions of `sheets`, by 13 consecutive words, and to report a
        /// second score without the contaminated questions.
        pub contamination: bool = true,
        /// Fractions of an examined stage's steps after which its model takes the exam; 1 is the end. The weights at
        /// the other fractions are kept next to the model, in `snapshots/`.
        pub at: Vec<f64> = vec![1.0],
        /// Also examine the mean of the weights at the last N fractions of `exam.at`; below 2: no mean.
        pub average_last: usize = 0,
        /// System message of the prompt; empty: none. `format = "lm_eval"` has none.
        pub system: String = "开始回答问题".into(),
        /// Number of prompts that an examined model answers greedily, in up to 64 tokens each, so that the report can
        /// show the answers of all trials side by side: MiniMind's questions, or the built-in world's without their
        /// options; 0: none.
        #[schemars(range(max = 24))]
        pub samples: usize = 4,
    }
}

section! {
    /// `[slurm]`: resources that a trial's jobs request if Slurm is the executor. Does not affect results.
    pub struct SlurmConfig {
        /// Partition (`sbatch --partition`).
        pub partition: Option<String> = None,
        /// Account to charge (`sbatch --account`).
        pub account: Option<String> = None,
        /// Time limit of a job, such as `2:00:00` (`sbatch --time`); unfinished work continues in the next job.
        pub time: Option<String> = None,
        /// Memory of a job, such as `4G` (`sbatch --mem`).
        pub memory: Option<String> = None,
        /// Generic resources, such as `gpu:1` (`sbatch --gres`), of jobs that train or examine.
        pub gres: Option<String> = None,
        /// Maximum number of jobs of an array that run at once (`%N` of `sbatch --array`); unset: as many as Slurm can
        /// place.
        #[schemars(range(min = 1))]
        pub at_once: Option<usize> = None,
        /// Further `sbatch` options, such as `["--qos=low"]`.
        pub options: Vec<String> = vec![],
    }
}

section! {
    /// One fully resolved trial: one shape, one seed, the whole recipe.
    pub struct TrialConfig {
        /// Seed of weights, data order and dropout.
        pub seed: u64 = 1,
        /// Device: `cpu`, `cuda` or `cuda:N`. Results are reproducible bit for bit on each kind of device, not between
        /// kinds.
        pub device: Device = Device::Cpu,
        /// Number format of a GPU's computations; the CPU supports only `f32`. Weights, moments, norms, softmax, losses
        /// and sums are `f32` in every case.
        pub precision: Precision = Precision::F32,
        /// Threads per trial; 0 uses all cores. Does not affect results.
        pub threads: usize = 0,
        /// The shape of the model.
        pub model: ModelConfig = ModelConfig::default(),
        /// Byte-level BPE, trained on the pretraining text or read from a file.
        pub tokenizer: TokenizerConfig = TokenizerConfig::default(),
        /// Training files, filters and the held-out share.
        pub data: DataConfig = DataConfig::default(),
        /// The built-in world, for `data.source = "world"`.
        pub world: WorldConfig = WorldConfig::default(),
        /// The probe of k-hop induction (Sanford, Hsu, Telgarsky 2024), for `data.source = "hops"`.
        pub hops: HopsConfig = HopsConfig::default(),
        /// The probe of associative recall (MQAR; Arora et al. 2023), for `data.source = "recall"`.
        pub recall: RecallConfig = RecallConfig::default(),
        /// The probe of knowledge capacity (Allen-Zhu, Li 2024), for `data.source = "capacity"`.
        pub capacity: CapacityConfig = CapacityConfig::default(),
        /// Next-token prediction over text.
        pub pretrain: Pretrain = Pretrain::with(Training::default()),
        /// Supervised fine-tuning on conversations.
        pub sft: Sft = Sft::with(Training::fine_tuning()),
        /// Supervised fine-tuning on the multi-turn conversations of `data.sft_multi`, after `[sft]`.
        pub sft_multi: Sft = Sft::with(Training { enabled: false, ..Training::fine_tuning() }),
        /// Fine-tuning of low-rank adapters on the conversations of `data.lora`, or of `data.sft` if that is empty.
        pub lora: Lora = Lora::with(Training { enabled: false, ..Training::fine_tuning() }),
        /// Direct preference optimisation.
        pub dpo: Dpo = Dpo::with(Training { lr: 4e-5, ..Training::fine_tuning() }),
        /// Question sheets in C-Eval's layout and how they are answered.
        pub exam: ExamConfig = ExamConfig::default(),
        /// Resources that a trial's jobs request if Slurm is the executor. Does not affect results.
        pub slurm: SlurmConfig = SlurmConfig::default(),
    }
}

impl TokenizerConfig {
    /// Size of the smallest vocabulary that can be trained: three special tokens and one entry for each byte.
    pub const SMALLEST_VOCAB: usize = 259;
}

impl SlurmConfig {
    /// Returns the `sbatch` options of a job; `computes` is whether it trains or examines.
    pub fn sbatch(&self, computes: bool) -> Vec<String> {
        let gres = self.gres.as_ref().filter(|_| computes);
        let named = [
            ("partition", self.partition.as_ref()),
            ("account", self.account.as_ref()),
            ("time", self.time.as_ref()),
            ("mem", self.memory.as_ref()),
            ("gres", gres),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
        named.chain(self.options.iter().cloned()).collect()
    }
}

impl Training {
    /// Whether checkpoints stay after training, which then has to take all of its steps itself.
    pub fn keeps_for_good(&self) -> bool {
        self.keep_every > 0 || self.keep_best
    }

    fn fine_tuning() -> Self {
        Self { packing: Packing::Single, lr: 1e-4, ..Self::default() }
    }
}

impl Lora {
    /// Returns the configuration of the adapters.
    pub fn adapters(&self) -> LoraConfig {
        LoraConfig { rank: self.rank, alpha: self.alpha, targets: self.targets.clone() }
    }
}

impl TrialConfig {
    /// Reads the TOML in which requests and records hold a configuration.
    ///
    /// # Errors
    /// If it does not belong to this version.
    pub fn from_toml(text: &str) -> anyhow::Result<Self> {
        // By way of JSON, which configurations are read from elsewhere: less to compile than a second way to read them.
        Ok(config_of(toml::from_str(text)?)?)
    }

    /// Iterates over the training stages in recipe order, each with its common keys.
    pub fn stages(&self) -> impl DoubleEndedIterator<Item = (TrainStage, &Training)> {
        TrainStage::all().map(|stage| (stage, stage.training(self)))
    }

    /// Returns the stages after which the trial takes the exam, in recipe order.
    pub fn exams(&self) -> Vec<TrainStage> {
        let trained = recipe(self);
        match (self.exam.enabled, self.exam.after.as_slice()) {
            (false, _) => Vec::new(),
            (true, []) => trained.last().copied().into_iter().collect(),
            (true, after) => trained.into_iter().filter(|stage| after.contains(stage)).collect(),
        }
    }

    /// Returns the kind of rows of a stage's data.
    pub fn rows(&self, stage: TrainStage) -> RowKind {
        if self.probe().is_some() { RowKind::Labelled } else { stage.rows() }
    }

    /// Returns the coefficients of a training stage's floating-point operations.
    pub fn cost(&self, stage: TrainStage) -> Cost {
        match (stage.spec().adapters)(self) {
            Some(adapters) => Cost::adapters(&self.model, &adapters),
            None if stage.compares_answers() => Cost::preferences(&self.model),
            None => Cost::training(&self.model),
        }
    }
}

//! The configuration of a trial: every key with its type, default and documentation, declared once.
//!
//! Flows in: layers of TOML, environment and `--set`. Flows out: a [`TrialConfig`], complete and validated.
//! *Invariant:* nothing downstream reads a TOML file or an environment variable for settings.

mod at;
mod choices;
mod document;
mod effect;
mod errors;
mod identity;
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
mod world;

pub use crate::records::Norm;
pub use at::At;
pub use choices::{
    Answer, AnswerLoss, BadRow, DpoLoss, OptimizerKind, Packing, RowStyle, Schedule, Source, UnknownKeys,
};
pub use document::{Content, Entry, Node};
pub use effect::{FILTERS, Idle, differing, effective, idle};
pub use errors::{ConfigError, ConfigErrors};
pub use identity::{canonical_json, identity};
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
pub use world::{PRACTICE, WorldConfig};

pub(crate) use document::parse;
pub(crate) use keys::is_section;
pub(crate) use layers::{config_of, get, leaves, not_a_key, set, settings};

use model::{Cost, Device, LoraConfig, ModelConfig, Precision, Recompute, section};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

section! {
    /// Keys that every training stage has.
    pub struct Training {
        /// Whether the stage is part of the recipe.
        pub enabled: bool = true,
        /// Length of the stage in trained target tokens, by as many full batches as reach them; wins over `epochs`.
        #[schemars(range(min = 1))]
        pub tokens: Option<u64> = None,
        /// Length of the stage in floating-point operations, by the number of full batches that comes nearest to them;
        /// wins over `tokens` and `epochs`.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub flops: Option<f64> = None,
        /// Length of the stage in optimizer steps of full batches; wins over `flops`, `tokens` and `epochs`.
        #[schemars(range(min = 1))]
        pub steps: Option<u64> = None,
        /// Length of the stage in passes over its data: exactly their rows, the last batch with what is left. Of a
        /// part of a pass, that part of its rows.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub epochs: f64 = 1.0,
        /// Longest row in tokens.
        #[schemars(range(min = 2, max = 1 << 24))]
        pub seq_len: usize = 512,
        /// Rows of a micro-batch; an optimizer step takes `batch_size * accumulation` rows.
        #[schemars(range(min = 1))]
        pub batch_size: usize = 16,
        /// Micro-batches of one optimizer step.
        #[schemars(range(min = 1))]
        pub accumulation: usize = 1,
        /// How documents become rows: `separated` packs several into a row, `single` is MiniMind's one a row.
        pub packing: Packing = Packing::Separated,
        /// `adamw`, `adam` or, but for adapters, `muon`.
        pub optimizer: OptimizerKind = OptimizerKind::Adamw,
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub lr: f64 = 1e-3,
        /// The last step has this share of `lr`; MiniMind's rates, those of a stage one step longer, end above it.
        #[schemars(range(min = 0, max = 1))]
        pub min_lr_ratio: f64 = 0.1,
        /// `cosine`, `linear`, `constant` or `wsd`.
        pub schedule: Schedule = Schedule::Cosine,
        /// Steps over which the learning rate rises to `lr`; the first step after them has all of `lr`.
        pub warmup_steps: u64 = 0,
        /// Share of the steps in which the `wsd` schedule decays.
        #[schemars(range(min = 0, max = 1))]
        pub decay_share: f64 = 0.2,
        /// Decay of the first moment.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub beta1: f64 = 0.9,
        /// Decay of the second moment.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub beta2: f64 = 0.95,
        /// Added to the root of the second moment.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub eps: f64 = 1e-8,
        /// Decay of Muon's momentum.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub momentum: f64 = 0.95,
        /// Decoupled weight decay (not of `adam`); norms are left alone.
        #[schemars(range(min = 0))]
        pub weight_decay: f64 = 0.1,
        /// Multiplier of `lr` for the token embedding.
        #[schemars(range(min = 0))]
        pub embedding_lr: f64 = 1.0,
        /// Multiplier of `lr` for the matrices of blocks, and for adapters.
        #[schemars(range(min = 0))]
        pub hidden_lr: f64 = 1.0,
        /// Multiplier of `lr` for a head that is not tied to the embedding.
        #[schemars(range(min = 0))]
        pub head_lr: f64 = 1.0,
        /// Multiplier of `lr` for the scales of norms.
        #[schemars(range(min = 0))]
        pub norm_lr: f64 = 1.0,
        /// Multiplier of `weight_decay` for the token embedding.
        #[schemars(range(min = 0))]
        pub embedding_decay: f64 = 1.0,
        /// Multiplier of `weight_decay` for the matrices of blocks, and for adapters.
        #[schemars(range(min = 0))]
        pub hidden_decay: f64 = 1.0,
        /// Multiplier of `weight_decay` for a head that is not tied to the embedding.
        #[schemars(range(min = 0))]
        pub head_decay: f64 = 1.0,
        /// Largest gradient norm; 0 leaves gradients as they are.
        #[schemars(range(min = 0))]
        pub clip: f64 = 1.0,
        /// Shares into which a batch is cut for parallel work; at most as many threads as lanes serve a trial.
        #[schemars(range(min = 1))]
        pub lanes: usize = 4,
        /// What the backward pass computes again instead of keeping it: `none`, `activations`, or whole `blocks`, which
        /// takes the least memory and a third more time. No result depends on it.
        pub recompute: Recompute = Recompute::None,
        /// Tokens between validations; 0 validates at the end only.
        pub val_every_tokens: u64 = 0,
        /// Most held-out tokens that one validation reads; of each set, where they are named.
        #[schemars(range(min = 1))]
        pub val_tokens: u64 = 100_000,
        /// Steps between checkpoints; 0 writes the final one only.
        pub checkpoint_every: u64 = 500,
        /// Checkpoints kept, the newest ones, until the stage is done.
        #[schemars(range(min = 1))]
        pub keep_checkpoints: usize = 2,
        /// Steps between checkpoints that are kept for good; 0 keeps none.
        pub keep_every: u64 = 0,
        /// Keep the checkpoint of the lowest validation loss, as `best.ckpt`, for good.
        pub keep_best: bool = false,
        /// Stop as failed once the smoothed loss is so far above its best, in nats; 0 lets it rise. Smoothed over
        /// about 20 steps.
        #[schemars(range(min = 0))]
        pub max_loss_rise: f64 = 0.0,
        /// Steps between rows of metrics.csv.
        #[schemars(range(min = 1))]
        pub log_every: u64 = 10,
    }
}

impl Training {
    /// Rows, or pairs, that an optimizer step takes.
    pub fn rows_of_step(&self) -> usize {
        self.batch_size.saturating_mul(self.accumulation.max(1))
    }
}

/// A training stage's own keys beside the common ones.
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
    };
}

stage_section! {
    /// `[pretrain]`: next-token prediction over text.
    pub struct Pretrain {}
}

stage_section! {
    /// `[sft]` and `[sft_multi]`: supervised fine-tuning on conversations.
    pub struct Sft {
        /// Which answers carry loss: `last`, of which words are left within `seq_len`, or `every`. A turn may say otherwise.
        pub answer_loss: AnswerLoss = AnswerLoss::Last,
    }
}

stage_section! {
    /// `[lora]`: fine-tuning of low-rank adapters on the conversations of `data.lora`, or those of `data.sft`.
    pub struct Lora {
        /// Which answers carry loss: `last`, of which words are left within `seq_len`, or `every`. A turn may say otherwise.
        pub answer_loss: AnswerLoss = AnswerLoss::Last,
        /// Rank of the adapters.
        #[schemars(range(min = 1))]
        pub rank: usize = 8,
        /// Adapters are scaled by `alpha / rank`.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub alpha: f64 = 8.0,
        /// Projections that get an adapter, of `wq`, `wk`, `wv`, `wo`, `w1`, `w2`, `w3`.
        pub targets: Vec<String> = vec!["wq".into(), "wk".into()],
    }
}

stage_section! {
    /// `[dpo]`: direct preference optimisation.
    pub struct Dpo {
        /// Strength of the pull towards the reference.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64 = 0.1,
        /// `sigmoid` or `ipo`.
        pub loss: DpoLoss = DpoLoss::Sigmoid,
        /// Divide each answer's log-probability by its length.
        pub length_normalised: bool = false,
    }
}

section! {
    /// `[tokenizer]`: byte-level BPE, trained from the pretraining text or read from a file.
    pub struct TokenizerConfig {
        /// A `tokenizer.json` or the folder that holds it; unset: trained to `model.vocab_size` entries.
        pub path: Option<String> = None,
        /// Characters of text that training reads at most.
        #[schemars(range(min = 1))]
        pub train_chars: u64 = 50_000_000,
    }
}

section! {
    /// `[data]`: files, filters and the held-out share.
    pub struct DataConfig {
        /// `world` (built in), `files`, or a probe: `hops`, `recall` or `capacity`.
        pub source: Source = Source::World,
        /// Files or globs of pretraining text: a list, or lists by the names of their sources, as in
        /// `{ web = ["web/*.jsonl"], books = ["books.txt"] }`.
        pub pretrain: Sources = Sources::default(),
        /// Files or globs of conversations; a list, or lists by name.
        pub sft: Sources = Sources::default(),
        /// Files or globs of conversations of several turns for `[sft_multi]`; a list, or lists by name.
        pub sft_multi: Sources = Sources::default(),
        /// Files or globs of conversations for `[lora]`; a list, or lists by name; empty: those of `sft`.
        pub lora: Sources = Sources::default(),
        /// Files or globs of preference pairs; a list, or lists by name.
        pub dpo: Sources = Sources::default(),
        /// Files or globs of text that pretraining is validated on, in place of `val_share`: a list, or lists by the
        /// names of several sets, each of which has its own loss (`val_loss.NAME`).
        pub pretrain_val: Sources = Sources::default(),
        /// The same for `[sft]`.
        pub sft_val: Sources = Sources::default(),
        /// The same for `[sft_multi]`.
        pub sft_multi_val: Sources = Sources::default(),
        /// The same for `[lora]`; empty: those of `sft_val` where its files are those of `sft`.
        pub lora_val: Sources = Sources::default(),
        /// The same for `[dpo]`.
        pub dpo_val: Sources = Sources::default(),
        /// Weight of each named source in the tokens that a stage trains on, as in `{ web = 0.7, books = 0.3 }`; what
        /// counts is their share of the sum, and 0 leaves a source out. Each is a key, such as `data.mix.web`, which a
        /// sweep can vary. Empty: every row once in a pass.
        pub mix: BTreeMap<String, f64> = BTreeMap::new(),
        /// A row that cannot be read: `error` stops, `skip` leaves it out and counts it.
        pub on_bad_row: BadRow = BadRow::Error,
        /// Content under a key or in a column that the file's layout has no place for, such as `source` or a misspelt
        /// `histroy`: `error` stops, `ignore` reads on without it and reports which keys of each file are not used.
        pub unknown_keys: UnknownKeys = UnknownKeys::Error,
        /// Rows of conversations: `turns`, or `minimind` exactly as v1 makes them, with its faults: where an answer is cut
        /// away the question carries loss, a special token that somebody writes is a control token, and the loss begins
        /// anew behind a `<s>assistant` in a text.
        pub rows: RowStyle = RowStyle::Turns,
        /// Whether a special token that a text spells, such as `</s>`, becomes the control token; otherwise text stays
        /// text, the ids of its characters. Either way such texts are counted.
        pub special_tokens_in_text: bool = false,
        /// Share of the documents held out for validation, chosen by hash, never trained on; of each source, where they
        /// are named. A stage with validation files of its own holds nothing out.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub val_share: f64 = 0.01,
        /// Texts with fewer characters are left out (MiniMind's data_process).
        pub min_chars: usize = 0,
        /// Texts with more characters are left out; 0 is no limit.
        pub max_chars: usize = 0,
        /// Texts with a smaller share of Chinese characters are left out.
        #[schemars(range(min = 0, max = 1))]
        pub min_chinese_share: f64 = 0.0,
        /// Turns of a conversation before its last question are cut to so many characters each; 0 leaves them
        /// whole. MiniMind cuts them to half of `seq_len`.
        pub history_chars: usize = 0,
        /// Read at most this many rows of each kind, and of each of its named sources and validation sets; 0 reads all.
        pub max_rows: u64 = 0,
    }
}

section! {
    /// `[exam]`: question sheets in C-Eval's layout and how they are answered.
    pub struct ExamConfig {
        /// Whether trained models sit the exam.
        pub enabled: bool = true,
        /// Folder of `<subject>_val.csv` or `.jsonl` sheets; unset: those of the built-in world.
        pub sheets: Option<String> = None,
        /// Folder of `<subject>_dev.csv` or `.jsonl` sheets for few-shot prompts; unset: those of the built-in world.
        pub dev_sheets: Option<String> = None,
        /// By the most likely letter, or by the option whose text is most likely, behind the listed options (`cloze`) or
        /// behind the question alone (`continuation`).
        pub answer: Answer = Answer::Letter,
        /// How texts of options are compared, for `cloze` and `continuation`: by log-likelihood as it is, per token, per
        /// byte, or minus that of the text by itself (`pmi`).
        pub norm: Norm = Norm::Byte,
        /// For `letter`: put options into each position by turns; the answer is by the mean over the rotations.
        pub rotate: bool = false,
        /// Solved questions of the dev sheets before each question; a prompt too long loses the first of them.
        #[schemars(range(max = 1000))]
        pub shots: usize = 0,
        /// Stages whose model sits the exam; empty: the last one only.
        pub after: Vec<TrainStage> = vec![],
        /// Look for the questions of `sheets` in the text that the model was trained on, 13 words in a row of them, and
        /// score it without those that are found as well.
        pub contamination: bool = true,
        /// Shares of an examined stage's steps after which its model sits the exam; 1 is the end. The weights after other
        /// shares are kept beside the model, in `snapshots/`.
        pub at: Vec<f64> = vec![1.0],
        /// Examine the mean of the weights after the last so many shares of `exam.at`, too; below 2 none.
        pub average_last: usize = 0,
        /// System text of the prompt; empty: none.
        pub system: String = "开始回答问题".into(),
        /// Prompts that an examined model answers greedily, in up to 64 tokens each, for the report to show the answers of
        /// all trials side by side: MiniMind's questions, or the built-in world's without their options; 0 for none.
        #[schemars(range(max = 24))]
        pub samples: usize = 4,
    }
}

section! {
    /// `[slurm]`: what a trial's jobs ask of Slurm, where it is the executor. No result depends on it.
    pub struct SlurmConfig {
        /// Partition (`sbatch --partition`).
        pub partition: Option<String> = None,
        /// Account that is charged (`sbatch --account`).
        pub account: Option<String> = None,
        /// Longest time of a job, such as `2:00:00` (`sbatch --time`); a job whose time is up goes on in the next.
        pub time: Option<String> = None,
        /// Memory of a job, such as `4G` (`sbatch --mem`).
        pub memory: Option<String> = None,
        /// Generic resources such as `gpu:1` (`sbatch --gres`), for jobs that train or examine.
        pub gres: Option<String> = None,
        /// Most jobs of one array that run at a time (`%N` of `sbatch --array`); unset: as many as Slurm finds room for.
        #[schemars(range(min = 1))]
        pub at_once: Option<usize> = None,
        /// Further options of `sbatch`, such as `["--qos=low"]`.
        pub options: Vec<String> = vec![],
    }
}

section! {
    /// One fully resolved trial: one shape, one seed, the whole recipe.
    pub struct TrialConfig {
        /// Seed of weights, data order and dropout.
        pub seed: u64 = 1,
        /// `cpu`, `cuda` or `cuda:N`. Results are exact on each kind of device, not between them.
        pub device: Device = Device::Cpu,
        /// Numbers that a GPU computes with; the processor knows `f32` alone. Weights, moments, norms, softmax, losses and
        /// sums are f32 in all of them.
        pub precision: Precision = Precision::F32,
        /// Threads of one trial; 0 takes all cores. Results do not depend on it.
        pub threads: usize = 0,
        /// The shape of the model.
        pub model: ModelConfig = ModelConfig::default(),
        /// Byte-level BPE, trained from the pretraining text or read from a file.
        pub tokenizer: TokenizerConfig = TokenizerConfig::default(),
        /// Files, filters and the held-out share.
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
        /// Supervised fine-tuning on the conversations of several turns of `data.sft_multi`, after `[sft]`.
        pub sft_multi: Sft = Sft::with(Training { enabled: false, ..Training::fine_tuning() }),
        /// Fine-tuning of low-rank adapters on the conversations of `data.lora`, or those of `data.sft`.
        pub lora: Lora = Lora::with(Training { enabled: false, ..Training::fine_tuning() }),
        /// Direct preference optimisation.
        pub dpo: Dpo = Dpo::with(Training { lr: 4e-5, ..Training::fine_tuning() }),
        /// Question sheets in C-Eval's layout and how they are answered.
        pub exam: ExamConfig = ExamConfig::default(),
        /// What a trial's jobs ask of Slurm, where it is the executor. No result depends on it.
        pub slurm: SlurmConfig = SlurmConfig::default(),
    }
}

impl TokenizerConfig {
    /// The smallest vocabulary that can be trained: three special tokens and one entry for each byte.
    pub const SMALLEST_VOCAB: usize = 259;
}

impl SlurmConfig {
    /// The options of `sbatch` for a job; `computes` where it trains or examines.
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
    fn fine_tuning() -> Self {
        Self { packing: Packing::Single, lr: 1e-4, ..Self::default() }
    }
}

impl Lora {
    /// The adapters that it trains.
    pub fn adapters(&self) -> LoraConfig {
        LoraConfig { rank: self.rank, alpha: self.alpha, targets: self.targets.clone() }
    }
}

impl TrialConfig {
    /// The training stages in the order of the recipe, each with the keys that all stages have.
    pub fn stages(&self) -> impl DoubleEndedIterator<Item = (TrainStage, &Training)> {
        TrainStage::all().map(|stage| (stage, stage.training(self)))
    }

    /// The stages after which the trial sits the exam, in order.
    pub fn exams(&self) -> Vec<TrainStage> {
        let trained = recipe(self);
        match (self.exam.enabled, self.exam.after.as_slice()) {
            (false, _) => Vec::new(),
            (true, []) => trained.last().copied().into_iter().collect(),
            (true, after) => trained.into_iter().filter(|stage| after.contains(stage)).collect(),
        }
    }

    /// What the rows of a stage's data are.
    pub fn rows(&self, stage: TrainStage) -> RowKind {
        if self.probe().is_some() { RowKind::Labelled } else { stage.rows() }
    }

    /// What a training stage costs, by the document.
    pub fn cost(&self, stage: TrainStage) -> Cost {
        match (stage.spec().adapters)(self) {
            Some(adapters) => Cost::adapters(&self.model, &adapters),
            None if stage.compares_answers() => Cost::preferences(&self.model),
            None => Cost::training(&self.model),
        }
    }
}

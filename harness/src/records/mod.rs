//! What a finished trial leaves behind: the plain records between running, examining and reporting, and what answers come to.

mod analysis;
mod csv;
mod ending;
mod groups;
mod options;
mod routing;
mod tally;
mod tuning;

pub use analysis::{Analysis, GroupScore, LetterBias, analyse};
pub use csv::QuestionTable;
pub use ending::Ending;
pub use groups::{group_of, groups};
pub use options::{Norm, OptionScore};
pub use routing::Routing;
pub use tally::{GUESSING, Tally};
pub use tuning::{Tried, TuningRecord};

use crate::track::number;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use uuid::Uuid;

/// The part of a trial's or a stage run's name that is shown to people.
pub fn short_id(name: Uuid) -> String {
    name.simple().to_string()[..8].to_string()
}

/// How a trial or a stage run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every stage finished.
    Done,
    /// A stage ended in an error.
    Failed,
    /// Stopped before its end; it can be resumed.
    Stopped,
    /// Not started yet.
    Pending,
}

/// Something that a stage dropped, cut, skipped or reduced, counted: told on the console, in the log, in the manifest
/// and in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Where it happened, such as `sft` or `exam, law`.
    pub place: String,
    /// What happened and why, such as `rows left out: nothing left to learn within 64 tokens`.
    pub reason: String,
    /// To how many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, reason, count, of } = self;
        write!(f, "{place}: {} of {} {reason}", number(*count), number(*of))
    }
}

/// The notices of some trials, each once, with the number of trials that it is of.
pub fn notices(trials: &[TrialRecord]) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    for text in trials.iter().flat_map(|trial| trial.notices.iter().map(ToString::to_string)) {
        let place = *places.entry(text.clone()).or_insert(found.len());
        match found.get_mut(place) {
            Some((_, trials)) => *trials += 1,
            None => found.push((text, 1)),
        }
    }
    found
}

/// How much of a training stage was of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceUse {
    /// The source's name.
    pub name: String,
    /// Target tokens of it that were trained on, each as often as it was.
    pub tokens: u64,
    /// Passes over it: those tokens over the ones that it has.
    pub passes: f64,
}

/// The loss on one named validation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetLoss {
    /// The set's name.
    pub name: String,
    /// Held-out loss in nats per token, of pairs in nats per pair.
    pub loss: f64,
    /// Held-out bits per byte, of whole texts.
    pub bpb: Option<f64>,
}

/// One stage run of a trial.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// `tokenizer`, `data`, `pretrain`, `sft`, `lora`, `dpo` or `exam`.
    pub stage: String,
    /// Folder of the stage run.
    pub dir: PathBuf,
    /// Where its `metrics.csv` is, where the stage trains: there, or where it is kept.
    pub record: PathBuf,
    /// How it stands, as its manifest has it: `done`, `failed`, `stopped` or `running`.
    #[serde(default)]
    pub status: String,
    /// Seconds of all its attempts.
    #[serde(default)]
    pub wall_seconds: f64,
    /// Largest resident set of any attempt, in MiB.
    #[serde(default)]
    pub peak_rss_mb: f64,
    /// The program that worked on it last: version and commit.
    #[serde(default)]
    pub program: String,
    /// Where: host, device and threads.
    #[serde(default)]
    pub machine: String,
    /// When it was first begun (UTC).
    #[serde(default)]
    pub started: String,
    /// When it last ended (UTC).
    #[serde(default)]
    pub ended: Option<String>,
    /// The keys that it read, by which it is named, with their values.
    #[serde(default)]
    pub keys: BTreeMap<String, Value>,
    /// What it came to, where it trains and has finished.
    #[serde(default)]
    pub trained: Option<Trained>,
}

/// What a stage that trains came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Optimizer steps.
    pub steps: u64,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Held-out loss at the end, in nats per token; of preferences in nats per pair.
    pub val_loss: Option<f64>,
    /// Held-out bits per byte at the end, of whole texts.
    pub val_bpb: Option<f64>,
    /// Seconds of all its attempts.
    pub wall_seconds: f64,
    /// Largest resident set, in MiB.
    pub peak_rss_mb: f64,
    /// How it ended, as far as metrics.csv tells.
    pub ending: Ending,
}

/// What a model wrote behind a fixed prompt, each token the most likely one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// What is right, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// What was written, without the prompt.
    pub text: String,
    /// Whether it was cut, as it came to no end of its own.
    pub is_cut: bool,
}

/// The score of one exam sat after one stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExamScore {
    /// The stage whose model sat the exam.
    pub stage: String,
    /// Which weights of that stage.
    #[serde(default)]
    pub taken: Taken,
    /// Target tokens that they had been trained on, over all stages.
    #[serde(default)]
    pub tokens: u64,
    /// The name of the exam's folder.
    #[serde(default)]
    pub run: String,
    /// Its answers.
    #[serde(flatten)]
    pub tally: Tally,
    /// Questions that stand in training text, and those of the others that were answered correctly; `None` where they
    /// were not looked for.
    #[serde(default)]
    pub contaminated: Option<Contaminated>,
    /// Where the tokens of each subject's prompts went; of mixtures of experts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routing: Vec<Routing>,
}

/// Questions of an exam that stand in training text, and how the others were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contaminated {
    /// Questions that stand in training text.
    pub questions: u64,
    /// Questions that do not and were answered correctly.
    pub correct_clean: u64,
}

impl Contaminated {
    /// Counts one more question.
    pub fn add(&mut self, is_contaminated: bool, record: &QuestionRecord) {
        self.questions += u64::from(is_contaminated);
        self.correct_clean += u64::from(!is_contaminated && record.prediction == record.answer);
    }
}

/// Which weights of a stage sat an exam: those after a share of its steps, or the mean of the last ones up to there.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Taken {
    /// Above 0 and at most 1, the end.
    pub at: f64,
    /// Over how many the mean is; 1 is none.
    pub averaged: usize,
}

impl Default for Taken {
    fn default() -> Self {
        Self { at: 1.0, averaged: 1 }
    }
}

/// Everything a report needs to know of one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// UUID v5 of the resolved configuration.
    pub trial: Uuid,
    /// The same without the seed: trials of one setting have it in common, whatever sweeps they come from.
    pub setting: Uuid,
    /// Names of the sweeps that it belongs to, in the experiment's order.
    pub sweeps: Vec<String>,
    /// The trial's seed.
    pub seed: u64,
    /// Keys that its sweeps vary or solve with their values, such as `model.n_layers`, in the sweeps' order.
    pub keys: Vec<(String, Value)>,
    /// Weights, in total.
    pub params: u64,
    /// Weights that one token passes through.
    pub active_params: u64,
    /// Target tokens trained on, over all stages.
    pub train_tokens: u64,
    /// Floating-point operations of training, over all stages.
    pub train_flops: f64,
    /// Held-out loss in nats per token after pretraining.
    pub val_loss: Option<f64>,
    /// Held-out bits per byte after pretraining.
    pub val_bpb: Option<f64>,
    /// The same for each named validation set.
    #[serde(default)]
    pub val_sets: Vec<SetLoss>,
    /// Bits of knowledge that the model has stored, where its data is the probe of knowledge capacity.
    #[serde(default)]
    pub capacity_bits: Option<f64>,
    /// Exams in the order they were sat.
    pub exams: Vec<ExamScore>,
    /// What the model of its last exam wrote behind fixed prompts.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// Seconds of all stage runs of this trial.
    pub wall_seconds: f64,
    /// Largest resident set of any stage, in MiB.
    pub peak_rss_mb: f64,
    /// How the trial ended.
    pub status: Status,
    /// Why it failed, where it did.
    pub reason: Option<String>,
    /// The stage runs, in order.
    pub stages: Vec<StageRecord>,
    /// What its stages dropped, cut, skipped or reduced, in order.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// The resolved configuration as TOML.
    pub config: String,
}

impl ExamScore {
    /// After what it was sat, for people: `sft`, `sft, at 25 %`, `sft, mean of 3 up to 100 %`.
    pub fn after(&self) -> String {
        let (stage, percent) = (&self.stage, 100.0 * self.taken.at);
        match self.taken {
            Taken { averaged: 1, at: 1.0 } => stage.clone(),
            Taken { averaged: 1, .. } => format!("{stage}, at {percent} %"),
            Taken { averaged, .. } => format!("{stage}, mean of {averaged} up to {percent} %"),
        }
    }
}

impl TrialRecord {
    /// [`Self::capacity_bits`] over all weights, those of the embedding and of every expert among them.
    pub fn capacity_ratio(&self) -> Option<f64> {
        Some(self.capacity_bits? / self.params as f64)
    }

    /// The exam by which the trial is judged: the last one after its last stage, means left out.
    pub fn last_exam(&self) -> Option<&ExamScore> {
        self.exams.iter().rfind(|exam| exam.taken.averaged == 1)
    }
}

/// One exam question as one model answered it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionRecord {
    /// The sheet's subject.
    pub subject: String,
    /// The question's id in its sheet.
    pub id: String,
    /// For each option, by letter the probability of its letter as the next token, by softmax over the whole vocabulary, as
    /// mean over the rotations of options where they are rotated; otherwise the exponential of the score by which its text
    /// is compared with the others'.
    pub probabilities: Vec<f64>,
    /// The letter with the highest probability, the first of equals.
    pub prediction: char,
    /// The right letter.
    pub answer: char,
    /// Whether it stands in training text, where that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contaminated: Option<bool>,
    /// What each option's text scores; empty by letter, and where an older version sat the exam.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<OptionScore>,
}

impl QuestionRecord {
    /// Whether the answer is right.
    pub fn is_right(&self) -> bool {
        self.prediction == self.answer
    }

    /// Logarithm of what the right option has in [`Self::probabilities`].
    pub fn log_prob(&self) -> f64 {
        self.probabilities.get(place_of(self.answer)).map_or(f64::NAN, |p| p.ln())
    }
}

/// The letter of an option: A of the first.
pub fn letter(place: usize) -> char {
    char::from(b'A' + place.min(25) as u8)
}

/// The way back of [`letter`].
pub fn place_of(letter: char) -> usize {
    (letter as usize).wrapping_sub('A' as usize)
}

/// The place of the highest number, the first of equals.
pub fn best(of: &[f64]) -> usize {
    (1..of.len()).fold(0, |best, i| if of[i] > of[best] { i } else { best })
}

//! Plain records that running, examining and reporting hand to each other, and the analysis of answers.
//!
//! They hold values and what follows from them, by `stats` and the formats of `track`. Who makes a record and where it is
//! kept are matters of other rooms, so that a report from records is the same wherever they come from.

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
pub use groups::{chinese_name_of, group_of, groups};
pub use options::{Norm, OptionScore};
pub use routing::Routing;
pub use tally::{GUESSING, Tally};
pub use tuning::{CandidateRecord, TuningRecord};

use crate::track::number;
use options::LARGEST;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use uuid::Uuid;

/// The first 8 hexadecimal digits of a trial's or a stage run's name, for display.
pub fn short_id(name: Uuid) -> String {
    name.simple().to_string()[..8].to_string()
}

/// The status of a trial or of a tuning candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Every stage finished.
    Done,
    /// One of its stages is running.
    Running,
    /// A stage ended in an error.
    Failed,
    /// Stopped before its end; it can be resumed.
    Stopped,
    /// Not started yet.
    Pending,
}

/// A counted notice about something that a stage dropped, cut, skipped or reduced; it appears on the console, in the log,
/// in the manifest and in the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The place it concerns, such as `sft` or `exam, law`.
    pub place: String,
    /// What happened and why, such as `rows left out: nothing left to learn within 64 tokens`.
    pub reason: String,
    /// How many items it concerns.
    pub count: u64,
    /// Out of how many.
    pub of: u64,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, reason, count, of } = self;
        write!(f, "{place}: {} of {} {reason}", number(*count), number(*of))
    }
}

/// The notices of some trials, each once, with the number of trials that have it.
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

/// How much of a training stage came from one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceUse {
    /// The source's name.
    pub name: String,
    /// Target tokens of this source that were trained on, with repetitions.
    pub tokens: u64,
    /// Passes over the source: those tokens divided by the number of its target tokens.
    pub passes: f64,
}

/// The loss on one named validation set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetLoss {
    /// The set's name.
    pub name: String,
    /// Validation loss in nats per target token; for preferences in nats per pair.
    pub loss: f64,
    /// Validation bits per byte; `None` unless the loss covers whole texts.
    pub bpb: Option<f64>,
}

/// One stage run of a trial.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// `tokenizer`, `data`, `pretrain`, `sft`, `lora`, `dpo` or `exam`.
    pub stage: String,
    /// Folder of the stage run.
    pub dir: PathBuf,
    /// The folder of its `metrics.csv`, if the stage trains: `dir`, or the one where its records are kept.
    pub record: PathBuf,
    /// Its status in its manifest: `done`, `failed`, `stopped` or `running`.
    #[serde(default)]
    pub status: String,
    /// Seconds of all its attempts.
    #[serde(default)]
    pub wall_seconds: f64,
    /// Largest resident set size of any attempt, in MiB.
    #[serde(default)]
    pub peak_rss_mb: f64,
    /// The program of the last attempt: version and commit.
    #[serde(default)]
    pub program: String,
    /// The machine of the last attempt: host, device and threads.
    #[serde(default)]
    pub machine: String,
    /// When the first attempt began (UTC).
    #[serde(default)]
    pub started: String,
    /// When the last attempt ended (UTC).
    #[serde(default)]
    pub ended: Option<String>,
    /// The configuration keys that its name depends on, with their values.
    #[serde(default)]
    pub keys: BTreeMap<String, Value>,
    /// The results of the training; `None` unless the stage trains and is finished.
    #[serde(default)]
    pub trained: Option<Trained>,
}

/// The results of a training stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Optimizer steps.
    pub steps: u64,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Floating-point operations.
    pub flops: f64,
    /// Final validation loss in nats per target token; for preferences in nats per pair.
    pub val_loss: Option<f64>,
    /// Final validation bits per byte; `None` unless the loss covers whole texts.
    pub val_bpb: Option<f64>,
    /// Seconds of all its attempts.
    pub wall_seconds: f64,
    /// Largest resident set size of any attempt, in MiB.
    pub peak_rss_mb: f64,
    /// The end of the training, from its metrics.csv.
    pub ending: Ending,
}

/// A text that a model generated after a fixed prompt, by greedy decoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The correct continuation; `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// The generated text, without the prompt.
    pub text: String,
    /// Whether it was cut off because the model did not end it.
    pub is_cut: bool,
}

/// The score of one exam after one stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExamScore {
    /// Name of the stage whose model was examined.
    pub stage: String,
    /// Which weights of that stage were examined.
    #[serde(default)]
    pub taken: ExaminedWeights,
    /// Target tokens that these weights had been trained on, over all stages.
    #[serde(default)]
    pub tokens: u64,
    /// Folder name of the exam's stage run.
    #[serde(default)]
    pub run: String,
    /// The count of its correct answers.
    #[serde(flatten)]
    pub tally: Tally,
    /// Questions that appear in training text, and correct answers to the others; `None` if that was not checked.
    #[serde(default)]
    pub contaminated: Option<Contaminated>,
    /// Routing of the tokens of each subject's prompts to experts; empty for dense models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routing: Vec<Routing>,
}

/// Exam questions that appear in training text, and the correct answers to the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contaminated {
    /// Number of questions that appear in training text.
    pub questions: u64,
    /// Number of questions that do not appear there and were answered correctly.
    pub correct_clean: u64,
}

impl Contaminated {
    /// Adds one question.
    pub fn add(&mut self, is_contaminated: bool, record: &QuestionRecord) {
        self.questions += u64::from(is_contaminated);
        self.correct_clean += u64::from(!is_contaminated && record.prediction == record.answer);
    }
}

/// Which weights of a stage an exam examines: those after a share of its steps, or the mean of the last snapshots up to there.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ExaminedWeights {
    /// The share of the steps, in (0, 1]; 1 is the end.
    pub at: f64,
    /// Number of snapshots that are averaged; 1 means no averaging.
    pub averaged: usize,
}

impl Default for ExaminedWeights {
    fn default() -> Self {
        Self { at: 1.0, averaged: 1 }
    }
}

/// Everything that a report needs to know about one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The trial's name, derived from those of its stage runs.
    pub trial: Uuid,
    /// The same without the seed: equal for all trials of one setting, whatever sweeps they come from.
    pub setting: Uuid,
    /// Names of its sweeps, in the order of the experiment.
    pub sweeps: Vec<String>,
    /// The trial's seed.
    pub seed: u64,
    /// The keys that its sweeps vary or solve, such as `model.n_layers`, with their values, in the order of the sweeps.
    pub keys: Vec<(String, Value)>,
    /// Total number of parameters.
    pub params: u64,
    /// Number of parameters that one token passes through.
    pub active_params: u64,
    /// Target tokens trained on, over all stages.
    pub train_tokens: u64,
    /// Floating-point operations of training, over all stages.
    pub train_flops: f64,
    /// Validation loss after pretraining, in nats per token.
    pub val_loss: Option<f64>,
    /// Validation bits per byte after pretraining.
    pub val_bpb: Option<f64>,
    /// Validation loss and bits per byte after pretraining, of each named validation set.
    #[serde(default)]
    pub val_sets: Vec<SetLoss>,
    /// Bits of knowledge that the model has stored; `None` unless the data is the knowledge-capacity probe.
    #[serde(default)]
    pub capacity_bits: Option<f64>,
    /// Its exams, in the order in which they were taken.
    pub exams: Vec<ExamScore>,
    /// What the model of its last exam generated after fixed prompts.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// Seconds of all stage runs of this trial.
    pub wall_seconds: f64,
    /// Largest resident set size of any stage run, in MiB.
    pub peak_rss_mb: f64,
    /// Its status.
    pub status: Status,
    /// Why it failed, if it did.
    pub reason: Option<String>,
    /// Its stage runs, in the order of the recipe.
    pub stages: Vec<StageRecord>,
    /// What its stages dropped, cut, skipped or reduced, in order.
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// The resolved configuration as TOML.
    pub config: String,
}

impl ExamScore {
    /// The stage and the weights that were examined, for display: `sft`, `sft, at 25 %`, `sft, mean of 3 up to 100 %`.
    pub fn after(&self) -> String {
        let (stage, percent) = (&self.stage, 100.0 * self.taken.at);
        match self.taken {
            ExaminedWeights { averaged: 1, at: 1.0 } => stage.clone(),
            ExaminedWeights { averaged: 1, .. } => format!("{stage}, at {percent} %"),
            ExaminedWeights { averaged, .. } => format!("{stage}, mean of {averaged} up to {percent} %"),
        }
    }
}

impl TrialRecord {
    /// [`Self::capacity_bits`] per parameter, embedding and all experts included.
    pub fn capacity_ratio(&self) -> Option<f64> {
        Some(self.capacity_bits? / self.params as f64)
    }

    /// The exam that the trial is judged by: the last one, exams of averaged weights excluded.
    pub fn last_exam(&self) -> Option<&ExamScore> {
        self.exams.iter().rfind(|exam| exam.taken.averaged == 1)
    }
}

/// One exam question with a model's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionRecord {
    /// The sheet's subject.
    pub subject: String,
    /// The question's ID in its sheet.
    pub id: String,
    /// One number per option. When answering by letter: the probability of the option's letter as the next token, by softmax over
    /// the whole vocabulary, averaged over the rotations of the options if they are rotated. Otherwise: the exponential of the
    /// normalized score by which the option's text is compared with the others.
    pub probabilities: Vec<f64>,
    /// The letter of the option with the highest probability or score, in case of ties the first.
    pub prediction: char,
    /// The correct letter.
    pub answer: char,
    /// Whether it appears in training text; `None` if that was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contaminated: Option<bool>,
    /// The scores of each option's text; empty when answering by letter, and for exams of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<OptionScore>,
}

impl QuestionRecord {
    /// Whether the answer is correct.
    pub fn is_right(&self) -> bool {
        self.prediction == self.answer
    }

    /// Natural logarithm of the correct option's entry in [`Self::probabilities`]; its score if that entry underflowed.
    pub fn log_prob(&self) -> f64 {
        let place = place_of(self.answer);
        match self.probabilities.get(place) {
            None => f64::NAN,
            Some(p) if p.is_normal() => p.ln(),
            Some(p) => self.norm().zip(self.options.get(place)).map_or(p.ln(), |(norm, of)| norm.score(of)),
        }
    }

    /// [`Self::probabilities`] up to a common factor: relative to the largest if that has no finite exponential.
    pub fn weights(&self) -> Vec<f64> {
        let largest = self.probabilities.iter().copied().fold(0.0, f64::max);
        let is_lost = !largest.is_normal() || largest >= LARGEST;
        match self.norm().filter(|_| is_lost) {
            None => self.probabilities.clone(),
            Some(norm) => {
                let scores = self.scores(norm);
                let most = scores[best(&scores)];
                scores.iter().map(|score| (score - most).exp()).collect()
            }
        }
    }

    fn scores(&self, norm: Norm) -> Vec<f64> {
        self.options.iter().map(|option| norm.score(option)).collect()
    }

    /// The norm that chooses the prediction and whose scores have [`Self::probabilities`] as their exponentials; `None` if
    /// there is none, as when answering by letter.
    fn norm(&self) -> Option<Norm> {
        let is_of = |norm: Norm| {
            let mut pairs = self.options.iter().zip(&self.probabilities);
            pairs.all(|(option, &p)| (norm.probability(option) - p).abs() <= 1e-9 * p)
                && best(&self.scores(norm)) == place_of(self.prediction)
        };
        let norms = Norm::ALL.into_iter().map(|(norm, _)| norm);
        norms.filter(|_| !self.options.is_empty()).find(|&norm| is_of(norm))
    }
}

/// The letter of the option at an index: A for 0.
pub fn letter(place: usize) -> char {
    char::from(b'A' + place.min(25) as u8)
}

/// The index of a letter, the inverse of [`letter`].
pub fn place_of(letter: char) -> usize {
    (letter as usize).wrapping_sub('A' as usize)
}

/// Index of the largest number, in case of ties the first.
pub fn best(of: &[f64]) -> usize {
    (1..of.len()).fold(0, |best, i| if of[i] > of[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_that_underflows_has_its_logarithm() {
        let option = |log_prob: f64, unconditional: f64| OptionScore {
            log_prob,
            unconditional,
            tokens: 300,
            bytes: 900,
        };
        let record = |norm: Norm, options: [OptionScore; 2]| QuestionRecord {
            subject: "s".into(),
            id: "1".into(),
            probabilities: options.iter().map(|option| norm.score(option).exp()).collect(),
            prediction: 'A',
            answer: 'B',
            contaminated: None,
            options: options.into(),
        };
        let log_prob = |norm, a, b| record(norm, [a, b]).log_prob();
        assert_eq!(log_prob(Norm::Raw, option(-800.0, -1.0), option(-900.0, -1.0)), -900.0);
        assert_eq!(log_prob(Norm::Raw, option(-3.0, -1.0), option(-900.0, -1.0)), -900.0);
        // Their difference to the empty question: 90 and -890.
        assert_eq!(log_prob(Norm::Pmi, option(-10.0, -100.0), option(-900.0, -10.0)), -890.0);
        assert_eq!(log_prob(Norm::Token, option(-3.0, -1.0), option(-900.0, -1.0)), (-3f64).exp().ln());
        let letters = QuestionRecord { options: vec![], ..record(Norm::Raw, [option(-1.0, -1.0); 2]) };
        assert_eq!(letters.log_prob(), (-1f64).exp().ln());
        let zero = QuestionRecord { probabilities: vec![1.0, 0.0], ..letters };
        assert_eq!(zero.log_prob(), f64::NEG_INFINITY);
    }
}

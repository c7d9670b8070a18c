//! Observations: what one trial scored, in total or in one subject; and how observations are aggregated over seeds.
//!
//! The unit of replication is the seed: several observations of one seed are averaged before anything is tested. A
//! trial that several sweeps contain counts once, unless `sweep` is among the requested columns.

use super::labels::{self, Labels};
use crate::config::{TrainStage, TrialConfig, config_of};
use crate::records::{
    Analysis, Contaminated, ExamScore, ExaminedWeights, QuestionRecord, Routing, Status, Tally, TrialRecord,
    analyse, place_of,
};
use crate::report::TrialQuestion;
use crate::report::columns::{Column, Names};
use serde_json::Value;
use stats::{Answered, OPTIONS, PERMUTATIONS, Randomised, Spread, guessing, mean, spread, wilson_of_share};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;
use uuid::Uuid;

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A number, as in trials.csv.
    Number(f64),
    /// Text, or any other value in its JSON form.
    Text(String),
}

impl Cell {
    fn of_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Number(number) => number.as_f64().map(Self::Number),
            Value::String(text) => Some(Self::Text(text.clone())),
            other => Some(Self::Text(other.to_string())),
        }
    }
}

/// The score of an exam, or of one subject of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Score<'a> {
    /// The training stage whose model took the exam.
    pub stage: String,
    /// The weights of that stage that took it.
    pub taken: ExaminedWeights,
    /// Target tokens that these weights had been trained on.
    pub tokens: u64,
    /// The subject; `None` for the exam as a whole.
    pub subject: Option<String>,
    /// Counts of its answers.
    pub tally: Tally,
    /// Counts of the questions that appear in training text; `None` if they were not searched for.
    pub contaminated: Option<Contaminated>,
    /// Fingerprint of the exam, equal for equal questions; 0 if no answers are recorded.
    exam: u64,
    /// Its answers, each with its index in the exam; empty if only counts are recorded.
    pub answers: Vec<(usize, &'a QuestionRecord)>,
    /// The analysis of the answers, computed on first use.
    analysis: OnceLock<Option<Analysis>>,
    /// How the tokens of each subject's prompts were routed to experts; empty for dense models.
    routing: &'a [Routing],
    /// The expert that this score is about, as its layer and its index there; `None` for all.
    pub expert: Option<(usize, usize)>,
}

impl Score<'_> {
    /// Share of correct answers; `None` without questions.
    pub fn accuracy(&self) -> Option<f64> {
        (self.tally.questions > 0).then(|| self.tally.accuracy())
    }

    /// Number of questions that do not appear in training text, and of correct answers to them; `None` if training text was
    /// not searched.
    pub fn clean(&self) -> Option<(u64, u64)> {
        let found = self.contaminated?;
        Some((self.tally.questions - found.questions, found.correct_clean))
    }

    /// Share of correct answers to the questions of [`Self::clean`].
    pub fn clean_accuracy(&self) -> Option<f64> {
        let (questions, correct) = self.clean()?;
        (questions > 0).then(|| correct as f64 / questions as f64)
    }

    /// How the tokens of its prompts were routed to experts; `None` for dense models.
    pub fn routing(&self) -> Option<Routing> {
        match &self.subject {
            Some(subject) => self.routing.iter().find(|of| of.subject == *subject).cloned(),
            None => Routing::sum(self.routing),
        }
    }

    /// Distance of its subject's routes from those of the whole exam, 0 to 1; see [`Routing::distance`].
    pub fn specialization(&self) -> Option<f64> {
        self.subject.as_ref()?;
        Some(self.routing()?.distance(&Routing::sum(self.routing)?))
    }

    /// Tokens routed to its `expert`, relative to an even distribution over the layer's experts.
    pub fn expert_load(&self) -> Option<f64> {
        let (layer, expert) = self.expert?;
        let shares = self.routing()?.shares();
        let of_layer = shares.get(layer)?;
        Some(of_layer.get(expert)? * of_layer.len() as f64)
    }

    /// Copies of this score, one for each expert of each layer.
    fn by_expert(&self) -> Vec<Self> {
        let load = self.routing().map_or(vec![], |routing| routing.load);
        let places = load.iter().enumerate().flat_map(|(layer, of)| (0..of.len()).map(move |e| (layer, e)));
        places.map(|place| Self { expert: Some(place), ..self.clone() }).collect()
    }

    /// Whether the other score answers the same questions.
    pub fn is_same_exam(&self, other: &Self) -> bool {
        self.exam == other.exam && !self.answers.is_empty() && self.answers.len() == other.answers.len()
    }

    /// Analysis of its answers beyond accuracy; `None` if only counts are recorded.
    pub fn analysis(&self) -> Option<&Analysis> {
        let answers = || self.answers.iter().map(|(_, record)| *record).collect::<Vec<_>>();
        self.analysis.get_or_init(|| analyse(&answers())).as_ref()
    }
}

/// What one trial scored in one exam, or in one part of it.
#[derive(Debug, Clone)]
pub struct Observation<'a> {
    /// The record of the trial.
    pub trial: &'a TrialRecord,
    /// Its full configuration.
    config: &'a Value,
    /// Label of its setting.
    pub label: &'a str,
    /// The sweep as whose trial it is counted.
    pub sweep: &'a str,
    /// The score; `None` if no exam was taken.
    pub score: Option<Score<'a>>,
}

impl Observation<'_> {
    /// The value of a key of the configuration.
    pub fn key(&self, path: &str) -> Option<Cell> {
        labels::value(self.trial, self.config, path).and_then(Cell::of_json)
    }

    /// Copies of this observation, one for each subject of its exam.
    pub fn by_subject(&self) -> Vec<Self> {
        let parts = self.score.as_ref().map(by_subjects).unwrap_or_default();
        parts.into_iter().map(|part| Self { score: Some(part), ..self.clone() }).collect()
    }

    /// Identity of the result, the same in every sweep: trial, exam, subject and expert.
    pub fn identity(&self) -> (Uuid, Exam<'_>, Option<&str>, Option<(usize, usize)>) {
        let score = self.score.as_ref();
        let exam = score.map_or(("", 0, 0), |score| exam(&score.stage, score.taken));
        let subject = score.and_then(|score| score.subject.as_deref());
        (self.trial.trial, exam, subject, score.and_then(|score| score.expert))
    }
}

/// Identity of an exam of a trial: its stage, the bits of the share of its steps, and the number of averaged weights.
type Exam<'a> = (&'a str, u64, usize);

fn exam(stage: &str, taken: ExaminedWeights) -> Exam<'_> {
    (stage, taken.at.to_bits(), taken.averaged)
}

/// All trials with their configurations and answers.
#[derive(Debug)]
pub struct Results<'a> {
    trials: Vec<(&'a TrialRecord, Value)>,
    labels: Labels,
    /// The labels of keys and columns.
    names: Names,
    answers: BTreeMap<(Uuid, Exam<'a>), Vec<(usize, &'a QuestionRecord)>>,
}

impl<'a> Results<'a> {
    /// Reads the configurations. `trials` and `questions` hold each trial and answer once.
    pub fn new(trials: &'a [TrialRecord], questions: &'a [TrialQuestion]) -> Self {
        Self::labelled(trials, questions, &Names::default())
    }

    /// As [`Self::new`], with the labels of an experiment file in the names of settings.
    pub fn labelled(trials: &'a [TrialRecord], questions: &'a [TrialQuestion], names: &Names) -> Self {
        // If a configuration cannot be parsed, the swept keys remain, which are recorded separately.
        let config = |trial: &TrialRecord| toml::from_str(&trial.config).unwrap_or(Value::Null);
        let trials: Vec<(&TrialRecord, Value)> = trials.iter().map(|t| (t, config(t))).collect();
        let mut answers: BTreeMap<_, Vec<(usize, &QuestionRecord)>> = BTreeMap::new();
        for question in questions {
            let exam = exam(&question.stage, question.taken);
            let answered = answers.entry((question.trial, exam)).or_default();
            answered.push((answered.len(), &question.record));
        }
        Self { labels: Labels::of(&trials, names), names: names.clone(), trials, answers }
    }

    /// Every trial, with its configuration.
    pub fn trials(&self) -> impl Iterator<Item = (&'a TrialRecord, &Value)> {
        self.trials.iter().map(|(trial, config)| (*trial, config))
    }

    /// Label of a trial's setting, as shown.
    pub fn label(&self, trial: &TrialRecord) -> &str {
        self.labels.by_setting.get(&trial.setting).map_or("", |label| &label.shown)
    }

    /// Label of a trial's setting by its keys alone, for CSV files and names of folders.
    pub fn label_by_keys(&self, trial: &TrialRecord) -> &str {
        self.labels.by_setting.get(&trial.setting).map_or("", |label| &label.keys)
    }

    /// Analysis of the answers of an exam beyond accuracy; `None` if only counts are recorded.
    pub fn analysis(&self, trial: Uuid, of: &ExamScore) -> Option<Analysis> {
        let answers = self.answers.get(&(trial, exam(&of.stage, of.taken)))?;
        analyse(&answers.iter().map(|(_, record)| *record).collect::<Vec<_>>())
    }

    /// Keys that distinguish trials, without the seed.
    pub fn keys(&self) -> &[String] {
        &self.labels.keys
    }

    /// A note on the keys, apart from the seed, over whose values the means of observations are taken that `columns`
    /// distinguish: `means are also over learning rate`; `None` if there are none.
    pub fn also_over(&self, observations: &[&Observation], columns: &[Column]) -> Option<String> {
        let groups = grouped(observations, columns);
        let varies = |key: &&String| {
            groups.iter().any(|(_, group)| group.windows(2).any(|pair| pair[0].key(key) != pair[1].key(key)))
        };
        let keys: Vec<String> = self.keys().iter().filter(varies).map(|key| self.names.label(key)).collect();
        (!keys.is_empty()).then(|| format!("means are also over {}", keys.join(", ")))
    }

    fn observation<'s>(
        &'s self,
        (trial, config): &'s (&'a TrialRecord, Value),
        sweep: &'s str,
        score: Option<Score<'s>>,
    ) -> Observation<'s> {
        Observation { trial, config, label: self.label(trial), sweep, score }
    }

    /// Returns one observation for each trial, finished or not, each of its sweeps and each of its planned exams, without outcomes.
    pub fn planned(&self) -> Vec<Observation<'_>> {
        let mut found = vec![];
        for known in &self.trials {
            let exams = config_of(known.1.clone()).map_or(vec![], |config| planned_exams(&config));
            for sweep in &known.0.sweeps {
                if exams.is_empty() {
                    found.push(self.observation(known, sweep, None));
                }
                found.extend(exams.iter().map(|score| self.observation(known, sweep, Some(score.clone()))));
            }
        }
        found
    }

    /// Returns the observations that `columns` require: finished trials by their last exam. Some columns add others:
    /// `exam.stage` the exam of every stage, `at` or `exam.tokens` those taken before a stage's end, `averaged` those of
    /// averaged weights; `exam.subject` or `exam.group` split by subject, `exam.expert` by expert; `sweep` repeats a trial
    /// for each of its sweeps.
    pub fn observations(&self, columns: &[Column]) -> Vec<Observation<'_>> {
        let names = |name: &str| columns.iter().any(|column| column.name() == name);
        let (by_subject, by_expert) = (names("subject") || names("group"), names("expert"));
        let (by_stage, by_sweep) = (names("stage"), names("sweep"));
        let (by_share, by_mean) = (names("at") || names("exam_tokens"), names("averaged"));
        let mut found = vec![];
        for known in self.trials.iter().filter(|(t, _)| t.status == Status::Done) {
            let trial = known.0;
            let mut scores: Vec<Score> = vec![];
            for exam in requested_exams(trial, by_stage, by_share, by_mean) {
                let answers = self.answers.get(&(trial.trial, self::exam(&exam.stage, exam.taken)));
                let score = Score {
                    stage: exam.stage.clone(),
                    taken: exam.taken,
                    tokens: exam.tokens,
                    subject: None,
                    tally: exam.tally,
                    contaminated: exam.contaminated,
                    exam: answers.map_or(0, |answers| fingerprint(answers)),
                    answers: answers.cloned().unwrap_or_default(),
                    analysis: OnceLock::new(),
                    routing: &exam.routing,
                    expert: None,
                };
                if by_subject { scores.extend(by_subjects(&score)) } else { scores.push(score) }
            }
            if by_expert {
                scores = scores.iter().flat_map(Score::by_expert).collect();
            }
            for sweep in trial.sweeps.iter().take(if by_sweep { trial.sweeps.len() } else { 1 }) {
                if scores.is_empty() {
                    found.push(self.observation(known, sweep, None));
                }
                found.extend(scores.iter().map(|s| self.observation(known, sweep, Some(s.clone()))));
            }
        }
        found
    }
}

/// The exams planned for a trial, without any answers.
fn planned_exams(config: &TrialConfig) -> Vec<Score<'static>> {
    let of = |stage: TrainStage| {
        config.examined().into_iter().map(move |at| Score {
            stage: stage.name().into(),
            taken: ExaminedWeights { at: at.share(), averaged: at.shares.len() },
            tokens: 0,
            subject: None,
            tally: Tally::of_four(0, 0),
            contaminated: None,
            exam: 0,
            answers: vec![],
            analysis: OnceLock::new(),
            routing: &[],
            expert: None,
        })
    };
    config.exams().into_iter().flat_map(of).collect()
}

/// Selects exams of a trial: of its last stage or of each, at the last share of steps or at each, without or with those
/// of averaged weights.
fn requested_exams(trial: &TrialRecord, by_stage: bool, by_share: bool, by_mean: bool) -> Vec<&ExamScore> {
    let last = trial.exams.last().map(|exam| exam.stage.as_str());
    let of_stage = |exam: &&ExamScore| by_stage || Some(exam.stage.as_str()) == last;
    let is_wanted = |exam: &&ExamScore| by_mean || exam.taken.averaged == 1;
    let found: Vec<&ExamScore> = trial.exams.iter().filter(of_stage).filter(is_wanted).collect();
    let is_last = |exam: &ExamScore| {
        let later = |other: &&ExamScore| other.stage == exam.stage && other.taken.at > exam.taken.at;
        !found.iter().any(later)
    };
    found.iter().copied().filter(|exam| by_share || is_last(exam)).collect()
}

/// Hash of the questions of an exam and their correct letters, in order.
fn fingerprint(answers: &[(usize, &QuestionRecord)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    answers.iter().for_each(|(_, record)| (&record.subject, &record.id, record.answer).hash(&mut hasher));
    hasher.finish()
}

/// Splits an exam into its subjects, in order of name.
fn by_subjects<'a>(exam: &Score<'a>) -> Vec<Score<'a>> {
    let mut subjects: BTreeMap<&str, Score> = BTreeMap::new();
    for &(place, record) in &exam.answers {
        let score = subjects.entry(&record.subject).or_insert_with(|| Score {
            subject: Some(record.subject.clone()),
            contaminated: None,
            answers: vec![],
            analysis: OnceLock::new(),
            ..exam.clone()
        });
        if let Some(is_met) = record.contaminated {
            score.contaminated.get_or_insert_default().add(is_met, record);
        }
        score.answers.push((place, record));
    }
    let counted = |score: Score<'a>| Score {
        tally: Tally::of(score.answers.iter().map(|(_, record)| *record)),
        ..score
    };
    subjects.into_values().map(counted).collect()
}

/// Keeps each result once, even if several sweeps contain its trial.
pub fn distinct<'o, 'a>(observations: &[&'o Observation<'a>]) -> Vec<&'o Observation<'a>> {
    let mut seen = BTreeSet::new();
    observations.iter().copied().filter(|o| seen.insert(o.identity())).collect()
}

/// Groups observations by some columns, each result once in a group. Groups are sorted by numbers in ascending order,
/// text by first appearance; `None` in a key is a missing value.
pub fn grouped<'o, 'a>(
    observations: &[&'o Observation<'a>],
    columns: &[Column],
) -> Vec<(Vec<Option<Cell>>, Vec<&'o Observation<'a>>)> {
    let mut groups: Vec<(Vec<Option<Cell>>, Vec<&Observation>)> = vec![];
    for &observation in observations {
        let key: Vec<Option<Cell>> = columns.iter().map(|c| c.read(observation)).collect();
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, group)) => group.push(observation),
            None => groups.push((key, vec![observation])),
        }
    }
    let appeared = |column: usize, cell: &Option<Cell>| groups.iter().position(|(k, _)| k[column] == *cell);
    let rank = |column: usize, cell: &Option<Cell>| match cell {
        Some(Cell::Number(number)) => *number,
        other => appeared(column, other).unwrap_or(0) as f64,
    };
    let mut ranked: Vec<(Vec<f64>, usize)> = groups
        .iter()
        .enumerate()
        .map(|(i, (key, _))| (key.iter().enumerate().map(|(c, cell)| rank(c, cell)).collect(), i))
        .collect();
    ranked.sort_by(|(a, _), (b, _)| {
        let places = a.iter().zip(b).map(|(a, b)| a.total_cmp(b));
        places.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    let group = |(_, i): (Vec<f64>, usize)| {
        let (key, group) = std::mem::take(&mut groups[i]);
        (key, distinct(&group))
    };
    ranked.into_iter().map(group).collect()
}

/// The numbers of a column by seed: the mean of each seed's observations.
pub fn per_seed(observations: &[&Observation], column: &Column) -> BTreeMap<u64, f64> {
    let mut seeds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for observation in observations {
        if let Some(number) = column.number(observation).filter(|n| n.is_finite()) {
            seeds.entry(observation.trial.seed).or_default().push(number);
        }
    }
    seeds.into_iter().map(|(seed, values)| (seed, mean(&values))).collect()
}

/// Mean and spread of a column over seeds; `None` without any value. The p of guessing is not a mean, but that of the
/// joint test.
pub fn over_seeds(observations: &[&Observation], column: &Column) -> Option<Spread> {
    let values: Vec<f64> = per_seed(observations, column).into_values().collect();
    if !column.is_p_of_guessing() {
        return spread(&values);
    }
    let p = p_of_guessing(observations)?.p;
    Some(Spread { n: values.len(), mean: p, sd: None, t95: None })
}

/// Counts of the answers of several exams together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pooled {
    /// Number of correct answers; a question counts each time it was asked.
    pub correct: u64,
    /// Number of answers.
    pub asked: u64,
    /// Number of distinct questions.
    pub questions: u64,
    /// Expected share of correct answers by guessing; `None` if it is not the same in all exams.
    pub guessing: Option<f64>,
}

impl Pooled {
    /// Pools the answers of some observations; `None` if there are none.
    pub fn of(observations: &[&Observation]) -> Option<Self> {
        let mut pooled = Self { correct: 0, asked: 0, questions: 0, guessing: None };
        let mut seen = BTreeMap::new();
        for score in observations.iter().filter_map(|o| o.score.as_ref()) {
            let tally = score.tally;
            let is_like = pooled.asked == 0 || pooled.guessing == Some(tally.guessing);
            pooled.guessing = Some(tally.guessing).filter(|_| is_like);
            pooled.correct += tally.correct;
            pooled.asked += tally.questions;
            let most: &mut u64 = seen.entry((score.exam, score.subject.as_deref())).or_default();
            *most = tally.questions.max(*most);
        }
        pooled.questions = seen.values().sum();
        (pooled.asked > 0).then_some(pooled)
    }

    /// Share of correct answers.
    pub fn share(&self) -> f64 {
        self.correct as f64 / self.asked as f64
    }

    /// Wilson's 95 % interval of the share over the distinct questions: seeds answer the same ones, so more seeds do not
    /// add questions.
    pub fn wilson(&self) -> (f64, f64) {
        wilson_of_share(self.share(), self.questions, 0.95)
    }
}

/// Joint test of guessing over all answers of some observations: every exam's key is shuffled within its subjects,
/// identically for all models that took it. `None` if no answers are recorded.
pub fn p_of_guessing(observations: &[&Observation]) -> Option<Randomised> {
    let letter = |c: char| Some(place_of(c)).filter(|place| *place < OPTIONS);
    // Correct letters are exchanged only between questions with the same number of options.
    let mut strata: BTreeMap<(u64, &str, usize), usize> = BTreeMap::new();
    let mut questions: BTreeMap<(u64, usize), Answered> = BTreeMap::new();
    for score in observations.iter().filter_map(|o| o.score.as_ref()) {
        for (place, record) in &score.answers {
            let next = strata.len();
            let options = record.probabilities.len();
            let stratum = *strata.entry((score.exam, &record.subject, options)).or_insert(next);
            let Some(right) = letter(record.answer) else { continue };
            let new = Answered { stratum, right, chosen: [0; OPTIONS] };
            let question = questions.entry((score.exam, *place)).or_insert(new);
            if let Some(chosen) = letter(record.prediction) {
                question.chosen[chosen] += 1;
            }
        }
    }
    guessing(&questions.into_values().collect::<Vec<_>>(), PERMUTATIONS, 1)
}

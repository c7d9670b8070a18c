//! The columns of trials.csv that every experiment has: what each is called, how its numbers are written, where it is read.

use super::observation::{Cell, Observation};
use crate::records::{Analysis, group_of};

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher, as of an accuracy.
    Higher,
    /// The lower, as of a loss or a cost.
    Lower,
}

/// A column of trials.csv, or of questions.csv where it is a subject.
#[derive(Debug)]
pub struct Quantity {
    /// The name, as in trials.csv.
    pub name: &'static str,
    /// What it is, for the table of columns in the documentation.
    pub about: &'static str,
    /// What axes and tables call it, with its unit.
    pub label: &'static str,
    /// Which values are better, where that can be said.
    pub better: Option<Better>,
    /// How its numbers are written.
    pub format: Format,
    /// Whether it is known before anything runs, of an exam that is to be sat as well.
    pub known: bool,
    /// Its value in an observation.
    pub read: fn(&Observation) -> Option<Cell>,
}

/// How the numbers of a quantity are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// With this many digits after the point.
    Fixed(usize),
    /// A p-value, which is never written as zero.
    PValue,
    /// A share, shown times 100 with one digit after the point.
    Percent,
    /// A count, its thousands apart.
    Count,
    /// As short as it can be: a setting, or a number of unknown size.
    Plain,
    /// No number but text.
    Text,
}

pub static QUANTITIES: [Quantity; 36] = {
    use Better::{Higher, Lower};
    use Format::{Count, Fixed, PValue, Percent, Plain, Text};
    const fn quantity(
        name: &'static str,
        about: &'static str,
        label: &'static str,
        better: Option<Better>,
        format: Format,
        known: bool,
        read: fn(&Observation) -> Option<Cell>,
    ) -> Quantity {
        Quantity { name, about, label, better, format, known, read }
    }
    [
        quantity("trial", "UUID of the trial: of its whole configuration", "trial", None, Text, true, |o| {
            Some(Cell::Text(o.trial.trial.to_string()))
        }),
        quantity(
            "sweep",
            "name of its sweep, `a; b` where it belongs to several",
            "sweep",
            None,
            Text,
            true,
            |o| Some(Cell::Text(o.sweep.into())),
        ),
        quantity("params", "weights of the model, each once", "parameters", Some(Lower), Count, true, |o| {
            count(o.trial.params)
        }),
        quantity(
            "active_params",
            "weights that one token passes through",
            "active parameters",
            Some(Lower),
            Count,
            true,
            |o| count(o.trial.active_params),
        ),
        quantity(
            "train_tokens",
            "target tokens trained on, over all stages",
            "training tokens",
            Some(Lower),
            Count,
            false,
            |o| count(o.trial.train_tokens),
        ),
        quantity(
            "train_flops",
            "floating-point operations of training, over all stages",
            "training FLOPs",
            Some(Lower),
            Plain,
            false,
            |o| Some(Cell::Number(o.trial.train_flops)),
        ),
        quantity(
            "val_loss",
            "held-out loss after pretraining",
            "validation loss (nats per token)",
            Some(Lower),
            Fixed(3),
            false,
            |o| o.trial.val_loss.map(Cell::Number),
        ),
        quantity(
            "val_bpb",
            "the same in bits per byte of text, comparable between tokenizers",
            "validation bits per byte",
            Some(Lower),
            Fixed(3),
            false,
            |o| o.trial.val_bpb.map(Cell::Number),
        ),
        quantity(
            "capacity_bits",
            "knowledge stored, of the probe of knowledge capacity",
            "learned knowledge (bits)",
            Some(Higher),
            Count,
            false,
            |o| o.trial.capacity_bits.map(Cell::Number),
        ),
        quantity(
            "capacity_ratio",
            "the same over `params`",
            "learned knowledge (bits per parameter)",
            Some(Higher),
            Fixed(3),
            false,
            |o| o.trial.capacity_ratio().map(Cell::Number),
        ),
        quantity("stage", "stage whose model sat the exam", "exam after", None, Text, true, |o| {
            o.score.as_ref().map(|s| Cell::Text(s.stage.clone()))
        }),
        quantity(
            "at",
            "share of that stage's steps after which it did",
            "share of the stage's steps",
            None,
            Plain,
            true,
            |o| o.score.as_ref().map(|s| Cell::Number(s.taken.at)),
        ),
        quantity(
            "averaged",
            "number of weights whose mean it was; 1 is none",
            "weights averaged",
            None,
            Count,
            true,
            |o| o.score.as_ref().and_then(|s| count(s.taken.averaged as u64)),
        ),
        quantity(
            "exam_tokens",
            "target tokens trained on before the exam",
            "training tokens before the exam",
            None,
            Count,
            false,
            |o| o.score.as_ref().and_then(|s| count(s.tokens)),
        ),
        quantity("subject", "subject of the exam (`questions.csv`)", "subject", None, Text, false, |o| {
            o.score.as_ref().and_then(|s| s.subject.clone()).map(Cell::Text)
        }),
        quantity("group", "C-Eval's group of the subject", "group of subjects", None, Text, false, |o| {
            let group = o.score.as_ref().and_then(|s| group_of(s.subject.as_deref()?));
            group.map(|group| Cell::Text(group.into()))
        }),
        quantity(
            "expert",
            "expert of a mixture, as `layer.number` from 0 (`experts.csv`)",
            "expert (layer.number)",
            None,
            Text,
            false,
            |o| {
                let (layer, expert) = o.score.as_ref()?.expert?;
                Some(Cell::Text(format!("{layer}.{expert}")))
            },
        ),
        quantity(
            "exam_expert_load",
            "tokens of the exam's prompts that the expert gets, over those of an even spread (`experts.csv`)",
            "load of the expert (even shares)",
            None,
            Fixed(2),
            false,
            |o| o.score.as_ref()?.expert_load().map(Cell::Number),
        ),
        quantity(
            "exam_router_entropy",
            "entropy of the router's scores there, mean over tokens and layers (`experts.csv`)",
            "entropy of the router (nats)",
            None,
            Fixed(3),
            false,
            |o| o.score.as_ref()?.routing().map(|routing| Cell::Number(routing.entropy)),
        ),
        quantity(
            "exam_specialization",
            "how far the routes of a subject's prompts are from those of the whole exam: total variation, 0 to 1, mean over layers (of `experts.csv`)",
            "routes' distance from the exam's",
            None,
            Fixed(3),
            false,
            |o| o.score.as_ref()?.specialization().map(Cell::Number),
        ),
        quantity(
            "exam_correct",
            "questions answered correctly",
            "correct answers",
            Some(Higher),
            Count,
            false,
            |o| o.score.as_ref().and_then(|s| count(s.tally.correct)),
        ),
        quantity("exam_questions", "questions asked", "questions", None, Count, false, |o| {
            o.score.as_ref().and_then(|s| count(s.tally.questions))
        }),
        quantity(
            "exam_accuracy",
            "share answered correctly",
            "exam accuracy (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref().and_then(|s| s.accuracy()).map(Cell::Number),
        ),
        quantity(
            "exam_low",
            "lower end of Wilson's 95 % interval of the share",
            "exam accuracy, Wilson's lower bound (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref().map(|s| Cell::Number(s.tally.interval().0)),
        ),
        quantity(
            "exam_high",
            "its upper end",
            "exam accuracy, Wilson's upper bound (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref().map(|s| Cell::Number(s.tally.interval().1)),
        ),
        quantity(
            "exam_p_guess",
            "exact two-sided p of guessing",
            "p of guessing",
            None,
            PValue,
            false,
            |o| o.score.as_ref().map(|s| Cell::Number(s.tally.p_guess())),
        ),
        quantity(
            "exam_macro_accuracy",
            "mean over subjects of the share in each",
            "exam accuracy, mean over subjects (%)",
            Some(Higher),
            Percent,
            false,
            |o| analysis(o, |a| Some(a.macro_accuracy)),
        ),
        quantity(
            "exam_log_prob",
            "mean log-probability of the right option",
            "log-probability of the right option (nats)",
            Some(Higher),
            Fixed(3),
            false,
            |o| analysis(o, |a| Some(a.log_prob)),
        ),
        quantity(
            "exam_accuracy_without_prior",
            "share answered correctly once the liking for letters is taken away",
            "exam accuracy without the prior of letters (%)",
            Some(Higher),
            Percent,
            false,
            |o| analysis(o, |a| Some(a.accuracy_without_prior)),
        ),
        quantity(
            "exam_ece",
            "expected calibration error",
            "expected calibration error",
            Some(Lower),
            Fixed(3),
            false,
            |o| analysis(o, |a| Some(a.calibration.as_ref()?.ece)),
        ),
        quantity(
            "exam_contaminated",
            "questions that stand in training text, where they were looked for",
            "questions in training text",
            None,
            Count,
            false,
            |o| count(o.score.as_ref()?.contaminated?.questions),
        ),
        quantity(
            "exam_correct_clean",
            "of the other questions, those answered correctly",
            "correct answers, of clean questions",
            Some(Higher),
            Count,
            false,
            |o| count(o.score.as_ref()?.clean()?.1),
        ),
        quantity(
            "exam_questions_clean",
            "number of the other questions",
            "clean questions",
            None,
            Count,
            false,
            |o| count(o.score.as_ref()?.clean()?.0),
        ),
        quantity(
            "exam_accuracy_clean",
            "share of the other questions answered correctly",
            "exam accuracy, clean questions (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref()?.clean_accuracy().map(Cell::Number),
        ),
        quantity(
            "wall_seconds",
            "time of all stage runs of the trial",
            "wall time (s)",
            Some(Lower),
            Fixed(1),
            false,
            |o| Some(Cell::Number(o.trial.wall_seconds)),
        ),
        quantity(
            "peak_rss_mb",
            "largest memory of any of them",
            "peak memory (MiB)",
            Some(Lower),
            Fixed(0),
            false,
            |o| Some(Cell::Number(o.trial.peak_rss_mb)),
        ),
    ]
};

/// A number of the answers behind a score.
fn analysis(observation: &Observation, read: impl Fn(&Analysis) -> Option<f64>) -> Option<Cell> {
    read(observation.score.as_ref()?.analysis()?).map(Cell::Number)
}

fn count(count: u64) -> Option<Cell> {
    Some(Cell::Number(count as f64))
}

/// `val.bpb` of `val_bpb`; `exam.stage` of `stage`.
pub fn dotted(name: &str) -> String {
    match name {
        "stage" | "subject" | "group" | "expert" => format!("exam.{name}"),
        name => match name.split_once('_') {
            Some((group @ ("val" | "exam" | "train"), rest)) => format!("{group}.{rest}"),
            _ => name.into(),
        },
    }
}

//! The columns that every experiment has: name, label, display format and source of each.

use crate::records::{Analysis, group_of};
use crate::report::results::observation::{Cell, Observation};

/// Whether higher or lower values are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Higher values, as for an accuracy.
    Higher,
    /// Lower values, as for a loss or a cost.
    Lower,
}

/// A column of trials.csv; a subject is in questions.csv instead, what concerns experts in experts.csv.
#[derive(Debug)]
pub struct Quantity {
    /// The name, as in trials.csv.
    pub name: &'static str,
    /// Description for the table of columns in the documentation.
    pub about: &'static str,
    /// Label in axes and tables, with its unit in parentheses.
    pub label: &'static str,
    /// Whether higher or lower values are better; `None` if neither is.
    pub better: Option<Better>,
    /// Display format of its values.
    pub format: Format,
    /// Whether its value is known before anything runs, including for planned exams.
    pub known: bool,
    /// Reads its value from an observation.
    pub read: fn(&Observation) -> Option<Cell>,
}

/// Display format of the values of a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A number with this many decimals.
    Fixed(usize),
    /// A p-value, which is never written as zero.
    PValue,
    /// A share, displayed as percent with one decimal.
    Percent,
    /// A count, with thousands separators.
    Count,
    /// A number with as few digits as it needs: the value of a key, or a number of unknown magnitude.
    Plain,
    /// Text, not a number.
    Text,
}

/// The columns, in the order of the documentation.
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
        quantity(
            "trial",
            "UUID of the trial, derived from its whole configuration",
            "trial",
            None,
            Text,
            true,
            |o| Some(Cell::Text(o.trial.trial.to_string())),
        ),
        quantity(
            "sweep",
            "name of the trial's sweep; `a; b` if it belongs to several",
            "sweep",
            None,
            Text,
            true,
            |o| Some(Cell::Text(o.sweep.into())),
        ),
        quantity(
            "params",
            "weights of the model; shared ones count once",
            "parameters",
            Some(Lower),
            Count,
            true,
            |o| count(o.trial.params),
        ),
        quantity(
            "active_params",
            "weights used for one token",
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
            "`val_loss` in bits per byte of text, comparable between tokenizers",
            "validation bits per byte",
            Some(Lower),
            Fixed(3),
            false,
            |o| o.trial.val_bpb.map(Cell::Number),
        ),
        quantity(
            "capacity_bits",
            "knowledge stored in the model, measured by the knowledge-capacity probe",
            "stored knowledge (bits)",
            Some(Higher),
            Count,
            false,
            |o| o.trial.capacity_bits.map(Cell::Number),
        ),
        quantity(
            "capacity_ratio",
            "`capacity_bits` divided by `params`",
            "stored knowledge (bits per parameter)",
            Some(Higher),
            Fixed(3),
            false,
            |o| o.trial.capacity_ratio().map(Cell::Number),
        ),
        quantity("stage", "stage whose model took the exam", "exam after", None, Text, true, |o| {
            o.score.as_ref().map(|s| Cell::Text(s.stage.clone()))
        }),
        quantity(
            "at",
            "share of that stage's steps after which the exam was taken",
            "share of the stage's steps",
            None,
            Plain,
            true,
            |o| o.score.as_ref().map(|s| Cell::Number(s.taken.at)),
        ),
        quantity(
            "averaged",
            "number of checkpoints whose weights were averaged for the exam; 1 without averaging",
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
            "tokens of the exam's prompts routed to the expert, relative to an even distribution (`experts.csv`)",
            "expert load (relative to an even share)",
            None,
            Fixed(2),
            false,
            |o| o.score.as_ref()?.expert_load().map(Cell::Number),
        ),
        quantity(
            "exam_router_entropy",
            "entropy of the router's probabilities for these prompts, mean over tokens and layers (`experts.csv`)",
            "router entropy (nats)",
            None,
            Fixed(3),
            false,
            |o| o.score.as_ref()?.routing().map(|routing| Cell::Number(routing.entropy)),
        ),
        quantity(
            "exam_specialization",
            "total variation distance, 0 to 1, between the routes of a subject's prompts and those of the whole exam, mean over layers (`experts.csv`)",
            "distance of routes from those of the exam",
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
            "lower end of Wilson's 95 % interval of `exam_accuracy`",
            "exam accuracy, Wilson's lower bound (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref().map(|s| Cell::Number(s.tally.interval().0)),
        ),
        quantity(
            "exam_high",
            "upper end of that interval",
            "exam accuracy, Wilson's upper bound (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref().map(|s| Cell::Number(s.tally.interval().1)),
        ),
        quantity(
            "exam_p_guess",
            "two-sided p of an exact test against guessing",
            "p of guessing",
            None,
            PValue,
            false,
            |o| o.score.as_ref().map(|s| Cell::Number(s.tally.p_guess())),
        ),
        quantity(
            "exam_macro_accuracy",
            "mean over subjects of the accuracy in each",
            "exam accuracy, mean over subjects (%)",
            Some(Higher),
            Percent,
            false,
            |o| analysis(o, |a| Some(a.macro_accuracy)),
        ),
        quantity(
            "exam_log_prob",
            "mean log-probability of the correct option",
            "log-probability of the correct option (nats)",
            Some(Higher),
            Fixed(3),
            false,
            |o| analysis(o, |a| Some(a.log_prob)),
        ),
        quantity(
            "exam_accuracy_without_prior",
            "share answered correctly after removing the model's preference for letters",
            "exam accuracy without letter prior (%)",
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
            "questions that appear in training text, if it was searched for them",
            "questions in training text",
            None,
            Count,
            false,
            |o| count(o.score.as_ref()?.contaminated?.questions),
        ),
        quantity(
            "exam_correct_clean",
            "questions answered correctly, of those that do not appear in training text",
            "correct answers, of clean questions",
            Some(Higher),
            Count,
            false,
            |o| count(o.score.as_ref()?.clean()?.1),
        ),
        quantity(
            "exam_questions_clean",
            "questions that do not appear in training text",
            "clean questions",
            None,
            Count,
            false,
            |o| count(o.score.as_ref()?.clean()?.0),
        ),
        quantity(
            "exam_accuracy_clean",
            "share answered correctly of the questions that do not appear in training text",
            "exam accuracy, clean questions (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref()?.clean_accuracy().map(Cell::Number),
        ),
        quantity(
            "wall_seconds",
            "wall time of all stage runs of the trial",
            "wall time (s)",
            Some(Lower),
            Fixed(1),
            false,
            |o| Some(Cell::Number(o.trial.wall_seconds)),
        ),
        quantity(
            "peak_rss_mb",
            "peak memory of any of these stage runs",
            "peak memory (MiB)",
            Some(Lower),
            Fixed(0),
            false,
            |o| Some(Cell::Number(o.trial.peak_rss_mb)),
        ),
    ]
};

/// Reads a number from the analysis of a score's answers.
fn analysis(observation: &Observation, read: impl Fn(&Analysis) -> Option<f64>) -> Option<Cell> {
    read(observation.score.as_ref()?.analysis()?).map(Cell::Number)
}

fn count(count: u64) -> Option<Cell> {
    Some(Cell::Number(count as f64))
}

/// The dotted spelling of a column: `val.bpb` for `val_bpb`, `exam.stage` for `stage`.
pub fn dotted(name: &str) -> String {
    match name {
        "stage" | "subject" | "group" | "expert" => format!("exam.{name}"),
        name => match name.split_once('_') {
            Some((group @ ("val" | "exam" | "train"), rest)) => format!("{group}.{rest}"),
            _ => name.into(),
        },
    }
}

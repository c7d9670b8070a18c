//! From recorded runs to tables, figures and a page. *Invariant:* this folder never touches a tensor.

mod experiment;
mod tables;

pub use experiment::Experiment;
pub use tables::write;

use crate::records::QuestionRecord;
use uuid::Uuid;

/// One exam question as the model of one trial answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialQuestion {
    /// The trial.
    pub trial: Uuid,
    /// The stage whose model sat the exam.
    pub stage: String,
    /// The answer.
    pub record: QuestionRecord,
}

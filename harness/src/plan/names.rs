//! Names of a trial's stage runs, derived from its configuration and files alone.

use super::facts::{Files, Reading, files_of};
use crate::config::{ExamPoint, Stage, TrainStage, TrialConfig, recipe};
use crate::data::files::Inputs;
use anyhow::Result;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// A stage run of one trial, before it is merged with equal ones of other trials.
pub struct Named {
    /// Its stage.
    pub stage: Stage,
    /// Its name.
    pub uuid: Uuid,
    /// The name that it would have without the seed.
    pub setting: Uuid,
    /// The files that it reads.
    pub files: Files,
    /// Index in the recipe of the stage run whose model it starts from or examines.
    pub model: Option<usize>,
    /// Which weights of the model an exam examines.
    pub at: ExamPoint,
}

/// The stage runs of a trial in the order of its recipe: tokenizer, data, then trainings and exams. Those of a tuning
/// candidate end with the stage `until` and include no exam.
///
/// # Errors
/// If a file that a name depends on cannot be read.
pub fn stage_runs(
    config: &TrialConfig,
    until: Option<TrainStage>,
    inputs: &Mutex<Inputs>,
) -> Result<Vec<Named>> {
    let reading = Reading::new(config);
    let mut runs: Vec<Named> = Vec::new();
    let mut add = |stage: Stage, model: Option<usize>, at: ExamPoint| -> Result<usize> {
        let files = files_of(stage, config, &mut inputs.lock().unwrap_or_else(PoisonError::into_inner))?;
        let tokenizer = (stage != Stage::Tokenizer).then_some(0);
        let named = |index: Option<usize>, name: fn(&Named) -> Uuid| Some(name(&runs[index?]));
        let of_run = |index| named(index, |run| run.uuid);
        let of_setting = |index| named(index, |run| run.setting);
        let facts = reading.facts(stage, &at, of_run(tokenizer), of_run(model), &files);
        let [uuid, setting] = facts.names(of_setting(tokenizer), of_setting(model));
        runs.push(Named { stage, uuid, setting, files, model, at });
        Ok(runs.len() - 1)
    };
    add(Stage::Tokenizer, None, ExamPoint::default())?;
    add(Stage::Data, None, ExamPoint::default())?;
    let (exams, examined) = (config.exams(), config.examined());
    let mut model = None;
    for stage in recipe(config) {
        model = Some(add(stage.into(), model, ExamPoint::default())?);
        if until == Some(stage) {
            break;
        }
        for at in examined.iter().filter(|_| until.is_none() && exams.contains(&stage)) {
            add(Stage::Exam, model, at.clone())?;
        }
    }
    Ok(runs)
}

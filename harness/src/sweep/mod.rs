//! Sweeps: from one small file to the trials that it describes.
//!
//! A TOML file and [`Overrides`] flow in; [`Trial`]s flow out, complete, solved and validated.
//! *Invariant:* every error of a file and of all its trials is known before anything starts, and the same file gives
//! the same trials in the same order on every machine.

mod axis;
mod detect;
mod draw;
mod expand;
mod grammar;
mod length;
mod plan;
mod schema;
mod solve;
mod tune;

#[cfg(test)]
mod tests;

pub use crate::config::Overrides;
pub use detect::Detectable;
pub use plan::{Extent, PlanRow, at_most, card_memory_mb, memory_mb, plan, render_table};
pub use schema::sweep_schema;
pub use tune::{Part, Tuning};

use crate::config::{ConfigError, ConfigErrors};
use crate::config::{Settings, TrainStage, Training, TrialConfig, config_of, set};
use anyhow::{Context, Result, anyhow};
use axis::{Axis, Exclude};
use draw::Sample;
use solve::Solve;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tune::Tune;

/// A sweep file, read and checked, its trials not made yet.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Its name, as in `trials.csv`.
    pub name: String,
    /// How messages call the file.
    file: String,
    /// What all trials have in common.
    base: Settings,
    /// What varies: `[axes]` in their order, then each `[[zip]]`.
    axes: Vec<Axis>,
    /// What follows from a constraint.
    solve: Vec<Solve>,
    /// Combinations left out.
    exclude: Vec<Exclude>,
    /// Draws instead of every combination.
    sample: Option<Sample>,
    /// The key whose value is chosen beforehand.
    tune: Option<Tune>,
}

/// A configuration of a sweep as far as it says which files are read; it need not be valid.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The configuration.
    pub config: TrialConfig,
    /// Where each key that is not at its default was set.
    pub places: BTreeMap<String, String>,
}

/// One trial of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Name of the sweep.
    pub sweep: String,
    /// Everything that is set.
    pub config: Arc<TrialConfig>,
    /// Swept and solved keys with their values, in the sweep's order.
    pub keys: Vec<(String, serde_json::Value)>,
    /// What it has to do with `[tune]`.
    pub part: Option<Part>,
}

impl Trial {
    /// A tuned trial with the value at this place of those that it may take, or as it is before one is chosen; others as
    /// they are.
    ///
    /// # Errors
    /// Where the value does not fit its key, which it did when the sweep was read.
    pub fn with_choice(&self, place: Option<usize>) -> Result<Self> {
        let mut trial = self.clone();
        if let Some(Part::Tuned { tuning, chosen }) = &mut trial.part {
            *chosen = place;
            for (_, value) in trial.keys.iter_mut().filter(|(key, _)| *key == tuning.key) {
                *value = place.map_or(serde_json::Value::Null, |place| tuning.values[place].clone());
            }
            let mut tree = serde_json::to_value(&*self.config)?;
            set(&mut tree, &tuning.key, tuning.values[place.unwrap_or(0)].clone());
            trial.config = config_of(tree)?.into();
        }
        Ok(trial)
    }

    /// Whether it only tries a value for others: no trial of the study.
    pub fn is_candidate(&self) -> bool {
        matches!(self.part, Some(Part::Candidate { .. }))
    }

    /// The stage after which a candidate has told what it is for; nothing that comes later is run of it.
    pub fn until(&self) -> Option<TrainStage> {
        match &self.part {
            Some(Part::Candidate { tuning, .. }) => Some(tuning.stage),
            _ => None,
        }
    }

    /// The training stages that it takes, in the order of the recipe.
    pub fn stages(&self) -> impl Iterator<Item = (TrainStage, &Training)> {
        let until = self.until();
        let stages = self.config.stages().filter(|(_, training)| training.enabled);
        stages.filter(move |(stage, _)| until.is_none_or(|until| *stage <= until))
    }

    /// Among keys of this trial, the value of a stage's tokens where they follow from its operations: solved, and known
    /// once the data is prepared.
    pub fn tokens_that_follow<'a>(
        &self,
        stage: TrainStage,
        keys: &'a mut [(String, serde_json::Value)],
    ) -> Option<&'a mut serde_json::Value> {
        let training = stage.training(&self.config);
        let key = format!("{}.tokens", stage.name());
        let found = keys.iter_mut().find(|(name, value)| *name == key && value.is_null())?;
        (training.flops.is_some() && training.steps.is_none()).then_some(&mut found.1)
    }
}

impl Sweep {
    /// Reads a sweep file; all its errors are reported together, as [`crate::config::ConfigErrors`].
    ///
    /// # Errors
    /// Where the file cannot be read, and all that is wrong in it.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self> {
        Self::read_str(&path.display().to_string(), &text_of(path)?, overrides)
    }

    /// The sweep as far as its file can be read, with all that is wrong in it among `errors`.
    pub fn read_as_far(path: &Path, overrides: &Overrides, errors: &mut ConfigErrors) -> Option<Self> {
        match text_of(path) {
            Ok(text) => grammar::read(&path.display().to_string(), &text, overrides, errors),
            Err(error) => {
                errors.push(ConfigError::new("", "", format!("{error:#}")));
                None
            }
        }
    }

    /// The name in a sweep file, whatever its trials are; empty where it is among `errors`.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn name_of(path: &Path, errors: &mut ConfigErrors) -> Result<String> {
        Ok(grammar::name(&path.display().to_string(), &text_of(path)?, errors).unwrap_or_default())
    }

    /// Reads the text of a sweep file; `name` is how messages call it.
    ///
    /// # Errors
    /// All that is wrong in it, each with its line.
    pub fn read_str(name: &str, text: &str, overrides: &Overrides) -> Result<Self> {
        let mut errors = ConfigErrors::default();
        let sweep = grammar::read(name, text, overrides, &mut errors);
        errors.or(sweep)?.with_context(|| format!("{name}: cannot be read"))
    }

    /// The configurations of the trials that differ in the files that they read, valid or not.
    pub fn readings(&self) -> Vec<Reading> {
        expand::readings(self)
    }

    /// Every trial, solved and validated; all errors of all trials are reported together.
    ///
    /// # Errors
    /// All that is wrong with any trial.
    pub fn expand(&self) -> Result<Vec<Trial>> {
        Ok(expand::trials(self)?)
    }
}

/// The text of a sweep file.
fn text_of(path: &Path) -> Result<String> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("{name}: cannot be read"))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        anyhow!("{name}:{line}: not UTF-8, expected a TOML file saved as UTF-8")
    })
}

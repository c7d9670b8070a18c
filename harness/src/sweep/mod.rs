//! Sweeps: from a small file to the trials that it describes.
//!
//! Input are a TOML file and [`Overrides`]; output are [`Trial`]s, complete, solved and validated.
//! *Invariant:* all errors of a file and of its trials are known before anything starts, and the same file gives the
//! same trials in the same order on every machine.

mod axis;
mod cost;
mod detect;
mod draw;
mod expand;
mod grammar;
mod length;
mod schema;
mod solve;
mod tune;

#[cfg(test)]
mod tests;

pub use crate::config::Overrides;
pub use cost::{CostRow, Extent, at_most, costs, gpu_memory_mb, memory_mb, render_table};
pub use detect::Detectable;
pub use schema::sweep_schema;
pub use tune::{Part, Tuning};

use crate::config::{ConfigError, ConfigErrors};
use crate::config::{Settings, TrainStage, Training, TrialConfig};
use anyhow::{Context, Result, anyhow};
use axis::{Axis, Exclude};
use draw::Sample;
use solve::Solve;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tune::Tune;

/// A sweep file that is read and checked, but not yet expanded into trials.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Its name, as in `trials.csv`.
    pub name: String,
    /// The name of the file in messages.
    file: String,
    /// The configuration that all trials share.
    base: Settings,
    /// The axes: `[axes]` in the order of the file, then each `[[zip]]`.
    axes: Vec<Axis>,
    /// The solved keys, each with its constraint.
    solve: Vec<Solve>,
    /// Combinations that are left out.
    exclude: Vec<Exclude>,
    /// Draws that replace the full grid of combinations, if any.
    sample: Option<Sample>,
    /// The tuned key, if any: its value is chosen before the study.
    tune: Option<Tune>,
}

/// A configuration of a sweep, to determine which files are read; it need not be valid.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The configuration.
    pub config: TrialConfig,
    /// Where each key that is not at its default was set, such as `a.toml:3`.
    pub places: BTreeMap<String, String>,
}

/// One trial of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Name of the sweep.
    pub sweep: String,
    /// The resolved configuration.
    pub config: Arc<TrialConfig>,
    /// Swept and solved keys with their values, in the sweep's order.
    pub keys: Vec<(String, serde_json::Value)>,
    /// Its part in a tuning, if any.
    pub part: Option<Part>,
}

impl Trial {
    /// A tuned trial with the candidate value at index `place`, or for `None` as it is before a choice; other trials are
    /// returned unchanged.
    ///
    /// # Errors
    /// If the value does not fit its key, although it did when the sweep was read.
    pub fn with_choice(&self, place: Option<usize>) -> Result<Self> {
        let mut trial = self.clone();
        if let Some(Part::Tuned { tuning, chosen }) = &mut trial.part {
            *chosen = place;
            for (_, value) in trial.keys.iter_mut().filter(|(key, _)| *key == tuning.key) {
                *value = place.map_or(serde_json::Value::Null, |place| tuning.values[place].clone());
            }
            let mut config = TrialConfig::clone(&self.config);
            config.set(&tuning.key, tuning.values[place.unwrap_or(0)].clone())?;
            trial.config = config.into();
        }
        Ok(trial)
    }

    /// Whether it is a tuning candidate and thus not a trial of the study.
    pub fn is_candidate(&self) -> bool {
        matches!(self.part, Some(Part::Candidate { .. }))
    }

    /// The last stage of a candidate, after which its validation loss is known; `None` for other trials.
    pub fn until(&self) -> Option<TrainStage> {
        match &self.part {
            Some(Part::Candidate { tuning, .. }) => Some(tuning.stage),
            _ => None,
        }
    }

    /// Its training stages, in the order of the recipe.
    pub fn stages(&self) -> impl Iterator<Item = (TrainStage, &Training)> {
        let until = self.until();
        let stages = self.config.stages().filter(|(_, training)| training.enabled);
        stages.filter(move |(stage, _)| until.is_none_or(|until| *stage <= until))
    }

    /// The entry of `keys` for a stage's tokens if they follow from a number of operations: such a solved value is null
    /// until the data is prepared.
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
    /// Reads a sweep file; reports all of its errors together, as [`crate::config::ConfigErrors`].
    ///
    /// # Errors
    /// If the file cannot be read, or if there are errors in it.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self> {
        Self::read_str(&path.display().to_string(), &text_of(path)?, overrides)
    }

    /// Reads a sweep file as far as possible; adds all errors to `errors`.
    pub fn read_as_far(path: &Path, overrides: &Overrides, errors: &mut ConfigErrors) -> Option<Self> {
        match text_of(path) {
            Ok(text) => grammar::read(&path.display().to_string(), &text, overrides, errors),
            Err(error) => {
                errors.push(ConfigError::new("", "", format!("{error:#}")));
                None
            }
        }
    }

    /// The name in a sweep file, whatever else is in it; if it is missing or invalid, an error is added and the result is empty.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn name_of(path: &Path, errors: &mut ConfigErrors) -> Result<String> {
        Ok(grammar::name(&path.display().to_string(), &text_of(path)?, errors).unwrap_or_default())
    }

    /// Parses the text of a sweep file; `name` is the file's name in messages.
    ///
    /// # Errors
    /// Lists all errors in the text, each with its line.
    pub fn read_str(name: &str, text: &str, overrides: &Overrides) -> Result<Self> {
        let mut errors = ConfigErrors::default();
        let sweep = grammar::read(name, text, overrides, &mut errors);
        errors.or(sweep)?.with_context(|| format!("{name}: cannot be read"))
    }

    /// One configuration for each set of files that the trials read, valid or not.
    pub fn readings(&self) -> Vec<Reading> {
        expand::readings(self)
    }

    /// Expands the sweep into its trials, solved and validated; reports all errors of all trials together.
    ///
    /// # Errors
    /// Lists all errors of all trials.
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

//! The questions of an exam, and the solved questions shown before them.

use super::sheet::{Sheet, read_sheets};
use super::shots::{Shots, shots};
use crate::config::{CapacityConfig, ExamConfig, HopsConfig, RecallConfig, Source, TrialConfig, WorldConfig};
use crate::data::probes::probe;
use crate::data::world::World;
use anyhow::{Context, Result};
use std::path::Path;

/// Questions with their shots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// Sheets with the questions of each subject.
    pub sheets: Vec<Sheet>,
    /// Solved questions shown before each question, by subject.
    pub shots: Shots,
}

/// What the questions of an exam are made or read from: trials in which it is equal are asked the same.
pub type Asked<'a> =
    (&'a ExamConfig, Source, &'a WorldConfig, &'a HopsConfig, &'a RecallConfig, &'a CapacityConfig);

impl Questions {
    /// Returns what the questions of a trial's exam are made or read from.
    pub fn asked(config: &TrialConfig) -> Asked<'_> {
        let TrialConfig { exam, data, world, hops, recall, capacity, .. } = config;
        (exam, data.source, world, hops, recall, capacity)
    }

    /// Returns the questions of a trial's exam.
    ///
    /// # Errors
    /// If a sheet cannot be parsed or a subject has too few solved questions; `dev_sheets` are read whenever they are set.
    pub fn of(config: &TrialConfig) -> Result<Self> {
        let exam = &config.exam;
        if let Some(probe) = probe(config) {
            return Ok(Self { sheets: Sheet::of_probe(probe.as_ref()), shots: Shots::new() });
        }
        let world = || World::generate(&config.world);
        let sheets = match &exam.sheets {
            Some(dir) => read_sheets(Path::new(dir), "val").context("exam.sheets")?,
            None => world().sheets(),
        };
        let (dev, from) = match (&exam.dev_sheets, &exam.sheets) {
            (Some(dir), _) => (read_sheets(Path::new(dir), "dev").context("exam.dev_sheets")?, dir.as_str()),
            (None, None) => (world().dev_sheets(exam.shots), "the built-in world"),
            (None, Some(_)) => (vec![], "exam.dev_sheets is unset"),
        };
        let shots = shots(dev, exam.shots, &sheets, from).context("exam.shots")?;
        Ok(Self { sheets, shots })
    }

    /// Reads the questions of a folder of sheets, with `count` shots per subject from the folder `dev`.
    ///
    /// # Errors
    /// If a sheet cannot be parsed or a subject has too few solved questions.
    pub fn read(sheets: &Path, dev: Option<&Path>, count: usize) -> Result<Self> {
        let sheets = read_sheets(sheets, "val")?;
        let (dev, from) = match dev {
            Some(dir) => (read_sheets(dir, "dev")?, dir.display().to_string()),
            None => (vec![], "no --dev".into()),
        };
        let shots = shots(dev, count, &sheets, &from)?;
        Ok(Self { sheets, shots })
    }

    /// Returns the number of questions, without shots.
    pub fn count(&self) -> u64 {
        self.sheets.iter().map(|sheet| sheet.questions.len() as u64).sum()
    }
}

//! Checks before the run for errors that would otherwise appear only after hours of training.

use super::graph::{StageGraph, StageNode};
use crate::config::Stage;
use crate::data::Tokenizer;
use crate::exam::{Prompter, Questions};
use anyhow::{Context, Result};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

impl StageGraph {
    /// Reads the questions of every remaining exam; if the tokenizer is given as a file, tokenizes one question per sheet.
    ///
    /// # Errors
    /// If a sheet cannot be parsed, a subject has too few solved questions, or a tokenizer cannot represent a question or an answer.
    pub fn check(&self) -> Result<()> {
        let first = self.first_of_exams();
        for (index, node) in self.nodes.iter().enumerate() {
            if first[index] == Some(index) {
                let trial = &self.trials[node.trials[0]].trial.sweep;
                check(node).with_context(|| format!("sweep {trial}, trial {}", node.trials[0] + 1))?;
            }
        }
        Ok(())
    }

    /// For each remaining exam of the plan the first one that asks the same questions, with the same tokenizer given;
    /// `None` for other stage runs.
    pub(super) fn first_of_exams(&self) -> Vec<Option<usize>> {
        let read = |index: usize| {
            let config = &self.nodes[index].config;
            (Questions::asked(config), &config.tokenizer)
        };
        let is_exam = |index: &usize| {
            let node = &self.nodes[*index];
            node.stage == Stage::Exam && node.state.is_left()
        };
        let mut first = vec![None; self.nodes.len()];
        let exams: Vec<usize> = (0..self.nodes.len()).filter(is_exam).collect();
        let mut known = HashMap::new();
        // Most are like the one before.
        for alike in exams.chunk_by(|&a, &b| read(a) == read(b)) {
            let of_all = *known.entry(format!("{:?}", read(alike[0]))).or_insert(alike[0]);
            alike.iter().for_each(|&index| first[index] = Some(of_all));
        }
        first
    }
}

fn check(node: &StageNode) -> Result<()> {
    let config = &node.config;
    let Questions { mut sheets, shots } = Questions::of(config)?;
    let Some(path) = &config.tokenizer.path else {
        return Ok(());
    };
    for sheet in &mut sheets {
        // A question with the most options: its letters include those of all others.
        sheet.questions.sort_by_key(|question| Reverse(question.options.len()));
        sheet.questions.truncate(1);
    }
    let prompter = Prompter {
        format: config.exam.format,
        system: config.exam.system.clone(),
        max_len: config.model.max_seq_len,
        shots,
        answer: config.exam.answer,
        rotate: false,
    };
    prompter.prompts(&Tokenizer::load(Path::new(path))?, &sheets, &AtomicBool::new(false)).context("exam")?;
    Ok(())
}

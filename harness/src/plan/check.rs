//! Checks before the run for errors that would otherwise appear only after hours of training.

use super::graph::{StageGraph, StageNode};
use crate::config::Stage;
use crate::data::Tokenizer;
use crate::exam::{Prompter, Questions};
use anyhow::{Context, Result};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

impl StageGraph {
    /// Reads the questions of every remaining exam; if the tokenizer is given as a file, tokenizes one question per sheet.
    ///
    /// # Errors
    /// If a sheet cannot be parsed, a subject has too few solved questions, or a tokenizer cannot represent a question or an answer.
    pub fn check(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for node in self.nodes.iter().filter(|node| node.stage == Stage::Exam && node.state.is_left()) {
            let config = &node.config;
            let sources = (config.data.source, &config.world, &config.hops, &config.recall, &config.capacity);
            if seen.insert(serde_json::to_string(&(&config.exam, sources, &config.tokenizer))?) {
                let trial = &self.trials[node.trials[0]].trial.sweep;
                check(node).with_context(|| format!("sweep {trial}, trial {}", node.trials[0] + 1))?;
            }
        }
        Ok(())
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

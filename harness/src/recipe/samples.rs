//! Answers to a few fixed prompts, which let a reader see what a score is made of.

use crate::config::TrialConfig;
use crate::data::world::World;
use crate::models::{Model, questions};
use crate::records::Sample;
use anyhow::Result;
use model::{Backend, GenerateOptions, Sampling};

/// Maximum number of tokens of an answer.
const MAX_TOKENS: usize = 64;

/// A prompt and the right answer, if it is known.
type Prompt = (String, Option<String>);

/// Has a model answer `exam.samples` prompts; prompts that do not fit its context are left out.
pub fn write<B: Backend>(model: &Model<B>, config: &TrialConfig) -> Result<Vec<Sample>> {
    let (form, exam) = (model.form(None)?, &config.exam);
    let is_of_world = exam.sheets.is_none();
    // MiniMind's questions have no system message; those of the built-in world have that of the exam.
    let system = Some(exam.system.as_str()).filter(|text| is_of_world && !text.is_empty());
    let (mut prompts, mut ids) = (vec![], vec![]);
    for prompt in if is_of_world { of_world(config) } else { of_minimind(exam.samples)? } {
        let encoded = model.prompt(form, system, &prompt.0)?;
        if encoded.len() < model.transformer.context_len() {
            prompts.push(prompt);
            ids.push(encoded);
        }
    }
    let options = GenerateOptions {
        max_tokens: MAX_TOKENS,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..GenerateOptions::default()
    };
    let written = model.write(&ids, &options, &[], &|_| ())?;
    let sample = |((prompt, right), written): (Prompt, crate::models::Written)| Sample {
        prompt,
        right,
        text: written.text,
        is_cut: !written.is_stopped,
    };
    Ok(prompts.into_iter().zip(written).map(sample).collect())
}

/// Returns the exam's first questions without their options, in the form of the open questions in training.
fn of_world(config: &TrialConfig) -> Vec<Prompt> {
    let asked = World::generate(&config.world).first_questions(config.exam.samples);
    asked.into_iter().map(|asked| (asked.question.clone(), Some(asked.right().to_owned()))).collect()
}

fn of_minimind(count: usize) -> Result<Vec<Prompt>> {
    Ok(questions()?.into_iter().take(count).map(|question| (question, None)).collect())
}

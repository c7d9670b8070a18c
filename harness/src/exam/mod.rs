//! Exams: question sheets in C-Eval's layout, answered by the probability of a letter or of an option's text.
//!
//! Sheets, a tokenizer and a model flow in; one record per question flows out. *Invariant:* with MiniMind's weights
//! and tokenizer the letter probabilities are MiniMind's.

#[cfg(test)]
mod golden;
mod prompt;
mod score;
mod sheet;

pub use prompt::{Prompter, Shots};
pub use score::{Score, questions_csv, scores};
pub use sheet::{Sheet, SheetQuestion, read_sheets};

use crate::config::Answer;
use crate::data::Tokenizer;
use crate::records::QuestionRecord;
use anyhow::Result;
use model::{Sequence, Transformer};

/// Questions that are answered between two signs of progress.
const CHUNK: usize = 64;

/// Has a model answer every question; `progress` is told the number answered.
pub fn sit(
    transformer: &Transformer,
    tokenizer: &Tokenizer,
    sheets: &[Sheet],
    prompter: &Prompter,
    answer: Answer,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<QuestionRecord>> {
    let questions: Vec<(&Sheet, &SheetQuestion)> =
        sheets.iter().flat_map(|sheet| sheet.questions.iter().map(move |q| (sheet, q))).collect();
    let prompts: Vec<Vec<u32>> =
        questions.iter().map(|(sheet, q)| prompter.ids(tokenizer, sheet, q)).collect::<Result<_>>()?;
    // Alike lengths go together; each answer depends on its own prompt only.
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_key(|&i| prompts[i].len());
    let mut probabilities = vec![[0.0; 4]; questions.len()];
    let letters = tokenizer.letters()?;
    for (done, chunk) in order.chunks(CHUNK).enumerate() {
        let found = match answer {
            Answer::Letter => {
                let prompts: Vec<Vec<u32>> = chunk.iter().map(|&i| prompts[i].clone()).collect();
                transformer.next_token_probabilities(&prompts, &letters)?
            }
            Answer::Cloze => chunk
                .iter()
                .map(|&i| cloze(transformer, tokenizer, &prompts[i], questions[i].1))
                .collect::<Result<_>>()?,
        };
        for (&i, found) in chunk.iter().zip(found) {
            probabilities[i].copy_from_slice(&found);
        }
        progress(((done + 1) * CHUNK).min(questions.len()) as u64);
    }
    let records =
        questions.iter().zip(probabilities).map(|((sheet, question), probabilities)| QuestionRecord {
            subject: sheet.subject.clone(),
            id: question.id.clone(),
            probabilities,
            prediction: best(&probabilities),
            answer: question.answer,
        });
    Ok(records.collect())
}

/// The letter of the highest probability, the first of equals.
fn best(probabilities: &[f64; 4]) -> char {
    let mut best = 0;
    for i in 1..4 {
        if probabilities[i] > probabilities[best] {
            best = i;
        }
    }
    ['A', 'B', 'C', 'D'][best]
}

/// For each option the geometric mean, per byte, of the probability of its text as the answer.
fn cloze(
    transformer: &Transformer,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    question: &SheetQuestion,
) -> Result<Vec<f64>> {
    let rows = question.options.iter().map(|option| {
        let answer = tokenizer.encode(option)?;
        let all: Vec<u32> = prompt.iter().chain(&answer).copied().collect();
        let n = all.len() - 1;
        Ok(Sequence {
            ids: all[..n].to_vec(),
            targets: all[1..].to_vec(),
            weights: (0..n).map(|i| if i + 1 >= prompt.len() { 1.0 } else { 0.0 }).collect(),
            documents: vec![n as u32],
            counted: answer.len() as f32,
        })
    });
    let rows: Vec<Sequence> = rows.collect::<Result<_>>()?;
    let log_probs = transformer.token_log_probs(&rows)?;
    Ok(log_probs
        .iter()
        .zip(&question.options)
        .map(|(log_probs, option)| {
            let sum: f64 = log_probs.iter().map(|&l| f64::from(l)).sum();
            (sum / option.len().max(1) as f64).exp()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::best;

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(best(&[0.1, 0.3, 0.3, 0.2]), 'B');
        assert_eq!(best(&[0.0; 4]), 'A');
        assert_eq!(best(&[0.0, 0.0, 0.0, 1e-9]), 'D');
    }
}

//! Exams: question sheets in C-Eval's layout, answered by the probability of a letter or of an option's text.
//!
//! Input: sheets, a tokenizer and a model; output: one record per question. *Invariant:* with MiniMind's weights and
//! tokenizer the letter probabilities equal MiniMind's.

mod answer;
pub mod contamination;
#[cfg(test)]
mod golden;
mod length;
mod plain;
mod prompt;
mod questions;
mod score;
mod sheet;
mod shots;

pub use answer::{routing, run_exam};
pub use length::{LengthLoss, LengthPlan, loss_by_length};
pub use prompt::{LETTERS, Prompt, Prompter, letters, prompts_of_words};
pub use questions::Questions;
pub use score::{Score, contaminated, notices, questions_csv, scores};
pub use sheet::{Sheet, SheetQuestion, read_sheets, sheet_files, sheets_problem};
pub use shots::{Shots, shots};

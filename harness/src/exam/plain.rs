//! The plain prompts of lm-evaluation-harness's tasks `ceval-valid` (`lm_eval/tasks/ceval`).

use super::sheet::SheetQuestion;
use crate::config::Answer;
use crate::records::{chinese_name_of, letter};
use std::fmt::Write;

/// What an answer follows.
pub const ANSWER: &str = "答案：";

/// A question of a subject after solved ones, up to where its answer begins.
pub fn prompt(subject: &str, shots: &[SheetQuestion], question: &SheetQuestion, answer: Answer) -> String {
    let name = chinese_name_of(subject).unwrap_or(subject);
    let mut text = format!("以下是中国关于{name}的单项选择题，请选出其中的正确答案。\n\n");
    for solved in shots {
        let letter = solved.answer.to_string();
        let right = if answer == Answer::Letter { &letter } else { solved.right() };
        text += &answered(&asked(solved, answer), right);
        text += "\n\n";
    }
    text + &asked(question, answer)
}

/// A prompt with its answer.
pub fn answered(prompt: &str, answer: &str) -> String {
    format!("{prompt} {answer}")
}

fn asked(question: &SheetQuestion, answer: Answer) -> String {
    let mut text = format!("{}\n", question.question.trim());
    if answer != Answer::Continuation {
        for (i, option) in question.options.iter().enumerate() {
            let _ = writeln!(text, "{}. {option}", letter(i));
        }
    }
    text + ANSWER
}

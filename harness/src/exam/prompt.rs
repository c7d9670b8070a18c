//! Exam questions as prompts, in MiniMind's words.

use super::sheet::{Sheet, SheetQuestion};
use crate::data::{Message, Tokenizer};
use anyhow::Result;
use std::collections::BTreeMap;

/// Solved questions of each subject, shown before the one that is asked.
pub type Shots = BTreeMap<String, Vec<SheetQuestion>>;

/// Puts questions.
#[derive(Debug, Clone)]
pub struct Prompter {
    /// System text in front.
    pub system: String,
    /// Longest prompt in tokens; a longer one keeps its last ids.
    pub max_len: usize,
    /// Solved questions, by subject; empty is zero-shot.
    pub shots: Shots,
}

impl Prompter {
    /// Ids of the prompt, up to where the letter is to come.
    pub fn ids(&self, tokenizer: &Tokenizer, sheet: &Sheet, question: &SheetQuestion) -> Result<Vec<u32>> {
        let mut messages = vec![Message::new("system", self.system.clone())];
        for solved in self.shots.get(&sheet.subject).into_iter().flatten() {
            messages.push(Message::new("user", text(solved)));
            messages.push(Message::new("assistant", solved.answer));
        }
        messages.push(Message::new("user", text(question)));
        let mut ids = tokenizer.encode(&tokenizer.render(&messages)?)?;
        ids.drain(..ids.len().saturating_sub(self.max_len));
        Ok(ids)
    }
}

/// The question with its options (MiniMind's eval_ceval.py).
fn text(question: &SheetQuestion) -> String {
    let [a, b, c, d] = &question.options;
    format!("{}。选择 A: {a}, B: {b}, C: {c}, D: {d}", question.question)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;

    #[test]
    fn prompts_are_minimind_s() {
        let Some(dir) = shared("data/minimind_tokenizer") else { return };
        let tokenizer = Tokenizer::load(&dir).unwrap();
        let question = |answer| SheetQuestion {
            id: "0".into(),
            question: "天空是".into(),
            options: ["蓝", "红", "绿", "黑"].map(String::from),
            answer,
        };
        let sheet = Sheet { subject: "s".into(), questions: vec![question('A')] };
        let mut prompter =
            Prompter { system: "开始回答问题".into(), max_len: 512, shots: Shots::new() };
        let prompt = |p: &Prompter| {
            tokenizer.decode(&p.ids(&tokenizer, &sheet, &sheet.questions[0]).unwrap(), false).unwrap()
        };
        let asked = "<s>user\n天空是。选择 A: 蓝, B: 红, C: 绿, D: 黑</s>\n<s>assistant\n";
        assert_eq!(prompt(&prompter), format!("开始回答问题{asked}"));
        prompter.shots.insert("s".into(), vec![question('C')]);
        assert_eq!(prompt(&prompter), format!("开始回答问题{asked}C</s>\n{asked}"));
        prompter.max_len = 4;
        assert_eq!(prompter.ids(&tokenizer, &sheet, &sheet.questions[0]).unwrap().len(), 4);
        assert!(asked.ends_with(&prompt(&prompter)));
    }
}

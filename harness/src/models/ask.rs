//! Prompts a model and generates its answers.

use super::Model;
use crate::config::TrainStage;
use crate::data::generation::{Progress, generate_batch};
use crate::data::{Message, SpecialText};
use anyhow::{Result, bail};
use model::{Backend, GenerateOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Questions with which MiniMind compares its models by eye.
const QUESTIONS: &str = include_str!("questions.json");

/// Returns MiniMind's questions.
///
/// # Errors
/// Never in practice: the list is part of the program, and a test parses it.
pub fn questions() -> Result<Vec<String>> {
    Ok(serde_json::from_str(QUESTIONS)?)
}

/// How a prompt is given to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The prompt as a user's turn, in the chat template.
    Chat,
    /// The prompt as the beginning of a document.
    Continuation,
}

impl Form {
    /// Returns the name used in files.
    pub fn name(self) -> &'static str {
        match self {
            Form::Chat => "chat",
            Form::Continuation => "continuation",
        }
    }
}

/// Text that a model generated for a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, without the prompt.
    pub text: String,
    /// Whether an end token or stop string ended it; otherwise it reached its maximum length.
    pub is_stopped: bool,
    /// Number of generated tokens.
    pub tokens: usize,
    /// Number of tokens of the prompt.
    pub prompt_tokens: usize,
}

impl<B: Backend> Model<B> {
    /// Returns the form in which to prompt the model: `asked`, or by default a continuation for a model that was only
    /// pretrained or has no chat template, and a chat otherwise.
    ///
    /// # Errors
    /// If a chat is asked for and there is no chat template.
    pub fn form(&self, asked: Option<Form>) -> Result<Form> {
        let no_template = self.tokenizer.no_template();
        match (asked, no_template) {
            (Some(Form::Chat), Some(why)) => bail!("{}: {why}", self.name),
            (Some(form), _) => Ok(form),
            (None, Some(_)) => Ok(Form::Continuation),
            (None, None) if self.stage == Some(TrainStage::Pretrain.into()) => Ok(Form::Continuation),
            (None, None) => Ok(Form::Chat),
        }
    }

    /// Encodes a prompt; a chat begins with the system message, if there is one.
    ///
    /// # Errors
    /// If the chat template rejects the conversation.
    pub fn prompt(&self, form: Form, system: Option<&str>, prompt: &str) -> Result<Vec<u32>> {
        match form {
            Form::Continuation => self.tokenizer.encode_opening(prompt, SpecialText::Characters),
            Form::Chat => {
                let system = system.map(|text| Message::new("system", text));
                let messages: Vec<Message> =
                    system.into_iter().chain([Message::new("user", prompt)]).collect();
                Ok(self.tokenizer.conversation(&messages, SpecialText::Characters)?.ids)
            }
        }
    }

    /// Generates a text for each prompt, in their order; prompts must fit the context. Each of `stops` ends a text;
    /// `on_progress` is given the number of finished texts.
    ///
    /// # Errors
    /// If the model fails.
    pub fn write(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        stops: &[String],
        on_progress: &dyn Fn(u64),
    ) -> Result<Vec<Written>> {
        let Self { transformer, tokenizer, .. } = self;
        let waiting = prompts.iter().map(|ids| {
            let room = transformer.context_len() - ids.len();
            let stop = tokenizer.eos().into_iter().collect();
            let options =
                GenerateOptions { max_tokens: options.max_tokens.min(room), stop, ..options.clone() };
            (ids.as_slice(), vec![options])
        });
        let mut done = BTreeMap::new();
        generate_batch(transformer, tokenizer, waiting, stops, |event| {
            if let Progress::End(text) = event {
                let (tokens, prompt_tokens) = (text.written, text.prompt_tokens);
                let written = Written { text: text.text, is_stopped: text.is_stopped, tokens, prompt_tokens };
                done.insert(text.prompt, written);
                on_progress(done.len() as u64);
            }
            Ok(())
        })?;
        Ok(done.into_values().collect())
    }
}

//! A model answers prompts.

use super::Model;
use crate::config::TrainStage;
use crate::data::together::{Told, write_together};
use crate::data::{Message, SpecialText};
use anyhow::{Result, bail};
use model::{Backend, GenerateOptions};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What MiniMind asks its models when it compares them by eye.
const QUESTIONS: &str = include_str!("questions.json");

/// MiniMind's questions.
///
/// # Errors
/// Never: the list is part of the program, and a test reads it.
pub fn questions() -> Result<Vec<String>> {
    Ok(serde_json::from_str(QUESTIONS)?)
}

/// What a model is given to write behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The prompt as a user's turn, in the chat template.
    Chat,
    /// The prompt as the beginning of a document.
    Continuation,
}

impl Form {
    /// As files have it.
    pub fn name(self) -> &'static str {
        match self {
            Form::Chat => "chat",
            Form::Continuation => "continuation",
        }
    }
}

/// What a model wrote behind a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text, without the prompt.
    pub text: String,
    /// Whether it came to an end of its own; else it was cut.
    pub is_stopped: bool,
    /// Tokens that were written.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

impl<B: Backend> Model<B> {
    /// The form to ask it in: one that was only pretrained, or has no chat template, goes on with a text.
    ///
    /// # Errors
    /// Where a chat template is asked for that is not there.
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

    /// The ids of a prompt, behind a system text in a conversation.
    ///
    /// # Errors
    /// Where the chat template refuses it.
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

    /// What it writes behind prompts that fit its context, in their order; one of `stops` ends a text. `told` hears how
    /// many are done.
    ///
    /// # Errors
    /// Where the model breaks.
    pub fn write(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        stops: &[String],
        told: &dyn Fn(u64),
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
        write_together(transformer, tokenizer, waiting, stops, |event| {
            if let Told::End(text) = event {
                let (tokens, prompt_tokens) = (text.written, text.prompt_tokens);
                let written = Written { text: text.text, is_stopped: text.is_stopped, tokens, prompt_tokens };
                done.insert(text.prompt, written);
                told(done.len() as u64);
            }
            Ok(())
        })?;
        Ok(done.into_values().collect())
    }
}

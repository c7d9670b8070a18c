//! Has every model answer every prompt.

use super::{Answer, Asked, Compared, Comparison, Finish, Form, letter};
use crate::config::{Stage, TrainStage};
use crate::data::together::{Told, write_together};
use crate::data::{Message, SpecialText};
use crate::models::Model;
use crate::track::Progress;
use anyhow::{Context, Result, bail, ensure};
use model::{Backend, GenerateOptions};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the models are asked, and how they write.
pub struct Ask<'a> {
    /// The prompts.
    pub prompts: &'a [String],
    /// A system text in front of conversations.
    pub system: Option<&'a str>,
    /// The form that all are asked in; `None` has each model's own.
    pub form: Option<Form>,
    /// How texts are written; tokens that end them are each tokenizer's own.
    pub options: GenerateOptions,
    /// Strings that end a text.
    pub stop: &'a [String],
    /// The same by name, for people.
    pub sampling: Value,
}

/// Has every model answer every prompt; what cannot be asked is told before anything is written.
///
/// # Errors
/// Where a prompt does not fit a model, a chat template is asked for that is not there or refuses the prompt, or a model
/// breaks.
pub fn answer<B: Backend>(models: &[Model<B>], ask: &Ask, progress: &dyn Progress) -> Result<Comparison> {
    let mut forms = vec![];
    let mut ids = vec![];
    for model in models {
        let form = form_of(model, ask.form)?;
        let encoded =
            ask.prompts.iter().zip(1..).map(|(prompt, number)| encode(model, form, ask, prompt, number));
        ids.push(encoded.collect::<Result<Vec<_>>>()?);
        forms.push(form);
    }
    let mut prompts: Vec<Asked> =
        ask.prompts.iter().map(|prompt| Asked { prompt: prompt.clone(), answers: vec![] }).collect();
    for (model, ids) in models.iter().zip(&ids) {
        progress.start("writing", ids.len() as u64, "answers");
        let answers = answers(model, ids, ask, progress).with_context(|| model.name.clone())?;
        prompts.iter_mut().zip(answers).for_each(|(asked, answer)| asked.answers.push(answer));
        progress.finish("");
    }
    let models = models.iter().zip(forms).enumerate().map(|(place, (model, form))| Compared {
        letter: letter(place),
        name: model.name.clone(),
        source: model.source.clone(),
        stage: model.stage.map(Stage::name),
        params: model.transformer.config.params(),
        form,
    });
    Ok(Comparison { models: models.collect(), sampling: ask.sampling.clone(), prompts, judge: None })
}

/// What a model is given to write behind: one that was only pretrained, or has no chat template, goes on with a text.
fn form_of<B: Backend>(model: &Model<B>, asked: Option<Form>) -> Result<Form> {
    let no_template = model.tokenizer.no_template();
    match (asked, no_template) {
        (Some(Form::Chat), Some(why)) => bail!("{}: {why}", model.name),
        (Some(form), _) => Ok(form),
        (None, Some(_)) => Ok(Form::Continuation),
        (None, None) if model.stage == Some(TrainStage::Pretrain.into()) => Ok(Form::Continuation),
        (None, None) => Ok(Form::Chat),
    }
}

fn encode<B: Backend>(
    model: &Model<B>,
    form: Form,
    ask: &Ask,
    prompt: &str,
    number: usize,
) -> Result<Vec<u32>> {
    let ids = match form {
        Form::Continuation => model.tokenizer.encode_opening(prompt, SpecialText::Characters)?,
        Form::Chat => {
            let system = ask.system.map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.into_iter().chain([Message::new("user", prompt)]).collect();
            model.tokenizer.conversation(&messages, SpecialText::Characters)?.ids
        }
    };
    let longest = model.transformer.context_len();
    ensure!(
        ids.len() < longest,
        "{}: prompt {number} has {} tokens, and the model reads {longest}; shorten it, or leave it out",
        model.name,
        ids.len()
    );
    Ok(ids)
}

/// The answers of one model, in the order of the prompts.
fn answers<B: Backend>(
    model: &Model<B>,
    prompts: &[Vec<u32>],
    ask: &Ask,
    progress: &dyn Progress,
) -> Result<Vec<Answer>> {
    let Model { transformer, tokenizer, .. } = model;
    let waiting = prompts.iter().map(|ids| {
        let room = transformer.context_len() - ids.len();
        let max_tokens = ask.options.max_tokens.min(room);
        let stop = tokenizer.eos().into_iter().collect();
        (ids.as_slice(), vec![GenerateOptions { max_tokens, stop, ..ask.options.clone() }])
    });
    let mut done = BTreeMap::new();
    write_together(transformer, tokenizer, waiting, ask.stop, |told| {
        if let Told::End(text) = told {
            let finish_reason = if text.is_stopped { Finish::Stop } else { Finish::Length };
            let (tokens, prompt_tokens) = (text.written, text.prompt_tokens);
            done.insert(
                text.prompt,
                Answer { text: text.text, finish_reason, tokens, prompt_tokens, score: None },
            );
            progress.update(done.len() as u64, &model.name);
        }
        Ok(())
    })?;
    Ok(done.into_values().collect())
}

//! Generates the answer of every model to every prompt.

use super::{Answer, Asked, Compared, Comparison, Finish, letter};
use crate::config::Stage;
use crate::models::{Form, Model, Written};
use crate::track::Progress;
use anyhow::{Context, Result, ensure};
use model::{Backend, GenerateOptions};
use serde_json::Value;

/// Prompts, and how the models answer them.
pub struct Ask<'a> {
    /// The prompts.
    pub prompts: &'a [String],
    /// System message of conversations.
    pub system: Option<&'a str>,
    /// How all models are prompted; `None` uses each model's own form.
    pub form: Option<Form>,
    /// Generation options; the end tokens are those of each model's tokenizer.
    pub options: GenerateOptions,
    /// Strings that end a text.
    pub stop: &'a [String],
    /// Sampling options by name, for people.
    pub sampling: Value,
}

/// Generates the answer of every model to every prompt; problems of the prompts are reported before anything is
/// generated.
///
/// # Errors
/// If a prompt does not fit a model's context, a requested chat template is missing or rejects the prompt, or a model
/// fails.
pub fn answer<B: Backend>(models: &[Model<B>], ask: &Ask, progress: &dyn Progress) -> Result<Comparison> {
    let mut forms = vec![];
    let mut ids = vec![];
    for model in models {
        let form = model.form(ask.form)?;
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

fn encode<B: Backend>(
    model: &Model<B>,
    form: Form,
    ask: &Ask,
    prompt: &str,
    number: usize,
) -> Result<Vec<u32>> {
    let ids = model.prompt(form, ask.system, prompt)?;
    let longest = model.transformer.context_len();
    ensure!(
        ids.len() < longest,
        "{}: prompt {number} has {} tokens, and the context of the model is {longest}; shorten it, or leave it out",
        model.name,
        ids.len()
    );
    Ok(ids)
}

/// Generates the answers of one model, in the order of the prompts.
fn answers<B: Backend>(
    model: &Model<B>,
    prompts: &[Vec<u32>],
    ask: &Ask,
    progress: &dyn Progress,
) -> Result<Vec<Answer>> {
    let on_progress = |done| progress.update(done, &model.name);
    let written = model.write(prompts, &ask.options, ask.stop, &on_progress)?;
    let answer = |Written { text, is_stopped, tokens, prompt_tokens }| {
        let finish_reason = if is_stopped { Finish::Stop } else { Finish::Length };
        Answer { text, finish_reason, tokens, prompt_tokens, score: None }
    };
    Ok(written.into_iter().map(answer).collect())
}

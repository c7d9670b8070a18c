//! Generation of several texts at a time, reported piece by piece as decoded text.

use super::Tokenizer;
use super::stream::AnswerStream;
use anyhow::{Result, bail};
use model::{Backend, Event, GenerateOptions, GenerationBatch, TextId, Token, Transformer};
use std::collections::BTreeMap;
use std::time::Instant;

/// Number of concurrent texts below which the next prompt is started.
const MAX_CONCURRENT: usize = 64;

/// A text that is being generated.
pub struct Text<'a> {
    /// Index among all texts, counted prompt by prompt.
    pub place: usize,
    /// Index of its prompt.
    pub prompt: usize,
    /// Which of the texts of that prompt it is: [`GenerateOptions::choice`].
    pub choice: u64,
    /// Number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// Text reported so far.
    pub text: String,
    /// Tokens of `text`; empty unless log-probabilities were requested.
    pub tokens: Vec<Token>,
    /// Number of generated tokens, including those of a stop string that ended the text.
    pub written: usize,
    /// When the text was started, with its prompt still to be read.
    pub began: Instant,
    /// When its first token was generated; `None` before.
    pub first: Option<Instant>,
    /// Whether a stop token or stop string ended it; otherwise it was cut at its maximum length.
    pub is_stopped: bool,
    stream: AnswerStream<'a>,
}

/// Progress of a text.
pub enum Progress<'t, 'a> {
    /// The text has grown by this piece, which may be empty.
    Piece(&'t str),
    /// The text is complete.
    End(Box<Text<'a>>),
}

/// Continues prompts, each with the options of its texts, several at a time; any of `stops` ends a text. `on_progress` receives
/// the progress. The content of a text does not depend on the others.
///
/// # Errors
/// As [`Transformer::generate`], or if `on_progress` or the tokenizer fails.
pub fn generate_batch<'a, B: Backend>(
    transformer: &Transformer<B>,
    tokenizer: &'a Tokenizer,
    prompts: impl IntoIterator<Item = (&'a [u32], Vec<GenerateOptions>)>,
    stops: &[String],
    mut on_progress: impl FnMut(Progress<'_, 'a>) -> Result<()>,
) -> Result<()> {
    let mut waiting = prompts.into_iter().enumerate();
    let mut writing = GenerationBatch::new(transformer);
    let mut texts: BTreeMap<TextId, Text> = BTreeMap::new();
    let mut places = 0..;
    loop {
        while writing.len() < MAX_CONCURRENT
            && let Some((prompt, (ids, options))) = waiting.next()
        {
            let begun = writing.begin(ids, &options, None)?;
            for ((id, options), place) in begun.into_iter().zip(options).zip(&mut places) {
                let text = Text {
                    place,
                    prompt,
                    choice: options.choice,
                    prompt_tokens: ids.len(),
                    text: String::new(),
                    tokens: vec![],
                    written: 0,
                    began: Instant::now(),
                    first: None,
                    is_stopped: false,
                    stream: AnswerStream::new(tokenizer, stops),
                };
                texts.insert(id, text);
            }
        }
        if writing.is_empty() {
            return Ok(());
        }
        for (id, event) in writing.step() {
            let Some(text) = texts.get_mut(&id) else { continue };
            let (piece, is_over) = match event {
                Event::Token(token) => {
                    text.written += 1;
                    text.first.get_or_insert_with(Instant::now);
                    (text.stream.push(token)?, false)
                }
                Event::Stop(_) => {
                    text.is_stopped = true;
                    (text.stream.finish()?, true)
                }
                Event::Length => (text.stream.finish()?, true),
                Event::Failed(error) => bail!(error),
                Event::Prompt(_) => continue,
            };
            let is_end = is_over || piece.is_stopped;
            text.is_stopped |= piece.is_stopped;
            text.text += &piece.text;
            text.tokens.extend(piece.tokens.into_iter().filter(|token| token.log_probs.is_some()));
            on_progress(Progress::Piece(&piece.text))?;
            if is_end {
                writing.leave(id);
                if let Some(text) = texts.remove(&id) {
                    on_progress(Progress::End(Box::new(text)))?;
                }
            }
        }
    }
}

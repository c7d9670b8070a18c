//! Several texts that a model writes at a time, told as characters.

use super::Tokenizer;
use super::stream::AnswerStream;
use anyhow::{Result, bail};
use model::{Backend, Event, GenerateOptions, TextId, Token, Transformer, Writing};
use std::collections::BTreeMap;
use std::time::Instant;

/// Texts that are written at a time.
const TOGETHER: usize = 64;

/// A text that is being written.
pub struct Text<'a> {
    /// Its place among all texts, which are counted prompt by prompt.
    pub place: usize,
    /// The number of its prompt.
    pub prompt: usize,
    /// Which of the texts behind that prompt it is.
    pub choice: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What was told of it so far.
    pub text: String,
    /// Its tokens, where their log-probabilities were asked for.
    pub tokens: Vec<Token>,
    /// Tokens that were written, those of a string that ended it included.
    pub written: usize,
    /// When its prompt began to be read.
    pub began: Instant,
    /// When its first token came.
    pub first: Option<Instant>,
    /// Whether it came to an end of its own, by a token or a string; else it was cut.
    pub is_stopped: bool,
    stream: AnswerStream<'a>,
}

/// What has become of a text.
pub enum Told<'t, 'a> {
    /// It has grown by this piece, which may be empty.
    Piece(&'t str),
    /// It is complete.
    End(Box<Text<'a>>),
}

/// Writes on behind prompts, each with the options of its texts, some at a time; one of `stops` ends a text. What a text
/// becomes does not depend on the others.
///
/// # Errors
/// As [`Transformer::generate`], and those of `tell`.
pub fn write_together<'a, B: Backend>(
    transformer: &Transformer<B>,
    tokenizer: &'a Tokenizer,
    prompts: impl IntoIterator<Item = (&'a [u32], Vec<GenerateOptions>)>,
    stops: &[String],
    mut tell: impl FnMut(Told<'_, 'a>) -> Result<()>,
) -> Result<()> {
    let mut waiting = prompts.into_iter().enumerate();
    let mut writing = Writing::new(transformer);
    let mut texts: BTreeMap<TextId, Text> = BTreeMap::new();
    let mut places = 0..;
    loop {
        while writing.len() < TOGETHER
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
            tell(Told::Piece(&piece.text))?;
            if is_end {
                writing.leave(id);
                if let Some(text) = texts.remove(&id) {
                    tell(Told::End(Box::new(text)))?;
                }
            }
        }
    }
}

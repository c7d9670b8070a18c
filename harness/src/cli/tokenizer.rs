//! The verb `tokenizer`: trains, shows and tries out tokenizers.

use super::data::named;
use super::model_arg::stage_run_named;
use super::say;
use crate::config::{DataConfig, TokenizerConfig};
use crate::data::chat::ChatTemplate;
use crate::data::read::{Advice, ReadOptions, rows};
use crate::data::tokenizer::largest_vocab;
use crate::data::{Kind, Message, Tokenizer};
use crate::exam::letters;
use crate::fsutil::create_dir;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// A tokenizer given by its file, its folder, or the stage run that wrote it or trained with it.
#[derive(Debug, Args)]
pub struct TokenizerArg {
    /// A tokenizer.json or its folder; or a stage run, by its folder or short name, such as tokenizer-89540c46
    path: PathBuf,
    /// Folder of stage runs, in which names are looked up
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

impl TokenizerArg {
    fn load(&self) -> Result<Tokenizer> {
        if self.path.exists() || self.path.extension().is_some_and(|extension| extension == "json") {
            return Tokenizer::load(&self.path);
        }
        Tokenizer::load(&stage_run_named(&self.runs, &self.path.to_string_lossy())?)
    }
}

/// Verbs on tokenizers.
#[derive(Debug, Subcommand)]
pub enum TokenizerVerb {
    /// Train byte-level BPE on text files
    #[command(
        after_help = "Example: mindscale tokenizer train --vocab-size 6400 --out my-tokenizer data/*.jsonl"
    )]
    Train {
        /// Files or globs of text
        #[arg(required = true)]
        files: Vec<String>,
        /// Number of entries, special tokens included
        #[arg(long, default_value_t = 6400, value_parser = vocab_size)]
        vocab_size: usize,
        /// Folder to write to
        #[arg(long)]
        out: PathBuf,
    },
    /// Show a tokenizer's size, special tokens and answer letters
    Show {
        #[command(flatten)]
        tokenizer: TokenizerArg,
    },
    /// Convert text to ids
    Encode {
        #[command(flatten)]
        tokenizer: TokenizerArg,
        /// Text; unset: read from standard input
        text: Option<String>,
        /// Print machine-readable JSON
        #[arg(long)]
        json: bool,
    },
    /// Convert ids to text
    Decode {
        #[command(flatten)]
        tokenizer: TokenizerArg,
        /// Ids; unset: read from standard input, separated by blanks, commas or newlines
        ids: Vec<u32>,
    },
}

/// Parses a vocabulary size within the allowed range.
fn vocab_size(text: &str) -> std::result::Result<usize, String> {
    let (least, most) = (TokenizerConfig::SMALLEST_VOCAB, largest_vocab());
    let size = text.parse().ok().filter(|size| (least..=most).contains(size));
    size.ok_or_else(|| format!("expected {least} (3 special tokens and 256 bytes) to {most}"))
}

/// Runs a verb on tokenizers.
pub fn tokenizer(verb: &TokenizerVerb) -> Result<bool> {
    match verb {
        TokenizerVerb::Train { files, vocab_size, out } => {
            let files = named(files, "files", false)?;
            let options = ReadOptions::new(&DataConfig::default()).advising(Advice::NONE);
            let template = ChatTemplate::minimind()?;
            let texts: Vec<String> = rows(&files, Kind::Pretrain, &options)
                .map(|row| template.text(&row?))
                .collect::<Result<_>>()?;
            let tokenizer = Tokenizer::train(texts.into_iter(), *vocab_size)?;
            create_dir(out)?;
            tokenizer.save(out)?;
            options.log.report().notices("text").iter().try_for_each(say)?;
            if tokenizer.vocab_size() < *vocab_size {
                say(format!(
                    "the text is too small for {vocab_size} entries: the tokenizer has {}",
                    tokenizer.vocab_size()
                ))?;
            }
            say(out.join("tokenizer.json").display())?;
        }
        TokenizerVerb::Show { tokenizer } => {
            let tokenizer = tokenizer.load()?;
            say(format!("{} entries", tokenizer.vocab_size()))?;
            match letters(&tokenizer) {
                Ok(ids) => say(format!("A B C D as answers: {ids:?}"))?,
                Err(error) => say(format!("A B C D as answers: {error:#}"))?,
            }
            say(format!("answers begin after {:?}", tokenizer.answer_marker()?))?;
            let example = [Message::new("user", "你好"), Message::new("assistant", "你好！")];
            say(format!("a conversation: {:?}", tokenizer.render(&example)?))?;
        }
        TokenizerVerb::Encode { tokenizer, text, json } => {
            let tokenizer = tokenizer.load()?;
            let text = text.clone().map_or_else(standard_input, Ok)?;
            let ids = tokenizer.encode(&text)?;
            if *json {
                say(serde_json::to_string(&ids)?)?;
            } else {
                for id in ids {
                    say(format!("{id}\t{:?}", tokenizer.decode(&[id], false)?))?;
                }
            }
        }
        TokenizerVerb::Decode { tokenizer: given, ids } => {
            let tokenizer = given.load()?;
            let ids = if ids.is_empty() { read_ids(&standard_input()?)? } else { ids.clone() };
            if let Some(id) = ids.iter().find(|&&id| !tokenizer.knows(id)) {
                let entries = tokenizer.vocab_size();
                bail!("{}: the id {id} is not among its {entries} entries", given.path.display());
            }
            say(tokenizer.decode(&ids, false)?)?;
        }
    }
    Ok(true)
}

/// Reads all of standard input.
fn standard_input() -> Result<String> {
    std::io::read_to_string(std::io::stdin()).context("standard input")
}

/// Parses ids separated by blanks, commas, brackets or newlines, as `encode --json` writes them.
fn read_ids(text: &str) -> Result<Vec<u32>> {
    let words = text.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter(|word| !word.is_empty());
    words
        .map(|word| word.parse().with_context(|| format!("standard input: {word:?}, expected ids")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        assert_eq!(read_ids("[1,22, 3]\n4\n").ok(), Some(vec![1, 22, 3, 4]));
        let error = read_ids("1 two").map_err(|error| error.to_string());
        assert_eq!(error, Err("standard input: \"two\", expected ids".into()));
    }
}

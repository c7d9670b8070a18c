//! The verb `generate`: generates text, token by token.

use super::device_arg::DeviceArgs;
use super::model_arg::ModelArg;
use super::rope_arg::RopeArgs;
use super::sampling::SamplingArgs;
use super::{say, whole};
use crate::data::generation::{Progress, Text, generate_batch};
use crate::data::{Message, SpecialText};
use crate::fsutil::{read_text, without_mark};
use crate::models::ModelFiles;
use anyhow::{Context, Result, ensure};
use clap::Args;
use model::{Backend, GenerateOptions, Work};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    rope: RopeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Number of texts per prompt, all from the same seed
    #[arg(short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    n: u32,
    /// Put the prompt into the chat template, as a user's turn
    #[arg(long)]
    chat: bool,
    /// Folder of the tokenizer, if the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Print machine-readable JSON, one line per text as soon as it is complete
    #[arg(long)]
    json: bool,
    /// With --json: report the log-probability of each token and of the K most likely ones at its position
    #[arg(long, value_name = "K", requires = "json", value_parser = whole::<usize>)]
    log_probs: Option<usize>,
}

/// The prompts.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// Beginning of a document, or with --chat a question; - reads it from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with one prompt per line, or by its name (.jsonl, .json) JSON lines or a JSON list of texts or of objects with
    /// "prompt"; - reads lines from standard input
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
}

/// Generates texts for one or several prompts.
pub fn generate(args: &GenerateArgs) -> Result<bool> {
    args.device.run(args)
}

impl Work for &GenerateArgs {
    type Outcome = Result<bool>;

    fn run<B: Backend>(self, backend: &B) -> Result<bool> {
        generate_on(self, backend)
    }
}

fn generate_on<B: Backend>(args: &GenerateArgs, backend: &B) -> Result<bool> {
    let prompts = args.prompts.read()?;
    let model = ModelFiles::of(args.model.folder()?, args.tokenizer.clone()).load(backend)?;
    let (tokenizer, transformer) = (model.tokenizer, args.rope.apply(model.transformer).for_generation());
    let encode = |text: &String| match args.chat {
        true => Ok(tokenizer.conversation(&[Message::new("user", text)], SpecialText::Characters)?.ids),
        false => tokenizer.encode_opening(text, SpecialText::Control),
    };
    let prompts: Vec<Vec<u32>> = prompts.iter().map(encode).collect::<Result<_>>()?;
    let longest = transformer.context_len();
    let read = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if read + args.sampling.max_tokens > longest {
        tracing::warn!(
            "{read} prompt tokens and {} new tokens exceed the model's context length of {longest}",
            args.sampling.max_tokens
        );
    }
    let options = GenerateOptions {
        log_probs: args.log_probs,
        ..args.sampling.options(tokenizer.eos().into_iter().collect())
    };
    let mut shown = Shown {
        is_alone: prompts.len() == 1 && args.n == 1,
        is_json: args.json,
        spellings: args.log_probs.map(|_| tokenizer.spellings()),
        next: 0,
        done: BTreeMap::new(),
    };
    let choices: Vec<GenerateOptions> =
        (0..u64::from(args.n)).map(|choice| GenerateOptions { choice, ..options.clone() }).collect();
    let waiting = prompts.iter().map(|ids| (ids.as_slice(), choices.clone()));
    generate_batch(&transformer, &tokenizer, waiting, &args.sampling.stop, |progress| match progress {
        Progress::Piece(text) => shown.piece(text),
        Progress::End(text) => shown.end(&text),
    })?;
    Ok(true)
}

impl PromptArgs {
    fn read(&self) -> Result<Vec<String>> {
        match (&self.prompt, &self.prompts) {
            (Some(text), _) if text == "-" => {
                let text = standard_input()?;
                // The final newline belongs to the file, not to the prompt.
                Ok(vec![text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r').to_owned()])
            }
            (Some(text), _) => Ok(vec![text.clone()]),
            (None, Some(file)) => read_prompts(file),
            (None, None) => Ok(vec![]), // excluded by clap, which requires one of them
        }
    }
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("the standard input cannot be read as UTF-8 text")?;
    Ok(without_mark(text))
}

/// Reads the prompts of a file; `-` is standard input.
pub fn read_prompts(file: &Path) -> Result<Vec<String>> {
    match file.as_os_str() == "-" {
        true => prompts_of(&standard_input()?, Path::new("standard input")),
        false => prompts_of(&read_text(file)?, file),
    }
}

/// Splits a text into prompts: lines, or by the name of the file a JSON list or JSON lines.
fn prompts_of(text: &str, file: &Path) -> Result<Vec<String>> {
    let shown = file.display();
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let prompts: Vec<String> = match file.extension().and_then(OsStr::to_str) {
        Some("json") => {
            let rows: Vec<Value> =
                serde_json::from_str(text).with_context(|| format!("{shown}: is not a JSON list"))?;
            (1..).zip(rows).map(|(place, row)| prompt_of(row, &format!("{shown}: entry {place}"))).collect()
        }
        Some("jsonl") => {
            let prompt = |(number, line): (u64, &str)| {
                let place = format!("{shown}:{number}");
                let row = serde_json::from_str(line).with_context(|| format!("{place}: is not JSON"))?;
                prompt_of(row, &place)
            };
            lines.map(prompt).collect()
        }
        _ => Ok(lines.map(|(_, line)| line.to_owned()).collect()),
    }?;
    ensure!(!prompts.is_empty(), "{shown}: holds no prompt, expected at least one");
    Ok(prompts)
}

/// Returns the prompt in a JSON value.
fn prompt_of(row: Value, place: &str) -> Result<String> {
    let text = row.as_str().or_else(|| row.get("prompt")?.as_str());
    let text =
        text.with_context(|| format!("{place}: expected a text, or an object with a text \"prompt\""))?;
    Ok(text.to_owned())
}

/// Prints the generated texts, in the order of their places.
struct Shown {
    /// Whether there is only one text, which is then printed as it is generated.
    is_alone: bool,
    is_json: bool,
    /// Bytes of each token, if log-probabilities are shown.
    spellings: Option<Vec<Vec<u8>>>,
    /// Place of the text to print next.
    next: usize,
    /// Finished texts that wait for an earlier one.
    done: BTreeMap<usize, String>,
}

impl Shown {
    fn piece(&self, piece: &str) -> Result<()> {
        if self.is_alone && !self.is_json {
            let mut out = std::io::stdout().lock();
            out.write_all(piece.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    fn end(&mut self, text: &Text) -> Result<()> {
        let output = match (self.is_json, self.is_alone) {
            (true, _) => self.json(text).to_string(),
            (false, true) => String::new(),
            (false, false) => {
                format!("--- prompt {}, text {}\n{}", text.prompt + 1, text.choice + 1, text.text)
            }
        };
        self.done.insert(text.place, output);
        while let Some(output) = self.done.remove(&self.next) {
            say(output)?;
            self.next += 1;
        }
        Ok(())
    }

    fn json(&self, text: &Text) -> Value {
        let ended = Instant::now();
        let first = text.first.unwrap_or(ended);
        // The first token's time is that of reading the prompt; only the others measure generation.
        let per_second = text.written.saturating_sub(1) as f64 / (ended - first).as_secs_f64().max(1e-9);
        let mut row = json!({
            "text": text.text,
            "tokens": text.written,
            "tokens_per_second": per_second,
            "prompt_tokens": text.prompt_tokens,
            "seconds_to_first_token": (first - text.began).as_secs_f64(),
            "stopped": text.is_stopped,
        });
        if !self.is_alone {
            row["prompt"] = text.prompt.into();
            row["choice"] = text.choice.into();
        }
        if let Some(spellings) = &self.spellings {
            let name = |id: u32| spellings.get(id as usize).map(|bytes| String::from_utf8_lossy(bytes));
            let of = |id: u32, log_prob: f64| json!({ "id": id, "token": name(id), "log_prob": log_prob });
            let tokens = text.tokens.iter().filter_map(|token| Some((token.id, token.log_probs.as_ref()?)));
            let rows = tokens.map(|(id, found)| {
                let mut row = of(id, found.own);
                row["top"] = found.top.iter().map(|&(id, log_prob)| of(id, log_prob)).collect();
                row
            });
            row["log_probs"] = rows.collect();
        }
        row
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prompts_are_lines_or_json_lines() {
        let lines = |text: &str, file: &str| prompts_of(text, Path::new(file));
        assert_eq!(lines("a b\n\n 你好\n", "p.txt").unwrap(), ["a b", " 你好"]);
        assert_eq!(lines("{\"prompt\": \"a\\nb\", \"id\": 1}\n\"c\"\n", "p.jsonl").unwrap(), ["a\nb", "c"]);
        assert_eq!(lines("[\"a\",\n {\"prompt\": \"b\"}]", "p.json").unwrap(), ["a", "b"]);
        let problem = |text: &str, file: &str| lines(text, file).unwrap_err().to_string();
        let expected = "expected a text, or an object with a text \"prompt\"";
        assert_eq!(
            problem("{\"prompt\": \"a\"}\n\n{\"text\": 1}", "p.jsonl"),
            format!("p.jsonl:3: {expected}")
        );
        assert_eq!(problem("\n[1", "p.jsonl"), "p.jsonl:2: is not JSON");
        assert_eq!(problem(" \n", "p.jsonl"), "p.jsonl: holds no prompt, expected at least one");
        assert_eq!(problem("[\"a\", 2]", "p.json"), format!("p.json: entry 2: {expected}"));
        assert_eq!(problem("{\"prompt\": \"a\"}", "p.json"), "p.json: is not a JSON list");
    }
}

//! The verb `compare`: shows the answers of several models side by side.

use super::device_arg::DeviceArgs;
use super::generate::read_prompts;
use super::models_arg::ModelsArg;
use super::rope_arg::RopeArgs;
use super::sampling::SamplingArgs;
use super::{note, say};
use crate::compare::{Ask, Client, Comparison, Format, Judge, answer};
use crate::fsutil::{create_dir, write_atomic};
use crate::models::{Form, Model, ModelFiles, questions};
use crate::track::{Board, counted};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use model::{Backend, Work};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    models: ModelsArg,
    /// File with one prompt per line, or by its name (.jsonl, .json) JSON lines or a JSON list of texts or of objects with
    /// "prompt"; - reads lines from standard input; unset: MiniMind's questions
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// How models are prompted; unset: with the chat template, but with the bare prompt for models that were only
    /// pretrained or have no template
    #[arg(long, value_enum, value_name = "FORM")]
    form: Option<FormArg>,
    /// System message at the beginning of each conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    rope: RopeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write to FILE instead of printing Markdown; the format follows from the extension: .md, .html, .csv or .json;
    /// may be repeated
    #[arg(long, value_name = "FILE", value_parser = out)]
    out: Vec<PathBuf>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    judge: JudgeArgs,
}

/// The judge of the answers.
#[derive(Debug, Args)]
struct JudgeArgs {
    /// Let a model judge which answer is better: base URL of a server with an OpenAI-compatible API, such as
    /// https://api.openai.com/v1
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge: Option<String>,
    /// Name of the judging model on that server
    #[arg(long, value_name = "NAME", requires = "judge")]
    judge_model: Option<String>,
    /// Environment variable that holds the API key of that server
    #[arg(long, value_name = "VARIABLE", default_value = "OPENAI_API_KEY")]
    judge_key: String,
    /// Maximum number of concurrent requests to the judge
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    judge_concurrency: u8,
}

/// How models are prompted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormArg {
    /// Prompt as a user's turn in the chat template
    Chat,
    /// Prompt as the beginning of a document
    Continuation,
}

fn out(file: &str) -> Result<PathBuf> {
    Format::of(Path::new(file)).map(|_| file.into())
}

/// Lets models answer the prompts, and shows the answers.
pub fn compare(args: &CompareArgs) -> Result<bool> {
    args.device.run(args)
}

impl Work for &CompareArgs {
    type Outcome = Result<bool>;

    fn run<B: Backend>(self, backend: &B) -> Result<bool> {
        compare_on(self, backend)
    }
}

fn compare_on<B: Backend>(args: &CompareArgs, backend: &B) -> Result<bool> {
    let prompts = match &args.prompts {
        Some(file) => read_prompts(file)?,
        None => questions()?,
    };
    let judge = args.judge.read(args.sampling.seed)?;
    let files = args.models.files()?;
    ensure!(judge.is_none() || files.len() > 1, "a judge compares models: name two or more");
    let models = load(&files, &args.rope, backend)?;
    let mut sampling = serde_json::to_value(&args.sampling)?;
    if let Some(system) = &args.system {
        sampling["system"] = system.as_str().into();
    }
    let ask = Ask {
        prompts: &prompts,
        system: args.system.as_deref(),
        form: args.form.map(|form| match form {
            FormArg::Chat => Form::Chat,
            FormArg::Continuation => Form::Continuation,
        }),
        options: args.sampling.options(vec![]),
        stop: &args.sampling.stop,
        sampling,
    };
    let board = Board::for_stderr();
    let progress = board.task("compare");
    let mut comparison = answer(&models, &ask, &*progress)?;
    drop(models);
    if let Some(judge) = &judge {
        judge.judge(&mut comparison, &*until_interrupted()?, &*progress);
    }
    drop(progress);
    board.finish();
    args.show(&comparison)?;
    Ok(well_judged(&comparison))
}

/// Loads the models and applies the scaling of rotary positions.
fn load<B: Backend>(files: &[ModelFiles], rope: &RopeArgs, backend: &B) -> Result<Vec<Model<B>>> {
    let mut models: Vec<Model<B>> = vec![];
    for (place, file) in files.iter().enumerate() {
        let same = |other: &&ModelFiles| other.dir.canonicalize().ok() == file.dir.canonicalize().ok();
        if let Some(other) = files[..place].iter().find(same) {
            bail!("{} is named twice, the second time as {}; leave one out", other.source, file.source);
        }
        let mut model = file.load(backend)?;
        if models.iter().any(|other| other.name == model.name) {
            bail!("two models are called {}; name one as in other={}", model.name, file.dir.display());
        }
        model.transformer = rope.apply(model.transformer).for_generation();
        models.push(model);
    }
    Ok(models)
}

/// Returns a flag that Ctrl-C sets; a second Ctrl-C exits the program.
fn until_interrupted() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let handler = move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130); // exit code of a program that SIGINT ends
        }
        note(
            "no more judgements are requested; those made so far will be shown; press Ctrl-C again to exit immediately",
        );
    };
    ctrlc::set_handler(handler).context("Ctrl-C cannot be caught")?;
    Ok(stop)
}

/// Returns whether there is at least one verdict, if a judge was asked; prints a note on missing verdicts.
fn well_judged(comparison: &Comparison) -> bool {
    let Some(judged) = &comparison.judge else { return true };
    let missing = judged.planned - judged.valid;
    if missing > 0 {
        let most = judged.first_problems().next();
        let why = most.map_or(String::new(), |(problem, count)| format!("; {count} × {problem}"));
        let why = match judged.not_asked {
            0 => why,
            count => format!("{why}; {count} were not asked for"),
        };
        note(&format!("{missing} of {} have no verdict{why}", counted(judged.planned, "judgement")));
    }
    judged.valid > 0
}

impl CompareArgs {
    fn show(&self, comparison: &Comparison) -> Result<()> {
        for file in &self.out {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            folder.map_or(Ok(()), create_dir)?;
            write_atomic(file, comparison.render(Format::of(file)?)?.as_bytes())?;
            note(&format!("answers written to {}", file.display()));
        }
        let format = match (self.json, self.out.is_empty()) {
            (true, _) => Format::Json,
            (false, true) => Format::Markdown,
            (false, false) => return Ok(()),
        };
        let text = comparison.render(format)?;
        say(text.strip_suffix('\n').unwrap_or(&text))
    }
}

impl JudgeArgs {
    fn read(&self, seed: u64) -> Result<Option<Judge>> {
        let (Some(url), Some(model)) = (&self.judge, &self.judge_model) else { return Ok(None) };
        let key = std::env::var(&self.judge_key).ok().filter(|key| !key.is_empty());
        let client = Client::new(url, model, key.as_deref())?;
        Ok(Some(Judge { client, seed, at_once: self.judge_concurrency.into() }))
    }
}

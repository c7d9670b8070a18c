//! The verbs of the command line. *Invariant:* only this folder prints.
#![allow(clippy::print_stdout)] // the command line's own output

mod bench;
mod cancel;
mod chat;
mod compare;
mod data;
mod device_arg;
mod doctor;
mod exam;
mod export;
mod fetch;
mod gc;
mod generate;
mod import;
mod init;
mod model_arg;
mod models_arg;
mod perplexity;
mod plan;
mod report;
mod rope_arg;
mod run;
mod sampling;
mod schema;
mod serve;
mod shell;
mod stage_run;
mod stats;
mod status;
mod tokenizer;
mod web;

use crate::execute::limits::{parse_size, parse_time};
use crate::run::{Layers, ReadOptions, Work};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Train, examine and compare small language models.
#[derive(Debug, Parser)]
#[command(
    name = "mindscale",
    version,
    about,
    after_help = "Start with: mindscale run experiments/quickstart.toml, or with a study of your own: mindscale init my-study"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// A sweep or experiment.
#[derive(Debug, Args)]
struct SweepArgs {
    /// A sweep file, or an experiment file that names sweeps
    file: PathBuf,
    #[command(flatten)]
    with: ReadArgs,
}

/// What sweeps and experiments are read with.
#[derive(Debug, Clone, Args)]
struct ReadArgs {
    /// Folder of stage runs; unset: runs, or where an earlier run is looked at, that of it
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Folder of results, each sweep's and experiment's in a folder of its name, which belongs to one file
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Set a key, such as pretrain.lr=1e-3; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Start from a preset, such as minimind; `mindscale schema presets` prints them
    #[arg(long)]
    preset: Option<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

impl SweepArgs {
    /// The sweep or experiment, with these layers.
    fn read(&self, layers: Layers) -> anyhow::Result<Work> {
        Work::read(&self.file, &self.with.options(), layers)
    }

    /// The same, about some of its trials.
    fn read_only(&self, layers: Layers, only: &OnlyArg) -> anyhow::Result<Work> {
        Work::read(&self.file, &ReadOptions { only: only.only.clone(), ..self.with.options() }, layers)
    }
}

impl ReadArgs {
    fn options(&self) -> ReadOptions {
        let Self { runs, results, set, preset, json: _ } = self.clone();
        ReadOptions { runs, results, set, preset, only: None, note }
    }
}

/// Some of the trials.
#[derive(Debug, Clone, Args)]
struct OnlyArg {
    /// The trials for which a condition holds, such as 'model.n_layers == 4 and seed <= 2'; the others are left as they are
    #[arg(long, value_name = "CONDITION")]
    only: Option<String>,
}

/// What may be lost.
#[derive(Debug, Clone, Copy, Args)]
struct ForceArg {
    /// Replace results that show more finished trials by these, which show fewer
    #[arg(long)]
    force: bool,
}

/// Where each stage run is worked on, what it may use, and how often it is tried again.
#[derive(Debug, Clone, Args)]
struct HowArgs {
    /// Stage runs at a time; unset: as many as cores and memory allow, at most as many as trials
    #[arg(long)]
    jobs: Option<usize>,
    /// Longest time of a trial, its stages and exams together, such as 30m; it then writes a checkpoint and counts as failed
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time_limit: Option<Duration>,
    /// Most memory of a stage run, such as 2GiB; one that takes more is killed and counts as failed
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<u64>,
    /// Stage runs at a time on each GPU, where device is cuda, as far as its memory has room by the forecast of `plan`; 0
    /// is as many as there is room for; unset: 1. The GPUs are those of CUDA_VISIBLE_DEVICES, or all
    #[arg(long, value_name = "N")]
    per_gpu: Option<usize>,
    /// Retries of a stage run that is killed, or whose disk fails or GPU has no memory left, with increasing delays; unset: 2
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Where stage runs are worked on: in processes here, or as jobs of Slurm
    #[arg(long, value_enum, default_value_t = ExecutorArg::Local)]
    executor: ExecutorArg,
    /// Option for every Slurm job, such as --sbatch=--partition=gpu; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
}

/// Where stage runs are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExecutorArg {
    /// In processes on this machine
    Local,
    /// As jobs of Slurm
    Slurm,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a first sweep and an experiment, with comments that say what to change
    #[command(after_help = "\
Examples:
  mindscale init deep-or-wide
  mindscale init my-text --pretrain 'text/*.txt'")]
    Init(init::InitArgs),
    /// Train, examine and report every trial
    #[command(after_help = "\
Examples:
  mindscale run sweeps/deep_vs_wide_1m.toml --jobs 2
  mindscale run experiments/deep_vs_wide.toml --only 'model.n_layers == 4 and seed == 11'")]
    Run {
        #[command(flatten)]
        sweep: SweepArgs,
        #[command(flatten)]
        only: OnlyArg,
        #[command(flatten)]
        force: ForceArg,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Show the trials and what they cost, and which stage runs are there already
    #[command(after_help = "\
Examples: mindscale plan sweeps/deep_vs_wide_1m.toml --explain
          mindscale plan sweeps/deep_vs_wide_1m.toml --device h100 --precision bf16 --price-per-hour 2.50")]
    Plan {
        #[command(flatten)]
        sweep: SweepArgs,
        #[command(flatten)]
        only: OnlyArg,
        /// Say why a stage run is not there yet
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        on: plan::OnArgs,
    },
    /// Show what ran, runs, failed and is left
    #[command(after_help = "\
Without --set, --preset and MINDSCALE_* the layers of the last run are taken, as results/<name>/record.json has them.

Examples:
  mindscale status experiments/quickstart.toml --watch
  mindscale status experiments/quickstart.toml --web")]
    Status {
        #[command(flatten)]
        sweep: SweepArgs,
        #[command(flatten)]
        only: OnlyArg,
        /// Refresh every second until nothing is left to run
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        #[command(flatten)]
        web: web::WebArgs,
    },
    /// Take a sweep's jobs out of Slurm's queue
    #[command(after_help = "\
Without --set, --preset and MINDSCALE_* the layers of the last run are taken, as results/<name>/record.json has them.

Example: mindscale cancel sweeps/deep_vs_wide_1m.toml")]
    Cancel {
        #[command(flatten)]
        sweep: SweepArgs,
    },
    /// Show what no sweep refers to, and remove it with --delete
    #[command(after_help = "\
What a record.json in a folder of results refers to is kept as well: remove results/<name> to let it go.

Example: mindscale gc experiments/quickstart.toml sweeps/smoke.toml --delete")]
    Gc(gc::GcArgs),
    /// Write figures, tables and report again from recorded runs
    #[command(after_help = "\
Without --set, --preset and MINDSCALE_* the layers of the last run are taken, as results/<name>/record.json has them;
the stage runs of its trials are found by that record, without the data they were made from.

Examples:
  mindscale report experiments/quickstart.toml
  mindscale report sweeps/smoke.toml --set pretrain.lr=1e-3 --results other
  mindscale report sweeps/smoke.toml --set pretrain.lr=1e-3 --force")]
    Report {
        #[command(flatten)]
        sweep: SweepArgs,
        #[command(flatten)]
        force: ForceArg,
    },
    /// Examine a model on a folder of question sheets
    #[command(after_help = "Example: mindscale exam runs/dpo-... --sheets ceval/val --out questions.csv")]
    Exam(exam::ExamArgs),
    /// Measure how well a model predicts a text, behind contexts of several lengths
    #[command(after_help = "\
Longer contexts than the model was trained with are reached by scaling its rotary positions: linear interpolation, NTK-aware
scaling, YaRN. All lengths predict the same tokens, so that their perplexities compare.

Example: mindscale perplexity runs/pretrain-... --text books.jsonl --lengths 256,512,1024,2048 --out perplexity")]
    Perplexity(perplexity::PerplexityArgs),
    /// Generate text with a model
    #[command(after_help = "\
One text is printed as it comes; of several prompts, or with -n, each once it is complete, in order.

Examples:
  mindscale generate sft-cedd4909 --chat --prompt '你好' --max-tokens 64
  mindscale generate sft-cedd4909 --chat --prompts questions.txt -n 3 --stop '。' --json
  cat letter.txt | mindscale generate sft-cedd4909 --prompt - --temperature 0")]
    Generate(generate::GenerateArgs),
    /// Talk to a model in the terminal
    #[command(after_help = "\
A line that ends in \\ goes on in the next one; /help tells the commands; Ctrl-C stops an answer.

Example: mindscale chat sft-cedd4909 --temperature 0.5 --system '你是助手'")]
    Chat(chat::ChatArgs),
    /// Put answers of several models side by side
    #[command(after_help = "\
A judge reads every two answers to a prompt in both orders, without names. Its key is taken from OPENAI_API_KEY.

Examples:
  mindscale compare pretrain-3edf6050 sft-cedd4909 dpo-77aa10fe --temperature 0
  mindscale compare experiments/quickstart.toml --prompts questions.txt --out answers.html --out answers.csv
  mindscale compare old=sft-cedd4909 new=sft-0f12ab34 --judge https://api.openai.com/v1 --judge-model NAME")]
    Compare(compare::CompareArgs),
    /// Serve models over HTTP: OpenAI's endpoints and a web page
    #[command(after_help = "\
docs/serve.md has the endpoints. Ctrl-C lets answers finish first.

Examples:
  mindscale serve sft-cedd4909
  mindscale serve small=sft-cedd4909 deep=runs/dpo-... --port 9000 --api-key-file key.txt
  mindscale serve experiments/quickstart.toml")]
    Serve(serve::ServeArgs),
    /// Train, show and try tokenizers
    Tokenizer {
        #[command(subcommand)]
        verb: tokenizer::TokenizerVerb,
    },
    /// Prepare and look at training data
    Data {
        #[command(subcommand)]
        verb: data::DataVerb,
    },
    /// Download a model, a data set or an exam from the Hugging Face Hub
    #[command(after_help = "\
A download that was stopped goes on where it broke off, and every file is checked by its digest. HF_ENDPOINT names a
mirror, HF_TOKEN opens what is private or gated.

Examples:
  mindscale fetch minimind
  mindscale fetch ceval --out exams/ceval
  mindscale fetch hf:jingyaogong/minimind-v1 --include '*.json' --include '*.bin'")]
    Fetch(fetch::FetchArgs),
    /// Turn a model of MiniMind v1 or of transformers into a model folder
    #[command(after_help = "\
Read are folders as MiniMind v1 publishes them, its lone .pth files, folders of transformers: Llama, Mistral, Qwen3,
Qwen2-MoE and Qwen3-MoE, as far as they compute what is computed here, in one file or in several; and GGUF files of f32,
f16 and q8_0 as `export` writes them, with the tokenizer beside.

Examples:
  mindscale import MiniMind2-V1 my-model --tokenizer minimind_tokenizer
  mindscale import full_sft_512.pth my-model --tokenizer minimind_tokenizer")]
    Import(import::ImportArgs),
    /// Write a model for other programs: transformers, llama.cpp, MiniMind v1
    #[command(after_help = "\
Examples:
  mindscale export sft-cedd4909 --to hf --out my-model
  mindscale export sft-cedd4909 --to gguf --type q8_0 --out my-model
  mindscale export experiments/quickstart.toml --best exam_accuracy --to hf --out best")]
    Export(export::ExportArgs),
    /// Compare, test and fit tables of scores
    Stats {
        #[command(subcommand)]
        verb: stats::StatsVerb,
    },
    /// Measure how fast this machine trains, examines, tokenizes and writes
    Bench {
        #[command(subcommand)]
        verb: bench::BenchVerb,
    },
    /// Print the JSON Schema by which editors complete and check sweep and experiment files, or what presets hold
    #[command(after_help = "\
With Taplo, or Even Better TOML in VS Code, write #:schema sweep.schema.json as the first line of a sweep file.

Examples:
  mindscale schema sweep > sweep.schema.json
  mindscale schema presets")]
    Schema {
        /// What is printed
        #[arg(value_enum, default_value_t = schema::FileKind::Sweep)]
        kind: schema::FileKind,
    },
    /// Print the script by which a shell completes verbs and options
    #[command(
        after_help = "Example: mindscale completions bash > ~/.local/share/bash-completion/completions/mindscale"
    )]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each verb
    #[command(after_help = "Example: mindscale man --out ~/.local/share/man/man1")]
    Man(shell::ManArgs),
    /// Describe this machine and check its arithmetic
    #[command(after_help = "\
Every operation of training and of inference is compared with a second, plain implementation, on the processor and on
each GPU. Exit code 1 where one is off.

Example: mindscale doctor --json")]
    Doctor(doctor::DoctorArgs),
    /// Work on one stage run, as a child of `run`
    #[command(hide = true, name = crate::execute::child::VERB)]
    StageRun {
        /// The request
        request: PathBuf,
        /// Nobody holds the standard input: it is a job, which was queued again so often
        #[arg(long)]
        restarts: Option<u32>,
    },
}

/// Runs the command line: 0 on success, 1 on failure, 2 on wrong usage.
pub fn main() -> ExitCode {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let cli = Cli::parse();
    if let Err(error) = model::backend::cpu::gemm::Path::asked() {
        return end(Err(error.into()));
    }
    let outcome = match cli.verb {
        Verb::Init(args) => init::init(&args),
        Verb::Run { sweep, only, force, how } => run::run(&sweep, &only, force.force, &how),
        Verb::Plan { sweep, only, explain, on } => plan::plan(&sweep, &only, explain, &on),
        Verb::Status { sweep, only, watch, web } => status::status(&sweep, &only, watch, web),
        Verb::Gc(args) => gc::gc(&args),
        Verb::Report { sweep, force } => report::report(&sweep, force.force),
        Verb::Exam(args) => exam::exam(&args),
        Verb::Perplexity(args) => perplexity::perplexity(&args),
        Verb::Generate(args) => generate::generate(&args),
        Verb::Chat(args) => chat::chat(&args),
        Verb::Compare(args) => compare::compare(&args),
        Verb::Serve(args) => serve::serve(&args),
        Verb::Stats { verb } => stats::stats(&verb),
        Verb::Bench { verb } => bench::bench(&verb),
        Verb::Schema { kind } => schema::schema(kind),
        Verb::Completions { shell } => shell::completions(shell),
        Verb::Man(args) => shell::man(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Tokenizer { verb } => tokenizer::tokenizer(&verb),
        Verb::Data { verb } => data::data(&verb),
        Verb::Fetch(args) => fetch::fetch(&args),
        Verb::Import(args) => import::import(&args),
        Verb::Export(args) => export::export(&args),
        Verb::Cancel { sweep } => cancel::cancel(&sweep),
        Verb::StageRun { request, restarts } => return end(stage_run::stage_run(&request, restarts)),
    };
    end(outcome.map(|is_well| if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// Tells an error, and turns it into an exit code.
fn end(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Says something beside the output, which programs may read.
fn note(text: &str) {
    eprintln!("note: {text}");
}

/// Prints a line; a reader that has gone away is an error that ends the program quietly.
fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

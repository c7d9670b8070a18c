//! The command line, one module per verb. *Invariant:* only this folder prints to stdout.
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
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
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

/// A sweep or experiment file and its options.
#[derive(Debug, Args)]
struct SweepArgs {
    /// A sweep file, or an experiment file that names sweeps
    file: PathBuf,
    #[command(flatten)]
    with: ReadArgs,
}

/// Options that determine how sweeps and experiments are read.
#[derive(Debug, Clone, Args)]
struct ReadArgs {
    /// Folder of stage runs; unset: runs, or for verbs that look at an earlier run, the folder of that run
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Folder of results; each sweep and experiment has a subfolder of its name, which belongs to a single file
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// Set a key, such as pretrain.lr=1e-3; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Preset to start from, such as minimind; `mindscale schema presets` prints them all
    #[arg(long)]
    preset: Option<String>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

impl SweepArgs {
    /// Reads the sweep or experiment.
    fn read(&self, layers: Layers) -> anyhow::Result<Work> {
        Work::read(&self.file, &self.with.options(), layers)
    }

    /// Reads the sweep or experiment, restricted to some of its trials.
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

/// Restriction to some of the trials.
#[derive(Debug, Clone, Args)]
struct OnlyArg {
    /// Use only the trials that meet a condition, such as 'model.n_layers == 4 and seed <= 2'; the others are left as
    /// they are
    #[arg(long, value_name = "CONDITION")]
    only: Option<String>,
}

/// Permission to lose results.
#[derive(Debug, Clone, Copy, Args)]
struct ForceArg {
    /// Replace existing results even if they show more finished trials than the new ones
    #[arg(long)]
    force: bool,
}

/// Where stage runs are executed, their limits, and how often they are retried.
#[derive(Debug, Clone, Args)]
struct HowArgs {
    /// Stage runs to execute at the same time; unset: as many as cores and memory allow, but no more than there are
    /// trials
    #[arg(long)]
    jobs: Option<usize>,
    /// Time limit of a trial, its stages and exams together, such as 30m; when it expires, the trial writes a
    /// checkpoint and counts as failed
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time_limit: Option<Duration>,
    /// Memory limit of a stage run, such as 2GiB; a stage run that exceeds it is killed and counts as failed
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<u64>,
    /// Stage runs to execute at the same time on each GPU with device = cuda, as far as the memory forecast of `plan`
    /// allows; 0: as many as fit; unset: 1. Uses the GPUs of CUDA_VISIBLE_DEVICES, or all
    #[arg(long, value_name = "N")]
    per_gpu: Option<usize>,
    /// Retries, with increasing delays, of a stage run that is killed, meets a disk error or runs out of GPU memory;
    /// unset: 2
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Where to execute stage runs: in local processes or as Slurm jobs
    #[arg(long, value_enum, default_value_t = ExecutorArg::Local)]
    executor: ExecutorArg,
    /// Additional option for every Slurm job, such as --sbatch=--partition=gpu; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    sbatch: Vec<String>,
}

/// Where stage runs are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExecutorArg {
    /// In processes on this machine
    Local,
    /// As jobs of Slurm
    Slurm,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the files of a new sweep and experiment, with comments that explain what to change
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
    /// Show the trials, their cost, and which stage runs exist already
    #[command(after_help = "\
Examples: mindscale plan sweeps/deep_vs_wide_1m.toml --explain
          mindscale plan sweeps/deep_vs_wide_1m.toml --device h100 --precision bf16 --price-per-hour 2.50")]
    Plan {
        #[command(flatten)]
        sweep: SweepArgs,
        #[command(flatten)]
        only: OnlyArg,
        /// Explain why each missing stage run has to be run
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        on: plan::OnArgs,
    },
    /// Show which trials and stages are done, running, failed or pending
    #[command(after_help = "\
Without --set, --preset and MINDSCALE_*, the layers of the last run are used, as recorded in results/<name>/record.json.

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
    /// Cancel a sweep's Slurm jobs
    #[command(after_help = "\
Without --set, --preset and MINDSCALE_*, the layers of the last run are used, as recorded in results/<name>/record.json.

Example: mindscale cancel sweeps/deep_vs_wide_1m.toml")]
    Cancel {
        #[command(flatten)]
        sweep: SweepArgs,
    },
    /// List stage runs that no sweep or record refers to; remove them with --delete
    #[command(after_help = "\
Stage runs that a record.json in a folder of results refers to are kept as well; remove results/<name> to release them.

Example: mindscale gc experiments/quickstart.toml sweeps/smoke.toml --delete")]
    Gc(gc::GcArgs),
    /// Rewrite figures, tables and report from recorded runs
    #[command(after_help = "\
Without --set, --preset and MINDSCALE_*, the layers of the last run are used, as recorded in results/<name>/record.json;
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
    /// Measure how well a model predicts a text, given contexts of several lengths
    #[command(after_help = "\
Longer contexts than the model was trained with are reached by scaling its rotary positions: linear interpolation, NTK-aware
scaling, YaRN. All lengths predict the same tokens, so that their perplexities compare.

Example: mindscale perplexity runs/pretrain-... --text books.jsonl --lengths 256,512,1024,2048 --out perplexity")]
    Perplexity(perplexity::PerplexityArgs),
    /// Generate text with a model
    #[command(after_help = "\
A single text is printed as it is generated; with several prompts or -n, each is printed once it is complete, in order.

Examples:
  mindscale generate sft-cedd4909 --chat --prompt '你好' --max-tokens 64
  mindscale generate sft-cedd4909 --chat --prompts questions.txt -n 3 --stop '。' --json
  cat letter.txt | mindscale generate sft-cedd4909 --prompt - --temperature 0")]
    Generate(generate::GenerateArgs),
    /// Chat with a model in the terminal
    #[command(after_help = "\
A line that ends in \\ continues on the next one; /help lists the commands; Ctrl-C stops an answer.

Example: mindscale chat sft-cedd4909 --temperature 0.5 --system '你是助手'")]
    Chat(chat::ChatArgs),
    /// Show the answers of several models side by side, and optionally have them judged
    #[command(after_help = "\
A judge compares every pair of answers to a prompt in both orders, without names. Its API key is read from OPENAI_API_KEY.

Examples:
  mindscale compare pretrain-3edf6050 sft-cedd4909 dpo-77aa10fe --temperature 0
  mindscale compare experiments/quickstart.toml --prompts questions.txt --out answers.html --out answers.csv
  mindscale compare old=sft-cedd4909 new=sft-0f12ab34 --judge https://api.openai.com/v1 --judge-model NAME")]
    Compare(compare::CompareArgs),
    /// Serve models over HTTP: an OpenAI-compatible API and a web page
    #[command(after_help = "\
docs/serve.md describes the endpoints. Ctrl-C stops the server once answers in progress are finished.

Examples:
  mindscale serve sft-cedd4909
  mindscale serve small=sft-cedd4909 deep=runs/dpo-... --port 9000 --api-key-file key.txt
  mindscale serve experiments/quickstart.toml")]
    Serve(serve::ServeArgs),
    /// Train, inspect and try out tokenizers
    Tokenizer {
        #[command(subcommand)]
        verb: tokenizer::TokenizerVerb,
    },
    /// Prepare and inspect training data
    Data {
        #[command(subcommand)]
        verb: data::DataVerb,
    },
    /// Download a model, a data set or an exam from the Hugging Face Hub
    #[command(after_help = "\
Interrupted downloads are resumed, and the digest of every file is checked. HF_ENDPOINT sets a mirror, HF_TOKEN gives
access to private and gated repositories.

Examples:
  mindscale fetch minimind
  mindscale fetch ceval --out exams/ceval
  mindscale fetch hf:jingyaogong/minimind-v1 --include '*.json' --include '*.bin'")]
    Fetch(fetch::FetchArgs),
    /// Convert a model of MiniMind v1 or of transformers into a model folder
    #[command(after_help = "\
Supported are folders as published by MiniMind v1, its single .pth files, transformers folders of Llama, Mistral, Qwen3,
Qwen2-MoE and Qwen3-MoE in one or several weight files, if their architecture is supported, and GGUF files in f32, f16
or q8_0 as `export` writes them, with the tokenizer in the same folder.

Examples:
  mindscale import MiniMind2-V1 my-model --tokenizer minimind_tokenizer
  mindscale import full_sft_512.pth my-model --tokenizer minimind_tokenizer")]
    Import(import::ImportArgs),
    /// Export a model for other programs: transformers, llama.cpp, MiniMind v1
    #[command(after_help = "\
Examples:
  mindscale export sft-cedd4909 --to hf --out my-model
  mindscale export sft-cedd4909 --to gguf --type q8_0 --out my-model
  mindscale export experiments/quickstart.toml --best exam_accuracy --to hf --out best")]
    Export(export::ExportArgs),
    /// Statistics on tables of scores: comparisons, tests, power and fits
    Stats {
        #[command(subcommand)]
        verb: stats::StatsVerb,
    },
    /// Measure how fast this machine trains, examines, tokenizes and generates
    Bench {
        #[command(subcommand)]
        verb: bench::BenchVerb,
    },
    /// Print the JSON Schema with which editors complete and check sweep and experiment files, or the presets
    #[command(after_help = "\
With Taplo, or Even Better TOML in VS Code, write #:schema sweep.schema.json as the first line of a sweep file.

Examples:
  mindscale schema sweep > sweep.schema.json
  mindscale schema presets")]
    Schema {
        /// What to print
        #[arg(value_enum, default_value_t = schema::FileKind::Sweep)]
        kind: schema::FileKind,
    },
    /// Print a shell's completion script for verbs and options
    #[command(
        after_help = "Example: mindscale completions bash > ~/.local/share/bash-completion/completions/mindscale"
    )]
    Completions {
        /// The shell to complete for
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each verb
    #[command(after_help = "Example: mindscale man --out ~/.local/share/man/man1")]
    Man(shell::ManArgs),
    /// Describe this machine and check that it computes correctly
    #[command(after_help = "\
Every operation of training and of inference is compared with a second, plain implementation, on the processor and on
each GPU. The exit code is 1 if any differs.

Example: mindscale doctor --json")]
    Doctor(doctor::DoctorArgs),
    /// Execute one stage run, as a child process of `run`
    #[command(hide = true, name = crate::execute::child::VERB)]
    StageRun {
        /// File of the request
        request: PathBuf,
        /// Number of times that this Slurm job has been requeued; set only for jobs, whose standard input has no writer
        #[arg(long)]
        restarts: Option<u32>,
    },
}

/// Runs the command line; exits with 0 on success, 1 on failure and 2 on wrong usage.
pub fn main() -> ExitCode {
    let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    let parsed = Cli::from_arg_matches(&with_negative_numbers(Cli::command()).get_matches());
    let cli = parsed.unwrap_or_else(|error| error.exit());
    if let Err(error) = model::backend::cpu::gemm::Path::from_env() {
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

/// Takes -1 after an option as its value, whose range the error then names, and not as another option.
fn with_negative_numbers(command: Command) -> Command {
    let takes_value = |arg: &Arg| !arg.is_positional() && arg.get_action().takes_values();
    command
        .mut_args(|arg| if takes_value(&arg) { arg.allow_negative_numbers(true) } else { arg })
        .mut_subcommands(with_negative_numbers)
}

/// Parses an option that counts something.
fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number of 0 or more".to_owned())
}

/// Prints an error to stderr and turns the outcome into an exit code.
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

/// Prints a note to stderr, because stdout may be read by programs.
fn note(text: &str) {
    eprintln!("note: {text}");
}

/// Prints a line to stdout; a closed pipe is an error that ends the program quietly.
fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

//! The verbs over single files: exam, tokenizer, data, import.

use super::model_arg::ModelArg;
use super::say;
use crate::config::{Answer, BadRow, DataConfig, ExamConfig, RowStyle, UnknownKeys, WorldConfig, largest};
use crate::data::chat::ChatTemplate;
use crate::data::prepare::{Preparation, prepare};
use crate::data::read::{ReadOptions, rows};
use crate::data::tokenizer::SMALLEST_VOCAB;
use crate::data::world::World;
use crate::data::{Kind, Message, Row, Tokenizer};
use crate::exam::{Prompter, Questions, Sheet, letters, notices, scores};
use crate::run::files::{create_dir, write_atomic};
use crate::run::inputs::expand;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use model::{Cpu, Transformer, Weights, folder};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// How questions are answered.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AnswerArg {
    Letter,
    Cloze,
}

/// Arguments of `exam`.
#[derive(Debug, Args)]
pub struct ExamArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Folder of <subject>_val.csv sheets
    #[arg(long)]
    sheets: PathBuf,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// How questions are answered
    #[arg(long, value_enum, default_value = "letter")]
    answer: AnswerArg,
    /// Solved questions before each question, from the sheets of --dev
    #[arg(long, default_value_t = 0, requires = "dev")]
    shots: usize,
    /// Folder of <subject>_dev.csv sheets
    #[arg(long)]
    dev: Option<PathBuf>,
    /// System text in front of each prompt; empty leaves it out
    #[arg(long, default_value_t = ExamConfig::default().system)]
    system: String,
    /// Write the answers to this CSV file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Examines a model.
pub fn exam(args: &ExamArgs) -> Result<bool> {
    let Questions { sheets, shots } = Questions::read(&args.sheets, args.dev.as_deref(), args.shots)?;
    let dir = args.model.folder()?;
    let tokenizer = Tokenizer::load(args.tokenizer.as_deref().unwrap_or(&dir))?;
    let transformer = Transformer::load(&dir, &Cpu)?;
    let answer = match args.answer {
        AnswerArg::Letter => Answer::Letter,
        AnswerArg::Cloze => Answer::Cloze,
    };
    let max_len = transformer.config.max_seq_len;
    let prompter = Prompter { system: args.system.clone(), max_len, shots, answer };
    // Ctrl-C ends the program: nothing is written before the end.
    let stop = AtomicBool::new(false);
    let prompts = prompter.prompts(&tokenizer, &sheets, &stop)?;
    let records = crate::exam::sit(&transformer, &sheets, &prompts, answer, &stop, &|_| ())
        .with_context(|| dir.display().to_string())?;
    if let Some(out) = &args.out {
        write_atomic(out, &crate::exam::questions_csv(&records)?)?;
    }
    let scores = scores(&records, &prompts);
    for notice in notices(&scores, max_len) {
        eprintln!("{notice}");
    }
    if args.json {
        say(serde_json::to_string_pretty(&scores)?)?;
        return Ok(true);
    }
    for s in &scores {
        let (low, high) = s.interval;
        let share = [s.accuracy, low, high].map(|v| format!("{:.1}", 100.0 * v));
        let [share, low, high] = share;
        let row = format!(
            "{:<44} {:>5}/{:<5} {share:>5} %  [{low}, {high}]  p = {:.3}",
            s.subject, s.correct, s.questions, s.p_guess
        );
        say(row)?;
    }
    let total = &scores[scores.len() - 1];
    let verdict = if total.p_guess < 0.05 { "differs from" } else { "cannot be told from" };
    say(format!("the total {verdict} guessing (exact binomial test, p = {:.3})", total.p_guess))?;
    Ok(true)
}

/// Verbs over tokenizers.
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
        /// Entries, special tokens included
        #[arg(long, default_value_t = 6400, value_parser = vocab_size)]
        vocab_size: usize,
        /// Folder to write
        #[arg(long)]
        out: PathBuf,
    },
    /// Show a tokenizer's size, special tokens and letters
    Show {
        /// A tokenizer.json or its folder
        path: PathBuf,
    },
    /// Text to ids
    Encode {
        /// A tokenizer.json or its folder
        path: PathBuf,
        /// The text
        text: String,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
    },
    /// Ids to text
    Decode {
        /// A tokenizer.json or its folder
        path: PathBuf,
        /// The ids
        ids: Vec<u32>,
    },
}

/// A size that a vocabulary can have.
fn vocab_size(text: &str) -> std::result::Result<usize, String> {
    let most = largest("model.vocab_size").unwrap_or(usize::MAX);
    let size = text.parse().ok().filter(|size| (SMALLEST_VOCAB..=most).contains(size));
    size.ok_or_else(|| format!("expected {SMALLEST_VOCAB} (3 special tokens and 256 bytes) to {most}"))
}

/// Trains, shows and tries tokenizers.
pub fn tokenizer(verb: &TokenizerVerb) -> Result<bool> {
    match verb {
        TokenizerVerb::Train { files, vocab_size, out } => {
            let (files, options) = (named(files)?, ReadOptions::new(&DataConfig::default()));
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
        TokenizerVerb::Show { path } => {
            let tokenizer = Tokenizer::load(path)?;
            say(format!("{} entries", tokenizer.vocab_size()))?;
            match letters(&tokenizer) {
                Ok(ids) => say(format!("A B C D as answers: {ids:?}"))?,
                Err(error) => say(format!("A B C D as answers: {error:#}"))?,
            }
            say(format!("answers begin after {:?}", tokenizer.answer_marker()?))?;
            let example = [Message::new("user", "你好"), Message::new("assistant", "你好！")];
            say(format!("a conversation: {:?}", tokenizer.render(&example)?))?;
        }
        TokenizerVerb::Encode { path, text, json } => {
            let tokenizer = Tokenizer::load(path)?;
            let ids = tokenizer.encode(text)?;
            if *json {
                say(serde_json::to_string(&ids)?)?;
            } else {
                for id in ids {
                    say(format!("{id}\t{:?}", tokenizer.decode(&[id], false)?))?;
                }
            }
        }
        TokenizerVerb::Decode { path, ids } => say(Tokenizer::load(path)?.decode(ids, false)?)?,
    }
    Ok(true)
}

/// What files are read for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KindArg {
    /// Pretraining text
    Pretrain,
    /// Conversations
    Sft,
    /// Preference pairs
    Dpo,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Pretrain => Self::Pretrain,
            KindArg::Sft => Self::Conversations,
            KindArg::Dpo => Self::Preferences,
        }
    }
}

/// Verbs over data.
#[derive(Debug, Subcommand)]
pub enum DataVerb {
    /// Tokenize files into a store
    #[command(
        after_help = "Example: mindscale data prepare --kind pretrain --tokenizer my-tokenizer --out store data/*.jsonl"
    )]
    Prepare {
        /// Files or globs
        #[arg(required = true)]
        files: Vec<String>,
        /// What the files are read for
        #[arg(long, value_enum)]
        kind: KindArg,
        /// A tokenizer.json or its folder
        #[arg(long)]
        tokenizer: PathBuf,
        /// Folder to write
        #[arg(long)]
        out: PathBuf,
        /// Leave out rows that cannot be read
        #[arg(long)]
        skip_bad_rows: bool,
        /// Read on without content under keys or in columns that are not used
        #[arg(long)]
        ignore_unknown_keys: bool,
        /// Make control tokens of special tokens such as </s> that texts spell
        #[arg(long)]
        special_tokens_in_text: bool,
        /// Make the rows of conversations exactly as MiniMind v1 does
        #[arg(long)]
        minimind_rows: bool,
    },
    /// Show the first rows of files
    Show {
        /// Files or globs
        #[arg(required = true)]
        files: Vec<String>,
        /// What the files are read for
        #[arg(long, value_enum)]
        kind: KindArg,
        /// Rows to show
        #[arg(long, default_value_t = 3)]
        rows: usize,
        /// Leave out rows that cannot be read
        #[arg(long)]
        skip_bad_rows: bool,
        /// Read on without content under keys or in columns that are not used
        #[arg(long)]
        ignore_unknown_keys: bool,
    },
    /// Write the built-in world as files
    #[command(after_help = "Example: mindscale data world my-world --people 60")]
    World {
        /// Folder to write
        out: PathBuf,
        /// Invented people
        #[arg(long)]
        people: Option<usize>,
        /// Seed of the world
        #[arg(long)]
        seed: Option<u64>,
    },
}

/// Prepares and shows data.
pub fn data(verb: &DataVerb) -> Result<bool> {
    match verb {
        DataVerb::Prepare {
            files,
            kind,
            tokenizer,
            out,
            skip_bad_rows,
            ignore_unknown_keys,
            special_tokens_in_text,
            minimind_rows,
        } => {
            let files = named(files)?;
            let config = DataConfig {
                special_tokens_in_text: *special_tokens_in_text,
                rows: if *minimind_rows { RowStyle::Minimind } else { RowStyle::Turns },
                ..read_config(*skip_bad_rows, *ignore_unknown_keys)
            };
            let (options, kind) = (ReadOptions::new(&config), Kind::from(*kind));
            let tokenizer = Tokenizer::load(tokenizer)?;
            let preparation = Preparation::new(kind, &tokenizer, &config, &options.log);
            let stop = AtomicBool::new(false);
            let prepared = prepare(rows(&files, kind, &options), &preparation, out, &stop, &|_| ())?;
            let read = options.log.report();
            let summary = serde_json::json!({ "prepared": prepared, "read": read });
            write_atomic(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
            read.problems.iter().try_for_each(|problem| say(format!("left out: {problem}")))?;
            read.notices("data").iter().try_for_each(say)?;
            prepared.notices("data", &preparation).iter().try_for_each(say)?;
            say(format!(
                "{} rows to train on, {} held out, {} tokens, {} rows left out",
                prepared.train_rows,
                prepared.val_rows,
                prepared.tokens,
                read.left_out() + prepared.equal
            ))?;
        }
        DataVerb::Show { files, kind, rows: count, skip_bad_rows, ignore_unknown_keys } => {
            let files = named(files)?;
            let options = ReadOptions::new(&read_config(*skip_bad_rows, *ignore_unknown_keys));
            for row in rows(&files, (*kind).into(), &options).take(*count) {
                say(format!("{:#?}", row?))?;
            }
            let read = options.log.report();
            read.notices("rows read").iter().try_for_each(say)?;
        }
        DataVerb::World { out, people, seed } => {
            let mut config = WorldConfig::default();
            config.people = people.unwrap_or(config.people);
            config.seed = seed.unwrap_or(config.seed);
            if !(4..=World::MOST_PEOPLE).contains(&config.people) {
                bail!("--people {}: expected 4 to {}", config.people, World::MOST_PEOPLE);
            }
            write_world(&World::generate(&config), out)?;
            say(out.display())?;
        }
    }
    Ok(true)
}

/// The files that arguments name; what was named twice is told.
fn named(patterns: &[String]) -> Result<Vec<PathBuf>> {
    let named = expand(patterns, "files")?;
    if let Some(notice) = named.notice("files") {
        say(notice)?;
    }
    Ok(named.files)
}

fn read_config(skip_bad_rows: bool, ignore_unknown_keys: bool) -> DataConfig {
    DataConfig {
        on_bad_row: if skip_bad_rows { BadRow::Skip } else { BadRow::Error },
        unknown_keys: if ignore_unknown_keys { UnknownKeys::Ignore } else { UnknownKeys::Error },
        ..DataConfig::default()
    }
}

fn write_world(world: &World, out: &Path) -> Result<()> {
    create_dir(&out.join("sheets"))?;
    let turn = |message: &Message| {
        let mut turn = serde_json::json!(message);
        if let Some(trained) = message.trained {
            turn["train"] = trained.into();
        }
        turn
    };
    let json = |row: Row| match row {
        Row::Text(text) => serde_json::json!({ "text": text }),
        Row::Chat(turns) => {
            serde_json::json!({ "conversations": turns.iter().map(turn).collect::<Vec<_>>() })
        }
        Row::Preference { prompt, chosen, rejected } => {
            let with = |answer| [prompt.clone(), vec![Message::new("assistant", answer)]].concat();
            serde_json::json!({ "chosen": with(chosen), "rejected": with(rejected) })
        }
    };
    let lines =
        |rows: &mut dyn Iterator<Item = Row>| rows.map(|row| format!("{}\n", json(row))).collect::<String>();
    // One file has one layout.
    let is_text = |row: &Row| matches!(row, Row::Text(_));
    let mut texts = world.pretrain_rows().filter(is_text);
    let mut told = world.pretrain_rows().filter(|row| !is_text(row));
    write_atomic(&out.join("pretrain.jsonl"), lines(&mut texts).as_bytes())?;
    write_atomic(&out.join("pretrain_conversations.jsonl"), lines(&mut told).as_bytes())?;
    write_atomic(&out.join("sft.jsonl"), lines(&mut world.sft_rows()).as_bytes())?;
    write_atomic(&out.join("dpo.jsonl"), lines(&mut world.dpo_rows()).as_bytes())?;
    let write = |sheet: &Sheet, split: &str| {
        write_atomic(&out.join("sheets").join(format!("{}_{split}.csv", sheet.subject)), &sheet.csv()?)
    };
    world.sheets().iter().try_for_each(|sheet| write(sheet, "val"))?;
    world.dev_sheets(SOLVED).iter().try_for_each(|sheet| write(sheet, "dev"))
}

/// Solved questions of each subject that are written out, as many as C-Eval's sheets have.
const SOLVED: usize = 5;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A folder as MiniMind publishes it: config.json and pytorch_model.bin, *.pth or model.safetensors
    from: PathBuf,
    /// The model folder to write
    to: PathBuf,
    /// Weights, where they lie elsewhere
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

/// Turns a MiniMind checkpoint into a model folder.
pub fn import(args: &ImportArgs) -> Result<bool> {
    let transformer = match &args.weights {
        Some(path) => {
            let config = folder::read_config(&args.from.join("config.json"))?;
            let weights = Weights::from_tensors(&config, folder::read_weights(path)?, path)?;
            Transformer::from_weights(&config, weights, &Cpu)?
        }
        None => Transformer::load(&args.from, &Cpu)?,
    };
    let tokenizer = args.tokenizer.as_deref().unwrap_or(&args.from);
    crate::train::save_model(&transformer, &args.to, tokenizer).context("the model folder")?;
    if let Some(why) = Tokenizer::load(&args.to)?.no_template() {
        say(format!("no chats, fine-tuning or exams with it: {why}"))?;
    }
    say(format!(
        "{} parameters in {}",
        crate::track::number(transformer.config.params() as u64),
        args.to.display()
    ))?;
    Ok(true)
}

//! The verb `data`: prepares and inspects training data.

use super::{note, say};
use crate::config::{BadRow, DataConfig, RowStyle, UnknownKeys, WorldConfig};
use crate::data::files::expand;
use crate::data::prepare::{Part, Preparation, prepare};
use crate::data::read::{Advice, ReadOptions, rows};
use crate::data::world::World;
use crate::data::{Kind, Message, Row, Tokenizer};
use crate::exam::contamination::{Contamination, Index, Place};
use crate::exam::{Sheet, read_sheets};
use crate::fsutil::{create_dir, write_atomic};
use crate::records::Notice;
use crate::track::{counted, number, table};
use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the files contain.
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

/// Verbs on data.
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
        /// What the files contain
        #[arg(long, value_enum)]
        kind: KindArg,
        /// A tokenizer.json or its folder
        #[arg(long)]
        tokenizer: PathBuf,
        /// Folder to write to
        #[arg(long)]
        out: PathBuf,
        /// Leave out rows that cannot be read
        #[arg(long)]
        skip_bad_rows: bool,
        /// Skip content under unknown keys or in unknown columns
        #[arg(long)]
        ignore_unknown_keys: bool,
        /// Turn special tokens that texts spell out, such as </s>, into control tokens
        #[arg(long)]
        special_tokens_in_text: bool,
        /// Make rows of conversations exactly as MiniMind v1 does
        #[arg(long)]
        minimind_rows: bool,
    },
    /// Show the first rows of files, as they are read
    Show {
        /// Files or globs
        #[arg(required = true)]
        files: Vec<String>,
        /// What the files contain
        #[arg(long, value_enum)]
        kind: KindArg,
        /// Number of rows to show
        #[arg(long, default_value_t = 3)]
        rows: usize,
        /// Leave out rows that cannot be read
        #[arg(long)]
        skip_bad_rows: bool,
        /// Skip content under unknown keys or in unknown columns
        #[arg(long)]
        ignore_unknown_keys: bool,
    },
    /// Search texts for exam questions
    ///
    /// A question is contaminated if 13 consecutive words of it, or the whole question if it has 8 to 12 words, occur
    /// in a row of the files. Chinese characters count as words.
    #[command(
        after_help = "Example: mindscale data contamination --sheets ceval/val --kind pretrain --text 'data/*.jsonl' --out found.csv"
    )]
    Contamination {
        /// Folder of <subject>_val.csv sheets
        #[arg(long)]
        sheets: PathBuf,
        /// Files or globs of text
        #[arg(long, required = true, num_args = 1..)]
        text: Vec<String>,
        /// What the files contain
        #[arg(long, value_enum)]
        kind: KindArg,
        /// CSV file to write the findings to, one row per question and file
        #[arg(long)]
        out: Option<PathBuf>,
        /// Leave out rows that cannot be read
        #[arg(long)]
        skip_bad_rows: bool,
        /// Skip content under unknown keys or in unknown columns
        #[arg(long)]
        ignore_unknown_keys: bool,
        /// Print machine-readable JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the built-in world as files
    #[command(after_help = "Example: mindscale data world my-world --people 60")]
    World {
        /// Folder to write to
        out: PathBuf,
        /// Number of invented people; unset: as many as the default of world.people
        #[arg(long)]
        people: Option<usize>,
        /// Seed of the world; unset: the default of world.seed
        #[arg(long)]
        seed: Option<u64>,
    },
}

/// Runs a verb on data.
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
            let files = named(files, "files", false)?;
            let config = DataConfig {
                special_tokens_in_text: *special_tokens_in_text,
                rows: if *minimind_rows { RowStyle::Minimind } else { RowStyle::Turns },
                ..read_config(*skip_bad_rows, *ignore_unknown_keys)
            };
            let (options, kind) = (ReadOptions::new(&config).advising(Advice::OPTIONS), Kind::from(*kind));
            let tokenizer = Tokenizer::load(tokenizer)?;
            let preparation = Preparation::new(kind, &tokenizer, &config, &options.log);
            let stop = AtomicBool::new(false);
            let parts = Part::all(rows(&files, kind, &options));
            let prepared = prepare(parts, &preparation, out, &stop, &|_| ())?;
            let read = options.log.report();
            let summary = serde_json::json!({ "prepared": prepared, "read": read });
            write_atomic(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
            read.problems.iter().try_for_each(|problem| say(format!("left out: {problem}")))?;
            read.notices("data").iter().try_for_each(say)?;
            prepared.notices("data", &preparation).iter().try_for_each(say)?;
            say(format!(
                "{} to train on, {} held out, {} tokens, {} left out",
                counted(prepared.train_rows as usize, "row"),
                number(prepared.val_rows),
                number(prepared.tokens),
                number(read.left_out() + prepared.equal)
            ))?;
        }
        DataVerb::Show { files, kind, rows: count, skip_bad_rows, ignore_unknown_keys } => {
            let files = named(files, "files", false)?;
            let options = read_options(*skip_bad_rows, *ignore_unknown_keys);
            for (number, row) in (1..).zip(rows(&files, (*kind).into(), &options).take(*count)) {
                say(format!("row {number}\n{}", row?))?;
            }
            let read = options.log.report();
            read.notices("rows read").iter().try_for_each(say)?;
        }
        DataVerb::Contamination { sheets, text, kind, out, skip_bad_rows, ignore_unknown_keys, json } => {
            let options = read_options(*skip_bad_rows, *ignore_unknown_keys);
            let files = named(text, "--text", *json)?;
            let found = contamination(sheets, &files, (*kind).into(), &options)?;
            let read = options.log.report();
            read.notices("--text").iter().try_for_each(|notice| print_notice(notice, *json))?;
            if let Some(out) = out {
                write_atomic(out, &found.csv()?)?;
            }
            match json {
                true => say(serde_json::to_string_pretty(&found)?)?,
                false => print_findings(&found)?,
            }
        }
        DataVerb::World { out, people, seed } => {
            let mut config = WorldConfig::default();
            config.people = people.unwrap_or(config.people);
            config.seed = seed.unwrap_or(config.seed);
            if !(4..=WorldConfig::MAX_PEOPLE).contains(&config.people) {
                bail!("--people {}: expected 4 to {}", config.people, WorldConfig::MAX_PEOPLE);
            }
            write_world(&World::generate(&config), out)?;
            say(out.display())?;
        }
    }
    Ok(true)
}

/// Returns the files that the patterns of an argument match; reports files that were named twice.
pub fn named(patterns: &[String], argument: &str, is_json: bool) -> Result<Vec<PathBuf>> {
    let named = expand(patterns, argument)?;
    named.notice(argument).iter().try_for_each(|notice| print_notice(notice, is_json))?;
    Ok(named.files)
}

/// Prints a notice; to stderr if stdout is JSON.
fn print_notice(notice: &Notice, is_json: bool) -> Result<()> {
    match is_json {
        true => note(&notice.to_string()),
        false => say(notice)?,
    }
    Ok(())
}

/// Searches files for the questions of a folder of sheets.
fn contamination(
    sheets: &Path,
    files: &[PathBuf],
    kind: Kind,
    options: &ReadOptions,
) -> Result<Contamination> {
    let sheets = read_sheets(sheets, "val")?;
    let texts = files.iter().flat_map(|file| {
        let place = Place { file: file.display().to_string(), ..Place::default() };
        let place = Arc::new(place);
        let rows = rows(std::slice::from_ref(file), kind, options);
        rows.map(move |row| Ok((Arc::clone(&place), row?.texts().collect::<Vec<_>>().join("\n"))))
    });
    Index::new(&sheets).search(texts, &AtomicBool::new(false))
}

/// Prints the findings by subject and file, and the total.
fn print_findings(found: &Contamination) -> Result<()> {
    let mut by_place: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for met in &found.met {
        let (questions, texts) = by_place.entry((&met.subject, &met.place.file)).or_default();
        *questions += 1;
        *texts += met.texts;
    }
    let row = |((subject, file), (questions, texts)): (&(&str, &str), &(u64, u64))| {
        vec![subject.to_string(), file.to_string(), questions.to_string(), texts.to_string()]
    };
    if !by_place.is_empty() {
        let rows: Vec<_> = by_place.iter().map(row).collect();
        say(table(&["subject", "file", "questions", "rows"], &rows))?;
    }
    let share = 100.0 * found.contaminated as f64 / found.questions.max(1) as f64;
    say(format!(
        "{} of {} ({share:.2} %) {} in the text; {} too short to check",
        number(found.contaminated),
        counted(found.questions as usize, "question"),
        if found.contaminated == 1 { "appears" } else { "appear" },
        number(found.too_short)
    ))
}

fn read_config(skip_bad_rows: bool, ignore_unknown_keys: bool) -> DataConfig {
    DataConfig {
        on_bad_row: if skip_bad_rows { BadRow::Skip } else { BadRow::Error },
        unknown_keys: if ignore_unknown_keys { UnknownKeys::Ignore } else { UnknownKeys::Error },
        ..DataConfig::default()
    }
}

fn read_options(skip_bad_rows: bool, ignore_unknown_keys: bool) -> ReadOptions {
    ReadOptions::new(&read_config(skip_bad_rows, ignore_unknown_keys)).advising(Advice::OPTIONS)
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
        Row::Labelled { text, labels } => serde_json::json!({ "text": text, "labels": labels }),
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
    // A file has a single layout.
    let is_text = |row: &Row| matches!(row, Row::Text(_));
    let mut texts = world.pretrain_rows().filter(is_text);
    let mut conversations = world.pretrain_rows().filter(|row| !is_text(row));
    write_atomic(&out.join("pretrain.jsonl"), lines(&mut texts).as_bytes())?;
    write_atomic(&out.join("pretrain_conversations.jsonl"), lines(&mut conversations).as_bytes())?;
    write_atomic(&out.join("sft.jsonl"), lines(&mut world.sft_rows()).as_bytes())?;
    write_atomic(&out.join("sft_multi.jsonl"), lines(&mut world.sft_multi_rows()).as_bytes())?;
    write_atomic(&out.join("dpo.jsonl"), lines(&mut world.dpo_rows()).as_bytes())?;
    let write = |sheet: &Sheet, split: &str| {
        write_atomic(&out.join("sheets").join(format!("{}_{split}.csv", sheet.subject)), &sheet.csv()?)
    };
    world.sheets().iter().try_for_each(|sheet| write(sheet, "val"))?;
    world.dev_sheets(SOLVED).iter().try_for_each(|sheet| write(sheet, "dev"))
}

/// Solved questions written per subject, as many as C-Eval's dev sheets have.
const SOLVED: usize = 5;

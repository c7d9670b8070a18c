//! What a stage run depends on, and the name that follows.

use crate::config::{Source, Stage, TrainStage, TrialConfig, effective, history_chars, patterns, recipe};
use crate::data::files::{Inputs, expand};
use crate::exam::sheet_files;
use crate::fsutil::digests::FileDigest;
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use std::path::Path;
use uuid::Uuid;

/// Raised when a stage's results change though its inputs do not: old stage runs are then left alone.
const FORMAT: u32 = 3;

/// Namespace of all names given here.
const NAMESPACE: Uuid = Uuid::from_u128(0x8d1b_4c5e_52c3_4f0f_9a3e_6d69_6e64_7363);

/// All that a stage run depends on: equal facts, equal results, equal name.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The stage.
    pub stage: Stage,
    /// What its results depend on, as a JSON object.
    pub facts: Value,
    /// The files among it.
    pub files: Vec<FileDigest>,
}

impl Facts {
    /// The name that follows from the facts: UUID v5 of their canonical JSON.
    pub fn uuid(&self) -> Uuid {
        let whole = json!({ "stage": self.stage, "format": FORMAT, "facts": self.facts });
        named(&whole)
    }

    /// The files that a stage other than training reads, with the digests that they have now.
    pub fn files_of(stage: Stage, config: &TrialConfig, inputs: &mut Inputs) -> Result<Vec<FileDigest>> {
        let no = Uuid::nil();
        let facts = match stage {
            Stage::Tokenizer => Self::of_tokenizer(config, inputs)?,
            Stage::Data => Self::of_data(config, no, inputs)?,
            Stage::Exam => Self::of_exam(config, no, no, inputs)?,
            Stage::Pretrain | Stage::Sft | Stage::Lora | Stage::Dpo => return Ok(Vec::new()),
        };
        Ok(facts.files)
    }

    /// What a tokenizer depends on: its file, or the text it is trained on.
    pub fn of_tokenizer(config: &TrialConfig, inputs: &mut Inputs) -> Result<Self> {
        let stage = Stage::Tokenizer;
        if let Some(path) = &config.tokenizer.path {
            let shown = || format!("tokenizer.path = \"{path}\"");
            let files = tokenizer_files(Path::new(path), inputs).with_context(shown)?;
            let (entries, most) =
                (inputs.vocab_size(Path::new(path)).with_context(shown)?, config.model.vocab_size);
            ensure!(
                entries <= most,
                "model.vocab_size is {most}, expected at least {entries}, the entries of {}",
                shown()
            );
            let facts = json!({ "given": contents(&files) });
            return Ok(Self { stage, facts, files });
        }
        let (text, files) = data_of(config, TrainStage::Pretrain, inputs)?;
        let facts = json!({
            "text": text,
            "vocab_size": config.model.vocab_size,
            "train_chars": config.tokenizer.train_chars,
        });
        Ok(Self { stage, facts, files })
    }

    /// What the token stores depend on: the tokenizer and every file.
    pub fn of_data(config: &TrialConfig, tokenizer: Uuid, inputs: &mut Inputs) -> Result<Self> {
        let mut facts = Map::from_iter([("tokenizer".to_string(), json!(tokenizer))]);
        let mut files = Vec::new();
        for stage in recipe(config) {
            let (text, read) = data_of(config, stage, inputs)?;
            facts.insert(Stage::from(stage).name().into(), text);
            files.extend(read);
        }
        Ok(Self { stage: Stage::Data, facts: facts.into(), files })
    }

    /// What a training stage depends on: its own keys, its own part of the data, and the model it starts from.
    pub fn of_training(
        config: &TrialConfig,
        stage: TrainStage,
        tokenizer: Uuid,
        start_from: Option<Uuid>,
        inputs: &mut Inputs,
    ) -> Result<Self> {
        let mut keys = effective(config);
        let (text, files) = data_of(config, stage, inputs)?;
        // A model that is given has its shape; one that is drawn is drawn in this.
        let model = match start_from {
            Some(uuid) => json!({ "start_from": uuid }),
            None => keys["model"].take(),
        };
        let facts = json!({
            "training": keys[stage.name()].take(),
            "model": model,
            "data": text,
            "tokenizer": tokenizer,
            "seed": config.seed,
            "device": config.device_kind(),
        });
        Ok(Self { stage: stage.into(), facts, files })
    }

    /// What an exam depends on: the model, the sheets, and how questions are put.
    pub fn of_exam(config: &TrialConfig, tokenizer: Uuid, model: Uuid, inputs: &mut Inputs) -> Result<Self> {
        let exam = &config.exam;
        let mut files = Vec::new();
        let mut sheets_of = |folder: &Option<String>, split: &str, key: &str| -> Result<Value> {
            let Some(folder) = folder else {
                return Ok(json!({ "world": config.world }));
            };
            let read = sheet_files(Path::new(folder), split).and_then(|files| inputs.digests(&files));
            let read = read.with_context(|| format!("{key} = \"{folder}\""))?;
            let value = contents(&read);
            files.extend(read);
            Ok(value)
        };
        let facts = json!({
            "model": model,
            "tokenizer": tokenizer,
            "sheets": sheets_of(&exam.sheets, "val", "exam.sheets")?,
            "dev_sheets": match exam.shots {
                0 => Value::Null,
                _ => sheets_of(&exam.dev_sheets, "dev", "exam.dev_sheets")?,
            },
            "answer": exam.answer,
            "shots": exam.shots,
            "system": exam.system,
            "device": config.device_kind(),
        });
        Ok(Self { stage: Stage::Exam, facts, files })
    }
}

/// What one stage's data is made of, and its files.
fn data_of(config: &TrialConfig, stage: TrainStage, inputs: &mut Inputs) -> Result<(Value, Vec<FileDigest>)> {
    // Every key of `[data]` that is not a list of files says how rows are chosen.
    let mut choice = effective(config)["data"].take();
    if let Some(keys) = choice.as_object_mut() {
        for list in ["pretrain", "sft", "lora", "dpo"] {
            keys.remove(list);
        }
        keys.insert("history_chars".into(), history_chars(config, stage).into());
    }
    match config.data.source {
        Source::World => Ok((json!({ "world": config.world, "choice": choice }), Vec::new())),
        Source::Files => {
            let (key, patterns) = patterns(&config.data, stage);
            let files = inputs.digests(&expand(patterns, key)?.files)?;
            Ok((json!({ "files": contents(&files), "choice": choice }), files))
        }
    }
}

fn tokenizer_files(path: &Path, inputs: &mut Inputs) -> Result<Vec<FileDigest>> {
    let (file, folder) = match path.is_dir() {
        true => (path.join("tokenizer.json"), path),
        false => (path.to_path_buf(), path.parent().unwrap_or(Path::new("."))),
    };
    let mut files = vec![file];
    let beside = ["tokenizer_config.json", "chat_template.jinja"].map(|name| folder.join(name));
    files.extend(beside.into_iter().filter(|path| path.is_file()));
    inputs.digests(&files)
}

/// Names and digests of files, without the folders they happen to be in.
fn contents(files: &[FileDigest]) -> Value {
    files.iter().map(|file| json!({ "name": file.name(), "sha256": file.sha256 })).collect()
}

fn named(value: &Value) -> Uuid {
    Uuid::new_v5(&NAMESPACE, canonical(value).to_string().as_bytes())
}

/// The same value with the keys of every object in alphabetical order.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(keys) => {
            let mut sorted: Vec<_> = keys.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            sorted.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect()
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

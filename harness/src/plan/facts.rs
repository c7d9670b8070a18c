//! The facts that a stage run depends on, and the names derived from them.
//!
//! *Invariant:* facts hold exactly what a stage reads: a key without effect leaves the name unchanged, and a key with an
//! effect changes it. A test runs every key through the stages that make data.

use crate::config::{
    Answer, Canonical, ExamConfig, ExamFormat, ExamPoint, FILTERS, NamedFiles, RowKind, RowStyle, Source,
    Stage, TrainStage, TrialConfig, WORLD, effective, index_of, recipe, sections, source_key, write_entry,
};
use crate::data::files::Inputs;
use crate::data::read::extension;
use crate::exam::sheet_files;
use crate::fsutil::digests::FileDigest;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Increased when a stage's results change although its inputs do not: old stage runs are then not reused.
const FORMAT: u32 = 4;

/// UUID namespace of all names derived here.
const NAMESPACE: Uuid = Uuid::from_u128(0x8d1b_4c5e_52c3_4f0f_9a3e_6d69_6e64_7363);

/// Everything that a stage run depends on: equal facts give equal results and equal names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facts {
    /// The stage.
    pub stage: Stage,
    /// The configuration keys that it reads, with their values.
    pub keys: Keys,
    /// Name of the tokenizer's stage run that it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Uuid>,
    /// Name of the stage run whose model it starts from or examines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Uuid>,
    /// The contents of the files that it reads, in order, by the key that names them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Vec<Content>>,
}

/// Keys with their values.
type Keys = BTreeMap<Cow<'static, str>, Value>;

/// The content of a file, independent of its location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
    /// The part of the file name that decides how it is read: the extension for data, the name for sheets and tokenizers.
    pub read_as: String,
}

/// The files that a stage reads, by the key that names them, such as `data.sft`, or `data.sft.web` for a named source.
pub type Files = Vec<(String, Arc<[FileDigest]>)>;

impl Facts {
    /// The name: a UUID v5 of the canonical JSON.
    pub fn name(&self) -> Uuid {
        named(&self.to_string())
    }

    /// The name, and the one without the seed: that of the same facts without `seed`, and with a tokenizer and a model named
    /// without theirs.
    pub fn names(&self, tokenizer: Option<Uuid>, model: Option<Uuid>) -> [Uuid; 2] {
        let parts = self.parts();
        let uuid = named(&self.joined(&parts, self.tokenizer, self.model));
        let [_, seed, _] = &parts;
        if seed.is_empty() && (tokenizer, model) == (self.tokenizer, self.model) {
            return [uuid; 2];
        }
        let [before, _, after] = parts;
        [uuid, named(&self.joined(&[before, String::new(), after], tokenizer, model))]
    }

    /// The canonical JSON of the files and of the keys, without the end of the object, in three parts: the second is the seed.
    /// A comma follows each key.
    fn parts(&self) -> [String; 3] {
        let mut parts = [String::from("{\"facts\":{"), String::new(), String::new()];
        if !self.files.is_empty() {
            parts[0] += &format!("\"files\":{},", Canonical(&json!(self.files)));
        }
        parts[0] += "\"keys\":{";
        for (key, value) in &self.keys {
            let part = match key.as_ref().cmp("seed") {
                Ordering::Less => &mut parts[0],
                Ordering::Equal => &mut parts[1],
                Ordering::Greater => &mut parts[2],
            };
            write_entry(key, value, part);
            part.push(',');
        }
        parts
    }

    /// The canonical JSON of `{ "format": FORMAT, "facts": FACTS }` with this tokenizer and this model.
    fn joined(&self, parts: &[String; 3], tokenizer: Option<Uuid>, model: Option<Uuid>) -> String {
        let mut text = parts.concat();
        if text.ends_with(',') {
            text.pop();
        }
        text.push('}');
        if let Some(model) = model {
            text += &format!(",\"model\":\"{model}\"");
        }
        text += &format!(",\"stage\":\"{}\"", self.stage);
        if let Some(tokenizer) = tokenizer {
            text += &format!(",\"tokenizer\":\"{tokenizer}\"");
        }
        text + &format!("}},\"format\":{FORMAT}}}")
    }
}

/// The name of facts with this text.
fn named(text: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, text.as_bytes())
}

/// The canonical JSON of `{ "format": FORMAT, "facts": FACTS }`, from which the name is made.
impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.joined(&self.parts(), self.tokenizer, self.model))
    }
}

/// A name derived from other names, as a trial's is from those of its stage runs.
pub fn name_of(parts: impl Iterator<Item = Uuid>) -> Uuid {
    let bytes: Vec<u8> = parts.flat_map(Uuid::into_bytes).collect();
    Uuid::new_v5(&NAMESPACE, &bytes)
}

/// A trial's configuration as its stages read it.
pub struct Reading<'a> {
    config: &'a TrialConfig,
    /// The value of every key that has an effect, by the index of the key.
    values: Vec<Option<Value>>,
}

impl<'a> Reading<'a> {
    /// Prepares the configuration of one trial.
    pub fn new(config: &'a TrialConfig) -> Self {
        let mut values = effective(config);
        // Results are the same on every device of a kind.
        if let Some(index) = index_of("device") {
            values[index] = Some(config.device.kind().into());
        }
        Self { config, values }
    }

    /// The facts of a stage that reads this tokenizer, this model and these files; an exam reads the model's weights after
    /// the shares `at` of its steps.
    pub fn facts(
        &self,
        stage: Stage,
        at: &ExamPoint,
        tokenizer: Option<Uuid>,
        model: Option<Uuid>,
        files: &Files,
    ) -> Facts {
        let mut keys = Keys::new();
        match stage {
            Stage::Tokenizer if self.config.tokenizer.path.is_some() => {}
            Stage::Tokenizer => self.of_tokenizer(&mut keys),
            Stage::Data => {
                for stage in recipe(self.config) {
                    keys.insert(format!("{}.enabled", stage.name()).into(), true.into());
                    self.of_rows(stage, &mut keys);
                }
            }
            Stage::Train(stage) => {
                self.take_section(stage.name(), &mut keys);
                self.take(&["seed", "device", "precision"], &mut keys);
                self.of_rows(stage, &mut keys);
                if let Some(shares) = self.config.data.shares(stage) {
                    keys.insert("data.mix".into(), json!(shares.into_iter().collect::<BTreeMap<_, _>>()));
                }
                let kept = self.config.snapshots(stage);
                if !kept.is_empty() {
                    keys.insert("exam.at".into(), json!(kept));
                }
                // A given model has its own shape; a model initialized here takes it from the configuration.
                if model.is_none() {
                    self.take_section("model", &mut keys);
                }
            }
            Stage::Exam => {
                self.of_exam(&mut keys);
                if at.is_final() {
                    // Left out at its default: the names of exams older than this key stay valid.
                    self.take(&["exam.samples"], &mut keys);
                } else {
                    keys.insert("exam.at".into(), json!(at.shares));
                }
            }
        }
        let files = files.iter().map(|(key, files)| (key.clone(), contents(key, files))).collect();
        Facts { stage, keys, tokenizer, model, files }
    }

    fn of_tokenizer(&self, keys: &mut Keys) {
        if let Some(probe) = self.config.probe() {
            self.take(&["data.source"], keys);
            self.take(probe.vocabulary, keys);
            return;
        }
        self.take(&["model.vocab_size", "tokenizer.train_chars"], keys);
        self.of_source(TrainStage::Pretrain, keys);
        if self.config.data.source == Source::World {
            // The vocabulary includes the words of the questions.
            self.of_source(TrainStage::Sft, keys);
        }
    }

    /// Takes the keys that determine the rows of a stage and which of them are held out for validation.
    fn of_rows(&self, stage: TrainStage, keys: &mut Keys) {
        self.of_source(stage, keys);
        if self.config.probe().is_some() {
            return;
        }
        self.take(&["data.rows"], keys);
        if stage.val_files(&self.config.data).is_none() {
            self.take(&["data.val_share"], keys);
        }
        if self.config.data.rows == RowStyle::Turns {
            self.take(&["data.special_tokens_in_text"], keys);
        }
    }

    /// Takes the keys that determine the texts of a stage.
    fn of_source(&self, stage: TrainStage, keys: &mut Keys) {
        self.take(&["data.source"], keys);
        if let Some(probe) = self.config.probe() {
            self.take(probe.rows, keys);
        }
        match self.config.data.source {
            Source::World => {
                self.take(&WORLD, keys);
                self.take(stage.spec().world, keys);
            }
            Source::Files => {
                self.take(&FILTERS, keys);
                if stage.rows() == RowKind::Conversations {
                    // By stage, since MiniMind's rows derive it from their length.
                    let key = format!("data.history_chars ({})", stage.name());
                    keys.insert(key.into(), stage.history_chars(self.config).into());
                }
            }
            Source::Hops | Source::Recall | Source::Capacity => {}
        }
    }

    fn of_exam(&self, keys: &mut Keys) {
        let exam = &self.config.exam;
        if let Some(probe) = self.config.probe() {
            self.take(&["data.source", "device", "precision"], keys);
            self.take(probe.exam, keys);
            return;
        }
        self.take(&["exam.answer", "exam.shots", "device", "precision"], keys);
        // Exams older than this key were run without it, and keep their names; their contamination fields are empty.
        if exam.sheets.is_some() && !exam.contamination {
            self.take(&["exam.contamination"], keys);
        }
        // Exams that do not use these keys keep the names from before the keys existed.
        match exam.format {
            ExamFormat::Minimind => self.take(&["exam.system"], keys),
            ExamFormat::LmEval => self.take(&["exam.format"], keys),
        }
        match exam.answer {
            Answer::Letter => {
                if exam.rotate {
                    self.take(&["exam.rotate"], keys);
                }
            }
            Answer::Cloze | Answer::Continuation => {
                if exam.norm != ExamConfig::default().norm {
                    self.take(&["exam.norm"], keys);
                }
            }
        }
        if exam.sheets.is_none() || exam.shots > 0 && exam.dev_sheets.is_none() {
            self.take(&WORLD, keys);
        }
    }

    fn take(&self, names: &[&'static str], keys: &mut Keys) {
        for &name in names {
            if let Some(value) = index_of(name).and_then(|index| self.values[index].as_ref()) {
                keys.insert(name.into(), value.clone());
            }
        }
    }

    fn take_section(&self, section: &str, keys: &mut Keys) {
        let Some(section) = sections().iter().find(|known| known.name == section) else { return };
        let first = section.keys.first().and_then(|key| index_of(&key.path)).unwrap_or_default();
        for (key, value) in section.keys.iter().zip(&self.values[first..]) {
            if let Some(value) = value {
                keys.insert(key.path.as_str().into(), value.clone());
            }
        }
    }
}

/// The files that a stage reads, with their current digests.
///
/// # Errors
/// If a key matches no file, a file cannot be read, or a tokenizer does not fit the model.
pub fn files_of(stage: Stage, config: &TrialConfig, inputs: &mut Inputs) -> Result<Files> {
    match stage {
        Stage::Tokenizer => match &config.tokenizer.path {
            Some(path) => tokenizer_files(path, config, inputs),
            None => text_files(config, inputs),
        },
        Stage::Data => data_files(&recipe(config), config, inputs),
        Stage::Train(stage) => data_files(&[stage], config, inputs),
        Stage::Exam => exam_files(config, inputs),
    }
}

fn data_files(stages: &[TrainStage], config: &TrialConfig, inputs: &mut Inputs) -> Result<Files> {
    let mut files = Files::new();
    for NamedFiles { key, source, patterns } in config.files_of(stages) {
        let key = source_key(key, source);
        let expanded = inputs.expanded(patterns, &key)?;
        files.push((key, expanded));
    }
    Ok(files)
}

/// The text that a tokenizer is trained on; the names of its sources do not affect it.
fn text_files(config: &TrialConfig, inputs: &mut Inputs) -> Result<Files> {
    if config.data.source != Source::Files {
        return Ok(Files::new());
    }
    let (key, sources) = TrainStage::Pretrain.files(&config.data);
    let mut files = Vec::new();
    for NamedFiles { key, source, patterns } in NamedFiles::of(key, sources) {
        files.extend(inputs.expanded(patterns, &source_key(key, source))?.iter().cloned());
    }
    Ok(vec![(key.into(), files.into())])
}

fn tokenizer_files(path: &str, config: &TrialConfig, inputs: &mut Inputs) -> Result<Files> {
    let shown = || format!("tokenizer.path = \"{path}\"");
    let path = Path::new(path);
    let (file, folder) = match path.is_dir() {
        true => (path.join("tokenizer.json"), path),
        false => (path.to_path_buf(), path.parent().unwrap_or(Path::new("."))),
    };
    let mut files = vec![file];
    let beside = ["tokenizer_config.json", "chat_template.jinja"].map(|name| folder.join(name));
    files.extend(beside.into_iter().filter(|path| path.is_file()));
    let digests = inputs.digests(&files).with_context(shown)?;
    let (entries, most) = (inputs.vocab_size(path).with_context(shown)?, config.model.vocab_size);
    ensure!(
        entries <= most,
        "model.vocab_size is {most}, expected at least {entries}, the entries of {}",
        shown()
    );
    Ok(vec![("tokenizer.path".into(), digests.into())])
}

fn exam_files(config: &TrialConfig, inputs: &mut Inputs) -> Result<Files> {
    let exam = &config.exam;
    let mut files = Files::new();
    let dev = exam.dev_sheets.as_ref().filter(|_| exam.shots > 0);
    for (folder, split, key) in
        [(exam.sheets.as_ref(), "val", "exam.sheets"), (dev, "dev", "exam.dev_sheets")]
    {
        if let Some(folder) = folder {
            let read = sheet_files(Path::new(folder), split).and_then(|files| inputs.digests(&files));
            files.push((key.into(), read.with_context(|| format!("{key} = \"{folder}\""))?.into()));
        }
    }
    Ok(files)
}

fn contents(key: &str, files: &[FileDigest]) -> Vec<Content> {
    let is_data = key.starts_with("data.");
    let content = |(index, file): (usize, &FileDigest)| {
        let read_as = match (is_data, key, index) {
            (true, ..) => extension(&file.path),
            (_, "tokenizer.path", 0) => "tokenizer.json".into(),
            _ => file.name(),
        };
        Content { sha256: file.sha256.clone(), read_as }
    };
    files.iter().enumerate().map(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Norm, setting_key};
    use model::Parametrization;

    #[test]
    fn an_exam_is_renamed_only_by_what_it_uses() {
        let name = |change: &dyn Fn(&mut ExamConfig)| {
            let mut config = TrialConfig::default();
            change(&mut config.exam);
            let facts = Reading::new(&config).facts(Stage::Exam, &ExamPoint::default(), None, None, &vec![]);
            (facts.name(), facts.keys.contains_key("exam.norm"), facts.keys.contains_key("exam.rotate"))
        };
        let letter = name(&|_| ());
        let cloze = name(&|exam| exam.answer = Answer::Cloze);
        assert_eq!((letter.1, letter.2, cloze.1, cloze.2), (false, false, false, false));
        assert_eq!(name(&|exam| exam.norm = Norm::Pmi), letter);
        let rotated = name(&|exam| (exam.answer, exam.rotate) = (Answer::Cloze, true));
        assert_eq!(rotated, cloze);
        assert!(name(&|exam| exam.rotate = true).2);
        assert!(name(&|exam| (exam.answer, exam.norm) = (Answer::Continuation, Norm::Raw)).1);
        // The system message is not part of the other format.
        let plain = name(&|exam| exam.format = ExamFormat::LmEval);
        assert_ne!(plain, letter);
        assert_eq!(name(&|exam| (exam.format, exam.system) = (ExamFormat::LmEval, "x".into())), plain);
    }

    #[test]
    fn names_are_made_from_canonical_json() {
        let content = Content { sha256: "0a".into(), read_as: "jsonl".into() };
        let keys: [(&str, Value); 3] =
            [("b", json!({ "y": 1.5e-5, "x": [1, "甲\n"] })), ("a\"\u{1}", json!(null)), ("a.b", json!(-2))];
        let mut facts = Facts {
            stage: Stage::Train(TrainStage::Sft),
            keys: keys.map(|(key, value)| (key.into(), value)).into(),
            tokenizer: None,
            model: None,
            files: BTreeMap::new(),
        };
        let canonical = |facts: &Facts| Canonical(&json!({ "format": FORMAT, "facts": facts })).to_string();
        assert_eq!(facts.to_string(), canonical(&facts));
        (facts.tokenizer, facts.model) = (Some(Uuid::nil()), Some(NAMESPACE));
        facts.files.insert("data.sft".into(), vec![content]);
        assert_eq!(facts.to_string(), canonical(&facts));
        let other = Some(Uuid::max());
        let mut seedless = Facts { tokenizer: other, model: None, ..facts.clone() };
        for keys in [&["seed", "world.people"][..], &["seed"], &[]] {
            facts.keys = keys.iter().map(|&key| (key.into(), json!(7))).collect();
            seedless.keys = facts.keys.clone();
            seedless.keys.remove("seed");
            assert_eq!(facts.to_string(), canonical(&facts));
            assert_eq!(facts.names(other, None), [facts.name(), seedless.name()]);
        }
    }

    #[test]
    fn names_from_before_a_key_was_known_to_be_idle_stay() {
        let made = |change: &dyn Fn(&mut TrialConfig)| {
            let mut config = TrialConfig::default();
            config.pretrain.training.weight_decay = 0.0;
            change(&mut config);
            let facts = |stage: Stage| {
                let reading = Reading::new(&config);
                reading.facts(stage, &ExamPoint::default(), None, None, &vec![]).name()
            };
            let stages = [Stage::Data, Stage::Train(TrainStage::Pretrain), Stage::Exam];
            (setting_key(&config), stages.map(facts))
        };
        let practice = |weight: f64| BTreeMap::from([("one_hop".to_string(), weight)]);
        type Change = fn(&mut TrialConfig);
        let changes: [(Change, [bool; 3]); 4] = [
            (|c| c.pretrain.training.hidden_decay = 2.0, [false, true, false]),
            (|c| c.model.window = Some(512), [false, true, false]),
            (|c| c.exam.samples = 0, [false, false, true]),
            (|c| c.data.special_tokens_in_text = true, [true, true, false]),
        ];
        let (setting, names) = made(&|_| ());
        for (change, renamed) in changes {
            let (other, others) = made(&change);
            assert_eq!(setting, other);
            assert_eq!([0, 1, 2].map(|i| names[i] != others[i]), renamed);
        }
        let [one, two] = [1.0, 2.0].map(|weight| made(&|c| c.world.practice = practice(weight)));
        assert!(one.0 == two.0 && one.1[0] != two.1[0]);
    }

    #[test]
    fn a_parametrization_is_named_by_what_it_reads() {
        let facts = |of: Parametrization, base: Option<usize>| {
            let mut config = TrialConfig::default();
            let model = &mut config.model;
            (model.parametrization, model.base_width, model.base_head_dim) = (of, base, base);
            model.base_depth = base;
            let stage = Stage::Train(TrainStage::Pretrain);
            Reading::new(&config).facts(stage, &ExamPoint::default(), None, None, &vec![])
        };
        let read = |facts: &Facts| {
            let is_new = |key: &&Cow<str>| key.contains(".base_") || key.ends_with("parametrization");
            facts.keys.keys().filter(is_new).cloned().collect::<Vec<_>>()
        };
        // The same name as before the key existed.
        let standard = facts(Parametrization::Standard, None);
        assert_eq!(standard.name(), facts(Parametrization::Standard, Some(8)).name());
        assert!(read(&standard).is_empty());
        let mup = ["model.base_head_dim", "model.base_width", "model.parametrization"];
        assert_eq!(read(&facts(Parametrization::Mup, Some(8))), mup);
        assert_eq!(read(&facts(Parametrization::Completep, Some(8))).len(), 4);
    }
}

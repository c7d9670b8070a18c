//! The bodies of the stages: how each stage makes its results from its inputs.
//!
//! A body gets the folders of its inputs and its own from a [`StageRequest`], and returns the results of its manifest. It
//! uses `data`, `train` and `exam`, and knows of no other stage run, process or queue: these are `execute`'s.

mod request;
mod samples;

pub use request::{StageBody, StageRequest};

use crate::config::{Answer, DataConfig, Source, Stage, TrainStage, TrialConfig, recipe, source_key};
use crate::data::chat::ChatTemplate;
use crate::data::files::{Inputs, Matched, expand};
use crate::data::prepare::{Part, Preparation, prepare};
use crate::data::probes::{Probe, Rows, probe};
use crate::data::read::{ReadOptions, rows};
use crate::data::world::World;
use crate::data::{Row, Tokenizer};
use crate::exam::{self, Prompter, Questions, contamination};
use crate::fsutil::digests::unchanged;
use crate::fsutil::{create_dir, write_atomic};
use crate::models::Model;
use crate::plan::facts::files_of;
use crate::records::{GUESSING, Notice, Tally};
use crate::runs::files::SAMPLES;
use crate::runs::manifest::{Examined, Manifest, Results, RunStatus};
use crate::stop::{Stopped, check};
use crate::system::on_threads;
use crate::track::{Progress, counted, number};
use crate::train::{self, TrainRequest};
use anyhow::{Context, Result, anyhow};
use model::{Backend, Work};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Implementation of the recipe's stages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recipe;

impl StageBody for Recipe {
    fn run(
        &self,
        request: &StageRequest,
        config: &TrialConfig,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<Results>> {
        if request.stage.training().is_none() {
            let runs = request.dir.parent().unwrap_or(Path::new("."));
            let now = files_of(request.stage, config, &mut Inputs::remembered(runs))?;
            let now: Vec<_> = now.iter().flat_map(|(_, files)| files.iter().cloned()).collect();
            unchanged(&request.files, &now)?;
        }
        let ended = on_threads(config.threads, || match request.stage {
            Stage::Tokenizer => tokenizer(request, config, stop, progress).map(Some),
            Stage::Data => data(request, config, stop, progress).map(Some),
            Stage::Exam => {
                let work = ExamWork { request, config, stop, progress };
                config.device.run(config.precision, work)?.map(Some)
            }
            Stage::Train(stage) => training(stage, request, config, stop, progress),
        });
        match ended {
            Err(error) if error.is::<Stopped>() => Ok(None),
            ended => ended,
        }
    }

    fn tidy(&self, request: &StageRequest, config: &TrialConfig) -> Result<()> {
        match request.stage.training() {
            Some(stage) => {
                train::trunk::tidy(&request.dir, request.uuid, request.trunk.as_deref())?;
                train::tidy(&request.dir, stage.training(config))
            }
            None => Ok(()),
        }
    }
}

fn required_folder(folder: &Option<PathBuf>, what: &str) -> Result<PathBuf> {
    folder.clone().ok_or_else(|| anyhow!("the request has no folder for {what}"))
}

/// Files of one source, or of one validation set.
struct SourceFiles {
    /// Configuration key that names the files.
    key: String,
    /// Name of the source or of the validation set, if it has one.
    name: Option<String>,
    /// Whether the files are for validation.
    is_held_out: bool,
    matched: Matched,
}

/// Returns the sources of a stage in order, validation sets first; the built-in world and a probe are one source without files.
fn sources(config: &TrialConfig, stage: TrainStage) -> Result<Vec<SourceFiles>> {
    let data = &config.data;
    if data.source != Source::Files {
        let (key, matched) = ("data.source".into(), Matched::default());
        return Ok(vec![SourceFiles { key, name: None, is_held_out: false, matched }]);
    }
    let held_out = stage.val_files(data).into_iter().map(|(key, sets)| (key, sets, true));
    let (key, files) = stage.files(data);
    let mut found = vec![];
    for (key, sources, is_held_out) in held_out.chain([(key, files, false)]) {
        for (name, patterns) in sources.lists() {
            let key = source_key(key, name);
            let matched = expand(patterns, &key)?;
            found.push(SourceFiles { key, name: name.map(Into::into), is_held_out, matched });
        }
    }
    Ok(found)
}

/// Returns the rows of one source of a stage; they end with an error once `stop` is set.
fn source<'a>(
    config: &'a TrialConfig,
    stage: TrainStage,
    world: &'a World,
    files: &'a [PathBuf],
    options: &'a ReadOptions,
    stop: &'a AtomicBool,
) -> Box<dyn Iterator<Item = Result<Row>> + Send + 'a> {
    let rows: Box<dyn Iterator<Item = Result<Row>> + Send> = match config.data.source {
        Source::World => Box::new(world.rows(stage).map(Ok)),
        _ => Box::new(rows(files, stage.rows(), options).until(stop)),
    };
    Box::new(rows.map(|row| check(stop).and(row)))
}

/// Returns the parts of a probe, validation sets first.
fn of_probe(probe: &dyn Probe) -> Vec<Part<'_>> {
    fn part(name: Option<String>, is_held_out: bool, rows: Rows<'_>) -> Part<'_> {
        Part { key: "data.source".into(), name, is_held_out, rows: Box::new(rows.map(Ok)) }
    }
    let held_out = probe.held_out().into_iter().map(|(name, rows)| part(Some(name), true, rows));
    held_out.chain([part(None, false, probe.train())]).collect()
}

fn tokenizer(
    request: &StageRequest,
    config: &TrialConfig,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Results> {
    let out = request.dir.join("model");
    create_dir(&out)?;
    let tokenizer = match (&config.tokenizer.path, probe(config)) {
        (Some(path), _) => Tokenizer::load(Path::new(path))?,
        (None, Some(probe)) => Tokenizer::of_words(&probe.words())?,
        (None, None) => {
            progress.start("tokenizer", 0, "characters");
            let world = World::generate(&config.world);
            let (sources, options) = (sources(config, TrainStage::Pretrain)?, ReadOptions::new(&config.data));
            // For the built-in world, the text of its questions is included.
            let asked: Box<dyn Iterator<Item = Result<Row>> + Send> = match config.data.source {
                Source::World => Box::new(world.sft_rows().map(Ok)),
                _ => Box::new(std::iter::empty()),
            };
            let mut texts = vec![];
            let mut left = config.tokenizer.train_chars;
            // Pretraining conversations are included in the template's form.
            let template = ChatTemplate::minimind()?;
            let rendered = sources.iter().filter(|of| !of.is_held_out).flat_map(|of| {
                source(config, TrainStage::Pretrain, &world, &of.matched.files, &options, stop)
            });
            let rendered = rendered.map(|row| template.text(&row?));
            let asked = asked.map(|row| Ok(row?.chars().collect()));
            for text in rendered.chain(asked) {
                if left == 0 {
                    break;
                }
                let text: String = text?.chars().take(left as usize).collect();
                left -= text.chars().count() as u64;
                texts.push(text);
            }
            Tokenizer::train_until(texts.into_iter(), config.model.vocab_size, stop)?
        }
    };
    tokenizer.save(&out)?;
    let (entries, wanted) = (tokenizer.vocab_size() as u64, config.model.vocab_size as u64);
    progress.finish(&format!("{} entries", number(entries)));
    let mut results = Results::default();
    if config.tokenizer.path.is_none() && config.probe().is_none() && entries < wanted {
        results.notices.push(Notice {
            place: "tokenizer".into(),
            reason: "entries of the vocabulary stay unused: the text is too small for so many merges".into(),
            count: wanted - entries,
            of: wanted,
        });
    }
    Ok(results)
}

fn data(
    request: &StageRequest,
    config: &TrialConfig,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Results> {
    let tokenizer = Tokenizer::load(&required_folder(&request.tokenizer, "tokenizer")?.join("model"))?;
    let (world, probe) = (World::generate(&config.world), probe(config));
    let mut results = Results::default();
    for stage in recipe(config) {
        let history_chars = stage.history_chars(config);
        let options = ReadOptions::new(&DataConfig { history_chars, ..config.data.clone() });
        let sources = sources(config, stage)?;
        let name = stage.name();
        progress.start(name, 0, "rows");
        let parts = match &probe {
            Some(probe) => of_probe(probe.as_ref()),
            None => sources
                .iter()
                .map(|SourceFiles { key, name, is_held_out, matched }| Part {
                    key: key.clone(),
                    name: name.clone(),
                    is_held_out: *is_held_out,
                    rows: source(config, stage, &world, &matched.files, &options, stop),
                })
                .collect(),
        };
        let out = request.dir.join(name);
        let report = |done: u64| progress.update(done, "");
        let preparation = Preparation::new(config.rows(stage), &tokenizer, &config.data, &options.log);
        let prepared = prepare(parts, &preparation, &out, stop, &report)?;
        let read = options.log.report();
        for problem in &read.problems {
            tracing::warn!("left out: {problem}");
        }
        results.notices.extend(sources.iter().filter_map(|of| of.matched.notice(name)));
        results.notices.extend(read.notices(name));
        results.notices.extend(prepared.notices(name, &preparation));
        let summary = serde_json::json!({ "prepared": prepared, "read": read });
        write_atomic(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
        let rows = prepared.train_rows + prepared.val_rows;
        progress.finish(&format!(
            "{}, {} left out",
            counted(rows as usize, "row"),
            number(read.left_out() + prepared.equal)
        ));
    }
    Ok(results)
}

fn training(
    stage: TrainStage,
    request: &StageRequest,
    config: &TrialConfig,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Option<Results>> {
    let data = required_folder(&request.data, "data")?.join(stage.name());
    let start_from = request.model.as_ref().map(|dir| dir.join("model"));
    // A plan names no trunk for a training with checkpoints; if all of them are damaged, its trunk's is still there.
    // It must be finished, as a trunk that is trained again has cut its metrics. Checkpoints kept for good need all steps.
    let keeps = stage.training(config).keeps_for_good();
    let is_done = |trunk: &PathBuf| matches!(Manifest::read(trunk), Ok(Some(manifest)) if manifest.status == RunStatus::Done);
    let recorded = || train::trunk::recorded_trunk(&request.dir).filter(|trunk| !keeps && is_done(trunk));
    let trunk = request.trunk.clone().or_else(recorded);
    train::run(&TrainRequest {
        stage,
        trial: config,
        tokenizer: &required_folder(&request.tokenizer, "tokenizer")?.join("model"),
        data: &data,
        start_from: start_from.as_deref(),
        out: &request.dir,
        trunk: trunk.as_deref().map(|trunk| (request.uuid, trunk)),
        branches: &request.branches,
        stop,
        progress,
    })
}

/// An exam to be run on a device.
struct ExamWork<'a> {
    request: &'a StageRequest,
    config: &'a TrialConfig,
    stop: &'a AtomicBool,
    progress: &'a dyn Progress,
}

impl Work for ExamWork<'_> {
    type Outcome = Result<Results>;

    fn run<B: Backend>(self, backend: &B) -> Result<Results> {
        run_exam(&self, backend)
    }
}

fn run_exam<B: Backend>(work: &ExamWork, backend: &B) -> Result<Results> {
    let ExamWork { request, config, stop, progress } = *work;
    let tokenizer = Tokenizer::load(&required_folder(&request.tokenizer, "tokenizer")?.join("model"))?;
    let (run, at) = (required_folder(&request.model, "model")?, &request.at);
    let model = train::snapshot::folder(&run, at.share());
    let taken = train::snapshot::read(&run, at.share())?;
    let folders: Vec<PathBuf> = at.shares.iter().map(|&share| train::snapshot::folder(&run, share)).collect();
    let transformer = match folders.as_slice() {
        [only] => model::Transformer::load(only, backend)?,
        several => {
            let (config, weights) = model::folder::read_mean(several)?;
            model::Transformer::from_weights(&config, weights, backend)?
        }
    };
    check(stop)?;
    let Questions { sheets, shots } = Questions::of(config)?;
    let exam = &config.exam;
    let max_len = transformer.config.max_seq_len;
    let rotate = exam.rotate && exam.answer == Answer::Letter;
    let (format, system, answer) = (exam.format, exam.system.clone(), exam.answer);
    let prompter = Prompter { format, system, max_len, shots, answer, rotate };
    let prompts = match config.probe() {
        Some(_) => exam::prompts_of_words(&tokenizer, &sheets)?,
        None => prompter.prompts(&tokenizer, &sheets, stop)?,
    };
    progress.start("exam", prompts.len() as u64, "questions");
    let report = |done| progress.update(done, "");
    let mut records = exam::run_exam(&transformer, &sheets, &prompts, exam.norm, stop, &report)
        .with_context(|| model.display().to_string())?;
    let mut found = vec![];
    if let Some(stage) = request.model_stage.and_then(Stage::training)
        && config.exam.sheets.is_some()
        && config.exam.contamination
    {
        let data = required_folder(&request.data, "data")?;
        let contamination = contamination::of_trial(config, stage, &data, &tokenizer, &sheets, stop)?;
        for (record, is_contaminated) in records.iter_mut().zip(&contamination.is_contaminated) {
            record.contaminated = Some(*is_contaminated);
        }
        write_atomic(&request.dir.join("contamination.csv"), &contamination.csv()?)?;
        found = contamination.notices();
    }
    write_atomic(&request.dir.join("questions.csv"), &exam::questions_csv(&records)?)?;
    write_atomic(&request.dir.join("questions.json"), &serde_json::to_vec(&records)?)?;
    let routing = exam::routing(&transformer, &sheets, &prompts, stop)?;
    let scores = exam::scores(&records, &prompts);
    write_atomic(&request.dir.join("scores.json"), &serde_json::to_vec_pretty(&scores)?)?;
    if at.is_final() && exam.samples > 0 && config.probe().is_none() {
        let stage = request.model_stage;
        let model = Model { name: String::new(), source: String::new(), stage, transformer, tokenizer };
        let samples = samples::write(&model, config).context("samples")?;
        write_atomic(&request.dir.join(SAMPLES), &serde_json::to_vec_pretty(&samples)?)?;
    }
    let tally = Tally::of(&records);
    progress.finish(&format!("{} of {} right", tally.correct, tally.questions));
    Ok(Results {
        correct: Some(tally.correct),
        questions: Some(tally.questions),
        guessing: Some(tally.guessing).filter(|guessing| *guessing != GUESSING),
        exam_after: request.model_stage,
        exam_at: (!at.is_final()).then(|| {
            let tokens = taken.map(|taken| taken.tokens);
            Box::new(Examined { at: at.clone(), tokens })
        }),
        contaminated: exam::contaminated(records.iter()),
        routing,
        notices: exam::notices(&scores, max_len).into_iter().chain(found).collect(),
        ..Results::default()
    })
}

#[cfg(test)]
mod tests;

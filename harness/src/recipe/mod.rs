//! What each stage does with its inputs.

mod request;

pub use request::{StageBody, StageRequest};

use crate::config::{DataConfig, Source, TrainStage, TrialConfig};
use crate::config::{Stage, history_chars, patterns, recipe, training_of};
use crate::data::chat::ChatTemplate;
use crate::data::files::{Inputs, Named, expand};
use crate::data::prepare::{Preparation, prepare};
use crate::data::read::{ReadOptions, rows};
use crate::data::world::World;
use crate::data::{Kind, Row, Tokenizer};
use crate::exam::{self, Prompter, Questions};
use crate::fsutil::digests::unchanged;
use crate::fsutil::{create_dir, write_atomic};
use crate::plan::facts::Facts;
use crate::records::Notice;
use crate::runs::manifest::Results;
use crate::stop::{Stopped, check};
use crate::system::on_threads;
use crate::track::{Progress, number};
use crate::train::{self, TrainRequest};
use anyhow::{Context, Result, anyhow};
use model::{Backend, Device, Work};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The recipe's stages.
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
            let now = Facts::files_of(request.stage, config, &mut Inputs::remembered(runs))?;
            unchanged(&request.files, &now)?;
        }
        let ended = on_threads(config.threads, || match request.stage {
            Stage::Tokenizer => tokenizer(request, config, stop, progress).map(Some),
            Stage::Data => data(request, config, stop, progress).map(Some),
            Stage::Exam => {
                let device: Device = config.device.parse()?;
                device.run(Sitting { request, config, stop, progress })?.map(Some)
            }
            Stage::Pretrain => training(TrainStage::Pretrain, request, config, stop, progress),
            Stage::Sft => training(TrainStage::Sft, request, config, stop, progress),
            Stage::Lora => training(TrainStage::Lora, request, config, stop, progress),
            Stage::Dpo => training(TrainStage::Dpo, request, config, stop, progress),
        });
        match ended {
            Err(error) if error.is::<Stopped>() => Ok(None),
            ended => ended,
        }
    }

    fn tidy(&self, request: &StageRequest, config: &TrialConfig) -> Result<()> {
        match request.stage.training() {
            Some(stage) => train::tidy(&request.dir, training_of(config, stage)),
            None => Ok(()),
        }
    }
}

fn given(folder: &Option<PathBuf>, what: &str) -> Result<PathBuf> {
    folder.clone().ok_or_else(|| anyhow!("the request names no {what}"))
}

/// The rows of one stage's data, until somebody asks to stop.
fn source<'a>(
    config: &'a TrialConfig,
    stage: TrainStage,
    world: &'a World,
    files: &'a [PathBuf],
    options: &'a ReadOptions,
    stop: &'a AtomicBool,
) -> Box<dyn Iterator<Item = Result<Row>> + Send + 'a> {
    let rows: Box<dyn Iterator<Item = Result<Row>> + Send> = match config.data.source {
        Source::World => match stage {
            TrainStage::Pretrain => Box::new(world.pretrain_rows().map(Ok)),
            TrainStage::Sft | TrainStage::Lora => Box::new(world.sft_rows().map(Ok)),
            TrainStage::Dpo => Box::new(world.dpo_rows().map(Ok)),
        },
        Source::Files => Box::new(rows(files, kind(stage), options).until(stop)),
    };
    Box::new(rows.map(|row| check(stop).and(row)))
}

fn kind(stage: TrainStage) -> Kind {
    match stage {
        TrainStage::Pretrain => Kind::Pretrain,
        TrainStage::Sft | TrainStage::Lora => Kind::Conversations,
        TrainStage::Dpo => Kind::Preferences,
    }
}

fn files(config: &TrialConfig, stage: TrainStage) -> Result<Named> {
    if config.data.source == Source::World {
        return Ok(Named::default());
    }
    let (key, patterns) = patterns(&config.data, stage);
    expand(patterns, key)
}

/// The folder of a stage's stores inside the data's stage run.
fn store_folder(stage: TrainStage) -> &'static str {
    match stage {
        TrainStage::Pretrain => "pretrain",
        TrainStage::Sft => "sft",
        TrainStage::Lora => "lora",
        TrainStage::Dpo => "dpo",
    }
}

fn tokenizer(
    request: &StageRequest,
    config: &TrialConfig,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Results> {
    let out = request.dir.join("model");
    create_dir(&out)?;
    let tokenizer = match &config.tokenizer.path {
        Some(path) => Tokenizer::load(Path::new(path))?,
        None => {
            progress.start("tokenizer", 0, "characters");
            let world = World::generate(&config.world);
            let (named, options) = (files(config, TrainStage::Pretrain)?, ReadOptions::new(&config.data));
            // The words of questions count as well, where the world asks them.
            let asked: Box<dyn Iterator<Item = Result<Row>> + Send> = match config.data.source {
                Source::World => Box::new(world.sft_rows().map(Ok)),
                Source::Files => Box::new(std::iter::empty()),
            };
            let mut texts = vec![];
            let mut left = config.tokenizer.train_chars;
            // A conversation to pretrain on is told in full, with what the template sets.
            let template = ChatTemplate::minimind()?;
            let told = source(config, TrainStage::Pretrain, &world, &named.files, &options, stop);
            let told = told.map(|row| template.text(&row?));
            let asked = asked.map(|row| Ok(row?.chars().collect()));
            for text in told.chain(asked) {
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
    if config.tokenizer.path.is_none() && entries < wanted {
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
    let tokenizer = Tokenizer::load(&given(&request.tokenizer, "tokenizer")?.join("model"))?;
    let world = World::generate(&config.world);
    let mut results = Results::default();
    for stage in recipe(config) {
        let history_chars = history_chars(config, stage);
        let options = ReadOptions::new(&DataConfig { history_chars, ..config.data.clone() });
        let named = files(config, stage)?;
        let name = store_folder(stage);
        progress.start(name, 0, "rows");
        let rows = source(config, stage, &world, &named.files, &options, stop);
        let out = request.dir.join(name);
        let told = |done: u64| progress.update(done, "");
        let preparation = Preparation::new(kind(stage), &tokenizer, &config.data, &options.log);
        let prepared = prepare(rows, &preparation, &out, stop, &told)?;
        let read = options.log.report();
        for problem in &read.problems {
            tracing::warn!("left out: {problem}");
        }
        results.notices.extend(named.notice(name));
        results.notices.extend(read.notices(name));
        results.notices.extend(prepared.notices(name, &preparation));
        let summary = serde_json::json!({ "prepared": prepared, "read": read });
        write_atomic(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
        results.tokens += prepared.tokens;
        let rows = prepared.train_rows + prepared.val_rows;
        progress.finish(&format!(
            "{} rows, {} left out",
            number(rows),
            number(read.left_out() + prepared.equal)
        ));
    }
    Ok(Results { tokens: 0, ..results })
}

fn training(
    stage: TrainStage,
    request: &StageRequest,
    config: &TrialConfig,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Option<Results>> {
    let data = given(&request.data, "data")?.join(store_folder(stage));
    let start_from = request.model.as_ref().map(|dir| dir.join("model"));
    train::run(&TrainRequest {
        stage,
        trial: config,
        tokenizer: &given(&request.tokenizer, "tokenizer")?.join("model"),
        data: &data,
        start_from: start_from.as_deref(),
        out: &request.dir,
        stop,
        progress,
    })
}

/// An exam that is to be sat.
struct Sitting<'a> {
    request: &'a StageRequest,
    config: &'a TrialConfig,
    stop: &'a AtomicBool,
    progress: &'a dyn Progress,
}

impl Work for Sitting<'_> {
    type Outcome = Result<Results>;

    fn run<B: Backend>(self, backend: &B) -> Result<Results> {
        sit(&self, backend)
    }
}

fn sit<B: Backend>(sitting: &Sitting, backend: &B) -> Result<Results> {
    let Sitting { request, config, stop, progress } = *sitting;
    let tokenizer = Tokenizer::load(&given(&request.tokenizer, "tokenizer")?.join("model"))?;
    let model = given(&request.model, "model")?.join("model");
    let transformer = model::Transformer::load(&model, backend)?;
    check(stop)?;
    let Questions { sheets, shots } = Questions::of(config)?;
    let answer = config.exam.answer;
    let max_len = transformer.config.max_seq_len;
    let prompter = Prompter { system: config.exam.system.clone(), max_len, shots, answer };
    let prompts = prompter.prompts(&tokenizer, &sheets, stop)?;
    progress.start("exam", prompts.len() as u64, "questions");
    let told = |done| progress.update(done, "");
    let records = exam::sit(&transformer, &sheets, &prompts, answer, stop, &told)
        .with_context(|| model.display().to_string())?;
    write_atomic(&request.dir.join("questions.csv"), &exam::questions_csv(&records)?)?;
    write_atomic(&request.dir.join("questions.json"), &serde_json::to_vec(&records)?)?;
    let scores = exam::scores(&records, &prompts);
    write_atomic(&request.dir.join("scores.json"), &serde_json::to_vec_pretty(&scores)?)?;
    let correct = records.iter().filter(|r| r.prediction == r.answer).count() as u64;
    progress.finish(&format!("{correct} of {} right", records.len()));
    Ok(Results {
        correct: Some(correct),
        questions: Some(records.len() as u64),
        exam_after: request.model_stage,
        notices: exam::notices(&scores, max_len),
        ..Results::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::testing::{plan, trial};
    use crate::track::Silent;

    #[test]
    fn tokenizers_and_data_are_given_up_when_somebody_asks_to_stop() {
        let runs = tempfile::tempdir().unwrap();
        let graph = plan(&[trial(|_| {})], runs.path());
        let work = |index: usize, is_asked: bool| {
            let request = crate::execute::pool::request_of(&graph, index, 1).unwrap();
            let config = request.trial_config().unwrap();
            create_dir(&request.dir).unwrap();
            Recipe.run(&request, &config, &AtomicBool::new(is_asked), &Silent).unwrap()
        };
        assert_eq!(graph.nodes[0].stage(), Stage::Tokenizer);
        assert_eq!(work(0, true), None);
        assert!(!graph.nodes[0].dir.join("model/tokenizer.json").exists());
        assert!(work(0, false).is_some());
        assert_eq!(graph.nodes[1].stage(), Stage::Data);
        assert_eq!(work(1, true), None);
        assert_eq!(std::fs::read_dir(&graph.nodes[1].dir).unwrap().count(), 0, "nothing half-made is left");
        assert!(work(1, false).is_some());
    }

    #[test]
    fn files_that_change_after_the_plan_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
        write("a.jsonl", "{\"text\":\"one\"}\n");
        std::fs::create_dir(at("sheets")).unwrap();
        write("sheets/law_val.csv", "id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n");
        let graph = plan(
            &[trial(|config| {
                config.data.source = Source::Files;
                config.data.pretrain = vec![at("*.jsonl")];
                (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
                config.exam.sheets = Some(at("sheets"));
            })],
            dir.path(),
        );
        let error = |index: usize| {
            let request = crate::execute::pool::request_of(&graph, index, 1).unwrap();
            let config = request.trial_config().unwrap();
            create_dir(&request.dir).unwrap();
            let ended = Recipe.run(&request, &config, &AtomicBool::new(false), &Silent);
            ended.map_or_else(|error| format!("{error:#}"), |_| String::new())
        };
        let stages: Vec<Stage> = graph.nodes.iter().map(|node| node.stage()).collect();
        assert_eq!(stages, [Stage::Tokenizer, Stage::Data, Stage::Pretrain, Stage::Exam]);
        assert_eq!(error(0), "");
        write("b.jsonl", "{\"text\":\"two\"}\n");
        for index in [0, 1] {
            assert_eq!(
                error(index),
                format!(
                    "{}: was not there when the run was planned; run again, with what the files hold now",
                    at("b.jsonl")
                )
            );
        }
        std::fs::remove_file(at("b.jsonl")).unwrap();
        write("a.jsonl", "{\"text\":\"two\"}\n");
        assert!(
            error(1).contains("a.jsonl: has changed since the run was planned (SHA-256 "),
            "{}",
            error(1)
        );
        write("sheets/law_val.csv", "id,question,A,B,C,D,answer\n0,q,a,b,c,d,B\n");
        assert!(error(3).contains("law_val.csv: has changed since the run was planned"), "{}", error(3));
    }
}

//! Tests of what the names of stage runs depend on.
#![allow(clippy::unwrap_used)]

use super::StageGraph;
use super::facts::Facts;
use super::testing::{plan, trial};
use crate::config::{Stage, TrainStage, TrialConfig};
use crate::sweep::{Overrides, Sweep};
use model::Device;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// The names of a single trial's stage runs.
fn names(change: impl FnOnce(&mut TrialConfig)) -> BTreeMap<Stage, uuid::Uuid> {
    let runs = tempfile::tempdir().unwrap();
    let graph = plan(&[trial(change)], runs.path());
    graph.nodes.iter().map(|node| (node.stage, node.uuid)).collect()
}

/// The stages whose names differ from those of the default trial.
fn changed(change: impl FnOnce(&mut TrialConfig)) -> Vec<Stage> {
    let (before, after) = (names(|_| {}), names(change));
    assert_eq!(before.len(), after.len());
    before.keys().filter(|stage| before[stage] != after[stage]).copied().collect()
}

#[test]
fn names_follow_from_what_results_depend_on() {
    use Stage::{Data, Exam, Tokenizer};
    let [pretrain, sft, dpo] = [TrainStage::Pretrain, TrainStage::Sft, TrainStage::Dpo].map(Stage::Train);
    assert_eq!(changed(|c| c.dpo.training.lr = 1e-3), [dpo, Exam]);
    assert_eq!(changed(|c| c.sft.training.seq_len = 64), [sft, dpo, Exam]);
    assert_eq!(changed(|c| c.seed = 2), [pretrain, sft, dpo, Exam]);
    assert_eq!(changed(|c| c.model.n_layers = 5), [pretrain, sft, dpo, Exam]);
    assert_eq!(changed(|c| c.exam.system = "?".into()), [Exam]);
    assert_eq!(changed(|c| c.device = Device::Cuda(Some(1))), [pretrain, sft, dpo, Exam]);
    // A stage that is disabled needs no data.
    let data = |change: fn(&mut TrialConfig)| names(change)[&Data];
    assert_ne!(data(|_| {}), data(|c| c.dpo.training.enabled = false));
    let all = [Tokenizer, Data, pretrain, sft, dpo, Exam];
    assert_eq!(changed(|c| c.world.people = 41), all);
    assert_eq!(changed(|c| c.model.vocab_size = 512), all);
}

#[test]
fn names_do_not_follow_from_how_the_work_is_done() {
    assert_eq!(changed(|c| c.threads = 7), []);
    assert_eq!(changed(|c| c.pretrain.training.log_every = 1), []);
    assert_eq!(changed(|c| c.dpo.training.checkpoint_every = 1), []);
    assert_eq!(changed(|c| c.sft.training.keep_checkpoints = 1), []);
    assert_eq!(changed(|c| (c.sft.training.keep_every, c.sft.training.keep_best) = (7, true)), []);
    assert_eq!(changed(|c| c.pretrain.training.max_loss_rise = 2.0), []);
    // Keys of a disabled stage.
    assert_eq!(changed(|c| c.lora.rank = 2), []);
    let of = |change: fn(&mut TrialConfig)| plan(&[trial(change)], Path::new("nowhere")).trials[0].uuid;
    assert_eq!(of(|_| {}), of(|c| (c.threads, c.sft.training.log_every) = (3, 3)));
    assert_ne!(of(|_| {}), of(|c| c.sft.training.lr = 3.0));
}

#[test]
fn names_stay_from_one_version_to_the_next() {
    // If this test fails, all finished stage runs of all users become unusable.
    let of = |text: &str| Facts {
        stage: Stage::Train(TrainStage::Sft),
        keys: serde_json::from_str(text).unwrap(),
        tokenizer: Some(uuid::Uuid::nil()),
        model: None,
        files: BTreeMap::new(),
    };
    let one = of(r#"{"b": {"y": 1.5e-5, "x": [1, "甲"]}, "a": null}"#).name();
    let same = of(r#"{"a": null, "b": {"x": [1, "甲"], "y": 0.000015}}"#).name();
    assert_eq!(one, same);
    assert_eq!(one.to_string(), "a7a775b0-2941-5e37-a46f-db1f25b26279");
}

#[test]
fn names_follow_the_content_of_files_not_their_folder() {
    let runs = tempfile::tempdir().unwrap();
    let write = |folder: &str, sft: &str| {
        let dir = runs.path().join(folder);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("text.jsonl"), "{\"text\":\"a\"}\n").unwrap();
        fs::write(dir.join("sft.jsonl"), sft).unwrap();
        dir
    };
    let files = |dir: &Path| {
        let at = |name: &str| vec![dir.join(name).to_string_lossy().into_owned()];
        trial(|config| {
            config.data.source = crate::config::Source::Files;
            (config.data.pretrain, config.data.sft) = (at("*xt.jsonl").into(), at("sft.jsonl").into());
        })
    };
    let mut trials = [files(&write("a", "1")), files(&write("b", "1")), files(&write("c", "2"))];
    let same = StageGraph::plan(&trials, runs.path()).unwrap_err().to_string();
    assert_eq!(
        same,
        "sweep test: trials 1 and 2 are the same, as data.pretrain, data.sft name the same content; expected each once"
    );
    trials[1].sweep = "other".into();
    let graph = plan(&trials, runs.path());
    let of = |trial: usize, stage: Stage| -> usize {
        let stages = &graph.trials[trial].stages;
        *stages.iter().find(|&&n| graph.nodes[n].stage == stage).unwrap()
    };
    assert_eq!(graph.trials[0].stages, graph.trials[1].stages);
    // Other conversations: other stores and another SFT, but the same tokenizer and pretraining.
    for same in [Stage::Tokenizer, Stage::Train(TrainStage::Pretrain)] {
        assert_eq!(of(0, same), of(2, same));
    }
    for other in [Stage::Data, Stage::Train(TrainStage::Sft), Stage::Exam] {
        assert_ne!(of(0, other), of(2, other));
    }
    let missing = trial(|config| {
        config.data.source = crate::config::Source::Files;
        config.data.dpo = vec!["nowhere/*.jsonl".to_string()].into();
    });
    let error = format!("{:#}", StageGraph::plan(&[missing], runs.path()).unwrap_err());
    assert!(error.contains("data.dpo: no file matches \"nowhere/*.jsonl\""), "{error}");
}

#[test]
fn an_edited_sheet_names_another_exam_whatever_lies_beside_its_folder() {
    let runs = tempfile::tempdir().unwrap();
    let sheet = |folder: &str, answer: &str| {
        let dir = runs.path().join(folder);
        fs::create_dir_all(&dir).unwrap();
        let text = format!("id,question,A,B,C,D,answer\n0,q,a,b,c,d,{answer}\n");
        fs::write(dir.join("law_val.csv"), text).unwrap();
        dir.to_string_lossy().into_owned()
    };
    // Read as a glob, the first folder would match the second.
    let [folder, _] = ["sh[1]", "sh1"].map(|folder| sheet(folder, "A"));
    let exam = |folder: &str| {
        let folder = Some(folder.to_string());
        let graph = plan(&[trial(|config| config.exam.sheets.clone_from(&folder))], runs.path());
        graph.nodes.iter().find(|node| node.stage == Stage::Exam).unwrap().uuid
    };
    let before = exam(&folder);
    fs::write(runs.path().join("sh[1]/notes.csv"), "no sheet").unwrap();
    assert_eq!(exam(&folder), before);
    sheet("sh[1]", "B");
    assert_ne!(exam(&folder), before);
}

#[test]
fn a_tokenizer_with_more_entries_than_the_model_is_refused_by_the_plan() {
    let runs = tempfile::tempdir().unwrap();
    let texts = std::iter::once("ab ab ab".to_string());
    let tokenizer = crate::data::Tokenizer::train(texts, 400).unwrap();
    tokenizer.save(&runs.path().join("t")).unwrap();
    let path = runs.path().join("t").to_string_lossy().into_owned();
    let planned = |vocab_size: usize| {
        let given = trial(|config| {
            config.tokenizer.path = Some(path.clone());
            config.model.vocab_size = vocab_size;
        });
        StageGraph::plan(&[given], runs.path()).map_err(|error| format!("{error:#}"))
    };
    assert!(planned(tokenizer.vocab_size()).is_ok());
    let error = planned(260).unwrap_err();
    assert!(
        error.contains("model.vocab_size is 260, expected at least 261, the entries of tokenizer.path"),
        "{error}"
    );
}

#[test]
fn exams_are_sat_where_asked() {
    let runs = tempfile::tempdir().unwrap();
    let after = |stages: &[TrainStage]| {
        let trial = trial(|config| config.exam.after = stages.to_vec());
        let graph = plan(&[trial], runs.path());
        let exams = graph.nodes.iter().filter(|node| node.stage == Stage::Exam);
        exams.map(|node| graph.nodes[node.model.unwrap()].stage).collect::<Vec<_>>()
    };
    assert_eq!(after(&[]), [Stage::Train(TrainStage::Dpo)]);
    assert_eq!(
        after(&[TrainStage::Sft, TrainStage::Pretrain]),
        [Stage::Train(TrainStage::Pretrain), Stage::Train(TrainStage::Sft)]
    );
}

/// Seconds to expand and plan a sweep with this number of learning rates, ten seeds each.
fn seconds_to_plan(rates: usize) -> f64 {
    let rates: Vec<String> = (1..=rates).map(|i| format!("{i}e-6")).collect();
    let seeds = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10";
    let text = format!("name = 'a'\n[axes]\nseed = [{seeds}]\n'pretrain.lr' = [{}]\n", rates.join(", "));
    let start = Instant::now();
    let trials = Sweep::read_str("a.toml", &text, &Overrides::default()).unwrap().expand().unwrap();
    assert_eq!(plan(&trials, Path::new("nowhere")).trials.len(), 10 * rates.len());
    start.elapsed().as_secs_f64()
}

/// Seconds to read a sweep with this number of seeds.
fn seconds_to_read(seeds: usize) -> f64 {
    let seeds: Vec<String> = (1..=seeds).map(|seed| seed.to_string()).collect();
    let text = format!("name = 'a'\n[axes]\nseed = [{}]\n", seeds.join(", "));
    let start = Instant::now();
    Sweep::read_str("a.toml", &text, &Overrides::default()).unwrap();
    start.elapsed().as_secs_f64()
}

#[test]
fn planning_takes_time_in_proportion_to_the_trials() {
    // For ten times as many trials linear work takes 10 times as long, quadratic work 100 times. Other programs may slow
    // either measurement down, so one pair within the bound is enough.
    let is_linear = |seconds: fn(usize) -> f64, few| (0..4).any(|_| seconds(10 * few) < 30.0 * seconds(few));
    assert!(is_linear(seconds_to_plan, 10), "planning 1,000 trials takes over 30 times as long as 100");
    assert!(is_linear(seconds_to_read, 3_000), "reading 30,000 seeds takes over 30 times as long as 3,000");
}

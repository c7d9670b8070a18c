//! The stage graph and its execution, with stages that only pretend to work.
#![allow(clippy::unwrap_used)]

use super::gpus::{Gpu, Gpus};
use super::machine::Machine;
use super::pool::{Launch, Outcome, Stop, execute};
use super::worker::{Ended, work};
use crate::config::{Stage, TrainStage, TrialConfig};
use crate::plan::facts::Facts;
use crate::plan::testing::{plan, trial};
use crate::plan::{StageGraph, State, explain};
use crate::recipe::{StageBody, StageRequest};
use crate::records::Status;
use crate::runs::claim::{CLAIM, Claim, Taking};
use crate::runs::gc::{Garbage, find, remove};
use crate::runs::manifest::{Manifest, Results, RunStatus};
use crate::status::overview;
use crate::status::records::collect;
use crate::sweep::Trial;
use crate::track::{Board, Progress, Silent};
use anyhow::{Result, bail};
use model::Device;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod stopping;

/// A stage that notes that it ran, and fails or waits as told.
#[derive(Default)]
struct Fake {
    ran: Mutex<Vec<(Stage, u64)>>,
    fail: Option<(Stage, u64)>,
    panic: Option<(Stage, u64)>,
    /// A stage for whose results there is no room the first so many times.
    no_room: Mutex<Option<(Stage, u32)>>,
    wait_for_stop: Option<Stage>,
    /// The step of a checkpoint that is written first.
    checkpoint: Mutex<Option<u64>>,
    takes: Duration,
}

impl StageBody for Fake {
    fn run(
        &self,
        request: &StageRequest,
        config: &TrialConfig,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<Results>> {
        let me = (request.stage, config.seed);
        self.ran.lock().unwrap().push(me);
        progress.start("pretending", 1, "steps");
        std::thread::sleep(self.takes);
        if let Some(step) = *self.checkpoint.lock().unwrap() {
            fs::write(request.dir.join(format!("checkpoints/step-{step:010}.ckpt")), "")?;
        }
        while self.wait_for_stop == Some(request.stage) {
            if stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.fail == Some(me) {
            bail!("loss is not finite");
        }
        if let Some((stage, times)) = self.no_room.lock().unwrap().as_mut()
            && *stage == request.stage
            && *times > 0
        {
            *times -= 1;
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(anyhow::Error::from(full).context("metrics.csv: cannot be written"));
        }
        if self.panic == Some(me) {
            panic!("index out of bounds");
        }
        for dir in [&request.tokenizer, &request.data, &request.model].into_iter().flatten() {
            let manifest = Manifest::read(dir)?.unwrap();
            assert_eq!(manifest.status, RunStatus::Done);
        }
        fs::write(request.dir.join("result.txt"), request.stage.name())?;
        let exam = request.stage == Stage::Exam;
        Ok(Some(Results {
            tokens: if request.stage.training().is_some() { 10 } else { 0 },
            val_loss: (request.stage == Stage::Train(TrainStage::Pretrain)).then_some(2.5),
            correct: exam.then_some(3),
            questions: exam.then_some(4),
            ..Results::default()
        }))
    }

    fn tidy(&self, _request: &StageRequest, _config: &TrialConfig) -> Result<()> {
        Ok(())
    }
}

/// Works in this process.
impl Launch for Fake {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> Ended {
        let asked = AtomicBool::new(false);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    asked.fetch_or(stop.soon(), Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let ended = work(request, self, &asked, progress).unwrap();
            over.store(true, Ordering::SeqCst);
            ended
        })
    }
}

impl Fake {
    fn count(&self, stage: Stage) -> usize {
        let ran = self.ran.lock().unwrap();
        ran.iter().filter(|(s, _)| *s == stage).count()
    }
}

fn seeds(seeds: &[u64]) -> Vec<Trial> {
    seeds.iter().map(|&seed| trial(|config| config.seed = seed)).collect()
}

fn two_cores() -> Machine {
    Machine::new(2, f64::INFINITY, Gpus::default(), Some(2), 2)
}

fn run(graph: &StageGraph, body: &Fake) -> Outcome {
    execute(graph, two_cores(), 2, body, &Stop::default(), &Board::Silent).unwrap()
}

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
    // A stage that is left out needs no data.
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
    // Keys of a stage that is left out.
    assert_eq!(changed(|c| c.lora.rank = 2), []);
    let of = |change: fn(&mut TrialConfig)| plan(&[trial(change)], Path::new("nowhere")).trials[0].uuid;
    assert_eq!(of(|_| {}), of(|c| (c.threads, c.sft.training.log_every) = (3, 3)));
    assert_ne!(of(|_| {}), of(|c| c.sft.training.lr = 3.0));
}

#[test]
fn a_comment_in_a_sweep_file_runs_nothing_again() {
    let runs = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        let sweep = crate::sweep::Sweep::read_str("a.toml", text, &crate::config::Overrides::default());
        plan(&sweep.unwrap().expand().unwrap(), runs.path())
    };
    let text = "name = 'a'\n[base.pretrain]\nlr = 1e-3\nlog_every = 10\n[axes]\nseed = [1, 2]\n";
    run(&read(text), &Fake::default());
    let reworded = text.replace("[axes]", "# Two seeds are enough here.\n[axes]").replace("1e-3", "0.001");
    for changed in [reworded.clone(), reworded.replace("log_every = 10", "log_every = 1")] {
        assert!(read(&changed).is_finished(), "{changed}");
    }
    let graph = read(&format!("{text}[base.dpo]\nlr = 0.5\n"));
    let open: Vec<Stage> = graph.nodes.iter().filter(|n| n.state.is_open()).map(|n| n.stage).collect();
    assert_eq!(
        open,
        [Stage::Train(TrainStage::Dpo), Stage::Exam, Stage::Train(TrainStage::Dpo), Stage::Exam]
    );
}

#[test]
fn names_stay_from_one_version_to_the_next() {
    // A change here makes every finished stage run of every user useless.
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
        "sweep test: trials 1 and 2 come to the same, as data.pretrain, data.sft name the same content; expected each once"
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
    // As a pattern the first folder names the second.
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
fn a_stage_that_trials_share_runs_once() {
    let runs = tempfile::tempdir().unwrap();
    let variants = [1e-4, 2e-4, 3e-4].map(|lr| trial(|config| config.sft.training.lr = lr));
    let graph = plan(&variants, runs.path());
    assert_eq!(graph.nodes.len(), 3 + 3 * 3);
    let body = Fake::default();
    let outcome = run(&graph, &body);
    assert_eq!((outcome.ran, outcome.found, outcome.failed.len()), (12, 0, 0));
    assert_eq!(
        (body.count(Stage::Train(TrainStage::Pretrain)), body.count(Stage::Train(TrainStage::Sft))),
        (1, 3)
    );

    let again = plan(&variants, runs.path());
    assert!(again.is_finished());
    assert_eq!(run(&again, &body).ran, 0);
    let records = collect(&again).unwrap();
    assert!(records.iter().all(|r| r.status == Status::Done && r.val_loss == Some(2.5)));
    assert_eq!(records[0].exams[0].stage, "dpo");
    assert_eq!((records[0].train_tokens, records[0].stages.len()), (30, 6));
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

#[test]
fn a_failure_takes_its_dependants_and_no_others() {
    let runs = tempfile::tempdir().unwrap();
    let trials = seeds(&[1, 2, 3]);
    let body = Fake {
        fail: Some((Stage::Train(TrainStage::Sft), 2)),
        panic: Some((Stage::Train(TrainStage::Pretrain), 3)),
        ..Fake::default()
    };
    let outcome = run(&plan(&trials, runs.path()), &body);
    assert_eq!((outcome.failed.len(), outcome.blocked.len()), (2, 2 + 3));

    let graph = plan(&trials, runs.path());
    let records = collect(&graph).unwrap();
    let standing: Vec<_> = records.iter().map(|r| (r.status, r.reason.as_deref())).collect();
    assert_eq!(
        standing,
        [
            (Status::Done, None),
            (Status::Failed, Some("sft: loss is not finite")),
            (Status::Failed, Some("pretrain: the program broke: index out of bounds")),
        ]
    );
    let counts = overview(&graph).unwrap().counts;
    assert_eq!((counts.done, counts.failed), (1, 2));

    // What failed is tried again; what was finished is not.
    let repaired = Fake::default();
    assert!(run(&graph, &repaired).failed.is_empty());
    assert_eq!((repaired.count(Stage::Train(TrainStage::Pretrain)), repaired.count(Stage::Exam)), (1, 2));
}

#[test]
fn two_drivers_do_nothing_twice() {
    let runs = tempfile::tempdir().unwrap();
    let trials = seeds(&[1, 2, 3, 4]);
    let body = Fake { takes: Duration::from_millis(20), ..Fake::default() };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let drive = || run(&plan(&trials, runs.path()), &body);
        let drivers = [scope.spawn(drive), scope.spawn(drive)];
        drivers.into_iter().map(|driver| driver.join().unwrap()).collect()
    });
    let total = plan(&trials, runs.path()).nodes.len();
    assert_eq!(body.ran.lock().unwrap().len(), total);
    assert!(outcomes.iter().all(|o| o.failed.is_empty() && o.ran + o.found >= total));
    assert!(plan(&trials, runs.path()).is_finished());
}

/// Notes which GPU each stage run was given, and how many were on it at most.
#[derive(Default)]
struct OnGpus {
    now: Mutex<BTreeMap<Option<String>, usize>>,
    most: Mutex<BTreeMap<(bool, Option<String>), usize>>,
    body: Fake,
}

impl Launch for OnGpus {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> Ended {
        let count = {
            let mut now = self.now.lock().unwrap();
            let here = now.entry(request.gpu.clone()).or_default();
            *here += 1;
            *here
        };
        let mut most = self.most.lock().unwrap();
        let seen = most.entry((request.stage.computes(), request.gpu.clone())).or_default();
        *seen = (*seen).max(count);
        drop(most);
        let ended = self.body.launch(request, stop, progress);
        *self.now.lock().unwrap().get_mut(&request.gpu).unwrap() -= 1;
        ended
    }
}

#[test]
fn what_computes_gets_a_gpu_of_its_own() {
    let runs = tempfile::tempdir().unwrap();
    let trials: Vec<Trial> = (1..=5)
        .map(|seed| trial(|config| (config.seed, config.device) = (seed, Device::Cuda(None))))
        .collect();
    let gpus = Gpus::new(["4", "6"].map(|name| Gpu { name: name.into(), free_mb: f64::INFINITY }).into(), 1);
    let launch =
        OnGpus { body: Fake { takes: Duration::from_millis(10), ..Fake::default() }, ..OnGpus::default() };
    let machine = Machine::new(8, f64::INFINITY, gpus, None, trials.len());
    let graph = plan(&trials, runs.path());
    execute(&graph, machine, 0, &launch, &Stop::default(), &Board::Silent).unwrap();
    let gpu = |name: &str| Some(name.to_string());
    let most = launch.most.into_inner().unwrap();
    let expected = [((false, None), 1), ((true, gpu("4")), 1), ((true, gpu("6")), 1)];
    assert_eq!(most, BTreeMap::from(expected));
    let graph = plan(&trials, runs.path());
    assert!(graph.is_finished());
    let trained = graph.nodes.iter().find(|node| node.stage == Stage::Train(TrainStage::Pretrain)).unwrap();
    let device = Manifest::read(&trained.dir).unwrap().unwrap().device;
    assert!(["cuda:4", "cuda:6"].contains(&device.as_str()), "{device}");
}

#[test]
fn an_interrupted_stage_run_is_taken_over() {
    let runs = tempfile::tempdir().unwrap();
    let trials = seeds(&[1]);
    run(&plan(&trials, runs.path()), &Fake::default());
    // As a killed process leaves it: a manifest that says running, and a claim whose owner is gone.
    let graph = plan(&trials, runs.path());
    let dpo = graph.nodes.iter().find(|node| node.stage == Stage::Train(TrainStage::Dpo)).unwrap();
    let mut manifest = Manifest::read(&dpo.dir).unwrap().unwrap();
    manifest.status = RunStatus::Running;
    manifest.write(&dpo.dir).unwrap();
    let claim = Claim::take(&dpo.dir, None).unwrap();
    let held = fs::read_to_string(dpo.dir.join(CLAIM)).unwrap();
    drop(claim);
    let mut owner: serde_json::Value = serde_json::from_str(held.trim()).unwrap();
    owner["process_started"] = json!(1);
    owner["heartbeat"] = json!(20);
    // Its predecessor was killed after its end was recorded: nothing but its claim is left to clear away.
    let sft =
        graph.nodes.iter().find(|node| node.stage == Stage::Train(TrainStage::Sft)).unwrap().dir.join(CLAIM);
    fs::write(&sft, owner.to_string()).unwrap();
    fs::write(dpo.dir.join(CLAIM), owner.to_string()).unwrap();

    let graph = plan(&trials, runs.path());
    let open: Vec<_> = graph.nodes.iter().filter(|node| node.state.is_open()).collect();
    assert_eq!((open.len(), &open[0].state), (1, &State::Unfinished));
    let body = Fake::default();
    run(&graph, &body);
    assert_eq!(*body.ran.lock().unwrap(), [(Stage::Train(TrainStage::Dpo), 1)]);
    let manifest = Manifest::read(&dpo.dir).unwrap().unwrap();
    assert_eq!((manifest.status, manifest.attempts), (RunStatus::Done, 2));
    assert!(!sft.exists());
    // The one who was killed had shown for a minute that it lived.
    assert!((60.0..70.0).contains(&manifest.wall_seconds), "{}", manifest.wall_seconds);
}

#[test]
fn a_stopped_sweep_goes_on_where_it_was() {
    let runs = tempfile::tempdir().unwrap();
    let trials = seeds(&[1, 2]);
    let body = Fake { wait_for_stop: Some(Stage::Train(TrainStage::Sft)), ..Fake::default() };
    let stop = Stop::default();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while body.count(Stage::Train(TrainStage::Sft)) < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            stop.ask();
        });
        let graph = plan(&trials, runs.path());
        execute(&graph, two_cores(), 0, &body, &stop, &Board::Silent).unwrap()
    });
    assert!(outcome.stopped && outcome.failed.is_empty());
    let graph = plan(&trials, runs.path());
    assert_eq!(overview(&graph).unwrap().counts.stopped, 2);
    let on = Fake::default();
    run(&graph, &on);
    assert_eq!(
        (
            on.count(Stage::Train(TrainStage::Pretrain)),
            on.count(Stage::Train(TrainStage::Sft)),
            on.count(Stage::Exam)
        ),
        (0, 2, 2)
    );
}

#[test]
fn results_that_vanished_are_made_again() {
    let runs = tempfile::tempdir().unwrap();
    let trials = seeds(&[1]);
    run(&plan(&trials, runs.path()), &Fake::default());
    let graph = plan(&trials, runs.path());
    for node in &graph.nodes {
        match node.stage {
            Stage::Data => fs::remove_dir_all(&node.dir).unwrap(),
            Stage::Exam => fs::write(node.dir.join("result.txt"), "cut").unwrap(),
            _ => {}
        }
    }
    // The data is needed again for the exam's sake only.
    let body = Fake::default();
    run(&plan(&trials, runs.path()), &body);
    assert_eq!(*body.ran.lock().unwrap(), [(Stage::Data, 1), (Stage::Exam, 1)]);

    fs::remove_dir_all(&graph.nodes[1].dir).unwrap();
    let spared = plan(&trials, runs.path());
    assert_eq!(spared.nodes[1].state, State::Unneeded);
    assert!(spared.is_finished());
}

#[test]
fn a_plan_says_why_something_is_stale() {
    let runs = tempfile::tempdir().unwrap();
    run(&plan(&seeds(&[1]), runs.path()), &Fake::default());
    let other = trial(|config| config.dpo.training.lr = 0.5);
    let graph = plan(&[other], runs.path());
    let dpo = graph.nodes.iter().position(|node| node.stage == Stage::Train(TrainStage::Dpo)).unwrap();
    let why = explain(&graph, dpo, runs.path()).unwrap();
    assert!(why.ends_with("in dpo.lr (0.00004, now 0.5)"), "{why}");
    assert!(graph.nodes[..4].iter().all(|node| node.state == State::Done));
    // Where none has finished a failed one is told.
    let runs = tempfile::tempdir().unwrap();
    let fails = Fake { fail: Some((Stage::Train(TrainStage::Sft), 1)), ..Fake::default() };
    run(&plan(&seeds(&[1]), runs.path()), &fails);
    let graph = plan(&[trial(|config| config.sft.training.lr = 0.5)], runs.path());
    let sft = graph.nodes.iter().position(|node| node.stage == Stage::Train(TrainStage::Sft)).unwrap();
    let why = explain(&graph, sft, runs.path()).unwrap();
    assert!(why.ends_with(", which failed, in sft.lr (0.0001, now 0.5)"), "{why}");
}

#[test]
fn what_may_pass_is_tried_again_and_what_cannot_is_not() {
    let runs = tempfile::tempdir().unwrap();
    let body = Fake { no_room: Mutex::new(Some((Stage::Train(TrainStage::Sft), 1))), ..Fake::default() };
    let outcome = run(&plan(&seeds(&[1]), runs.path()), &body);
    assert_eq!((outcome.failed.len(), body.count(Stage::Train(TrainStage::Sft))), (0, 2));

    let full = Fake { no_room: Mutex::new(Some((Stage::Train(TrainStage::Sft), 9))), ..Fake::default() };
    let graph = plan(&seeds(&[2]), runs.path());
    let outcome = execute(&graph, two_cores(), 1, &full, &Stop::default(), &Board::Silent).unwrap();
    assert_eq!((outcome.failed.len(), full.count(Stage::Train(TrainStage::Sft))), (1, 2));
    let counts = overview(&plan(&seeds(&[2]), runs.path())).unwrap().counts;
    assert_eq!(counts.failed, 1);

    let wrong = Fake { fail: Some((Stage::Train(TrainStage::Sft), 3)), ..Fake::default() };
    run(&plan(&seeds(&[3]), runs.path()), &wrong);
    assert_eq!(wrong.count(Stage::Train(TrainStage::Sft)), 1);
}

#[test]
fn what_no_sweep_refers_to_is_found_and_removed() {
    let runs = tempfile::tempdir().unwrap();
    let (mine, old) = (plan(&seeds(&[1]), runs.path()), plan(&seeds(&[2]), runs.path()));
    run(&mine, &Fake::default());
    run(&old, &Fake::default());
    let kept = mine.nodes.iter().map(|node| node.uuid).collect();
    let stages = |garbage: &[Garbage]| {
        let name = |g: &Garbage| g.dir.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<String> = garbage.iter().map(|g| name(g)[..3].to_string()).collect();
        names.sort();
        names
    };
    // The tokenizer and the data are shared.
    let garbage = find(runs.path(), &kept).unwrap();
    assert_eq!(stages(&garbage), ["dpo", "exa", "pre", "sft"]);
    assert!(garbage.iter().all(|g| g.bytes > 0 && g.stays.is_none() && g.status == Some(RunStatus::Done)));

    // Somebody works on the SFT: it stays, and so does the model it starts from.
    let sft = old.nodes.iter().find(|node| node.stage == Stage::Train(TrainStage::Sft)).unwrap();
    let Taking::Ours(claim) = Claim::take(&sft.dir, None).unwrap() else { panic!("nobody holds it") };
    let garbage = find(runs.path(), &kept).unwrap();
    let stay: Vec<Garbage> = garbage.into_iter().filter(|g| g.stays.is_some()).collect();
    assert_eq!(stages(&stay), ["pre", "sft"]);
    assert!(!remove(stay.iter().find(|g| g.dir == sft.dir).unwrap()).unwrap());
    drop(claim);

    for item in find(runs.path(), &kept).unwrap() {
        assert!(remove(&item).unwrap());
    }
    assert_eq!(find(runs.path(), &kept).unwrap(), []);
    assert!(plan(&seeds(&[1]), runs.path()).is_finished());
}

//! Tests of the executor with fake stages.
#![allow(clippy::unwrap_used)]

use super::gpus::{Gpu, Gpus};
use super::machine::Machine;
use super::pool::{Launch, Outcome, Stop, execute, tidy_killed};
use super::testing::{Fake, run, seeds, two_cores};
use super::worker::{AttemptOutcome, record_end, work};
use crate::config::{Source, Stage, TrainStage};
use crate::plan::State;
use crate::plan::testing::{plan, trial};
use crate::recipe::StageRequest;
use crate::records::Status;
use crate::runs::claim::Claim;
use crate::runs::files::CLAIM;
use crate::runs::manifest::{Manifest, RunStatus};
use crate::status::overview;
use crate::status::records::collect;
use crate::sweep::Trial;
use crate::track::{Board, Progress, Silent};
use model::Device;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

mod stopping;

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
fn later_rounds_count_what_others_finished_and_nothing_twice() {
    // Of ten stage runs two are finished and five wait for a choice.
    let mut outcome = Outcome::default();
    outcome.add(Outcome { ran: 3, found: 2, ..Outcome::default() }, 0, Some);
    assert_eq!((outcome.ran, outcome.found), (3, 2));
    // One is not needed any more, another process has finished one, and three are left.
    outcome.add(Outcome { ran: 3, found: 2 + 3 + 1 + 1, ..Outcome::default() }, 1, Some);
    assert_eq!((outcome.ran, outcome.found), (6, 3));
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
            (Status::Failed, Some("pretrain: the program panicked: index out of bounds")),
        ]
    );
    let counts = overview(&graph).counts;
    assert_eq!((counts.done, counts.failed), (1, 2));

    // Failed stage runs are run again; finished ones are not.
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

/// Records which GPU each stage run was given, and the most stage runs at a time on each.
#[derive(Default)]
struct OnGpus {
    now: Mutex<BTreeMap<Option<String>, usize>>,
    most: Mutex<BTreeMap<(bool, Option<String>), usize>>,
    body: Fake,
}

impl Launch for OnGpus {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> AttemptOutcome {
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
    // The state that a killed process leaves: a manifest that says running, and a claim whose owner is gone.
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
    // Its predecessor was killed after its end was recorded: its claim is left, and what only an unfinished one needs.
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
    assert_eq!(std::mem::take(&mut *body.tidied.lock().unwrap()), [(Stage::Train(TrainStage::Dpo), 1)]);
    let manifest = Manifest::read(&dpo.dir).unwrap().unwrap();
    assert_eq!((manifest.status, manifest.attempts), (RunStatus::Done, 2));
    assert!(sft.exists());
    let graph = plan(&trials, runs.path());
    for tidied in [vec![(Stage::Train(TrainStage::Sft), 1)], vec![]] {
        tidy_killed(&graph, &body).unwrap();
        assert_eq!(std::mem::take(&mut *body.tidied.lock().unwrap()), tidied);
        assert!(!sft.exists());
    }
    // The heartbeat of the killed owner counts as a minute of work.
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
            stop.request();
        });
        let graph = plan(&trials, runs.path());
        execute(&graph, two_cores(), 0, &body, &stop, &Board::Silent).unwrap()
    });
    assert!(outcome.stopped && outcome.failed.is_empty());
    let graph = plan(&trials, runs.path());
    assert_eq!(overview(&graph).counts.stopped, 2);
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
    // Only the exam needs the data again.
    let body = Fake::default();
    run(&plan(&trials, runs.path()), &body);
    assert_eq!(*body.ran.lock().unwrap(), [(Stage::Data, 1), (Stage::Exam, 1)]);

    fs::remove_dir_all(&graph.nodes[1].dir).unwrap();
    let spared = plan(&trials, runs.path());
    assert_eq!(spared.nodes[1].state, State::Unneeded);
    assert!(spared.is_finished());
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
    let counts = overview(&plan(&seeds(&[2]), runs.path())).counts;
    assert_eq!(counts.failed, 1);

    let wrong = Fake { fail: Some((Stage::Train(TrainStage::Sft), 3)), ..Fake::default() };
    run(&plan(&seeds(&[3]), runs.path()), &wrong);
    assert_eq!(wrong.count(Stage::Train(TrainStage::Sft)), 1);
}

#[test]
fn a_manifest_has_the_threads_that_worked_and_the_seeds_that_count() {
    let runs = tempfile::tempdir().unwrap();
    let graph = plan(&seeds(&[7]), runs.path());
    let tokenizer = |threads: usize, source: Source| {
        let mut config = (*graph.nodes[0].config).clone();
        (config.data.source, config.world.seed, config.recall.seed) = (source, 3, 5);
        let config = toml::to_string(&config).unwrap();
        let dir = runs.path().join(format!("tokenizer-{}", source.word()));
        let request = super::pool::request_of(&graph, 0, threads).unwrap();
        let request = StageRequest { config, dir: dir.clone(), ..request };
        let ended = work(&request, &Fake::default(), &AtomicBool::new(false), &Silent).unwrap();
        assert!(matches!(ended, AttemptOutcome::Done(_)), "{ended:?}");
        Manifest::read(&dir).unwrap().unwrap()
    };
    let seed = |name: &str, seed: u64| (name.to_string(), seed);
    let found = tokenizer(3, Source::World);
    assert_eq!((found.threads, found.seeds), (3, vec![seed("trial", 7), seed("world", 3)]));
    assert_eq!(tokenizer(1, Source::Recall).seeds, [seed("trial", 7), seed("recall", 5)]);
    // 0 threads means all cores; files have no seed of their own.
    let found = tokenizer(0, Source::Files);
    assert!(found.threads > 0);
    assert_eq!(found.seeds, [seed("trial", 7)]);
}

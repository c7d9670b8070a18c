//! Tests of stage runs that are stopped, and of time limits.

use super::*;
use crate::execute::pool::request_of;
use crate::execute::slurm::time_limit_problem;

#[test]
fn what_is_stopped_again_and_again_without_progress_is_given_up() {
    let runs = tempfile::tempdir().unwrap();
    let graph = plan(&seeds(&[1]), runs.path());
    let of = |stage| graph.nodes.iter().position(|node| node.stage == stage).unwrap();
    let data = request_of(&graph, of(Stage::Data), 1).unwrap();
    let asked = AtomicBool::new(true);
    let idle = || Manifest::read(&data.dir).unwrap().unwrap().idle_attempts;
    for times in 1..=3 {
        let body = Fake { wait_for_stop: Some(Stage::Data), ..Fake::default() };
        assert_eq!(work(&data, &body, &asked, &Silent).unwrap(), AttemptOutcome::Stopped);
        assert_eq!(idle(), times);
        // The third time in the queue; three jobs that users stopped themselves do not count.
        assert_eq!(time_limit_problem(&data, 2).unwrap().is_some(), times == 3);
        assert_eq!(time_limit_problem(&data, 0).unwrap(), None);
    }
    let reason = time_limit_problem(&data, 2).unwrap().unwrap();
    assert!(reason.starts_with("the data stage needs more than the job's time limit: "), "{reason}");
    assert!(reason.contains("its progress cannot be kept; raise slurm.time"), "{reason}");
    // A training that writes a new checkpoint in each attempt goes on.
    let sft = request_of(&graph, of(Stage::Train(TrainStage::Sft)), 1).unwrap();
    fs::create_dir_all(sft.dir.join("checkpoints")).unwrap();
    for step in 1..=4 {
        let body = Fake {
            wait_for_stop: Some(Stage::Train(TrainStage::Sft)),
            checkpoint: Mutex::new(Some(step)),
            ..Fake::default()
        };
        work(&sft, &body, &asked, &Silent).unwrap();
        assert_eq!(time_limit_problem(&sft, 9).unwrap(), None);
    }
    for _ in 0..3 {
        work(
            &sft,
            &Fake { wait_for_stop: Some(Stage::Train(TrainStage::Sft)), ..Fake::default() },
            &asked,
            &Silent,
        )
        .unwrap();
    }
    assert!(time_limit_problem(&sft, 9).unwrap().unwrap().contains("without a new checkpoint"));
}

/// Works in this process, and records how much time the trial had taken before each stage run.
struct Noting(Fake, Mutex<Vec<f64>>);

impl Launch for Noting {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> AttemptOutcome {
        self.1.lock().unwrap().push(request.spent);
        self.0.launch(request, stop, progress)
    }
}

#[test]
fn exams_count_as_time_of_their_trial() {
    let runs = tempfile::tempdir().unwrap();
    let trials = [trial(|config| config.exam.after = vec![TrainStage::Sft, TrainStage::Dpo])];
    let takes = Duration::from_millis(40);
    let body = Noting(Fake { takes, ..Fake::default() }, Mutex::default());
    let one_at_a_time = Machine::new(1, f64::INFINITY, Gpus::default(), Some(1), 1);
    execute(&plan(&trials, runs.path()), one_at_a_time, 0, &body, &Stop::default(), &Board::Silent).unwrap();
    let spent = body.1.into_inner().unwrap();
    // tokenizer, data, pretrain, sft, dpo and two exams: each finds the time of all before it.
    assert_eq!(spent.len(), 7);
    for (before, spent) in spent.into_iter().enumerate() {
        assert!(spent >= before as f64 * takes.as_secs_f64(), "{spent} s before stage run {before}");
    }
}

#[test]
fn an_attempt_counts_as_long_as_it_looked_from_outside() {
    let runs = tempfile::tempdir().unwrap();
    let graph = plan(&seeds(&[1]), runs.path());
    let data = graph.nodes.iter().position(|node| node.stage == Stage::Data).unwrap();
    let data = request_of(&graph, data, 1).unwrap();
    let body = Fake { wait_for_stop: Some(Stage::Data), ..Fake::default() };
    work(&data, &body, &AtomicBool::new(true), &Silent).unwrap();
    assert!(Manifest::seconds_so_far(&data.dir, data.uuid) < 3.0);
    // The process counted from when it had started, so less than the limit that it exceeded.
    for (seen, counted) in [(3.25, 3.25), (1.5, 3.25)] {
        record_end(&data, RunStatus::Failed, Some("out of time"), seen).unwrap();
        assert_eq!(Manifest::seconds_so_far(&data.dir, data.uuid), counted);
    }
    assert_eq!(Manifest::seconds_so_far(&data.dir, uuid::Uuid::nil()), 0.0, "of another stage run");
}

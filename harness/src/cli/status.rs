//! The verb `status`: shows the progress of a sweep, once or as a live view.

use super::web::WebArgs;
use super::{OnlyArg, SweepArgs, say};
use crate::plan::short_name;
use crate::records::{Status, short_id};
use crate::run::Layers;
use crate::status::{Overview, StageStatus, TrialStatus, overview};
use crate::track::{number, table, time};
use anyhow::Result;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Interval between redraws of the live view.
const DRAW_EVERY: Duration = Duration::from_secs(1);

/// Maximum number of trials in the live view; the rest are only counted.
const SHOWN: usize = 40;

/// Escape sequence that moves to the upper left corner of the terminal and clears everything below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Shows the progress of a sweep.
pub fn status(args: &SweepArgs, only: &OnlyArg, watch: bool, web: WebArgs) -> Result<bool> {
    let sweep = args.read_only(Layers::Last, only)?;
    if web.web {
        return super::web::watch(&sweep, &args.with.results, web.port);
    }
    let graph = sweep.look()?;
    let look = || Ok(overview(&sweep.chosen(graph(&sweep)?)?));
    if watch {
        return live(look);
    }
    let found = look()?;
    if args.with.json {
        say(serde_json::to_string_pretty(&found)?)?;
        return Ok(true);
    }
    say(headline(&found))?;
    for trial in &found.trials {
        say(format!("{:?} {} {}", trial.status, short_id(trial.trial), trial.label))?;
        for stage in trial.stages.iter().filter(|s| !["done", "unneeded"].contains(&s.state)) {
            let last = stage.last.as_ref().map_or(String::new(), |l| {
                format!(", step {}, loss {}", l.step, l.loss.map_or("?".into(), |l| format!("{l:.4}")))
            });
            let detail = stage.detail.as_ref().map_or(String::new(), |d| format!(": {d}"));
            say(format!("    {} {}{last}{detail}", short_name(stage.stage, stage.uuid), stage.state))?;
            for line in &stage.log {
                say(format!("        {line}"))?;
            }
        }
        let trained = trial.stages.iter().filter(|s| s.state == "done" && s.stage.training().is_some());
        let trained: Vec<String> = trained.map(|s| short_name(s.stage, s.uuid)).collect();
        if !trained.is_empty() {
            say(format!("    trained: {}", trained.join(" ")))?;
        }
    }
    Ok(true)
}

/// Redraws until nothing is left to run; without a terminal, only if something has changed.
fn live(look: impl Fn() -> Result<Overview>) -> Result<bool> {
    let is_terminal = io::stdout().is_terminal();
    let mut drawn = String::new();
    loop {
        let found = look()?;
        let page = page(&found);
        if is_terminal {
            say(format!("{CLEAR}{page}"))?;
        } else if page != drawn {
            say(&page)?;
        }
        drawn = page;
        let counts = found.counts;
        if counts.running + counts.stopped + counts.pending == 0 {
            return Ok(counts.failed == 0);
        }
        std::thread::sleep(DRAW_EVERY);
    }
}

fn headline(found: &Overview) -> String {
    let c = found.counts;
    format!(
        "{} done, {} running, {} failed, {} stopped, {} pending",
        c.done, c.running, c.failed, c.stopped, c.pending
    )
}

/// Formats the live view: the sweep's totals, then its trials, running ones first.
fn page(found: &Overview) -> String {
    let mut lines = vec![match found.seconds_left {
        Some(seconds) if seconds > 0.0 => format!("{}; {} left", headline(found), time(seconds)),
        _ => headline(found),
    }];
    let mut trials: Vec<&TrialStatus> = found.trials.iter().collect();
    trials.sort_by_key(|trial| trial.status != Status::Running);
    let rows: Vec<_> = trials.iter().take(SHOWN).map(|trial| row(trial)).collect();
    lines.push(table(&["trial", "stage", "state", "step", "loss", "tokens/s", "left", ""], &rows));
    if trials.len() > SHOWN {
        lines.push(format!("and {} more", trials.len() - SHOWN));
    }
    lines.join("\n")
}

/// Formats the current stage of a trial: the running one, or the first that is not done.
fn row(trial: &TrialStatus) -> Vec<String> {
    let now = trial.stages.iter().find(|stage| stage.state == "running");
    let now = now.or_else(|| trial.stages.iter().find(|s| !["done", "unneeded"].contains(&s.state)));
    let cells = match now {
        None => ["", "done", "", "", "", "", ""].map(String::from),
        Some(stage) => stage_cells(stage),
    };
    [trial.label.clone()].into_iter().chain(cells).collect()
}

fn stage_cells(stage: &StageStatus) -> [String; 7] {
    let last = stage.last.as_ref();
    let total = stage.total_steps.map_or("?".into(), number);
    [
        stage.stage.name().into(),
        stage.state.into(),
        last.map_or(String::new(), |last| format!("{}/{total}", number(last.step))),
        last.and_then(|last| last.loss).map_or(String::new(), |loss| format!("{loss:.4}")),
        last.and_then(|last| last.tokens_per_second).map_or(String::new(), |speed| number(speed as u64)),
        stage.seconds_left.map_or(String::new(), time),
        stage.detail.clone().filter(|_| stage.state == "failed").unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Stage, TrainStage};
    use crate::status::{Counts, LastRow};
    use uuid::Uuid;

    #[test]
    fn a_page_shows_where_each_trial_is_and_the_total() {
        let stage = |stage, state, last| StageStatus {
            stage,
            uuid: Uuid::nil(),
            dir: "runs/x".into(),
            state,
            detail: None,
            last,
            total_steps: Some(2000),
            seconds_left: Some(150.0),
            log: vec![],
        };
        let last = LastRow {
            step: 1200,
            tokens: 7,
            loss: Some(2.5),
            tokens_per_second: Some(12_345.6),
            elapsed_seconds: Some(9.0),
        };
        let trial = |label: &str, status, stages| TrialStatus {
            trial: Uuid::nil(),
            sweep: "s".into(),
            label: label.into(),
            status,
            reason: None,
            stages,
        };
        let found = Overview {
            counts: Counts { running: 1, pending: 1, ..Counts::default() },
            trials: vec![
                trial("seed=1", Status::Pending, vec![stage(Stage::Train(TrainStage::Sft), "pending", None)]),
                trial(
                    "seed=2",
                    Status::Running,
                    vec![
                        stage(Stage::Train(TrainStage::Pretrain), "done", None),
                        stage(Stage::Train(TrainStage::Sft), "running", Some(last)),
                    ],
                ),
            ],
            seconds_left: Some(7300.0),
        };
        insta::assert_snapshot!(page(&found), @r"
        0 done, 1 running, 0 failed, 0 stopped, 1 pending; 2 h 2 min left
        trial   stage  state           step    loss  tokens/s   left
        seed=2  sft    running  1,200/2,000  2.5000    12,345  3 min
        seed=1  sft    pending                                 3 min
        ");
    }
}

//! Forecasts how long a sweep will still take, from the pace of the training so far.

use super::StageStatus;
use crate::plan::StageGraph;
use crate::runs::manifest::Manifest;
use crate::train::trunk::adopted_share;

/// Operations done, and the seconds that they took.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    flops: f64,
    seconds: f64,
}

impl Pace {
    fn seconds_for(self, flops: f64) -> Option<f64> {
        (self.flops > 0.0 && self.seconds > 0.0).then(|| flops * self.seconds / self.flops)
    }
}

/// Fills in the seconds that each stage run will still take, and returns those of the whole sweep.
///
/// A stage run that has begun keeps its own pace; others take the mean pace of those begun. The number of stage runs at
/// a time is assumed to stay as it is now.
pub fn fill(graph: &StageGraph, stages: &mut [StageStatus]) -> Option<f64> {
    let mut pace = Pace::default();
    for (node, stage) in graph.nodes.iter().zip(stages.iter_mut()) {
        if stage.stage.training().is_none() {
            continue;
        }
        if stage.state == "done" {
            if let Ok(Some(manifest)) = Manifest::read(node.record()) {
                // The plan's own count of operations, so that remaining and finished work are measured alike; without those of
                // a trunk, whose time is not this stage run's either.
                pace.flops += node.weight * (1.0 - adopted_share(&manifest.results));
                pace.seconds += manifest.wall_seconds;
            }
            continue;
        }
        if let (Some(last), Some(total)) = (&stage.last, stage.total_steps)
            && let Some(seconds) = last.elapsed_seconds
            && last.step > 0
            && stage.state != "pending"
        {
            stage.seconds_left = Some(seconds / last.step as f64 * total.saturating_sub(last.step) as f64);
            pace.flops += node.weight * last.step as f64 / total.max(1) as f64;
            pace.seconds += seconds;
        }
    }
    let mut all = 0.0;
    for (node, stage) in graph.nodes.iter().zip(stages.iter_mut()) {
        if stage.stage.training().is_none() || ["done", "unneeded", "lost"].contains(&stage.state) {
            continue;
        }
        stage.seconds_left = stage.seconds_left.or(pace.seconds_for(node.weight * node.chance));
        all += stage.seconds_left?;
    }
    let at_work = stages.iter().filter(|stage| stage.state == "running").count();
    Some(all / at_work.max(1) as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::execute::testing::{Fake, run};
    use crate::plan::testing::{plan, trial};
    use crate::records::Notice;
    use crate::runs::manifest::Manifest;
    use crate::status::overview;

    #[test]
    fn a_finished_branch_counts_with_its_own_steps() {
        let runs = tempfile::tempdir().unwrap();
        let trial = |seed| {
            trial(|config| {
                config.seed = seed;
                (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
            })
        };
        let graph = plan(&[trial(1)], runs.path());
        run(&graph, &Fake::default());
        let trained = graph.nodes.iter().find(|node| node.stage.training().is_some()).unwrap();
        let mut manifest = Manifest::read(&trained.dir).unwrap().unwrap();
        manifest.wall_seconds = 2.0;
        let mut seconds_left = |notices: Vec<Notice>| {
            manifest.results.notices = notices;
            manifest.write(&trained.dir).unwrap();
            overview(&plan(&[trial(1), trial(2)], runs.path())).seconds_left.unwrap()
        };
        assert_eq!(seconds_left(vec![]), 2.0);
        // It took a quarter of its steps in two seconds; the other trial takes all of them.
        let reason =
            "steps, and their time, are those of its trunk, a longer training that begins the same".into();
        let of_trunk = Notice { place: "pretrain".into(), reason, count: 75, of: 100 };
        assert_eq!(seconds_left(vec![of_trunk]), 8.0);
    }
}

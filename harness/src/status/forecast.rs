//! How long a sweep will still take, judged by the pace of what has been trained so far.

use super::StageStatus;
use crate::plan::StageGraph;
use crate::runs::manifest::Manifest;

/// Work done and the time that it took.
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
/// What has begun goes on at its own pace; what has not, at the mean pace of what has. As many stage runs as are at
/// work now are taken to be so until the end.
pub fn fill(graph: &StageGraph, stages: &mut [StageStatus]) -> Option<f64> {
    let mut pace = Pace::default();
    for (node, stage) in graph.nodes.iter().zip(stages.iter_mut()) {
        if stage.stage.training().is_none() {
            continue;
        }
        if stage.state == "done" {
            if let Ok(Some(manifest)) = Manifest::read(&node.dir) {
                // The plan's own count of operations, so that what is left is measured by the same yard.
                pace.flops += node.weight;
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

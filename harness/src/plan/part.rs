//! A part of a stage graph: some of its trials with the stage runs that they need.

use super::graph::{PlannedTrial, StageGraph};
use super::trunk;
use super::tune::PlannedTuning;

impl StageGraph {
    /// The part with the trials of the study for which `wanted` returns `true`, their tuning candidates, and all their stage runs.
    pub fn part(&self, wanted: impl Fn(&PlannedTrial) -> bool) -> Self {
        let is_wanted = |planned: &PlannedTrial| !planned.trial.is_candidate() && wanted(planned);
        let mut keeps: Vec<bool> = self.trials.iter().map(is_wanted).collect();
        let mut tunings: Vec<PlannedTuning> = self.tunings.clone();
        tunings.retain(|tuning| tuning.tuned.iter().any(|&trial| keeps[trial]));
        tunings.iter().flat_map(|tuning| &tuning.candidates).for_each(|&trial| keeps[trial] = true);
        let mut trials: Vec<PlannedTrial> = vec![];
        let mut trial_at = vec![None; self.trials.len()];
        for (index, planned) in self.trials.iter().enumerate().filter(|(index, _)| keeps[*index]) {
            trial_at[index] = Some(trials.len());
            trials.push(planned.clone());
        }
        for tuning in &mut tunings {
            for of in [&mut tuning.candidates, &mut tuning.tuned] {
                *of = of.iter().filter_map(|&trial| trial_at[trial]).collect();
            }
        }
        let mut nodes = vec![];
        let mut node_at = vec![None; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            let mut node = node.clone();
            node.trials = node.trials.iter().filter_map(|&trial| trial_at[trial]).collect();
            if node.trials.is_empty() {
                continue;
            }
            // A needed stage run comes earlier, and the same trials need it.
            for need in [&mut node.tokenizer, &mut node.data, &mut node.model] {
                *need = need.and_then(|need| node_at[need]);
            }
            node_at[index] = Some(nodes.len());
            nodes.push(node);
        }
        for planned in &mut trials {
            planned.stages = planned.stages.iter().filter_map(|&stage| node_at[stage]).collect();
        }
        let mut part = Self { trials, nodes, tunings }.apart();
        part.mark_held();
        part.mark_unneeded();
        trunk::share(&mut part);
        part
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Stage;
    use crate::plan::State;
    use crate::plan::testing::{plan, trial};

    #[test]
    fn a_part_is_the_plan_of_its_trials() {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let trials = [1, 2, 3].map(|seed| trial(|config| config.seed = seed));
        let whole = plan(&trials, dir.path());
        let part = whole.part(|planned| planned.trial.config.seed != 2);
        let alone = plan(&[trials[0].clone(), trials[2].clone()], dir.path());
        let named = |graph: &crate::plan::StageGraph| {
            let nodes = graph.nodes.iter();
            let nodes = nodes.map(|n| {
                (n.uuid, n.tokenizer, n.data, n.model, n.trials.clone(), n.state.clone(), n.weight.to_bits())
            });
            let trials = graph.trials.iter().map(|t| (t.uuid, t.setting, t.stages.clone()));
            (nodes.collect::<Vec<_>>(), trials.collect::<Vec<_>>())
        };
        assert_eq!(named(&part), named(&alone));
        assert_eq!(part.trials.len(), 2);
        let none = whole.part(|_| false);
        assert!(none.nodes.is_empty() && none.trials.is_empty());
    }

    #[test]
    fn what_only_other_trials_need_is_not_needed() {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let mut whole = plan(&[1, 2].map(|seed| trial(|config| config.seed = seed)), dir.path());
        for &stage in &whole.trials[0].stages.clone() {
            let node = &mut whole.nodes[stage];
            if !matches!(node.stage, Stage::Tokenizer | Stage::Data) {
                node.state = State::Done;
            }
        }
        let part = whole.part(|planned| planned.trial.config.seed == 1);
        assert!(part.is_finished());
        assert_eq!(part.nodes[0].state, State::Unneeded);
        assert!(!whole.part(|planned| planned.trial.config.seed == 2).is_finished());
    }
}

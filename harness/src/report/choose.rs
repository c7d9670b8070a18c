//! Trials by a condition: those that `--only` is about.

use super::check::{listed, shown};
use super::condition::Condition;
use super::observation::Results;
use crate::records::TrialRecord;
use crate::track::counted;
use std::collections::BTreeSet;
use uuid::Uuid;

/// The trials for which a condition holds, which need not have run.
///
/// # Errors
/// Where it is none, names what is known only of trials that have run, or holds for no trial: with the values that there are.
pub fn choose(condition: &str, trials: &[TrialRecord]) -> Result<BTreeSet<Uuid>, String> {
    let condition = Condition::parse(condition)?;
    if let Some(column) = condition.columns().find(|column| !column.is_known()) {
        return Err(format!(
            "names {}, which is known once a trial has run; expected a key such as model.n_layers, or params, active_params, sweep, trial",
            column.name()
        ));
    }
    let results = Results::new(trials, &[]);
    let planned = results.planned();
    let chosen: BTreeSet<Uuid> =
        planned.iter().filter(|o| condition.holds(o)).map(|o| o.trial.trial).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let mut there: Vec<String> = vec![];
    for column in condition.columns() {
        let values = planned.iter().filter_map(|o| column.read(o).as_ref().map(shown)).collect();
        let values = format!("{} is {}", column.name(), listed(&values));
        if !there.contains(&values) {
            there.push(values);
        }
    }
    let trials = counted(trials.len(), "trial");
    Err(format!("{:?} holds for none of the {trials}: {}", condition.text, there.join("; ")))
}

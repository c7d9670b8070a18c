//! Trials by a condition: those that `--only` is about.

use super::check::holds_for_none;
use super::condition::Condition;
use super::observation::Results;
use crate::records::TrialRecord;
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
            condition.written(&column)
        ));
    }
    let results = Results::new(trials, &[]);
    let planned = results.planned();
    let chosen: BTreeSet<Uuid> =
        planned.iter().filter(|o| condition.holds(o)).map(|o| o.trial.trial).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    Err(holds_for_none(&condition, &planned, trials.len()))
}

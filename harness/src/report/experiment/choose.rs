//! Selects trials by a condition, for `--only`.

use super::check::holds_for_none;
use super::condition::Condition;
use crate::records::TrialRecord;
use crate::report::results::observation::Results;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Returns the trials for which a condition holds; they need not have run.
///
/// # Errors
/// If the condition cannot be parsed, names a column that is known only after a trial has run, or holds for no trial; the last message lists the
/// values that occur.
pub fn choose(condition: &str, trials: &[TrialRecord]) -> Result<BTreeSet<Uuid>, String> {
    let condition = Condition::parse(condition)?;
    if let Some(column) = condition.columns().find(|column| !column.is_known()) {
        return Err(format!(
            "names {}, which is known only after a trial has run; expected a key such as model.n_layers, or params, active_params, sweep, trial",
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

//! Sweep files: a base configuration and the axes along which it varies, expanded into trials.
//!
//! *Invariant:* every error of a sweep is found here, all at once, before anything starts.

mod grammar;
mod plan;
mod sample;
mod solve;

pub use grammar::Sweep;
pub use plan::{PlanRow, plan, render_table};

use crate::config::TrialConfig;

/// One trial of a sweep.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Name of the sweep.
    pub sweep: String,
    /// Everything that is set.
    pub config: TrialConfig,
    /// Swept and solved keys with their values, in the sweep's order.
    pub keys: Vec<(String, serde_json::Value)>,
}

#[cfg(test)]
mod tests;

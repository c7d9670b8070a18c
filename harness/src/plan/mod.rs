//! Planning: the facts that results depend on, the names derived from them, and the graph of stage runs.
//!
//! Input are trials, output is a [`StageGraph`]. *Invariant:* planning writes nothing but the cache of file digests, and
//! equal facts have equal names on every machine.

mod check;
mod explain;
pub mod extents;
pub mod facts;
pub mod graph;
mod missing;
mod names;
pub mod outline;
mod part;
mod planner;
mod record;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod time;
mod trunk;
mod tune;

pub use explain::explain;
pub use facts::Facts;
pub use graph::{Participation, PlannedTrial, StageGraph, StageNode, State, short_name};
pub use missing::missing;
pub use trunk::Trunk;
pub use tune::{CandidateResult, PlannedTuning, Standing};

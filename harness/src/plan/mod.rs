//! What is to be run: the facts that results depend on, the names that follow from them, and the graph of stage runs.
//!
//! Trials flow in, a [`StageGraph`] flows out. *Invariant:* planning changes nothing but the memory of digests, and
//! equal facts have equal names on every machine.

mod check;
mod explain;
pub mod extents;
pub mod facts;
pub mod graph;
mod missing;
mod names;
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
pub use graph::{PlannedTrial, Play, StageGraph, StageNode, State, short_name};
pub use missing::missing;
pub use trunk::Trunk;
pub use tune::{PlannedTuning, Standing, Tried};

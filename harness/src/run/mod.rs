//! Stage runs: what is to run, under which name, where, and how it went.
//!
//! Trials flow in; folders `runs/<stage>-<uuid>/` come out. *Invariant:* a stage run is complete or resumable,
//! never in between, and equal work is done once.

mod check;
pub mod child;
pub mod claim;
pub mod extents;
pub mod files;
mod forecast;
pub mod gc;
pub mod gpus;
pub mod graph;
pub mod inputs;
pub mod limits;
pub mod machine;
pub mod manifest;
mod pace;
pub mod pool;
pub mod recorded;
pub mod records;
pub mod retry;
pub mod slurm;
pub mod stage;
pub mod stages;
pub mod status;
pub mod worker;

#[cfg(test)]
mod tests;

//! The harness around the models: sweeps, data, training, exams, results.
//!
//! Dependencies point one way: `cli -> report, run -> train, exam, data -> config, model`.
//! *Invariant:* `stats` and `report` read recorded results only; they never touch a tensor.

pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod exam;
pub mod records;
pub mod report;
pub mod run;
pub mod stats;
pub mod stop;
pub mod sweep;
#[cfg(test)]
pub mod testing;
mod threads;
pub mod track;
pub mod train;

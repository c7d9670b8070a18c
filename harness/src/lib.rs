//! The harness around the models: sweeps, data, training, exams, results.
//!
//! Each module is a layer that may use only the layers to its right (enforced by `tests/rooms.rs`):
//! `cli -> serve -> run -> bench, compare, report, status -> execute -> recipe -> models -> plan -> fetch, export, exam, train -> data -> runs -> sweep -> config`,
//! and below all of them `records`, `track`, `system`, `net`, `fsutil` and `stop`.
//! *Invariant:* `report` reads only recorded results; it never touches a tensor.
//!
//! `examples/trials.rs` plans a sweep with this library:
//! `cargo run -p mindscale --example trials -- sweeps/smoke.toml`.

pub mod bench;
pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod exam;
pub mod execute;
pub mod export;
pub mod fetch;
pub mod fsutil;
pub mod models;
pub mod net;
pub mod plan;
pub mod recipe;
pub mod records;
pub mod report;
pub mod run;
pub mod runs;
pub mod serve;
pub mod status;
pub mod stop;
pub mod sweep;
pub mod system;
#[cfg(test)]
pub mod testing;
pub mod track;
pub mod train;

pub use run::{Outcome, ReadOptions, RunOptions, Work, run};

//! Tests of the program and of the harness's library, as one target: it is linked once, and its tests run side by side.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../src/testing.rs"]
mod testing;

mod cases;
mod cli;
mod committed;
mod digests;
mod exam;
mod exchange;
mod experiments;
mod faults;
mod fetch;
mod files;
mod finite;
mod fuzz_requests;
mod fuzz_templates;
mod gpu;
mod layouts;
mod manual;
mod outcomes;
mod parts;
mod records;
mod results;
mod rooms;
mod serve;
mod serve_refusals;
mod sources;
mod stats;
mod stopping;
mod survival;
mod terminal;
mod trunk;
mod tune;

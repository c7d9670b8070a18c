//! Tests of the model crate's public items, as one target: generic code is compiled once for all of them.
#![allow(clippy::unwrap_used)]

mod common;

mod backends;
mod doctor;
mod emulation;
mod exchange;
mod generate;
mod gguf;
mod golden;
mod golden_training;
mod parametrization;
mod preference;
mod pytorch;
mod reference;
mod writing;

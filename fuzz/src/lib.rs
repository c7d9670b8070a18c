//! Fuzzing of every reader through the functions that the property tests use.

pub mod readers;

//! Models at the service of others: a scheduler that writes many texts at a time.
//!
//! Requests flow in as token ids with their options; pieces of texts flow out through channels, one a request.
//! *Invariant:* an answer depends on its request alone.

pub mod scheduler;
#[cfg(test)]
mod tests;

pub use scheduler::{Counts, Ending, Failure, Limits, Refusal, Request, Scheduler, Told};

//! The folder of stage runs and its bookkeeping: manifests, claims, records, garbage collection.
//!
//! *Invariant:* a stage run is complete or resumable, never in between; one attempt at a time works on it.

pub mod claim;
pub mod files;
pub mod gc;
pub mod kept;
pub mod manifest;
pub mod recorded;

//! What the trials scored: one observation per trial or subject, grouped into settings, with the labels of settings.
//! Everything that a report shows is computed from these.

pub mod labels;
pub mod observation;
pub mod summary;

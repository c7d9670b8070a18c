//! What the results mean: tested claims, fitted laws, tuned keys, agreement of answers, and the headline.
//! Takes the observations of `results`; returns numbers, and the tables and figures that show them.

pub mod agreement;
pub mod answers;
pub mod compare;
pub mod headline;
pub mod laws;
pub mod tuning;

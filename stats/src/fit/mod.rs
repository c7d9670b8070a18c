//! Curve fits: lines in linear or logarithmic coordinates, laws of loss over model size and data, and the optimum of a
//! compute budget.

mod isoflop;
mod law;
mod line;
mod minimize;

pub use isoflop::{Budget, IsoFlop, Optimum, budgets, growth, isoflop};
pub use law::{HeldOut, Law, LawFit, Term, fit_law, held_out};
pub use line::{Fit, FitKind, fit};

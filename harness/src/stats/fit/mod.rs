//! Curves through points: lines in plain or logarithmic numbers, laws of loss over size and data, and the optimum of a
//! budget of compute.

mod isoflop;
mod law;
mod line;
mod minimize;

pub use isoflop::{Budget, IsoFlop, Optimum, budgets, growth, isoflop};
pub use law::{HeldOut, Law, LawFit, Term, fit_law, held_out};
pub use line::{Fit, FitKind, fit};

//! What a running stage tells: metrics.csv and TensorBoard events for later, progress for now.
//!
//! Rows of numbers and progress flow in; nothing flows back. *Invariant:* what is written up to a step is the same
//! whether the stage was interrupted or not, times aside.

mod board;
mod events;
pub mod hparams;
mod metrics;
mod progress;
mod table;

pub use board::Board;
pub use events::Events;
pub use metrics::{Course, CourseRow, METRICS, Metrics, MetricsRow, Split, carry_over, csv_number};
pub use progress::{Progress, Silent, counted, number, size, time};
pub use table::table;

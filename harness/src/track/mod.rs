//! Output of a running stage: metrics.csv and TensorBoard events for later, progress displays for now.
//!
//! Rows of numbers and progress flow in; nothing flows back. *Invariant:* the output up to a step is the same whether or
//! not the stage was interrupted, except for times.

mod board;
mod events;
pub mod hparams;
mod metrics;
mod progress;
mod table;

pub use board::Board;
pub use events::Events;
pub use metrics::{
    METRICS, Metrics, MetricsRow, MetricsTable, MetricsTableRow, Split, carry_over, csv_number,
};
pub use progress::{Progress, Silent, counted, listed, number, size, time};
pub use table::table;

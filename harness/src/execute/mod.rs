//! Executors of stage runs: child processes on the cores and GPUs of this machine, or job arrays of Slurm.
//!
//! Input is a stage graph, output a [`pool::Outcome`]. *Invariant:* equal work is done once, and a failed stage run
//! blocks only the stage runs that need it.

pub mod child;
pub mod gpus;
pub mod limits;
pub mod machine;
mod pace;
pub mod pool;
pub mod retry;
pub mod slurm;
#[cfg(test)]
pub mod testing;
pub mod worker;

#[cfg(test)]
mod tests;

//! Who works on stage runs: processes on the cores and GPUs of this machine, or job arrays of Slurm.
//!
//! A stage graph flows in, an [`pool::Outcome`] flows out. *Invariant:* equal work is done once, and a stage run that
//! fails takes only those with it that need it.

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

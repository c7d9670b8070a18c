//! Where the verbs that use a model compute.

use anyhow::Result;
use clap::Args;
use model::{Device, Precision, Work};

/// A device, and the numbers that it computes in.
#[derive(Debug, Clone, Copy, Args)]
pub struct DeviceArgs {
    /// Where it is computed: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// Numbers that a GPU computes with: f32, tf32, bf16 or f16
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
}

impl DeviceArgs {
    /// Does the work there.
    ///
    /// # Errors
    /// As [`Device::run`], and those of the work.
    pub fn run<T>(&self, work: impl Work<Outcome = Result<T>>) -> Result<T> {
        self.device.run(self.precision, work)?
    }
}

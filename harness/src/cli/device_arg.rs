//! The device on which a verb runs its model.

use anyhow::Result;
use clap::Args;
use model::{Device, Precision, Work};

/// A device and the number format of its computations.
#[derive(Debug, Clone, Copy, Args)]
pub struct DeviceArgs {
    /// Device to compute on: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: Device,
    /// Number format of a GPU's computations: f32, tf32, bf16 or f16
    #[arg(long, default_value = "f32")]
    pub precision: Precision,
}

impl DeviceArgs {
    /// Runs the work on the device.
    ///
    /// # Errors
    /// As [`Device::run`], and errors of the work.
    pub fn run<T>(&self, work: impl Work<Outcome = Result<T>>) -> Result<T> {
        self.device.run(self.precision, work)?
    }
}

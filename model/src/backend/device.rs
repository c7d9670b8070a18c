//! Which device, and with it which backend.

use super::{Cpu, Portable};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A device, as configurations name it: `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor's cores.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = name.strip_prefix("cuda:").map(str::parse);
        match (name, number) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err(Error::Input(format!("device = \"{name}\": expected cpu, cuda or cuda:N"))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Work that can be done with any backend.
pub trait Work {
    /// What comes of it.
    type Outcome;

    /// Does it.
    fn run<B: super::Backend>(self, backend: &B) -> Self::Outcome;
}

impl Device {
    /// Does work with the backend of this device.
    ///
    /// # Errors
    /// Where there is no such device, or the program was built without support for it.
    pub fn run<W: Work>(self, work: W) -> Result<W::Outcome> {
        match self {
            Self::Cpu => Ok(work.run(&Cpu)),
            Self::Cuda(number) => {
                let device = candle_core::Device::new_cuda(number)
                    .map_err(|e| Error::Input(format!("device = \"{self}\": not available: {e}")))?;
                Ok(work.run(&Portable(device)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, device) in [("cpu", Device::Cpu), ("cuda:0", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
        {
            assert_eq!(name.parse::<Device>().ok(), Some(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse::<Device>().ok(), Some(Device::Cuda(0)));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }
}

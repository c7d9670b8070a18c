//! The choice of a device, and of the backend that belongs to it.

use super::{Cpu, Precision};
use crate::{Error, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A device, as named in configurations: `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// The cores of the CPU.
    Cpu,
    /// The GPU with this index; `None` stands for any GPU, which is the first one that the process sees.
    Cuda(Option<usize>),
}

impl Device {
    /// The accepted values, as quoted in error messages.
    pub const EXPECTED: &str = "\"cpu\", \"cuda\" or \"cuda:N\"";

    /// Regular expression that matches the accepted values.
    pub const PATTERN: &str = "^(cpu|cuda(:[0-9]{1,4})?)$";

    /// The `format` in the JSON Schema that distinguishes keys of this type from other strings.
    pub const FORMAT: &str = "device";

    /// Width of the widest head that CUDA's attention kernels support.
    pub const MAX_CUDA_HEAD_DIM: usize = 128;

    /// Number of experts up to which a router can be trained on every GPU: each takes 256 bytes of 99 KiB.
    pub const MAX_CUDA_EXPERTS: usize = 396;

    /// Returns the number of GPUs that this program can open.
    ///
    /// # Errors
    /// Returns an error that names what is missing: CUDA in this program, NVIDIA's driver, or a GPU.
    pub fn gpus() -> Result<usize> {
        #[cfg(feature = "cuda")]
        {
            super::cuda::count()
        }
        #[cfg(not(feature = "cuda"))]
        {
            Err(Error::Input("this program was built without CUDA; build it with --features cuda".into()))
        }
    }

    /// Returns `cpu` or `cuda`: results are reproducible within a kind of device, not across kinds.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let is_number = |number: &&str| {
            (1..=4).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        let number = name.strip_prefix("cuda:").filter(is_number).and_then(|number| number.parse().ok());
        match (name, number) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(number)) => Ok(Self::Cuda(Some(number))),
            _ => Err(Error::Input(format!("is {name:?}, expected {}", Self::EXPECTED))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu | Self::Cuda(None) => f.write_str(self.kind()),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": Self::FORMAT, "pattern": Self::PATTERN })
    }
}

/// A computation that can run on any backend.
pub trait Work {
    /// Result of the computation.
    type Outcome;

    /// Runs the computation on `backend`.
    fn run<B: super::Backend>(self, backend: &B) -> Self::Outcome;
}

impl Device {
    /// Runs `work` on the backend of this device, in this precision.
    ///
    /// # Errors
    /// Returns an error if there is no such device, if it does not support the precision, or if the program was built
    /// without support for it.
    pub fn run<W: Work>(self, precision: Precision, work: W) -> Result<W::Outcome> {
        match self {
            Self::Cpu if precision != Precision::F32 => Err(Error::Input(format!(
                "precision = \"{precision}\": device = \"cpu\" supports only \"f32\"; set precision = \"f32\" or \
                 device = \"cuda\""
            ))),
            Self::Cpu => Ok(work.run(&Cpu)),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => {
                let backend =
                    super::Cuda::new(number.unwrap_or(0), precision).map_err(|error| match error {
                        Error::OutOfMemory(text) => {
                            Error::OutOfMemory(format!("device = \"{self}\": {text}"))
                        }
                        error => Error::Input(format!("device = \"{self}\": {error}")),
                    })?;
                Ok(work.run(&backend))
            }
            #[cfg(all(feature = "emulate", not(feature = "cuda")))]
            Self::Cuda(_) => Ok(work.run(&super::Cuda::emulated(precision))),
            #[cfg(not(any(feature = "cuda", feature = "emulate")))]
            Self::Cuda(_) => Err(Error::Input(format!(
                "device = \"{self}\": this program was built without CUDA; build it with --features cuda"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let devices = [
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(None)),
            ("cuda:0", Device::Cuda(Some(0))),
            ("cuda:13", Device::Cuda(Some(13))),
        ];
        for (name, device) in devices {
            assert_eq!(name.parse::<Device>().ok(), Some(device));
            assert_eq!(device.to_string(), name);
            assert_eq!(serde_json::json!(device), name);
            assert_eq!(serde_json::from_value::<Device>(name.into()).ok(), Some(device));
        }
        for bad in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1", "cuda:+1", "cuda:12345"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
        let error = serde_json::from_value::<Device>("gpu".into()).map_err(|error| error.to_string());
        assert_eq!(error, Err("is \"gpu\", expected \"cpu\", \"cuda\" or \"cuda:N\"".into()));
    }
}

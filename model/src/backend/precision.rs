//! The numeric precision of a device's computations.

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The number format of activations and matrix products. Weights, moments, norms, softmax, losses and sums are f32 in all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision: the only one on the CPU.
    #[default]
    F32,
    /// Single precision; matrix products round their inputs to an 11-bit significand (TF32).
    Tf32,
    /// Products and activations in bfloat16: an 8-bit significand and the range of single precision.
    Bf16,
    /// Products and activations in half precision: an 11-bit significand and a small range; the loss is scaled, and a
    /// step that overflows is skipped.
    F16,
}

impl Precision {
    /// All precisions.
    pub const ALL: [Self; 4] = [Self::F32, Self::Tf32, Self::Bf16, Self::F16];

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| {
            Error::Input(format!("is {name:?}, expected {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

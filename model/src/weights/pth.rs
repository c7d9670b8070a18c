//! Weights as PyTorch saves them: a zip with a pickle, read without executing it.

use super::NamedTensors;
use crate::{Error, Result};
use std::path::Path;

/// Reads every tensor of a `.pth` or `.bin` file.
pub fn read_pth(path: &Path) -> Result<NamedTensors> {
    if !path.is_file() {
        return Err(Error::file(path, "no such file".into()));
    }
    let tensors = candle_core::pickle::read_all(path).map_err(|e| {
        let expected = "expected a state dict saved by torch.save in its zip format";
        Error::file(path, format!("not a readable PyTorch file: {e}; {expected}"))
    })?;
    if tensors.is_empty() {
        return Err(Error::file(path, "holds no tensors".into()));
    }
    Ok(tensors.into_iter().collect())
}

//! The error type of this crate.

use crate::config::ShapeError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A result with the [`enum@Error`] of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, Error)]
pub enum Error {
    /// A model shape that cannot be built.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A file that cannot be read or written.
    #[error("{}: {problem}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Description of the problem.
        problem: String,
    },
    /// A tensor in a weights file that does not fit the model.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    Weights {
        /// Path of the file.
        path: PathBuf,
        /// Name of the tensor in the file.
        tensor: String,
        /// Description of the problem and what was expected.
        problem: String,
    },
    /// Input that does not fit the model.
    #[error("{0}")]
    Input(String),
    /// Device memory is exhausted. If other processes share the device, a later attempt may succeed.
    #[error("{0}")]
    OutOfMemory(String),
    /// An error raised by candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, problem: String) -> Self {
        Self::File { path: path.into(), problem }
    }

    pub(crate) fn weights(path: &Path, tensor: &str, problem: String) -> Self {
        Self::Weights { path: path.into(), tensor: tensor.into(), problem }
    }

    pub(crate) fn safetensors(e: safetensors::SafeTensorError) -> Self {
        Self::Candle(candle_core::Error::wrap(e))
    }
}

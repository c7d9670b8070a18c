//! What can go wrong with a model.

use crate::config::ShapeError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong with a model.
#[derive(Debug, Error)]
pub enum Error {
    /// A shape that cannot be built.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A file that cannot be read or written.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor of a weights file that does not fit the model.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Input that does not fit the model.
    #[error("{0}")]
    Input(String),
    /// A device whose memory has no room left. Where others use it as well, there may be some the next time.
    #[error("{0}")]
    OutOfMemory(String),
    /// candle's own error.
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

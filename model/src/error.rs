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
    /// An error raised by candle, without its backtrace.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl Error {
    pub(crate) fn file(path: &Path, problem: String) -> Self {
        Self::File { path: path.into(), problem }
    }

    pub(crate) fn weights(path: &Path, tensor: &str, problem: String) -> Self {
        Self::Weights { path: path.into(), tensor: tensor.into(), problem }
    }

    pub(crate) fn safetensors(e: safetensors::SafeTensorError) -> Self {
        candle_core::Error::wrap(e).into()
    }
}

/// Removes the backtraces that candle appends to its messages if `RUST_BACKTRACE` is set.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::WithBacktrace { inner, .. } => (*inner).into(),
            candle_core::Error::WithPath { inner, path } => match Self::from(*inner) {
                Self::Candle(inner) => Self::Candle(inner.with_path(path)),
                other => other,
            },
            other => Self::Candle(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candle_s_errors_have_no_backtrace() {
        let backtrace = || Box::new(std::backtrace::Backtrace::force_capture());
        let with_backtrace =
            |inner| candle_core::Error::WithBacktrace { inner: Box::new(inner), backtrace: backtrace() };
        let damaged = with_backtrace(candle_core::Error::Msg("unknown magic".into()));
        assert!(damaged.to_string().contains('\n'));
        assert_eq!(Error::from(with_backtrace(damaged)).to_string(), "unknown magic");
        let damaged = with_backtrace(candle_core::Error::Msg("unknown magic".into())).with_path("a.gguf");
        assert_eq!(Error::from(damaged).to_string(), "path: \"a.gguf\" unknown magic");
    }
}

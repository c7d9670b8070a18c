//! What is trained: the shape of a model, its weights, its operations forward and backward.
//!
//! Data flows in as token ids and weights and out as hidden states, losses, gradients and log-probabilities.
//! *Invariant:* this crate knows tensors; it knows nothing of files called sweeps, trials or results.

pub mod config;
mod error;
pub mod layout;
pub mod ops;
pub mod section;
pub mod tokens;
pub mod transformer;
pub mod weights;

pub use config::{AuxLoss, Init, ModelConfig, ShapeError};
pub use error::{Error, Result};
pub use tokens::{Ragged, Sequence};
pub use transformer::{AuxShare, Form, Gradients, Mode, Pass, RouterStats, Transformer};
pub use weights::Weights;

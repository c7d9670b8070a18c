//! Language models: their shape, their weights, and their forward and backward passes.
//!
//! Token ids and weights flow in; hidden states, losses, gradients and log-probabilities flow out.
//! `examples/count.rs` trains a model and generates text with it: `cargo run -p mindscale-model --example count`.
//!
//! *Invariant:* this crate knows tensors and model files, but nothing of sweeps, trials or results.

pub mod backend;
mod computed;
pub mod config;
pub mod continuations;
pub mod cost;
pub mod decode;
pub mod doctor;
mod error;
pub mod folder;
pub mod generate;
pub mod inference;
pub mod layout;
pub mod lora;
pub mod optimizer;
pub mod parametrization;
pub mod preference;
pub mod random;
pub mod reference;
pub mod rotations;
pub mod sampling;
pub mod section;
pub mod spec;
pub mod tokens;
pub mod trainer;
pub mod transformer;
pub mod weights;
pub mod writing;

pub use backend::{About, Backend, Cpu, Device, Memory, Portable, Precision, RouterStats, Work};
pub use config::{AuxLoss, Init, ModelConfig, ShapeError};
pub use continuations::{Continuation, Continuations, ReadCounts};
pub use cost::Cost;
pub use decode::{KvCache, Reading};
pub use error::{Error, Result};
pub use generate::{GenerateOptions, Token};
pub use lora::{Lora, LoraConfig};
pub use parametrization::{Parametrization, Scales};
pub use rotations::RopeScaling;
pub use sampling::{LogProbs, Sampling};
pub use tokens::{Ragged, Sequence};
pub use trainer::{LaneConfig, OptimizerConfig, Trainer};
pub use transformer::{BatchInfo, Mode, Pass, Recompute, Tape, Transformer};
pub use weights::Weights;
pub use writing::{Event, GenerationBatch, TextId};

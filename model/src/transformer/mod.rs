//! MiniMind v1's decoder: embedding, blocks of attention and feed-forward, a last norm, the tied head.
//!
//! A [`Pass`] takes a ragged batch through the model. On a CPU its fused form runs, where embedding and blocks are
//! one node of candle's graph and the head is another; elsewhere its plain form, from one source of weights.

mod attention;
pub(crate) mod context;
mod decoder;
mod embedding;
mod feed_forward;
mod head;
mod stack;

pub use context::{AuxShare, Form, Gradients, Mode, Pass, RouterStats};
pub use decoder::Decoder;

use crate::ops::rope::Rotations;
use crate::tokens::Ragged;
use crate::weights::Weights;
use crate::{ModelConfig, Result};
use candle_core::Device;
use std::sync::{Arc, Mutex, PoisonError};

/// A model: its shape, its weights, its position table.
#[derive(Debug)]
pub struct Transformer {
    /// The shape.
    pub config: Arc<ModelConfig>,
    /// The weights.
    pub weights: Weights,
    form: Form,
    rotations: Mutex<Arc<Rotations>>,
}

impl Clone for Transformer {
    fn clone(&self) -> Self {
        Self::from_weights(&self.config, self.weights.clone()).in_form(self.form)
    }
}

impl Transformer {
    /// A model with random weights.
    pub fn new(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        Ok(Self::from_weights(config, Weights::random(config, seed, device)?))
    }

    /// A model with the given weights, which must be of this shape.
    pub fn from_weights(config: &ModelConfig, weights: Weights) -> Self {
        let rotations = Rotations::new(config.max_seq_len, config.head_dim(), config.rope_theta);
        let form = if weights.flat.device().is_cpu() { Form::Fused } else { Form::Plain };
        Self { config: Arc::new(config.clone()), weights, form, rotations: Mutex::new(Arc::new(rotations)) }
    }

    /// The same model, run in another form than the one that suits its device.
    pub fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The form in which it is run.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        self.weights.flat.device()
    }

    /// A pass of `batch`, in the model's form.
    pub fn pass(&self, batch: Ragged, mode: Mode) -> Result<Pass> {
        self.pass_as(self.form, batch, mode)
    }

    /// A pass of `batch` in the given form.
    pub fn pass_as(&self, form: Form, batch: Ragged, mode: Mode) -> Result<Pass> {
        Pass::new(self, form, batch, mode)
    }

    /// Reads sequences token by token, in the model's form; there is room for `capacity` positions.
    pub fn decoder(&self, capacity: usize) -> Result<Decoder<'_>> {
        Decoder::new(self, self.form, capacity)
    }

    /// The rotary table for at least `positions`.
    fn rotations(&self, positions: usize) -> Arc<Rotations> {
        let mut table = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if table.positions() < positions {
            let (head_dim, theta) = (self.config.head_dim(), self.config.rope_theta);
            *table = Arc::new(Rotations::new(positions.next_power_of_two(), head_dim, theta));
        }
        table.clone()
    }
}

//! MiniMind v1's decoder over a [`Backend`]: embedding, blocks of attention and feed-forward, last norm, output head.
//!
//! A [`Pass`] runs a ragged batch through the model: [`Pass::forward`] returns the last states and a [`Tape`];
//! [`Pass::backward`] takes the tape and the gradient of those states and adds the gradients of all weights. [`head`]
//! contains the losses between the two. Decoding uses the same code with a [`KvCache`](crate::decode::KvCache).

mod attention;
mod feed_forward;
pub mod head;
mod pass;

pub use pass::{BatchInfo, Mode, Pass, Recompute, Routing, Tape};

pub(crate) use attention::KeyValues;

use crate::backend::{Backend, Cpu};
use crate::layout::Layout;
use crate::rotations::{RopeScaling, Rotations};
use crate::tokens::Ragged;
use crate::weights::Weights;
use crate::{Error, ModelConfig, Result};
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

/// A model: its shape, its weights and its table of rotary positions.
#[derive(Debug)]
pub struct Transformer<B: Backend = Cpu> {
    /// Shape of the model.
    pub config: Arc<ModelConfig>,
    /// Position of each parameter in the flat buffer.
    pub layout: Arc<Layout>,
    /// Backend that holds the weights and computes the model.
    pub backend: B,
    pub(crate) weights: B::Weights,
    /// Scaling of rotary positions, and the number of positions the model was trained on.
    scaling: (RopeScaling, usize),
    rotations: Mutex<Arc<Rotations>>,
}

impl<B: Backend> Transformer<B> {
    /// Creates a model with random weights.
    ///
    /// # Errors
    /// If the shape cannot be built, or the device runs out of memory.
    pub fn new(config: &ModelConfig, seed: u64, backend: &B) -> Result<Self> {
        config.validate()?;
        Self::from_weights(config, Weights::random(config, seed), backend)
    }

    /// Prepares the model for generation, which reads the weights for a few tokens at a time; takes as much memory again on
    /// a CPU. Training the model undoes it.
    #[must_use]
    pub fn for_generation(mut self) -> Self {
        self.backend.pack(&mut self.weights, &self.layout);
        self
    }

    /// Creates a model with the given weights, which must have this shape.
    ///
    /// # Errors
    /// If the device runs out of memory.
    pub fn from_weights(config: &ModelConfig, weights: Weights, backend: &B) -> Result<Self> {
        let rotations = Rotations::new(config.max_seq_len, config.head_dim(), config.rope_theta);
        Ok(Self {
            config: Arc::new(config.clone()),
            layout: weights.layout,
            weights: backend.weights(weights.flat)?,
            backend: backend.clone(),
            scaling: (RopeScaling::Unscaled, config.max_seq_len),
            rotations: Mutex::new(Arc::new(rotations)),
        })
    }

    /// Extends the model beyond the `trained` positions it was trained on by a scaling of rotary positions.
    pub fn with_rope_scaling(mut self, scaling: RopeScaling, trained: usize) -> Self {
        self.scaling = (scaling, trained);
        self.rotations = Mutex::new(Arc::new(self.table(self.config.max_seq_len)));
        self
    }

    /// Returns the longest text that the model is meant for, in positions.
    pub fn context_len(&self) -> usize {
        match self.scaling {
            (RopeScaling::Unscaled, _) => self.config.max_seq_len,
            (scaling, trained) => scaling.reach(trained),
        }
    }

    /// Reads all weights, in the order of the layout.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn flat(&self) -> Result<Cow<'_, [f32]>> {
        self.backend.read_weights(&self.weights)
    }

    /// Copies the weights to the host.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn to_weights(&self) -> Result<Weights> {
        Ok(Weights { layout: self.layout.clone(), flat: self.flat()?.into_owned() })
    }

    /// Prepares a pass over `batch`.
    ///
    /// # Errors
    /// If a token or a target is outside the vocabulary, or the device fails.
    pub fn pass(&self, batch: Ragged, mode: Mode) -> Result<Pass<'_, B>> {
        let vocab = self.config.vocab_size as u32;
        if let Some(id) = batch.ids.iter().chain(&batch.targets).find(|&&id| id >= vocab) {
            return Err(Error::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocab}; is this the model's own tokenizer?"
            )));
        }
        let rotations = self.rotations(batch.reach());
        Ok(Pass { model: self, batch: self.backend.batch(batch, &rotations)?, mode })
    }

    /// Returns a table of rotary positions that covers at least `positions`.
    fn rotations(&self, positions: usize) -> Arc<Rotations> {
        let mut table = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if table.positions() < positions {
            *table = Arc::new(self.table(positions.next_power_of_two()));
        }
        table.clone()
    }

    fn table(&self, positions: usize) -> Rotations {
        let (config, (scaling, trained)) = (&self.config, self.scaling);
        Rotations::scaled(positions, config.head_dim(), config.rope_theta, scaling, trained)
    }
}

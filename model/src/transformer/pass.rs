//! One pass of a ragged batch through embedding and blocks: forward, recording a tape, and backward over the tape.

use super::{Transformer, attention, feed_forward};
use crate::Result;
use crate::backend::{Backend, Balancing, Dropout, RouterStats};
use crate::config::AuxLoss;
use crate::layout::BlockLayout;
use crate::tokens::{Ragged, Sequence};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Activations that the backward pass recomputes instead of keeping them; results do not depend on this choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Recompute nothing: all activations are kept.
    #[default]
    None,
    /// Recompute the activations inside each half of a block: only the states between halves are kept.
    Activations,
    /// Recompute whole blocks: only the states between blocks are kept.
    Blocks,
}

/// Properties of the batch that a pass is a part of, for the balancing loss.
#[derive(Debug, Clone)]
pub struct BatchInfo {
    /// Number of sequences in the whole batch.
    pub sequences: usize,
    /// Number of positions in the whole batch.
    pub positions: usize,
    /// For balancing over the whole batch: the share of tokens of each expert times the number of experts, for each layer.
    /// `None` if the pass is the whole batch or each sequence is balanced separately.
    pub loads: Option<Arc<Vec<Vec<f32>>>>,
}

impl BatchInfo {
    /// Describes a batch of the given sequences.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let lengths = sequences.into_iter().map(Sequence::len);
        let (sequences, positions) = lengths.fold((0, 0), |(n, sum), len| (n + 1, sum + len));
        Self { sequences, positions, loads: None }
    }
}

/// Purpose of a pass.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Results only: nothing is kept for a backward pass.
    Infer,
    /// Results and routes, without gradients.
    Route {
        /// Seed of dropout as in training; `None` disables dropout.
        dropout_seed: Option<u64>,
    },
    /// Forward pass with a tape for the backward pass.
    Train {
        /// Seed of the dropout of this pass, derived from the seed of the run, the step, the lane and the group.
        dropout_seed: u64,
        /// The batch that the pass is part of.
        aux: BatchInfo,
        /// Activations that the backward pass recomputes.
        recompute: Recompute,
        /// Factor of all gradients; reported losses do not include it.
        loss_scale: f32,
    },
}

/// A pass of a batch through a model. `n` is the number of positions of the batch.
pub struct Pass<'a, B: Backend> {
    pub(crate) model: &'a Transformer<B>,
    pub(super) batch: B::Batch,
    pub(super) mode: Mode,
}

/// Record of a forward pass that the backward pass needs.
pub struct Tape<B: Backend> {
    blocks: Vec<Block<B>>,
    routing: Routing<B>,
}

/// Routes of the tokens of a pass, for each layer; empty for dense models and under [`Mode::Infer`].
pub struct Routing<B: Backend>(Vec<B::Routes>);

/// Kept activations of one block.
struct Block<B: Backend> {
    /// Input of the block, `(n, d_model)`.
    x: B::Buffer,
    /// State between its halves, `(n, d_model)`; `None` if it is recomputed.
    middle: Option<B::Buffer>,
    activations: Option<(attention::Saved<B>, feed_forward::Saved<B>)>,
}

impl<'a, B: Backend> Pass<'a, B> {
    /// Returns the batch.
    pub fn batch(&self) -> &Ragged {
        &self.batch
    }

    /// Returns the batch in the form that the backend uses.
    pub fn into_batch(self) -> B::Batch {
        self.batch
    }

    /// Returns the measure of the attention cost of the batch; see [`Ragged::squares`].
    pub fn squares(&self) -> u64 {
        self.batch.squares(self.model.config.window)
    }

    pub(super) fn backend(&self) -> &'a B {
        &self.model.backend
    }

    /// Computes the states after the last block, before the last norm, `(n, d_model)`; returns them with the tape.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn forward(&self) -> Result<(B::Buffer, Tape<B>)> {
        let (keep, routes_wanted) = match self.mode {
            Mode::Infer => (None, false),
            Mode::Route { .. } => (None, true),
            Mode::Train { recompute, .. } => (Some(recompute), true),
        };
        let mut tape = Tape { blocks: vec![], routing: Routing(vec![]) };
        let mut x = self.embed()?;
        for layer in 0..self.model.config.n_layers {
            let (middle, attention) = attention::forward(self, layer, &x)?;
            let (y, feed_forward, routes) = feed_forward::forward(self, layer, &middle)?;
            let block = |middle, activations| Block { x, middle, activations };
            match keep {
                None => {}
                Some(Recompute::None) => {
                    tape.blocks.push(block(Some(middle), Some((attention, feed_forward))));
                }
                Some(Recompute::Activations) => tape.blocks.push(block(Some(middle), None)),
                Some(Recompute::Blocks) => tape.blocks.push(block(None, None)),
            }
            tape.routing.0.extend(routes.filter(|_| routes_wanted));
            x = y;
        }
        Ok((x, tape))
    }

    /// Adds the gradients of the embedding and the blocks to `grads`, given the gradient of the last states, `(n, d_model)`;
    /// includes those of the balancing losses.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn backward(&self, tape: Tape<B>, dhidden: B::Buffer, grads: &mut B::Floats) -> Result<Routing<B>> {
        let Tape { blocks, routing } = tape;
        let mut dx = dhidden; // of the residual stream: each half of a block adds to it
        for (layer, block) in blocks.into_iter().enumerate().rev() {
            let Block { x, middle, activations } = block;
            let (attention, feed_forward) = activations.unzip();
            let (middle, attention) = match middle {
                Some(middle) => (middle, attention),
                None => {
                    let (middle, attention) = attention::forward(self, layer, &x)?;
                    (middle, Some(attention))
                }
            };
            let routes = routing.0.get(layer);
            feed_forward::backward(self, layer, &mut dx, &middle, feed_forward, routes, grads)?;
            attention::backward(self, layer, &mut dx, &x, attention, grads)?;
        }
        if let Some(dropout) = self.dropout(EMBEDDING) {
            self.backend().dropout(&mut dx, dropout)?;
        }
        self.backend().embed_backward(grads, &self.model.layout.embedding, &dx, &self.batch)?;
        Ok(routing)
    }

    /// Computes the states after the embedding and after each block, `(n, d_model)` each.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn states(&self) -> Result<Vec<B::Buffer>> {
        let mut states = vec![self.embed()?];
        for layer in 0..self.model.config.n_layers {
            let middle = attention::forward(self, layer, &states[layer])?.0;
            states.push(feed_forward::forward(self, layer, &middle)?.0);
        }
        Ok(states)
    }

    /// Computes the embedding of every position, `(n, d_model)`.
    pub(crate) fn embed(&self) -> Result<B::Buffer> {
        let model = self.model;
        let mut x = self.backend().embed(&model.weights, &model.layout.embedding, &self.batch)?;
        if let Some(dropout) = self.dropout(EMBEDDING) {
            self.backend().dropout(&mut x, dropout)?;
        }
        Ok(x)
    }

    /// Computes a block whose attention uses caches. `x`: `(n, d_model)`; returns the same shape.
    pub(crate) fn block_cached(
        &self,
        layer: usize,
        x: &B::Buffer,
        documents: Vec<attention::KeyValues<'_, B>>,
    ) -> Result<B::Buffer> {
        let middle = attention::forward_cached(self, layer, x, documents)?;
        Ok(feed_forward::forward(self, layer, &middle)?.0)
    }

    /// Computes the statistics of the router of each layer; empty for dense models. Waits for the device.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn router_stats(&self, routing: &Routing<B>) -> Result<Vec<RouterStats>> {
        let layers = routing.0.iter().enumerate();
        layers.map(|(layer, routes)| self.backend().route_stats(routes, &self.balancing(layer))).collect()
    }

    /// Computes [`Self::router_stats`] from the tape of a forward pass.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn routes_of(&self, tape: &Tape<B>) -> Result<Vec<RouterStats>> {
        self.router_stats(&tape.routing)
    }

    /// Returns the dropout of one place in the model; `None` if there is none.
    pub(super) fn dropout(&self, place: u64) -> Option<Dropout> {
        let rate = self.model.config.dropout as f32;
        match self.mode {
            Mode::Train { dropout_seed, .. } | Mode::Route { dropout_seed: Some(dropout_seed) }
                if rate > 0.0 =>
            {
                Some(Dropout { seed: dropout_seed, rate }.at(place))
            }
            _ => None,
        }
    }

    /// Computes the gradient of a residual branch before its dropout; `None` if there is no dropout and it equals `grad`.
    pub(super) fn dropped(&self, grad: &B::Buffer, dropout: Option<Dropout>) -> Result<Option<B::Buffer>> {
        let Some(dropout) = dropout else { return Ok(None) };
        let mut dropped = self.backend().copy(grad)?;
        self.backend().dropout(&mut dropped, dropout)?;
        Ok(Some(dropped))
    }

    /// Returns the factor of gradients.
    pub(super) fn loss_scale(&self) -> f32 {
        if let Mode::Train { loss_scale, .. } = self.mode { loss_scale } else { 1.0 }
    }

    /// Returns the layout of the weights of a layer.
    pub(super) fn block(&self, layer: usize) -> &'a BlockLayout {
        &self.model.layout.blocks[layer]
    }

    /// Returns the positions over which the router of a layer is balanced, and the weight of the balancing loss.
    pub(super) fn balancing(&self, layer: usize) -> Balancing {
        let config = &self.model.config;
        let (Mode::Train { aux, .. }, alpha) = (&self.mode, config.aux_loss_alpha) else {
            return Balancing::default();
        };
        match config.aux_loss_per {
            AuxLoss::Sequence => Balancing {
                spans: self.batch.rows.clone(),
                weight: (alpha / aux.sequences.max(1) as f64) as f32,
                load: None,
            },
            AuxLoss::Batch => Balancing {
                spans: vec![0, self.batch.len()],
                weight: (alpha * self.batch.len() as f64 / aux.positions.max(1) as f64) as f32,
                load: aux.loads.as_ref().map(|loads| loads[layer].clone()),
            },
        }
    }
}

/// Dropout place of the embedding; the places of the blocks follow.
const EMBEDDING: u64 = 0;

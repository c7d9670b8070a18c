//! One pass of a ragged batch through embedding and blocks: forward with a tape, and backward over it.

use super::{Transformer, attention, feed_forward};
use crate::Result;
use crate::backend::{Backend, Balancing, Dropout, RouterStats};
use crate::config::AuxLoss;
use crate::layout::BlockLayout;
use crate::tokens::{Ragged, Sequence};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the backward pass computes again instead of keeping it; no result depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing: all activations are kept.
    #[default]
    None,
    /// Activations: the states between the halves of blocks are kept.
    Activations,
    /// Whole blocks: only the states between blocks are kept.
    Blocks,
}

/// The batch that a pass is a part of, for the balancing loss.
#[derive(Debug, Clone)]
pub struct AuxShare {
    /// Sequences of the whole batch.
    pub sequences: usize,
    /// Positions of the whole batch.
    pub positions: usize,
    /// For a balance over the whole batch: each expert's share of its load times their number, layer by layer.
    /// `None` where the pass is the whole batch, or each sequence is balanced for itself.
    pub loads: Option<Arc<Vec<Vec<f32>>>>,
}

impl AuxShare {
    /// A batch of these sequences.
    pub fn of<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let lengths = sequences.into_iter().map(Sequence::len);
        let (sequences, positions) = lengths.fold((0, 0), |(n, sum), len| (n + 1, sum + len));
        Self { sequences, positions, loads: None }
    }
}

/// What a pass is for.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Results only; nothing is kept for a backward pass.
    Infer,
    /// The routes are wanted, without gradients.
    Route {
        /// With the dropout of training; `None`: without.
        dropout_seed: Option<u64>,
    },
    /// Gradients are wanted.
    Train {
        /// Names the random stream of dropout: seed, step and lane mixed.
        dropout_seed: u64,
        /// The batch that the pass is part of.
        aux: AuxShare,
        /// What is computed again in the backward pass.
        recompute: Recompute,
        /// What all gradients are multiplied by; losses are not.
        loss_scale: f32,
    },
}

/// One pass of a batch through a model.
pub struct Pass<'a, B: Backend> {
    pub(crate) model: &'a Transformer<B>,
    pub(super) batch: B::Batch,
    pub(super) mode: Mode,
}

/// What a forward pass leaves for the backward pass.
pub struct Tape<B: Backend> {
    blocks: Vec<Block<B>>,
    routing: Routing<B>,
}

/// Where the tokens of a pass went, layer by layer; empty for dense models and where only results were wanted.
pub struct Routing<B: Backend>(Vec<B::Routes>);

/// What stays of one block.
struct Block<B: Backend> {
    /// Its input, `(n, d_model)`.
    x: B::Buffer,
    /// The state between its halves, `(n, d_model)`.
    middle: Option<B::Buffer>,
    activations: Option<(attention::Saved<B>, feed_forward::Saved<B>)>,
}

impl<'a, B: Backend> Pass<'a, B> {
    /// The batch.
    pub fn batch(&self) -> &Ragged {
        &self.batch
    }

    /// The batch as it is on the device.
    pub fn into_batch(self) -> B::Batch {
        self.batch
    }

    /// What its attention costs; see [`Ragged::squares`].
    pub fn squares(&self) -> u64 {
        self.batch.squares(self.model.config.window)
    }

    pub(super) fn backend(&self) -> &'a B {
        &self.model.backend
    }

    /// The states after the last block, before the last norm, `(n, d_model)`, and the tape.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
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

    /// Adds the gradients of all weights below the last states, given theirs, and those of the balancing losses.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn backward(&self, tape: Tape<B>, dhidden: B::Buffer, grads: &mut B::Floats) -> Result<Routing<B>> {
        let Tape { blocks, routing } = tape;
        let mut dx = dhidden; // the residual stream's: each half of a block adds to it
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

    /// The states after the embedding and after each block, `(n, d_model)` each.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn states(&self) -> Result<Vec<B::Buffer>> {
        let mut states = vec![self.embed()?];
        for layer in 0..self.model.config.n_layers {
            let middle = attention::forward(self, layer, &states[layer])?.0;
            states.push(feed_forward::forward(self, layer, &middle)?.0);
        }
        Ok(states)
    }

    /// The embedding of every position, `(n, d_model)`.
    pub(crate) fn embed(&self) -> Result<B::Buffer> {
        let model = self.model;
        let mut x = self.backend().embed(&model.weights, &model.layout.embedding, &self.batch)?;
        if let Some(dropout) = self.dropout(EMBEDDING) {
            self.backend().dropout(&mut x, dropout)?;
        }
        Ok(x)
    }

    /// A block over caches. `x`: `(n, d_model)`; returns the same shape.
    pub(crate) fn block_cached(
        &self,
        layer: usize,
        x: &B::Buffer,
        documents: Vec<attention::KeyValues<'_, B>>,
    ) -> Result<B::Buffer> {
        let middle = attention::forward_cached(self, layer, x, documents)?;
        Ok(feed_forward::forward(self, layer, &middle)?.0)
    }

    /// What the routers did, layer by layer; empty for dense models. This waits for the device.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn router_stats(&self, routing: &Routing<B>) -> Result<Vec<RouterStats>> {
        let layers = routing.0.iter().enumerate();
        layers.map(|(layer, routes)| self.backend().route_stats(routes, &self.balancing(layer))).collect()
    }

    /// [`Self::router_stats`] of a forward pass alone.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn routes_of(&self, tape: &Tape<B>) -> Result<Vec<RouterStats>> {
        self.router_stats(&tape.routing)
    }

    /// The dropout of one place in the model, where there is any.
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

    /// The gradient behind the dropout of a residual branch; `None` where there is none, and it is `grad` itself.
    pub(super) fn dropped(&self, grad: &B::Buffer, dropout: Option<Dropout>) -> Result<Option<B::Buffer>> {
        let Some(dropout) = dropout else { return Ok(None) };
        let mut dropped = self.backend().copy(grad)?;
        self.backend().dropout(&mut dropped, dropout)?;
        Ok(Some(dropped))
    }

    /// What gradients are multiplied by.
    pub(super) fn loss_scale(&self) -> f32 {
        if let Mode::Train { loss_scale, .. } = self.mode { loss_scale } else { 1.0 }
    }

    /// Where the weights of a layer lie.
    pub(super) fn block(&self, layer: usize) -> &'a BlockLayout {
        &self.model.layout.blocks[layer]
    }

    /// Over which positions the router of a layer is balanced.
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

/// Names the dropout of the embedding; those of blocks follow.
const EMBEDDING: u64 = 0;

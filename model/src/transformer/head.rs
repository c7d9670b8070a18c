//! The last norm and the output head: losses, log-probabilities and logits. The logits of a batch never exist all at once.

use super::pass::Pass;
use crate::backend::Backend;
use crate::{Error, Result};

/// Number of places whose logits are computed together.
const LOGIT_ROWS: usize = 64;

/// The active positions of a batch: those with a loss weight. Only these reach the head.
struct Active {
    /// Indices of the positions in the batch.
    rows: Vec<u32>,
    targets: Vec<u32>,
    /// Loss weights of the positions.
    weights: Vec<f32>,
}

/// The loss of a pass, on its way to the host: nothing waits for it before [`Self::read`].
pub struct Loss<B: Backend> {
    backend: B,
    /// `-log p(target)` of each active position.
    nll: B::Fetched,
    /// Indices of the positions in the batch.
    rows: Vec<u32>,
    weights: Vec<f32>,
    scale: f64,
    /// The end of each document of the batch.
    ends: Vec<usize>,
}

/// The loss of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct LossValue {
    /// `scale * sum of weights * -log p(target)`.
    pub total: f64,
    /// Sum of `weight * -log p(target)` over each document, without the scale: `(documents,)`.
    pub by_document: Vec<f64>,
}

impl<B: Backend> Loss<B> {
    /// Waits until the values are on the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(self) -> Result<LossValue> {
        let nll = self.backend.fetched(self.nll)?;
        let weighted =
            || nll.iter().zip(&self.weights).map(|(nll, weight)| f64::from(*nll) * f64::from(*weight));
        let total = weighted().sum::<f64>() * f64::from(self.scale as f32);
        let mut by_document = vec![0.0; self.ends.len()];
        for (&row, nll) in self.rows.iter().zip(weighted()) {
            by_document[self.ends.partition_point(|&end| end <= row as usize)] += nll;
        }
        Ok(LossValue { total: f64::from(total as f32), by_document })
    }
}

impl<B: Backend> Pass<'_, B> {
    fn active(&self) -> Active {
        let batch = self.batch();
        let rows: Vec<u32> = (0..batch.len() as u32).filter(|&i| batch.weights[i as usize] != 0.0).collect();
        Active {
            targets: rows.iter().map(|&i| batch.targets[i as usize]).collect(),
            weights: rows.iter().map(|&i| batch.weights[i as usize]).collect(),
            rows,
        }
    }

    /// Computes the loss `scale * sum of weights * -log p(target)` and the gradient of `hidden`, `(n, d_model)`; adds the
    /// gradients of the head and the last norm to `grads`.
    ///
    /// `scale` is usually one over the number of positions counted in the whole batch.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn cross_entropy(
        &self,
        hidden: &B::Buffer,
        scale: f64,
        grads: &mut B::Floats,
    ) -> Result<(Loss<B>, B::Buffer)> {
        let active = self.active();
        let factor = self.loss_scale() * scale as f32;
        let weights: Vec<f32> = active.weights.iter().map(|w| w * factor).collect();
        let (nll, dhidden) = self.head_backward(hidden, &active, &weights, grads)?;
        let (backend, ends) = (self.backend().clone(), self.batch().documents[1..].to_vec());
        let nll = backend.fetch(nll)?;
        Ok((Loss { backend, nll, rows: active.rows, weights: active.weights, scale, ends }, dhidden))
    }

    /// Computes `weight * log p(target)` of each position, 0 if its weight is 0: `(n,)`. Waits for the device.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn log_probs(&self, hidden: &B::Buffer) -> Result<Vec<f32>> {
        let (backend, model, active) = (self.backend(), self.model, self.active());
        let rows = backend.select(hidden, &active.rows, model.config.d_model)?;
        let (normed, _) =
            backend.rms_norm(&rows, &model.weights, &model.layout.norm, model.config.norm_eps)?;
        let nll = backend.cross_entropy(&normed, &model.weights, &model.layout.head, &active.targets)?;
        let mut out = vec![0.0; self.batch().len()];
        for ((&i, nll), weight) in active.rows.iter().zip(backend.read(&nll)?.iter()).zip(&active.weights) {
            out[i as usize] = -nll * weight;
        }
        Ok(out)
    }

    /// Computes the gradient of `hidden` from that of [`Self::log_probs`], `(n,)`; adds the gradients of the head and the last
    /// norm to `grads`. Recomputes the logits.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn log_probs_backward(
        &self,
        hidden: &B::Buffer,
        dlog_probs: &[f32],
        grads: &mut B::Floats,
    ) -> Result<B::Buffer> {
        let active = self.active();
        let weighted = active.rows.iter().zip(&active.weights);
        let factor = -self.loss_scale();
        let weights: Vec<f32> = weighted.map(|(&i, w)| factor * dlog_probs[i as usize] * w).collect();
        Ok(self.head_backward(hidden, &active, &weights, grads)?.1)
    }

    /// Computes `-log p(target)` of the active positions, and the gradient of `hidden` for the sum of these times `weights`.
    fn head_backward(
        &self,
        hidden: &B::Buffer,
        active: &Active,
        weights: &[f32],
        grads: &mut B::Floats,
    ) -> Result<(B::Floats, B::Buffer)> {
        let (backend, model, w) = (self.backend(), self.model, &self.model.weights);
        let (norm, head, d) = (&model.layout.norm, &model.layout.head, model.config.d_model);
        let rows = backend.select(hidden, &active.rows, d)?;
        let (normed, inverse) = backend.rms_norm(&rows, w, norm, model.config.norm_eps)?;
        let (nll, dnormed) =
            backend.cross_entropy_backward(grads, &normed, w, head, &active.targets, weights)?;
        let mut drows = backend.zeros_like(&rows)?;
        backend.rms_norm_backward(&mut drows, grads, &dnormed, &rows, &inverse, w, norm)?;
        Ok((nll, backend.scatter(&drows, &active.rows, self.batch().len(), d)?))
    }

    /// Calls `on_logits` in order with the logits, `(vocab_size,)`, of each of `places`: the index of a document and a place in
    /// it. Computes [`LOGIT_ROWS`] places at a time, because all logits of a long prompt would take much memory.
    ///
    /// # Errors
    /// If a place is not in the batch, or the device fails.
    pub(crate) fn each_logits(
        &self,
        hidden: &B::Buffer,
        places: &[(usize, usize)],
        mut on_logits: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let starts = &self.batch().documents;
        for places in places.chunks(LOGIT_ROWS) {
            let rows: Vec<usize> = places.iter().map(|(document, place)| starts[*document] + place).collect();
            let logits = self.logits(hidden, &rows)?;
            let logits = logits.chunks_exact(self.model.config.vocab_size);
            for (&(document, place), logits) in places.iter().zip(logits) {
                on_logits(document, place, logits);
            }
        }
        Ok(())
    }

    /// Computes the logits of the given positions: `(positions, vocab_size)`. Waits for the device.
    ///
    /// # Errors
    /// If a position is not in the batch, or the device fails.
    pub fn logits(&self, hidden: &B::Buffer, positions: &[usize]) -> Result<Vec<f32>> {
        let (backend, model, n) = (self.backend(), self.model, self.batch().len());
        if let Some(position) = positions.iter().find(|&&position| position >= n) {
            return Err(Error::Input(format!("position {position} is not in a batch of {n}")));
        }
        let rows: Vec<u32> = positions.iter().map(|&position| position as u32).collect();
        let rows = backend.select(hidden, &rows, model.config.d_model)?;
        let (normed, _) =
            backend.rms_norm(&rows, &model.weights, &model.layout.norm, model.config.norm_eps)?;
        backend.read_buffer(&backend.linear(&normed, &model.weights, &model.layout.head)?)
    }
}

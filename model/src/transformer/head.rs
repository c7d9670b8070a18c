//! The last norm and the tied head: losses, log-probabilities and logits, never all logits at once.

use super::context::{Context, Form, apply, argument, with_slice};
use crate::ops::scratch::Buffer;
use crate::ops::{cross_entropy as op, gemm::linear, rms_norm};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// `scale * sum of weights * -log p(target)`, a scalar.
pub fn cross_entropy(context: &Arc<Context>, form: Form, hidden: &Tensor, scale: f64) -> Result<Tensor> {
    match form {
        Form::Fused => {
            let op = CrossEntropy { head: Head::new(context), scale: scale as f32, dx: Mutex::default() };
            apply(context, hidden, op)
        }
        Form::Plain => plain_log_probs(context, hidden)?.sum_all()?.affine(-scale, 0.0),
    }
}

/// `weight * log p(target)` of each position: `(n,)`.
pub fn log_probs(context: &Arc<Context>, form: Form, hidden: &Tensor) -> Result<Tensor> {
    match form {
        Form::Fused => apply(context, hidden, LogProbs { head: Head::new(context) }),
        Form::Plain => plain_log_probs(context, hidden),
    }
}

fn plain_log_probs(context: &Context, hidden: &Tensor) -> Result<Tensor> {
    let norm = context.plain(&context.layout().norm)?;
    let x = rms_norm::plain(hidden, &norm, context.config.norm_eps)?;
    let targets = Tensor::new(context.batch.targets.as_slice(), x.device())?;
    let weights = Tensor::new(context.batch.weights.as_slice(), x.device())?;
    let nll = op::plain(&x, &context.plain(&context.layout().head.range)?, &targets)?;
    (nll * weights)?.neg()
}

/// Logits of the given positions: `(positions, vocab_size)`.
pub fn logits(context: &Context, hidden: &Tensor, positions: &[usize]) -> Result<Tensor> {
    let ids: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
    let rows = hidden.index_select(&Tensor::new(ids, hidden.device())?, 0)?;
    let norm = context.plain(&context.layout().norm)?;
    let x = rms_norm::plain(&rows, &norm, context.config.norm_eps)?;
    if !x.device().is_cpu() {
        return x.matmul(&context.plain(&context.layout().head.range)?.t()?);
    }
    let (n, d, vocab) = (positions.len(), context.config.d_model, context.config.vocab_size);
    let mut logits = vec![0.0; n * vocab];
    with_slice(&x, |x| {
        context.with_weights(|w| linear(&mut logits, x, &w[context.layout().head.range.clone()], n, d, false))
    })??;
    Tensor::from_vec(logits, (n, vocab), x.device())
}

/// The positions that carry loss; the others never reach the head.
struct Head {
    context: Arc<Context>,
    active: Vec<usize>,
    targets: Vec<u32>,
}

impl Head {
    fn new(context: &Arc<Context>) -> Self {
        let batch = &context.batch;
        let active: Vec<usize> = (0..batch.len()).filter(|&i| batch.weights[i] != 0.0).collect();
        let targets = active.iter().map(|&i| batch.targets[i]).collect();
        Self { context: context.clone(), active, targets }
    }

    /// The active rows of `x`, side by side: `(active, d_model)`.
    fn gather(&self, x: &[f32]) -> Buffer {
        let d = self.context.config.d_model;
        let mut rows = Buffer::dirty(self.active.len() * d);
        for (row, &i) in rows.chunks_exact_mut(d).zip(&self.active) {
            row.copy_from_slice(&x[i * d..][..d]);
        }
        rows
    }

    /// The active rows normalised, with their `1 / rms`.
    fn norm(&self, rows: &[f32], weights: &[f32]) -> (Buffer, Buffer) {
        let mut inverse = Buffer::dirty(self.active.len());
        let mut normed = Buffer::dirty(rows.len());
        let norm = &weights[self.context.layout().norm.clone()];
        rms_norm::forward(&mut normed, &mut inverse, rows, norm, self.context.config.norm_eps as f32);
        (normed, inverse)
    }

    /// Adds weight gradients of `sum of loss_weights * -log p` and returns the loss values and `dx`, `(n, d_model)`.
    fn backward(&self, x: &[f32], loss_weights: &[f32]) -> Result<(Buffer, Vec<f32>)> {
        let (context, d) = (&self.context, self.context.config.d_model);
        let (embedding, norm) = (context.layout().head.range.clone(), context.layout().norm.clone());
        let rows = self.gather(x);
        let mut nll = Buffer::dirty(self.active.len());
        let mut drows = Buffer::zeros(rows.len());
        context.with_weights(|w| {
            context.with_gradients(|g| {
                let (normed, inverse) = self.norm(&rows, w);
                let mut dnormed = Buffer::dirty(rows.len());
                op::forward_backward(
                    &mut nll,
                    &mut dnormed,
                    &mut g[embedding.clone()],
                    &normed,
                    &w[embedding],
                    &self.targets,
                    loss_weights,
                );
                rms_norm::backward(&mut drows, &mut g[norm.clone()], &dnormed, &rows, &w[norm], &inverse);
            })
        })??;
        let mut dx = vec![0.0; x.len()];
        for (row, &i) in drows.chunks_exact(d).zip(&self.active) {
            dx[i * d..][..d].copy_from_slice(row);
        }
        Ok((nll, dx))
    }

    /// `-log p(target)` of the active positions.
    fn nll(&self, x: &[f32]) -> Result<Buffer> {
        let mut nll = Buffer::dirty(self.active.len());
        self.context.with_weights(|w| {
            let (normed, _) = self.norm(&self.gather(x), w);
            let embedding = &w[self.context.layout().head.range.clone()];
            op::forward(&mut nll, &normed, embedding, &self.targets, self.context.config.d_model);
        })?;
        Ok(nll)
    }

    fn weights(&self) -> impl Iterator<Item = f32> + '_ {
        self.active.iter().map(|&i| self.context.batch.weights[i])
    }
}

/// Loss and gradient in one go: the logits are made once.
struct CrossEntropy {
    head: Head,
    scale: f32,
    /// The gradient of the hidden states for a loss gradient of one.
    dx: Mutex<Option<Vec<f32>>>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = argument(storage, layout)?;
        let nll = if self.head.context.trains() {
            let weights: Vec<f32> = self.head.weights().map(|w| w * self.scale).collect();
            let (nll, dx) = self.head.backward(x, &weights)?;
            *self.dx.lock().unwrap_or_else(PoisonError::into_inner) = Some(dx);
            nll
        } else {
            self.head.nll(x)?
        };
        let sum: f64 = nll.iter().zip(self.head.weights()).map(|(l, w)| f64::from(*l) * f64::from(w)).sum();
        Ok((CpuStorage::F32(vec![(sum * f64::from(self.scale)) as f32]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        // The weight gradients are already added, so only a total loss that contains this one as it is fits.
        if grad.to_scalar::<f32>()? != 1.0 {
            candle_core::bail!("the fused cross-entropy cannot be scaled afterwards; pass its scale instead");
        }
        let dx = self.dx.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dx = dx.ok_or_else(|| candle_core::Error::Msg("cross-entropy went backward twice".into()))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Log-probabilities whose gradient is known only later: the backward pass makes the logits again.
struct LogProbs {
    head: Head,
}

impl CustomOp1 for LogProbs {
    fn name(&self) -> &'static str {
        "log-probabilities"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.head.context.batch.len();
        let mut out = vec![0.0; n];
        let nll = self.head.nll(argument(storage, layout)?)?;
        for ((&i, nll), weight) in self.head.active.iter().zip(nll.iter()).zip(self.head.weights()) {
            out[i] = -nll * weight;
        }
        Ok((CpuStorage::F32(out), Shape::from(n)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let weights: Vec<f32> = with_slice(grad, |grad| {
            self.head.active.iter().zip(self.head.weights()).map(|(&i, w)| -grad[i] * w).collect()
        })?;
        let (_, dx) = with_slice(x, |x| self.head.backward(x, &weights))??;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

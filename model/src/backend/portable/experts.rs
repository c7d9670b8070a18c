//! Mixture of experts: routing runs on the host, rows are moved on the device.

use crate::Result;
use crate::backend::Balancing;
use crate::backend::cpu::{Buffer, router};
use crate::layout::{ExpertsLayout, Matrix};
use candle_core::{Device, Tensor};
use std::ops::Range;

/// The assignment of tokens to experts.
pub struct Routes {
    pub host: router::Routes,
    /// The token of every row, grouped by expert: `(n top_k,)`.
    pub tokens: Tensor,
    /// The weight of every row, `(n top_k, 1)`.
    pub weights: Tensor,
}

impl Routes {
    pub fn new(logits: &Tensor, layout: &ExpertsLayout, device: &Device) -> Result<Self> {
        let host = router::Routes::new(logits.flatten_all()?.to_vec1()?, layout.router.d_out, layout.top_k);
        let tokens: Vec<u32> = host.tokens().map(|token| token as u32).collect();
        let weights = host.row_weights().to_vec();
        let rows = weights.len();
        Ok(Self {
            host,
            tokens: Tensor::new(tokens, device)?,
            weights: Tensor::from_vec(weights, (rows, 1), device)?,
        })
    }

    /// The gradient of the logits, `(n, experts)`.
    pub fn backward(&self, dweights: &Tensor, balancing: &Balancing, device: &Device) -> Result<Tensor> {
        let dweights = Buffer::from(dweights.flatten_all()?.to_vec1::<f32>()?);
        let dlogits = self.host.backward(&dweights, balancing);
        Ok(Tensor::from_slice(&dlogits, ((), self.host.n_experts), device)?)
    }

    /// Applies `f` to each expert's rows and concatenates the results.
    pub fn each(
        &self,
        experts: &[Matrix],
        f: impl Fn(&Matrix, Range<usize>) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        let groups = experts.iter().zip(self.host.groups()).filter(|(_, rows)| !rows.is_empty());
        let parts: Vec<Tensor> = groups.map(|(m, rows)| f(m, rows)).collect::<candle_core::Result<_>>()?;
        match experts.first() {
            Some(first) if parts.is_empty() => Ok(f(first, 0..0)?),
            _ => Ok(Tensor::cat(&parts, 0)?),
        }
    }
}

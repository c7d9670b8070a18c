//! Checks of the mixture of experts: routes, rows grouped by expert, their products.

use super::{EXACT, Gradients, MAX_DRAWS, MIN_MARGIN, Probe, ROUNDING, ambiguous_routing, tensor, variable};
use crate::Result;
use crate::backend::{Backend, Balancing};
use crate::layout::Matrix;
use crate::reference;
use candle_core::{DType, Device, Tensor, Var};

pub fn check<B: Backend>(probe: &mut Probe<B>) -> Result<()> {
    let Some(experts) = probe.layout.blocks[0].experts.clone() else { return Ok(()) };
    let (backend, n, d, top_k) = (probe.backend, probe.n(), probe.config.d_model, experts.top_k);
    let n_experts = experts.router.d_out;
    let logits = clear_logits(probe, n_experts, top_k)?;
    let of_logits = variable(&logits, (n, n_experts))?;
    let scores = reference::softmax(&of_logits)?;
    let visits = reference::visits(&scores, top_k)?;
    let weights = reference::route_weights(&scores, &visits, top_k)?;
    let rows = Rows::of(&visits)?;

    let routes = backend.route(&backend.buffer(&logits, n_experts)?, &experts)?;
    let of_rows = rows.pick(&weights.flatten_all()?, |token, expert| token * n_experts + expert)?; // (rows,)
    probe.compare_floats("route_weights", ROUNDING, &backend.route_weights(&routes)?, &of_rows)?;

    // The gradient of the logits, from those of the row weights and of a balancing loss over spans.
    let dweights = probe.draw(rows.places.len())?;
    let through_weights = (&of_rows * tensor(&dweights, dweights.len())?)?.sum_all()?;
    let dweights = backend.floats(dweights)?;
    let load: Vec<f32> = (0..n_experts).map(|expert| 0.5 + expert as f32).collect();
    for (spans, load) in [(probe.batch.rows.clone(), None), (vec![0, n], None), (vec![0, n], Some(load))] {
        let mut aux = Tensor::new(0f64, &Device::Cpu)?;
        for span in spans.windows(2) {
            let of = |x: &Tensor| x.narrow(0, span[0], span[1] - span[0]);
            let balance = match &load {
                None => reference::balance(&of(&scores)?, &of(&visits)?, top_k)?,
                Some(load) => (of(&scores)?.mean(0)? * tensor(load, n_experts)?)?.sum_all()?,
            };
            aux = (aux + (balance * 0.25)?)?;
        }
        let back = Gradients::of(&(&through_weights + &aux)?)?;
        let dlogits = back.by(&of_logits)?;
        let balancing = Balancing { spans, weight: 0.25, load };
        let got = backend.route_backward(&dweights, &routes, &balancing)?;
        probe.compare_buffer("route_backward", ROUNDING, &got, &dlogits)?;
        let stats = backend.route_stats(&routes, &balancing)?;
        // The mean score is a sequential sum of n terms.
        let bound = ROUNDING.max(6e-8 * n as f64);
        probe.compare("route_stats", bound, &[stats.aux_loss as f32], &aux)?;
        let load: Vec<f32> = stats.load.iter().map(|&tokens| tokens as f32).collect();
        probe.compare("route_stats", EXACT, &load, &visits.sum(0)?)?;
        let entropy = (&scores * scores.log()?)?.sum_all()?.neg()?;
        probe.compare("route_stats", ROUNDING, &[stats.entropy_sum as f32], &entropy)?;
    }

    // Tokens to rows and back.
    let (x, y) = (probe.draw(n * d)?, probe.draw(n * d)?);
    let of_x = tensor(&x, (n, d))?;
    let picked = of_x.index_select(&rows.tokens()?, 0)?; // (rows, d)
    let permuted = backend.permute(&backend.buffer(&x, d)?, &routes, d)?;
    probe.compare_buffer("permute", EXACT, &permuted, &picked)?;
    for weighted in [false, true] {
        let scaled = if weighted { picked.broadcast_mul(&of_rows.unsqueeze(1)?)? } else { picked.clone() };
        let want = tensor(&y, (n, d))?.index_add(&rows.tokens()?, &scaled, 0)?;
        let mut sum = backend.buffer(&y, d)?;
        backend.unpermute_add(&mut sum, &permuted, &routes, weighted, d)?;
        probe.compare_buffer("unpermute_add", ROUNDING, &sum, &want)?;
    }

    for matrices in [&experts.w13, &experts.w2] {
        products(probe, &rows, matrices, &routes)?;
    }
    Ok(())
}

/// Router logits for which rounding cannot change the routes.
fn clear_logits<B: Backend>(probe: &mut Probe<B>, n_experts: usize, top_k: usize) -> Result<Vec<f32>> {
    let n = probe.n();
    for _ in 0..MAX_DRAWS {
        let logits = probe.draw(n * n_experts)?;
        let scores = reference::softmax(&tensor(&logits, (n, n_experts))?)?;
        if reference::margin(&scores, top_k)? > MIN_MARGIN {
            return Ok(logits);
        }
    }
    Err(ambiguous_routing())
}

/// The rows of tokens, grouped by expert, in the order of the tokens.
struct Rows {
    /// `(token, expert)` of each row.
    places: Vec<(usize, usize)>,
    n_experts: usize,
}

impl Rows {
    fn of(visits: &Tensor) -> Result<Self> {
        let visits = visits.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let n_experts = visits[0].len();
        let of_expert = |expert: usize| {
            let visits = &visits;
            (0..visits.len())
                .filter(move |&token| visits[token][expert] > 0.0)
                .map(move |token| (token, expert))
        };
        Ok(Self { places: (0..n_experts).flat_map(of_expert).collect(), n_experts })
    }

    /// Selects for each row the element of `flat` whose index `place` returns for its token and expert.
    fn pick(&self, flat: &Tensor, place: impl Fn(usize, usize) -> usize) -> Result<Tensor> {
        let index: Vec<u32> =
            self.places.iter().map(|&(token, expert)| place(token, expert) as u32).collect();
        Ok(flat.index_select(&Tensor::new(index, &Device::Cpu)?, 0)?)
    }

    fn tokens(&self) -> Result<Tensor> {
        let tokens: Vec<u32> = self.places.iter().map(|&(token, _)| token as u32).collect();
        Ok(Tensor::new(tokens, &Device::Cpu)?)
    }

    /// Start and number of an expert's rows.
    fn group(&self, expert: usize) -> (usize, usize) {
        let first = self.places.partition_point(|place| place.1 < expert);
        (first, self.places.partition_point(|place| place.1 <= expert) - first)
    }
}

/// Checks the products of each expert's rows with its own matrix.
fn products<B: Backend>(
    probe: &mut Probe<B>,
    rows: &Rows,
    matrices: &[Matrix],
    routes: &B::Routes,
) -> Result<()> {
    let (backend, count) = (probe.backend, rows.places.len());
    let (d_in, d_out) = (matrices[0].d_in, matrices[0].d_out);
    let (x, dy) = (probe.draw(count * d_in)?, probe.draw(count * d_out)?);
    let of_x = variable(&x, (count, d_in))?;
    let of_w: Vec<Var> = matrices.iter().map(|m| probe.matrix(m)).collect::<candle_core::Result<_>>()?;
    let mut parts = vec![];
    for (expert, w) in of_w.iter().enumerate().take(rows.n_experts) {
        let (first, len) = rows.group(expert);
        if len > 0 {
            parts.push(reference::linear(&of_x.narrow(0, first, len)?, w)?);
        }
    }
    let want = Tensor::cat(&parts, 0)?;
    let back = Gradients::through(&want, &tensor(&dy, (count, d_out))?)?;
    let dx = back.by(&of_x)?;
    let dw: Vec<Tensor> = of_w.iter().map(|w| back.by(w)).collect::<candle_core::Result<_>>()?;

    let (x, dy) = (backend.buffer(&x, d_in)?, backend.buffer(&dy, d_out)?);
    let y = backend.grouped_linear(&x, &probe.w, matrices, routes)?;
    probe.compare_buffer("grouped_linear", ROUNDING, &y, &want)?;
    let input_grad = backend.grouped_input_grad(&dy, &probe.w, matrices, routes)?;
    probe.compare_buffer("grouped_input_grad", ROUNDING, &input_grad, &dx)?;
    let (start, mut grads) = probe.some_gradients()?;
    backend.grouped_weight_grad(&mut grads, &dy, &x, matrices, routes)?;
    let parts: Vec<_> = matrices.iter().map(|m| &m.range).zip(&dw).collect();
    probe.compare_gradients("grouped_weight_grad", &start, &grads, &parts)
}

//! Readable second implementation of the model: plain tensor operations that follow the papers, with gradients by candle's
//! autograd.
//!
//! Weights and a batch flow in; states, losses and gradients flow out, in `f32` or `f64` on any device. Nothing here is
//! fast: attention computes all pairs of positions of a batch, and every expert processes every token.
//! *Invariant:* this module shares no arithmetic with the engine, which is tested against it; only the description of the
//! model and the keep-or-drop decisions of dropout are common.
//!
//! All functions return candle's errors: for mismatched shapes, and if the device runs out of memory.
#![allow(clippy::missing_errors_doc)] // stated once, above

use crate::backend::Dropout;
use crate::layout::Layout;
use crate::optimizer::{AdamW, Clipping, Muon};
use crate::spec::Heads;
use crate::{AuxLoss, Error, ModelConfig, Ragged, Result};
use candle_core::{D, DType, Device, Result as CandleResult, Shape, Tensor, Var};

/// A model whose weights are variables of candle's autograd.
pub struct Reference {
    config: ModelConfig,
    layout: Layout,
    /// One variable per parameter, in the order of the layout.
    variables: Vec<Var>,
    dtype: DType,
    device: Device,
}

/// Results of one pass of a batch; tensors are part of the autograd graph. `n` is the number of positions.
pub struct Pass {
    /// States after the embedding and after each block, `(n, d_model)` each.
    pub states: Vec<Tensor>,
    /// Weighted balancing loss of the router of each block, a scalar; empty for dense models.
    pub aux_losses: Vec<Tensor>,
    /// Number of tokens routed to each expert, `(n_experts,)` for each block; empty for dense models.
    pub loads: Vec<Vec<u64>>,
    /// Smallest difference between the score of a selected expert and that of one that is not selected, over all tokens:
    /// larger rounding errors change the routing. Infinite if there is no choice.
    pub margin: f64,
}

impl Pass {
    /// Returns the states after the last block, before the last norm: `(n, d_model)`.
    pub fn hidden(&self) -> &Tensor {
        &self.states[self.states.len() - 1]
    }
}

impl Reference {
    /// Creates a model of this shape, with weights in the order of its [`Layout`], that computes in `dtype`.
    ///
    /// # Errors
    /// If the shape cannot be built or has a different number of weights.
    pub fn new(config: &ModelConfig, weights: &[f32], dtype: DType, device: &Device) -> Result<Self> {
        config.validate()?;
        let layout = Layout::new(config);
        if weights.len() != layout.len() {
            let problem =
                format!("there are {} weights, expected {} for this shape", weights.len(), layout.len());
            return Err(Error::Input(problem));
        }
        let variable = |param: &crate::layout::Param| {
            let values = Tensor::from_slice(&weights[param.range.clone()], param.shape.as_slice(), device)?;
            Var::from_tensor(&values.to_dtype(dtype)?)
        };
        let variables = layout.params.iter().map(variable).collect::<CandleResult<_>>()?;
        Ok(Self { config: config.clone(), layout, variables, dtype, device: device.clone() })
    }

    /// Runs a batch through all blocks, with the dropout of training if there is a seed.
    ///
    /// The batch must be the whole batch of an optimizer step, over which the balancing loss is averaged.
    pub fn pass(&self, batch: &Ragged, dropout_seed: Option<u64>) -> Result<Pass> {
        let dropout = Drop { seed: dropout_seed, rate: self.config.dropout as f32 };
        let ids = Tensor::new(batch.ids.as_slice(), &self.device)?;
        let embedded = self.weight("tok_embeddings")?.index_select(&ids, 0)?; // (n, d_model)
        let embedded = self.drop(embedded, dropout.at(0))?;
        let mut pass =
            Pass { states: vec![embedded], aux_losses: vec![], loads: vec![], margin: f64::INFINITY };
        for layer in 0..self.config.n_layers {
            let places = [1, 2, 3].map(|use_of| dropout.at(3 * layer as u64 + use_of));
            let x = pass.hidden();
            let normed = self.norm(x, &format!("layers.{layer}.attention_norm"))?;
            let x = (x + self.drop(self.attention(layer, &normed, batch, places[0])?, places[1])?)?;
            let normed = self.norm(&x, &format!("layers.{layer}.ffn_norm"))?;
            let y = if self.config.is_moe() {
                let mixed = self.experts(layer, &normed, batch)?;
                pass.aux_losses.push(mixed.aux_loss);
                pass.loads.push(mixed.load);
                pass.margin = pass.margin.min(mixed.margin);
                mixed.y
            } else {
                self.feed_forward(&format!("layers.{layer}.feed_forward"), &normed)?
            };
            pass.states.push((x + self.drop(y, places[2])?)?);
        }
        Ok(pass)
    }

    /// Computes the logits of every position from the states after the last block: `(n, vocab_size)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let head = if self.config.tie_embeddings { "tok_embeddings" } else { "output" };
        Ok(linear(&self.norm(hidden, "norm")?, self.weight(head)?)?)
    }

    /// Computes `weight * log p(target)` of each position: `(n,)`.
    pub fn log_probs(&self, batch: &Ragged, hidden: &Tensor) -> Result<Tensor> {
        let targets = Tensor::new(batch.targets.as_slice(), &self.device)?;
        let weights = Tensor::new(batch.weights.as_slice(), &self.device)?.to_dtype(self.dtype)?;
        let log_probs = log_softmax(&self.logits(hidden)?)?.gather(&targets.unsqueeze(1)?, 1)?; // (n, 1)
        Ok((log_probs.squeeze(1)? * weights)?)
    }

    /// Computes the training loss, a scalar: `scale` times the weighted cross-entropy, plus the balancing losses.
    pub fn loss(&self, batch: &Ragged, pass: &Pass, scale: f64) -> Result<Tensor> {
        let cross_entropy = self.log_probs(batch, pass.hidden())?.sum_all()?.affine(-scale, 0.0)?;
        Ok(pass.aux_losses.iter().try_fold(cross_entropy, |sum, aux| sum + aux)?)
    }

    /// Computes the gradient of a scalar with respect to all weights, in the order of the layout: `(layout.len(),)`.
    pub fn gradient(&self, scalar: &Tensor) -> Result<Vec<f32>> {
        let store = scalar.backward()?;
        let mut gradient = Vec::with_capacity(self.layout.len());
        for variable in &self.variables {
            match store.get(variable.as_tensor()) {
                Some(part) => gradient.extend(part.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?),
                None => gradient.resize(gradient.len() + variable.elem_count(), 0.0),
            }
        }
        Ok(gradient)
    }

    /// Multi-head attention (Vaswani et al. 2017, section 3.2.2) with grouped keys and values (Ainslie et al. 2023).
    ///
    /// `x`: `(n, d_model)`, normalised; returns the same shape.
    fn attention(
        &self,
        layer: usize,
        x: &Tensor,
        batch: &Ragged,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        let Heads { n_heads, n_kv_heads, head_dim } = self.config.heads();
        let n = batch.len();
        let name = |part: &str| format!("layers.{layer}.attention.{part}");
        let project = |part: &str, heads: usize| -> Result<Tensor> {
            let all = linear(x, self.weight(&name(part))?)?; // (n, heads head_dim)
            Ok(all.reshape((n, heads, head_dim))?.transpose(0, 1)?.contiguous()?) // (heads, n, head_dim)
        };
        let (mut q, mut k) = (project("wq", n_heads)?, project("wk", n_kv_heads)?);
        let v = project("wv", n_kv_heads)?;
        if self.config.qk_norm {
            q = self.norm(&q, &name("q_norm"))?;
            k = self.norm(&k, &name("k_norm"))?;
        }
        let positions = positions(batch);
        let (q, k) = (
            rotate(&q, &positions, self.config.rope_theta)?,
            rotate(&k, &positions, self.config.rope_theta)?,
        );
        let visible = visible(batch, self.config.window);
        let mask = Tensor::from_vec(visible, (n, n), &self.device)?;
        let factors = dropout.map(|dropout| self.factors(dropout, (n_heads, n, n))).transpose()?;
        let out = attention(&q, &k, &v, &mask, factors.as_ref())?; // (n_heads, n, head_dim)
        let joined = out.transpose(0, 1)?.reshape((n, n_heads * head_dim))?;
        Ok(linear(&joined, self.weight(&name("wo"))?)?)
    }

    /// `w2 (silu(w1 x) * w3 x)`: SwiGLU (Shazeer 2020, eq. 6). `x`: `(n, d_model)`; returns the same shape.
    fn feed_forward(&self, prefix: &str, x: &Tensor) -> Result<Tensor> {
        let weight = |part: &str| self.weight(&format!("{prefix}.{part}"));
        Ok(linear(&swiglu(&linear(x, weight("w1")?)?, &linear(x, weight("w3")?)?)?, weight("w2")?)?)
    }

    /// Sum of routed experts, weighted by the router (Shazeer et al. 2017, eq. 1), and of shared experts (Dai et al. 2024).
    ///
    /// `x`: `(n, d_model)`, normalised.
    fn experts(&self, layer: usize, x: &Tensor, batch: &Ragged) -> Result<Mixed> {
        let (config, prefix) = (&self.config, format!("layers.{layer}.feed_forward"));
        let scores = softmax(&linear(x, self.weight(&format!("{prefix}.gate"))?)?)?; // (n, n_experts)
        let visits = visits(&scores, config.top_k)?;
        let weights = route_weights(&scores, &visits, config.top_k)?; // (n, n_experts)
        let mut y = x.zeros_like()?;
        for expert in 0..config.n_experts {
            let out = self.feed_forward(&format!("{prefix}.experts.{expert}"), x)?;
            y = (y + out.broadcast_mul(&weights.narrow(1, expert, 1)?)?)?;
        }
        if config.n_shared_experts > 0 {
            y = (y + self.feed_forward(&format!("{prefix}.shared_experts"), x)?)?;
        }
        let spans = match config.aux_loss_per {
            AuxLoss::Sequence => batch.rows.clone(),
            AuxLoss::Batch => vec![0, batch.len()],
        };
        let weight = config.aux_loss_alpha / (spans.len() - 1) as f64;
        let mut aux_loss = Tensor::zeros((), self.dtype, &self.device)?;
        for span in spans.windows(2).filter(|span| span[0] < span[1]) {
            let of = |x: &Tensor| x.narrow(0, span[0], span[1] - span[0]);
            let balance = balance(&of(&scores)?, &of(&visits)?, config.top_k)?;
            aux_loss = (aux_loss + (balance * weight)?)?;
        }
        let load = visits.sum(0)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let load = load.into_iter().map(|tokens| tokens as u64).collect();
        Ok(Mixed { y, aux_loss, load, margin: margin(&scores, config.top_k)? })
    }

    /// Returns the parameter with the given name, without `.weight`.
    fn weight(&self, name: &str) -> Result<&Tensor> {
        let full = format!("{name}.weight");
        let place = self.layout.params.iter().position(|param| param.name == full);
        let place = place.ok_or_else(|| Error::Input(format!("this shape has no parameter {full}")))?;
        Ok(self.variables[place].as_tensor())
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        Ok(rms_norm(x, self.weight(name)?, self.config.norm_eps)?)
    }

    fn drop(&self, x: Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
        match dropout {
            Some(dropout) => Ok((&x * self.factors(dropout, x.shape())?)?),
            None => Ok(x),
        }
    }

    /// Returns the factors by which dropout multiplies the elements, which are numbered in row-major order.
    fn factors(&self, dropout: Dropout, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let factors: Vec<f32> = (0..shape.elem_count() as u64).map(|i| dropout.factor(i)).collect();
        Ok(Tensor::from_vec(factors, shape, &self.device)?.to_dtype(self.dtype)?)
    }
}

/// Dropout of a whole pass; disabled without a seed or if the rate is 0.
#[derive(Clone, Copy)]
struct Drop {
    seed: Option<u64>,
    rate: f32,
}

impl Drop {
    /// Returns the dropout of one place: 0 is the embedding; then three for each block, the attention probabilities and both
    /// residual branches.
    fn at(self, place: u64) -> Option<Dropout> {
        let seed = self.seed.filter(|_| self.rate > 0.0)?;
        Some(Dropout { seed, rate: self.rate }.at(place))
    }
}

/// Output of a mixture of experts.
struct Mixed {
    /// Sum of the experts, `(n, d_model)`.
    y: Tensor,
    /// Weighted balancing loss, a scalar.
    aux_loss: Tensor,
    /// Number of tokens routed to each expert, `(n_experts,)`.
    load: Vec<u64>,
    /// See [`Pass::margin`].
    margin: f64,
}

/// `x wᵀ`. `x`: `(n, d_in)`; `w`: `(d_out, d_in)`.
pub fn linear(x: &Tensor, w: &Tensor) -> CandleResult<Tensor> {
    x.matmul(&w.t()?)
}

/// Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019, eq. 4).
///
/// `x`: `(.., width)`; `weight`: `(width,)`; returns the shape of `x`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> CandleResult<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// `exp(x) / sum exp(x)` over the last dimension.
pub fn softmax(x: &Tensor) -> CandleResult<Tensor> {
    log_softmax(x)?.exp()
}

/// `x - log sum exp(x)` over the last dimension; the largest element is subtracted first.
pub fn log_softmax(x: &Tensor) -> CandleResult<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// `silu(gate) * up` (Shazeer 2020, eq. 5). All have the same shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> CandleResult<Tensor> {
    gate.silu()? * up
}

/// Returns the position of every token of a batch in its document.
pub fn positions(batch: &Ragged) -> Vec<usize> {
    batch.documents.windows(2).flat_map(|bounds| 0..bounds[1] - bounds[0]).collect()
}

/// Rotary positions (Su et al. 2021, eq. 34): the pair `(x[2i], x[2i + 1])` at position `p` is rotated by the angle
/// `p theta^(-2i / head_dim)`.
///
/// `x`: `(heads, n, head_dim)`; returns the shape of `x`. As in MiniMind, position and frequency are multiplied in `f32`.
pub fn rotate(x: &Tensor, positions: &[usize], theta: f64) -> CandleResult<Tensor> {
    let (heads, n, head_dim) = x.dims3()?;
    let half = head_dim / 2;
    let frequency = |i: usize| theta.powf(-((2 * i) as f64) / head_dim as f64) as f32;
    let angles = positions.iter().flat_map(|&p| (0..half).map(move |i| f64::from(p as f32 * frequency(i))));
    let angles = Tensor::from_vec(angles.collect::<Vec<f64>>(), (n, half, 1), x.device())?;
    let (cos, sin) = (angles.cos()?.to_dtype(x.dtype())?, angles.sin()?.to_dtype(x.dtype())?);
    let pairs = x.reshape((heads, n, half, 2))?;
    let (even, odd) = (pairs.narrow(3, 0, 1)?, pairs.narrow(3, 1, 1)?); // (heads, n, half, 1)
    let first = (even.broadcast_mul(&cos)? - odd.broadcast_mul(&sin)?)?;
    let second = (even.broadcast_mul(&sin)? + odd.broadcast_mul(&cos)?)?;
    Tensor::cat(&[first, second], 3)?.reshape((heads, n, head_dim))
}

/// Returns the attention mask, `(n, n)`, 1 if a query attends to a key, else 0: keys of its document up to its own position,
/// and only the last `window` of them (Beltagy et al. 2020, section 3.1, causal).
pub fn visible(batch: &Ragged, window: Option<usize>) -> Vec<u8> {
    let n = batch.len();
    let mut visible = vec![0; n * n];
    for bounds in batch.documents.windows(2) {
        for query in bounds[0]..bounds[1] {
            let first = window.map_or(bounds[0], |window| bounds[0].max((query + 1).saturating_sub(window)));
            visible[query * n + first..=query * n + query].fill(1);
        }
    }
    visible
}

/// `softmax(q kᵀ / sqrt(head_dim)) v` (Vaswani et al. 2017, eq. 1) for each head, masked by `visible`.
///
/// `q`: `(n_heads, n, head_dim)`; `k`, `v`: `(n_kv_heads, n, head_dim)`, each for `n_heads / n_kv_heads` query heads;
/// `visible`: `(n, n)` of `u8`; `factors` of the probabilities (dropout): `(n_heads, n, n)`; returns the shape of `q`.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    visible: &Tensor,
    factors: Option<&Tensor>,
) -> CandleResult<Tensor> {
    let (n_heads, n, head_dim) = q.dims3()?;
    let n_kv_heads = k.dim(0)?;
    let repeat = |x: &Tensor| {
        let shape = (n_kv_heads, n_heads / n_kv_heads, n, head_dim);
        x.unsqueeze(1)?.broadcast_as(shape)?.reshape((n_heads, n, head_dim))
    };
    let scores = (q.matmul(&repeat(k)?.t()?)? / (head_dim as f64).sqrt())?; // (n_heads, n, n)
    let unseen = Tensor::full(f32::NEG_INFINITY, scores.shape(), q.device())?.to_dtype(q.dtype())?;
    let scores = visible.broadcast_as(scores.shape())?.where_cond(&scores, &unseen)?;
    let probabilities = softmax(&scores)?;
    let probabilities = match factors {
        Some(factors) => (probabilities * factors)?,
        None => probabilities,
    };
    probabilities.matmul(&repeat(v)?)
}

/// Selects the `top_k` experts with the highest scores for each token, on ties the lower index first. Returns
/// `(n, n_experts)`, 1 for selected experts, else 0.
pub fn visits(scores: &Tensor, top_k: usize) -> CandleResult<Tensor> {
    let mut rows = scores.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    for row in &mut rows {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a])); // stable
        row.fill(0.0);
        order[..top_k].iter().for_each(|&expert| row[expert] = 1.0);
    }
    Tensor::new(rows, scores.device())?.to_dtype(scores.dtype())
}

/// Returns the smallest difference between the score of a selected expert and that of one that is not, over all tokens.
///
/// Exactly equal scores are ignored: they stem from a state that dropout has set to zero entirely, whose scores every
/// backend computes without rounding and then selects the lower expert.
pub fn margin(scores: &Tensor, top_k: usize) -> CandleResult<f64> {
    let margin = |mut row: Vec<f64>| {
        row.sort_by(|a, b| b.total_cmp(a));
        let distance = row.get(top_k).map(|next| row[top_k - 1] - next);
        distance.filter(|&distance| distance > 0.0).unwrap_or(f64::INFINITY)
    };
    Ok(scores.to_dtype(DType::F64)?.to_vec2::<f64>()?.into_iter().map(margin).fold(f64::INFINITY, f64::min))
}

/// Returns the weights of experts: the scores of the selected ones, renormalised to sum to one if `top_k` is above 1, as in
/// MiniMind.
///
/// A single expert is weighted by its unnormalised score, so that the router receives a gradient (Fedus et al. 2021, eq. 2).
/// `scores`, `visits` and result: `(n, n_experts)`.
pub fn route_weights(scores: &Tensor, visits: &Tensor, top_k: usize) -> CandleResult<Tensor> {
    let chosen = (scores * visits)?;
    match top_k {
        1 => Ok(chosen),
        _ => chosen.broadcast_div(&(chosen.sum_keepdim(D::Minus1)? + 1e-20)?),
    }
}

/// Returns the balancing loss of some tokens, a scalar that is 1 if experts are used evenly: `sum over experts of f P`, with
/// `P` the mean score and `f` the share of selections times the number of experts (Fedus et al. 2021, eq. 4-6; for `top_k`
/// above one Dai et al. 2024, eq. 12-14).
pub fn balance(scores: &Tensor, visits: &Tensor, top_k: usize) -> CandleResult<Tensor> {
    let (n, n_experts) = scores.dims2()?;
    let share = (visits.sum(0)? * (n_experts as f64 / (n * top_k) as f64))?;
    (share * scores.mean(0)?)?.sum_all()
}

/// Clips a gradient by its global norm (Pascanu et al. 2013, algorithm 1). Returns the norm before, and the clipped gradient.
///
/// `grad`: with the loss scale, which the result no longer contains; `multipliers`: those of its elements in the norm. All
/// have the shape of `grad`.
pub fn clip(grad: &Tensor, multipliers: &Tensor, clipping: &Clipping) -> CandleResult<(f64, Tensor)> {
    let grad = (grad / clipping.loss_scale)?;
    let norm = (&grad * multipliers)?.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>()?;
    let factor = clipping.max_norm / (norm + 1e-6); // 1e-6 as in torch.nn.utils.clip_grad_norm_
    let is_clipped = clipping.max_norm > 0.0 && factor < 1.0;
    Ok((norm, if is_clipped { (grad * factor)? } else { grad }))
}

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2). Returns the new `[weights, first, second]`.
///
/// `moments`: `[first, second]`; `grad`: the clipped gradient; all have the shape of `w`.
pub fn adamw(w: &Tensor, moments: [&Tensor; 2], grad: &Tensor, step: &AdamW) -> CandleResult<[Tensor; 3]> {
    let mean = |old: &Tensor, new: &Tensor, beta: f64| (old * beta)? + (new * (1.0 - beta))?;
    let unbiased = |mean: &Tensor, beta: f64| mean / (1.0 - beta.powf(step.step as f64));
    let first = mean(moments[0], grad, step.beta1)?;
    let second = mean(moments[1], &grad.sqr()?, step.beta2)?;
    let update = (unbiased(&first, step.beta1)? / (unbiased(&second, step.beta2)?.sqrt()? + step.eps)?)?;
    let w = ((w * (1.0 - step.lr * step.weight_decay))? - (update * step.lr)?)?;
    Ok([w, first, second])
}

/// Muon (Jordan et al. 2024), with the update scaled as in Liu et al. 2025, eq. 4. Returns the new `[weights, momentum]`.
///
/// All have the shape of `w`, a matrix; `grad` is the clipped gradient.
pub fn muon(w: &Tensor, momentum: &Tensor, grad: &Tensor, step: &Muon) -> CandleResult<[Tensor; 2]> {
    let grad = (grad * (1.0 - step.momentum))?;
    let momentum = ((momentum * step.momentum)? + &grad)?;
    let ahead = (grad + (&momentum * step.momentum)?)?; // Nesterov's look-ahead
    let [a, b, c] = Muon::COEFFICIENTS.map(f64::from);
    let norm = (ahead.sqr()?.sum_all()?.sqrt()? + f64::from(Muon::EPS))?;
    let mut x = ahead.broadcast_div(&norm)?;
    for _ in 0..Muon::ITERATIONS {
        let gram = x.matmul(&x.t()?)?;
        let square = gram.matmul(&gram)?;
        x = ((&x * a)? + ((gram * b)? + (square * c)?)?.matmul(&x)?)?;
    }
    let (rows, cols) = w.dims2()?;
    let rate = step.lr * 0.2 * (rows.max(cols) as f64).sqrt();
    let w = ((w * (1.0 - step.lr * step.weight_decay))? - (x * rate)?)?;
    Ok([w, momentum])
}

//! One pass of a ragged batch: what all its operations share, and where gradients go.

use super::{Transformer, attention, embedding, feed_forward, head, stack};
use crate::config::{AuxLoss, ModelConfig};
use crate::layout::Layout;
use crate::ops::dropout::Dropout;
use crate::ops::rope::Rotations;
use crate::ops::router::{Balancing, Routes};
use crate::tokens::{Ragged, Sequence};
use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp1, Storage, Tensor, Var};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which form of the operations a pass takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Fused operations with hand-written gradients; CPU only.
    Fused,
    /// Ordinary candle operations and candle's autograd; any device.
    Plain,
}

/// The gradient of every weight, in the layout of the weights.
#[derive(Debug)]
pub struct Gradients {
    /// On a CPU.
    host: Mutex<Vec<f32>>,
    /// Elsewhere: `(len,)`, absent while zero.
    device: Mutex<Option<Tensor>>,
}

impl Gradients {
    /// Zeros for `len` weights on `device`.
    pub fn zeros(len: usize, device: &Device) -> Arc<Self> {
        let host = if device.is_cpu() { vec![0.0; len] } else { vec![] };
        Arc::new(Self { host: Mutex::new(host), device: Mutex::default() })
    }

    /// Exclusive access to the gradient of a model on a CPU; empty for other devices.
    pub fn host(&self) -> MutexGuard<'_, Vec<f32>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the gradient of a model on another device and leaves zero; `None` is zero.
    pub fn take_device(&self) -> Option<Tensor> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn add(&self, flat: Tensor) -> Result<()> {
        if flat.device().is_cpu() {
            crate::ops::math::add_assign(&mut self.host(), &flat.to_vec1::<f32>()?);
        } else {
            let mut sum = self.device.lock().unwrap_or_else(PoisonError::into_inner);
            *sum = Some(match sum.take() {
                Some(sum) => (sum + flat)?,
                None => flat,
            });
        }
        Ok(())
    }
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
    /// The routes of training are wanted, with its dropout but without gradients.
    Route {
        /// As in training.
        dropout_seed: u64,
    },
    /// Gradients are wanted.
    Train {
        /// Where weight gradients are added.
        gradients: Arc<Gradients>,
        /// Names the random stream of dropout: seed, step and lane mixed.
        dropout_seed: u64,
        /// The batch that the pass is part of.
        aux: AuxShare,
        /// Compute activations again in the backward pass instead of keeping them.
        recompute: bool,
    },
}

/// What the router of one layer did in one pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouterStats {
    /// Tokens that each expert got.
    pub load: Vec<u64>,
    /// Sum over tokens of the entropy of their scores, in nats.
    pub entropy_sum: f64,
    /// Tokens routed.
    pub tokens: u64,
    /// The layer's balancing loss, this pass's share of the batch.
    pub aux_loss: f64,
}

impl RouterStats {
    /// Adds another pass of the same layer.
    pub fn merge(&mut self, other: &Self) {
        self.load.resize(other.load.len().max(self.load.len()), 0);
        for (mine, theirs) in self.load.iter_mut().zip(&other.load) {
            *mine += theirs;
        }
        self.entropy_sum += other.entropy_sum;
        self.tokens += other.tokens;
        self.aux_loss += other.aux_loss;
    }
}

/// What all operations of a pass share.
pub(super) struct Context {
    pub config: Arc<ModelConfig>,
    pub weights: Weights,
    pub batch: Ragged,
    pub rotations: Arc<Rotations>,
    pub mode: Mode,
    /// The weights as variables, where the plain form trains.
    variables: Vec<Var>,
    router: Mutex<Vec<RouterStats>>,
    /// Balancing losses of the plain form, part of the graph.
    aux_terms: Mutex<Vec<Tensor>>,
}

impl Context {
    /// `rotations` must reach the longest document.
    pub fn new(
        model: &Transformer,
        form: Form,
        batch: Ragged,
        mode: Mode,
        rotations: Arc<Rotations>,
    ) -> Result<Arc<Self>> {
        let vocab = model.config.vocab_size as u32;
        if let Some(id) = batch.ids.iter().chain(&batch.targets).find(|&&id| id >= vocab) {
            return Err(Error::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocab}; is this the model's own tokenizer?"
            )));
        }
        let variables = match (&mode, form) {
            (Mode::Train { .. }, Form::Plain) => {
                let params = model.weights.layout.params.iter();
                params.map(|p| Ok(Var::from_tensor(&model.weights.tensor(p)?)?)).collect::<Result<_>>()?
            }
            _ => vec![],
        };
        Ok(Arc::new(Self {
            config: model.config.clone(),
            weights: model.weights.clone(),
            rotations,
            batch,
            mode,
            variables,
            router: Mutex::default(),
            aux_terms: Mutex::default(),
        }))
    }

    pub fn layout(&self) -> &Layout {
        &self.weights.layout
    }

    /// Runs `f` on the flat weights in host memory.
    pub fn with_weights<R>(&self, f: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
        with_slice(&self.weights.flat, f)
    }

    /// Runs `f` on the flat gradients.
    pub fn with_gradients<R>(&self, f: impl FnOnce(&mut [f32]) -> R) -> candle_core::Result<R> {
        match &self.mode {
            Mode::Train { gradients, .. } => Ok(f(&mut gradients.host())),
            Mode::Infer | Mode::Route { .. } => candle_core::bail!("this pass has no gradients"),
        }
    }

    pub fn trains(&self) -> bool {
        matches!(self.mode, Mode::Train { .. })
    }

    /// Whether what the routers do is of interest.
    pub fn records_routes(&self) -> bool {
        !matches!(self.mode, Mode::Infer)
    }

    /// Whether saved activations are dropped after the forward pass.
    pub fn recomputes(&self) -> bool {
        matches!(self.mode, Mode::Train { recompute: true, .. })
    }

    /// The dropout of one place in the model, where there is any.
    pub fn dropout(&self, place: u64) -> Option<Dropout> {
        match self.mode {
            Mode::Train { dropout_seed, .. } | Mode::Route { dropout_seed } if self.config.dropout > 0.0 => {
                Some(Dropout { seed: dropout_seed, rate: self.config.dropout as f32 }.at(place))
            }
            _ => None,
        }
    }

    /// Over which positions the router of a layer is balanced.
    pub fn balancing(&self, layer: usize) -> Balancing {
        let (Mode::Train { aux, .. }, alpha) = (&self.mode, self.config.aux_loss_alpha) else {
            return Balancing::default();
        };
        match self.config.aux_loss_per {
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

    pub fn record_routes(&self, layer: usize, routes: &Routes, aux_loss: f32) {
        let stats = RouterStats {
            load: routes.load(),
            entropy_sum: routes.entropy_sum(),
            tokens: (routes.experts.len() / routes.top_k) as u64,
            aux_loss: f64::from(aux_loss),
        };
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.resize_with(self.config.n_layers, RouterStats::default);
        router[layer] = stats;
    }

    pub fn add_aux_term(&self, term: Tensor) {
        self.aux_terms.lock().unwrap_or_else(PoisonError::into_inner).push(term);
    }

    /// Parameters of the plain form that fill `range`, stacked along their first dimension: `(rows, columns)`.
    pub fn plain(&self, range: &Range<usize>) -> candle_core::Result<Tensor> {
        let params = self.layout().params.iter().enumerate();
        let within = params.filter(|(_, p)| range.start <= p.range.start && p.range.end <= range.end);
        let parts = within.map(|(i, param)| match self.variables.get(i) {
            Some(variable) => Ok(variable.as_tensor().clone()),
            None => self
                .weights
                .flat
                .narrow(0, param.range.start, param.range.len())?
                .reshape(param.shape.as_slice()),
        });
        let parts: Vec<Tensor> = parts.collect::<candle_core::Result<_>>()?;
        if parts.len() == 1 { Ok(parts[0].clone()) } else { Tensor::cat(&parts, 0) }
    }
}

/// Runs `f` on the elements of a contiguous f32 tensor in host memory.
pub(crate) fn with_slice<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) => Ok(f(&data[start..end])),
        _ => candle_core::bail!("a fused operation needs a contiguous f32 tensor in host memory"),
    }
}

/// The elements of a custom operation's argument.
pub(super) fn argument<'a>(
    storage: &'a CpuStorage,
    layout: &candle_core::Layout,
) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&data[start..end]),
        _ => candle_core::bail!("a fused operation needs a contiguous f32 argument"),
    }
}

/// One pass of a batch through a model.
pub struct Pass {
    context: Arc<Context>,
    form: Form,
}

impl Pass {
    pub(super) fn new(model: &Transformer, form: Form, batch: Ragged, mode: Mode) -> Result<Self> {
        let rotations = model.rotations(batch.longest());
        Ok(Self { context: Context::new(model, form, batch, mode, rotations)?, form })
    }

    /// The batch.
    pub fn batch(&self) -> &Ragged {
        &self.context.batch
    }

    /// What its attention costs; see [`Ragged::squares`].
    pub fn squares(&self) -> u64 {
        self.context.batch.squares(self.context.config.window)
    }

    /// The states after the embedding and after each block, `(n, d_model)` each. Without gradient.
    pub fn states(&self) -> Result<Vec<Tensor>> {
        match self.form {
            Form::Fused => Ok(stack::states(&self.context)?),
            Form::Plain => self.plain_states(),
        }
    }

    /// The states after the last block, before the last norm: `(n, d_model)`.
    pub fn hidden(&self) -> Result<Tensor> {
        match self.form {
            Form::Fused => Ok(stack::hidden(&self.context)?),
            Form::Plain => Ok(self.plain_states()?.swap_remove(self.context.config.n_layers)),
        }
    }

    fn plain_states(&self) -> Result<Vec<Tensor>> {
        let mut states = vec![embedding::plain(&self.context)?];
        for layer in 0..self.context.config.n_layers {
            let x = attention::plain(&self.context, layer, &states[layer])?;
            states.push(feed_forward::plain(&self.context, layer, &x)?);
        }
        Ok(states)
    }

    /// `scale * sum of weights * -log p(target)`, a scalar.
    ///
    /// The gradient is computed together with the loss; `scale` is usually one over the positions counted in
    /// the whole batch.
    pub fn cross_entropy(&self, hidden: &Tensor, scale: f64) -> Result<Tensor> {
        Ok(head::cross_entropy(&self.context, self.form, hidden, scale)?)
    }

    /// `log p(target)` of each position, 0 where its weight is 0: `(n,)`.
    pub fn log_probs(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(head::log_probs(&self.context, self.form, hidden)?)
    }

    /// Logits of the given positions: `(positions, vocab_size)`. Without gradient.
    pub fn logits(&self, hidden: &Tensor, positions: &[usize]) -> Result<Tensor> {
        Ok(head::logits(&self.context, hidden, positions)?)
    }

    /// Adds the gradient of `loss` and of the balancing losses to the pass's gradients.
    pub fn backward(&self, loss: &Tensor) -> Result<()> {
        let mut total = loss.clone();
        for term in self.context.aux_terms.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            total = (total + term)?;
        }
        let store = total.backward()?;
        if self.form == Form::Plain { self.collect(&store) } else { Ok(()) }
    }

    /// What the routers did, layer by layer; empty for dense models.
    pub fn router_stats(&self) -> Vec<RouterStats> {
        self.context.router.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn collect(&self, store: &GradStore) -> Result<()> {
        let Mode::Train { gradients, .. } = &self.context.mode else {
            return Err(Error::Input("this pass has no gradients".into()));
        };
        let params = self.context.layout().params.iter().zip(&self.context.variables);
        let parts = params.map(|(param, variable)| match store.get(variable.as_tensor()) {
            Some(grad) => grad.flatten_all(),
            None => Tensor::zeros(param.range.len(), DType::F32, variable.device()),
        });
        let parts: Vec<Tensor> = parts.collect::<candle_core::Result<_>>()?;
        gradients.add(Tensor::cat(&parts, 0)?)
    }
}

/// Applies a fused operation, as a node of the graph only where gradients are wanted.
pub(super) fn apply<C: CustomOp1 + Send + Sync + 'static>(
    context: &Context,
    x: &Tensor,
    op: C,
) -> candle_core::Result<Tensor> {
    if context.trains() { x.apply_op1(op) } else { x.apply_op1_no_bwd(&op) }
}

/// Runs `f` on the elements of a contiguous f32 tensor in host memory, to change them in place.
///
/// Every tensor that shares the storage changes with it.
pub(crate) fn with_slice_mut<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> candle_core::Result<R> {
    struct InPlace<F, R>(RefCell<(Option<F>, Option<R>)>);

    impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for InPlace<F, R> {
        fn name(&self) -> &'static str {
            "in-place"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &candle_core::Layout) -> candle_core::Result<()> {
            match (storage, layout.contiguous_offsets()) {
                (CpuStorage::F32(data), Some((start, end))) => {
                    let mut state = self.0.borrow_mut();
                    state.1 = state.0.take().map(|f| f(&mut data[start..end]));
                    Ok(())
                }
                _ => candle_core::bail!("an in-place operation needs a contiguous f32 tensor"),
            }
        }
    }

    let op = InPlace(RefCell::new((Some(f), None)));
    tensor.inplace_op1(&op)?;
    let done = op.0.into_inner().1;
    done.ok_or_else(|| candle_core::Error::Msg("an in-place operation did not run on the host".into()))
}

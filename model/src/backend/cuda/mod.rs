//! The CUDA backend: custom kernels and cuBLAS, with activations in f32, bfloat16 or half precision.
//!
//! [`Cuda`] implements each operation of [`Backend`] as kernels (`kernels/*.cu`) and matrix products that it queues on
//! a [`Driver`]: a GPU, or the CPU, where the same kernels run as emulated threads so that they can be tested without a
//! GPU. All sums are taken in f32 and in a fixed order, so results are the same from run to run.
//!
//! Nothing waits for the device except reads by the caller and the sizes of the experts' groups, which the matrix
//! products of a mixture of experts need on the host.

mod arguments;
mod attention;
mod cached;
mod driver;
#[cfg(feature = "emulate")]
mod emulation;
mod experts;
#[cfg(feature = "cuda")]
mod gpu;
mod head;
mod heads;
mod memory;
mod norm;
mod products;
mod queue;
mod update;

pub use driver::{Address, Driver, Dtype, Factor, Fetch, Grid, Product};
#[cfg(feature = "emulate")]
pub use emulation::Emulation;
#[cfg(feature = "cuda")]
pub use gpu::count;

use super::precision::Precision;
use super::sealed::Sealed;
use super::{
    About, Adapter, Attention, Backend, Balancing, Columns, Dropout, Memory, Pieces, Qkv, RouterStats,
};
#[cfg(feature = "cuda")]
use crate::Error;
use crate::Result;
use crate::layout::{ExpertsLayout, Matrix};
use crate::optimizer::{AdamW, Clipping, Muon};
use crate::spec::Heads;
use arguments as args;
use experts::Routes;
use memory::{Batch, Buffer, Cache, Floats, GradScale, Table, Weights};
use norm::Rows;
use queue::{Arguments, Queue};
use std::ops::Range;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex};

/// Rows per block of kernels that assign one warp to each row.
const WARPS: usize = queue::THREADS as usize / 32;

/// A GPU and the precision of its computations.
#[derive(Debug, Clone)]
pub struct Cuda {
    queue: Arc<Queue>,
    precision: Precision,
    /// Tables of rotations that are on the device.
    rotations: Arc<Mutex<Vec<Arc<Table>>>>,
}

impl Cuda {
    /// Opens the GPU with this index.
    ///
    /// # Errors
    /// Returns an error that names what is missing: the GPU, its driver or a library.
    #[cfg(feature = "cuda")]
    pub fn new(number: usize, precision: Precision) -> Result<Self> {
        Ok(Self::on(Box::new(gpu::Gpu::new(number)?), precision))
    }

    /// Emulates a GPU on the CPU, for tests.
    #[cfg(feature = "emulate")]
    pub fn emulated(precision: Precision) -> Self {
        Self::on(Box::new(Emulation::default()), precision)
    }

    /// Opens a device for tests of the kernels: an emulated GPU, or with the feature `cuda` the first GPU of this machine,
    /// which all tests of a process share. `None`, with a message, if there is no GPU.
    ///
    /// # Errors
    /// Returns an error if there is no GPU and the environment says `MINDSCALE_GPU=1`.
    pub fn for_tests(precision: Precision) -> Result<Option<Self>> {
        #[cfg(feature = "cuda")]
        {
            static GPU: OnceLock<std::result::Result<Arc<Queue>, String>> = OnceLock::new();
            let open = || gpu::Gpu::new(0).map(|gpu| Queue::new(Box::new(gpu)));
            match GPU.get_or_init(|| open().map_err(|error| error.to_string())) {
                Ok(queue) => Ok(Some(Self { queue: queue.clone(), precision, rotations: Arc::default() })),
                Err(problem) if std::env::var("MINDSCALE_GPU").as_deref() == Ok("1") => {
                    Err(Error::Input(format!("{problem} (MINDSCALE_GPU=1 says that there is a GPU)")))
                }
                Err(problem) => {
                    eprintln!("skipped: {problem}");
                    Ok(None)
                }
            }
        }
        #[cfg(not(feature = "cuda"))]
        {
            Ok(Some(Self::emulated(precision)))
        }
    }

    fn on(driver: Box<dyn Driver>, precision: Precision) -> Self {
        Self { queue: Queue::new(driver), precision, rotations: Arc::default() }
    }

    /// The type of activations.
    fn dtype(&self) -> Dtype {
        match self.precision {
            Precision::F32 | Precision::Tf32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
            Precision::F16 => Dtype::F16,
        }
    }

    fn tf32(&self) -> bool {
        self.precision == Precision::Tf32
    }

    /// Runs the variant of a kernel for this backend's activation type.
    fn run<A: Arguments>(&self, kernel: &str, blocks: usize, shared: usize, arguments: &A) -> Result<()> {
        self.queue.run(&queue::kernel_name(kernel, self.dtype()), blocks, shared, arguments)
    }

    /// Number of blocks for the elements of rows, which kernels process 16 bytes at a time if the width allows it.
    fn row_blocks(&self, rows: usize, width: usize) -> usize {
        let wide = 16 / self.dtype().size();
        queue::blocks(rows * if width.is_multiple_of(wide) { width / wide } else { width })
    }

    /// Gathers rows: the row index is an entry of `places` divided by `divisor`. Returns `(n, width)`.
    fn gather(
        &self,
        from: Address,
        places: Address,
        n: usize,
        width: usize,
        divisor: usize,
    ) -> Result<Buffer> {
        let to = self.dirty(n * width)?;
        let arguments = args::Gather {
            to: to.room.at,
            from,
            places,
            n: n as i32,
            width: width as i32,
            divisor: divisor as i32,
        };
        self.run("gather", self.row_blocks(n, width), 0, &arguments)?;
        Ok(to)
    }
}

impl Sealed for Cuda {}

impl Backend for Cuda {
    const LANES: bool = false;
    const GROUP_POSITIONS: usize = 16_384;
    const QUEUES: bool = true;

    fn about(&self) -> Result<Option<About>> {
        Ok(Some(About {
            name: self.queue.driver().name()?,
            gflops: self.rate_of_products()?,
            copied_gb: self.rate_of_copies()?,
        }))
    }

    fn add(&self, y: &mut Buffer, x: &Buffer) -> Result<()> {
        let arguments = args::Add { y: y.room.at, x: x.room.at, len: y.len as i64 };
        self.run("add", self.row_blocks(1, y.len), 0, &arguments)
    }

    fn dropout(&self, x: &mut Buffer, dropout: Dropout) -> Result<()> {
        let arguments = args::Drop { x: x.room.at, len: x.len as i64, dropout: Some(dropout).into() };
        self.run("dropout", queue::blocks(x.len), 0, &arguments)
    }

    fn select(&self, x: &Buffer, rows: &[u32], width: usize) -> Result<Buffer> {
        if rows.len() * width == x.len && rows.iter().enumerate().all(|(i, &row)| row as usize == i) {
            return self.copy(x);
        }
        let places = self.queue.upload(rows)?;
        self.gather(x.room.at, places.at, rows.len(), width, 1)
    }

    fn scatter(&self, dy: &Buffer, rows: &[u32], n: usize, width: usize) -> Result<Buffer> {
        let dx = self.dirty(n * width)?;
        self.queue.zero(dx.room.at, dx.len * self.dtype().size())?;
        let places = self.queue.upload(rows)?;
        let arguments = args::Scatter {
            to: dx.room.at,
            from: dy.room.at,
            places: places.at,
            n: rows.len() as i32,
            width: width as i32,
        };
        self.run("scatter", self.row_blocks(rows.len(), width), 0, &arguments)?;
        Ok(dx)
    }

    fn embed(&self, w: &Weights, table: &Matrix, batch: &Batch) -> Result<Buffer> {
        self.gather(w.at(&table.range), batch.ids.at, batch.len(), table.d_in, 1)
    }

    fn embed_backward(&self, grads: &mut Floats, table: &Matrix, dx: &Buffer, batch: &Batch) -> Result<()> {
        let (tokens, width) = (batch.tokens(self)?, table.d_in);
        let wide = 16 / self.dtype().size();
        let pack = if width.is_multiple_of(wide) { wide } else { 1 };
        let lanes = (width / pack).next_power_of_two().min(queue::THREADS as usize);
        let arguments = args::EmbedBackward {
            grads: grads.at(table.range.start),
            dx: dx.room.at,
            tokens: tokens.tokens.at,
            starts: tokens.starts.at,
            sorted: tokens.sorted.at,
            width: width as i32,
            lanes: lanes as i32,
        };
        if tokens.different == 0 {
            return Ok(());
        }
        self.run("embed_backward", tokens.different, 4 * pack * queue::THREADS as usize, &arguments)
    }

    fn rms_norm(&self, x: &Buffer, w: &Weights, scale: &Range<usize>, eps: f64) -> Result<(Buffer, Floats)> {
        let (y, inverse) = (self.dirty(x.len)?, self.dirty_floats(x.len / scale.len())?);
        self.norm(&y, &inverse, x, w, &Rows::whole(x, scale), Some(eps))?;
        Ok((y, inverse))
    }

    fn rms_norm_recompute(
        &self,
        x: &Buffer,
        inverse: &Floats,
        w: &Weights,
        scale: &Range<usize>,
    ) -> Result<Buffer> {
        let y = self.dirty(x.len)?;
        self.norm(&y, inverse, x, w, &Rows::whole(x, scale), None)?;
        Ok(y)
    }

    fn rms_norm_backward(
        &self,
        dx: &mut Buffer,
        grads: &mut Floats,
        dy: &Buffer,
        x: &Buffer,
        inverse: &Floats,
        w: &Weights,
        scale: &Range<usize>,
    ) -> Result<()> {
        self.norm_backward(dx, grads, dy, x, inverse, w, &Rows::whole(x, scale), true)
    }

    fn head_norm(
        &self,
        x: &mut Buffer,
        columns: Columns,
        w: &Weights,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<Floats> {
        let rows = Rows::heads(x, columns, scale);
        let inverse = self.dirty_floats(rows.n * columns.heads)?;
        self.norm(x, &inverse, x, w, &rows, Some(eps))?;
        Ok(inverse)
    }

    fn head_norm_backward(
        &self,
        dx: &mut Buffer,
        grads: &mut Floats,
        x: &Buffer,
        inverse: &Floats,
        columns: Columns,
        w: &Weights,
        scale: &Range<usize>,
    ) -> Result<()> {
        self.norm_backward(dx, grads, dx, x, inverse, w, &Rows::heads(x, columns, scale), false)
    }

    fn linear(&self, x: &Buffer, w: &Weights, m: &Matrix) -> Result<Buffer> {
        let n = x.len / m.d_in;
        let y = self.dirty(n * m.d_out)?;
        self.forward_product(y.room.at, x.room.at, w, m, n, 0.0)?;
        Ok(y)
    }

    fn linear_add(&self, y: &mut Buffer, x: &Buffer, w: &Weights, m: &Matrix) -> Result<()> {
        self.forward_product(y.room.at, x.room.at, w, m, x.len / m.d_in, 1.0)
    }

    fn linear_input_grad(&self, dy: &Buffer, w: &Weights, m: &Matrix) -> Result<Buffer> {
        let n = dy.len / m.d_out;
        let dx = self.dirty(n * m.d_in)?;
        self.backward_product(dx.room.at, dy.room.at, w, m, n, 0.0)?;
        Ok(dx)
    }

    fn linear_input_grad_add(&self, dx: &mut Buffer, dy: &Buffer, w: &Weights, m: &Matrix) -> Result<()> {
        self.backward_product(dx.room.at, dy.room.at, w, m, dy.len / m.d_out, 1.0)
    }

    fn linear_weight_grad(&self, grads: &mut Floats, dy: &Buffer, x: &Buffer, m: &Matrix) -> Result<()> {
        self.weight_grad(grads, dy.room.at, x.room.at, m, x.len / m.d_in)
    }

    fn split_heads(&self, qkv: &Buffer, batch: &Batch, heads: Heads) -> Result<Qkv<Self>> {
        let parts = self.room_for_heads(batch.len(), heads)?;
        let arguments = self.heads_arguments(qkv, &parts, batch, heads);
        self.run("split_heads", self.row_blocks(batch.len(), heads.qkv_width()), 0, &arguments)?;
        Ok(parts)
    }

    fn join_heads(&self, grad: &Qkv<Self>, batch: &Batch, heads: Heads) -> Result<Buffer> {
        let rows = self.dirty(batch.len() * heads.qkv_width())?;
        let arguments = self.heads_arguments(&rows, grad, batch, heads);
        self.run("join_heads", self.row_blocks(batch.len(), heads.qkv_width()), 0, &arguments)?;
        Ok(rows)
    }

    fn attention(&self, qkv: &Qkv<Self>, batch: &Batch, attention: &Attention) -> Result<(Buffer, Floats)> {
        let (heads, n) = (attention.heads, batch.len());
        let (out, lse) = (self.dirty(n * heads.width())?, self.dirty_floats(n * heads.n_heads)?);
        let (shape, plan) = (self.shape(batch, attention), batch.plan(self, heads)?);
        let places = [&qkv.q, &qkv.k, &qkv.v].map(|part| part.room.at);
        attention::forward(&self.queue, &shape, &plan, places, out.room.at, lse.room.at)?;
        Ok((out, lse))
    }

    fn attention_backward(
        &self,
        dout: &Buffer,
        out: &Buffer,
        lse: &Floats,
        qkv: &Qkv<Self>,
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Qkv<Self>> {
        let (heads, n) = (attention.heads, batch.len());
        let (grad, delta) = (self.room_for_heads(n, heads)?, self.dirty_floats(n * heads.n_heads)?);
        let (shape, plan) = (self.shape(batch, attention), batch.plan(self, heads)?);
        let places = |qkv: &Qkv<Self>| [&qkv.q, &qkv.k, &qkv.v].map(|part| part.room.at);
        let outcome = [dout.room.at, out.room.at, lse.room.at, delta.room.at];
        attention::backward(&self.queue, &shape, &plan, places(qkv), outcome, places(&grad))?;
        Ok(grad)
    }

    fn cache(&self, heads: Heads, capacity: usize) -> Result<Cache> {
        let room = || self.queue.room(capacity * heads.kv_width() * self.dtype().size());
        Ok(Cache { k: room()?, v: room()?, capacity })
    }

    fn cache_append(
        &self,
        cache: &mut Cache,
        qkv: &Qkv<Self>,
        rows: Range<usize>,
        read: usize,
        heads: Heads,
    ) -> Result<()> {
        self.append(cache, qkv, rows, read, heads)
    }

    fn cache_copy(&self, to: &mut Cache, from: &Cache, read: usize, heads: Heads) -> Result<()> {
        self.copy_cache(to, from, read, heads)
    }

    fn attention_cached(
        &self,
        qkv: &Qkv<Self>,
        seen: &[Pieces<'_, Cache>],
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Buffer> {
        self.attend_cached(qkv, seen, batch, attention)
    }

    fn swiglu(&self, x: &Buffer, hidden: usize) -> Result<Buffer> {
        let y = self.dirty(x.len / 2)?;
        let n = y.len / hidden;
        let arguments = args::SwiGlu { y: y.room.at, x: x.room.at, n: n as i32, hidden: hidden as i32 };
        self.run("swiglu", self.row_blocks(n, hidden), 0, &arguments)?;
        Ok(y)
    }

    fn swiglu_backward(
        &self,
        y: &mut Buffer,
        x: &mut Buffer,
        weights: Option<&Floats>,
        hidden: usize,
    ) -> Result<Floats> {
        let n = y.len / hidden;
        let dweights = self.dirty_floats(n)?;
        let arguments = args::SwiGluBackward {
            y: y.room.at,
            x: x.room.at,
            dweights: dweights.room.at,
            weights: weights.map_or(0, |weights| weights.room.at),
            n: n as i32,
            hidden: hidden as i32,
        };
        self.run("swiglu_backward", n.div_ceil(WARPS).max(1), 0, &arguments)?;
        Ok(dweights)
    }

    fn route(&self, logits: &Buffer, experts: &ExpertsLayout) -> Result<Routes> {
        self.find_routes(logits, experts)
    }

    fn route_backward(&self, dweights: &Floats, routes: &Routes, balancing: &Balancing) -> Result<Buffer> {
        self.routes_backward(dweights, routes, balancing)
    }

    fn route_stats(&self, routes: &Routes, balancing: &Balancing) -> Result<RouterStats> {
        self.routes_stats(routes, balancing)
    }

    fn route_weights(&self, routes: &Routes) -> Result<Floats> {
        self.routes_weights(routes)
    }

    fn permute(&self, x: &Buffer, routes: &Routes, width: usize) -> Result<Buffer> {
        self.gather(x.room.at, routes.order.at, routes.rows(), width, routes.top_k())
    }

    fn unpermute_add(
        &self,
        y: &mut Buffer,
        x: &Buffer,
        routes: &Routes,
        weighted: bool,
        width: usize,
    ) -> Result<()> {
        self.add_rows(y, x, routes, weighted, width)
    }

    fn grouped_linear(&self, x: &Buffer, w: &Weights, experts: &[Matrix], routes: &Routes) -> Result<Buffer> {
        self.grouped_products(x, w, experts, routes, false)
    }

    fn grouped_input_grad(
        &self,
        dy: &Buffer,
        w: &Weights,
        experts: &[Matrix],
        routes: &Routes,
    ) -> Result<Buffer> {
        self.grouped_products(dy, w, experts, routes, true)
    }

    fn grouped_weight_grad(
        &self,
        grads: &mut Floats,
        dy: &Buffer,
        x: &Buffer,
        experts: &[Matrix],
        routes: &Routes,
    ) -> Result<()> {
        self.grouped_weight_grads(grads, dy, x, experts, routes)
    }

    fn cross_entropy(&self, x: &Buffer, w: &Weights, head: &Matrix, targets: &[u32]) -> Result<Floats> {
        Ok(self.losses(x, w, head, targets, None)?.0)
    }

    fn cross_entropy_backward(
        &self,
        grads: &mut Floats,
        x: &Buffer,
        w: &Weights,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
    ) -> Result<(Floats, Buffer)> {
        self.losses(x, w, head, targets, Some(head::GradientRequest { grads, weights }))
    }

    fn accumulate(&self, sum: &mut Floats, gradient: &mut Floats) -> Result<()> {
        let arguments = args::Accumulate { sum: sum.room.at, x: gradient.room.at, len: sum.len as i64 };
        self.queue.run("accumulate", queue::blocks(sum.len), 0, &arguments)
    }

    fn grad_scale(
        &self,
        grads: &Floats,
        parts: &[(Range<usize>, f64)],
        clipping: &Clipping,
    ) -> Result<GradScale> {
        self.scale_gradient(grads, parts, clipping)
    }

    fn grad_norm(&self, scale: GradScale) -> Result<f64> {
        self.norm_of(scale)
    }

    fn adamw(
        &self,
        w: &mut Weights,
        moments: &mut [Floats; 2],
        grads: &Floats,
        scale: &GradScale,
        range: Range<usize>,
        step: &AdamW,
    ) -> Result<()> {
        self.adamw_range(w, moments, grads, scale, &range, step)
    }

    fn muon(
        &self,
        w: &mut Weights,
        moments: &mut [Floats; 2],
        grads: &Floats,
        scale: &GradScale,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()> {
        self.muon_matrices(w, &moments[0], grads, scale, matrices, step)
    }

    fn adapt(
        &self,
        w: &mut Weights,
        base: &Floats,
        adapters: &Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        self.merge_adapter(w, base, adapters, adapter, scale)
    }

    fn adapt_backward(
        &self,
        grads: &mut Floats,
        dw: &Floats,
        adapters: &Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        self.pull_back_adapter(grads, dw, adapters, adapter, scale)
    }
}

//! Mixture of experts: routing runs on the device; only the number of rows per expert is copied to the host.

use super::Cuda;
use super::arguments as args;
use super::driver::Address;
use super::memory::{Buffer, Floats, Weights};
use super::queue::{self, Allocation, THREADS};
use crate::backend::{Balancing, RouterStats};
use crate::layout::{ExpertsLayout, Matrix};
use crate::{Error, Result};
use std::ops::Range;

/// Tokens per block of the kernels that order rows: `TOKENS` in `router.cu`.
const TOKENS: usize = 256;
/// Threads per block of `RouteBackward`, each with one number per expert in shared memory.
const BACKWARD_THREADS: u32 = 64;

/// The assignment of tokens to experts, with the weight of each.
pub struct Routes {
    n: usize,
    experts: usize,
    top_k: usize,
    /// Softmax scores, `(n, experts)`.
    scores: Floats,
    /// Experts of each token, best first, `(n, top_k)`.
    chosen: Allocation,
    /// Weights of these experts, `(n, top_k)`.
    weights: Floats,
    /// The index into `chosen` of each row, and its inverse, `row_of`: `(n top_k,)`.
    pub(super) order: Allocation,
    row_of: Allocation,
    /// Weights of the rows, grouped by expert: `(n top_k,)`.
    row_weights: Floats,
    /// Start of each expert's rows, and the end of the last: `(experts + 1,)`.
    offsets: Vec<i32>,
}

/// Balance statistics of spans of tokens, on the device.
struct Spans {
    bounds: Allocation,
    len: usize,
    /// How often each expert was chosen, `(spans, experts)`; mean scores, `(spans, experts)`; sums of entropies, `(spans,)`.
    all: Floats,
}

impl Routes {
    /// Number of rows of all experts.
    pub(super) fn rows(&self) -> usize {
        self.n * self.top_k
    }

    /// Number of experts per token.
    pub(super) fn top_k(&self) -> usize {
        self.top_k
    }

    /// Row range of each expert.
    fn groups(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|rows| rows[0] as usize..rows[1] as usize)
    }

    /// The weights of experts that have rows, with their row ranges.
    fn filled<'a>(&'a self, experts: &'a [Matrix]) -> impl Iterator<Item = (&'a Matrix, Range<usize>)> {
        experts.iter().zip(self.groups()).filter(|(_, rows)| !rows.is_empty())
    }
}

impl Cuda {
    pub(super) fn find_routes(&self, logits: &Buffer, layout: &ExpertsLayout) -> Result<Routes> {
        let (experts, top_k) = (layout.router.d_out, layout.top_k);
        let n = logits.len / experts;
        let (queue, words) = (&self.queue, |len: usize| self.queue.room(4 * len));
        let routes = Routes {
            n,
            experts,
            top_k,
            scores: self.dirty_floats(n * experts)?,
            chosen: words(n * top_k)?,
            weights: self.dirty_floats(n * top_k)?,
            order: words(n * top_k)?,
            row_of: words(n * top_k)?,
            row_weights: self.dirty_floats(n * top_k)?,
            offsets: vec![0; experts + 1],
        };
        if n == 0 {
            return Ok(routes);
        }
        let [n, experts, top_k] = [n, experts, top_k].map(|count| count as i32);
        let blocks = routes.n.div_ceil(TOKENS);
        let (counts, offsets) = (words(blocks * routes.experts)?, words(routes.experts + 1)?);
        let (chosen, weights) = (routes.chosen.at, routes.weights.room.at);
        let scores = routes.scores.room.at;
        self.run(
            "route",
            routes.n.div_ceil(THREADS as usize),
            0,
            &args::Route { scores, chosen, weights, logits: logits.room.at, n, experts, top_k },
        )?;
        let count = args::CountRows { counts: counts.at, chosen, n, experts, top_k };
        queue.run("count_rows", blocks, 4 * routes.experts, &count)?;
        let place =
            args::PlaceRows { counts: counts.at, offsets: offsets.at, experts, blocks: blocks as i32 };
        queue.run("place_rows", 1, 4 * (routes.experts + 1), &place)?;
        let order = args::OrderRows {
            order: routes.order.at,
            row_of: routes.row_of.at,
            row_weights: routes.row_weights.room.at,
            firsts: counts.at,
            chosen,
            weights,
            n,
            experts,
            top_k,
        };
        queue.run("order_rows", blocks, 0, &order)?;
        // The grouped products need the group sizes on the host: the only thing that a forward pass waits for.
        let offsets = queue.download(offsets.at, routes.experts + 1)?;
        Ok(Routes { offsets, ..routes })
    }

    fn spans(&self, routes: &Routes, bounds: &[usize]) -> Result<Spans> {
        let bounds: Vec<u32> = bounds.iter().map(|&bound| bound as u32).collect();
        let len = bounds.len().saturating_sub(1);
        let each = len * routes.experts;
        let spans =
            Spans { bounds: self.queue.upload(&bounds)?, len, all: self.dirty_floats(2 * each + len)? };
        let arguments = args::RouteSpans {
            loads: spans.all.room.at,
            means: spans.all.at(each),
            entropy: spans.all.at(2 * each),
            scores: routes.scores.room.at,
            chosen: routes.chosen.at,
            spans: spans.bounds.at,
            experts: routes.experts as i32,
            top_k: routes.top_k as i32,
        };
        if len > 0 {
            self.queue.run("route_spans", len, 4 * (32 + routes.experts), &arguments)?;
        }
        Ok(spans)
    }

    pub(super) fn routes_backward(
        &self,
        dweights: &Floats,
        routes: &Routes,
        balancing: &Balancing,
    ) -> Result<Buffer> {
        let shared = 4 * BACKWARD_THREADS as usize * routes.experts;
        let limit = self.queue.driver().shared_limit();
        if shared > limit {
            return Err(Error::Input(format!(
                "training on CUDA: n_experts is {}, expected at most {} on this GPU",
                routes.experts,
                limit / (4 * BACKWARD_THREADS as usize)
            )));
        }
        let dlogits = self.dirty(routes.n * routes.experts)?;
        let balanced = balancing.weight != 0.0 && balancing.spans.len() > 1;
        let spans = balanced.then(|| self.spans(routes, &balancing.spans)).transpose()?;
        let load = balancing.load.as_ref().map(|load| self.queue.upload(load)).transpose()?;
        let at = |room: Option<Address>| room.unwrap_or(0);
        let arguments = args::RouteBackward {
            dlogits: dlogits.room.at,
            dweights: dweights.room.at,
            scores: routes.scores.room.at,
            chosen: routes.chosen.at,
            weights: routes.weights.room.at,
            row_of: routes.row_of.at,
            loads: at(spans.as_ref().map(|spans| spans.all.room.at)),
            load: at(load.as_ref().map(|load| load.at)),
            spans: at(spans.as_ref().map(|spans| spans.bounds.at)),
            n: routes.n as i32,
            experts: routes.experts as i32,
            top_k: routes.top_k as i32,
            n_spans: spans.as_ref().map_or(0, |spans| spans.len as i32),
            balance: balancing.weight,
        };
        let grid = super::Grid {
            blocks: [routes.n.div_ceil(BACKWARD_THREADS as usize).max(1) as u32, 1, 1],
            threads: BACKWARD_THREADS,
            shared,
        };
        self.queue.run_in(&queue::kernel_name("route_backward", self.dtype()), grid, &arguments)?;
        Ok(dlogits)
    }

    pub(super) fn routes_stats(&self, routes: &Routes, balancing: &Balancing) -> Result<RouterStats> {
        let whole = vec![0, routes.n];
        let bounds = if balancing.spans.len() > 1 { &balancing.spans } else { &whole };
        let spans = self.spans(routes, bounds)?;
        let all = self.queue.download::<f32>(spans.all.room.at, spans.all.len)?;
        let (loads, rest) = all.split_at(spans.len * routes.experts);
        let (means, entropy) = rest.split_at(loads.len());
        let (experts, top_k) = (routes.experts, routes.top_k);
        let balance = |span: usize| -> f32 {
            let (rows, tokens) = (span * experts..(span + 1) * experts, bounds[span + 1] - bounds[span]);
            let share = experts as f32 / (tokens.max(1) * top_k) as f32;
            let load = |e: usize| match &balancing.load {
                Some(load) => load[e],
                None => loads[rows.start + e] * share,
            };
            (0..experts).map(|e| load(e) * means[rows.start + e]).sum()
        };
        let balanced = if balancing.spans.len() > 1 { spans.len } else { 0 };
        let filled = (0..balanced).filter(|&span| bounds[span + 1] > bounds[span]);
        Ok(RouterStats {
            load: routes.groups().map(|rows| rows.len() as u64).collect(),
            entropy_sum: entropy.iter().map(|&sum| f64::from(sum)).sum(),
            tokens: routes.n as u64,
            aux_loss: f64::from(filled.map(|span| balancing.weight * balance(span)).sum::<f32>()),
        })
    }

    pub(super) fn routes_weights(&self, routes: &Routes) -> Result<Floats> {
        let copy = self.dirty_floats(routes.rows())?;
        self.queue.copy(copy.room.at, routes.row_weights.room.at, 4 * copy.len)?;
        Ok(copy)
    }

    pub(super) fn add_rows(
        &self,
        y: &mut Buffer,
        x: &Buffer,
        routes: &Routes,
        weighted: bool,
        width: usize,
    ) -> Result<()> {
        let arguments = args::Unpermute {
            y: y.room.at,
            x: x.room.at,
            row_of: routes.row_of.at,
            weights: if weighted { routes.weights.room.at } else { 0 },
            n: routes.n as i32,
            width: width as i32,
            top_k: routes.top_k as i32,
        };
        self.run("unpermute", self.row_blocks(routes.n, width), 0, &arguments)
    }

    /// Applies a product to each expert's rows with that expert's weight; `widths` returns those of `x` and of the result.
    fn grouped(
        &self,
        x: &Buffer,
        experts: &[Matrix],
        routes: &Routes,
        widths: fn(&Matrix) -> [usize; 2],
        product: impl Fn(Address, Address, &Matrix, usize) -> Result<()>,
    ) -> Result<Buffer> {
        let out = self.dirty(experts.first().map_or(0, |m| routes.rows() * widths(m)[1]))?;
        let size = self.dtype().size();
        for (m, rows) in routes.filled(experts) {
            let [from, to] = widths(m);
            let place = |room: &Allocation, width: usize| room.at + (rows.start * width * size) as u64;
            product(place(&out.room, to), place(&x.room, from), m, rows.len())?;
        }
        Ok(out)
    }

    pub(super) fn grouped_weight_grads(
        &self,
        grads: &Floats,
        dy: &Buffer,
        x: &Buffer,
        experts: &[Matrix],
        routes: &Routes,
    ) -> Result<()> {
        let size = self.dtype().size();
        for (m, rows) in routes.filled(experts) {
            let place = |buffer: &Buffer, width: usize| buffer.room.at + (rows.start * width * size) as u64;
            self.weight_grad(grads, place(dy, m.d_out), place(x, m.d_in), m, rows.len())?;
        }
        Ok(())
    }

    pub(super) fn grouped_products(
        &self,
        x: &Buffer,
        w: &Weights,
        experts: &[Matrix],
        routes: &Routes,
        backward: bool,
    ) -> Result<Buffer> {
        match backward {
            false => self.grouped(
                x,
                experts,
                routes,
                |m| [m.d_in, m.d_out],
                |y, x, m, n| self.forward_product(y, x, w, m, n, 0.0),
            ),
            true => self.grouped(
                x,
                experts,
                routes,
                |m| [m.d_out, m.d_in],
                |dx, dy, m, n| self.backward_product(dx, dy, w, m, n, 0.0),
            ),
        }
    }
}

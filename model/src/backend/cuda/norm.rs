//! RMSNorm: the rows it applies to, and the division of its backward pass into blocks.

use super::memory::{Buffer, Floats, Weights};
use super::{Cuda, Grid, WARPS, args, queue};
use crate::backend::Columns;
use crate::{Error, Result};
use std::ops::Range;

/// Minimum rows per block of the backward pass, and maximum number of blocks.
const ROWS: usize = 16;
const BLOCKS: usize = 1024;

/// The rows of a norm: adjacent heads within rows, or whole rows as a single head.
pub(super) struct Rows<'a> {
    pub(super) n: usize,
    columns: Columns,
    scale: &'a Range<usize>,
}

impl<'a> Rows<'a> {
    /// Whole rows, normalized as one head.
    pub(super) fn whole(x: &Buffer, scale: &'a Range<usize>) -> Self {
        let width = scale.len();
        Self { n: x.len / width, columns: Columns { width, first: 0, heads: 1, head_dim: width }, scale }
    }

    /// Heads, each normalized separately.
    pub(super) fn heads(x: &Buffer, columns: Columns, scale: &'a Range<usize>) -> Self {
        Self { n: x.len / columns.width, columns, scale }
    }
}

impl Cuda {
    /// Returns the elements that a thread reads at a time, 16 bytes if the rows allow it, and the threads needed for one row.
    fn threads_of_row(&self, columns: &Columns) -> (usize, usize) {
        let wide = 16 / self.dtype().size();
        let is_wide = [columns.width, columns.first, columns.head_dim].iter().all(|n| n.is_multiple_of(wide));
        let at_once = if is_wide { wide } else { 1 };
        (at_once, columns.head_dim.div_ceil(at_once))
    }

    /// Normalizes rows of `x` into those of `y`; `inverse` is written if `eps` is given, and read otherwise.
    pub(super) fn norm(
        &self,
        y: &Buffer,
        inverse: &Floats,
        x: &Buffer,
        w: &Weights,
        rows: &Rows,
        eps: Option<f64>,
    ) -> Result<()> {
        let Columns { width, first, heads, head_dim } = rows.columns;
        let all = rows.n * heads;
        let arguments = args::RmsNorm {
            y: y.room.at,
            inverse: inverse.room.at,
            x: x.room.at,
            scale: w.master.at(rows.scale.start),
            rows: all as i32,
            d: head_dim as i32,
            heads: heads as i32,
            width: width as i32,
            first: first as i32,
            again: i32::from(eps.is_none()),
            eps: eps.unwrap_or(0.0) as f32,
        };
        let kernel = match self.threads_of_row(&rows.columns).1.div_ceil(32) {
            packs @ ..=4 => format!("rms_norm_{}", packs.max(1)),
            _ => "rms_norm_long".into(),
        };
        self.run(&kernel, all.div_ceil(WARPS).max(1), 0, &arguments)
    }

    /// Computes the gradient of a norm: adds it to `dx` if `adds`, otherwise overwrites `dx`; adds the gradient of the scale.
    #[allow(clippy::too_many_arguments)] // the inputs of the forward pass, each named
    pub(super) fn norm_backward(
        &self,
        dx: &Buffer,
        grads: &Floats,
        dy: &Buffer,
        x: &Buffer,
        inverse: &Floats,
        w: &Weights,
        rows: &Rows,
        adds: bool,
    ) -> Result<()> {
        let Columns { width, first, heads, head_dim } = rows.columns;
        let all = rows.n * heads;
        if all == 0 {
            return Ok(());
        }
        let rows_per_block = all.div_ceil(BLOCKS).max(ROWS);
        let blocks = all.div_ceil(rows_per_block);
        let partial = self.dirty_floats(blocks * head_dim)?;
        let arguments = args::RmsNormBackward {
            dx: dx.room.at,
            partial: partial.room.at,
            dy: dy.room.at,
            x: x.room.at,
            inverse: inverse.room.at,
            scale: w.master.at(rows.scale.start),
            rows: all as i32,
            rows_per_block: rows_per_block as i32,
            d: head_dim as i32,
            heads: heads as i32,
            width: width as i32,
            first: first as i32,
            adds: i32::from(adds),
        };
        let blocks_of =
            |threads: usize, shared| Grid { blocks: [blocks as u32, 1, 1], threads: threads as u32, shared };
        let (at_once, threads) = self.threads_of_row(&rows.columns);
        let (kernel, grid) = match threads {
            33..=256 if at_once > 1 => {
                let threads = threads.next_multiple_of(32);
                ("rms_norm_backward_wide", blocks_of(threads, 8 * (threads / 32)))
            }
            _ => {
                // One partial gradient of the scale per warp; long rows use fewer warps.
                let warps = (64 << 10) / (4 * head_dim);
                let warps = warps.clamp(1, WARPS);
                let (shared, limit) = (4 * warps * head_dim, self.queue.driver().shared_limit());
                if shared > limit {
                    return Err(Error::Input(format!(
                        "training on CUDA: a norm is over {head_dim} numbers, expected at most {} on this GPU; use a smaller \
                         d_model",
                        limit / 4
                    )));
                }
                let kernel = if threads <= 32 { "rms_norm_backward_1" } else { "rms_norm_backward_long" };
                (kernel, blocks_of(32 * warps, shared))
            }
        };
        self.queue.run_in(&queue::kernel_name(kernel, self.dtype()), grid, &arguments)?;
        let arguments = args::ColumnSum {
            sums: grads.at(rows.scale.start),
            partial: partial.room.at,
            rows: blocks as i32,
            width: head_dim as i32,
        };
        let grid = Grid { blocks: [head_dim.div_ceil(32) as u32, 1, 1], threads: 1024, shared: 4 * 1024 };
        self.queue.run_in("column_sum", grid, &arguments)
    }
}

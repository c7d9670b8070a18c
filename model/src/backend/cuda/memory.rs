//! Memory of a device, and the parts of a batch that are on it.

use super::Cuda;
use super::arguments::Narrow;
use super::attention::{Document, Plan};
use super::driver::{Address, Dtype};
use super::experts::Routes;
use super::queue::{self, Allocation, Fetched};
use crate::Result;
use crate::backend::{Activity, Memory, Precision};
use crate::rotations::Rotations;
use crate::spec::Heads;
use crate::tokens::Ragged;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

/// An f32 array.
#[derive(Debug)]
pub struct Floats {
    pub(super) room: Allocation,
    pub(super) len: usize,
}

impl Floats {
    /// Address of element `i`.
    pub(super) fn at(&self, i: usize) -> Address {
        self.room.at + 4 * i as u64
    }
}

/// f32 master copies, and working copies if activations have another type.
#[derive(Debug)]
pub struct Weights {
    pub(super) master: Floats,
    pub(super) working: Option<(Allocation, Dtype)>,
}

impl Weights {
    /// Start address of a range of the working copies, or of the master copies if there are none.
    pub(super) fn at(&self, range: &Range<usize>) -> Address {
        match &self.working {
            Some((room, dtype)) => room.at + (dtype.size() * range.start) as u64,
            None => self.master.at(range.start),
        }
    }

    /// Start address of a range of the working copies, or null if there are none.
    pub(super) fn working_at(&self, range: &Range<usize>) -> Address {
        if self.working.is_some() { self.at(range) } else { 0 }
    }
}

/// Activations.
pub struct Buffer {
    pub(super) room: Allocation,
    pub(super) len: usize,
}

/// The norm of a gradient and its factor in the updates, which read it from the device.
pub struct GradScale {
    /// `GradScale` of update.cu.
    pub(super) room: Allocation,
    pub(super) norm: Fetched<f64>,
}

/// A batch and its arrays on the device.
pub struct Batch {
    ragged: Ragged,
    /// Token ids, `(n,)`.
    pub(super) ids: Allocation,
    /// The position of each token in its document, `(n,)`.
    pub(super) positions: Allocation,
    pub(super) rotations: Arc<Table>,
    tokens: Mutex<Option<Arc<Tokens>>>,
    plans: Mutex<BTreeMap<(usize, usize), Arc<DevicePlan>>>,
}

/// The table of rotations on the device.
#[derive(Debug)]
pub struct Table {
    host: Arc<Rotations>,
    pub(super) cos: Allocation,
    pub(super) sin: Allocation,
}

/// The positions of a batch, grouped by token id.
pub struct Tokens {
    /// Number of distinct tokens.
    pub different: usize,
    /// The distinct tokens, in ascending order: `(different,)`.
    pub tokens: Allocation,
    /// Start of each token's positions in `sorted`, and the end of the last: `(different + 1,)`.
    pub starts: Allocation,
    /// The positions, grouped by token: `(n,)`.
    pub sorted: Allocation,
}

/// The tiles of an attention operation, on the device.
pub struct DevicePlan {
    pub plan: Plan,
    pub documents: Allocation,
    pub query_tiles: Allocation,
    pub key_tiles: Allocation,
}

/// Keys and values of the positions that a sequence has read: `(n_kv_heads, capacity, head_dim)` each.
pub struct Cache {
    pub(super) k: Allocation,
    pub(super) v: Allocation,
    pub(super) capacity: usize,
}

impl Deref for Batch {
    type Target = Ragged;
    fn deref(&self) -> &Ragged {
        &self.ragged
    }
}

impl Batch {
    /// Returns the positions grouped by token, computed on first use.
    pub(super) fn tokens(&self, backend: &Cuda) -> Result<Arc<Tokens>> {
        let mut kept = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = &*kept {
            return Ok(tokens.clone());
        }
        // Counting sort: there are usually more positions than distinct tokens.
        let ids = &self.ragged.ids;
        let mut next = vec![0u32; ids.iter().max().map_or(0, |&id| id as usize + 1)];
        ids.iter().for_each(|&id| next[id as usize] += 1);
        let (mut tokens, mut starts) = (vec![], vec![0]);
        let mut before = 0;
        for (id, count) in (0u32..).zip(&mut next).filter(|(_, count)| **count > 0) {
            tokens.push(id);
            (before, *count) = (before + *count, before);
            starts.push(before);
        }
        let mut sorted = vec![0u32; ids.len()];
        for (position, &id) in (0u32..).zip(ids) {
            let place = &mut next[id as usize];
            sorted[*place as usize] = position;
            *place += 1;
        }
        let made = Arc::new(Tokens {
            different: tokens.len(),
            tokens: backend.queue.upload(&tokens)?,
            starts: backend.queue.upload(&starts)?,
            sorted: backend.queue.upload(&sorted)?,
        });
        *kept = Some(made.clone());
        Ok(made)
    }

    /// Returns the tiles for attention among the batch's own positions, computed on first use.
    pub(super) fn plan(&self, backend: &Cuda, heads: Heads) -> Result<Arc<DevicePlan>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (heads.repeats(), heads.head_dim);
        if let Some(plan) = plans.get(&key) {
            return Ok(plan.clone());
        }
        let documents = self.documents.windows(2).map(|bounds| {
            let (start, len) = (bounds[0] as i32, (bounds[1] - bounds[0]) as i32);
            Document { q_start: start, q_len: len, k_start: start, k_len: len }
        });
        let plan = Arc::new(DevicePlan::new(backend, &documents.collect::<Vec<_>>(), heads)?);
        plans.insert(key, plan.clone());
        Ok(plan)
    }
}

impl DevicePlan {
    pub(super) fn new(backend: &Cuda, documents: &[Document], heads: Heads) -> Result<Self> {
        let plan = Plan::new(documents, heads.repeats(), heads.head_dim, backend.dtype());
        let queue = &backend.queue;
        Ok(Self {
            documents: queue.upload(&plan.documents)?,
            query_tiles: queue.upload(&plan.query_tiles)?,
            key_tiles: queue.upload(&plan.key_tiles)?,
            plan,
        })
    }
}

impl Cuda {
    /// Allocates activations with unspecified contents.
    pub(super) fn dirty(&self, len: usize) -> Result<Buffer> {
        Ok(Buffer { room: self.queue.room(len * self.dtype().size())?, len })
    }

    /// Allocates f32 values with unspecified contents.
    pub(super) fn dirty_floats(&self, len: usize) -> Result<Floats> {
        Ok(Floats { room: self.queue.room(4 * len)?, len })
    }

    /// Updates the working copies of a range of weights from the master copies.
    pub(super) fn refresh(&self, weights: &Weights, range: &Range<usize>) -> Result<()> {
        if weights.working.is_none() || range.is_empty() {
            return Ok(());
        }
        let arguments =
            Narrow { to: weights.at(range), from: weights.master.at(range.start), len: range.len() as i64 };
        self.run("narrow", queue::blocks(range.len()), 0, &arguments)
    }

    fn table(&self, rotations: &Arc<Rotations>) -> Result<Arc<Table>> {
        let mut kept = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = kept.iter().find(|table| Arc::ptr_eq(&table.host, rotations)) {
            return Ok(table.clone());
        }
        let table = Arc::new(Table {
            host: rotations.clone(),
            cos: self.queue.upload(&rotations.cos)?,
            sin: self.queue.upload(&rotations.sin)?,
        });
        kept.retain(|table| Arc::strong_count(&table.host) > 1); // drops tables of models that no longer exist
        kept.push(table.clone());
        Ok(table)
    }
}

impl Memory for Cuda {
    type Weights = Weights;
    type Floats = Floats;
    type Fetched = Fetched<f32>;
    type GradScale = GradScale;
    type Buffer = Buffer;
    type Batch = Batch;
    type Routes = Routes;
    type Cache = Cache;

    fn rounding(&self) -> f64 {
        match self.precision {
            Precision::F32 => 2f64.powi(-24),
            Precision::Tf32 | Precision::F16 => 2f64.powi(-11),
            Precision::Bf16 => 2f64.powi(-8),
        }
    }

    fn scales_loss(&self) -> bool {
        self.precision == Precision::F16
    }

    fn weights(&self, host: Vec<f32>) -> Result<Weights> {
        let (len, dtype) = (host.len(), self.dtype());
        let working = match dtype {
            Dtype::F32 => None,
            dtype => Some((self.queue.room(len * dtype.size())?, dtype)),
        };
        let weights = Weights { master: self.floats(host)?, working };
        self.refresh(&weights, &(0..len))?;
        Ok(weights)
    }

    fn read_weights<'a>(&self, weights: &'a Weights) -> Result<Cow<'a, [f32]>> {
        self.read(&weights.master)
    }

    fn floats(&self, host: Vec<f32>) -> Result<Floats> {
        Ok(Floats { room: self.queue.upload(&host)?, len: host.len() })
    }

    fn zeros(&self, len: usize) -> Result<Floats> {
        let mut floats = self.dirty_floats(len)?;
        self.clear(&mut floats)?;
        Ok(floats)
    }

    fn read<'a>(&self, floats: &'a Floats) -> Result<Cow<'a, [f32]>> {
        Ok(Cow::Owned(self.queue.download(floats.room.at, floats.len)?))
    }

    fn fetch(&self, floats: Floats) -> Result<Fetched<f32>> {
        self.queue.fetch(floats.room.at, floats.len)
    }

    fn fetched(&self, values: Fetched<f32>) -> Result<Vec<f32>> {
        self.queue.fetched(values)
    }

    fn buffer(&self, host: &[f32], _: usize) -> Result<Buffer> {
        let wide = self.queue.upload(host)?;
        if self.dtype() == Dtype::F32 {
            return Ok(Buffer { room: wide, len: host.len() });
        }
        let buffer = self.dirty(host.len())?;
        let arguments = Narrow { to: buffer.room.at, from: wide.at, len: host.len() as i64 };
        self.run("narrow", queue::blocks(host.len()), 0, &arguments)?;
        Ok(buffer)
    }

    fn read_buffer(&self, x: &Buffer) -> Result<Vec<f32>> {
        if self.dtype() == Dtype::F32 {
            return self.queue.download(x.room.at, x.len);
        }
        let wide = self.dirty_floats(x.len)?;
        let arguments = Narrow { to: wide.room.at, from: x.room.at, len: x.len as i64 };
        self.run("widen", queue::blocks(x.len), 0, &arguments)?;
        self.queue.download(wide.room.at, x.len)
    }

    fn batch(&self, ragged: Ragged, rotations: &Arc<Rotations>) -> Result<Batch> {
        let positions: Vec<u32> = ragged.positions().map(|position| position as u32).collect();
        Ok(Batch {
            ids: self.queue.upload(&ragged.ids)?,
            positions: self.queue.upload(&positions)?,
            rotations: self.table(rotations)?,
            ragged,
            tokens: Mutex::default(),
            plans: Mutex::default(),
        })
    }

    fn peak_bytes(&self) -> Option<usize> {
        Some(self.queue.peak_bytes())
    }

    fn activity(&self) -> Option<Activity> {
        Some(self.queue.activity())
    }

    fn copy(&self, x: &Buffer) -> Result<Buffer> {
        let copy = self.dirty(x.len)?;
        self.queue.copy(copy.room.at, x.room.at, x.len * self.dtype().size())?;
        Ok(copy)
    }

    fn zeros_like(&self, x: &Buffer) -> Result<Buffer> {
        let zeros = self.dirty(x.len)?;
        self.queue.zero(zeros.room.at, x.len * self.dtype().size())?;
        Ok(zeros)
    }

    fn clear(&self, floats: &mut Floats) -> Result<()> {
        self.queue.zero(floats.room.at, 4 * floats.len)
    }
}

//! What a device does for the backend: memory, copies, kernels and matrix products, one after the other on one stream.
//!
//! [`Card`](super::card) is a GPU; [`Emulation`](super::emulation) runs the same kernels on the processor, for tests.
//!
//! *Invariant:* everything is queued in the order of the calls. [`Driver::download`] waits for what was queued before;
//! [`Driver::upload`] only for copies before it, where their memory is full; [`Driver::give_back`] when memory runs out.

use crate::Result;
use std::ffi::c_void;
use std::fmt::Debug;

/// A place in a device's memory, in bytes.
pub type Address = u64;

/// The type of numbers in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// The upper half of single precision.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// How kernels for it end in their name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// One factor of a product: where it lies, row by row, and whether it is transposed.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// Its first number.
    pub at: Address,
    /// Whether its transpose is meant.
    pub transposed: bool,
}

/// `c = alpha a b + beta c`, row by row: `a` is `(m, k)`, `b` is `(k, n)`, `c` is `(m, n)`; sums are of f32. Of `batch` such
/// products the factors and results lie one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// The left factor, in memory `(k, m)` where it is transposed.
    pub a: Factor,
    /// The right factor, in memory `(n, k)` where it is transposed.
    pub b: Factor,
    /// The result.
    pub c: Address,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Products of these sizes.
    pub batch: usize,
    /// Of both factors.
    pub factors: Dtype,
    /// Of the result.
    pub result: Dtype,
    /// Whether factors of f32 may be rounded to TF32, ten bits of fraction, where the device is faster so.
    pub tf32: bool,
    /// What the product is multiplied by.
    pub alpha: f32,
    /// What the result before is multiplied by; it is not read where this is 0.
    pub beta: f32,
}

/// How many threads work, and in which groups.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Blocks in each direction.
    pub blocks: [u32; 3],
    /// Threads of a block; a multiple of 32.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: usize,
}

/// A device.
#[allow(clippy::missing_errors_doc)] // everything fails where the device does, as by running out of memory
pub trait Driver: Debug + Send + Sync + 'static {
    /// What it is, for people.
    fn name(&self) -> Result<String>;
    /// Whether room that is idle is used again; otherwise every use has room of its own and of its exact size, so that
    /// what reaches beyond it is found.
    fn uses_again(&self) -> bool {
        true
    }
    /// Room for so many bytes, aligned to 256; what is in it is unspecified.
    fn allocate(&self, bytes: usize) -> Result<Address>;
    /// Gives room back that [`Self::allocate`] gave, once everything queued before is done.
    fn free(&self, at: Address, bytes: usize);
    /// Waits for everything queued before, and lets go of memory that was freed and is kept for other rooms.
    fn give_back(&self) -> Result<()> {
        Ok(())
    }
    /// Bytes of shared memory that a block may have at most: what every GPU has that the kernels are compiled for.
    fn shared_limit(&self) -> usize {
        99 << 10
    }
    /// Copies from the host, which may change `from` as soon as this returns.
    fn upload(&self, to: Address, from: &[u8]) -> Result<()>;
    /// Copies to the host; waits for everything queued before.
    fn download(&self, to: &mut [u8], from: Address) -> Result<()>;
    /// Copies within the device; the places do not overlap.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()>;
    /// Makes bytes zero.
    fn zero(&self, at: Address, bytes: usize) -> Result<()>;
    /// Runs a kernel. `arguments` is the one structure that it takes.
    ///
    /// # Safety
    /// `arguments` points to a structure of the type that the kernel takes, whose addresses are of this device and long
    /// enough for what the kernel does with them.
    unsafe fn launch(&self, kernel: &str, grid: Grid, arguments: *const c_void, bytes: usize) -> Result<()>;
    /// A matrix product.
    fn product(&self, product: &Product) -> Result<()>;
}

//! The operations that the backend requires of a device: memory, copies, kernels and matrix products, in order on one stream.
//!
//! [`Gpu`](super::gpu) is a GPU; [`Emulation`](super::emulation) runs the same kernels on the CPU, for tests.
//!
//! *Invariant:* operations are queued in the order of the calls. [`Driver::download`] waits for everything queued
//! before it, [`Fetch::wait`] for what was queued before its [`Driver::fetch`], [`Driver::upload`] only for earlier uploads if
//! the staging memory is full; [`Driver::release_cached`] waits as well and is called when memory runs out.

use crate::Result;
use std::ffi::c_void;
use std::fmt::Debug;

/// A byte address in a device's memory.
pub type Address = u64;

/// The element type of an array in a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The suffix of the names of kernels for this type.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// One factor of a matrix product: a row-major matrix in memory, and whether it is transposed.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    /// Address of the first element.
    pub at: Address,
    /// Whether the transpose of the stored matrix is used.
    pub transposed: bool,
}

/// `c = alpha a b + beta c`, row-major: `a` is `(m, k)`, `b` is `(k, n)`, `c` is `(m, n)`; sums are taken in f32. The
/// factors and results of the `batch` products are consecutive in memory.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// The left factor, stored as `(k, m)` if it is transposed.
    pub a: Factor,
    /// The right factor, stored as `(n, k)` if it is transposed.
    pub b: Factor,
    /// Address of the result.
    pub c: Address,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Inner dimension.
    pub k: usize,
    /// Number of products of this shape.
    pub batch: usize,
    /// Element type of both factors.
    pub factors: Dtype,
    /// Element type of the result.
    pub result: Dtype,
    /// Whether f32 factors may be rounded to TF32, an 11-bit significand, if this is faster on the device.
    pub tf32: bool,
    /// Scale of the product.
    pub alpha: f32,
    /// Scale of the previous result, which is not read if this is 0.
    pub beta: f32,
}

/// The launch dimensions of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Number of blocks in each dimension.
    pub blocks: [u32; 3],
    /// Threads per block; a multiple of 32.
    pub threads: u32,
    /// Shared memory per block, in bytes.
    pub shared: usize,
}

/// A copy to the host that was queued.
pub trait Fetch: Send {
    /// Waits until the copy is done, and writes the bytes to `to`, which has as many.
    ///
    /// # Errors
    /// If the device fails.
    fn wait(self: Box<Self>, to: &mut [u8]) -> Result<()>;
}

/// A device.
#[allow(clippy::missing_errors_doc)] // every operation fails if the device does, for example by running out of memory
pub trait Driver: Debug + Send + Sync + 'static {
    /// A human-readable description of the device.
    fn name(&self) -> Result<String>;
    /// Whether idle memory is reused; otherwise every allocation is separate and of exactly the requested size, so that
    /// out-of-bounds accesses are detected.
    fn reuses_memory(&self) -> bool {
        true
    }
    /// Allocates `bytes` bytes, aligned to 256, with unspecified contents.
    fn allocate(&self, bytes: usize) -> Result<Address>;
    /// Frees memory from [`Self::allocate`] once everything queued before is done.
    fn free(&self, at: Address, bytes: usize);
    /// Waits for everything queued before, and releases freed memory that the driver keeps for later allocations.
    fn release_cached(&self) -> Result<()> {
        Ok(())
    }
    /// Maximum shared memory per block, in bytes; the default is available on every GPU that the kernels are compiled for.
    fn shared_limit(&self) -> usize {
        99 << 10
    }
    /// Copies from the host; `from` may change as soon as this returns.
    fn upload(&self, to: Address, from: &[u8]) -> Result<()>;
    /// Copies to the host; waits for everything queued before.
    fn download(&self, to: &mut [u8], from: Address) -> Result<()>;
    /// Queues a copy to the host.
    fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>>;
    /// Copies within the device; the two ranges do not overlap.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()>;
    /// Sets bytes to zero.
    fn zero(&self, at: Address, bytes: usize) -> Result<()>;
    /// Launches a kernel. `arguments` is the single structure that it takes, of `bytes` bytes.
    ///
    /// # Safety
    /// `arguments` must point to a structure of the type that the kernel takes, whose addresses belong to this device
    /// and to allocations large enough for what the kernel does with them.
    unsafe fn launch(&self, kernel: &str, grid: Grid, arguments: *const c_void, bytes: usize) -> Result<()>;
    /// Queues a matrix product.
    fn product(&self, product: &Product) -> Result<()>;
}

//! Emulation of a GPU: the same `.cu` files, compiled by g++ with `shim.h`, run on the CPU.
//!
//! It is for tests: errors of a kernel show up on any machine. The threads of a block are fibers that switch only where
//! they wait for each other; which one continues is random, and so is the order of blocks. The orders differ between
//! launches but are the same in every run. The following are detected and reported as an error of [`Driver::launch`]
//! that names kernel, block and thread:
//!
//! * a barrier that some threads of the block do not reach, or that they reach at different places, and a warp
//!   operation that lanes of its mask miss or reach at different places;
//! * out-of-bounds reads and writes, of shared memory and of every allocation, both of which end at inaccessible pages;
//!   and writes into the padding of their size to a multiple of 128 or 256, which must not change;
//! * use of freed memory, and variables too large for a thread;
//! * undefined behavior: a wide access whose address is not a multiple of its size, an array index out of range, a
//!   division by zero, a signed integer overflow;
//! * more threads than the kernel was compiled for, too much shared memory, arguments of the wrong size, and copies
//!   that exceed an allocation.
//!
//! Others show up as wrong numbers: a missing barrier, because its threads run in the wrong order in every few blocks,
//! and memory that is read before it is written or before a copy to it was waited for, because new allocations, and the
//! shared memory of each block, are filled with 0xff bytes: NaN in every floating-point type, -1 in the integers.
//!
//! Not detected are races that the order between two waits does not expose, such as two threads that write the same
//! value; a missing `__syncwarp` where lanes would have to stop in the middle of a statement; blocks that wait for each
//! other, which never end here; reads (but not writes) of the padding of an allocation; rounding differences of a GPU's
//! approximate functions and fused multiply-adds; a GPU's register limits; and everything related to speed.

use super::driver::{Address, Driver, Dtype, Factor, Fetch, Grid, Product};
use crate::{Error, Result};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_long, c_void};
use std::ptr::{copy_nonoverlapping, write_bytes};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Result of a launch: `Outcome` of `runtime.cpp`.
#[repr(C)]
struct Outcome {
    message: [c_char; 768],
    fault: Address,
}

unsafe extern "C" {
    fn emulation_launch(
        name: *const c_char,
        blocks: *const u32,
        threads: u32,
        shared: usize,
        arguments: *const c_void,
        bytes: usize,
        seed: u64,
        outcome: *mut Outcome,
    ) -> bool;
    fn emulation_allocate(bytes: usize) -> Address;
    fn emulation_free(at: Address, bytes: usize);
    fn emulation_damage(at: Address, bytes: usize) -> c_long;
}

/// An emulated GPU; see the module documentation.
#[derive(Debug, Default)]
pub struct Emulation {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Size in bytes of each allocation, by address.
    allocations: BTreeMap<Address, usize>,
    /// Number of kernels launched.
    launches: u64,
    /// Seed of the order of threads and blocks.
    seed: u64,
}

impl Emulation {
    /// Creates an emulation with a different order of threads and blocks.
    pub fn with_seed(seed: u64) -> Self {
        Self { state: Mutex::new(State { allocations: BTreeMap::new(), launches: 0, seed }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the last allocation that starts at or before an address.
    fn before(&self, at: Address) -> Option<(Address, usize)> {
        self.allocations.range(..=at).next_back().map(|(&start, &bytes)| (start, bytes))
    }

    /// Checks that a range lies within one allocation.
    fn check(&self, what: &str, at: Address, bytes: usize) -> Result<()> {
        let end = at.saturating_add(bytes as u64);
        match self.before(at) {
            _ if bytes == 0 => Ok(()),
            Some((start, room)) if end <= start + room as u64 => Ok(()),
            _ => Err(Error::Input(format!("{what}: {bytes} bytes at {at:#x}{}", self.whereabouts(at)))),
        }
    }

    /// Describes the location of an invalid address, for a message.
    fn whereabouts(&self, at: Address) -> String {
        let last = self.before(at).map(|(start, bytes)| (at - start, bytes));
        let next = self.allocations.range(at..).next().map(|(&start, &bytes)| (start - at, bytes));
        match (last, next) {
            (Some((after, bytes)), next)
                if next.is_none_or(|(before, _)| after.saturating_sub(bytes as u64) < before) =>
            {
                format!(", {after} bytes after the start of an allocation of {bytes}")
            }
            (_, Some((before, bytes))) => format!(", {before} bytes before an allocation of {bytes}"),
            _ => ", and nothing is allocated".into(),
        }
    }

    /// Checks that no kernel wrote outside an allocation.
    fn check_damage(&self, kernel: &str) -> Result<()> {
        for (&at, &bytes) in &self.allocations {
            // SAFETY: `emulation_allocate` returned this address for this size.
            let damage = unsafe { emulation_damage(at, bytes) };
            if damage != 0 {
                let problem = format!("{kernel}: writes byte {damage} of an allocation of {bytes} bytes");
                return Err(Error::Input(problem));
            }
        }
        Ok(())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for (&at, &bytes) in &self.allocations {
            // SAFETY: `emulation_allocate` returned this address for this size, and nothing uses it any more.
            unsafe { emulation_free(at, bytes) };
        }
    }
}

/// Bytes that were copied when this was queued.
struct Copied(Vec<u8>);

impl Fetch for Copied {
    fn wait(self: Box<Self>, to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(&self.0);
        Ok(())
    }
}

impl Driver for Emulation {
    fn name(&self) -> Result<String> {
        Ok("emulation on the CPU".into())
    }

    fn reuses_memory(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        // SAFETY: It accepts any number.
        let at = unsafe { emulation_allocate(bytes) };
        if at == 0 {
            return Err(Error::Input(format!("emulated GPU: cannot allocate {bytes} bytes")));
        }
        self.state().allocations.insert(at, bytes);
        Ok(at)
    }

    fn free(&self, at: Address, bytes: usize) {
        let mut state = self.state();
        let known = state.allocations.remove(&at);
        assert_eq!(known, Some(bytes), "what is freed was allocated, with this size");
        // SAFETY: As above, and no kernel is running.
        unsafe { emulation_free(at, bytes) };
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        let state = self.state();
        state.check("upload", to, from.len())?;
        // SAFETY: The range lies within one allocation, and nothing else uses it now.
        unsafe { copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        let state = self.state();
        state.check("download", from, to.len())?;
        // SAFETY: As for an upload.
        unsafe { copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn fetch(&self, from: Address, bytes: usize) -> Result<Box<dyn Fetch>> {
        let mut copied = vec![0; bytes];
        self.download(&mut copied, from)?;
        Ok(Box::new(Copied(copied)))
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        let state = self.state();
        state.check("copy", to, bytes)?;
        state.check("copy", from, bytes)?;
        if to.abs_diff(from) < bytes as u64 {
            return Err(Error::Input(format!("copy: {bytes} bytes from {from:#x} to {to:#x} overlap")));
        }
        // SAFETY: Both ranges lie within one allocation each and do not overlap.
        unsafe { copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        let state = self.state();
        state.check("zero", at, bytes)?;
        // SAFETY: As for an upload.
        unsafe { write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }

    unsafe fn launch(&self, kernel: &str, grid: Grid, arguments: *const c_void, bytes: usize) -> Result<()> {
        let mut state = self.state();
        state.launches += 1;
        let seed = state.seed.wrapping_mul(1 << 32).wrapping_add(state.launches);
        let name = CString::new(kernel).map_err(|e| Error::Input(format!("{kernel}: {e}")))?;
        let mut outcome = Outcome { message: [0; 768], fault: 0 };
        // SAFETY: The caller guarantees that the arguments are what the kernel takes; their size is checked. Accesses
        // of the kernel outside its allocations end in an error.
        let well = unsafe {
            let Grid { blocks, threads, shared } = grid;
            emulation_launch(
                name.as_ptr(),
                blocks.as_ptr(),
                threads,
                shared,
                arguments,
                bytes,
                seed,
                &raw mut outcome,
            )
        };
        if well {
            return state.check_damage(kernel);
        }
        // SAFETY: `snprintf` terminated the message with a zero byte.
        let mut problem = unsafe { CStr::from_ptr(outcome.message.as_ptr()) }.to_string_lossy().into_owned();
        if outcome.fault != 0 {
            problem += &state.whereabouts(outcome.fault);
        }
        Err(Error::Input(problem))
    }

    fn product(&self, product: &Product) -> Result<()> {
        let &Product { a, b, c, m, n, k, batch, factors, result, alpha, beta, .. } = product;
        if result != factors && (result != Dtype::F32 || factors == Dtype::F32) {
            return Err(Error::Input(format!("product: no {result:?} is made of {factors:?}")));
        }
        let state = self.state();
        state.check("product: a", a.at, batch * m * k * factors.size())?;
        state.check("product: b", b.at, batch * k * n * factors.size())?;
        state.check("product: c", c, batch * m * n * result.size())?;
        let nth =
            |of: Factor, i: usize, len: usize| Factor { at: of.at + (i * len * factors.size()) as u64, ..of };
        let mut row = vec![0.0f32; n];
        for one in 0..batch {
            // SAFETY: All three lie in allocations, which nothing else uses now.
            let (a, b) = unsafe {
                (factor(nth(a, one, m * k), factors, m, k), factor(nth(b, one, k * n), factors, k, n))
            };
            for i in 0..m {
                row.fill(0.0);
                for (j, &x) in a[i * k..(i + 1) * k].iter().enumerate() {
                    row.iter_mut().zip(&b[j * n..(j + 1) * n]).for_each(|(sum, y)| *sum += x * y);
                }
                for (j, &sum) in row.iter().enumerate() {
                    let place = (one * m + i) * n + j;
                    // SAFETY: As above.
                    unsafe {
                        let before = if beta == 0.0 { 0.0 } else { beta * read(c, result, place) };
                        write(c, result, place, alpha * sum + before);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a factor `(rows, columns)`, resolving its transposition.
///
/// # Safety
/// The memory must hold that many elements.
unsafe fn factor(factor: Factor, dtype: Dtype, rows: usize, columns: usize) -> Vec<f32> {
    // SAFETY: The caller upholds the contract.
    let number = |at| unsafe { read(factor.at, dtype, at) };
    if factor.transposed {
        (0..rows * columns).map(|i| number(i % columns * rows + i / columns)).collect()
    } else {
        (0..rows * columns).map(number).collect()
    }
}

/// Reads an element.
///
/// # Safety
/// The element must lie within an allocation.
unsafe fn read(at: Address, dtype: Dtype, index: usize) -> f32 {
    // SAFETY: The caller upholds the contract; unaligned accesses are allowed.
    unsafe {
        match dtype {
            Dtype::F32 => (at as *const f32).add(index).read_unaligned(),
            Dtype::Bf16 => (at as *const bf16).add(index).read_unaligned().to_f32(),
            Dtype::F16 => (at as *const f16).add(index).read_unaligned().to_f32(),
        }
    }
}

/// Rounds and writes an element.
///
/// # Safety
/// As for [`read`].
unsafe fn write(at: Address, dtype: Dtype, index: usize, x: f32) {
    // SAFETY: The caller upholds the contract.
    unsafe {
        match dtype {
            Dtype::F32 => (at as *mut f32).add(index).write_unaligned(x),
            Dtype::Bf16 => (at as *mut bf16).add(index).write_unaligned(bf16::from_f32(x)),
            Dtype::F16 => (at as *mut f16).add(index).write_unaligned(f16::from_f32(x)),
        }
    }
}

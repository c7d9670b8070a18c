//! The kernels on the processor: the same `.cu` files, compiled by g++ with `shim.h`, in the place of a card.
//!
//! It is for tests: what a kernel gets wrong shows here, on any machine. The threads of a block are fibers that change only
//! where they wait for each other; which one goes on is random, and so is the order of blocks, another in every launch and
//! the same in every run. Caught are, as an error of [`Driver::launch`] that names kernel, block and thread:
//!
//! * a barrier that some threads of the block do not reach, or reach elsewhere, and an operation of a warp that lanes of
//!   its mask miss, or that lanes reach in different places;
//! * reading or writing out of bounds, of shared memory and of every allocation, which end at pages that cannot be
//!   touched; writing into what their size lacks to a multiple of 128 or 256, where other bytes must stay as they are;
//! * memory that was given back, and variables too large for a thread;
//! * what is undefined: a wide access whose place is no multiple of its size, an index out of its array, a division by zero,
//!   an overflow of an integer with a sign;
//! * more threads than the kernel was compiled for, too much shared memory, arguments of another size, and copies that
//!   reach out of an allocation.
//!
//! And by wrong numbers: a missing barrier, since its threads run in the wrong order in every few blocks, and memory that
//! is read before it is written, or before a copy to it was waited for, since new memory of an allocation, and the shared
//! memory of each block, is all ones: NaN in every type, -1 in the integers.
//!
//! Not caught are races that the order between two waits does not show, such as two threads that write the same number;
//! a missing `__syncwarp` where lanes would have to stop in the middle of a statement; blocks that wait for each other,
//! which never end here; reading (not writing) the slack of an allocation; what a card's approximate functions and fused
//! multiplications round differently; a card's limits on registers; and everything that is about speed.

use super::driver::{Address, Driver, Dtype, Factor, Grid, Product};
use crate::{Error, Result};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_long, c_void};
use std::ptr::{copy_nonoverlapping, write_bytes};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a launch tells: `Outcome` of `runtime.cpp`.
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

/// The processor in the place of a card; see the module.
#[derive(Debug, Default)]
pub struct Emulation {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of each allocation.
    allocations: BTreeMap<Address, usize>,
    /// How many kernels ran.
    launches: u64,
    /// Of the order of threads and blocks.
    seed: u64,
}

impl Emulation {
    /// One whose threads run in another order.
    pub fn with_seed(seed: u64) -> Self {
        Self { state: Mutex::new(State { allocations: BTreeMap::new(), launches: 0, seed }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The allocation at or before a place.
    fn before(&self, at: Address) -> Option<(Address, usize)> {
        self.allocations.range(..=at).next_back().map(|(&start, &bytes)| (start, bytes))
    }

    /// That bytes lie in one allocation.
    fn check(&self, what: &str, at: Address, bytes: usize) -> Result<()> {
        let end = at.saturating_add(bytes as u64);
        match self.before(at) {
            _ if bytes == 0 => Ok(()),
            Some((start, room)) if end <= start + room as u64 => Ok(()),
            _ => Err(Error::Input(format!("{what}: {bytes} bytes at {at:#x}{}", self.whereabouts(at)))),
        }
    }

    /// Where a place is that nobody should touch, for a message.
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

    /// That no kernel wrote beside an allocation.
    fn check_damage(&self, kernel: &str) -> Result<()> {
        for (&at, &bytes) in &self.allocations {
            // SAFETY: `emulation_allocate` gave this place and size.
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
            // SAFETY: `emulation_allocate` gave this place and size, and nobody has it any more.
            unsafe { emulation_free(at, bytes) };
        }
    }
}

impl Driver for Emulation {
    fn name(&self) -> Result<String> {
        Ok("the processor in the place of a card".into())
    }

    fn uses_again(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<Address> {
        // SAFETY: It takes any number.
        let at = unsafe { emulation_allocate(bytes) };
        if at == 0 {
            return Err(Error::Input(format!("no memory for {bytes} bytes of an emulated card")));
        }
        self.state().allocations.insert(at, bytes);
        Ok(at)
    }

    fn free(&self, at: Address, bytes: usize) {
        let mut state = self.state();
        let known = state.allocations.remove(&at);
        assert_eq!(known, Some(bytes), "what is freed was allocated, with this size");
        // SAFETY: As above, and nothing runs.
        unsafe { emulation_free(at, bytes) };
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        let state = self.state();
        state.check("upload", to, from.len())?;
        // SAFETY: The bytes lie in one allocation, and nothing else uses them now.
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

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        let state = self.state();
        state.check("copy", to, bytes)?;
        state.check("copy", from, bytes)?;
        if to.abs_diff(from) < bytes as u64 {
            return Err(Error::Input(format!("copy: {bytes} bytes from {from:#x} to {to:#x} overlap")));
        }
        // SAFETY: Both places lie in one allocation each and do not overlap.
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
        // SAFETY: The caller says that the arguments are what the kernel takes; their size is compared. What the kernel
        // does beside its allocations ends in an error.
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
        // SAFETY: `snprintf` ended the message with a zero.
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
            // SAFETY: The three lie in allocations, which nothing else uses now.
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

/// A factor `(rows, columns)`, no longer transposed.
///
/// # Safety
/// So many numbers lie there.
unsafe fn factor(factor: Factor, dtype: Dtype, rows: usize, columns: usize) -> Vec<f32> {
    // SAFETY: The caller's.
    let number = |at| unsafe { read(factor.at, dtype, at) };
    if factor.transposed {
        (0..rows * columns).map(|i| number(i % columns * rows + i / columns)).collect()
    } else {
        (0..rows * columns).map(number).collect()
    }
}

/// The number with an index.
///
/// # Safety
/// It lies in an allocation.
unsafe fn read(at: Address, dtype: Dtype, index: usize) -> f32 {
    // SAFETY: The caller's; places of numbers are multiples of their size or are read as if they were not.
    unsafe {
        match dtype {
            Dtype::F32 => (at as *const f32).add(index).read_unaligned(),
            Dtype::Bf16 => (at as *const bf16).add(index).read_unaligned().to_f32(),
            Dtype::F16 => (at as *const f16).add(index).read_unaligned().to_f32(),
        }
    }
}

/// Sets the number with an index, rounded.
///
/// # Safety
/// As for [`read`].
unsafe fn write(at: Address, dtype: Dtype, index: usize, x: f32) {
    // SAFETY: The caller's.
    unsafe {
        match dtype {
            Dtype::F32 => (at as *mut f32).add(index).write_unaligned(x),
            Dtype::Bf16 => (at as *mut bf16).add(index).write_unaligned(bf16::from_f32(x)),
            Dtype::F16 => (at as *mut f16).add(index).write_unaligned(f16::from_f32(x)),
        }
    }
}

//! The queue of a device, and a pool of its memory.

use super::driver::{Address, Driver, Dtype, Factor, Fetch, Grid, Product};
use crate::backend::Activity;
use crate::cost::roofline::gpu_idle;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Threads per block of kernels that do not need a specific number.
pub const THREADS: u32 = 256;
/// Maximum number of blocks of a grid in y, and in z.
pub const MAX_GRID_Y: usize = 65_535;
/// Maximum number of blocks of kernels that process elements in a grid-stride loop: enough for every GPU, and always the same.
const BLOCKS: usize = 4096;

/// A structure of kernel arguments; implemented only for the counterparts of the kernels' own structures.
///
/// # Safety
/// The type is `#[repr(C)]` and has the same layout as the kernel's structure.
pub unsafe trait Arguments: Copy {}

/// A device and its pool of idle memory.
#[derive(Debug)]
pub struct Queue {
    driver: Box<dyn Driver>,
    pool: Mutex<Pool>,
    activity: Mutex<Activity>,
}

/// Elements on their way to the host.
pub struct Fetched<T> {
    /// `None` if there are no elements.
    copy: Option<Box<dyn Fetch>>,
    len: usize,
    element: PhantomData<T>,
}

/// Idle memory. *Invariant:* as in the CPU's pool, idle and used memory together exceed the peak use by little, namely
/// [`gpu_idle`]. The GPU's driver keeps memory that is freed beyond that for this process, until it is needed for
/// allocations that do not fit ([`Driver::release_cached`]).
#[derive(Debug, Default)]
struct Pool {
    /// Address and size in bytes of each idle range, least recently returned first.
    idle: VecDeque<(Address, usize)>,
    idle_bytes: usize,
    used: usize,
    peak: usize,
}

impl Pool {
    /// Removes the idle range of exactly this size that was returned last.
    fn take(&mut self, bytes: usize) -> Option<Address> {
        let place = self.idle.iter().rposition(|idle| idle.1 == bytes)?;
        self.idle_bytes -= bytes;
        self.idle.remove(place).map(|(at, _)| at)
    }

    /// Removes the range that has been idle for the longest time.
    fn evict(&mut self) -> Option<(Address, usize)> {
        let (at, bytes) = self.idle.pop_front()?;
        self.idle_bytes -= bytes;
        Some((at, bytes))
    }
}

/// Rounds up to one of at most 16 sizes per doubling, so that rows of all lengths share few sizes.
fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of((bytes.next_power_of_two() / 32).max(256))
}

/// A range of device memory, which returns to the pool when dropped.
#[derive(Debug)]
pub struct Allocation {
    queue: Arc<Queue>,
    /// Address of the first byte.
    pub at: Address,
    bytes: usize,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let mut pool = self.queue.pool();
        pool.used -= self.bytes;
        if !self.queue.driver.reuses_memory() {
            return self.queue.driver.free(self.at, self.bytes);
        }
        pool.idle_bytes += self.bytes;
        pool.idle.push_back((self.at, self.bytes));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut pool = std::mem::take(&mut *self.pool());
        while let Some((at, bytes)) = pool.evict() {
            self.driver.free(at, bytes);
        }
    }
}

/// Number of blocks that give each element its own thread, up to `BLOCKS`.
pub fn blocks(threads: usize) -> usize {
    threads.div_ceil(THREADS as usize).clamp(1, BLOCKS)
}

/// Reinterprets elements as bytes.
pub fn bytes_of<T: Copy>(numbers: &[T]) -> &[u8] {
    // SAFETY: any initialized memory can be read as bytes; the types in use have no padding except at the end of
    // argument structures, which only devices read.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// Gives access to the bytes of numbers.
fn bytes_of_mut<T: Copy>(numbers: &mut [T]) -> &mut [u8] {
    let bytes = size_of_val(numbers);
    // SAFETY: the types in use are numeric, for which any bytes are valid.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), bytes) }
}

impl Queue {
    /// Creates the queue of a device.
    pub fn new(driver: Box<dyn Driver>) -> Arc<Self> {
        Arc::new(Self { driver, pool: Mutex::default(), activity: Mutex::default() })
    }

    /// The device.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked of the device so far.
    pub fn activity(&self) -> Activity {
        *self.counts()
    }

    fn counts(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation that is queued.
    fn queued(&self) {
        self.counts().operations += 1;
    }

    /// Counts and times an operation that waits for the device.
    fn waiting<T>(&self, wait: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let outcome = wait();
        let mut counts = self.counts();
        counts.waits += 1;
        counts.waited += began.elapsed();
        outcome
    }

    /// Peak memory in use, in bytes.
    pub fn peak_bytes(&self) -> usize {
        self.pool().peak
    }

    /// Allocates at least `bytes` bytes, with unspecified contents.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Result<Allocation> {
        let bytes = if self.driver.reuses_memory() { rounded(bytes) } else { bytes.max(1) };
        let mut pool = self.pool();
        let used = pool.used + bytes;
        let peak = pool.peak.max(used);
        let at = match pool.take(bytes) {
            Some(at) => at,
            None => self.allocate(&mut pool, bytes, peak + gpu_idle(peak) - used)?,
        };
        (pool.used, pool.peak) = (used, peak);
        Ok(Allocation { queue: self.clone(), at, bytes })
    }

    /// Allocates memory from the driver, after freeing idle memory in excess of `idle` bytes; frees more if the driver
    /// has too little.
    fn allocate(&self, pool: &mut Pool, bytes: usize, idle: usize) -> Result<Address> {
        while pool.idle_bytes > idle
            && let Some((at, bytes)) = pool.evict()
        {
            self.driver.free(at, bytes);
        }
        loop {
            match self.driver.allocate(bytes) {
                Err(Error::OutOfMemory(_)) => {}
                outcome => return outcome,
            }
            let Some((at, bytes)) = pool.evict() else { break };
            self.driver.free(at, bytes);
        }
        self.driver.release_cached()?;
        self.driver.allocate(bytes)
    }

    /// Allocates memory and copies `numbers` into it.
    pub fn upload<T: Copy>(self: &Arc<Self>, numbers: &[T]) -> Result<Allocation> {
        let room = self.room(size_of_val(numbers))?;
        self.queued();
        self.driver.upload(room.at, bytes_of(numbers))?;
        Ok(room)
    }

    /// Copies elements to the host. Waits for the device.
    pub fn download<T: Copy + Default>(&self, from: Address, len: usize) -> Result<Vec<T>> {
        let mut numbers = vec![T::default(); len];
        if len > 0 {
            self.waiting(|| self.driver.download(bytes_of_mut(&mut numbers), from))?;
        }
        Ok(numbers)
    }

    /// Queues a copy of `len` elements to the host.
    pub fn fetch<T>(&self, from: Address, len: usize) -> Result<Fetched<T>> {
        if len == 0 {
            return Ok(Fetched { copy: None, len, element: PhantomData });
        }
        self.queued();
        let copy = Some(self.driver.fetch(from, len * size_of::<T>())?);
        Ok(Fetched { copy, len, element: PhantomData })
    }

    /// Waits for the elements of [`Self::fetch`].
    pub fn fetched<T: Copy + Default>(&self, Fetched { copy, len, .. }: Fetched<T>) -> Result<Vec<T>> {
        let mut numbers = vec![T::default(); len];
        if let Some(copy) = copy {
            self.waiting(|| copy.wait(bytes_of_mut(&mut numbers)))?;
        }
        Ok(numbers)
    }

    /// Copies within the device; the two ranges do not overlap.
    pub fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.queued();
        self.driver.copy(to, from, bytes)
    }

    /// Sets bytes to zero.
    pub fn zero(&self, at: Address, bytes: usize) -> Result<()> {
        self.queued();
        self.driver.zero(at, bytes)
    }

    /// Launches a kernel with one-dimensional blocks of [`THREADS`] threads.
    pub fn run<A: Arguments>(&self, kernel: &str, blocks: usize, shared: usize, arguments: &A) -> Result<()> {
        let blocks = [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1];
        self.run_in(kernel, Grid { blocks, threads: THREADS, shared }, arguments)
    }

    /// Launches a kernel with the given grid.
    pub fn run_in<A: Arguments>(&self, kernel: &str, grid: Grid, arguments: &A) -> Result<()> {
        self.queued();
        // SAFETY: the implementor of [`Arguments`] guarantees that the structure is the kernel's own, and its creators keep
        // the memory behind its addresses until the kernel has been queued; memory is freed in the order of the queue.
        unsafe { self.driver.launch(kernel, grid, (&raw const *arguments).cast::<c_void>(), size_of::<A>()) }
    }

    /// Queues a matrix product, unless the result is empty.
    pub fn product(&self, product: &Product) -> Result<()> {
        if product.m == 0 || product.n == 0 || product.batch == 0 {
            return Ok(());
        }
        self.queued();
        self.driver.product(product)
    }
}

/// A factor that is used as stored.
pub fn plain(at: Address) -> Factor {
    Factor { at, transposed: false }
}

/// A factor that is the transpose of the stored matrix.
pub fn transposed(at: Address) -> Factor {
    Factor { at, transposed: true }
}

/// The name of a kernel's variant for activations of this type.
pub fn kernel_name(kernel: &str, dtype: Dtype) -> String {
    format!("{kernel}_{}", dtype.suffix())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Hands out addresses and counts the allocated bytes; freed bytes remain unavailable until `release_cached`.
    #[derive(Debug)]
    struct Places {
        next: AtomicU64,
        given: Arc<AtomicU64>,
        kept: AtomicU64,
        /// Capacity of the device in bytes.
        all: u64,
    }

    /// Size for which `Places` fails for another reason than a lack of memory.
    const BROKEN: usize = 3 << 40;

    impl Places {
        fn of(all: u64) -> Self {
            Self { next: AtomicU64::new(0), given: Arc::default(), kept: AtomicU64::new(0), all }
        }
    }

    impl Driver for Places {
        fn name(&self) -> Result<String> {
            Ok("places".into())
        }
        fn allocate(&self, bytes: usize) -> Result<Address> {
            if bytes == BROKEN {
                return Err(Error::Input("the device failed".into()));
            }
            let held = [&self.given, &self.kept].map(|bytes| bytes.load(Ordering::Relaxed));
            if held[0] + held[1] + bytes as u64 > self.all {
                return Err(Error::OutOfMemory(format!("{bytes} bytes do not fit")));
            }
            self.given.fetch_add(bytes as u64, Ordering::Relaxed);
            Ok(self.next.fetch_add(bytes as u64, Ordering::Relaxed))
        }
        fn free(&self, _: Address, bytes: usize) {
            self.given.fetch_sub(bytes as u64, Ordering::Relaxed);
            self.kept.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        fn release_cached(&self) -> Result<()> {
            self.kept.store(0, Ordering::Relaxed);
            Ok(())
        }
        fn upload(&self, _: Address, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn download(&self, _: &mut [u8], _: Address) -> Result<()> {
            Ok(())
        }
        fn fetch(&self, _: Address, _: usize) -> Result<Box<dyn Fetch>> {
            Err(Error::Input("nothing is there".into()))
        }
        fn copy(&self, _: Address, _: Address, _: usize) -> Result<()> {
            Ok(())
        }
        fn zero(&self, _: Address, _: usize) -> Result<()> {
            Ok(())
        }
        unsafe fn launch(&self, _: &str, _: Grid, _: *const c_void, _: usize) -> Result<()> {
            Ok(())
        }
        fn product(&self, _: &Product) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn idle_room_is_used_again_and_known_once() {
        let queue = Queue::new(Box::new(Places::of(u64::MAX)));
        let first = queue.room(5000).unwrap();
        let place = first.at;
        drop(first);
        for _ in 0..1000 {
            assert_eq!(queue.room(4900).unwrap().at, place);
        }
        let pool = queue.pool();
        assert_eq!((pool.idle.len(), pool.used), (1, 0));
    }

    #[test]
    fn changing_sizes_do_not_pile_up_and_all_is_given_back() {
        let places = Places::of(1 << 40);
        let given = places.given.clone();
        let queue = Queue::new(Box::new(places));
        for bytes in (1..200).map(|i| i * (4 << 20)) {
            drop([queue.room(bytes).unwrap(), queue.room(bytes).unwrap()]);
        }
        let peak = queue.peak_bytes() as u64;
        let held = given.load(Ordering::Relaxed);
        let idle = gpu_idle(peak as usize) as u64;
        assert!(held <= peak + idle && peak < 2 * (840 << 20), "{held} of {peak}");
        drop(queue);
        assert_eq!(given.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn another_error_than_a_lack_of_memory_frees_nothing() {
        let queue = Queue::new(Box::new(Places::of(1000 << 20)));
        drop(queue.room(5000).unwrap());
        let error = queue.room(BROKEN).unwrap_err();
        assert!(matches!(error, Error::Input(_)), "{error:?}");
        let pool = queue.pool();
        assert_eq!((pool.idle.len(), pool.used), (1, 0));
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again_without_idle_room_and_changes_nothing() {
        let queue = Queue::new(Box::new(Places::of(1000 << 20)));
        drop(queue.room(608 << 20).unwrap());
        assert_eq!(queue.peak_bytes(), 608 << 20);
        // The idle range is freed, and the driver releases it.
        let large = queue.room(928 << 20).unwrap();
        assert_eq!(queue.peak_bytes(), 928 << 20);
        let error = queue.room(200 << 20).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        assert_eq!((queue.peak_bytes(), queue.pool().used), (928 << 20, 928 << 20));
        drop(large);
        assert!(queue.room(200 << 20).is_ok());
    }
}

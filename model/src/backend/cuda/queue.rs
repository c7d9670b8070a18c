//! Work for a device, and room on it that is used again.

use super::driver::{Address, Driver, Dtype, Factor, Grid, Product};
use crate::Result;
use crate::cost::roofline::card_idle;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Threads of a block where a kernel does not ask for a number of its own.
pub const THREADS: u32 = 256;
/// Blocks of kernels that go over elements in strides: enough for every card, and always the same.
const BLOCKS: usize = 4096;

/// What has an address in a structure of arguments; the kernels' own structures are its only implementors.
///
/// # Safety
/// `#[repr(C)]`, laid out as the kernel's own.
pub unsafe trait Arguments: Copy {}

/// A device, and the room on it that is idle.
#[derive(Debug)]
pub struct Queue {
    driver: Box<dyn Driver>,
    pool: Mutex<Pool>,
}

/// Idle room. *Invariant:* as in the processor's pool, idle and used room together are little more than the most that was in
/// use at one time: by [`card_idle`]. What is given back beyond that a card's driver keeps for this process, until other rooms
/// are asked for that do not fit ([`Driver::give_back`]).
#[derive(Debug, Default)]
struct Pool {
    /// Where it is and how long, the longest idle first.
    idle: VecDeque<(Address, usize)>,
    idle_bytes: usize,
    used: usize,
    most: usize,
}

impl Pool {
    /// Takes out idle room of exactly this size, the last that became idle.
    fn take(&mut self, bytes: usize) -> Option<Address> {
        let place = self.idle.iter().rposition(|idle| idle.1 == bytes)?;
        self.idle_bytes -= bytes;
        self.idle.remove(place).map(|(at, _)| at)
    }

    /// Takes out the room that has been idle for the longest.
    fn evict(&mut self) -> Option<(Address, usize)> {
        let (at, bytes) = self.idle.pop_front()?;
        self.idle_bytes -= bytes;
        Some((at, bytes))
    }
}

/// One of 16 sizes or fewer for each doubling, so that rows of all lengths share few sizes.
fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of((bytes.next_power_of_two() / 32).max(256))
}

/// Room on a device, which is idle again when this is dropped.
#[derive(Debug)]
pub struct Room {
    queue: Arc<Queue>,
    /// Its first byte.
    pub at: Address,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut pool = self.queue.pool();
        pool.used -= self.bytes;
        if !self.queue.driver.uses_again() {
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

/// Blocks of so many threads for one thread each.
pub fn blocks(threads: usize) -> usize {
    threads.div_ceil(THREADS as usize).clamp(1, BLOCKS)
}

/// Numbers as bytes.
pub fn bytes_of<T: Copy>(numbers: &[T]) -> &[u8] {
    // SAFETY: any initialised memory can be read as bytes; the types in use have no padding but in the tails of argument
    // structures, which are read by devices alone.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

impl Queue {
    /// For a device.
    pub fn new(driver: Box<dyn Driver>) -> Arc<Self> {
        Arc::new(Self { driver, pool: Mutex::default() })
    }

    /// The device.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most bytes that were in use at one time.
    pub fn peak_bytes(&self) -> usize {
        self.pool().most
    }

    /// Room for so many bytes, whose contents are unspecified.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Result<Room> {
        let bytes = if self.driver.uses_again() { rounded(bytes) } else { bytes.max(1) };
        let mut pool = self.pool();
        let used = pool.used + bytes;
        let most = pool.most.max(used);
        let at = match pool.take(bytes) {
            Some(at) => at,
            None => self.allocate(&mut pool, bytes, most + card_idle(most) - used)?,
        };
        (pool.used, pool.most) = (used, most);
        Ok(Room { queue: self.clone(), at, bytes })
    }

    /// Room that the driver gives, beside which so many bytes may stay idle; fewer where there is too little.
    fn allocate(&self, pool: &mut Pool, bytes: usize, idle: usize) -> Result<Address> {
        while pool.idle_bytes > idle
            && let Some((at, bytes)) = pool.evict()
        {
            self.driver.free(at, bytes);
        }
        loop {
            if let Ok(at) = self.driver.allocate(bytes) {
                return Ok(at);
            }
            let Some((at, bytes)) = pool.evict() else { break };
            self.driver.free(at, bytes);
        }
        self.driver.give_back()?;
        self.driver.allocate(bytes)
    }

    /// Room with these numbers in it.
    pub fn upload<T: Copy>(self: &Arc<Self>, numbers: &[T]) -> Result<Room> {
        let room = self.room(size_of_val(numbers))?;
        self.driver.upload(room.at, bytes_of(numbers))?;
        Ok(room)
    }

    /// Numbers on the host. This waits for the device.
    pub fn download<T: Copy + Default>(&self, from: Address, len: usize) -> Result<Vec<T>> {
        let mut numbers = vec![T::default(); len];
        if len > 0 {
            let bytes = size_of_val(&numbers[..]);
            // SAFETY: the types in use are numbers, for which any bytes are a value.
            let to = unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), bytes) };
            self.driver.download(to, from)?;
        }
        Ok(numbers)
    }

    /// Runs a kernel over blocks of [`THREADS`] threads.
    pub fn run<A: Arguments>(&self, kernel: &str, blocks: usize, shared: usize, arguments: &A) -> Result<()> {
        let blocks = [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1];
        self.run_in(kernel, Grid { blocks, threads: THREADS, shared }, arguments)
    }

    /// Runs a kernel.
    pub fn run_in<A: Arguments>(&self, kernel: &str, grid: Grid, arguments: &A) -> Result<()> {
        // SAFETY: the structure is the kernel's own, as its implementor vouches for, and those that fill it in keep the
        // rooms behind its addresses until they have been queued; room is given back in the order of the queue.
        unsafe { self.driver.launch(kernel, grid, (&raw const *arguments).cast::<c_void>(), size_of::<A>()) }
    }

    /// A product; nothing where it has no element.
    pub fn product(&self, product: &Product) -> Result<()> {
        if product.m == 0 || product.n == 0 || product.batch == 0 {
            return Ok(());
        }
        self.driver.product(product)
    }
}

/// The factor at an address, as it lies there.
pub fn plain(at: Address) -> Factor {
    Factor { at, transposed: false }
}

/// The transpose of what lies at an address.
pub fn transposed(at: Address) -> Factor {
    Factor { at, transposed: true }
}

/// The name of a kernel for activations of this type.
pub fn of(kernel: &str, dtype: Dtype) -> String {
    format!("{kernel}_{}", dtype.suffix())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Error;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Gives out places, and counts the bytes that it has given; those that were freed stay its own until they are given back.
    #[derive(Debug)]
    struct Places {
        next: AtomicU64,
        given: Arc<AtomicU64>,
        kept: AtomicU64,
        /// Bytes of the device.
        all: u64,
    }

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
        fn give_back(&self) -> Result<()> {
            self.kept.store(0, Ordering::Relaxed);
            Ok(())
        }
        fn upload(&self, _: Address, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn download(&self, _: &mut [u8], _: Address) -> Result<()> {
            Ok(())
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
        let most = queue.peak_bytes() as u64;
        let held = given.load(Ordering::Relaxed);
        let idle = card_idle(most as usize) as u64;
        assert!(held <= most + idle && most < 2 * (840 << 20), "{held} of {most}");
        drop(queue);
        assert_eq!(given.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_does_not_fit_is_asked_for_again_without_idle_room_and_changes_nothing() {
        let queue = Queue::new(Box::new(Places::of(1000 << 20)));
        drop(queue.room(608 << 20).unwrap());
        assert_eq!(queue.peak_bytes(), 608 << 20);
        // The idle room goes, and the driver lets go of it.
        let large = queue.room(928 << 20).unwrap();
        assert_eq!(queue.peak_bytes(), 928 << 20);
        let error = queue.room(200 << 20).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        assert_eq!((queue.peak_bytes(), queue.pool().used), (928 << 20, 928 << 20));
        drop(large);
        assert!(queue.room(200 << 20).is_ok());
    }
}

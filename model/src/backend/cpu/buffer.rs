//! Buffers that are pooled and reused, so that a training step allocates nothing after the first few.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: VecDeque::new(), idle_room: 0, used: 0, peak: 0 }) };
}

/// The buffers of a thread. *Invariant:* idle and used buffers together exceed the peak use by little, about an eighth,
/// even if sequence lengths vary.
struct Pool {
    /// Idle buffers, least recently returned first.
    idle: VecDeque<Vec<f32>>,
    /// Total capacity of the idle buffers, in elements.
    idle_room: usize,
    /// Total capacity of the buffers in use, in elements.
    used: usize,
    /// Peak of `used`.
    peak: usize,
}

impl Pool {
    fn take(&mut self, room: usize) -> Vec<f32> {
        self.used += room;
        self.peak = self.peak.max(self.used);
        if let Some(place) = self.idle.iter().rposition(|idle| idle.capacity() == room) {
            self.idle_room -= room;
            return self.idle.remove(place).unwrap_or_default();
        }
        while self.used + self.idle_room > self.peak + self.peak / 8 {
            let Some(oldest) = self.idle.pop_front() else { break };
            self.idle_room -= oldest.capacity();
        }
        Vec::with_capacity(room)
    }

    /// Marks a buffer as no longer in use; it may have been taken from another thread's pool.
    fn release(&mut self, room: usize) {
        self.used = self.used.saturating_sub(room);
    }

    fn put(&mut self, buffer: Vec<f32>) {
        self.release(buffer.capacity());
        self.idle_room += buffer.capacity();
        self.idle.push_back(buffer);
    }
}

/// An f32 array in host memory; a pooled one returns to its thread's pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<f32>,
    /// Whether it belongs to a pool; arrays that live as long as a model do not.
    pooled: bool,
}

impl Buffer {
    /// Returns a buffer whose contents are unspecified.
    pub fn dirty(len: usize) -> Self {
        let mut data = POOL.with_borrow_mut(|pool| pool.take(room(len)));
        data.resize(len, 0.0);
        Self { data, pooled: true }
    }

    /// Returns a buffer of zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::dirty(len);
        buffer.fill(0.0);
        buffer
    }

    /// Returns a copy of `data`.
    pub fn copy_of(data: &[f32]) -> Self {
        let mut buffer = Self::dirty(data.len());
        buffer.copy_from_slice(data);
        buffer
    }
}

/// The capacity for `len` elements, rounded up to one of at most 16 sizes per doubling, so that rows of all lengths
/// share few sizes.
fn room(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 32).max(64))
}

impl From<Vec<f32>> for Buffer {
    fn from(data: Vec<f32>) -> Self {
        Self { data, pooled: false }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if !self.pooled || data.capacity() == 0 {
            return;
        }
        // The pool is already destroyed while its thread exits; the buffer is then simply freed.
        let _ = POOL.try_with(|pool| pool.borrow_mut().put(data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let first = Buffer::dirty(5000);
        let place = first.as_ptr();
        drop(first);
        let second = Buffer::zeros(4900);
        assert_eq!(second.as_ptr(), place);
        assert!(second.iter().all(|&v| v == 0.0));
    }

    #[test]
    fn changing_lengths_do_not_pile_up() {
        for len in (1..200).map(|i| i * 1000) {
            drop([Buffer::dirty(len), Buffer::dirty(len)]);
        }
        let (held, peak) = POOL.with_borrow(|pool| (pool.used + pool.idle_room, pool.peak));
        assert!(held <= peak + peak / 8 && peak < 2 * 220_000, "{held} of {peak}");
    }
}

//! Buffers that are handed back and used again, so that a training step allocates nothing once it is warm.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// At most this many idle buffers stay with a thread.
const KEPT: usize = 256;

/// A buffer of `len` numbers that returns to its thread's pool when dropped.
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// A buffer whose contents are unspecified (whatever was left in it).
    pub fn dirty(len: usize) -> Self {
        let found = FREE.with_borrow_mut(|free| {
            // The smallest that is large enough; a much larger one is left for a larger request.
            let fits = |v: &Vec<f32>| v.capacity() >= len && v.capacity() <= 2 * len + 1024;
            let best = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].capacity())?;
            Some(free.swap_remove(best))
        });
        let mut data = found.unwrap_or_default();
        data.resize(len, 0.0);
        Self(data)
    }

    /// A buffer of zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::dirty(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[f32]) -> Self {
        let mut buffer = Self::dirty(data.len());
        buffer.copy_from_slice(data);
        buffer
    }

    /// The numbers themselves; they leave the pool.
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.0)
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.0);
        if data.capacity() == 0 {
            return;
        }
        // The pool is gone while its thread ends; the buffer is then simply freed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(data);
            }
        });
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
}

//! Reduction of the gradients of all lanes to one gradient, between the passes of a batch and the update.

use crate::Result;
use crate::backend::Backend;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sums the gradients of all lanes in the order of their indices, regardless of where they were computed.
///
/// If several processes share the lanes of a batch, each computes some of them and all obtain the same sum: lane 0, lane 1
/// and so on, in the order of a single process, so that the bits are the same for any number of processes. All methods
/// return an error if the backend fails or another process cannot be reached.
#[allow(clippy::missing_errors_doc)] // stated once, above
pub trait Reduce<B: Backend>: Send + Sync {
    /// Returns the indices of the lanes that this process computes.
    fn lanes(&self) -> std::ops::Range<usize>;
    /// Returns a buffer of zeros to which a lane adds its gradient.
    fn zeroed(&self, backend: &B, len: usize) -> Result<B::Floats>;
    /// Accepts the gradient of a lane; once per lane and batch, in any order.
    fn submit(&self, backend: &B, lane: usize, gradient: B::Floats) -> Result<()>;
    /// Removes and returns the sum over the lanes of all batches since the last call; `None` means zero.
    fn take_sum(&mut self, backend: &B) -> Result<Option<B::Floats>>;
    /// Takes back the buffer of a sum for reuse.
    fn recycle(&mut self, backend: &B, sum: B::Floats) -> Result<()>;
}

/// Reduction with all lanes in this process. *Invariant:* a gradient is added as soon as those of all earlier lanes are, so
/// that only slightly more gradients exist than there are threads.
pub struct LocalReduce<B: Backend> {
    lanes: usize,
    state: Mutex<State<B>>,
}

struct State<B: Backend> {
    sum: Option<B::Floats>,
    /// Index of the lane to add next.
    next: usize,
    /// Gradients of later lanes, by index.
    waiting: BTreeMap<usize, B::Floats>,
    /// Buffers for reuse, all zeros.
    idle: Vec<B::Floats>,
}

impl<B: Backend> LocalReduce<B> {
    /// Creates a reduction over `lanes` lanes.
    pub fn new(lanes: usize) -> Self {
        let state = State { sum: None, next: 0, waiting: BTreeMap::new(), idle: vec![] };
        Self { lanes, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Reduce<B> for LocalReduce<B> {
    fn lanes(&self) -> std::ops::Range<usize> {
        0..self.lanes
    }

    fn zeroed(&self, backend: &B, len: usize) -> Result<B::Floats> {
        let idle = self.state().idle.pop();
        idle.map_or_else(|| backend.zeros(len), Ok)
    }

    fn submit(&self, backend: &B, lane: usize, gradient: B::Floats) -> Result<()> {
        let mut state = self.state();
        state.waiting.insert(lane, gradient);
        let State { sum, next, waiting, idle } = &mut *state;
        while let Some(mut gradient) = waiting.remove(next) {
            match sum {
                None => *sum = Some(gradient),
                Some(sum) => {
                    backend.accumulate(sum, &mut gradient)?;
                    idle.push(gradient);
                }
            }
            *next = (*next + 1) % self.lanes;
        }
        Ok(())
    }

    fn take_sum(&mut self, _: &B) -> Result<Option<B::Floats>> {
        let mut state = self.state();
        state.waiting.clear(); // left over from a failed batch
        state.next = 0;
        Ok(state.sum.take())
    }

    fn recycle(&mut self, backend: &B, mut sum: B::Floats) -> Result<()> {
        backend.clear(&mut sum)?;
        self.state().idle.push(sum);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    #[test]
    fn lanes_are_added_in_the_order_of_their_numbers() -> Result<()> {
        // Numbers whose f32 sum depends on the order: 1 is lost in 1 + 1e8, but not in 1 + (1e8 - 1e8).
        let gradients = [1.0f32, 1e8, -1e8, 3.0];
        let want = ((1.0f32 + 1e8) - 1e8) + 3.0;
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let mut reduce = LocalReduce::<Cpu>::new(4);
            for lane in order {
                let mut gradient = reduce.zeroed(&Cpu, 1)?;
                gradient[0] += gradients[lane];
                reduce.submit(&Cpu, lane, gradient)?;
            }
            let sum = reduce.take_sum(&Cpu)?.map(|sum| sum[0]);
            assert_eq!(sum, Some(want), "{order:?}");
            assert!(reduce.take_sum(&Cpu)?.is_none());
        }
        Ok(())
    }

    #[test]
    fn batches_add_up_and_room_serves_again() -> Result<()> {
        let mut reduce = LocalReduce::<Cpu>::new(2);
        for _ in 0..3 {
            for batch in [1.0, 10.0] {
                for lane in 0..2 {
                    let mut gradient = reduce.zeroed(&Cpu, 2)?;
                    assert_eq!(*gradient, [0.0, 0.0]);
                    gradient[1] = batch * (lane + 1) as f32;
                    reduce.submit(&Cpu, lane, gradient)?;
                }
            }
            let sum = reduce.take_sum(&Cpu)?.unwrap_or_else(|| crate::backend::cpu::Buffer::from(vec![]));
            assert_eq!(*sum, [0.0, 33.0]);
            reduce.recycle(&Cpu, sum)?;
        }
        assert_eq!(reduce.state().idle.len(), 2);
        Ok(())
    }
}

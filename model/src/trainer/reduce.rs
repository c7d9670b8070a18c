//! Between the passes of a batch and the update: one gradient out of those of all lanes.

use crate::Result;
use crate::backend::Backend;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sums the gradients of all lanes in the order of their numbers, wherever they were computed.
///
/// Where several processes share the lanes of a batch, each computes some of them and every one ends with the same sum:
/// that of lane 0, lane 1 and so on, the order of a single process, so that the bits are the same for any number of them. Everything
/// fails where the backend does, and where another process cannot be reached.
#[allow(clippy::missing_errors_doc)] // said once, above
pub trait Reduce<B: Backend>: Send + Sync {
    /// Lanes of a batch, by their numbers, that are computed in this process.
    fn lanes(&self) -> std::ops::Range<usize>;
    /// Zeros for a lane to add its gradient to.
    fn lend(&self, backend: &B, len: usize) -> Result<B::Floats>;
    /// Takes the gradient of a lane, in any order; each of a batch once.
    fn take(&self, backend: &B, lane: usize, gradient: B::Floats) -> Result<()>;
    /// The sum over the lanes of every batch since it was last taken out; `None` is zero.
    fn sum(&mut self, backend: &B) -> Result<Option<B::Floats>>;
    /// Takes back a sum, whose room serves other gradients.
    fn give_back(&mut self, backend: &B, sum: B::Floats) -> Result<()>;
}

/// All lanes are in this process. *Invariant:* a gradient is added as soon as those of all lanes before it are, so that
/// little more of them exist than there are threads.
pub struct Here<B: Backend> {
    lanes: usize,
    state: Mutex<State<B>>,
}

struct State<B: Backend> {
    sum: Option<B::Floats>,
    /// The lane that is added next.
    next: usize,
    /// Gradients of later lanes.
    waiting: BTreeMap<usize, B::Floats>,
    /// Zeros.
    idle: Vec<B::Floats>,
}

impl<B: Backend> Here<B> {
    /// A process with so many lanes.
    pub fn new(lanes: usize) -> Self {
        let state = State { sum: None, next: 0, waiting: BTreeMap::new(), idle: vec![] };
        Self { lanes, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Reduce<B> for Here<B> {
    fn lanes(&self) -> std::ops::Range<usize> {
        0..self.lanes
    }

    fn lend(&self, backend: &B, len: usize) -> Result<B::Floats> {
        let idle = self.state().idle.pop();
        idle.map_or_else(|| backend.zeros(len), Ok)
    }

    fn take(&self, backend: &B, lane: usize, gradient: B::Floats) -> Result<()> {
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

    fn sum(&mut self, _: &B) -> Result<Option<B::Floats>> {
        let mut state = self.state();
        state.waiting.clear(); // of a batch that failed
        state.next = 0;
        Ok(state.sum.take())
    }

    fn give_back(&mut self, backend: &B, mut sum: B::Floats) -> Result<()> {
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
        // Numbers whose sum depends on the order: 1 is lost beside 1e8, and 1e8 - 1e8 is not.
        let gradients = [1.0f32, 1e8, -1e8, 3.0];
        let want = ((1.0f32 + 1e8) - 1e8) + 3.0;
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let mut reduce = Here::<Cpu>::new(4);
            for lane in order {
                let mut gradient = reduce.lend(&Cpu, 1)?;
                gradient[0] += gradients[lane];
                reduce.take(&Cpu, lane, gradient)?;
            }
            let sum = reduce.sum(&Cpu)?.map(|sum| sum[0]);
            assert_eq!(sum, Some(want), "{order:?}");
            assert!(reduce.sum(&Cpu)?.is_none());
        }
        Ok(())
    }

    #[test]
    fn batches_add_up_and_room_serves_again() -> Result<()> {
        let mut reduce = Here::<Cpu>::new(2);
        for _ in 0..3 {
            for batch in [1.0, 10.0] {
                for lane in 0..2 {
                    let mut gradient = reduce.lend(&Cpu, 2)?;
                    assert_eq!(*gradient, [0.0, 0.0]);
                    gradient[1] = batch * (lane + 1) as f32;
                    reduce.take(&Cpu, lane, gradient)?;
                }
            }
            let sum = reduce.sum(&Cpu)?.unwrap_or_else(|| crate::backend::cpu::Buffer::from(vec![]));
            assert_eq!(*sum, [0.0, 33.0]);
            reduce.give_back(&Cpu, sum)?;
        }
        assert_eq!(reduce.state().idle.len(), 2);
        Ok(())
    }
}

//! Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training", section 3.2): small gradients of half
//! precision would be lost, so the loss is multiplied by a number that is as large as nothing overflows with.

/// What the loss is multiplied by: a power of two, so that no bit changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// Whether it is looked for; it is one where activations have the range of f32.
    moves: bool,
    value: f32,
    /// Steps since it last changed.
    good: u32,
    skipped: u64,
}

impl LossScale {
    const FIRST: f32 = 65_536.0;
    /// Steps without an overflow after which it doubles.
    const PATIENCE: u32 = 2000;

    /// Where `moves`, one that is looked for.
    pub fn new(moves: bool) -> Self {
        Self { moves, value: if moves { Self::FIRST } else { 1.0 }, good: 0, skipped: 0 }
    }

    /// What the loss of the next pass is multiplied by.
    pub fn value(&self) -> f32 {
        self.value
    }

    /// Steps that were skipped.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Hears the norm of a step's gradient; whether the step must be skipped, as the gradient overflowed.
    pub fn hear(&mut self, norm: f64) -> bool {
        // A loss that overflows as it is cannot be helped.
        if norm.is_finite() || !self.moves || self.value <= 1.0 {
            self.good += 1;
            if self.moves && self.good >= Self::PATIENCE && self.value < f32::MAX / 4.0 {
                (self.value, self.good) = (2.0 * self.value, 0);
            }
            return false;
        }
        (self.value, self.good) = (self.value / 2.0, 0);
        self.skipped += 1;
        true
    }

    /// What [`Self::from_state`] needs; nothing where it never moves.
    pub fn state(&self) -> Option<[f32; 3]> {
        self.moves.then_some([self.value, self.good as f32, self.skipped as f32])
    }

    /// From an earlier [`Self::state`].
    pub fn from_state(state: &[f32]) -> Self {
        let &[value, good, skipped] = state else { return Self::new(!state.is_empty()) };
        Self { moves: true, value, good: good as u32, skipped: skipped as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_it_and_many_good_steps_double_it() {
        let mut scale = LossScale::new(true);
        assert!(scale.hear(f64::INFINITY) && scale.hear(f64::NAN));
        assert_eq!((scale.value(), scale.skipped()), (LossScale::FIRST / 4.0, 2));
        for _ in 0..LossScale::PATIENCE {
            assert!(!scale.hear(1.0));
        }
        assert_eq!(scale.value(), LossScale::FIRST / 2.0);
        let again = scale.state().map(|state| LossScale::from_state(&state));
        assert_eq!(again, Some(scale));
    }

    #[test]
    fn what_cannot_be_helped_is_not_skipped() {
        let mut fixed = LossScale::new(false);
        assert!(!fixed.hear(f64::NAN) && fixed.value() == 1.0 && fixed.state().is_none());
        let mut scale = LossScale::new(true);
        let skipped = (0..100).filter(|_| scale.hear(f64::NAN)).count();
        assert_eq!((skipped, scale.value()), (16, 1.0));
    }
}

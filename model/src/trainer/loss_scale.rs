//! Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training", section 3.2): small gradients would
//! underflow in half precision, so the loss is multiplied by the largest factor that does not cause an overflow.

/// Factor of the loss: a power of two, so that the scaling itself does not round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// Whether the scale is adapted; otherwise it is 1, for activations with the range of f32.
    is_dynamic: bool,
    value: f32,
    /// Number of steps since the scale last changed.
    steps_since_change: u32,
    skipped: u64,
}

impl LossScale {
    const FIRST: f32 = 65_536.0;
    /// Number of steps without overflow after which the scale doubles.
    const PATIENCE: u32 = 2000;

    /// Creates a loss scale, which is adapted if `is_dynamic` and otherwise stays 1.
    pub fn new(is_dynamic: bool) -> Self {
        Self {
            is_dynamic,
            value: if is_dynamic { Self::FIRST } else { 1.0 },
            steps_since_change: 0,
            skipped: 0,
        }
    }

    /// Returns the factor of the loss for the next pass.
    pub fn value(&self) -> f32 {
        self.value
    }

    /// Returns the number of skipped steps.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Returns whether the scale of the next pass depends on the gradient norm of each step.
    pub fn is_dynamic(&self) -> bool {
        self.is_dynamic
    }

    /// Adapts the scale to the gradient norm of a step. If the gradient overflowed, the step changed nothing, and counts as
    /// skipped.
    pub fn update(&mut self, norm: f64) {
        // If an unscaled loss overflows, a smaller scale does not help.
        if norm.is_finite() || !self.is_dynamic || self.value <= 1.0 {
            self.steps_since_change += 1;
            if self.is_dynamic && self.steps_since_change >= Self::PATIENCE && self.value < f32::MAX / 4.0 {
                (self.value, self.steps_since_change) = (2.0 * self.value, 0);
            }
            return;
        }
        (self.value, self.steps_since_change) = (self.value / 2.0, 0);
        self.skipped += 1;
    }

    /// Returns the state for [`Self::from_state`]; `None` if the scale is fixed.
    pub fn state(&self) -> Option<[f32; 3]> {
        self.is_dynamic.then_some([self.value, self.steps_since_change as f32, self.skipped as f32])
    }

    /// Restores a loss scale from [`Self::state`]; an empty slice gives a fixed scale.
    pub fn from_state(state: &[f32]) -> Self {
        let &[value, steps_since_change, skipped] = state else { return Self::new(!state.is_empty()) };
        Self {
            is_dynamic: true,
            value,
            steps_since_change: steps_since_change as u32,
            skipped: skipped as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_it_and_many_good_steps_double_it() {
        let mut scale = LossScale::new(true);
        [f64::INFINITY, f64::NAN].into_iter().for_each(|norm| scale.update(norm));
        assert_eq!((scale.value(), scale.skipped()), (LossScale::FIRST / 4.0, 2));
        (0..LossScale::PATIENCE).for_each(|_| scale.update(1.0));
        assert_eq!((scale.value(), scale.skipped()), (LossScale::FIRST / 2.0, 2));
        let again = scale.state().map(|state| LossScale::from_state(&state));
        assert_eq!(again, Some(scale));
    }

    #[test]
    fn what_cannot_be_helped_is_not_skipped() {
        let mut fixed = LossScale::new(false);
        fixed.update(f64::NAN);
        assert!(fixed.value() == 1.0 && fixed.skipped() == 0 && fixed.state().is_none());
        let mut scale = LossScale::new(true);
        (0..100).for_each(|_| scale.update(f64::NAN));
        assert_eq!((scale.skipped(), scale.value()), (16, 1.0));
    }
}

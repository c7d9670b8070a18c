//! Detects a diverging training: how far its smoothed loss has risen above its lowest value.

use serde::{Deserialize, Serialize};

/// Weight of the past in the smoothed loss: about the last 20 steps count.
const MEMORY: f64 = 0.95;

/// Steps before the smoothed loss is meaningful.
const WARM_UP: u64 = 20;

/// The smoothed loss: an exponential moving average with bias correction, as for Adam's moments (Kingma & Ba 2015, sec. 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Trend {
    sum: f64,
    weight: f64,
    steps: u64,
    /// The lowest smoothed loss; `None` during the first steps.
    pub best: Option<f64>,
}

impl Trend {
    /// Adds the loss of a step.
    pub fn add(&mut self, loss: f64) {
        self.sum = MEMORY * self.sum + (1.0 - MEMORY) * loss;
        self.weight = MEMORY * self.weight + (1.0 - MEMORY);
        self.steps += 1;
        if self.steps >= WARM_UP {
            let now = self.smoothed();
            self.best = Some(self.best.map_or(now, |best| best.min(now)));
        }
    }

    /// The smoothed loss.
    pub fn smoothed(&self) -> f64 {
        self.sum / self.weight.max(f64::MIN_POSITIVE)
    }

    /// How far the smoothed loss is above its lowest value; 0 during the first steps.
    pub fn rise(&self) -> f64 {
        self.best.map_or(0.0, |best| self.smoothed() - best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_step_is_no_trend_and_many_are() {
        let mut trend = Trend::default();
        (0..100).for_each(|step| trend.add(6.0 - 0.03 * f64::from(step)));
        assert!(trend.rise() < 1e-12);
        trend.add(20.0);
        assert!(trend.rise() < 1.0, "{}", trend.rise());
        (0..60).for_each(|_| trend.add(9.0));
        assert!(trend.rise() > 4.0, "{}", trend.rise());
    }

    #[test]
    fn the_first_steps_set_no_best() {
        let mut trend = Trend::default();
        trend.add(0.1);
        (0..10).for_each(|_| trend.add(8.0));
        assert!((trend.rise()).abs() < f64::EPSILON);
    }
}

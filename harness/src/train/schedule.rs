//! The course of the learning rate.

use crate::config::{Schedule, Training};
use std::f64::consts::PI;

/// The learning rate of step `step` of `total`, counted from 1.
pub fn learning_rate(training: &Training, step: u64, total: u64) -> f64 {
    let (peak, low, warmup) = (training.lr, training.lr * training.min_lr_ratio, training.warmup_steps);
    if step <= warmup {
        return peak * step as f64 / warmup as f64;
    }
    // As in MiniMind, the first step after warm-up has the full rate.
    let progress = (step - 1 - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    match training.schedule {
        Schedule::Constant => peak,
        Schedule::Linear => peak + (low - peak) * progress,
        Schedule::Cosine => low + 0.5 * (peak - low) * (1.0 + (PI * progress).cos()),
        Schedule::Wsd => {
            let into_decay = (progress - (1.0 - training.decay_share)) / training.decay_share.max(1e-9);
            peak + (low - peak) * into_decay.clamp(0.0, 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_is_minimind_s() {
        // lr of golden/dense/train10.json, pretrain_acc1: lr/10 + 0.5 lr (1 + cos(pi i / 10)), quirk 28, where
        // v1 adds its floor instead of ending there; ours ends at the floor.
        let training = Training { lr: 2e-4, ..Training::default() };
        assert_eq!(learning_rate(&training, 1, 10), 2e-4);
        let middle = learning_rate(&training, 6, 10);
        assert!((middle - 1.1e-4).abs() < 1e-12, "{middle}");
    }

    #[test]
    fn warmup_rises_and_wsd_falls_at_the_end() {
        let training = Training {
            lr: 1.0,
            warmup_steps: 4,
            schedule: Schedule::Wsd,
            decay_share: 0.5,
            min_lr_ratio: 0.0,
            ..Training::default()
        };
        let rates: Vec<f64> = (1..=12).map(|step| learning_rate(&training, step, 12)).collect();
        assert_eq!(&rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(rates[8], 1.0);
        assert_eq!(rates[10], 0.5);
        assert_eq!(rates[11], 0.25);
    }
}

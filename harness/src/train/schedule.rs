//! The learning rate schedule.

use crate::config::{Schedule, Training};
use std::f64::consts::PI;

/// The learning rate of step `step` of `total`, counted from 1.
///
/// It rises over `warmup_steps`, the last of which has the full rate `lr`. The first step after the warm-up has it too,
/// and the last step has exactly `min_lr_ratio * lr`. A single step after the warm-up has the full rate, and in a stage
/// that is no longer than its warm-up the rate never falls.
pub fn learning_rate(training: &Training, step: u64, total: u64) -> f64 {
    let (peak, warmup) = (training.lr, training.warmup_steps);
    if step <= warmup {
        return peak * (step as f64 / warmup as f64);
    }
    // MiniMind (quirk 28) divides by the number of steps: its rates are those of a stage one step longer.
    let intervals = total.saturating_sub(warmup + 1).max(1);
    let progress = ((step - 1 - warmup) as f64 / intervals as f64).min(1.0);
    // 1 is the peak, 0 the lowest rate.
    let height = match training.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - progress,
        Schedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        Schedule::Wsd => ((1.0 - progress) / training.decay_share.max(f64::MIN_POSITIVE)).min(1.0),
    };
    let low = peak * training.min_lr_ratio;
    (height * peak + (1.0 - height) * low).clamp(low, peak)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;
    use proptest::prelude::*;

    const FALLING: [Schedule; 3] = [Schedule::Linear, Schedule::Cosine, Schedule::Wsd];

    #[test]
    fn the_cosine_is_minimind_s_of_one_step_more() {
        let Some(path) = shared("golden/dense/train10.json") else { return };
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let steps = json["pretrain_acc1"]["steps"].as_array().unwrap();
        let training = Training { lr: 2e-4, ..Training::default() };
        for (i, step) in steps.iter().enumerate() {
            let (rate, want) = (learning_rate(&training, i as u64 + 1, 11), step["lr"].as_f64().unwrap());
            assert!((rate - want).abs() < 1e-15, "step {}: {rate} instead of {want}", i + 1);
        }
        // Divided by the number of steps, as in MiniMind, it would end at 2.44e-5.
        assert_eq!(learning_rate(&training, 10, 10), 2e-4 * 0.1);
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
        let rates: Vec<f64> = (1..=13).map(|step| learning_rate(&training, step, 13)).collect();
        assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn short_stages_have_the_rates_they_reach() {
        for schedule in FALLING {
            let training = Training { lr: 1.0, warmup_steps: 2, schedule, ..Training::default() };
            let rates = |total: u64| {
                (1..=total).map(|step| learning_rate(&training, step, total)).collect::<Vec<_>>()
            };
            assert_eq!(rates(1), [0.5], "{schedule:?}");
            assert_eq!(rates(2), [0.5, 1.0], "{schedule:?}");
            assert_eq!(rates(3), [0.5, 1.0, 1.0], "{schedule:?}");
            assert_eq!(rates(4), [0.5, 1.0, 1.0, 0.1], "{schedule:?}");
            let none = Training { warmup_steps: 0, ..training };
            assert_eq!(learning_rate(&none, 1, 1), 1.0, "{schedule:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rates_fall_from_the_peak_to_exactly_the_lowest(
            schedule in prop::sample::select(FALLING.to_vec()),
            lr in 1e-6f64..1.0,
            min_lr_ratio in 0.0f64..=1.0,
            decay_share in 0.0f64..=1.0,
            warmup_steps in 0u64..20,
            after in 2u64..200,
        ) {
            let total = warmup_steps + after;
            let training =
                Training { schedule, lr, min_lr_ratio, decay_share, warmup_steps, ..Training::default() };
            let rates: Vec<f64> = (1..=total).map(|step| learning_rate(&training, step, total)).collect();
            let (warmup, falling) = rates.split_at(warmup_steps as usize);
            prop_assert!(warmup.is_sorted() && warmup.iter().all(|rate| *rate > 0.0 && *rate <= lr));
            let low = lr * min_lr_ratio;
            prop_assert_eq!((falling[0], falling[after as usize - 1]), (lr, low));
            prop_assert!(falling.iter().all(|rate| (low..=lr).contains(rate)));
            // Of two equal rates the later one may be larger by rounding (2e-16).
            prop_assert!(falling.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-15)), "{falling:?}");
        }
    }
}

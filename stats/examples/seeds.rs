//! Compares two models over five seeds: `cargo run -p mindscale-stats --example seeds`.
#![allow(clippy::print_stdout)] // the purpose of an example

use stats::{Mean, PowerTarget, StatsError, detectable_by_seeds, spread, wilson};

fn main() -> Result<(), StatsError> {
    // Shares of correct answers; equal positions have equal seeds.
    let deep = [0.412, 0.405, 0.431, 0.418, 0.409];
    let wide = [0.401, 0.398, 0.411, 0.409, 0.397];
    let gain = Mean::of_pairs(&deep, &wide)?;
    let interval = gain.interval(0.95);
    println!(
        "deep - wide: {:+.4} [{:+.4}, {:+.4}], {} pairs",
        gain.value, interval.low, interval.high, gain.n
    );
    println!("p of no difference: {:.4}", gain.test(0.0).p);
    if let Some(sd) = spread(&deep).and_then(|spread| spread.sd) {
        let least = detectable_by_seeds(sd, deep.len(), PowerTarget::default())?;
        println!("least difference of unpaired models that as many seeds would detect: {least:.4}");
    }
    let one = wilson(412, 1000, 0.95)?;
    println!("one seed, 412 of 1000 questions: {:.3} [{:.3}, {:.3}]", one.value, one.low, one.high);
    Ok(())
}

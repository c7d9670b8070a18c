//! Table of rotary position angles for interleaved pairs (Su et al. 2021, eq. 34; MiniMind's `apply_rotary_emb`), and
//! scalings that extend a model beyond the positions it was trained on.

use crate::{Error, Result};
use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

/// Cosines and sines of the rotation angles of every position: `(positions, head_dim / 2)` each.
#[derive(Debug, Clone)]
pub struct Rotations {
    /// Cosines in row-major order.
    pub cos: Vec<f32>,
    /// Sines in row-major order.
    pub sin: Vec<f32>,
    half: usize,
}

impl Rotations {
    /// Computes the table for positions below `positions`.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        Self::of(positions, &frequencies(head_dim, theta), 1.0)
    }

    /// Computes the table of a model that was trained on `trained` positions and is extended by `scaling`.
    pub fn scaled(
        positions: usize,
        head_dim: usize,
        theta: f64,
        scaling: RopeScaling,
        trained: usize,
    ) -> Self {
        let (frequencies, magnitude) = scaling.frequencies(head_dim, theta, trained);
        Self::of(positions, &frequencies, magnitude)
    }

    fn of(positions: usize, frequencies: &[f64], magnitude: f64) -> Self {
        let frequencies: Vec<f32> = frequencies.iter().map(|&f| f as f32).collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let turn = |angle: f32| {
            let (sin, cos) = f64::from(angle).sin_cos();
            ((magnitude * sin) as f32, (magnitude * cos) as f32)
        };
        let (sin, cos) = angles.map(turn).unzip();
        Self { cos, sin, half: frequencies.len() }
    }

    /// Returns the cosines and sines of one position, `(head_dim / 2,)` each.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Returns the number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Returns the rotation angle of each pair of a head per position, in radians: `(head_dim / 2,)`.
fn frequencies(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|pair| 1.0 / theta.powf((2 * pair) as f64 / head_dim as f64)).collect()
}

/// Scaling of rotary positions that extends a model beyond its trained length without further training. The factor, above
/// 1, is the ratio of the longest text to the trained length.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    #[default]
    Unscaled,
    /// Positions are divided by the factor (Chen et al. 2023, eq. 4; MiniMind's `inference_rope_scaling`).
    Linear(f64),
    /// A larger theta, with which the slowest pair rotates as under linear interpolation and the fastest as trained (bloc97
    /// 2023, "NTK-aware scaled RoPE"; Peng et al. 2023, eq. 16).
    Ntk(f64),
    /// Pairs that rotate often over the trained length keep their frequency, those that rotate less than once are
    /// interpolated, with a ramp in between. Queries and keys are each multiplied by `0.1 ln(factor) + 1`, which sharpens
    /// attention (Peng et al. 2023, "YaRN", eq. 17-23).
    Yarn(f64),
}

/// Number of rotations over the trained length above which a pair keeps its frequency (Peng et al. 2023, section 3.4, `beta`).
const FAST: f64 = 32.0;

/// Number of rotations over the trained length below which a pair is fully interpolated (`alpha` in the same section).
const SLOW: f64 = 1.0;

impl RopeScaling {
    /// Returns the longest text, in positions, of a model that was trained on `trained` positions.
    pub fn reach(self, trained: usize) -> usize {
        match self {
            Self::Unscaled => trained,
            Self::Linear(factor) | Self::Ntk(factor) | Self::Yarn(factor) => {
                (trained as f64 * factor) as usize
            }
        }
    }

    /// Returns the frequencies, `(head_dim / 2,)`, and the factor of cosines and sines.
    fn frequencies(self, head_dim: usize, theta: f64, trained: usize) -> (Vec<f64>, f64) {
        let plain = frequencies(head_dim, theta);
        match self {
            Self::Unscaled => (plain, 1.0),
            Self::Linear(factor) => (plain.into_iter().map(|f| f / factor).collect(), 1.0),
            Self::Ntk(factor) => {
                // With a single pair per head, the slowest pair is the fastest; avoid a division by zero.
                let power = head_dim as f64 / (head_dim as f64 - 2.0).max(1.0);
                (frequencies(head_dim, theta * factor.powf(power)), 1.0)
            }
            Self::Yarn(factor) => {
                // Fractional index of the pair with this number of rotations over the trained length.
                let pair = |turns: f64| {
                    head_dim as f64 * (trained as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
                };
                let low = pair(FAST).floor().max(0.0);
                let high = pair(SLOW).ceil().min(head_dim as f64 - 1.0);
                let high = if high > low { high } else { low + 0.001 };
                let mix = |(pair, f): (usize, f64)| {
                    let interpolated = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * interpolated + f * (1.0 - interpolated)
                };
                (plain.into_iter().enumerate().map(mix).collect(), 0.1 * factor.ln() + 1.0)
            }
        }
    }
}

impl FromStr for RopeScaling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let scaling = |(name, factor): (&str, &str)| {
            let factor = factor.parse().ok().filter(|factor: &f64| *factor > 1.0 && factor.is_finite())?;
            match name {
                "linear" => Some(Self::Linear(factor)),
                "ntk" => Some(Self::Ntk(factor)),
                "yarn" => Some(Self::Yarn(factor)),
                _ => None,
            }
        };
        match text {
            "none" => Some(Self::Unscaled),
            _ => text.split_once(':').and_then(scaling),
        }
        .ok_or_else(|| {
            Error::Input(format!(
                "\"{text}\" is not a scaling of rotary positions, expected none, linear:F, ntk:F or yarn:F with a factor F above 1, such as yarn:4"
            ))
        })
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unscaled => f.write_str("none"),
            Self::Linear(factor) => write!(f, "linear:{factor}"),
            Self::Ntk(factor) => write!(f, "ntk:{factor}"),
            Self::Yarn(factor) => write!(f, "yarn:{factor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::excessive_precision)]
    use super::*;

    fn assert_close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got / want - 1.0).abs() < 1e-6, "{got} is not {want}");
        }
    }

    #[test]
    fn frequencies_are_those_of_transformers() {
        // Expected values: transformers 5, ROPE_INIT_FUNCTIONS["linear"] and ["yarn"], theta 10000, head sizes 16 and 32,
        // trained on 512 and 40 positions.
        let linear = RopeScaling::Linear(4.0).frequencies(16, 1e4, 512);
        let four = [0.25, 0.0790569410, 0.025, 0.0079056947, 0.0025, 7.9056947e-4, 2.5e-4, 7.9056947e-5];
        assert_close(&linear.0, &four);
        let yarn = RopeScaling::Yarn(4.0).frequencies(16, 1e4, 512);
        assert_close(
            &yarn.0,
            &[1.0, 0.25693506, 0.0625, 0.013834965, 0.0025, 7.9056947e-4, 2.5e-4, 7.9056947e-5],
        );
        assert_close(&[linear.1, yarn.1], &[1.0, 1.138629436111989]);
        let yarn = RopeScaling::Yarn(8.0).frequencies(32, 1e4, 40);
        assert_close(&yarn.0[..6], &[1.0, 0.43932918, 0.17787811, 0.061128356, 0.0125, 0.0070292661]);
        assert_close(&[yarn.0[15], yarn.1], &[2.2228493e-5, 1.2079441541679836]);
    }

    #[test]
    fn a_larger_theta_leaves_the_fastest_and_interpolates_the_slowest() {
        let (found, magnitude) = RopeScaling::Ntk(4.0).frequencies(16, 1e4, 512);
        let plain = frequencies(16, 1e4);
        assert_close(&[found[0], found[7], magnitude], &[plain[0], plain[7] / 4.0, 1.0]);
    }

    #[test]
    fn scalings_are_read_and_written() {
        for text in ["none", "linear:2", "ntk:4", "yarn:1.5"] {
            assert_eq!(text.parse::<RopeScaling>().unwrap().to_string(), text);
        }
        for text in ["", "yarn", "yarn:1", "yarn:nan", "yarn:inf", "dynamic:2", "linear:-2"] {
            assert!(text.parse::<RopeScaling>().unwrap_err().to_string().contains("expected none, linear:F"));
        }
    }
}

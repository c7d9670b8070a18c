//! Errors of statistical methods.

use thiserror::Error;

/// Why there is no estimate or test result.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StatsError {
    /// Fewer units than the method needs.
    #[error("too few {units}: n={n}, {method} needs {least}")]
    TooFew {
        /// Name of the method.
        method: &'static str,
        /// What is counted: `seeds`, `questions`, `pairs`.
        units: &'static str,
        /// Number of units present.
        n: usize,
        /// Number of units required.
        least: usize,
    },
    /// All values are equal up to rounding.
    #[error("the values do not vary, so no interval can be computed")]
    NoVariance,
    /// No outcome of the test could be significant.
    #[error(
        "p of {method} with {n} cannot go below {smallest}, so no outcome can be significant at the level {level}"
    )]
    OutOfReach {
        /// Name of the test.
        method: &'static str,
        /// The units with their number: `5 pairs`.
        n: String,
        /// Smallest p that so many units allow.
        smallest: f64,
        /// The requested significance level.
        level: f64,
    },
    /// Slices that belong together differ in length, or a table is incomplete.
    #[error("{what}: {found} values, expected {expected}")]
    Shape {
        /// Name of the slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that it must have.
        expected: usize,
    },
    /// A number outside the method's domain.
    #[error("{what} is {value}, expected {expected}")]
    Value {
        /// Name of the number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The values that it may have.
        expected: &'static str,
    },
    /// A value whose square, and so the variance, is beyond the range of numbers.
    #[error("{what} is {value:e}, expected at most 1e150 in size, as variances are made of squares")]
    TooLarge {
        /// Name of the number.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The points do not determine the fit, with the reason.
    #[error("the points do not determine the fit: {0}")]
    Undetermined(String),
    /// The points do not determine the part of a size in a law.
    #[error("the points do not determine the fit: size {}: {problem}", .size + 1)]
    UndeterminedSize {
        /// Index of the size.
        size: usize,
        /// The reason.
        problem: String,
    },
}

/// Values above this are refused: sums of their squares might not be finite.
const LARGEST: f64 = 1e150;

impl StatsError {
    /// Returns an error if there are fewer units than required.
    pub(super) fn require_at_least(
        method: &'static str,
        units: &'static str,
        n: usize,
        least: usize,
    ) -> Result<(), Self> {
        if n < least { Err(Self::TooFew { method, units, n, least }) } else { Ok(()) }
    }

    /// Returns an error if a value is not finite, or too large to be squared.
    pub(super) fn require_finite(what: &'static str, values: &[f64]) -> Result<(), Self> {
        match values.iter().find(|value| !value.is_finite() || value.abs() > LARGEST) {
            Some(&value) if value.is_finite() => Err(Self::TooLarge { what, value }),
            Some(&value) => Err(Self::Value { what, value, expected: "a finite number" }),
            None => Ok(()),
        }
    }

    /// Returns the message with the names of a law's sizes in place of their numbers.
    pub fn naming(&self, sizes: &[&str]) -> String {
        match self {
            Self::UndeterminedSize { size, problem } if *size < sizes.len() => {
                Self::Undetermined(format!("{}: {problem}", sizes[*size])).to_string()
            }
            other => other.to_string(),
        }
    }

    /// Returns an error unless a level, a share or a power lies strictly between 0 and 1.
    pub(super) fn require_share(what: &'static str, value: f64) -> Result<(), Self> {
        match value > 0.0 && value < 1.0 {
            true => Ok(()),
            false => Err(Self::Value { what, value, expected: "a number between 0 and 1" }),
        }
    }

    /// Returns an error if two lengths differ.
    pub(super) fn require_equal_length(
        what: &'static str,
        found: usize,
        expected: usize,
    ) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Shape { what, found, expected }) }
    }
}

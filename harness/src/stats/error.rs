//! Why a method cannot say anything.

use thiserror::Error;

/// Why there is no estimate or no test.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StatsError {
    /// Fewer units than the method needs.
    #[error("too few {units}: n={n}, {method} needs {least}")]
    TooFew {
        /// The method.
        method: &'static str,
        /// What is counted: `seeds`, `questions`, `pairs`.
        units: &'static str,
        /// How many there are.
        n: usize,
        /// How many it needs.
        least: usize,
    },
    /// All values are equal but for rounding.
    #[error("the values do not vary, so that no interval is known")]
    NoVariance,
    /// No outcome of the test could be called significant.
    #[error(
        "p of {method} with {n} cannot go below {smallest}, so that nothing could be decided at the level {level}"
    )]
    OutOfReach {
        /// The test.
        method: &'static str,
        /// The units, counted: `5 seeds`.
        n: String,
        /// Smallest p that so many allow.
        smallest: f64,
        /// The level asked for.
        level: f64,
    },
    /// Two slices that belong together have other lengths, or a table has holes.
    #[error("{what}: {found} values, expected {expected}")]
    Shape {
        /// Which slice.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that it must have.
        expected: usize,
    },
    /// A number that the method has no meaning for.
    #[error("{what} is {value}, expected {expected}")]
    Value {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// A fit that the points do not determine.
    #[error("the points do not determine the fit: {0}")]
    Undetermined(String),
}

impl StatsError {
    /// Makes sure that there are enough units.
    pub(super) fn unless_enough(
        method: &'static str,
        units: &'static str,
        n: usize,
        least: usize,
    ) -> Result<(), Self> {
        if n < least { Err(Self::TooFew { method, units, n, least }) } else { Ok(()) }
    }

    /// Makes sure that every value is a number.
    pub(super) fn unless_finite(what: &'static str, values: &[f64]) -> Result<(), Self> {
        match values.iter().find(|value| !value.is_finite()) {
            Some(&value) => Err(Self::Value { what, value, expected: "a finite number" }),
            None => Ok(()),
        }
    }

    /// Makes sure that a level, a share or a power lies strictly between 0 and 1.
    pub(super) fn unless_share(what: &'static str, value: f64) -> Result<(), Self> {
        match value > 0.0 && value < 1.0 {
            true => Ok(()),
            false => Err(Self::Value { what, value, expected: "a number between 0 and 1" }),
        }
    }

    /// Makes sure that two slices are equally long.
    pub(super) fn unless_equal(what: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Shape { what, found, expected }) }
    }
}

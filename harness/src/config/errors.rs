//! Errors of a configuration: every problem at once, each with its place.

use std::collections::BTreeSet;
use std::fmt;

/// Maximum number of problems shown; the rest are only counted.
const SHOWN: usize = 20;

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was written: `sweeps/a.toml:12`, `preset small:3`, `MINDSCALE_SEED` or `--set seed=x`.
    pub place: String,
    /// The key at fault, such as `model.n_layers`; empty if none is.
    pub key: String,
    /// What is wrong, what was expected, and what to do about it.
    pub problem: String,
}

impl ConfigError {
    /// Creates a problem of one key.
    pub fn new(place: impl Into<String>, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), key: key.into(), problem: problem.into() }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for part in [&self.place, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.problem)
    }
}

/// All problems of a configuration, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The problems in the order in which they were found; [`ConfigErrors::or`] drops repetitions.
    pub errors: Vec<ConfigError>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, error) in self.errors.iter().take(SHOWN).enumerate() {
            write!(f, "{}{error}", if index > 0 { "\n" } else { "" })?;
        }
        match self.errors.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl ConfigErrors {
    /// Adds a problem.
    pub fn push(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// Adds the problems of an error: each one if it is a [`ConfigErrors`], otherwise the error as a whole.
    pub fn absorb(&mut self, error: anyhow::Error) {
        match error.downcast::<Self>() {
            Ok(more) => self.errors.extend(more.errors),
            Err(error) => self.push(ConfigError::new("", "", format!("{error:#}"))),
        }
    }

    /// Returns `value` if there are no problems.
    ///
    /// # Errors
    /// If there are problems: all of them, without repetitions.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        let mut seen = BTreeSet::new();
        self.errors.retain(|error| seen.insert(error.to_string()));
        Err(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_shown_once_each_and_the_rest_counted() {
        let mut errors = ConfigErrors::default();
        errors.push(ConfigError::new("a.toml:1", "seed", "is wrong"));
        errors.push(ConfigError::new("a.toml:1", "seed", "is wrong"));
        errors.push(ConfigError::new("a.toml", "", "is empty"));
        let shown = errors.clone().or(()).map_err(|e| e.to_string());
        assert_eq!(shown, Err("a.toml:1: seed: is wrong\na.toml: is empty".into()));
        for line in 0..30 {
            errors.push(ConfigError::new(format!("a.toml:{line}"), "seed", "is odd"));
        }
        let shown = errors.or(()).map_err(|e| e.to_string());
        assert!(shown.is_err_and(|s| s.lines().count() == 21 && s.ends_with("\nand 12 more")));
        assert_eq!(ConfigErrors::default().or(7), Ok(7));
    }
}

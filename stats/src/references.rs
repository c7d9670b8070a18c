//! For tests: reference values computed by SciPy and statsmodels, written by `scripts/stats_references.py`.
#![allow(clippy::unwrap_used)]

use serde_json::Value;

/// Returns the reference cases of a function, of which there is at least one.
pub fn cases(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("references.json")).unwrap();
    let cases = all[name].as_array().unwrap_or_else(|| panic!("no references of {name}")).clone();
    assert!(!cases.is_empty());
    cases
}

/// Reads a list of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Reads a count.
pub fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Asserts that numbers equal the named ones of a case, within `tolerance` relative to their size, taken as at least 1e-3.
pub fn check(case: &Value, names: &[&str], found: &[f64], tolerance: f64) {
    assert_eq!(names.len(), found.len());
    for (name, found) in names.iter().zip(found) {
        let expected = case[*name].as_f64().unwrap_or_else(|| panic!("no {name} in {case}"));
        let is_close = (found - expected).abs() <= tolerance * expected.abs().max(1e-3);
        assert!(is_close, "{name}: {found} instead of {expected} in {case}");
    }
}

/// Asserts that two lists are equal, with the tolerance of [`check`].
pub fn check_all(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1e-3), "{found} not {expected}");
    }
}

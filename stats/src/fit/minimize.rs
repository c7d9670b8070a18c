//! Minimises a smooth function of a few variables: L-BFGS (Nocedal 1980) with a line search for the strong Wolfe
//! conditions (Nocedal & Wright 2006, algorithms 7.5, 3.5 and 3.6).

use std::collections::VecDeque;

/// Number of past steps whose curvature is stored.
const MEMORY: usize = 10;

/// Maximum number of steps.
const STEPS: usize = 1_000;

/// Maximum number of points that a line search tries.
const TRIES: usize = 40;

/// `c1` of the Wolfe conditions: required share of the decrease that the slope predicts.
const DECREASE: f64 = 1e-4;

/// `c2` of the Wolfe conditions: share of the slope that may remain.
const SLOPE: f64 = 0.9;

/// A minimum of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// Its position.
    pub at: Vec<f64>,
    /// Value of the function there.
    pub value: f64,
}

/// A point on a search line: its step along the line, position, value and gradient.
struct Place {
    step: f64,
    at: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// Finds a local minimum from a start; `f` returns its value and writes its gradient.
///
/// Stops when the largest component of the gradient is at most 1e-10 times `1e-3 + |value|`, when rounding lets no step
/// lower the function any further, when the value is not finite, or after `STEPS` steps.
pub fn minimize(f: &impl Fn(&[f64], &mut [f64]) -> f64, start: &[f64]) -> Minimum {
    let mut gradient = vec![0.0; start.len()];
    let value = f(start, &mut gradient);
    let mut now = Place { step: 0.0, at: start.to_vec(), value, gradient };
    let mut memory: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
    for _ in 0..STEPS {
        let largest = now.gradient.iter().fold(0.0f64, |largest, g| largest.max(g.abs()));
        if !now.value.is_finite() || largest <= 1e-10 * (1e-3 + now.value.abs()) {
            break;
        }
        let mut direction = downhill(&now.gradient, &memory);
        if dot(&direction, &now.gradient) >= 0.0 {
            memory.clear();
            direction = now.gradient.iter().map(|g| -g).collect();
        }
        // Without stored curvature, the first step has at most length one.
        let first = if memory.is_empty() { 1.0 / dot(&direction, &direction).sqrt().max(1.0) } else { 1.0 };
        let Some(next) = search(f, &now, &direction, first) else {
            if memory.is_empty() {
                break;
            }
            memory.clear();
            continue;
        };
        let moved: Vec<f64> = next.at.iter().zip(&now.at).map(|(a, b)| a - b).collect();
        let turned: Vec<f64> = next.gradient.iter().zip(&now.gradient).map(|(a, b)| a - b).collect();
        if dot(&moved, &turned) > 1e-14 * dot(&turned, &turned) {
            memory.push_back((moved, turned));
            if memory.len() > MEMORY {
                memory.pop_front();
            }
        }
        now = next;
    }
    Minimum { at: now.at, value: now.value }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The descent direction: the negative gradient, transformed by the stored curvature (algorithm 7.4).
fn downhill(gradient: &[f64], memory: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut q = gradient.to_vec();
    let mut taken = vec![0.0; memory.len()];
    for (i, (s, y)) in memory.iter().enumerate().rev() {
        taken[i] = dot(s, &q) / dot(s, y);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= taken[i] * y);
    }
    if let Some((s, y)) = memory.back() {
        let scale = dot(s, y) / dot(y, y);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (i, (s, y)) in memory.iter().enumerate() {
        let given = dot(y, &q) / dot(s, y);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (taken[i] - given) * s);
    }
    q.iter_mut().for_each(|q| *q = -*q);
    q
}

/// Finds a point along `direction` that satisfies the Wolfe conditions, or else is lower than the start; `None` if none is.
fn search(
    f: &impl Fn(&[f64], &mut [f64]) -> f64,
    from: &Place,
    direction: &[f64],
    first: f64,
) -> Option<Place> {
    let slope = dot(&from.gradient, direction);
    let place = |step: f64| {
        let at: Vec<f64> = from.at.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        let mut gradient = vec![0.0; at.len()];
        let value = f(&at, &mut gradient);
        Place { step, at, value, gradient }
    };
    let is_high = |p: &Place| p.value.is_nan() || p.value > from.value + DECREASE * p.step * slope;
    let is_flat = |p: &Place| dot(&p.gradient, direction).abs() <= -SLOPE * slope;
    // `low` is the lowest point so far with sufficient decrease; the wanted one lies between it and `end`.
    let (mut low, mut end): (Option<Place>, Option<f64>) = (None, None);
    let mut step = first;
    for _ in 0..TRIES {
        let tried = place(step);
        let floor = low.as_ref().map_or(f64::INFINITY, |low| low.value);
        if is_high(&tried) || tried.value >= floor {
            end = Some(tried.step);
        } else if is_flat(&tried) {
            return Some(tried);
        } else {
            let rises = dot(&tried.gradient, direction) > 0.0;
            let before = low.as_ref().map_or(0.0, |low| low.step);
            if rises == (tried.step > before) {
                end = Some(before);
            }
            low = Some(tried);
        }
        let before = low.as_ref().map_or(0.0, |low| low.step);
        step = match end {
            Some(end) => 0.5 * (before + end),
            None => 4.0 * before,
        };
    }
    low.filter(|low| low.value < from.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_valley_of_rosenbrock_is_walked_to_its_end() {
        // Rosenbrock 1960, in four variables: its minimum is at 1, 1, 1, 1.
        let f = |x: &[f64], g: &mut [f64]| {
            g.fill(0.0);
            let mut sum = 0.0;
            for i in 0..3 {
                let (u, v) = (x[i + 1] - x[i] * x[i], 1.0 - x[i]);
                sum += 100.0 * u * u + v * v;
                g[i] += -400.0 * x[i] * u - 2.0 * v;
                g[i + 1] += 200.0 * u;
            }
            sum
        };
        let found = minimize(&f, &[-1.2, 1.0, -1.0, 2.0]);
        assert!(found.value < 1e-15, "{found:?}");
        assert!(found.at.iter().all(|x| (x - 1.0).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn a_kink_is_found() {
        // Nearly |x - 2| + 0.01 y^2, smoothed within 1e-3 like the Huber loss.
        let f = |x: &[f64], g: &mut [f64]| {
            let r = x[0] - 2.0;
            let inside = r.abs() <= 1e-3;
            g[0] = if inside { r / 1e-3 } else { r.signum() };
            g[1] = 0.02 * x[1];
            (if inside { r * r / 2e-3 } else { r.abs() - 5e-4 }) + 0.01 * x[1] * x[1]
        };
        let found = minimize(&f, &[-30.0, 5.0]);
        assert!((found.at[0] - 2.0).abs() < 1e-8 && found.at[1].abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn what_has_no_value_ends_at_once() {
        let found = minimize(&|_: &[f64], _: &mut [f64]| f64::NAN, &[1.0]);
        assert!(found.at == [1.0] && found.value.is_nan());
    }
}

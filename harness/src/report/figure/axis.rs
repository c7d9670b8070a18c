//! From the numbers of an axis to its range, its ticks and their labels.

use super::Axis;

/// About as many ticks as an axis has room for.
const TICKS: f64 = 6.0;

/// Most distinct values that get a tick each.
const MOST_VALUES: usize = 8;

/// An axis chooses to be logarithmic from this ratio of its ends on.
const LOG_FROM: f64 = 20.0;

/// An axis with its range: places from 0 to 1, and labelled ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    /// Whether it is logarithmic.
    pub log: bool,
    /// Ticks: place from 0 to 1, and label.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// The scale of an axis that holds these numbers. Settings get a tick each where there are few.
    pub fn new(axis: &Axis, values: &[f64], are_settings: bool) -> Self {
        if !axis.places.is_empty() {
            let count = axis.places.len() as f64;
            let tick = |(i, name): (usize, &String)| ((i as f64 + 0.5) / count, name.clone());
            let ticks = axis.places.iter().enumerate().map(tick).collect();
            return Self { low: -0.5, high: count - 0.5, log: false, ticks };
        }
        let (least, most) = axis.limits.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        let finite = values.iter().copied().chain(axis.include).filter(|value| value.is_finite());
        let values: Vec<f64> = finite.map(|value| value.clamp(least, most)).collect();
        let (low, high) = bounds(&values);
        let log = axis.log.unwrap_or(are_settings && high / low > LOG_FROM) && low > 0.0;
        let place = |value: f64| if log { value.log10() } else { value };
        let ends = [axis.include, axis.limits.map(|l| l.0), axis.limits.map(|l| l.1)];
        let (from, to) = widened(place(low), place(high), &ends.map(|end| end.map(place)));
        let mut scale = Self { low: from, high: to, log, ticks: vec![] };
        let own = if are_settings { scale.own_ticks(&values) } else { None };
        scale.ticks = own.unwrap_or_else(|| if log { scale.log_ticks() } else { scale.round_ticks() });
        scale
    }

    /// Where a number lies: 0 at the low end, 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }

    /// The numbers at both ends.
    pub fn ends(&self) -> (f64, f64) {
        let number = |value: f64| if self.log { 10f64.powf(value) } else { value };
        (number(self.low), number(self.high))
    }

    /// The values themselves as ticks, where they are few, short and apart.
    fn own_ticks(&self, values: &[f64]) -> Option<Vec<(f64, String)>> {
        let mut distinct = values.to_vec();
        distinct.sort_by(f64::total_cmp);
        distinct.dedup();
        let is_short = |value: &f64| short(*value).trim_end_matches(['k', 'M', 'G']).len() <= 4;
        let is_exact = |value: &f64| {
            exact(&short(*value)).is_some_and(|shown| (shown - value).abs() <= 1e-9 * value.abs())
        };
        if distinct.len() > MOST_VALUES || !distinct.iter().all(|v| is_short(v) && is_exact(v)) {
            return None;
        }
        let ticks: Vec<(f64, String)> = distinct.iter().map(|v| (self.place(*v), short(*v))).collect();
        ticks.windows(2).all(|pair| pair[1].0 - pair[0].0 > 0.055).then_some(ticks)
    }

    /// 1, 2 or 5 times a power of ten apart.
    fn round_ticks(&self) -> Vec<(f64, String)> {
        let step = round_step((self.high - self.low) / TICKS);
        let first = (self.low / step).ceil() as i64;
        let ticks = (first..).map(|i| i as f64 * step).take_while(|tick| *tick <= self.high);
        let largest = self.low.abs().max(self.high.abs());
        ticks.map(|tick| (self.place(tick), with_step(tick, step, largest))).collect()
    }

    /// 1, 2 and 5 times powers of ten; powers alone where there are many.
    fn log_ticks(&self) -> Vec<(f64, String)> {
        let factors: &[f64] = match self.high - self.low {
            wide if wide > 4.0 => &[1.0],
            wide if wide > 0.7 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        };
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        let ticks = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
        let inside = ticks.filter(|tick| (0.0..=1.0).contains(&self.place(*tick)));
        let ticks: Vec<(f64, String)> = inside.map(|tick| (self.place(tick), short(tick))).collect();
        if ticks.len() >= 4 {
            return ticks;
        }
        // Less than one step of these: round numbers are as good.
        let (low, high) = self.ends();
        let linear = Self { low, high, log: false, ticks: vec![] };
        let step = round_step((high - low) / TICKS);
        let first = (low / step).ceil() as i64;
        let numbers = (first..).map(|i| i as f64 * step).take_while(|tick| *tick <= linear.high);
        numbers.map(|tick| (self.place(tick), with_step(tick, step, high))).collect()
    }
}

/// The step of 1, 2 or 5 times a power of ten that is nearest above.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

fn bounds(values: &[f64]) -> (f64, f64) {
    match values {
        [] => (0.0, 1.0),
        values => values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v))),
    }
}

/// A margin on both sides, but none beyond a number that must be in sight at an end.
fn widened(low: f64, high: f64, ends: &[Option<f64>]) -> (f64, f64) {
    let margin = if high > low { 0.07 * (high - low) } else { 0.05 * low.abs().max(1.0) };
    let is_end = |value: f64| ends.contains(&Some(value));
    (if is_end(low) { low } else { low - margin }, if is_end(high) { high } else { high + margin })
}

fn unit_of(size: f64) -> (f64, &'static str) {
    match size {
        a if a >= 1e9 => (1e9, "G"),
        a if a >= 1e6 => (1e6, "M"),
        a if a >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

/// A tick among others `step` apart, with the digits that tell them apart.
fn with_step(value: f64, step: f64, largest: f64) -> String {
    if !(1e-3..1e12).contains(&largest) {
        return short(value);
    }
    let (unit, name) = unit_of(largest);
    let digits = (-(step / unit).log10()).ceil().clamp(0.0, 6.0) as usize;
    let text = format!("{:.digits$}", value / unit);
    if value == 0.0 { "0".into() } else { format!("{text}{name}") }
}

/// A number for an axis in at most three digits: `850k`, `1.2M`, `3e-4`, `2e13`.
pub fn short(x: f64) -> String {
    let size = x.abs();
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    if x == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e12).contains(&size) {
        let text = format!("{x:.2e}");
        return match text.split_once('e') {
            Some((digits, power)) => format!("{}e{power}", trimmed(digits.into())),
            None => text,
        };
    }
    let (unit, name) = unit_of(size);
    let scaled = x / unit;
    let digits = (2 - scaled.abs().log10().floor() as i32).max(0) as usize;
    format!("{}{name}", trimmed(format!("{scaled:.digits$}")))
}

/// The number that a short one says.
fn exact(text: &str) -> Option<f64> {
    let (digits, unit) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1e3),
        'M' => (&text[..text.len() - 1], 1e6),
        'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    digits.parse::<f64>().ok().map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!([0.25, 64.0, 1500.0, 2_250_000.0, 3e9].map(short), ["0.25", "64", "1.5k", "2.25M", "3G"]);
        assert_eq!([3e-4, 1.234e13, 0.0, -0.5].map(short), ["3e-4", "1.23e13", "0", "-0.5"]);
    }

    #[test]
    fn few_settings_get_a_tick_each_and_others_round_numbers() {
        let plain = Axis::default();
        assert_eq!(labels(&Scale::new(&plain, &[2.0, 4.0, 8.0, 16.0], true)), ["2", "4", "8", "16"]);
        let params = Scale::new(&plain, &[998_656.0, 1_012_000.0, 1_034_000.0], true);
        assert_eq!(labels(&params), ["1.00M", "1.01M", "1.02M", "1.03M"]);
        let loss = Scale::new(&plain, &[2.001, 2.019], false);
        assert_eq!(labels(&loss), ["2.000", "2.005", "2.010", "2.015", "2.020"]);
    }

    #[test]
    fn an_axis_of_many_sizes_is_logarithmic() {
        let scale = Scale::new(&Axis::default(), &[1e6, 3.345_67e7, 1e9], true);
        assert!(scale.log);
        assert_eq!(labels(&scale), ["1M", "2M", "5M", "10M", "20M", "50M", "100M", "200M", "500M", "1G"]);
        assert!((scale.place(1e9) - scale.place(1e6) - 3.0 / (3.0 * 1.14)).abs() < 1e-9);
        assert!(!Scale::new(&Axis { log: Some(true), ..Axis::default() }, &[0.0, 1.0], false).log);
    }

    #[test]
    fn bars_stand_on_the_axis_and_shares_stay_in_theirs() {
        let axis = Axis { include: Some(0.0), ..Axis::default() };
        assert_eq!(Scale::new(&axis, &[20.0, 40.0], false).ends().0, 0.0);
        let share = Axis { limits: Some((0.0, 100.0)), ..Axis::default() };
        assert_eq!(Scale::new(&share, &[-30.0, 140.0], false).ends(), (0.0, 100.0));
    }
}

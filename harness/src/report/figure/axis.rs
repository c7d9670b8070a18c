//! Range, ticks and tick labels of an axis, from the numbers on it.

use super::{Axis, font};

/// Maximum number of distinct values that get a tick each.
const MAX_VALUES: usize = 10;

/// Ratio of the ends above which an axis is logarithmic by default.
const LOG_FROM: f64 = 5.0;

/// An axis with its range, which maps numbers to positions from 0 to 1, and its labelled ticks.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    /// Whether it is logarithmic.
    pub log: bool,
    /// Ticks: position from 0 to 1, and label.
    pub ticks: Vec<(f64, String)>,
}

/// The space that an axis has for its ticks.
#[derive(Debug, Clone, Copy)]
pub struct TickSpace {
    /// Length of the axis in points.
    pub length: f64,
    /// Font size of the labels in points.
    pub size: f64,
    /// Whether the axis is horizontal, so that labels stand side by side.
    pub is_across: bool,
}

impl TickSpace {
    /// Length along the axis that a label takes, in points.
    fn label_length(&self, label: &str) -> f64 {
        if self.is_across { font::width(label, self.size) + 0.9 * self.size } else { 1.4 * self.size }
    }

    /// Number of round ticks to aim for, from 2 to 7.
    fn count(&self) -> f64 {
        (self.length / (self.size * if self.is_across { 6.0 } else { 3.5 })).clamp(2.0, 7.0)
    }

    /// Whether labels at these positions do not touch.
    fn fits(&self, ticks: &[(f64, String)]) -> bool {
        ticks.windows(2).all(|pair| {
            let apart = (pair[1].0 - pair[0].0) * self.length;
            apart >= (self.label_length(&pair[0].1) + self.label_length(&pair[1].1)) / 2.0
        })
    }
}

impl Scale {
    /// Returns the scale of an axis for these numbers. If `are_settings`, each distinct value gets a tick of its own
    /// where they are few.
    pub fn new(axis: &Axis, values: &[f64], are_settings: bool, room: TickSpace) -> Self {
        if !axis.categories.is_empty() {
            let count = axis.categories.len() as f64;
            let tick = |(i, name): (usize, &String)| ((i as f64 + 0.5) / count, name.clone());
            let ticks = axis.categories.iter().enumerate().map(tick).collect();
            return Self { low: -0.5, high: count - 0.5, log: false, ticks };
        }
        let (least, most) = axis.bounds.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        let finite = values.iter().copied().chain(axis.must_include).filter(|value| value.is_finite());
        let values: Vec<f64> = finite.map(|value| value.clamp(least, most)).collect();
        let is_log = |low: f64, high: f64| {
            let is_wide = axis.bounds.is_none() && high / low > LOG_FROM;
            low > 0.0 && axis.log.unwrap_or(is_wide)
        };
        let (low, high) = axis.explicit_range.unwrap_or_else(|| bounds(&values));
        let log = is_log(low, high);
        let place = |value: f64| if log { value.log10() } else { value };
        let (from, to) = match axis.explicit_range {
            Some(_) => (place(low), place(high)),
            None => {
                let ends = [axis.must_include, axis.bounds.map(|l| l.0), axis.bounds.map(|l| l.1)];
                with_margin(place(low), place(high), &ends.map(|end| end.map(place)))
            }
        };
        let mut scale = Self { low: from, high: to, log, ticks: vec![] };
        let own = if are_settings { scale.own_ticks(&values, room) } else { None };
        scale.ticks =
            own.unwrap_or_else(|| if log { scale.log_ticks(room) } else { scale.round_ticks(room) });
        scale
    }

    /// Position of a number: 0 at the low end, 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }

    /// The numbers at both ends.
    pub fn ends(&self) -> (f64, f64) {
        let number = |value: f64| if self.log { 10f64.powf(value) } else { value };
        (number(self.low), number(self.high))
    }

    /// Returns the values themselves as ticks; `None` unless they are few, have short exact labels, and do not touch.
    fn own_ticks(&self, values: &[f64], room: TickSpace) -> Option<Vec<(f64, String)>> {
        let mut distinct: Vec<f64> = values
            .iter()
            .copied()
            .filter(|value| (-1e-9..=1.0 + 1e-9).contains(&self.place(*value)))
            .collect();
        distinct.sort_by(f64::total_cmp);
        distinct.dedup();
        let is_short = |value: &f64| short(*value).trim_end_matches(['k', 'M', 'G']).len() <= 6;
        let is_exact = |value: &f64| {
            parse_short(&short(*value)).is_some_and(|shown| (shown - value).abs() <= 1e-9 * value.abs())
        };
        if distinct.len() > MAX_VALUES || !distinct.iter().all(|v| is_short(v) && is_exact(v)) {
            return None;
        }
        let ticks: Vec<(f64, String)> = distinct.iter().map(|v| (self.place(*v), short(*v))).collect();
        room.fits(&ticks).then_some(ticks)
    }

    /// Returns ticks at multiples of 1, 2 or 5 times a power of ten: as many as fit.
    fn round_ticks(&self, room: TickSpace) -> Vec<(f64, String)> {
        let (low, high) = self.ends();
        let mut step = round_step((high - low) / room.count());
        for _ in 0..4 {
            let slack = 1e-9 * (high - low);
            let first = ((low - slack) / step).ceil() as i64;
            let numbers = (first..).map(|i| i as f64 * step).take_while(|tick| *tick <= high + slack);
            let largest = low.abs().max(high.abs());
            let ticks: Vec<(f64, String)> =
                numbers.map(|tick| (self.place(tick), format_tick(tick, step, largest))).collect();
            if room.fits(&ticks) || ticks.len() <= 2 {
                return ticks;
            }
            step = round_step(step * 1.5);
        }
        vec![]
    }

    /// Returns ticks at multiples of powers of ten, at powers alone, or at every second or third power: the densest set
    /// that fits.
    fn log_ticks(&self, room: TickSpace) -> Vec<(f64, String)> {
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        // 500G next to 1e12 would be hard to read.
        let is_large = self.high >= 12.0;
        let name = |tick: f64| if is_large && tick >= 1e9 { signed(power(tick, 2)) } else { short(tick) };
        let ticks = |factors: &[f64], every: i32| -> Vec<(f64, String)> {
            let chosen = powers.clone().filter(|power| power.rem_euclid(every) == 0);
            let numbers =
                chosen.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
            let inside = numbers.filter(|tick| (-1e-9..=1.0 + 1e-9).contains(&self.place(*tick)));
            inside.map(|tick| (self.place(tick), name(tick))).collect()
        };
        const FINE: [f64; 10] = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0];
        let sets: [(&[f64], i32); 7] = [
            (&FINE, 1),
            (&[1.0, 1.5, 2.0, 3.0, 5.0], 1),
            (&[1.0, 2.0, 5.0], 1),
            (&[1.0, 3.0], 1),
            (&[1.0], 1),
            (&[1.0], 2),
            (&[1.0], 3),
        ];
        // The cap on their number admits the fine sets only on axes that the coarse ones would leave bare.
        let most = room.count() + 2.0;
        let fitting = sets.iter().map(|(factors, every)| ticks(factors, *every));
        let found = fitting.into_iter().find(|ticks| ticks.len() as f64 <= most && room.fits(ticks));
        // The axis spans less than one step of these sets: use round numbers.
        found.filter(|ticks| ticks.len() >= 2).unwrap_or_else(|| self.round_ticks(room))
    }
}

/// Rounds a step up to 1, 2 or 5 times a power of ten.
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

/// Adds a margin of 5 % at both ends, but none at an end that is one of `ends`.
fn with_margin(low: f64, high: f64, ends: &[Option<f64>]) -> (f64, f64) {
    let margin = if high > low { 0.05 * (high - low) } else { 0.05 * low.abs().max(1.0) };
    let is_end = |value: f64| ends.contains(&Some(value));
    let from = if is_end(low) { low } else { low - margin };
    let to = if is_end(high) { high } else { high + margin };
    // Low and high are the same fixed end: give the axis a length of 1.
    if to > from { (from, to) } else { (from, from + 1.0) }
}

fn unit_of(size: f64) -> (f64, &'static str) {
    match size {
        a if a >= 1e9 => (1e9, "G"),
        a if a >= 1e6 => (1e6, "M"),
        a if a >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    }
}

/// Formats a tick with as many digits as distinguish it from ticks `step` apart.
fn format_tick(value: f64, step: f64, largest: f64) -> String {
    if !(1e-3..1e12).contains(&largest) {
        let apart = (value.abs().log10().floor() - step.log10().floor()).clamp(2.0, 6.0); // at least 2, for zero as well
        return signed(plain(value, apart as usize));
    }
    let (unit, name) = unit_of(largest);
    let digits = (-(step / unit).log10()).ceil().clamp(0.0, 6.0) as usize;
    let text = format!("{:.digits$}", value / unit);
    let text = text.strip_prefix('-').map_or(text.clone(), |size| format!("−{size}"));
    if value == 0.0 { "0".into() } else { format!("{text}{name}") }
}

/// Formats a number for an axis in at most three digits: `850k`, `1.2M`, `3e-4`, `2e13`.
pub fn short(x: f64) -> String {
    signed(plain(x, 2))
}

/// Replaces a leading hyphen by a typographic minus; the exponent keeps its hyphen.
fn signed(text: String) -> String {
    text.strip_prefix('-').map_or(text.clone(), |size| format!("−{size}"))
}

/// Formats a number with three significant digits; in scientific notation with up to `digits` decimals.
fn plain(x: f64, digits: usize) -> String {
    if x == 0.0 {
        return "0".into();
    }
    // Rounded first: 999,600 is 1M, not 1000k.
    let rounded: f64 = format!("{x:.2e}").parse().unwrap_or(x);
    if digits > 2 || !(1e-3..1e12).contains(&rounded.abs()) {
        return power(x, digits);
    }
    let (unit, name) = unit_of(rounded.abs());
    let scaled = rounded / unit;
    let digits = (2 - scaled.abs().log10().floor() as i32).max(0) as usize;
    format!("{}{name}", trimmed(format!("{scaled:.digits$}")))
}

/// Formats a number in scientific notation, as digits and a power of ten.
fn power(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$e}");
    match text.split_once('e') {
        Some((digits, power)) => format!("{}e{power}", trimmed(digits.into())),
        None => text,
    }
}

/// Removes trailing zeros of a fraction.
fn trimmed(text: String) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// Parses a short number such as `1.2M`.
fn parse_short(text: &str) -> Option<f64> {
    let (digits, unit) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 1e3),
        'M' => (&text[..text.len() - 1], 1e6),
        'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    digits.replace('−', "-").parse::<f64>().ok().map(|number| number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACROSS: TickSpace = TickSpace { length: 400.0, size: 8.0, is_across: true };

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn powers_of_ten_have_the_digits_that_tell_ticks_apart() {
        let ticks = [4.882e12, 4.884e12, 4.9e12].map(|tick| format_tick(tick, 2e9, 4.9e12));
        assert_eq!(ticks, ["4.882e12", "4.884e12", "4.9e12"]);
        assert_eq!([0.0, 5e12, -1e13].map(|tick| format_tick(tick, 5e12, 1e13)), ["0", "5e12", "−1e13"]);
        assert_eq!(format_tick(2e-4, 1e-4, 4e-4), "2e-4");
    }

    #[test]
    fn powers_of_ten_keep_company_on_log_axes() {
        let log = Axis { log: Some(true), ..Axis::default() };
        let scale = Scale::new(&log, &[3e11, 9e12], false, ACROSS);
        let of_flops = labels(&scale);
        assert!(of_flops.contains(&"5e11") && of_flops.contains(&"1e12"), "{of_flops:?}");
        let scale = Scale::new(&log, &[3e9, 9e10], false, ACROSS);
        assert!(labels(&scale).contains(&"5G"), "{:?}", labels(&scale));
    }

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!([0.25, 64.0, 1500.0, 2_250_000.0, 3e9].map(short), ["0.25", "64", "1.5k", "2.25M", "3G"]);
        assert_eq!([3e-4, 1.234e13, 0.0, -0.5].map(short), ["3e-4", "1.23e13", "0", "−0.5"]);
        // Rounding reaches the next unit.
        assert_eq!([999.4, 999.6, 999_600.0, 9.996e11].map(short), ["999", "1k", "1M", "1e12"]);
    }

    #[test]
    fn few_settings_get_a_tick_each_and_others_round_numbers() {
        let plain = Axis::default();
        assert_eq!(labels(&Scale::new(&plain, &[2.0, 4.0, 8.0, 16.0], true, ACROSS)), ["2", "4", "8", "16"]);
        let params = Scale::new(&plain, &[998_656.0, 1_012_000.0, 1_034_000.0], true, ACROSS);
        assert_eq!(labels(&params), ["1.00M", "1.01M", "1.02M", "1.03M"]);
        let up = TickSpace { length: 120.0, is_across: false, ..ACROSS };
        let loss = Scale::new(&plain, &[2.001, 2.019], false, up);
        assert_eq!(labels(&loss), ["2.005", "2.010", "2.015"]);
    }

    #[test]
    fn an_axis_of_many_sizes_is_logarithmic() {
        let scale = |values: &[f64]| Scale::new(&Axis::default(), values, true, ACROSS);
        assert_eq!(
            [&[2.0, 9.9][..], &[2.0, 10.1], &[0.0, 9.0], &[-1.0, 30.0]].map(|v| scale(v).log),
            [false, true, false, false]
        );
        let wide = scale(&[1e6, 3.345_67e7, 1e9]);
        assert_eq!(labels(&wide), ["1M", "3M", "10M", "30M", "100M", "300M", "1G"]);
        assert!((wide.place(1e9) - wide.place(1e6) - 3.0 / (3.0 * 1.1)).abs() < 1e-9);
        // A column has less room.
        let narrow = Scale::new(&Axis::default(), &[1e6, 1e9], false, TickSpace { length: 120.0, ..ACROSS });
        assert_eq!(labels(&narrow), ["1M", "10M", "100M", "1G"]);
        // A share never is; an explicit setting overrides the default.
        let share = Axis { bounds: Some((0.0, 100.0)), ..Axis::default() };
        assert!(!Scale::new(&share, &[1.0, 90.0], false, ACROSS).log);
        let said = |log| Axis { log: Some(log), ..Axis::default() };
        assert!(!Scale::new(&said(true), &[0.0, 1.0], false, ACROSS).log);
        assert!(!Scale::new(&said(false), &[1.0, 1e9], false, ACROSS).log);
    }

    #[test]
    fn bars_stand_on_the_axis_and_shares_stay_in_theirs() {
        let axis = Axis { must_include: Some(0.0), ..Axis::default() };
        assert_eq!(Scale::new(&axis, &[20.0, 40.0], false, ACROSS).ends().0, 0.0);
        let share = Axis { bounds: Some((0.0, 100.0)), ..Axis::default() };
        assert_eq!(Scale::new(&share, &[-30.0, 140.0], false, ACROSS).ends(), (0.0, 100.0));
    }

    #[test]
    fn ends_that_are_given_are_kept() {
        let axis = Axis { explicit_range: Some((1.0, 3.0)), ..Axis::default() };
        let scale = Scale::new(&axis, &[0.5, 40.0], false, ACROSS);
        assert_eq!((scale.ends(), scale.log, scale.place(2.0)), ((1.0, 3.0), false, 0.5));
    }

    #[test]
    fn labels_do_not_touch() {
        for high in [1.0, 3.0, 7e3, 1e6, 1e13] {
            for (length, is_across) in [(60.0, true), (400.0, true), (40.0, false)] {
                let room = TickSpace { length, size: 8.0, is_across };
                let scale = Scale::new(&Axis::default(), &[high / 70.0, high], false, room);
                assert!(
                    room.fits(&scale.ticks) && scale.ticks.len() >= 2,
                    "{high} {length}: {:?}",
                    scale.ticks
                );
            }
        }
    }
}

//! Formatting of numbers in tables and figures.

use super::columns::{Column, Format};
use super::results::observation::Cell;
use stats::{Fit, FitKind, Spread};

/// Placeholder for a missing value.
pub const NOTHING: &str = "–";

/// The digits of numbers that are read together, such as those of a column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digits {
    decimals: usize,
    /// Whether every number has three significant digits or more.
    is_fine: bool,
}

impl Digits {
    /// This many decimals.
    pub const fn fixed(decimals: usize) -> Self {
        Self { decimals, is_fine: false }
    }

    /// This many decimals, or three significant digits where these are more, if a number other than 0 would otherwise have
    /// fewer than two.
    pub fn of(decimals: usize, numbers: impl IntoIterator<Item = f64>) -> Self {
        let is_coarse = |number: f64| number != 0.0 && number.abs() < 9.5 * 10f64.powi(-(decimals as i32));
        Self { decimals, is_fine: numbers.into_iter().any(is_coarse) }
    }

    /// As [`Self::of`], with the decimals of a column and its numbers in the unit in which they are stored.
    pub fn of_column(column: &Column, numbers: impl IntoIterator<Item = f64>) -> Self {
        let scaled = numbers.into_iter().map(|number| column.scale() * number);
        match column.format() {
            Format::Fixed(decimals) => Self::of(decimals, scaled),
            _ => Self::of(1, scaled),
        }
    }

    /// Formats a number: `0.512`, `0.000974`, `3.35e-6`, `13,519`.
    pub fn text(self, number: f64) -> String {
        let decimals = self.decimals;
        if !self.is_fine || number == 0.0 || !number.is_finite() {
            return grouped(&format!("{number:.decimals$}"));
        }
        match number.abs().log10().floor() as i32 {
            size if size < -4 => digits3(number),
            size => grouped(&format!("{number:.*}", decimals.max((2 - size).max(0) as usize))),
        }
    }

    /// Formats the half-width of an interval: with one significant digit where it would be written as 0.
    pub fn half(self, half: f64) -> String {
        match is_lost(half, self.decimals) && !self.is_fine {
            true => plain(format!("{half:.0e}").parse().unwrap_or(half)),
            false => self.text(half),
        }
    }
}

/// Whether a number other than 0 would be written as 0 with this many decimals.
fn is_lost(number: f64, decimals: usize) -> bool {
    number != 0.0 && number.abs() < 0.5 * 10f64.powi(-(decimals as i32))
}

/// Groups the thousands of a decimal number and writes its minus sign: `−13,519.5`.
fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("−", digits));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let whole = whole.parse().map_or_else(|_| whole.to_string(), crate::track::number);
    format!("{sign}{whole}{rest}")
}

/// Formats a number of a column in its unit.
pub fn number(value: f64, column: &Column) -> String {
    number_with(value, column, Digits::of_column(column, []))
}

/// Formats a number of a column in its unit, with the digits of the numbers around it.
pub fn number_with(value: f64, column: &Column, digits: Digits) -> String {
    match column.format() {
        Format::Fixed(_) | Format::Percent => digits.text(column.scale() * value),
        Format::PValue => p_text(value),
        Format::Count if value >= 0.0 && value.fract() == 0.0 => crate::track::number(value as u64),
        Format::Count => grouped(&format!("{value:.1}")),
        Format::Plain | Format::Text => plain(value),
    }
}

/// Formats a value or a difference of a metric in its unit: percent with one decimal, others with three significant digits.
pub fn difference(value: f64, metric: &Column) -> String {
    let scaled = metric.scale() * value;
    match metric.format() {
        Format::Percent => format!("{scaled:.1}").replace('-', "−"),
        _ => digits3(scaled),
    }
}

/// Formats a value of a column that distinguishes rows or series.
pub fn cell(value: &Option<Cell>, column: &Column) -> String {
    match value {
        None => "unset".into(),
        Some(Cell::Text(text)) => text.clone(),
        Some(Cell::Number(value)) => number(*value, column),
    }
}

/// Formats a mean with its 95 % interval as `41.2 ± 1.3`, or the mean alone if a single seed leaves no interval. A
/// quantity that is known before the run and does not vary has none either.
pub fn with_error(spread: Option<Spread>, column: &Column, digits: Digits) -> String {
    let Some(Spread { mean, sd, t95, .. }) = spread else { return NOTHING.into() };
    let is_constant = column.is_known() && sd == Some(0.0);
    let half = |half: f64| match column.format() {
        Format::Fixed(_) | Format::Percent => digits.half(column.scale() * half),
        _ => number(half, column),
    };
    let mean = number_with(mean, column, digits);
    t95.filter(|_| !is_constant).map_or(mean.clone(), |t95| format!("{mean} ± {}", half(t95)))
}

/// Formats a spread times `scale` as `41.2 ± 1.3`, or the mean alone for a single seed; states n if not all `seeds` have a value.
pub fn scaled_with_error(spread: Option<Spread>, scale: f64, digits: Digits, seeds: usize) -> String {
    let Some(Spread { n, mean, t95, .. }) = spread else { return NOTHING.into() };
    let half = t95.map_or(String::new(), |half| format!(" ± {}", digits.half(half * scale)));
    let count = if n < seeds { format!(" (n={n})") } else { String::new() };
    format!("{}{half}{count}", digits.text(mean * scale))
}

/// Formats a number with as few digits as it needs, at most six, or three outside 1e-4 to 1e7: `4`, `0.0003`, `1.25e15`.
pub fn plain(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e7).contains(&size) {
        let text = format!("{value:.2e}");
        // 1.00e15 becomes 1e15.
        return match text.split_once('e') {
            Some((digits, power)) if digits.contains('.') => {
                format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
            }
            _ => text,
        };
    }
    let rounded: f64 = format!("{value:.5e}").parse().unwrap_or(value);
    rounded.to_string()
}

/// Formats three significant digits, and all digits of whole parts below 1e6: `12.3`, `0.00123`, `123456`, `4.56e-7`.
pub fn digits3(x: f64) -> String {
    let text = if x == 0.0 || !x.is_finite() {
        x.to_string()
    } else {
        let size = x.abs().log10().floor() as i32;
        match size {
            -4..=5 => format!("{x:.*}", (2 - size).max(0) as usize),
            _ => format!("{x:.2e}"),
        }
    };
    text.replacen('-', "−", usize::from(x < 0.0))
}

/// Formats the equation of a fit with three significant digits: `y = 12.3 x^−0.0760`.
pub fn equation(fit: &Fit) -> String {
    let slope = fit.b.value;
    let (a, b) = (digits3(fit.a), digits3(slope.abs()));
    let sign = if slope < 0.0 { '−' } else { '+' };
    match fit.kind {
        FitKind::Power => format!("y = {a} x^{}{b}", if slope < 0.0 { "−" } else { "" }),
        FitKind::Linear => format!("y = {a} {sign} {b} x"),
        FitKind::Log => format!("y = {a} {sign} {b} ln x"),
    }
}

/// Formats a p-value: three decimals, two significant digits below 0.001, and one decimal more where three would round a
/// significant p up to 0.050; `< 1e-300` where it is too small for a number.
pub fn p_text(p: f64) -> String {
    if !p.is_finite() {
        NOTHING.into()
    } else if p < 1e-300 {
        "< 1e-300".into()
    } else if p < 0.001 {
        plain(format!("{p:.1e}").parse().unwrap_or(p))
    } else if (0.0495..0.05).contains(&p) {
        format!("{:.4}", p.min(0.0499))
    } else {
        format!("{p:.3}")
    }
}

/// Formats the p of a randomisation test: `0.031`, or `< 0.0001` if it is only a bound.
pub fn shuffled_p(p: f64, is_bound: bool) -> String {
    if !is_bound || p >= 1.0 {
        return p_text(p);
    }
    // One significant digit, rounded up so that it remains an upper bound.
    let unit = 10f64.powf(p.log10().floor());
    let digit = (p / unit - 1e-9).ceil();
    format!("< {}", plain(format!("{:e}", digit * unit).parse().unwrap_or(p)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_are_written_in_few_digits() {
        assert_eq!(
            [4.0, 3e-4, 0.1 + 0.2, 1e15, 1.234e15, 999_999.0, 1e-5].map(plain),
            ["4", "0.0003", "0.3", "1e15", "1.23e15", "999999", "1e-5"]
        );
    }

    #[test]
    fn numbers_that_differ_do_not_all_read_as_zero() {
        // A column of losses, one of which would be 0.000.
        let digits = Digits::of(3, [3.35e-6, 0.000_974, 0.0123, 1.2345]);
        let texts = [0.0, 3.35e-6, 0.000_974, 0.0123, 1.2345, -0.000_974].map(|number| digits.text(number));
        assert_eq!(texts, ["0.000", "3.35e-6", "0.000974", "0.0123", "1.234", "−0.000974"]);
        assert_eq!(digits.half(0.000_002), "2.00e-6");
        // Otherwise three decimals, and a narrow interval has the digit that it needs.
        let plain = Digits::of(3, [2.345, 0.0, 0.01]);
        assert_eq!([2.345, 0.0, 0.001].map(|number| plain.text(number)), ["2.345", "0.000", "0.001"]);
        assert_eq!([0.000_34, 0.0, 0.012].map(|half| plain.half(half)), ["0.0003", "0.000", "0.012"]);
        assert_eq!(Digits::fixed(0).text(105_437.4), "105,437");
        assert_eq!(Digits::fixed(1).text(-13_519.26), "−13,519.3");
        assert_eq!(Digits::fixed(1).text(f64::NAN), "NaN");
    }

    #[test]
    fn three_digits_are_shown() {
        assert_eq!([12.34, 0.001_234, -5.0, 123_456.0].map(digits3), ["12.3", "0.00123", "−5.00", "123456"]);
        assert_eq!(digits3(4.56e-7), "4.56e-7");
    }

    #[test]
    fn equations_are_written_with_their_signs() {
        let of = |kind, y: fn(f64) -> f64| {
            equation(&stats::fit(kind, &[1.0, 2.0, 4.0].map(|x| (x, y(x))), 0.95).unwrap())
        };
        assert_eq!(of(FitKind::Power, |x| 3.0 * x.powf(-0.5)), "y = 3.00 x^−0.500");
        assert_eq!(of(FitKind::Log, |x| 2.0 - 0.25 * x.ln()), "y = 2.00 − 0.250 ln x");
        assert_eq!(of(FitKind::Linear, |x| 2.0 + 0.25 * x), "y = 2.00 + 0.250 x");
    }

    #[test]
    fn p_values_are_never_zero() {
        assert_eq!([1.0, 0.0312, 1.23e-7, 0.0].map(p_text), ["1.000", "0.031", "1.2e-7", "< 1e-300"]);
        // Significant at 5 % and not.
        assert_eq!([0.0499, 0.049_99, 0.05, 0.0503].map(p_text), ["0.0499", "0.0499", "0.050", "0.050"]);
        assert_eq!(
            [1e-4, 0.0021, 3.4e-107].map(|p| shuffled_p(p, true)),
            ["< 0.0001", "< 0.003", "< 4e-107"]
        );
        assert_eq!(shuffled_p(0.0021, false), "0.002");
        assert_eq!(p_text(f64::NAN), NOTHING);
    }
}

//! The interface by which a piece of work reports its progress, and the formats of counts, times and sizes.

/// Receives the progress of one piece of work. Phases follow each other: `start`, any number of `update`s, `finish`.
pub trait Progress: Send + Sync {
    /// A phase of `total` units (`steps`, `rows`, ...) begins; 0 if the total is unknown.
    fn start(&self, label: &str, total: u64, unit: &str);

    /// `done` units of the phase are done; `message` is short, such as `loss 3.21, 12,000 tokens/s`.
    fn update(&self, done: u64, message: &str);

    /// The phase has ended.
    fn finish(&self, message: &str);
}

/// Ignores progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _label: &str, _total: u64, _unit: &str) {}
    fn update(&self, _done: u64, _message: &str) {}
    fn finish(&self, _message: &str) {}
}

/// Formats a count with thousands separators: `1,234,567`.
pub fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a count with its noun: `1 trial`, `2 trials`.
pub fn counted(count: usize, noun: &str) -> String {
    let count_text = number(count as u64);
    if count == 1 { format!("{count_text} {noun}") } else { format!("{count_text} {noun}s") }
}

/// Joins items by commas, at most so many: `a, b and 3 more`.
pub fn listed(items: &[impl AsRef<str>], most: usize) -> String {
    let shown = items.iter().take(most).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Formats a duration: `45 s`, `12 min`, `3 h 20 min`.
pub fn time(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 | 1 if seconds < 90.0 => format!("{seconds:.0} s"),
        0..=119 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// Formats a size: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_plural() {
        assert_eq!([0, 1, 2000].map(|n| counted(n, "trial")), ["0 trials", "1 trial", "2,000 trials"]);
    }

    #[test]
    fn a_list_says_how_many_it_leaves_out() {
        let lists = [1, 2, 3, 4].map(|most| listed(&["a", "b", "c"], most));
        assert_eq!(lists, ["a and 2 more", "a, b and 1 more", "a, b, c", "a, b, c"]);
        assert_eq!(listed(&[""; 0], 3), "");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0.4, 45.0, 600.0, 12_000.0].map(time), ["0 s", "45 s", "10 min", "3 h 20 min"]);
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        let grouped = [0, 999, 1_000, 12_345, 1_234_567].map(number);
        assert_eq!(grouped, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}

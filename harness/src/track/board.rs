//! Progress displays: bars on a terminal, occasional lines elsewhere.

use super::{Progress, Silent, number};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without a terminal, the interval between lines about a running piece of work.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Length of the bar of the total.
const PARTS: u64 = 100_000;

/// The display shared by everything that runs at the same time.
#[derive(Clone, Default)]
pub enum Board {
    /// On a terminal: a bar per task, and one for the total below them.
    Bars(MultiProgress, ProgressBar),
    /// Plain lines on standard error.
    Lines,
    /// Nothing.
    #[default]
    Silent,
}

impl Board {
    /// Bars if standard error is a terminal, plain lines otherwise.
    pub fn for_stderr() -> Self {
        if !io::stderr().is_terminal() {
            return Board::Lines;
        }
        let bars = MultiProgress::new();
        // Not drawn until the total is first updated.
        let total = bars.add(ProgressBar::new(PARTS));
        total.set_style(style("{prefix:.bold} {bar:20.green} {percent} %  {msg}"));
        Board::Bars(bars, total)
    }

    /// Shows the share of the whole work that is done, from 0 to 1; bars only.
    pub fn total(&self, name: &str, share: f64, message: &str) {
        if let Board::Bars(_, total) = self {
            total.set_prefix(name.to_string());
            total.set_message(message.to_string());
            total.set_position((share * PARTS as f64) as u64);
        }
    }

    /// Removes the bar of the total.
    pub fn finish(&self) {
        if let Board::Bars(_, total) = self {
            total.finish_and_clear();
        }
    }

    /// A progress display for one piece of work, shown under `name` until it is dropped.
    pub fn task(&self, name: &str) -> Box<dyn Progress> {
        match self {
            Board::Bars(bars, total) => {
                let bar = bars.insert_before(total, ProgressBar::new(0).with_prefix(name.to_string()));
                bar.set_style(style("{prefix:.bold} {spinner} {msg}"));
                bar.enable_steady_tick(Duration::from_millis(250));
                Box::new(Bar { bar, fresh: Mutex::new(true) })
            }
            Board::Lines => {
                Box::new(Lines { name: name.to_string(), phase: Mutex::new(Phase::new("", 0, "")) })
            }
            Board::Silent => Box::new(Silent),
        }
    }

    /// Prints a permanent line, above the bars if there are any.
    pub fn line(&self, text: &str) {
        match self {
            Board::Bars(bars, _) => {
                let _ = bars.println(text);
            }
            Board::Lines => write_line(text),
            Board::Silent => {}
        }
    }
}

/// The bar of one task on a terminal.
struct Bar {
    bar: ProgressBar,
    /// Whether the phase has not been updated yet.
    fresh: Mutex<bool>,
}

impl Progress for Bar {
    fn start(&self, label: &str, total: u64, unit: &str) {
        self.bar.set_style(style(&template(label, total, unit)));
        self.bar.set_length(total);
        self.bar.set_position(0);
        self.bar.set_message(String::new());
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn update(&self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_string());
        // A resumed phase starts far from 0: that jump must not count as speed.
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *fresh) {
            self.bar.reset_eta();
        }
    }

    fn finish(&self, message: &str) {
        self.bar.set_message(message.to_string());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The template of a task's bar; its length is unknown if `total` is 0. Braces in the texts are shown as they are.
fn template(label: &str, total: u64, unit: &str) -> String {
    let [label, unit] = [label, unit].map(|text| text.replace('{', "{{").replace('}', "}}"));
    if total > 0 {
        format!(
            "{{prefix:.bold}} {label} {{bar:20.cyan}} {{human_pos}}/{{human_len}} {unit}  {{msg}}  {{eta}} left"
        )
    } else {
        format!("{{prefix:.bold}} {label} {{spinner}} {{human_pos}} {unit}  {{msg}}")
    }
}

/// The style of a bar; a template that does not parse gives the default bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// The progress of one task as plain lines.
struct Lines {
    name: String,
    phase: Mutex<Phase>,
}

/// The running phase of a task.
struct Phase {
    label: String,
    total: u64,
    unit: String,
    last_line: Instant,
}

impl Phase {
    fn new(label: &str, total: u64, unit: &str) -> Self {
        Self { label: label.to_string(), total, unit: unit.to_string(), last_line: Instant::now() }
    }
}

impl Progress for Lines {
    fn start(&self, label: &str, total: u64, unit: &str) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Phase::new(label, total, unit);
    }

    fn update(&self, done: u64, message: &str) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if phase.last_line.elapsed() >= LINE_EVERY {
            phase.last_line = Instant::now();
            let of = match phase.total {
                0 => String::new(),
                total => format!(" of {}", number(total)),
            };
            let done = number(done);
            write_line(&format!("{}: {} {done}{of} {}  {message}", self.name, phase.label, phase.unit));
        }
    }

    fn finish(&self, _message: &str) {}
}

/// Writes a line to standard error; an error is ignored, since a closed stream must not stop the work.
fn write_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_in_labels_are_shown_as_they_are() {
        assert_eq!(template("a{b}", 0, "}"), "{prefix:.bold} a{{b}} {spinner} {human_pos} }}  {msg}");
        for total in [0, 9] {
            assert!(ProgressStyle::with_template(&template("{:x} }{ {msg", total, "{}")).is_ok());
        }
    }
}

//! Where progress is shown: bars on a terminal, now and then a line elsewhere.

use super::{Progress, Silent, number};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without a terminal, a running piece of work writes a line this often.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// Parts of the whole that the bar of the total counts.
const PARTS: u64 = 100_000;

/// The place where all that runs at the same time is shown.
#[derive(Clone, Default)]
pub enum Board {
    /// Bars, one a task and one for the total below them, on a terminal.
    Bars(MultiProgress, ProgressBar),
    /// Plain lines on the standard error stream.
    Lines,
    /// Nothing at all.
    #[default]
    Silent,
}

impl Board {
    /// Bars where the standard error stream is a terminal, plain lines where it is not.
    pub fn for_stderr() -> Self {
        if !io::stderr().is_terminal() {
            return Board::Lines;
        }
        let bars = MultiProgress::new();
        // Not drawn before the total is known.
        let total = bars.add(ProgressBar::new(PARTS));
        total.set_style(style("{prefix:.bold} {bar:20.green} {percent} %  {msg}"));
        Board::Bars(bars, total)
    }

    /// Shows how much of everything is done, as a share from 0 to 1.
    pub fn total(&self, name: &str, share: f64, message: &str) {
        if let Board::Bars(_, total) = self {
            total.set_prefix(name.to_string());
            total.set_message(message.to_string());
            total.set_position((share * PARTS as f64) as u64);
        }
    }

    /// Clears the total away.
    pub fn finish(&self) {
        if let Board::Bars(_, total) = self {
            total.finish_and_clear();
        }
    }

    /// A watcher for one piece of work, shown under `name` until it is dropped.
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

    /// Writes a line that stays, above the bars.
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

/// A line of a terminal.
struct Bar {
    bar: ProgressBar,
    /// Whether the phase has not been updated yet.
    fresh: Mutex<bool>,
}

impl Progress for Bar {
    fn start(&self, label: &str, total: u64, unit: &str) {
        let template = if total > 0 {
            format!(
                "{{prefix:.bold}} {label} {{bar:20.cyan}} {{human_pos}}/{{human_len}} {unit}  {{msg}}  {{eta}} left"
            )
        } else {
            format!("{{prefix:.bold}} {label} {{spinner}} {{human_pos}} {unit}  {{msg}}")
        };
        self.bar.set_style(style(&template));
        self.bar.set_length(total);
        self.bar.set_position(0);
        self.bar.set_message(String::new());
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn update(&self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_string());
        // A resumed phase begins far from 0: that jump says nothing about its speed.
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

/// Brackets in a label must not be read as a template; a template that cannot be read leaves a plain bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// A log without a terminal.
struct Lines {
    name: String,
    phase: Mutex<Phase>,
}

/// What a log knows of the running phase.
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

/// Nobody listening is no reason to stop.
fn write_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

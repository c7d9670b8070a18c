//! `metrics.csv` of a stage run, and the same scalars as TensorBoard events next to it.

use super::Events;
use crate::fsutil::{create_dir, write_atomic};
use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// Name of the metrics file in the folder of a stage run.
pub const METRICS: &str = "metrics.csv";

/// The columns that every stage writes; the objective's own columns follow them.
const COLUMNS: [&str; 8] =
    ["step", "tokens", "split", "loss", "lr", "grad_norm", "tokens_per_second", "elapsed_seconds"];

/// The documents that a row was measured on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Split {
    /// Training documents.
    Train,
    /// Training documents of the named source.
    TrainSource(String),
    /// All held-out documents.
    Val,
    /// Held-out documents of the named set.
    ValSet(String),
}

impl Split {
    /// Its text in the column `split`.
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            Split::Train => "train".into(),
            Split::TrainSource(name) => format!("train:{name}").into(),
            Split::Val => "val".into(),
            Split::ValSet(name) => format!("val:{name}").into(),
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsRow {
    /// Optimizer steps taken.
    pub step: u64,
    /// Target tokens trained on so far.
    pub tokens: u64,
    /// Documents that the row was measured on.
    pub split: Split,
    /// Mean loss in nats per target token; for preferences, mean loss per pair.
    pub loss: f64,
    /// Learning rate of this step; `None` for rows of one source and for validation.
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping; `None` as for `lr`.
    pub grad_norm: Option<f64>,
    /// Target tokens per second since the last training row; `None` as for `lr`.
    pub tokens_per_second: Option<f64>,
    /// Seconds since the stage began, including earlier attempts.
    pub elapsed_seconds: f64,
    /// Further columns of the objective, by name; each name must be declared in [`Metrics::open`].
    pub extras: Vec<(String, f64)>,
}

/// Formats a number for CSV: the fewest digits that parse back to the same number; empty if it is not finite, since no CSV
/// reader understands such a number.
pub fn csv_number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => String::new(),
        size if size == 0.0 || (1e-5..1e16).contains(&size) => value.to_string(),
        _ => format!("{value:e}"),
    }
}

/// The open metrics file of a stage run.
pub struct Metrics {
    path: PathBuf,
    out: csv::Writer<File>,
    extras: Vec<String>,
    events: Events,
}

impl Metrics {
    /// Opens `path` (`.../metrics.csv`) and the events file next to it.
    ///
    /// `None` starts an empty file. `Some(step)` resumes after `step`: later rows, and a partly written last row, are removed.
    /// `extras` names every further column that any row may fill.
    ///
    /// # Errors
    /// If a file cannot be read or written, or if its columns are others.
    pub fn open(path: &Path, resume_after_step: Option<u64>, extras: &[String]) -> Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("."));
        create_dir(dir)?;
        let header: Vec<&str> = COLUMNS.into_iter().chain(extras.iter().map(String::as_str)).collect();
        let kept = match resume_after_step {
            Some(step) if path.exists() => rows_up_to(path, step, &header)?,
            _ => format!("{}\n", header.join(",")).into_bytes(),
        };
        write_atomic(path, &kept)?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(|| format!("{}: cannot be opened", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            out: csv::WriterBuilder::new().has_headers(false).from_writer(file),
            extras: extras.to_vec(),
            events: Events::open(dir, resume_after_step)?,
        })
    }

    /// Appends a row, and the same numbers as TensorBoard scalars.
    ///
    /// # Errors
    /// If a file cannot be written, or if a column was not declared.
    pub fn row(&mut self, row: &MetricsRow) -> Result<()> {
        if let Some((unknown, _)) = row.extras.iter().find(|(name, _)| !self.extras.contains(name)) {
            bail!("metrics column {unknown} was not declared when the table was opened");
        }
        let optional = |value: Option<f64>| value.map(csv_number).unwrap_or_default();
        let mut fields = vec![
            row.step.to_string(),
            row.tokens.to_string(),
            row.split.name().to_string(),
            csv_number(row.loss),
            optional(row.lr),
            optional(row.grad_norm),
            optional(row.tokens_per_second),
            csv_number(row.elapsed_seconds),
        ];
        let extra = |name: &String| row.extras.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        fields.extend(self.extras.iter().map(|name| optional(extra(name))));
        self.out
            .write_record(&fields)
            .with_context(|| format!("{}: cannot be written", self.path.display()))?;

        let named = [
            ("loss", Some(row.loss)),
            ("lr", row.lr),
            ("grad_norm", row.grad_norm),
            ("tokens_per_second", row.tokens_per_second),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                self.scalar(row, name, value)?;
            }
        }
        for (name, value) in &row.extras {
            self.scalar(row, name, *value)?;
        }
        Ok(())
    }

    /// Adds a text, such as the configuration, to the TensorBoard events. A tag keeps its first text.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn text(&mut self, tag: &str, markdown: &str) -> Result<()> {
        self.events.text(tag, markdown)
    }

    /// Writes all rows to the disk and syncs it. To be called before a checkpoint is written, so that no row up to it is lost.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        synced.with_context(|| format!("{}: cannot be written", self.path.display()))?;
        self.events.flush()
    }

    fn scalar(&mut self, row: &MetricsRow, name: &str, value: f64) -> Result<()> {
        self.events.scalar(&format!("{}/{name}", row.split.name()), value, row.step)
    }
}

/// A parsed metrics.csv: its complete rows, since the last row may still be in the middle of being written.
#[derive(Debug, Clone)]
pub struct MetricsTable<'a> {
    /// Names of its columns.
    pub columns: Vec<&'a str>,
    split: usize,
    body: &'a str,
}

/// A row of a metrics.csv.
#[derive(Debug, Clone)]
pub struct MetricsTableRow<'a> {
    /// What it was measured on, as [`Split::name`] returns it.
    pub split: &'a str,
    /// The text of each cell, in the order of the columns.
    pub cells: Vec<&'a str>,
}

impl<'a> MetricsTable<'a> {
    /// Parses a text; `None` if it has no column `split`.
    pub fn of(text: &'a str) -> Option<Self> {
        let (head, body) = text.split_once('\n')?;
        let columns: Vec<&str> = head.trim_end().split(',').collect();
        let split = columns.iter().position(|name| *name == "split")?;
        Some(Self { columns, split, body })
    }

    /// Index of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|known| *known == name)
    }

    /// Its complete rows.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = MetricsTableRow<'a>> + '_ {
        let lines = self.body.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let rows = lines.map(|line| line.trim_end().split(',').collect::<Vec<_>>());
        let whole = rows.filter(|cells| cells.len() == self.columns.len());
        whole.map(|cells| MetricsTableRow { split: cells[self.split], cells })
    }
}

impl MetricsTableRow<'_> {
    /// The number in a column; `None` if the cell is empty or not a number.
    pub fn number(&self, column: usize) -> Option<f64> {
        self.cells.get(column)?.parse().ok()
    }
}

/// Copies the metrics and events of a stage run into the folder of another, which resumes after `step`; [`Metrics::open`]
/// then removes later rows.
///
/// # Errors
/// If a file cannot be read or written.
pub fn carry_over(from: &Path, to: &Path, step: u64) -> Result<()> {
    let path = from.join(METRICS);
    let rows = fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    write_atomic(&to.join(METRICS), &rows)?;
    Events::carry_over(from, to, step)
}

/// The header and every complete row of `path` whose step is at most `step`, byte for byte.
fn rows_up_to(path: &Path, step: u64, header: &[&str]) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    // A row without a line end was being written when the stage was interrupted.
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut lines = bytes[..whole].split_inclusive(|&byte| byte == b'\n');
    let expected = format!("{}\n", header.join(","));
    let found = lines.next().unwrap_or_default();
    if found != expected.as_bytes() {
        bail!(
            "{}:1: columns are {}, expected {}; move the stage run's folder away to start it again",
            path.display(),
            String::from_utf8_lossy(found).trim_end(),
            expected.trim_end(),
        );
    }
    let mut kept = found.to_vec();
    for line in lines {
        let first = line.split(|&byte| byte == b',').next().unwrap_or_default();
        let row_step = std::str::from_utf8(first).ok().and_then(|text| text.parse::<u64>().ok());
        // Rows are in the order of their steps: the first later or unreadable one ends the part that is kept.
        match row_step {
            Some(row_step) if row_step <= step => kept.extend_from_slice(line),
            _ => break,
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn row(step: u64) -> MetricsRow {
        MetricsRow {
            step,
            tokens: step * 100,
            split: Split::Train,
            loss: 1.0 / step as f64,
            lr: Some(1e-3),
            grad_norm: None,
            tokens_per_second: Some(5.5),
            elapsed_seconds: step as f64,
            extras: vec![("bpb".into(), 0.25)],
        }
    }

    fn extras() -> Vec<String> {
        vec!["aux_loss".into(), "bpb".into()]
    }

    #[test]
    fn rows_fill_their_columns_and_leave_unknown_ones_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let mut metrics = Metrics::open(&path, None, &extras()).unwrap();
        metrics.row(&row(3)).unwrap();
        metrics.flush().unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "step,tokens,split,loss,lr,grad_norm,tokens_per_second,elapsed_seconds,aux_loss,bpb\n\
             3,300,train,0.3333333333333333,0.001,,5.5,3,,0.25\n"
        );
        let undeclared = MetricsRow { extras: vec![("other".into(), 1.0)], ..row(4) };
        assert!(metrics.row(&undeclared).is_err());
    }

    #[test]
    fn numbers_in_csv_are_short_and_exact() {
        let numbers = [0.0, -2.0, 1e-5, 0.1 + 0.2, 1.25e-130, 9.3e15, 1e16, f64::MIN_POSITIVE];
        let texts = numbers.map(csv_number);
        let expected = ["0", "-2", "0.00001", "0.30000000000000004", "1.25e-130", "9300000000000000", "1e16"];
        assert_eq!(texts[..7], expected);
        assert_eq!(texts.map(|text| text.parse::<f64>().unwrap()), numbers);
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(csv_number), ["", "", ""]);
    }

    #[test]
    fn a_course_is_read_up_to_its_last_whole_row() {
        let text = "step,split,loss\n1,train,0.5\n1,val,\n2,train\n3,train,2.5\n4,train,1";
        let course = MetricsTable::of(text).unwrap();
        let rows: Vec<_> = course.rows().map(|row| (row.split, row.number(0), row.number(2))).collect();
        let expected =
            [("train", Some(1.0), Some(0.5)), ("val", Some(1.0), None), ("train", Some(3.0), Some(2.5))];
        assert_eq!(rows, expected);
        assert_eq!((course.column("loss"), course.column("lr")), (Some(2), None));
        assert!(MetricsTable::of("").is_none() && MetricsTable::of("step,loss\n1,2\n").is_none());
    }

    #[test]
    fn a_resumed_table_has_no_gaps_and_no_doubles() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        let whole = dir.path().join("whole").join("metrics.csv");
        let mut undisturbed = Metrics::open(&whole, None, &extras()).unwrap();
        (1..=9).for_each(|step| undisturbed.row(&row(step)).unwrap());
        undisturbed.flush().unwrap();

        let mut first = Metrics::open(&path, None, &extras()).unwrap();
        (1..=7).for_each(|step| first.row(&row(step)).unwrap());
        first.flush().unwrap();
        drop(first);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"8,800,tra").unwrap();
        let mut second = Metrics::open(&path, Some(4), &extras()).unwrap();
        (5..=9).for_each(|step| second.row(&row(step)).unwrap());
        second.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(&whole).unwrap());
    }

    #[test]
    fn other_columns_are_refused_on_resume() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        drop(Metrics::open(&path, None, &[]).unwrap());
        let error = Metrics::open(&path, Some(1), &extras()).err().unwrap();
        assert!(error.to_string().contains("metrics.csv:1: columns are"), "{error}");
    }
}

//! TensorBoard events: the record format of tensorboard-rs with the messages of tensorboard-proto.
//!
//! The crate's own writer cannot write text, cannot resume after an interruption, and panics on a full disk, so only its
//! record format and its messages are used.

use crate::fsutil::write_atomic_with;
use crate::system::now;
use anyhow::{Context, Result};
use protobuf::{Message, RepeatedField};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::summary::{Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::types::DataType;
use tensorboard_rs::masked_crc32c::masked_crc32c;
use tensorboard_rs::record_writer::RecordWriter;

/// Bytes of a record in addition to its data: length, checksum of the length, checksum of the data.
const FRAME: usize = 8 + 4 + 4;

/// The open events file of a stage run.
pub struct Events {
    path: PathBuf,
    out: RecordWriter<BufWriter<File>>,
    /// A handle of the same file; the record writer does not expose its own.
    file: File,
    /// Tags of the texts in the file.
    texts: Vec<String>,
}

impl Events {
    /// Opens an events file in `dir`.
    ///
    /// `None` starts an empty file. `Some(step)` copies the events up to `step` into a new file, which replaces the old one:
    /// no step appears twice, and a running TensorBoard reloads the new file from its start.
    ///
    /// # Errors
    /// If the folder cannot be read, or if a file cannot be created or removed.
    pub fn open(dir: &Path, resume_after_step: Option<u64>) -> Result<Self> {
        let before = event_files(dir)?;
        let kept = match resume_after_step {
            // The newest file has all events; an older one exists only if a resume was cut off.
            Some(step) => events_up_to(before.last(), step)?,
            None => Vec::new(),
        };
        let path = fresh_name(dir, &before);
        begin(&path, &kept)?;
        for old in before {
            fs::remove_file(&old).with_context(|| format!("{}: cannot be removed", old.display()))?;
        }
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .with_context(|| format!("{}: cannot be opened", path.display()))?;
        let same = file.try_clone()?;
        Ok(Self {
            path,
            out: RecordWriter::new(BufWriter::new(file)),
            file: same,
            texts: kept
                .iter()
                .flat_map(|event| event.get_summary().get_value())
                .filter(|value| value.has_tensor())
                .map(|value| value.tag.clone())
                .collect(),
        })
    }

    /// Copies the scalars up to `step` from the newest events file of one folder into another; texts are not copied, since they
    /// describe their own stage run.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn carry_over(from: &Path, to: &Path, step: u64) -> Result<()> {
        let mut kept = events_up_to(event_files(from)?.last(), step)?;
        kept.retain(|event| !event.get_summary().get_value().iter().any(Summary_Value::has_tensor));
        begin(&fresh_name(to, &event_files(to)?), &kept)
    }

    /// Adds one number; TensorBoard stores scalars in single precision.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<()> {
        let mut scalar = Summary_Value::new();
        scalar.set_tag(tag.into());
        scalar.set_simple_value(value as f32);
        self.summary(scalar, step)
    }

    /// Adds a Markdown text at step 0, unless the tag already has one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn text(&mut self, tag: &str, markdown: &str) -> Result<()> {
        if self.texts.iter().any(|held| held == tag) {
            return Ok(());
        }
        self.texts.push(tag.to_string());
        let mut plugin = SummaryMetadata_PluginData::new();
        plugin.set_plugin_name("text".into());
        let mut metadata = SummaryMetadata::new();
        metadata.set_plugin_data(plugin);
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_string_val(RepeatedField::from_vec(vec![markdown.as_bytes().to_vec()]));
        let mut text = Summary_Value::new();
        text.set_tag(tag.into());
        text.set_metadata(metadata);
        text.set_tensor(tensor);
        self.summary(text, 0)
    }

    /// Writes all events to the disk and syncs it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let flushed = self.out.flush().and_then(|()| self.file.sync_data());
        flushed.with_context(|| self.problem())
    }

    fn summary(&mut self, value: Summary_Value, step: u64) -> Result<()> {
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from_vec(vec![value]));
        let mut event = Event::new();
        event.set_step(step as i64);
        event.set_summary(summary);
        write(&mut self.out, event).with_context(|| self.problem())
    }

    fn problem(&self) -> String {
        format!("{}: cannot be written", self.path.display())
    }
}

/// Writes a new file that begins with these events.
fn begin(path: &Path, kept: &[Event]) -> Result<()> {
    write_atomic_with(path, |out| {
        let mut out = RecordWriter::new(out);
        let mut version = Event::new();
        version.set_file_version("brain.Event:2".into());
        write(&mut out, version)?;
        let mut start = SessionLog::new();
        start.set_status(SessionLog_SessionStatus::START);
        let mut session = Event::new();
        session.set_session_log(start);
        write(&mut out, session)?;
        for event in kept {
            out.write(&event.write_to_bytes()?)?;
        }
        Ok(())
    })
}

fn write<W: Write>(out: &mut RecordWriter<W>, mut event: Event) -> Result<()> {
    event.set_wall_time(now());
    Ok(out.write(&event.write_to_bytes()?)?)
}

/// The events files of a folder, in the order in which TensorBoard reads them.
fn event_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("{}: cannot be read", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("events.out.tfevents."))
        })
        .collect();
    files.sort();
    Ok(files)
}

/// A file name that sorts after each of `before`, even if the clock went back: TensorBoard reads in that order.
fn fresh_name(dir: &Path, before: &[PathBuf]) -> PathBuf {
    let seconds_of =
        |path: &PathBuf| -> Option<u64> { path.file_name()?.to_str()?.split('.').nth(3)?.parse().ok() };
    let after = before.iter().filter_map(seconds_of).max().map_or(0, |s| s + 1);
    let seconds = after.max(now() as u64);
    dir.join(format!("events.out.tfevents.{seconds:010}.mindscale"))
}

/// The summaries of a file up to `step`; stops at a truncated or damaged record.
fn events_up_to(file: Option<&PathBuf>, step: u64) -> Result<Vec<Event>> {
    let Some(path) = file else { return Ok(Vec::new()) };
    let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let (mut kept, mut rest) = (Vec::new(), bytes.as_slice());
    while let Some((data, after)) = next_record(rest) {
        rest = after;
        let Ok(event) = Event::parse_from_bytes(data) else {
            break;
        };
        if event.has_summary() && event.step <= step as i64 {
            kept.push(event);
        }
    }
    Ok(kept)
}

/// The data of the first record of `bytes` and the bytes after it; `None` at the end, or if a checksum does not match.
pub(super) fn next_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(12)?;
    let (length, length_sum) = header.split_at(8);
    if masked_crc32c(length).to_le_bytes() != length_sum {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    if length.checked_add(FRAME)? > bytes.len() {
        return None;
    }
    let (data, rest) = rest.split_at(length);
    let (data_sum, rest) = rest.split_at(4);
    (masked_crc32c(data).to_le_bytes() == data_sum).then_some((data, rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scalars(dir: &Path) -> Vec<(i64, f32)> {
        let files = event_files(dir).unwrap();
        let events = events_up_to(files.last(), u64::MAX >> 1).unwrap();
        let scalar = |event: &Event| {
            let value = &event.get_summary().get_value()[0];
            value.has_simple_value().then(|| (event.step, value.get_simple_value()))
        };
        events.iter().filter_map(scalar).collect()
    }

    #[test]
    fn a_resumed_file_repeats_no_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::open(dir.path(), None).unwrap();
        events.text("config", "seed = 1").unwrap();
        (1..=5).for_each(|step| events.scalar("train/loss", 1.0, step).unwrap());
        events.flush().unwrap();
        drop(events);
        // An interruption in the middle of writing a record.
        let file = event_files(dir.path()).unwrap().remove(0);
        let length = fs::metadata(&file).unwrap().len();
        OpenOptions::new().write(true).open(&file).unwrap().set_len(length - 5).unwrap();

        let mut events = Events::open(dir.path(), Some(3)).unwrap();
        (4..=6).for_each(|step| events.scalar("train/loss", 2.0, step).unwrap());
        events.flush().unwrap();
        assert_eq!(event_files(dir.path()).unwrap().len(), 1);
        assert_eq!(scalars(dir.path()), [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]);
    }

    #[test]
    fn a_resume_that_was_cut_off_doubles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::open(dir.path(), None).unwrap();
        events.scalar("train/loss", 1.0, 1).unwrap();
        events.flush().unwrap();
        let first = event_files(dir.path()).unwrap().remove(0);
        let kept = fs::read(&first).unwrap();
        drop(Events::open(dir.path(), Some(1)).unwrap());
        // Killed between writing the new file and removing the old one.
        fs::write(&first, kept).unwrap();
        drop(Events::open(dir.path(), Some(1)).unwrap());
        assert_eq!(event_files(dir.path()).unwrap().len(), 1);
        assert_eq!(scalars(dir.path()), [(1, 1.0)]);
    }

    #[test]
    fn a_fresh_start_forgets_the_events_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = Events::open(dir.path(), None).unwrap();
        events.scalar("train/loss", 1.0, 1).unwrap();
        drop(events);
        drop(Events::open(dir.path(), None).unwrap());
        assert_eq!(scalars(dir.path()), []);
        assert_eq!(event_files(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn damaged_records_end_the_reading() {
        assert!(next_record(&[]).is_none());
        assert!(next_record(&[255; 40]).is_none());
    }
}

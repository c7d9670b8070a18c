//! Checkpoints: everything that a stage needs to resume, with a checksum that detects damage.

use super::trend::Trend;
use crate::data::Position;
use crate::fsutil::{create_dir, hex, write_atomic, write_atomic_with};
use crate::runs::files::CHECKPOINTS;
use anyhow::{Context, Result, bail};
use safetensors::{Dtype, SafeTensors, View, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The progress of a training at a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Optimizer steps taken.
    pub step: u64,
    /// The position at which the next batch begins.
    pub position: Position,
    /// Target tokens trained on so far.
    pub tokens: u64,
    /// Floating-point operations so far.
    pub flops: f64,
    /// Seconds of training so far, over all attempts.
    pub seconds: f64,
    /// The state of the smoothed loss.
    #[serde(default)]
    pub trend: Trend,
    /// The lowest validation loss so far; `None` before the first validation.
    #[serde(default)]
    pub best_val: Option<f64>,
}

/// The purpose of a checkpoint, which decides how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// To resume from; removed once there are enough newer ones.
    ForNow,
    /// Kept permanently.
    ForGood,
    /// The one with the lowest validation loss; replaces the previous best.
    AsBest,
}

/// A checkpoint read from its file.
pub struct Saved {
    /// The progress of the training.
    pub about: Checkpoint,
    /// The trainer's state: arrays by name.
    pub state: BTreeMap<String, Vec<f32>>,
}

/// The checkpoints of a stage run; a file holds a checksum, a length, the progress as JSON, and the state as safetensors.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
    keep_every: u64,
}

const CHECKSUM: usize = 32;

/// File name of the checkpoint with the lowest validation loss.
const BEST: &str = "best.ckpt";

impl Checkpoints {
    /// The checkpoints in `dir`: the newest `keep` stay, and permanently those of every `keep_every`-th step.
    pub fn new(dir: &Path, keep: usize, keep_every: u64) -> Self {
        Self { dir: dir.into(), keep: keep.max(1), keep_every }
    }

    /// Writes a checkpoint and removes those in excess of `keep`.
    ///
    /// `state` is the trainer's: arrays by name.
    pub fn write(&self, about: &Checkpoint, state: &[(&str, Cow<'_, [f32]>)], keep: Keep) -> Result<()> {
        create_dir(&self.dir)?;
        let of_step = self.dir.join(name(about.step));
        match keep {
            Keep::AsBest => write(&self.dir.join(BEST), about, state)?,
            Keep::ForNow | Keep::ForGood => write(&of_step, about, state)?,
        }
        // Checkpoints of later steps are damaged: training resumed from before them. They would displace intact ones.
        let (earlier, later): (Vec<_>, Vec<_>) =
            self.removable()?.into_iter().partition(|path| keep == Keep::AsBest || *path <= of_step);
        remove(&later)?;
        remove(&earlier[..earlier.len().saturating_sub(self.keep)])
    }

    /// Copies another training's checkpoint of this step into this folder.
    pub fn adopt(&self, path: &Path, step: u64) -> Result<()> {
        create_dir(&self.dir)?;
        let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        write_atomic(&self.dir.join(name(step)), &bytes)
    }

    /// Whether there is a checkpoint, intact or not.
    pub fn any(&self) -> bool {
        self.files().is_ok_and(|files| !files.is_empty())
    }

    /// Reads the newest intact checkpoint; logs a warning for each damaged one that it skips.
    pub fn newest(&self) -> Result<Option<Saved>> {
        for path in self.files()?.into_iter().rev() {
            match read(&path) {
                Ok(saved) => return Ok(Some(saved)),
                Err(e) => tracing::warn!("{}: {e:#}; using the checkpoint before it", path.display()),
            }
        }
        Ok(None)
    }

    /// Removes all checkpoints except those kept permanently.
    pub fn clear(&self) -> Result<()> {
        remove(&self.removable()?)
    }

    /// The files that are not kept permanently, oldest first.
    fn removable(&self) -> Result<Vec<PathBuf>> {
        let mut files = self.files()?;
        files.retain(|path| {
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let step = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok());
            step.is_some_and(|step| self.keep_every == 0 || !step.is_multiple_of(self.keep_every))
        });
        Ok(files)
    }

    /// The files, oldest first; the best one comes first, since it may be older than any other.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Ok(vec![]) };
        let mut files: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "ckpt"))
            .collect();
        files.sort();
        Ok(files)
    }
}

/// The path of the checkpoint of the last step in the folder of a stage run, intact or not.
pub fn newest(run: &Path) -> Option<PathBuf> {
    Checkpoints::new(&run.join(CHECKPOINTS), 1, 0).removable().ok()?.pop()
}

/// The file name of the checkpoint of a step.
fn name(step: u64) -> String {
    format!("step-{step:010}.ckpt")
}

/// Writes a checkpoint file.
///
/// `state` is the trainer's: arrays by name.
pub fn write(path: &Path, about: &Checkpoint, state: &[(&str, Cow<'_, [f32]>)]) -> Result<()> {
    let about = serde_json::to_vec(about)?;
    let mut head = (about.len() as u64).to_le_bytes().to_vec();
    head.extend(about);
    let numbers = state.iter().map(|(name, numbers)| (*name, Numbers(numbers, numbers.len())));
    let tensors = safetensors::serialize(numbers, None).context("the state of training")?;
    let digest = Sha256::new().chain_update(&head).chain_update(&tensors).finalize();
    write_atomic_with(path, |out| {
        Ok([digest.as_slice(), &head, &tensors].into_iter().try_for_each(|part| out.write_all(part))?)
    })
}

fn remove(files: &[PathBuf]) -> Result<()> {
    for path in files {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{}: cannot be removed", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads a checkpoint file and verifies its checksum.
pub fn read(path: &Path) -> Result<Saved> {
    let file = std::fs::read(path).context("cannot be read")?;
    let Some((checksum, body)) = file.split_at_checked(CHECKSUM) else { bail!("is truncated") };
    let found = Sha256::digest(body);
    if found.as_slice() != checksum {
        bail!("is damaged: its checksum is {}, expected {}", hex(&found), hex(checksum));
    }
    let (length, rest) = body.split_first_chunk::<8>().context("is truncated")?;
    let (about, state) =
        rest.split_at_checked(u64::from_le_bytes(*length) as usize).context("is truncated")?;
    let about = serde_json::from_slice(about).context("is of another version")?;
    let state = SafeTensors::deserialize(state)?;
    let numbers = |(name, view): (String, TensorView)| {
        let (numbers, _) = view.data().as_chunks::<4>();
        (name, numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
    };
    Ok(Saved { about, state: state.tensors().into_iter().map(numbers).collect() })
}

/// An array in a safetensors file, with its length, which is its shape.
struct Numbers<'a>(&'a [f32], usize);

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        std::array::from_ref(&self.1)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.iter().flat_map(|number| number.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn about(step: u64) -> Checkpoint {
        let position = Position { epoch: 1, row: 7 };
        let trend = Trend::default();
        Checkpoint { step, position, tokens: 9, flops: 1e9, seconds: 0.5, trend, best_val: None }
    }

    fn state(value: f32) -> [(&'static str, Cow<'static, [f32]>); 1] {
        [("weights", Cow::Owned(vec![value, 2.0]))]
    }

    fn names(checkpoints: &Checkpoints) -> Vec<String> {
        let name = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        checkpoints.files().unwrap().iter().map(name).collect()
    }

    #[test]
    fn the_newest_whole_checkpoint_serves() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 2, 0);
        assert!(checkpoints.newest().unwrap().is_none());
        for step in [10, 20, 30] {
            checkpoints.write(&about(step), &state(step as f32), Keep::ForNow).unwrap();
        }
        assert_eq!(checkpoints.files().unwrap().len(), 2);
        let saved = checkpoints.newest().unwrap().unwrap();
        assert_eq!(saved.about, about(30));
        assert_eq!(saved.state["weights"], [30.0, 2.0]);
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 1, 0);
        let mut trend = Trend::default();
        for step in 1..200 {
            let number = (f64::from(step as u32) * 0.7).exp().sqrt() / 3.0;
            trend.add(number);
            let (flops, seconds, best_val) = (number * 1e9, number / 7.0, Some(number.sqrt()));
            let about = Checkpoint { flops, seconds, best_val, trend, ..about(step) };
            checkpoints.write(&about, &state(0.0), Keep::ForNow).unwrap();
            assert_eq!(checkpoints.newest().unwrap().unwrap().about, about);
        }
    }

    #[test]
    fn any_damage_to_the_newest_makes_the_one_before_serve() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 2, 0);
        for step in [10, 20] {
            checkpoints.write(&about(step), &state(step as f32), Keep::ForNow).unwrap();
        }
        let newest = checkpoints.files().unwrap().pop().unwrap();
        let whole = std::fs::read(&newest).unwrap();
        let serves = |bytes: &[u8]| {
            std::fs::write(&newest, bytes).unwrap();
            checkpoints.newest().unwrap().unwrap().about.step
        };
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            assert_eq!(serves(&flipped), 10, "byte {at} flipped");
            assert_eq!(serves(&whole[..at]), 10, "cut at {at}");
        }
        assert_eq!(serves(&whole), 20);
    }

    #[test]
    fn damaged_checkpoints_of_later_steps_displace_none() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 2, 0);
        for step in [80, 90] {
            std::fs::write(dir.path().join(name(step)), "damaged").unwrap();
        }
        checkpoints.write(&about(10), &state(1.0), Keep::ForNow).unwrap();
        assert_eq!(names(&checkpoints), ["step-0000000010"]);
        assert_eq!(checkpoints.newest().unwrap().unwrap().about.step, 10);
    }

    #[test]
    fn some_checkpoints_stay_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 2, 20);
        for step in [10, 20, 30, 40, 50, 55, 57] {
            let keep = if step % 20 == 0 { Keep::ForGood } else { Keep::ForNow };
            checkpoints.write(&about(step), &state(1.0), keep).unwrap();
        }
        checkpoints.write(&about(30), &state(3.0), Keep::AsBest).unwrap();
        let kept = ["best", "step-0000000020", "step-0000000040"];
        let newest = ["step-0000000055", "step-0000000057"];
        assert_eq!(names(&checkpoints), [kept.as_slice(), &newest].concat());
        assert_eq!(checkpoints.newest().unwrap().unwrap().about.step, 57);
        checkpoints.clear().unwrap();
        assert_eq!(names(&checkpoints), kept);
    }
}

//! Checkpoints: all that a stage needs to go on, with a checksum that tells a damaged one.

use crate::data::Position;
use crate::run::files::{create_dir, hex, write_atomic};
use anyhow::{Context, Result, bail};
use model::weights::NamedTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Where training stood.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Optimizer steps taken.
    pub step: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Floating-point operations of training.
    pub flops: f64,
    /// Seconds of training.
    pub seconds: f64,
}

/// A checkpoint as read.
pub struct Saved {
    /// Where training stood.
    pub about: Checkpoint,
    /// The trainer's state.
    pub state: NamedTensors,
}

/// The checkpoints of a stage run; a file is its checksum, a length, where training stood, and the state.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
}

const CHECKSUM: usize = 32;

impl Checkpoints {
    /// Those in `dir`, of which the newest `keep` stay.
    pub fn new(dir: &Path, keep: usize) -> Self {
        Self { dir: dir.into(), keep: keep.max(1) }
    }

    /// Writes one and removes those that are too many.
    pub fn write(&self, about: &Checkpoint, state: &NamedTensors) -> Result<()> {
        create_dir(&self.dir)?;
        let about_bytes = serde_json::to_vec(about)?;
        let mut body = (about_bytes.len() as u64).to_le_bytes().to_vec();
        body.extend(about_bytes);
        body.extend(safetensors::serialize(state, None).context("the state of training")?);
        let mut file = Sha256::digest(&body).to_vec();
        file.extend(body);
        write_atomic(&self.dir.join(format!("step-{:010}.ckpt", about.step)), &file)?;
        let files = self.files()?;
        for old in &files[..files.len().saturating_sub(self.keep)] {
            std::fs::remove_file(old).with_context(|| format!("{}: cannot be removed", old.display()))?;
        }
        Ok(())
    }

    /// The newest whole one; damaged ones are told on the log and passed over.
    pub fn newest(&self) -> Result<Option<Saved>> {
        for path in self.files()?.into_iter().rev() {
            match read(&path) {
                Ok(saved) => return Ok(Some(saved)),
                Err(e) => tracing::warn!("{}: {e:#}; taking the checkpoint before it", path.display()),
            }
        }
        Ok(None)
    }

    /// Removes all.
    pub fn clear(&self) -> Result<()> {
        for path in self.files()? {
            std::fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
        Ok(())
    }

    /// The files, oldest first.
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

fn read(path: &Path) -> Result<Saved> {
    let file = std::fs::read(path).context("cannot be read")?;
    let Some((checksum, body)) = file.split_at_checked(CHECKSUM) else { bail!("is cut off") };
    let found = Sha256::digest(body);
    if found.as_slice() != checksum {
        bail!("is damaged: its checksum is {}, expected {}", hex(&found), hex(checksum));
    }
    let (length, rest) = body.split_first_chunk::<8>().context("is cut off")?;
    let (about, state) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).context("is cut off")?;
    let about = serde_json::from_slice(about).context("is of another version")?;
    let state = candle_core::safetensors::load_buffer(state, &candle_core::Device::Cpu)?;
    Ok(Saved { about, state: state.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::{Device, Tensor};

    fn about(step: u64) -> Checkpoint {
        Checkpoint { step, position: Position { epoch: 1, row: 7 }, tokens: 9, flops: 1e9, seconds: 0.5 }
    }

    #[test]
    fn the_newest_whole_checkpoint_serves() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), 2);
        assert!(checkpoints.newest().unwrap().is_none());
        let state = |v: f32| [("weights".to_string(), Tensor::new(&[v, 2.0], &Device::Cpu).unwrap())].into();
        for step in [10, 20, 30] {
            checkpoints.write(&about(step), &state(step as f32)).unwrap();
        }
        assert_eq!(checkpoints.files().unwrap().len(), 2);
        let saved = checkpoints.newest().unwrap().unwrap();
        assert_eq!(saved.about, about(30));
        assert_eq!(saved.state["weights"].to_vec1::<f32>().unwrap(), [30.0, 2.0]);
        let newest = checkpoints.files().unwrap().pop().unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&newest, &bytes).unwrap();
        assert_eq!(checkpoints.newest().unwrap().unwrap().about.step, 20);
        std::fs::write(&newest, &bytes[..20]).unwrap();
        assert_eq!(checkpoints.newest().unwrap().unwrap().about.step, 20);
    }
}

//! Sharded weights: several files with an index from tensors to files, as transformers writes large models.

use super::{NamedTensors, read_pth, read_safetensors};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Suffix of the name of an index.
pub const INDEX: &str = ".index.json";

/// Contents of `model.safetensors.index.json` or `pytorch_model.bin.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads every tensor that an index lists.
///
/// # Errors
/// If the index or a file cannot be read, a file is outside the folder of the index, or the tensors of a file differ from
/// those that the index lists for it.
pub fn read_shards(index: &Path) -> Result<NamedTensors> {
    let text = std::fs::read_to_string(index).map_err(|e| Error::file(index, e.to_string()))?;
    let Index { weight_map } = serde_json::from_str(&text)
        .map_err(|e| Error::file(index, format!("{e}; expected a weight_map from tensors to files")))?;
    let files: BTreeSet<&String> = weight_map.values().collect();
    let mut found = NamedTensors::new();
    for file in files {
        let path = index.with_file_name(file);
        if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) {
            return Err(Error::file(index, format!("names {file:?}, expected a file in its own folder")));
        }
        let tensors = match path.extension().and_then(|end| end.to_str()) {
            Some("safetensors") => read_safetensors(&path)?,
            _ => read_pth(&path)?,
        };
        for (name, tensor) in tensors {
            if weight_map.get(&name) != Some(file) {
                let wanted = weight_map
                    .get(&name)
                    .map_or("does not list it".into(), |at| format!("assigns it to {at}"));
                return Err(Error::weights(
                    &path,
                    &name,
                    format!("is in this file, but {} {wanted}", index.display()),
                ));
            }
            found.insert(name, tensor);
        }
    }
    match weight_map.iter().find(|(name, _)| !found.contains_key(*name)) {
        Some((name, file)) => Err(Error::weights(&index.with_file_name(file), name, "missing".into())),
        None => Ok(found),
    }
}

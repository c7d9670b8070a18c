//! Reading and writing of safetensors files.

use super::NamedTensors;
use crate::layout::Layout;
use crate::{Error, Result};
use candle_core::Device;
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::path::Path;

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn read_safetensors(path: &Path) -> Result<NamedTensors> {
    let fail = |e: &dyn std::fmt::Display| Error::file(path, format!("not a readable safetensors file: {e}"));
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e.to_string()))?;
    let tensors =
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| fail(&Error::from(e)))?;
    Ok(tensors.into_iter().collect())
}

/// Returns the contents of a safetensors file with all weights as f32; equal weights give equal bytes.
///
/// # Errors
/// If a weight is not finite.
pub fn write_safetensors(layout: &Layout, flat: &[f32]) -> Result<Vec<u8>> {
    layout.check_finite(flat)?;
    let tensors = layout.params.iter().map(|param| (&param.name, &param.shape, &flat[param.range.clone()]));
    serialize(tensors, false)
}

/// Returns the contents of a safetensors file with f32 tensors; `for_torch` adds the metadata that transformers expects.
pub(super) fn serialize<'a>(
    tensors: impl Iterator<Item = (&'a String, &'a Vec<usize>, &'a [f32])>,
    for_torch: bool,
) -> Result<Vec<u8>> {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let all: Vec<_> = tensors.map(|(name, shape, values)| (name, shape, bytes(values))).collect();
    let views = all.iter().map(|(name, shape, data)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data);
        view.map(|view| (name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<std::result::Result<_, _>>().map_err(Error::safetensors)?;
    let about = for_torch.then(|| HashMap::from([("format".to_owned(), "pt".to_owned())]));
    safetensors::serialize(views, about).map_err(Error::safetensors)
}

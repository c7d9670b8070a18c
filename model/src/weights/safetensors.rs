//! Weights as `model.safetensors`.

use super::NamedTensors;
use crate::layout::Layout;
use crate::{Error, Result};
use candle_core::Device;
use std::path::Path;

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// Where the file cannot be read or is damaged.
pub fn read_safetensors(path: &Path) -> Result<NamedTensors> {
    let fail = |e: &dyn std::fmt::Display| Error::file(path, format!("not a readable safetensors file: {e}"));
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e.to_string()))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| fail(&e))?;
    Ok(tensors.into_iter().collect())
}

/// The bytes of a safetensors file with all weights as f32; equal weights give equal bytes.
///
/// # Errors
/// Weights that are not finite are not written.
pub fn write_safetensors(layout: &Layout, flat: &[f32]) -> Result<Vec<u8>> {
    layout.check_finite(flat)?;
    let bytes: Vec<u8> = flat.iter().flat_map(|v| v.to_le_bytes()).collect();
    let views = layout.params.iter().map(|p| {
        let data = &bytes[p.range.start * 4..p.range.end * 4];
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, p.shape.clone(), data)
            .map(|view| (p.name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<std::result::Result<_, _>>().map_err(Error::safetensors)?;
    safetensors::serialize(views, None).map_err(Error::safetensors)
}

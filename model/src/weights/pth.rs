//! Reading of PyTorch's weights files: a zip archive with a pickle, which is read without executing it.

use super::{NamedTensors, pickle};
use crate::{Error, Result};
use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Tensor};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use zip::ZipArchive;

/// Maximum size of the pickle in bytes; that of a state dict takes a few hundred bytes per tensor.
const LARGEST_PICKLE: u64 = 64 << 20;

/// Maximum total size of all tensors, as a multiple of the file size: several tensors may share a storage.
const MAX_EXPANSION: u64 = 8;

type Archive = ZipArchive<BufReader<File>>;

/// Reads every tensor of a `.pth` or `.bin` file.
///
/// # Errors
/// If the file does not exist, is damaged, or does not contain a state dict.
pub fn read_pth(path: &Path) -> Result<NamedTensors> {
    if !path.is_file() {
        return Err(Error::file(path, "no such file".into()));
    }
    let tensors = read(path).map_err(|problem| {
        let expected = "expected a state dict saved by torch.save in its zip format";
        Error::file(path, format!("not a readable PyTorch file: {problem}; {expected}"))
    })?;
    if tensors.is_empty() {
        return Err(Error::file(path, "holds no tensors".into()));
    }
    Ok(tensors)
}

fn read(path: &Path) -> std::result::Result<NamedTensors, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| e.to_string())?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names = names.collect::<std::result::Result<Vec<String>, _>>().map_err(|e| e.to_string())?;
    let pickle = names.iter().find(|name| name.ends_with("data.pkl")).ok_or("it holds no data.pkl")?;
    let folder = pickle.trim_end_matches(".pkl");
    let bytes = entry(&mut archive, pickle, 0, None)?;
    pickle::check(&bytes)?;
    let mut stack = Stack::empty();
    stack.read_loop(&mut bytes.as_slice()).map_err(|e| Error::from(e).to_string())?;
    let Object::Dict(entries) = stack.finalize().map_err(|e| Error::from(e).to_string())? else {
        return Err("its pickle is not a dict".into());
    };
    let (mut tensors, mut left) = (NamedTensors::new(), length.saturating_mul(MAX_EXPANSION));
    for (name, value) in entries {
        let (Object::Unicode(name), Some(stored)) = (name, Stored::of(value)) else { continue };
        let bytes = stored.bytes().ok_or_else(|| format!("{name}: its shape is too large"))?;
        left = left.checked_sub(bytes).ok_or_else(|| format!("{name}: is larger than the file"))?;
        let tensor =
            stored.load(&mut archive, folder, bytes).map_err(|problem| format!("{name}: {problem}"))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// Reads `length` bytes of a file in the archive from an offset on, or if `length` is `None` the file up to
/// [`LARGEST_PICKLE`].
fn entry(
    archive: &mut Archive,
    name: &str,
    offset: u64,
    length: Option<u64>,
) -> std::result::Result<Vec<u8>, String> {
    let mut entry = archive.by_name(name).map_err(|e| format!("{name}: {e}"))?;
    let length = length.unwrap_or(LARGEST_PICKLE.min(entry.size()));
    if offset.checked_add(length).is_none_or(|end| end > entry.size()) {
        return Err(format!("{name} has {} bytes, expected {length} from byte {offset} on", entry.size()));
    }
    std::io::copy(&mut entry.by_ref().take(offset), &mut std::io::sink()).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    entry.take(length).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(format!("{name} is truncated")),
    }
}

/// Location and layout of the values of a tensor in the archive.
struct Stored {
    file: String,
    dtype: DType,
    offset: u64,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Stored {
    /// Interprets a call in the pickle that creates a tensor; `None` for any other value, such as a counter or a setting.
    fn of(value: Object) -> Option<Self> {
        let (callable, args) = value.reduce().ok()?;
        let (module, function) = callable.class().ok()?;
        let args = args.tuple().ok()?;
        match (module.as_str(), function.as_str()) {
            ("torch._utils", "_rebuild_tensor_v2") => Self::rebuilt(args),
            // Arguments: (tensor, requires_grad, hooks).
            ("torch._utils", "_rebuild_parameter") => Self::of(args.into_iter().next()?),
            // Arguments: (function, type, arguments of the function, state).
            ("torch._tensor", "_rebuild_from_type_v2") => {
                Self::rebuilt(args.into_iter().nth(2)?.tuple().ok()?)
            }
            _ => None,
        }
    }

    /// Interprets the arguments of `torch._utils._rebuild_tensor_v2`: storage, offset, size, strides and others.
    fn rebuilt(args: Vec<Object>) -> Option<Self> {
        let mut args = args.into_iter();
        // A storage is identified by ("storage", class, file, device, length).
        let mut storage = args.next()?.persistent_load().ok()?.tuple().ok()?.into_iter().skip(1);
        let (_, class) = storage.next()?.class().ok()?;
        let file = storage.next()?.unicode().ok()?;
        let dtype = match class.as_str() {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "ByteStorage" => DType::U8,
            "LongStorage" => DType::I64,
            _ => return None,
        };
        let offset = u64::try_from(args.next()?.int_or_long().ok()?).ok()?;
        let shape = Vec::<usize>::try_from(args.next()?).ok()?;
        let strides = Vec::<usize>::try_from(args.next()?).ok()?;
        let offset = offset.checked_mul(dtype.size_in_bytes() as u64)?;
        (shape.len() == strides.len()).then_some(Self { file, dtype, offset, shape, strides })
    }

    fn bytes(&self) -> Option<u64> {
        let width = self.dtype.size_in_bytes() as u64;
        self.shape.iter().try_fold(width, |bytes, &dim| bytes.checked_mul(dim as u64))
    }

    fn load(&self, archive: &mut Archive, folder: &str, bytes: u64) -> std::result::Result<Tensor, String> {
        let from_last = |dims: &[usize]| -> Vec<usize> {
            let mut strides: Vec<usize> = dims
                .iter()
                .rev()
                .scan(1, |next, &dim| {
                    let stride = *next;
                    *next *= dim.max(1);
                    Some(stride)
                })
                .collect();
            strides.reverse();
            strides
        };
        // The stride of a dimension with one element, or of an empty tensor, is irrelevant.
        let same = |expected: &[usize]| {
            let mut dims = self.shape.iter().zip(self.strides.iter().zip(expected));
            dims.all(|(&dim, (stride, expected))| dim <= 1 || stride == expected) || bytes == 0
        };
        let reversed: Vec<usize> = self.shape.iter().rev().copied().collect();
        let mut by_column = from_last(&reversed);
        by_column.reverse();
        let is_transposed = !same(&from_last(&self.shape));
        if is_transposed && !same(&by_column) {
            return Err(format!(
                "has strides {:?} for shape {:?}, expected them dense",
                self.strides, self.shape
            ));
        }
        let data = entry(archive, &format!("{folder}/{}", self.file), self.offset, Some(bytes))?;
        let stored = if is_transposed { &reversed } else { &self.shape };
        let tensor = Tensor::from_raw_buffer(&data, self.dtype, stored, &Device::Cpu);
        let turned = tensor.and_then(|tensor| {
            if is_transposed {
                tensor.permute((0..reversed.len()).rev().collect::<Vec<_>>())
            } else {
                Ok(tensor)
            }
        });
        turned.map_err(|e| Error::from(e).to_string())
    }
}

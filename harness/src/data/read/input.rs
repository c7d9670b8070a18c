//! The bytes of a file: decompressed, a byte order mark left out.

use super::MAX_ROW_BYTES;
use super::zstd::Frames;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// A file's content, ready to be read line by line.
pub(super) type Input = Box<dyn BufRead + Send>;

const BUFFER: usize = 1 << 16;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// A part of the layout's name.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => ", gzip",
            Self::Zstd => ", zstd",
        }
    }
}

/// What is left of a name's extension, in lower case, after `.gz` or `.zst`: with it, content is read in one way.
pub fn extension(path: &Path) -> String {
    match last_extension(path).as_str() {
        "gz" | "gzip" | "zst" | "zstd" => last_extension(&path.with_extension("")),
        plain => plain.into(),
    }
}

fn last_extension(path: &Path) -> String {
    path.extension().map(|text| text.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Opens a file; the extension returned is what is left of its name's, in lower case, after `.gz` or `.zst`.
pub(super) fn open(path: &Path) -> Result<(Input, Compression, String)> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("{shown}: cannot be read"))?;
    let mut raw = BufReader::with_capacity(BUFFER, file);
    let start = raw.fill_buf().with_context(|| format!("{shown}: cannot be read"))?;
    let compression = match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [] => bail!("{shown}: the file is empty"),
        _ => Compression::Plain,
    };
    let named = match last_extension(path).as_str() {
        "gz" | "gzip" => Compression::Gzip,
        "zst" | "zstd" => Compression::Zstd,
        _ => Compression::Plain,
    };
    if named != Compression::Plain && named != compression {
        bail!("{shown}: the name says {named:?} and the content says {compression:?}; name it as it is");
    }
    let mut input: Input = match compression {
        Compression::Plain => Box::new(raw),
        Compression::Gzip => {
            Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(raw)))
        }
        Compression::Zstd => Box::new(BufReader::with_capacity(BUFFER, Frames::new(raw))),
    };
    let start = input.fill_buf().with_context(|| format!("{shown}: cannot be decompressed"))?;
    match start {
        [] => bail!("{shown}: the file is empty"),
        [0xef, 0xbb, 0xbf, ..] => input.consume(3),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => bail!("{shown}: is UTF-16, expected UTF-8"),
        _ => {}
    }
    Ok((input, compression, extension(path)))
}

/// Reads a line without its end into `line`; `false` at the end of the input. The bound on rows is an error.
pub(super) fn read_line(input: &mut Input, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = input.by_ref().take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() > MAX_ROW_BYTES {
        return Err(too_long());
    }
    Ok(read > 0)
}

/// The error of a row that is over the bound.
pub(super) fn too_long() -> io::Error {
    io::Error::other(format!("a row is longer than {} MiB", MAX_ROW_BYTES >> 20))
}

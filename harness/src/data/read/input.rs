//! The decompressed bytes of a file, without a byte order mark.

use super::MAX_ROW_BYTES;
use super::zstd::Frames;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Buffered content of a file.
pub(super) type Input = Box<dyn BufRead + Send>;

const BUFFER: usize = 1 << 16;

/// Compression of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// Returns the name for messages.
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the suffix for the layout's description.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => ", gzip",
            Self::Zstd => ", zstd",
        }
    }
}

/// Returns the extension of a name in lower case, ignoring `.gz` and `.zst`; it determines how the content is read.
pub fn extension(path: &Path) -> String {
    match last_extension(path).as_str() {
        "gz" | "gzip" | "zst" | "zstd" => last_extension(&path.with_extension("")),
        plain => plain.into(),
    }
}

fn last_extension(path: &Path) -> String {
    path.extension().map(|text| text.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Opens a file; also returns its compression and its [`extension`].
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
        let (named, found) = (named.name(), compression.name());
        bail!("{shown}: expected {named} by its extension, but its content is {found}; rename the file");
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
        // With a byte order mark, or beginning with two characters that ASCII has.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..] => {
            bail!("{shown}: is UTF-16, expected UTF-8")
        }
        _ => {}
    }
    Ok((input, compression, extension(path)))
}

/// Reads a line without its line ending into `line`; `false` at the end of the input. A line over the bound is an error.
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

/// Returns the error for a row longer than [`MAX_ROW_BYTES`].
pub(super) fn too_long() -> io::Error {
    io::Error::other(format!("a row is longer than {} MiB", MAX_ROW_BYTES >> 20))
}

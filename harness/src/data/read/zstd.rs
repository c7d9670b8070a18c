//! Decompression of zstd files with all their frames, as by `zstd -d` (RFC 8878).

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, Read};

/// Content of a file, frame after frame; skippable frames are skipped and checksums are verified.
pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether the decoder is inside a frame.
    is_open: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), is_open: false }
    }

    /// Starts the next frame with content; `false` at the end of the file.
    fn open(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io_error(&error)),
            }
        }
        Ok(false)
    }

    fn close(&mut self) -> io::Result<()> {
        self.is_open = false;
        match self.decoder.get_checksum_from_data() {
            Some(expected) if Some(expected) != self.decoder.get_calculated_checksum() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a zstd frame does not match"))
            }
            _ => Ok(()),
        }
    }
}

/// Converts an error without its chain of causes, which its text already includes.
fn io_error(error: &FrameDecoderError) -> io::Error {
    io::Error::other(error.to_string())
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            if !self.is_open {
                self.is_open = self.open()?;
                if !self.is_open {
                    break;
                }
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io_error(&error))?;
            }
            match self.decoder.read(out)? {
                0 if self.decoder.is_finished() => self.close()?,
                0 => {}
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn frame(content: &[u8]) -> Vec<u8> {
        compress_to_vec(content, CompressionLevel::Fastest)
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut found = vec![];
        Frames::new(bytes).read_to_end(&mut found).map(|_| found)
    }

    #[test]
    fn all_frames_are_read_and_those_to_be_skipped_are() {
        let long = "天地玄黄".repeat(50_000).into_bytes();
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let file = [frame(b"one "), skipped.clone(), frame(b""), frame(&long), skipped].concat();
        assert_eq!(read(&file).unwrap(), [b"one ".as_slice(), &long].concat());
    }

    #[test]
    fn damage_is_an_error() {
        // `printf 'some text\n' | zstd` of zstd 1.5: the last four bytes are the checksum.
        let whole = [
            0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x51, 0x00, 0x00, 0x73, 0x6f, 0x6d, 0x65, 0x20, 0x74, 0x65,
            0x78, 0x74, 0x0a, 0x02, 0xe5, 0x1a, 0x06,
        ];
        assert_eq!(read(&whole).unwrap(), b"some text\n");
        for place in 4..whole.len() {
            let mut damaged = whole;
            damaged[place] ^= 1;
            // A flipped bit that only enlarges the window is harmless.
            assert!(read(&damaged).map_or(true, |found| found == b"some text\n"), "byte {place}");
            assert!(read(&whole[..place]).is_err(), "{place} bytes");
        }
    }
}

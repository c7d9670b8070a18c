//! Exams as folders of sheets, `<subject>_val.csv` and `<subject>_dev.csv`, from the archives of C-Eval and CMMLU.
//!
//! C-Eval has `val/<subject>_val.csv` and `dev/<subject>_dev.csv`, which are copied byte by byte; its `test` has no
//! answers and is skipped. CMMLU has `test/<subject>.csv` and `dev/<subject>.csv` with the columns Question, A, B, C, D
//! and Answer; its `test` has answers and becomes the exam.

use crate::exam::read_sheets;
use crate::fsutil::write_atomic;
use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zip::CompressionMethod;
use zip::ZipArchive;

/// Maximum size of a sheet, in bytes.
const LARGEST: u64 = 64 << 20;

/// Extracts the sheets of an archive into a folder.
pub fn unpack(archive: &Path, dir: &Path) -> Result<()> {
    let shown = || format!("{}: the archive of sheets", archive.display());
    let mut zip = ZipArchive::new(File::open(archive).with_context(shown)?).with_context(shown)?;
    let mut count = 0;
    for index in 0..zip.len() {
        let Some((name, bytes)) = content(&mut zip, index).with_context(shown)? else { continue };
        let converted = convert(&bytes).with_context(|| name.clone())?;
        write_atomic(&dir.join(&name), converted.as_deref().unwrap_or(&bytes))?;
        count += 1;
    }
    ensure!(count > 0, "{}: holds no val/*_val.csv, dev/*.csv or test/*.csv", archive.display());
    for split in ["val", "dev"] {
        if let Err(error) = read_sheets(dir, split) {
            // The sheets are kept as published; an exam on them reports the same problem.
            tracing::warn!("{error:#}");
        }
    }
    Ok(())
}

/// Returns the sheet's file name and content for a file of an archive; `None` if it is not a sheet with answers.
fn content(zip: &mut ZipArchive<File>, index: usize) -> Result<Option<(String, Vec<u8>)>> {
    let mut file = zip.by_index_raw(index)?;
    let path = file.name()?.into_owned();
    let Some(name) = sheet_name(&path) else { return Ok(None) };
    let (size, crc) = (file.size(), file.crc32());
    ensure!(size <= LARGEST, "{path}: {size} bytes, expected at most {LARGEST}");
    let mut bytes = vec![];
    // The crate zip is built without decompressors, because this program has one already.
    match file.compression() {
        CompressionMethod::Stored => file.read_to_end(&mut bytes),
        CompressionMethod::DEFLATE => {
            DeflateDecoder::new(&mut file).take(LARGEST + 1).read_to_end(&mut bytes)
        }
        other => bail!("{path}: is compressed by {other:?}, expected deflate"),
    }?;
    let mut found = Crc::new();
    found.update(&bytes);
    ensure!(bytes.len() as u64 == size && found.sum() == crc, "{path}: is damaged");
    Ok(Some((name, bytes)))
}

/// Returns the name of a sheet: both `val/law_val.csv` and `test/law.csv` become `law_val.csv`.
fn sheet_name(path: &str) -> Option<String> {
    let mut parts = path.rsplit('/');
    let (file, folder) = (parts.next()?, parts.next()?);
    let subject = file.strip_suffix(".csv")?;
    let is_plain = |c: char| c.is_alphanumeric() || "-_".contains(c);
    if subject.is_empty() || !subject.chars().all(is_plain) || path.contains("__MACOSX") {
        return None;
    }
    match folder {
        "val" => Some(format!("{}_val.csv", subject.trim_end_matches("_val"))),
        "dev" => Some(format!("{}_dev.csv", subject.trim_end_matches("_dev"))),
        // C-Eval's test sheets have no answers.
        "test" if !subject.ends_with("_test") => Some(format!("{subject}_val.csv")),
        _ => None,
    }
}

/// Converts a sheet from CMMLU's columns to C-Eval's; `None` if it has C-Eval's already.
fn convert(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut rows = csv::Reader::from_reader(bytes);
    let names = rows.headers()?.clone();
    let column = |name: &str| names.iter().position(|known| known.trim() == name);
    if column("question").is_some() {
        return Ok(None);
    }
    let wanted = ["Question", "A", "B", "C", "D", "Answer"].map(|name| {
        column(name).ok_or_else(|| {
            let shown = names.iter().collect::<Vec<_>>().join(",");
            anyhow!("has the columns {shown} and no {name}")
        })
    });
    let wanted = wanted.into_iter().collect::<Result<Vec<_>>>()?;
    let mut out = csv::Writer::from_writer(vec![]);
    out.write_record(["id", "question", "A", "B", "C", "D", "answer"])?;
    for (number, row) in rows.records().enumerate() {
        let row = row?;
        // CMMLU's first column numbers the rows and has an empty name.
        let id = match &names[0] {
            "" => row[0].to_owned(),
            _ => number.to_string(),
        };
        out.write_record([id.as_str()].into_iter().chain(wanted.iter().map(|&place| &row[place])))?;
    }
    Ok(Some(out.into_inner()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// Creates an archive of uncompressed files.
    pub fn archive(path: &Path, files: &[(&str, &str)]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, text) in files {
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            zip.start_file(*name, options).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn archives_become_sheets() {
        let dir = tempfile::tempdir().unwrap();
        let (path, out) = (dir.path().join("a.zip"), dir.path().join("out"));
        fs::create_dir(&out).unwrap();
        let ceval = "id,question,A,B,C,D,answer\r\n0,q,a,b,c,d,A\r\n";
        archive(
            &path,
            &[
                ("ceval/val/law_val.csv", ceval),
                ("ceval/test/law_test.csv", "id,question,A,B,C,D\n0,q,a,b,c,d\n"),
                ("test/arts.csv", ",Question,A,B,C,D,Answer\n7,\"x, y\",a,b,c,d,D\n"),
                ("dev/arts.csv", ",Question,A,B,C,D,Answer\n0,z,a,b,c,d,B\n"),
                ("__MACOSX/val/law_val.csv", "junk"),
                ("../val/evil/../x.csv", "junk"),
                ("readme.md", "read"),
            ],
        );
        unpack(&path, &out).unwrap();
        let mut names: Vec<String> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["arts_dev.csv", "arts_val.csv", "law_val.csv"]);
        assert_eq!(fs::read_to_string(out.join("law_val.csv")).unwrap(), ceval);
        let sheets = read_sheets(&out, "val").unwrap();
        assert_eq!(
            (sheets[0].questions[0].id.as_str(), sheets[0].questions[0].question.as_str()),
            ("7", "x, y")
        );
        assert_eq!((sheets[0].questions[0].answer, sheets[1].subject.as_str()), ('D', "law"));
    }

    #[test]
    fn compressed_and_damaged_archives_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zip");
        // Made with Python's zipfile: val/law_val.csv, deflated.
        let whole = DEFLATED;
        fs::write(&path, whole).unwrap();
        unpack(&path, dir.path()).unwrap();
        assert_eq!(read_sheets(dir.path(), "val").unwrap()[0].questions.len(), 3);
        let mut damaged = whole.to_vec();
        damaged[60] ^= 1;
        fs::write(&path, damaged).unwrap();
        unpack(&path, dir.path()).unwrap_err();
        archive(&path, &[("readme.md", "read")]);
        let error = unpack(&path, dir.path()).unwrap_err().to_string();
        assert!(error.contains("holds no val/*_val.csv"), "{error}");
    }

    const DEFLATED: &[u8] = include_bytes!("tests/sheets.zip");
}

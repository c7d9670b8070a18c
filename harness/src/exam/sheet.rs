//! Question sheets: `<subject>_val.csv` with id, question, A, B, C, D, answer.

use crate::data::world::World;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The questions of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    /// The file's name without `_val.csv` or `_dev.csv`.
    pub subject: String,
    /// Its questions, in order.
    pub questions: Vec<SheetQuestion>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SheetQuestion {
    /// As in the sheet.
    pub id: String,
    /// What is asked.
    pub question: String,
    /// The options A, B, C, D.
    pub options: [String; 4],
    /// The right letter.
    pub answer: char,
}

/// Reads every `*_<split>.csv` of a folder, in order of subjects.
pub fn read_sheets(dir: &Path, split: &str) -> Result<Vec<Sheet>> {
    let suffix = format!("_{split}.csv");
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("{}: expected a folder of <subject>{suffix} sheets", dir.display()))?;
    let mut files: Vec<PathBuf> = vec![];
    for entry in entries {
        let path = entry.with_context(|| format!("{}: cannot be read", dir.display()))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(&suffix)) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("{}: holds no <subject>{suffix} sheet", dir.display());
    }
    files.iter().map(|path| read_sheet(path, &suffix)).collect()
}

fn read_sheet(path: &Path, suffix: &str) -> Result<Sheet> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let subject = name.strip_suffix(suffix).unwrap_or(&name).to_string();
    let text = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let mut csv = csv::ReaderBuilder::new().from_reader(text);
    let headers = csv.headers().with_context(|| format!("{}: the header row", path.display()))?.clone();
    let column = |name: &str| {
        headers.iter().position(|h| h.trim() == name).with_context(|| {
            let found: Vec<&str> = headers.iter().collect();
            let expected = "id,question,A,B,C,D,answer";
            format!("{}: has the columns {found:?} and no {name}, expected {expected}", path.display())
        })
    };
    let id = column("id")?;
    let question = column("question")?;
    let options = [column("A")?, column("B")?, column("C")?, column("D")?];
    let answer = column("answer")?;
    let mut questions = vec![];
    for record in csv.records() {
        let record = record.map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |i: usize| record.get(i).unwrap_or_default().to_string();
        let answer = match cell(answer).trim() {
            "A" => 'A',
            "B" => 'B',
            "C" => 'C',
            "D" => 'D',
            other => bail!("{}:{line}: the answer is {other:?}, expected A, B, C or D", path.display()),
        };
        questions.push(SheetQuestion {
            id: cell(id),
            question: cell(question),
            options: options.map(cell),
            answer,
        });
    }
    if questions.is_empty() {
        bail!("{}: has no question", path.display());
    }
    Ok(Sheet { subject, questions })
}

impl World {
    /// The exam of the world as sheets.
    pub fn sheets(&self) -> Vec<Sheet> {
        let sheets = self.exam().into_iter().map(|(subject, questions)| Sheet {
            subject: subject.into(),
            questions: questions
                .into_iter()
                .enumerate()
                .map(|(i, q)| SheetQuestion {
                    id: i.to_string(),
                    answer: q.letter(),
                    question: q.question,
                    options: q.options,
                })
                .collect(),
        });
        sheets.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;

    fn error(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("law_val.csv"), content).unwrap();
        let error = format!("{:#}", read_sheets(dir.path(), "val").unwrap_err());
        error.replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn all_of_c_eval_is_read() {
        let Some(dir) = shared("data/ceval/val") else { return };
        let sheets = read_sheets(&dir, "val").unwrap();
        assert_eq!(sheets.len(), 52);
        assert_eq!(sheets.iter().map(|s| s.questions.len()).sum::<usize>(), 1346);
        let dev = read_sheets(&shared("data/ceval/dev").unwrap(), "dev").unwrap();
        assert_eq!(dev.iter().map(|s| s.questions.len()).sum::<usize>(), 260);
    }

    #[test]
    fn broken_sheets_say_where_and_what() {
        let columns = error(b"id,question,A,B,C,D\n0,q,a,b,c,d\n");
        assert!(
            columns.contains("law_val.csv: has the columns") && columns.contains("and no answer"),
            "{columns}"
        );
        let answer = error(b"id,question,A,B,C,D,answer\n0,q,a,b,c,d,\n");
        assert_eq!(answer, "law_val.csv:2: the answer is \"\", expected A, B, C or D");
        assert_eq!(error(b"id,question,A,B,C,D,answer\n"), "law_val.csv: has no question");
        assert!(error(b"id,question,A,B,C,D,answer\n0,\xff,a,b,c,d,A\n").contains("law_val.csv"));
        let dir = tempfile::tempdir().unwrap();
        assert!(
            read_sheets(dir.path(), "val")
                .unwrap_err()
                .to_string()
                .contains("holds no <subject>_val.csv sheet")
        );
    }
}

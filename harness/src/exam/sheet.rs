//! Question sheets: `<subject>_val.csv` with id, question, A, B, C, D, answer; `<subject>_dev.csv` solved ones.
//!
//! *Invariant:* every question has a text, four options and an answer among them; what a sheet holds beside that is
//! refused, C-Eval's explanations aside.

use crate::data::read::CsvRows;
use crate::data::world::{Question, World};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The columns of a sheet; the last one is for people.
const KNOWN: [&str; 8] = ["id", "question", "A", "B", "C", "D", "answer", "explanation"];

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
///
/// # Errors
/// Where there is no sheet, or one is not sound, with its line.
pub fn read_sheets(dir: &Path, split: &str) -> Result<Vec<Sheet>> {
    let suffix = format!("_{split}.csv");
    sheet_files(dir, split)?.iter().map(|path| read_sheet(path, &suffix)).collect()
}

/// Every `*_<split>.csv` of a folder, in order of subjects.
///
/// # Errors
/// Where the folder cannot be read, or has no sheet.
pub fn sheet_files(dir: &Path, split: &str) -> Result<Vec<PathBuf>> {
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
    Ok(files)
}

fn read_sheet(path: &Path, suffix: &str) -> Result<Sheet> {
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let subject = name.strip_suffix(suffix).unwrap_or(&name).to_string();
    ensure!(!subject.is_empty(), "{shown}: names no subject, expected <subject>{suffix}");
    let mut rows = CsvRows::open(path)?;
    let columns = Columns::of(rows.columns()).map_err(|why| anyhow!("{shown}:1: {why}"))?;
    let mut questions = vec![];
    let mut lines = BTreeMap::new();
    while let Some(row) = rows.next().with_context(|| format!("{shown}: cannot be read further"))? {
        let question = row.value.and_then(|cells| {
            let question = columns.question(&cells)?;
            match lines.insert(question.id.clone(), row.line) {
                Some(line) => {
                    Err(format!("the id {:?} is that of line {line}, expected another", question.id))
                }
                None => Ok(question),
            }
        });
        questions.push(question.map_err(|why| anyhow!("{shown}:{}: {why}", row.line))?);
    }
    ensure!(!questions.is_empty(), "{shown}: has no question");
    Ok(Sheet { subject, questions })
}

/// Where the parts of a question stand in a row.
struct Columns {
    id: usize,
    question: usize,
    options: [usize; 4],
    answer: usize,
    /// Columns that must be empty, by their names.
    unknown: Vec<(usize, String)>,
}

impl Columns {
    fn of(names: &[String]) -> Result<Self, String> {
        let column = |name: &str| {
            let missing = || {
                format!(
                    "has the columns {} and no {name}, expected {}",
                    names.join(","),
                    KNOWN[..7].join(",")
                )
            };
            names.iter().position(|n| n == name).ok_or_else(missing)
        };
        let unknown = names
            .iter()
            .enumerate()
            .filter(|(_, name)| !KNOWN.contains(&name.as_str()))
            .map(|(i, n)| (i, n.clone()));
        Ok(Self {
            id: column("id")?,
            question: column("question")?,
            options: [column("A")?, column("B")?, column("C")?, column("D")?],
            answer: column("answer")?,
            unknown: unknown.collect(),
        })
    }

    /// The question of a row, which has as many cells as there are columns.
    fn question(&self, cells: &[String]) -> Result<SheetQuestion, String> {
        let filled = |place: usize, what: &str| match cells[place].trim() {
            "" => Err(format!("the {what} is empty")),
            _ => Ok(cells[place].clone()),
        };
        for (place, name) in &self.unknown {
            let cell = cells[*place].trim();
            if !cell.is_empty() {
                let cell: String = cell.chars().take(40).collect();
                return Err(match name.as_bytes() {
                    [b'E'..=b'Z'] => {
                        format!("has an option {name} ({cell:?}), expected four options, A to D")
                    }
                    _ => format!("the column {name:?} holds {cell:?}, expected {} only", KNOWN.join(",")),
                });
            }
        }
        let [a, b, c, d] = self.options;
        Ok(SheetQuestion {
            id: filled(self.id, "id")?,
            question: filled(self.question, "question")?,
            options: [
                filled(a, "option A")?,
                filled(b, "option B")?,
                filled(c, "option C")?,
                filled(d, "option D")?,
            ],
            answer: match cells[self.answer].trim() {
                "A" => 'A',
                "B" => 'B',
                "C" => 'C',
                "D" => 'D',
                other => return Err(format!("the answer is {other:?}, expected A, B, C or D")),
            },
        })
    }
}

impl World {
    /// The exam of the world as sheets.
    pub fn sheets(&self) -> Vec<Sheet> {
        self.exam().into_iter().map(Sheet::of_world).collect()
    }

    /// Solved questions of the world as sheets, `count` a subject as far as it has so many.
    pub fn dev_sheets(&self, count: usize) -> Vec<Sheet> {
        self.solved(count).into_iter().map(Sheet::of_world).collect()
    }
}

impl Sheet {
    /// The sheet as it is read.
    ///
    /// # Errors
    /// Where the rows cannot be written as CSV.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.write_record(&KNOWN[..7])?;
        for q in &self.questions {
            let [a, b, c, d] = &q.options;
            csv.write_record([&q.id, &q.question, a, b, c, d, &q.answer.to_string()])?;
        }
        Ok(csv.into_inner()?)
    }

    fn of_world((subject, questions): (&'static str, Vec<Question>)) -> Self {
        let question = |(i, q): (usize, Question)| SheetQuestion {
            id: i.to_string(),
            answer: q.letter(),
            question: q.question,
            options: q.options,
        };
        Self { subject: subject.into(), questions: questions.into_iter().enumerate().map(question).collect() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::WorldConfig;
    use crate::testing::shared;

    fn error(content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("law_val.csv"), content).unwrap();
        refused(dir.path())
    }

    fn refused(dir: &Path) -> String {
        let error = format!("{:#}", read_sheets(dir, "val").unwrap_err());
        error.replace(&format!("{}/", dir.display()), "")
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
        let head = "id,question,A,B,C,D,answer";
        let after = |rows: &str| error(format!("{head}\n0,q,a,b,c,d,A\n{rows}").as_bytes());
        for (found, expected) in [
            (
                error(b"id,question,A,B,C,D\n0,q,a,b,c,d\n"),
                "1: has the columns id,question,A,B,C,D and no answer, expected id,question,A,B,C,D,answer",
            ),
            (
                error(b"id,question,A,B,B,D,answer\n"),
                "1: two columns are named \"B\", expected each name once",
            ),
            (after("1,q,a,b,c,d,\n"), "3: the answer is \"\", expected A, B, C or D"),
            (after("1,q,a,b,c,d,E\n"), "3: the answer is \"E\", expected A, B, C or D"),
            (after("1,q,a,b,c,d,AB\n"), "3: the answer is \"AB\", expected A, B, C or D"),
            (after("1,,a,b,c,d,A\n"), "3: the question is empty"),
            (after("1,q,a,\" \",c,d,A\n"), "3: the option B is empty"),
            (after(",q,a,b,c,d,A\n"), "3: the id is empty"),
            (after("0,q,a,b,c,d,A\n"), "3: the id \"0\" is that of line 2, expected another"),
            (after("1,q,a,b,c,A\n"), &format!("3: has 6 cells, expected 7 ({head})")),
            (after("1,q,a,b,c,d,e,A\n"), &format!("3: has 8 cells, expected 7 ({head})")),
            (after("1,q,a,b,c,\"d,A\n2,q,a,b,c,d,A\n"), "3: a quoted cell is never closed"),
            (
                after("1,q,a,b,c,\"d,A\n2,q,a,b,c,\"d\",A\n"),
                "3: text stands behind a closing quote; a quote inside a cell is doubled",
            ),
            (
                error(b"id,question,A,B,C,D,E,answer\r\n0,q,a,b,c,d,,A\r\n1,q,a,b,c,d,e,A\r\n"),
                "3: has an option E (\"e\"), expected four options, A to D",
            ),
            (
                error(b"id,question,A,B,C,D,answer,hint\n0,q,a,b,c,d,A,it is A\n"),
                "2: the column \"hint\" holds \"it is A\", expected id,question,A,B,C,D,answer,explanation only",
            ),
            (
                error(b"id,question,A,B,C,D,answer\n0,\xff,a,b,c,d,A\n"),
                "2: is not UTF-8 from byte 1 of the row on",
            ),
        ] {
            assert!(
                found.starts_with(&format!("law_val.csv:{expected}")),
                "{found}\nwhere expected\n{expected}"
            );
        }
        assert_eq!(error(b"id,question,A,B,C,D,answer\n"), "law_val.csv: has no question");
        assert_eq!(error(b""), "law_val.csv: the file is empty");
        let dir = tempfile::tempdir().unwrap();
        assert!(refused(dir.path()).contains("holds no <subject>_val.csv sheet"));
    }

    #[test]
    fn the_world_s_sheets_are_read_as_they_are_written() {
        let world = World::generate(&WorldConfig { questions_per_subject: 20, ..WorldConfig::default() });
        let dir = tempfile::tempdir().unwrap();
        for (split, sheets) in [("val", world.sheets()), ("dev", world.dev_sheets(5))] {
            for sheet in &sheets {
                let path = dir.path().join(format!("{}_{split}.csv", sheet.subject));
                std::fs::write(path, sheet.csv().unwrap()).unwrap();
            }
            assert_eq!(read_sheets(dir.path(), split).unwrap(), sheets);
        }
    }

    #[test]
    fn columns_stand_in_any_order_and_unknown_ones_may_be_empty() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = "answer,D,C,B,A,question,id,explanation,E\r\nC,d,c,\"b\nb\",a, q ,7,why,\r\n";
        std::fs::write(dir.path().join("law_val.csv"), sheet).unwrap();
        let question = SheetQuestion {
            id: "7".into(),
            question: " q ".into(),
            options: ["a", "b\nb", "c", "d"].map(String::from),
            answer: 'C',
        };
        let expected = Sheet { subject: "law".into(), questions: vec![question] };
        assert_eq!(read_sheets(dir.path(), "val").unwrap(), [expected]);
    }

    #[test]
    fn sheets_that_lost_something_are_refused() {
        for (case, expected) in [
            ("seven", "law_val.csv:2: has an option E (\"e\"), expected four options, A to D"),
            ("unclosed", "law_val.csv:3: a quoted cell is never closed"),
            ("empty", "law_val.csv:2: the option B is empty"),
        ] {
            let Some(dir) = shared(&format!("cases/16_sheets/{case}")) else { return };
            assert_eq!(refused(&dir), expected);
        }
    }
}

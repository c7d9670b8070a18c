//! Question sheets: `<subject>_val.csv` with id, question, A, B, C, D, answer, or `.jsonl`; `<subject>_dev.*` for solved ones.
//!
//! *Invariant:* every question has a text, at least two options and an answer among them; any other content of a sheet is
//! refused, except for C-Eval's explanations.

mod csv;
mod json;

use crate::config::Answer;
use crate::data::probes::{Item, Probe};
use crate::data::world::{Question, World};
use crate::records::{letter, place_of};
use ::csv::Writer;
use anyhow::{Result, anyhow, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Maximum number of options: one per letter.
const MAX_OPTIONS: usize = 26;

/// The questions of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    /// Name of the file without `_<split>.csv` or `_<split>.jsonl`.
    pub subject: String,
    /// Questions, in the order of the sheet.
    pub questions: Vec<SheetQuestion>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SheetQuestion {
    /// Id in the sheet.
    pub id: String,
    /// Text of the question.
    pub question: String,
    /// Options A, B and so on.
    pub options: Vec<String>,
    /// Letter of the right option.
    pub answer: char,
}

impl SheetQuestion {
    /// Returns the question with its options, in MiniMind's form (eval_ceval.py).
    pub fn listed(&self) -> String {
        let listed = self.options.iter().enumerate().map(|(i, option)| format!("{}: {option}", letter(i)));
        format!("{}。选择 {}", self.question, listed.collect::<Vec<_>>().join(", "))
    }

    /// Returns the question as it is presented for a way of answering: with or without its options.
    pub fn presented(&self, answer: Answer) -> String {
        match answer {
            Answer::Letter | Answer::Cloze => self.listed(),
            Answer::Continuation => self.question.clone(),
        }
    }

    /// Returns the text of the right option.
    pub fn right(&self) -> &str {
        self.options.get(place_of(self.answer)).map_or("", String::as_str)
    }
}

/// File extensions of sheets.
const KINDS: [&str; 2] = ["csv", "jsonl"];

/// Maximum number of files that an error lists.
const SHOWN: usize = 5;

/// Reads all sheets of a folder that are named `<subject>_<split>`, sorted by file name.
///
/// # Errors
/// If there is no sheet, a sheet cannot be parsed (with its line), or a subject has two sheets.
pub fn read_sheets(dir: &Path, split: &str) -> Result<Vec<Sheet>> {
    let sheets: Vec<Sheet> =
        sheet_files(dir, split)?.iter().map(|path| read_sheet(path, split)).collect::<Result<_>>()?;
    for pair in sheets.windows(2) {
        let subject = &pair[0].subject;
        ensure!(
            *subject != pair[1].subject,
            "{}: {subject} has two sheets, expected one of {subject}_{split}.csv and {subject}_{split}.jsonl",
            dir.display()
        );
    }
    Ok(sheets)
}

/// Returns all `*_<split>.csv` and `*_<split>.jsonl` files of a folder, sorted by name.
///
/// # Errors
/// If the folder cannot be read, has no sheet, or has one with another ending, which would be left out of the exam.
pub fn sheet_files(dir: &Path, split: &str) -> Result<Vec<PathBuf>> {
    listed(dir, split).map_err(|problem| anyhow!("{}: {problem}", dir.display()))
}

/// Returns what is wrong with a folder of sheets, if anything.
pub fn sheets_problem(dir: &Path, split: &str) -> Option<String> {
    listed(dir, split).err()
}

fn listed(dir: &Path, split: &str) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error| format!("expected a folder of <subject>_{split}.csv sheets: {error}");
    let (mut files, mut others) = (vec![], vec![]);
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if KINDS.iter().any(|kind| subject_of(&path, split, kind).is_some()) {
            files.push(path);
        } else if is_of_split(&name, split) && path.is_file() {
            others.push(name);
        }
    }
    files.sort();
    others.sort();
    if !others.is_empty() {
        return Err(format!(
            "holds {}, which cannot be read; expected <subject>_{split}.csv or <subject>_{split}.jsonl: convert, \
             rename or remove what is not",
            crate::track::listed(&others, SHOWN)
        ));
    }
    if files.is_empty() {
        return Err(format!("holds no <subject>_{split}.csv sheet, nor <subject>_{split}.jsonl"));
    }
    Ok(files)
}

/// Whether a file is named as a sheet of `split`, whatever its ending and case; hidden files are not.
fn is_of_split(name: &str, split: &str) -> bool {
    let (name, marked) = (name.to_lowercase(), format!("_{split}"));
    !name.starts_with('.') && (name.ends_with(&marked) || name.contains(&format!("{marked}.")))
}

fn subject_of(path: &Path, split: &str, kind: &str) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    Some(name.strip_suffix(&format!("_{split}.{kind}"))?.to_string())
}

fn read_sheet(path: &Path, split: &str) -> Result<Sheet> {
    let shown = path.display();
    let subject = |kind| subject_of(path, split, kind);
    let (subject, is_csv) = match subject(KINDS[0]) {
        Some(subject) => (subject, true),
        None => (subject(KINDS[1]).unwrap_or_default(), false),
    };
    ensure!(!subject.is_empty(), "{shown}: the file name has no subject, expected <subject>_{split}.csv");
    let mut read = Read { path, questions: vec![], lines: BTreeMap::new() };
    match is_csv {
        true => csv::read(&mut read)?,
        false => json::read(&mut read, &subject)?,
    }
    ensure!(!read.questions.is_empty(), "{shown}: has no question");
    Ok(Sheet { subject, questions: read.questions })
}

/// State of reading a sheet.
struct Read<'a> {
    path: &'a Path,
    questions: Vec<SheetQuestion>,
    /// Line of each id.
    lines: BTreeMap<String, u64>,
}

impl Read<'_> {
    /// Adds a question, or returns an error with its line if its row is invalid or its id is a duplicate.
    fn add(&mut self, line: u64, question: Result<SheetQuestion, String>) -> Result<()> {
        let question = question.and_then(|question| match self.lines.insert(question.id.clone(), line) {
            Some(line) => Err(format!("the id {:?} is a duplicate of line {line}", question.id)),
            None => Ok(question),
        });
        self.questions.push(question.map_err(|why| anyhow!("{}:{line}: {why}", self.path.display()))?);
        Ok(())
    }
}

/// Parses the letter of an answer among the given number of options.
fn answer(text: &str, options: usize) -> Result<char, String> {
    let found = (0..options).map(letter).find(|letter| text.trim() == letter.to_string());
    found.ok_or_else(|| format!("the answer is {:?}, expected {}", text.trim(), expected(options)))
}

/// Lists the letters of options, as in `A, B, C or D`.
fn expected(options: usize) -> String {
    let letters: Vec<String> = (0..options).map(|i| letter(i).to_string()).collect();
    match letters.split_last() {
        Some((last, rest)) if options <= 6 => format!("{} or {last}", rest.join(", ")),
        _ => format!("A to {}", letter(options - 1)),
    }
}

impl World {
    /// Returns the exam of the world as sheets.
    pub fn sheets(&self) -> Vec<Sheet> {
        self.exam().into_iter().map(Sheet::of_world).collect()
    }

    /// Returns solved questions of the world as sheets, `count` per subject, or fewer if a small world has fewer.
    pub fn dev_sheets(&self, count: usize) -> Vec<Sheet> {
        self.solved(count).into_iter().map(Sheet::of_world).collect()
    }
}

impl Sheet {
    /// Returns the sheet as CSV, in the form in which it is read.
    ///
    /// # Errors
    /// If the rows cannot be written as CSV.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let options = self.questions.iter().map(|q| q.options.len()).max().unwrap_or(4);
        let mut csv = Writer::from_writer(vec![]);
        let mut head: Vec<String> = ["id", "question"].map(String::from).into();
        head.extend((0..options).map(|i| letter(i).to_string()));
        csv.write_record(head.iter().map(String::as_str).chain(["answer"]))?;
        for q in &self.questions {
            let mut row = vec![q.id.clone(), q.question.clone()];
            row.extend((0..options).map(|i| q.options.get(i).cloned().unwrap_or_default()));
            row.push(q.answer.to_string());
            csv.write_record(row)?;
        }
        Ok(csv.into_inner()?)
    }

    /// Returns the exam of a probe as sheets.
    pub fn of_probe(probe: &dyn Probe) -> Vec<Self> {
        let question = |(i, item): (usize, Item)| SheetQuestion {
            id: i.to_string(),
            question: item.prompt,
            options: item.options,
            answer: letter(item.answer),
        };
        let sheet = |(subject, items): (String, Vec<Item>)| Self {
            subject,
            questions: items.into_iter().enumerate().map(question).collect(),
        };
        probe.exam().into_iter().map(sheet).collect()
    }

    fn of_world((subject, questions): (&'static str, Vec<Question>)) -> Self {
        let question = |(i, q): (usize, Question)| SheetQuestion {
            id: i.to_string(),
            answer: q.letter(),
            question: q.question,
            options: q.options.into(),
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
            (error(b"id,question,A,B,answer\n0,q,a,b,C\n"), "2: the answer is \"C\", expected A or B"),
            (error(b"id,question,A,B,C,answer\n0,q,a,b,,A\n"), "2: the option C is empty"),
            (error(b"id,question,A,B,D,answer\n"), "1: has a column D and no C, expected options from A on"),
            (
                error(b"id,question,A,answer\n"),
                "1: has the columns id,question,A,answer and no B, expected id,question,A,B,C,D,answer",
            ),
            (after("1,,a,b,c,d,A\n"), "3: the question is empty"),
            (after("1,q,a,\" \",c,d,A\n"), "3: the option B is empty"),
            (after(",q,a,b,c,d,A\n"), "3: the id is empty"),
            (after("0,q,a,b,c,d,A\n"), "3: the id \"0\" is a duplicate of line 2"),
            (after("1,q,a,b,c,A\n"), &format!("3: has 6 cells, expected 7 ({head})")),
            (after("1,q,a,b,c,d,e,A\n"), &format!("3: has 8 cells, expected 7 ({head})")),
            (after("1,q,a,b,c,\"d,A\n2,q,a,b,c,d,A\n"), "3: a quoted cell is never closed"),
            (
                after("1,q,a,b,c,\"d,A\n2,q,a,b,c,\"d\",A\n"),
                "3: text after a closing quote; a quote inside a cell must be doubled",
            ),
            (
                error(b"id,question,A,B,C,D,E,F,answer\r\n0,q,a,b,c,d,,,A\r\n1,q,a,b,c,d,,f,A\r\n"),
                "3: the option E is empty",
            ),
            (
                error(b"id,question,A,B,C,D,answer,hint\n0,q,a,b,c,d,A,it is A\n"),
                "2: the column \"hint\" holds \"it is A\", expected id,question,A,B,C,D,answer,explanation only",
            ),
            (
                error(b"id,question,A,B,C,D,answer\n0,\xff,a,b,c,d,A\n"),
                "2: the cell \"question\" is not UTF-8 from its byte 1 on",
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
        for (kind, sheet) in
            [("csv", format!("{head}\n0,q,a,b,c,d,A\n")), ("jsonl", json::tests::QUESTION.to_string())]
        {
            std::fs::write(dir.path().join(format!("law_val.{kind}")), sheet).unwrap();
        }
        assert!(refused(dir.path()).contains("law has two sheets, expected one of"));
    }

    #[test]
    fn sheets_with_other_endings_are_refused_and_not_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let sheet = "id,question,A,B,answer\n0,q,a,b,A\n";
        for name in ["art_val.csv", "law_VAL.CSV", "eco_val.tsv", "med_val.csv.gz", "his_val.json"] {
            std::fs::write(dir.path().join(name), sheet).unwrap();
        }
        // Other files of the folder are no sheets of this split.
        for name in ["art_dev.json", "README.md", "valuable.txt", ".art_val.csv.swp"] {
            std::fs::write(dir.path().join(name), sheet).unwrap();
        }
        std::fs::create_dir(dir.path().join("old_val.d")).unwrap();
        let expected = "eco_val.tsv, his_val.json, law_VAL.CSV, med_val.csv.gz, which cannot be read; expected \
                        <subject>_val.csv or <subject>_val.jsonl: convert, rename or remove what is not";
        assert_eq!(sheets_problem(dir.path(), "val").unwrap(), format!("holds {expected}"));
        assert!(refused(dir.path()).ends_with(expected), "{}", refused(dir.path()));
        for name in ["law_VAL.CSV", "eco_val.tsv", "med_val.csv.gz", "his_val.json"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(sheets_problem(dir.path(), "val"), None);
        assert_eq!(read_sheets(dir.path(), "val").unwrap().len(), 1);
        let many: Vec<String> = (0..7).map(|i| format!("{i}_dev.txt")).collect();
        many.iter().for_each(|name| std::fs::write(dir.path().join(name), sheet).unwrap());
        let problem = sheets_problem(dir.path(), "dev").unwrap();
        assert!(
            problem.starts_with("holds 0_dev.txt, 1_dev.txt, 2_dev.txt, 3_dev.txt, 4_dev.txt and 3 more,"),
            "{problem}"
        );
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
        let sheet = "answer,D,C,B,A,question,id,explanation,E,\r\nC,d,c,\"b\nb\",a, q ,7,why,,\r\nE,d,c,b,a,q,8,,e,\r\n";
        std::fs::write(dir.path().join("law_val.csv"), sheet).unwrap();
        let question = SheetQuestion {
            id: "7".into(),
            question: " q ".into(),
            options: ["a", "b\nb", "c", "d"].map(String::from).into(),
            answer: 'C',
        };
        let five = SheetQuestion {
            id: "8".into(),
            question: "q".into(),
            options: ["a", "b", "c", "d", "e"].map(String::from).into(),
            answer: 'E',
        };
        assert_eq!((question.right(), five.right()), ("c", "e"));
        let expected = Sheet { subject: "law".into(), questions: vec![question, five] };
        assert_eq!(read_sheets(dir.path(), "val").unwrap(), [expected]);
    }

    #[test]
    fn sheets_that_lost_something_are_refused() {
        for (case, expected) in [
            ("unclosed", "law_val.csv:3: a quoted cell is never closed"),
            ("empty", "law_val.csv:2: the option B is empty"),
        ] {
            let Some(dir) = shared(&format!("cases/16_sheets/{case}")) else { return };
            assert_eq!(refused(&dir), expected);
        }
    }

    #[test]
    fn all_of_seven_options_are_asked() {
        let Some(dir) = shared("cases/16_sheets/seven") else { return };
        let sheets = read_sheets(&dir, "val").unwrap();
        assert_eq!(sheets[0].questions[0].options, ["a", "b", "c", "d", "e", "f", "g"]);
    }
}

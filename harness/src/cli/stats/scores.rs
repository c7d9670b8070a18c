//! Scores by seed and question, read from a table.

use super::table::{Table, Wanted};
use crate::track::counted;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Names of the columns; those that are unset are found by their usual names.
#[derive(Debug, Clone, Default, Args)]
pub struct Columns {
    /// Column of scores; unset: 1 if prediction equals answer, a letter in either case, otherwise the first of score,
    /// correct, acc, accuracy, exact_match, acc_norm
    #[arg(long, value_name = "COLUMN")]
    pub score: Option<String>,
    /// Column that identifies a question; unset: the first of id, doc_id, question, task
    #[arg(long, value_name = "COLUMN")]
    pub question: Option<String>,
    /// Column that groups questions; unset: subject, if there is one
    #[arg(long, value_name = "COLUMN")]
    pub subject: Option<String>,
    /// Column that identifies a seed; unset: the first of seed, trial, if there is one
    #[arg(long, value_name = "COLUMN")]
    pub seed: Option<String>,
}

impl Columns {
    /// Whether no column is named.
    pub fn is_unset(&self) -> bool {
        [&self.score, &self.question, &self.subject, &self.seed].iter().all(|name| name.is_none())
    }
}

/// A question: its subject, empty if there are none, and its name.
pub type Question = (String, String);

/// Scores by seed and question.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Name of the file, for messages.
    pub file: String,
    /// Column that identifies seeds, if there is one.
    pub seeds_by: Option<String>,
    /// Scores of each seed, by question.
    pub seeds: BTreeMap<String, BTreeMap<Question, f64>>,
    /// Answer of each question with its line, if predictions are compared with answers.
    pub key: BTreeMap<Question, (String, u64)>,
    /// Rows that are counted and reported.
    pub rows: Rows,
}

/// Numbers of rows that are reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows left out, as they have no score, such as a total, or no answer to compare the prediction with.
    pub without_score: usize,
    /// Rows counted as wrong, as they have no prediction.
    pub without_prediction: usize,
    /// Rows counted as right, whose letter is the answer in the other case.
    pub in_other_case: usize,
}

impl Rows {
    /// Counts a row by its prediction and its answer; returns whether it is right.
    pub fn count(&mut self, prediction: &str, answer: &str) -> bool {
        let is_right = is_same(prediction, answer);
        self.without_prediction += usize::from(prediction.is_empty());
        self.in_other_case += usize::from(is_right && prediction != answer);
        is_right
    }

    /// Returns the remarks on these rows, to follow other words; empty if there are none.
    pub fn note(&self) -> String {
        let all = [
            (self.without_score, "without a score left out"),
            (self.without_prediction, "without a prediction counted as wrong"),
            (self.in_other_case, "with the right letter in the other case counted as right"),
        ];
        let counts = all.into_iter().filter(|(n, _)| *n > 0);
        counts.map(|(n, what)| format!(", {} {what}", counted(n, "row"))).collect()
    }
}

/// Whether two answers are the same: equal texts, or one letter in either case.
fn is_same(a: &str, b: &str) -> bool {
    a == b || a.len() == 1 && a.eq_ignore_ascii_case(b)
}

impl Scores {
    /// Reads the rows of a file that meet the conditions.
    pub fn read(path: &Path, columns: &Columns, wanted: &Wanted) -> Result<Self> {
        let mut table = Table::read(path)?;
        table.keep(wanted)?;
        let named = |name: &Option<String>, usual: &[&str]| match name {
            Some(name) => table.column(name).map(Some),
            None => Ok(table.first_of(usual)),
        };
        let question = named(&columns.question, &["id", "doc_id", "question", "task"])?;
        let question = question.with_context(|| none(&table, "--question", "names a question"))?;
        let subject = named(&columns.subject, &["subject"])?;
        let seed = named(&columns.seed, &["seed", "trial"])?;
        let score = Score::find(&table, columns)?;
        let mut seeds: BTreeMap<String, BTreeMap<Question, f64>> = BTreeMap::new();
        let mut lines = BTreeMap::new();
        let (mut key, mut rows) = (BTreeMap::new(), Rows::default());
        for (line, row) in table.rows() {
            let Some(value) = score.of(&table, line, row, &mut rows)? else {
                rows.without_score += 1;
                continue;
            };
            let text = |column: Option<usize>| column.map_or(String::new(), |column| row[column].clone());
            let asked = (text(subject), row[question].clone());
            let seed = text(seed);
            if let Some(earlier) = lines.insert((seed.clone(), asked.clone()), (line, row)) {
                let otherwise = "; name the column of seeds with --seed, or of questions with --question";
                let asked = Asked { question, subject, scores: score.columns() };
                bail!("{}", asked.twice(&table, earlier, (line, row), otherwise));
            }
            if let Score::Equal(_, answer) = score {
                let (known, earlier) =
                    key.entry(asked.clone()).or_insert_with(|| (row[answer].clone(), line));
                ensure!(
                    is_same(known, &row[answer]),
                    "{}:{line}: question {:?} has the answer {:?}, but {known:?} in line {earlier}; expected one answer \
                     to each question",
                    table.file,
                    asked.1,
                    row[answer]
                );
            }
            seeds.entry(seed).or_default().insert(asked, value);
        }
        ensure!(!seeds.is_empty(), "{}: no row has a score", table.file);
        Ok(Self {
            file: table.file.clone(),
            seeds_by: seed.map(|column| table.names()[column].clone()),
            seeds,
            key,
            rows,
        })
    }

    /// Returns the questions that every seed of both sides answered; an error if the sides have different answers to one.
    pub fn common(&self, other: &Self) -> Result<Vec<Question>> {
        let theirs = other.questions();
        let questions: Vec<Question> =
            self.questions().into_iter().filter(|question| theirs.binary_search(question).is_ok()).collect();
        let answers = |question: &Question| Some((self.key.get(question)?, other.key.get(question)?));
        let mut differing = questions.iter().filter_map(|question| {
            let (ours, theirs) = answers(question).filter(|(ours, theirs)| !is_same(&ours.0, &theirs.0))?;
            Some((question, ours, theirs))
        });
        if let Some(((_, name), (ours, line), (theirs, other_line))) = differing.next() {
            let more = match differing.count() {
                0 => String::new(),
                n => format!(", and so for {n} more"),
            };
            bail!(
                "{}:{line} and {}:{other_line}: question {name:?} has the answers {ours:?} and {theirs:?}{more}: these are \
                 different questions; expected one answer key, or names that tell questions apart (--question)",
                self.file,
                other.file
            );
        }
        Ok(questions)
    }

    /// Returns the questions that every seed answered.
    pub fn questions(&self) -> Vec<Question> {
        let mut seeds = self.seeds.values();
        let first =
            seeds.next().map(|answers| answers.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        first
            .into_iter()
            .filter(|question| seeds.clone().all(|answers| answers.contains_key(question)))
            .collect()
    }

    /// Returns the questions that at least one seed answered.
    pub fn answered(&self) -> BTreeSet<&Question> {
        self.seeds.values().flat_map(BTreeMap::keys).collect()
    }

    /// Returns a row for each seed with its scores of these questions.
    pub fn table(&self, questions: &[Question]) -> Vec<Vec<f64>> {
        let row = |answers: &BTreeMap<Question, f64>| {
            questions.iter().filter_map(|question| answers.get(question).copied()).collect()
        };
        self.seeds.values().map(row).collect()
    }
}

fn none(table: &Table, option: &str, what: &str) -> String {
    format!(
        "{}: no column that {what}; name it with {option}, one of {}",
        table.file,
        table.names().join(", ")
    )
}

/// The columns that identify a question, and those that score its answer.
pub struct Asked {
    /// Column of the question.
    pub question: usize,
    /// Column of its subject, if there is one.
    pub subject: Option<usize>,
    /// Columns of the score, or of the prediction and the answer.
    pub scores: Vec<usize>,
}

impl Asked {
    /// Returns the error for two rows of one question, with the columns that distinguish them, or else with `otherwise`.
    pub fn twice(
        &self,
        table: &Table,
        (earlier, other): (u64, &[String]),
        (line, row): (u64, &[String]),
        otherwise: &str,
    ) -> String {
        let chosen = |i: &usize| {
            row[*i] != other[*i]
                && row[*i].len() < 40
                && !self.scores.contains(i)
                && self.is_kind(table, *i, row)
        };
        let differ: Vec<String> = (0..row.len())
            .filter(chosen)
            .map(|i| format!("--where {}={}", table.names()[i], row[i]))
            .collect();
        let hint = match differ.is_empty() {
            true => otherwise.to_string(),
            false => format!("; choose some rows, such as by {}", differ.join(" or ")),
        };
        let question = &row[self.question];
        format!("{}:{line}: question {question:?} again, as in line {earlier}{hint}", table.file)
    }

    /// Whether the value that a row has in a column occurs with every question, as that of a stage does, unlike a number
    /// that was measured for a single question.
    fn is_kind(&self, table: &Table, column: usize, row: &[String]) -> bool {
        let key =
            |row: &[String]| (self.subject.map(|subject| row[subject].clone()), row[self.question].clone());
        let all: BTreeSet<_> = table.rows().map(|(_, row)| key(row)).collect();
        let same = table.rows().filter(|(_, other)| other[column] == row[column]);
        same.map(|(_, row)| key(row)).collect::<BTreeSet<_>>() == all
    }
}

/// How a row is scored.
enum Score {
    Column(usize),
    Equal(usize, usize),
}

impl Score {
    fn find(table: &Table, columns: &Columns) -> Result<Self> {
        if let Some(name) = &columns.score {
            return Ok(Self::Column(table.column(name)?));
        }
        if let (Some(prediction), Some(answer)) = (table.find("prediction"), table.find("answer")) {
            return Ok(Self::Equal(prediction, answer));
        }
        let usual = ["score", "correct", "acc", "accuracy", "exact_match", "acc_norm"];
        let found = table.first_of(&usual).map(Self::Column);
        found.with_context(|| none(table, "--score", "holds scores"))
    }

    fn columns(&self) -> Vec<usize> {
        match *self {
            Self::Column(column) => vec![column],
            Self::Equal(prediction, answer) => vec![prediction, answer],
        }
    }

    /// Returns the score of a row; `None` if its cell, or that of the correct answer, is empty. Counts predictions in `rows`.
    fn of(&self, table: &Table, line: u64, row: &[String], rows: &mut Rows) -> Result<Option<f64>> {
        match *self {
            Self::Column(column) if row[column].is_empty() => Ok(None),
            Self::Equal(_, answer) if row[answer].is_empty() => Ok(None),
            Self::Column(column) => table.number(line, row, column).map(Some),
            Self::Equal(prediction, answer) => {
                Ok(Some(f64::from(rows.count(&row[prediction], &row[answer]))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::table::wanted;
    use super::*;

    fn scores(text: &str, columns: &Columns) -> Result<Scores> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, text).unwrap();
        Scores::read(&path, columns, &wanted(&[]).unwrap())
    }

    #[test]
    fn our_answers_are_scored_by_the_key() {
        let text = "trial,stage,subject,id,prediction,answer\nx,sft,law,0,A,A\nx,sft,law,1,B,A\ny,sft,law,0,A,A\n\
                    y,sft,law,1,A,A\n";
        let found = scores(text, &Columns::default()).unwrap();
        assert_eq!(found.questions().len(), 2);
        assert_eq!(found.table(&found.questions()), [[1.0, 0.0], [1.0, 1.0]]);
        assert_eq!(found.seeds_by.as_deref(), Some("trial"));
    }

    #[test]
    fn totals_without_a_score_are_left_out() {
        let found = scores(
            "Task , Accuracy , Centered\na , 0.5 , 0.1\nb , 0.25 , 0\nCORE , , 0.1\n",
            &Columns::default(),
        );
        let found = found.unwrap();
        assert_eq!((found.rows.without_score, found.table(&found.questions())), (1, vec![vec![0.5, 0.25]]));
        // Without the correct answer there is nothing to be right about; without a prediction the answer is wrong.
        let found = scores("id,prediction,answer\n0,A,A\n1,,\n2,B,\n3,,A\n", &Columns::default()).unwrap();
        assert_eq!((found.rows.without_score, found.table(&found.questions())), (2, vec![vec![1.0, 0.0]]));
        let note = ", 2 rows without a score left out, 1 row without a prediction counted as wrong";
        assert_eq!(found.rows.note(), note);
    }

    #[test]
    fn a_letter_is_right_in_either_case_and_a_word_is_not() {
        let text = "id,prediction,answer\n0,a,A\n1,B,b\n2,b,A\n3,Paris,paris\n4,é,É\n5,c,c\n";
        let found = scores(text, &Columns::default()).unwrap();
        assert_eq!(found.table(&found.questions()), [[1.0, 1.0, 0.0, 0.0, 0.0, 1.0]]);
        let note = ", 2 rows with the right letter in the other case counted as right";
        assert_eq!(found.rows.note(), note);
    }

    #[test]
    fn a_question_has_one_answer() {
        let text = "seed,id,prediction,answer\n1,0,A,A\n2,0,A,a\n3,0,A,B\n";
        let problem = scores(text, &Columns::default()).unwrap_err().to_string();
        let note = ":4: question \"0\" has the answer \"B\", but \"A\" in line 2; expected one answer to each question";
        assert!(problem.ends_with(note), "{problem}");
    }

    #[test]
    fn a_question_that_comes_twice_is_reported_with_what_to_do() {
        let text = "subject,id,stage,prediction,answer\nlaw,0,sft,A,B\nlaw,0,dpo,A,B\n";
        let problem = scores(text, &Columns::default()).unwrap_err().to_string();
        assert!(
            problem.ends_with(
                ":3: question \"0\" again, as in line 2; choose some rows, such as by --where stage=dpo"
            ),
            "{problem}"
        );
        // Numbers tell rows apart too, if they stand for a kind of row: the share of training, but not a probability.
        let text = "id,at,p_a,prediction,answer\n0,0.5,0.4,A,B\n1,0.5,0.3,A,B\n0,1,0.2,C,B\n1,1,0.1,B,B\n";
        let problem = scores(text, &Columns::default()).unwrap_err().to_string();
        assert!(problem.ends_with("in line 2; choose some rows, such as by --where at=1"), "{problem}");
        let problem = scores("id,acc\n0,1\n0,0\n", &Columns::default()).unwrap_err().to_string();
        assert!(
            problem.ends_with(
                "in line 2; name the column of seeds with --seed, or of questions with --question"
            ),
            "{problem}"
        );
        let problem = scores("id,x\n0,1\n", &Columns::default()).unwrap_err().to_string();
        assert!(
            problem.ends_with("no column that holds scores; name it with --score, one of id, x"),
            "{problem}"
        );
    }

    #[test]
    fn questions_that_a_seed_lacks_do_not_count() {
        let found = scores("seed,id,acc\n1,a,1\n1,b,0\n2,a,0\n", &Columns::default()).unwrap();
        assert_eq!((found.questions().len(), found.answered().len()), (1, 2));
    }
}

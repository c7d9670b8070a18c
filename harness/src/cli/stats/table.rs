//! Tables of scores from CSV files and JSON lines.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A table whose values are text until they are read as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Name of the file, for messages.
    pub file: String,
    columns: Vec<String>,
    /// Rows, each with its line number.
    rows: Vec<(u64, Vec<String>)>,
}

/// What a file of JSON must hold.
const EXPECTED: &str = "expected one object per line with the score of one question, as in samples_*.jsonl of \
                        lm-evaluation-harness (lm_eval --log_samples), not its results.json";

/// Conditions on rows: for each column, the accepted values.
pub type Wanted = BTreeMap<String, Vec<String>>;

/// Parses conditions of the form `COLUMN=VALUE`; several values of one column are alternatives.
pub fn wanted(texts: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    for text in texts {
        let Some((column, value)) = text.split_once('=') else {
            bail!("{text:?}: expected COLUMN=VALUE, such as stage=dpo");
        };
        wanted.entry(column.trim().into()).or_default().push(value.trim().into());
    }
    Ok(wanted)
}

impl Table {
    /// Reads a file: JSON if its first character opens an object or a list, otherwise CSV with a header.
    ///
    /// Numbers, booleans and strings of a JSON object become columns; other fields are ignored, as in the sample files
    /// of lm-evaluation-harness. CSV values are trimmed, since nanochat pads them.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("{file}: cannot be read"))?;
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{file}: is not UTF-8 text"))?;
        // The reader of CSV counts a line that ends in \r\n when it reads the next one.
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let table = match text.trim_start().chars().next() {
            None => bail!("{file}: is empty, expected a header and rows"),
            Some('{') => Self::of_lines(&file, &text)?,
            Some('[') => Self::of_list(&file, &text)?,
            Some(_) => Self::of_csv(&file, &text)?,
        };
        ensure!(!table.rows.is_empty(), "{file}: has no rows");
        Ok(table)
    }

    fn of_csv(file: &str, text: &str) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let unreadable = |error: csv::Error| match error.position() {
            Some(at) => anyhow::anyhow!("{file}:{}: {error}", at.line()),
            None => anyhow::anyhow!("{file}: {error}"),
        };
        let columns: Vec<String> = reader.headers().map_err(unreadable)?.iter().map(Into::into).collect();
        let others = [(';', "semicolons"), ('\t', "tabs")];
        if let [only] = columns.as_slice()
            && let Some((_, name)) = others.iter().find(|(separator, _)| only.contains(*separator))
        {
            bail!("{file}:1: the columns are separated by {name}, expected commas: {only:?}");
        }
        for (i, name) in columns.iter().enumerate() {
            ensure!(
                name.is_empty() || !columns[..i].contains(name),
                "{file}:1: two columns are named {name:?}, expected each name once"
            );
        }
        let mut rows = vec![];
        for record in reader.records() {
            let record = record.map_err(unreadable)?;
            let line = record.position().map_or(0, |at| at.line());
            rows.push((line, record.iter().map(Into::into).collect()));
        }
        Ok(Self { file: file.into(), columns, rows })
    }

    fn of_lines(file: &str, text: &str) -> Result<Self> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parsed = lines.map(|(i, line)| -> Result<(u64, Value)> {
            let value = serde_json::from_str(line).map_err(|error| match error.is_eof() {
                true => anyhow!("{file}:{}: the JSON object does not end in its line; {EXPECTED}", i + 1),
                false => anyhow!("{file}:{}: {error}", i + 1),
            })?;
            Ok((i as u64 + 1, value))
        });
        Self::of_objects(file, parsed.collect::<Result<Vec<_>>>()?)
    }

    fn of_list(file: &str, text: &str) -> Result<Self> {
        let list: Vec<Value> = serde_json::from_str(text).with_context(|| file.to_string())?;
        Self::of_objects(file, list.into_iter().enumerate().map(|(i, value)| (i as u64 + 1, value)).collect())
    }

    fn of_objects(file: &str, objects: Vec<(u64, Value)>) -> Result<Self> {
        let mut columns: Vec<String> = vec![];
        let mut found: Vec<(u64, BTreeMap<usize, String>)> = vec![];
        for (line, object) in objects {
            let Value::Object(fields) = object else {
                bail!("{file}:{line}: expected a JSON object");
            };
            let mut row = BTreeMap::new();
            for (name, value) in fields {
                let text = match value {
                    Value::Number(number) => number.to_string(),
                    Value::Bool(truth) => u8::from(truth).to_string(),
                    Value::String(text) => text,
                    _ => continue,
                };
                let column = columns.iter().position(|column| *column == name).unwrap_or_else(|| {
                    columns.push(name);
                    columns.len() - 1
                });
                row.insert(column, text);
            }
            found.push((line, row));
        }
        ensure!(!columns.is_empty(), "{file}: no object has a plain number, truth value or text; {EXPECTED}");
        let full = |row: BTreeMap<usize, String>| {
            (0..columns.len()).map(|i| row.get(&i).cloned().unwrap_or_default()).collect()
        };
        let rows = found.into_iter().map(|(line, row)| (line, full(row))).collect();
        Ok(Self { file: file.into(), columns, rows })
    }

    /// Returns the index of a column by its name, or else of the first column whose name differs only in ASCII case.
    pub fn find(&self, name: &str) -> Option<usize> {
        let by = |is: &dyn Fn(&str) -> bool| self.columns.iter().position(|column| is(column));
        by(&|column| column == name).or_else(|| by(&|column| column.eq_ignore_ascii_case(name)))
    }

    /// Returns the index of a column; an error lists the columns.
    pub fn column(&self, name: &str) -> Result<usize> {
        let found = self.find(name);
        found
            .with_context(|| format!("{}: no column {name:?}, it has {}", self.file, self.columns.join(", ")))
    }

    /// Returns the index of the first of `names` that is a column.
    pub fn first_of(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.find(name))
    }

    /// Returns the names of the columns.
    pub fn names(&self) -> &[String] {
        &self.columns
    }

    /// Iterates over the rows with their line numbers.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &[String])> {
        self.rows.iter().map(|(line, row)| (*line, row.as_slice()))
    }

    /// Keeps only the rows that meet every condition; an error if none is left.
    pub fn keep(&mut self, wanted: &Wanted) -> Result<()> {
        for (name, values) in wanted {
            let column = self.column(name)?;
            self.rows.retain(|(_, row)| values.contains(&row[column]));
            ensure!(!self.rows.is_empty(), "{}: no row has {name} = {}", self.file, values.join(" or "));
        }
        Ok(())
    }

    /// Parses a value of a row as a number; true is 1 and false is 0.
    pub fn number(&self, line: u64, row: &[String], column: usize) -> Result<f64> {
        let text = &row[column];
        let number = match text.as_str() {
            "true" | "True" => Some(1.0),
            "false" | "False" => Some(0.0),
            _ => text.parse::<f64>().ok().filter(|number| number.is_finite()),
        };
        number.with_context(|| {
            format!("{}:{line}: {}: expected a number, found {text:?}", self.file, self.columns[column])
        })
    }

    /// Returns a column as numbers above 0, such as sizes, losses, or what a logarithm is taken of.
    pub fn positive_numbers(&self, name: &str) -> Result<Vec<f64>> {
        let (column, numbers) = (self.column(name)?, self.numbers(name)?);
        for ((line, row), number) in self.rows().zip(&numbers) {
            ensure!(
                *number > 0.0,
                "{}:{line}: {}: expected a number above 0, found {:?}",
                self.file,
                self.columns[column],
                row[column]
            );
        }
        Ok(numbers)
    }

    /// Returns a column as numbers.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        let column = self.column(name)?;
        self.rows().map(|(line, row)| self.number(line, row, column)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(text: &str) -> Result<Table> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, text).unwrap();
        let mut table = Table::read(&path)?;
        table.file = "t".into();
        Ok(table)
    }

    #[test]
    fn padded_columns_are_those_without_spaces() {
        let found =
            table("Task      , Accuracy  , Centered\narc_easy  , 0.5       , 0.33\nCORE, , 0.2\n").unwrap();
        assert_eq!(found.names(), ["Task", "Accuracy", "Centered"]);
        assert_eq!(found.find("task"), Some(0));
        let problem = found.numbers("accuracy").unwrap_err().to_string();
        assert_eq!(problem, "t:3: Accuracy: expected a number, found \"\"");
    }

    #[test]
    fn lines_are_counted_alike_however_they_end() {
        for end in ["\n", "\r\n"] {
            let text = ["id,x", "1,1", "2,y", ""].join(end);
            let problem = table(&text).unwrap().numbers("x").unwrap_err().to_string();
            assert_eq!(problem, "t:3: x: expected a number, found \"y\"");
            let short = table(&["id,x", "1,1", "2", ""].join(end)).unwrap_err().to_string();
            assert!(short.contains("t:3: "), "{short}");
        }
    }

    #[test]
    fn lines_of_json_have_their_plain_fields() {
        let text = "{\"doc_id\": 0, \"doc\": {\"q\": 1}, \"acc\": 1.0}\n\n{\"doc_id\": 1, \"acc\": 0.0, \"filter\": \"none\"}\n";
        let found = table(text).unwrap();
        assert_eq!(found.names(), ["doc_id", "acc", "filter"]);
        assert_eq!(found.numbers("acc").unwrap(), [1.0, 0.0]);
        let list = table("[{\"acc\": true}, {\"acc\": false}]").unwrap();
        assert_eq!(list.numbers("acc").unwrap(), [1.0, 0.0]);
        assert!(
            table("{\"acc\": 1}\n[1]\n").unwrap_err().to_string().contains("t:2: expected a JSON object")
        );
    }

    #[test]
    fn rows_are_chosen_by_their_values() {
        let mut found = table("seed,stage,x\n1,sft,2\n1,dpo,3\n2,dpo,4\n3,dpo,5\n").unwrap();
        found.keep(&wanted(&["stage=dpo".into(), "seed=1".into(), "seed=3".into()]).unwrap()).unwrap();
        assert_eq!(found.numbers("x").unwrap(), [3.0, 5.0]);
        let none = found.keep(&wanted(&["seed=9".into()]).unwrap()).unwrap_err();
        assert_eq!(none.to_string(), "t: no row has seed = 9");
        assert!(wanted(&["seed".into()]).is_err());
    }

    #[test]
    fn what_is_no_table_is_reported() {
        assert!(table("").unwrap_err().to_string().ends_with("is empty, expected a header and rows"));
        assert!(table("a,b\n").unwrap_err().to_string().ends_with("has no rows"));
        assert!(table("a,b\n1\n").unwrap_err().to_string().contains(":2: "));
        for (separator, name) in [(";", "semicolons"), ("\t", "tabs")] {
            let text = "id,score\n1,0\n".replace(',', separator);
            let message = format!("t:1: the columns are separated by {name}, expected commas: ");
            let found = table(&text).unwrap_err().to_string();
            assert!(found.contains(&message), "{found}");
        }
        let twice = table("a,b, a\n1,2,3\n").unwrap_err().to_string();
        assert!(twice.ends_with("t:1: two columns are named \"a\", expected each name once"), "{twice}");
        for results in ["{\n \"results\": {}\n}\n", "{\"results\": {\"arc\": {\"acc\": 0.3}}}\n"] {
            let message = table(results).unwrap_err().to_string();
            assert!(
                message.contains("expected one object per line with the score of one question"),
                "{message}"
            );
        }
        let broken = table("{\"acc\": 1}\n{\"acc\" 1}\n").unwrap_err().to_string();
        assert!(broken.contains("t:2: expected `:`"), "{broken}");
        let below = table("a,b\n1,2\n3,-4\n").unwrap().positive_numbers("B").unwrap_err();
        assert_eq!(below.to_string(), "t:3: b: expected a number above 0, found \"-4\"");
        let missing = table("a,b\n1,2\n").unwrap().numbers("c").unwrap_err();
        assert_eq!(missing.to_string(), "t: no column \"c\", it has a, b");
    }
}

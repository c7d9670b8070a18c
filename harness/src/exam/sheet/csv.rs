//! Sheets as CSV.

use super::{MAX_OPTIONS, Read, SheetQuestion, answer};
use crate::data::read::CsvRows;
use crate::records::letter;
use anyhow::{Context, Result, anyhow};

/// Columns of a sheet whose questions have four options; the last one is only for human readers.
const KNOWN: [&str; 8] = ["id", "question", "A", "B", "C", "D", "answer", "explanation"];

/// Number of first options that must be filled if they have a column; rows may lack later ones.
const FILLED: usize = 4;

/// Reads the questions of a sheet.
pub(super) fn read(sheet: &mut Read) -> Result<()> {
    let shown = sheet.path.display();
    let mut rows = CsvRows::open(sheet.path)?;
    let columns = Columns::of(rows.columns()).map_err(|why| anyhow!("{shown}:1: {why}"))?;
    while let Some(row) = rows.next().with_context(|| format!("{shown}: cannot be read further"))? {
        sheet.add(row.line, row.value.and_then(|cells| columns.question(&cells)))?;
    }
    Ok(())
}

/// Column indices of the parts of a question.
struct Columns {
    id: usize,
    question: usize,
    options: Vec<usize>,
    answer: usize,
    /// Columns that must be empty, with their names.
    unknown: Vec<(usize, String)>,
}

impl Columns {
    fn of(names: &[String]) -> Result<Self, String> {
        let find = |name: &str| names.iter().position(|n| n == name);
        let column = |name: &str| {
            let missing = || {
                format!(
                    "has the columns {} and no {name}, expected {}",
                    names.join(","),
                    KNOWN[..7].join(",")
                )
            };
            find(name).ok_or_else(missing)
        };
        let (id, question) = (column("id")?, column("question")?);
        let mut options = vec![column("A")?, column("B")?];
        for i in 2..MAX_OPTIONS {
            match find(&letter(i).to_string()) {
                Some(_) if options.len() < i => {
                    let (has, lacks) = (letter(i), letter(options.len()));
                    return Err(format!("has a column {has} and no {lacks}, expected options from A on"));
                }
                found => options.extend(found),
            }
        }
        let answer = column("answer")?;
        let unknown = names
            .iter()
            .enumerate()
            .filter(|(i, name)| !options.contains(i) && !KNOWN.contains(&name.as_str()));
        let unknown = unknown.map(|(i, n)| (i, n.clone())).collect();
        Ok(Self { id, question, options, answer, unknown })
    }

    /// Parses the question of a row, which has one cell per column.
    fn question(&self, cells: &[String]) -> Result<SheetQuestion, String> {
        let filled = |place: usize, what: &str| match cells[place].trim() {
            "" => Err(format!("the {what} is empty")),
            _ => Ok(cells[place].clone()),
        };
        for (place, name) in &self.unknown {
            let cell = cells[*place].trim();
            if !cell.is_empty() {
                let cell: String = cell.chars().take(40).collect();
                return Err(format!("the column {name:?} holds {cell:?}, expected {} only", KNOWN.join(",")));
            }
        }
        let last = self.options.iter().rposition(|&place| !cells[place].trim().is_empty());
        let count = last.map_or(0, |last| last + 1).max(self.options.len().min(FILLED));
        let (id, question) = (filled(self.id, "id")?, filled(self.question, "question")?);
        let option = |(i, &place): (usize, &usize)| filled(place, &format!("option {}", letter(i)));
        let options: Vec<String> =
            self.options[..count].iter().enumerate().map(option).collect::<Result<_, _>>()?;
        let answer = answer(&cells[self.answer], options.len())?;
        Ok(SheetQuestion { id, question, options, answer })
    }
}

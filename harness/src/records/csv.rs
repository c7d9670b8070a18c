//! questions.csv: one row per question. The first columns are those of questions with four options; columns that other
//! questions need, and those derived from the answers, follow.

use super::analysis::predictions_without_prior;
use super::{Norm, OptionScore, QuestionRecord, best, letter};
use crate::track::csv_number;

/// The columns that a set of records needs.
#[derive(Debug)]
pub struct QuestionTable {
    options: usize,
    has_texts: bool,
}

/// Formats a cell for an option's text.
type Cell = fn(&OptionScore) -> String;

/// The columns about an option's text: name and cell.
const TEXTS: [(&str, Cell); 4] = [
    ("log_prob", |o| csv_number(o.log_prob)),
    ("unconditional", |o| csv_number(o.unconditional)),
    ("tokens", |o| o.tokens.to_string()),
    ("bytes", |o| o.bytes.to_string()),
];

impl QuestionTable {
    /// A table with columns for all of `records`.
    pub fn of<'a>(records: impl Iterator<Item = &'a QuestionRecord> + Clone) -> Self {
        let options = records.clone().map(|record| record.probabilities.len()).max().unwrap_or(0);
        Self { options: options.max(4), has_texts: records.clone().any(|record| !record.options.is_empty()) }
    }

    /// The names of the columns.
    pub fn columns(&self) -> Vec<String> {
        let lower = |i: usize| letter(i).to_ascii_lowercase();
        let mut names: Vec<String> = ["subject", "id"].map(String::from).into();
        names.extend((0..4).map(|i| format!("p_{}", lower(i))));
        names.extend(["prediction", "answer", "contaminated"].map(String::from));
        names.extend((4..self.options).map(|i| format!("p_{}", lower(i))));
        names.extend(["answer_log_prob", "prediction_without_prior"].map(String::from));
        if self.has_texts {
            names.extend(Norm::ALL.map(|(_, norm)| format!("prediction_{norm}")));
            for (name, _) in TEXTS {
                names.extend((0..self.options).map(|i| format!("{name}_{}", lower(i))));
            }
        }
        names
    }

    /// The cells of the answers of one exam, one row per question.
    pub fn rows(&self, records: &[&QuestionRecord]) -> Vec<Vec<String>> {
        let free = predictions_without_prior(records);
        records.iter().zip(free).map(|(record, free)| self.row(record, free)).collect()
    }

    fn row(&self, record: &QuestionRecord, without_prior: char) -> Vec<String> {
        let p = |i: usize| record.probabilities.get(i).map_or(String::new(), |p| csv_number(*p));
        let mut cells = vec![record.subject.clone(), record.id.clone()];
        cells.extend((0..4).map(p));
        cells.extend([record.prediction, record.answer].map(String::from));
        cells.push(record.contaminated.map_or(String::new(), |is| is.to_string()));
        cells.extend((4..self.options).map(p));
        cells.extend([csv_number(record.log_prob()), without_prior.into()]);
        if self.has_texts {
            let is_known = !record.options.is_empty();
            cells.extend(Norm::ALL.map(|(norm, _)| {
                let scores: Vec<f64> = record.options.iter().map(|option| norm.score(option)).collect();
                if is_known { letter(best(&scores)).into() } else { String::new() }
            }));
            for (_, text) in TEXTS {
                cells.extend((0..self.options).map(|i| record.options.get(i).map_or(String::new(), text)));
            }
        }
        cells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(probabilities: &[f64], options: Vec<OptionScore>) -> QuestionRecord {
        QuestionRecord {
            subject: "law".into(),
            id: "7".into(),
            probabilities: probabilities.to_vec(),
            prediction: 'B',
            answer: 'A',
            contaminated: None,
            options,
        }
    }

    #[test]
    fn columns_are_added_behind_those_of_four_options() {
        let plain = record(&[0.25, 0.5, 0.125, 0.125], vec![]);
        let table = QuestionTable::of(std::iter::once(&plain));
        let head = "subject,id,p_a,p_b,p_c,p_d,prediction,answer,contaminated";
        assert_eq!(table.columns().join(","), format!("{head},answer_log_prob,prediction_without_prior"));
        // In a subject of one question the prior explains everything.
        let log_prob = csv_number(0.25f64.ln());
        assert_eq!(
            table.rows(&[&plain]),
            [["law", "7", "0.25", "0.5", "0.125", "0.125", "B", "A", "", &log_prob, "A"]]
        );
        let text =
            |log_prob, unconditional, tokens, bytes| OptionScore { log_prob, unconditional, tokens, bytes };
        // Best by raw score: the first; per token: the third; per byte: the second; by PMI: the fourth.
        let texts =
            [text(-2.0, -1.0, 1, 3), text(-3.0, -2.0, 2, 9), text(-4.0, -3.0, 4, 6), text(-5.0, -9.0, 1, 5)];
        let five = [0.1, 0.2, 0.3, 0.4, 0.5];
        let all = [record(&five[..4], texts.to_vec()), record(&five, vec![])];
        let table = QuestionTable::of(all.iter());
        let more = "prediction_raw,prediction_token,prediction_byte,prediction_pmi,log_prob_a,log_prob_b";
        assert!(
            table
                .columns()
                .join(",")
                .starts_with(&format!("{head},p_e,answer_log_prob,prediction_without_prior,{more}"))
        );
        let rows = table.rows(&all.iter().collect::<Vec<_>>());
        assert!(rows.iter().all(|row| row.len() == table.columns().len()));
        assert_eq!(rows[0][12..16], ["A", "C", "B", "D"]);
        assert_eq!((rows[0][9].as_str(), rows[1][9].as_str()), ("", "0.5"));
        assert!(rows[1][12..].iter().all(String::is_empty));
    }
}

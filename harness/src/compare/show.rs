//! A comparison as Markdown, CSV and JSON; `page.rs` renders HTML.

use super::{Answer, Comparison, Finish, Judged, Share};
use crate::report::Grid;
use crate::track::{counted, number};
use anyhow::{Result, bail};
use std::fmt::Write;
use std::path::Path;

/// File format of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Markdown, readable as plain text.
    Markdown,
    /// Self-contained HTML page.
    Html,
    /// CSV with one row per answer.
    Csv,
    /// JSON with the whole comparison.
    Json,
}

impl Format {
    /// Returns the format of a file by its extension.
    ///
    /// # Errors
    /// If the extension is not that of a format.
    pub fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|end| end.to_str()) {
            Some("md") => Ok(Self::Markdown),
            Some("html") => Ok(Self::Html),
            Some("csv") => Ok(Self::Csv),
            Some("json") => Ok(Self::Json),
            _ => bail!("{}: expected a name that ends in .md, .html, .csv or .json", file.display()),
        }
    }
}

impl Comparison {
    /// Renders the comparison in a format.
    ///
    /// # Errors
    /// If rendering fails.
    pub fn render(&self, format: Format) -> Result<String> {
        match format {
            Format::Markdown => Ok(self.markdown()),
            Format::Html => self.html(),
            Format::Csv => self.csv(),
            Format::Json => Ok(serde_json::to_string_pretty(self)? + "\n"),
        }
    }

    fn markdown(&self) -> String {
        let mut text =
            format!("# Answers side by side\n\n{}\n{}\n", self.models_grid().markdown(), self.settings());
        if let Some(judged) = &self.judge {
            let _ = write!(text, "\n## Judged by {}\n\n", judged.judge);
            judged.notes().iter().for_each(|line| text += &format!("* {line}\n"));
            let grids = [self.rates_grid(judged), self.pairs_grid(judged)];
            for grid in grids.iter().filter(|_| judged.pairs_in_both_orders > 0) {
                let _ = write!(text, "\n{}", grid.markdown());
            }
        }
        for (number, asked) in (1..).zip(&self.prompts) {
            let _ = write!(text, "\n## {number}. {}\n", escaped(&asked.prompt.replace(['\n', '\r'], " ")));
            for (model, answer) in self.models.iter().zip(&asked.answers) {
                // Inside a quotation, no answer can be mistaken for the text around it.
                let quoted = escaped(&answer.text).replace('\n', "\n> ");
                let _ = write!(text, "\n**{}** · {}\n\n> {quoted}\n", model.letter, token_counts(answer));
            }
        }
        text
    }

    fn csv(&self) -> Result<String> {
        let mut out = csv::Writer::from_writer(vec![]);
        let heads = [
            "prompt_number",
            "prompt",
            "model",
            "stage",
            "form",
            "answer",
            "finish_reason",
            "tokens",
            "score",
        ];
        out.write_record(heads)?;
        for (place, asked) in (1..).zip(&self.prompts) {
            for (model, answer) in self.models.iter().zip(&asked.answers) {
                let numbers = [place, answer.tokens].map(|n: usize| n.to_string());
                let [place, tokens] = &numbers;
                let score = answer.score.map_or(String::new(), |score| score.to_string());
                let (stage, form, end) =
                    (model.stage.unwrap_or_default(), model.form.name(), answer.finish_reason.name());
                out.write_record([
                    place,
                    &asked.prompt,
                    &model.name,
                    stage,
                    form,
                    &answer.text,
                    end,
                    tokens,
                    &score,
                ])?;
            }
        }
        Ok(String::from_utf8(out.into_inner()?)?)
    }

    /// Returns the table of models with their letters.
    pub(super) fn models_grid(&self) -> Grid {
        let rows = self.models.iter().map(|model| {
            let (stage, params) = (model.stage.unwrap_or_default().to_owned(), number(model.params as u64));
            vec![model.letter.clone(), model.name.clone(), stage, model.form.name().into(), params]
        });
        grid(&["", "model", "stage", "form", "parameters"], 4, rows)
    }

    /// Formats the sampling options of all models.
    pub(super) fn settings(&self) -> String {
        let Some(options) = self.sampling.as_object() else { return String::new() };
        let is_said = |value: &serde_json::Value| {
            !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
        };
        let said = options.iter().filter(|(_, value)| is_said(value));
        said.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    }

    /// Returns the table of the models' win rates.
    pub(super) fn rates_grid(&self, judged: &Judged) -> Grid {
        let rows = self.models.iter().zip(&judged.win_rates);
        let rows = rows.map(|(model, rate)| vec![model.letter.clone(), model.name.clone(), percent(*rate)]);
        grid(&["", "model", "wins (%)"], 2, rows)
    }

    /// Returns the table of every pair of models.
    pub(super) fn pairs_grid(&self, judged: &Judged) -> Grid {
        let rows = judged.pairs.iter().map(|pair| {
            let [a, b] = [pair.a, pair.b].map(|place| &self.models[place].letter);
            let [wins, ties, losses] = [pair.wins, pair.ties, pair.losses].map(|n| n.to_string());
            let p =
                pair.p.map_or("–".into(), |p| if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") });
            vec![format!("{a} – {b}"), wins, ties, losses, percent(pair.win_rate), p]
        });
        grid(&["pair", "wins", "ties", "losses", "wins (%)", "p"], 1, rows)
    }
}

impl Judged {
    /// Returns the most frequent problems, most frequent first.
    pub fn first_problems(&self) -> impl Iterator<Item = (&str, usize)> {
        let mut found: Vec<_> = self.problems.iter().map(|(text, count)| (text.as_str(), *count)).collect();
        found.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        found.into_iter().take(PROBLEMS)
    }

    /// Returns what readers should know about the judge before they trust its verdicts.
    fn notes(&self) -> Vec<String> {
        let replies = if self.unreadable == 1 { "reply" } else { "replies" };
        let mut lines = vec![format!(
            "{} of {} have a verdict; {} {replies} without one, {} failed, {} not asked",
            number(self.valid as u64),
            counted(self.planned, "judgement"),
            number(self.unreadable as u64),
            self.failed,
            self.not_asked
        )];
        lines.extend(self.first_problems().map(|(problem, count)| format!("{count} × {}", escaped(problem))));
        let pairs = counted(self.pairs_in_both_orders, "pair");
        lines.push(format!("both orders agree: {} % of {pairs} of answers", percent(self.agreement)));
        lines
            .push(format!("the first answer wins: {} %; 50 without position bias", percent(self.first_wins)));
        lines.push(RULE.into());
        lines
    }
}

/// Maximum number of problems shown to people; JSON has all.
const PROBLEMS: usize = 3;

/// How verdicts are counted.
const RULE: &str = "an answer wins if it wins in both orders, otherwise it is a tie; ties count half; 95 % intervals of \
                    Student's t over prompts; p of the sign-flip test over prompts, corrected by Holm";

/// Escapes HTML in Markdown, and replaces control characters that would affect a terminal.
fn escaped(text: &str) -> String {
    let is_odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.replace(is_odd, "\u{fffd}").replace('<', "\\<")
}

fn grid(heads: &[&str], text_columns: usize, rows: impl Iterator<Item = Vec<String>>) -> Grid {
    Grid {
        heads: heads.iter().map(ToString::to_string).collect(),
        text_columns,
        rows: rows.map(|row| row.into_iter().map(Into::into).collect()).collect(),
        ..Grid::default()
    }
}

/// Formats a share with its interval, in percent.
pub(super) fn percent(share: Option<Share>) -> String {
    let Some(Share { value, interval, .. }) = share else { return "–".into() };
    let interval = interval.map(|(low, high)| format!(" [{:.1}, {:.1}]", 100.0 * low, 100.0 * high));
    format!("{:.1}{}", 100.0 * value, interval.unwrap_or_default())
}

/// Formats an answer's length, whether it was cut, and its score.
fn token_counts(answer: &Answer) -> String {
    let cut = if answer.finish_reason == Finish::Length { ", cut" } else { "" };
    let score = answer.score.map_or(String::new(), |score| format!(", wins {:.0} %", 100.0 * score));
    format!("{}{cut}{score}", counted(answer.tokens, "token"))
}

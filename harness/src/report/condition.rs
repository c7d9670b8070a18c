//! Conditions on observations: `model.n_layers >= 8`, `model.n_experts == 0 and params < 2e6`.
//!
//! Comparisons of a column with a number or text, joined by `and` and `or`; `and` binds closer.

use super::columns::Column;
use super::observation::{Cell, Observation};
use crate::config::{Kind, did_you_mean};
use std::cmp::Ordering;

/// A condition as alternatives, each of which is comparisons that must all hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// As it was written.
    pub text: String,
    any: Vec<Vec<Comparison>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Comparison {
    column: Column,
    operator: Operator,
    value: Cell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Condition {
    /// Reads a condition, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut any = vec![vec![]];
        let mut rest = tokens.as_slice();
        loop {
            let (comparison, after) = comparison(rest)?;
            if let Some(all) = any.last_mut() {
                all.push(comparison);
            }
            rest = match after {
                [] => return Ok(Self { text: text.trim().into(), any }),
                [Token::Word(word), rest @ ..] if word == "and" => rest,
                [Token::Word(word), rest @ ..] if word == "or" => {
                    any.push(vec![]);
                    rest
                }
                [token, ..] => {
                    return Err(format!(
                        "has {} where \"and\", \"or\" or the end was expected",
                        token.shown()
                    ));
                }
            };
        }
    }

    /// The columns it speaks of.
    pub fn columns(&self) -> impl Iterator<Item = Column> + '_ {
        self.any.iter().flatten().map(|comparison| comparison.column)
    }

    /// Whether it holds; what has no value does not.
    pub fn holds(&self, observation: &Observation) -> bool {
        self.any.iter().any(|all| all.iter().all(|c| c.holds(observation) == Some(true)))
    }

    /// Whether it can hold, judged by what is known before anything runs.
    pub fn may_hold(&self, observation: &Observation) -> bool {
        let may = |c: &Comparison| !c.column.is_known() || c.holds(observation) == Some(true);
        self.any.iter().any(|all| all.iter().all(may))
    }
}

impl Comparison {
    fn holds(&self, observation: &Observation) -> Option<bool> {
        let found = self.column.read(observation)?;
        let ordering = match (&found, &self.value) {
            (Cell::Number(a), Cell::Number(b)) => a.partial_cmp(b)?,
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            _ => return None,
        };
        Some(match self.operator {
            Operator::Equal => ordering == Ordering::Equal,
            Operator::NotEqual => ordering != Ordering::Equal,
            Operator::Less => ordering == Ordering::Less,
            Operator::AtMost => ordering != Ordering::Greater,
            Operator::Greater => ordering == Ordering::Greater,
            Operator::AtLeast => ordering != Ordering::Less,
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Operator(Operator, &'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(word) | Self::Quoted(word) => format!("{word:?}"),
            Self::Operator(_, sign) => format!("\"{sign}\""),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
    let mut tokens = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(&(sign, operator)) = OPERATORS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            tokens.push(Token::Operator(operator, sign));
            rest = &rest[sign.len()..];
        } else if first == '\'' || first == '"' {
            let Some((quoted, after)) = rest[1..].split_once(first) else {
                return Err(format!("has no closing {first} after {:?}", &rest[1..]));
            };
            tokens.push(Token::Quoted(quoted.into()));
            rest = after;
        } else if is_word(first) {
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].into()));
            rest = &rest[end..];
        } else if first == '=' {
            return Err("has \"=\", expected ==, !=, <, <=, > or >=".into());
        } else {
            return Err(format!(
                "has {:?}, expected comparisons joined by and, or, such as model.n_layers >= 8",
                first.to_string()
            ));
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn comparison(tokens: &[Token]) -> Result<(Comparison, &[Token]), String> {
    let (name, rest) = match tokens {
        [] => return Err("ends where a comparison was expected, such as model.n_layers >= 8".into()),
        [Token::Word(name), rest @ ..] => (name, rest),
        [token, ..] => return Err(format!("has {} where a column was expected", token.shown())),
    };
    let column = Column::find(name)?;
    let (operator, rest) = match rest {
        [Token::Operator(operator, _), rest @ ..] => (*operator, rest),
        other => {
            let found = other.first().map_or("the end".into(), Token::shown);
            return Err(format!("has {found} after {name}, expected ==, !=, <, <=, > or >="));
        }
    };
    let (value, rest) = match rest {
        [token @ (Token::Word(_) | Token::Quoted(_)), rest @ ..] => (value(&column, token)?, rest),
        other => {
            let found = other.first().map_or("the end".into(), Token::shown);
            return Err(format!("has {found} where a value for {name} was expected"));
        }
    };
    if matches!(value, Cell::Text(_)) && !matches!(operator, Operator::Equal | Operator::NotEqual) {
        return Err(format!("orders {name}, which holds text; expected == or !="));
    }
    Ok((Comparison { column, operator, value }, rest))
}

fn value(column: &Column, token: &Token) -> Result<Cell, String> {
    let (Token::Word(text) | Token::Quoted(text)) = token else { return Err("has no value".into()) };
    if column.is_number() {
        let number = text.replace('_', "").parse::<f64>().ok().filter(|n| n.is_finite());
        let number = number.filter(|_| matches!(token, Token::Word(_)));
        return number
            .map(Cell::Number)
            .ok_or_else(|| format!("compares {} with {}, expected a number", column.name(), token.shown()));
    }
    let words: Vec<&str> = match column {
        Column::Key(key) => match &key.kind {
            Kind::Choice(words) => words.iter().map(String::as_str).collect(),
            Kind::Bool => vec!["true", "false"],
            _ => vec![],
        },
        Column::Quantity(_) | Column::OfSet(_) => vec![],
    };
    if !words.is_empty() && !words.contains(&text.as_str()) {
        let hint = did_you_mean(text, words.iter().copied());
        return Err(format!("compares {} with {text:?}, expected {}{hint}", column.name(), words.join(", ")));
    }
    Ok(Cell::Text(text.clone()))
}

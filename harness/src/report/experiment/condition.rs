//! Conditions on observations: `model.n_layers >= 8`, `not (model.n_experts == 0 or params < 2e6)`.
//!
//! Conditions compare a column with a number or text, or with several (`in`), and are joined by `and`, `or` and `not`
//! with parentheses; `not` binds tightest, then `and`. A comparison with a missing value is neither true nor false
//! (Kleene's strong three-valued logic, as in SQL), so neither it nor its negation holds; `is missing` tests for that.

use crate::config::did_you_mean;
use crate::report::columns::Column;
use crate::report::columns::quantity::dotted;
use crate::report::results::observation::{Cell, Observation};
use std::cmp::Ordering;

/// Maximum nesting depth of parentheses and `not`.
const DEEPEST: usize = 64;

/// A parsed condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The condition as written, without surrounding white space.
    pub text: String,
    tree: Tree,
}

#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Leaf(Column, Test),
    Not(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
}

/// A test of a column's value.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Compare(Operator, Cell),
    In(Vec<Cell>),
    Missing,
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

/// The truth values that a condition may have: true, false, or neither because a value is missing. For a finished trial
/// exactly one of them is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Possible {
    yes: bool,
    no: bool,
    neither: bool,
}

impl Possible {
    /// All three: the value is not known before the trial runs.
    const ANYTHING: Self = Self { yes: true, no: true, neither: true };

    fn of(truth: Option<bool>) -> Self {
        Self { yes: truth == Some(true), no: truth == Some(false), neither: truth.is_none() }
    }

    fn not(self) -> Self {
        Self { yes: self.no, no: self.yes, ..self }
    }

    /// Conjunction: false if either is false, true if both are true, otherwise neither.
    fn and(self, other: Self) -> Self {
        let is_left = |one: Self, other: Self| one.neither && (other.yes || other.neither);
        Self {
            yes: self.yes && other.yes,
            no: self.no || other.no,
            neither: is_left(self, other) || is_left(other, self),
        }
    }
}

impl Condition {
    /// Parses a condition; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
        let tree = parser.parse_or()?;
        match parser.next() {
            None => Ok(Self { text: text.trim().into(), tree }),
            Some(found) => {
                Err(format!("has {} where \"and\", \"or\" or the end was expected", found.shown()))
            }
        }
    }

    /// The columns that it names.
    pub fn columns(&self) -> impl Iterator<Item = Column> + use<> {
        let mut columns = vec![];
        self.tree.columns(&mut columns);
        columns.into_iter()
    }

    /// The name of a column as the condition spells it.
    pub fn written(&self, column: &Column) -> String {
        let dotted = dotted(column.name());
        if self.text.contains(&dotted) { dotted } else { column.name().into() }
    }

    /// Whether it holds; a comparison with a missing value does not, nor does its negation.
    pub fn holds(&self, observation: &Observation) -> bool {
        self.tree.truth(&|column, test| Possible::of(test.holds(column, observation))).yes
    }

    /// Whether it may hold, given what is known before anything runs.
    pub fn may_hold(&self, observation: &Observation) -> bool {
        let leaf = |column: &Column, test: &Test| match column.is_known() {
            true => Possible::of(test.holds(column, observation)),
            false => Possible { neither: *test != Test::Missing, ..Possible::ANYTHING },
        };
        self.tree.truth(&leaf).yes
    }
}

impl Tree {
    fn columns(&self, found: &mut Vec<Column>) {
        match self {
            Self::Leaf(column, _) => found.push(*column),
            Self::Not(part) => part.columns(found),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.columns(found)),
        }
    }

    fn truth(&self, leaf: &dyn Fn(&Column, &Test) -> Possible) -> Possible {
        match self {
            Self::Leaf(column, test) => leaf(column, test),
            Self::Not(part) => part.truth(leaf).not(),
            Self::All(parts) => {
                parts.iter().fold(Possible::of(Some(true)), |all, part| all.and(part.truth(leaf)))
            }
            // De Morgan: not all of the negations hold.
            Self::Any(parts) => {
                let none = |none: Possible, part: &Self| none.and(part.truth(leaf).not());
                parts.iter().fold(Possible::of(Some(true)), none).not()
            }
        }
    }
}

impl Test {
    /// Evaluates the test; `None` if the value is missing or of another type.
    fn holds(&self, column: &Column, observation: &Observation) -> Option<bool> {
        let found = column.read(observation);
        match self {
            Self::Missing => Some(found.is_none()),
            Self::In(values) => {
                let found = found?;
                let equal = values.iter().map(|value| Some(order(&found, value)? == Ordering::Equal));
                equal.collect::<Option<Vec<bool>>>().map(|equal| equal.contains(&true))
            }
            Self::Compare(operator, value) => {
                let ordering = order(&found?, value)?;
                Some(match operator {
                    Operator::Equal => ordering == Ordering::Equal,
                    Operator::NotEqual => ordering != Ordering::Equal,
                    Operator::Less => ordering == Ordering::Less,
                    Operator::AtMost => ordering != Ordering::Greater,
                    Operator::Greater => ordering == Ordering::Greater,
                    Operator::AtLeast => ordering != Ordering::Less,
                })
            }
        }
    }
}

fn order(found: &Cell, value: &Cell) -> Option<Ordering> {
    match (found, value) {
        (Cell::Number(a), Cell::Number(b)) => a.partial_cmp(b),
        (Cell::Text(a), Cell::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// A token of a condition, with the position of its first character, counted from 1.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    kind: Kind,
    place: usize,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Word(String),
    Quoted(String),
    Operator(Operator, &'static str),
    /// A parenthesis, a bracket or a comma.
    Mark(char),
}

impl Token {
    fn shown(&self) -> String {
        let text = match &self.kind {
            Kind::Word(word) | Kind::Quoted(word) => format!("{word:?}"),
            Kind::Operator(_, sign) => format!("\"{sign}\""),
            Kind::Mark(mark) => format!("\"{mark}\""),
        };
        format!("{text} at character {}", self.place)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(found) if found == word)
    }

    fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
    let mut tokens = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let place = text[..text.len() - rest.len()].chars().count() + 1;
        let (kind, length) = if let Some(&(sign, operator)) =
            OPERATORS.iter().find(|(sign, _)| rest.starts_with(sign))
        {
            (Kind::Operator(operator, sign), sign.len())
        } else if first == '\'' || first == '"' {
            let Some((quoted, _)) = rest[1..].split_once(first) else {
                return Err(format!("has no closing {first} for the one at character {place}"));
            };
            (Kind::Quoted(quoted.into()), quoted.len() + 2)
        } else if is_word(first) {
            let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            (Kind::Word(rest[..end].into()), end)
        } else if matches!(first, '(' | ')' | '[' | ']' | ',') {
            (Kind::Mark(first), 1)
        } else if first == '=' {
            return Err(format!("has \"=\" at character {place}, expected ==, !=, <, <=, > or >="));
        } else {
            let first = first.to_string();
            return Err(format!(
                "has {first:?} at character {place}, expected comparisons such as model.n_layers >= 8, joined by and, or and not"
            ));
        };
        tokens.push(Token { kind, place });
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// Recursive-descent parser: the tokens, the index of the next one, and the nesting depth.
struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// Consumes the next token if it satisfies `is_it`; returns whether it did.
    fn takes(&mut self, is_it: impl Fn(&Token) -> bool) -> bool {
        let takes = self.tokens.get(self.at).is_some_and(is_it);
        self.at += usize::from(takes);
        takes
    }

    fn parse_or(&mut self) -> Result<Tree, String> {
        let mut parts = vec![self.parse_and()?];
        while self.takes(|token| token.is_word("or")) {
            parts.push(self.parse_and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::Any(parts) })
    }

    fn parse_and(&mut self) -> Result<Tree, String> {
        let mut parts = vec![self.parse_unary()?];
        while self.takes(|token| token.is_word("and")) {
            parts.push(self.parse_unary()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Tree::All(parts) })
    }

    fn parse_unary(&mut self) -> Result<Tree, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("has more than {DEEPEST} parentheses and \"not\" within each other"));
        }
        let open = self.tokens.get(self.at).map_or(0, |token| token.place);
        let tree = if self.takes(|token| token.is_word("not")) {
            Tree::Not(Box::new(self.parse_unary()?))
        } else if self.takes(|token| token.is_mark('(')) {
            let inside = self.parse_or()?;
            match self.next() {
                Some(token) if token.is_mark(')') => inside,
                Some(token) => {
                    return Err(format!("has {} where \"and\", \"or\" or \")\" was expected", token.shown()));
                }
                None => return Err(format!("has no \")\" for the \"(\" at character {open}")),
            }
        } else {
            self.parse_comparison()?
        };
        self.depth -= 1;
        Ok(tree)
    }

    fn parse_comparison(&mut self) -> Result<Tree, String> {
        let name = match self.next() {
            None => return Err("ends where a comparison was expected, such as model.n_layers >= 8".into()),
            Some(Token { kind: Kind::Word(name), .. }) => name,
            Some(token) => return Err(format!("has {} where a column was expected", token.shown())),
        };
        let column = Column::find(&name)?;
        let expected = "expected ==, !=, <, <=, > or >=, in (...), or is missing";
        let is_not = self.takes(|token| token.is_word("not"));
        let test = match self.next() {
            Some(Token { kind: Kind::Operator(operator, _), .. }) if !is_not => {
                let value = self.value(&name, &column)?;
                let is_order = !matches!(operator, Operator::Equal | Operator::NotEqual);
                if matches!(value, Cell::Text(_)) && is_order {
                    return Err(format!("orders {name}, which holds text; expected == or !="));
                }
                Test::Compare(operator, value)
            }
            Some(token) if token.is_word("in") => Test::In(self.values(&name, &column)?),
            Some(token) if token.is_word("is") && !is_not => {
                let is_not = self.takes(|token| token.is_word("not"));
                if !self.takes(|token| token.is_word("missing")) {
                    let found = self.next().map_or("the end".into(), |token| token.shown());
                    return Err(format!("has {found} after {name} is, expected missing or not missing"));
                }
                let missing = Tree::Leaf(column, Test::Missing);
                return Ok(if is_not { Tree::Not(Box::new(missing)) } else { missing });
            }
            found => {
                let found = found.map_or("the end".into(), |token| token.shown());
                let (not, expected) = if is_not { (" not", "expected in (...)") } else { ("", expected) };
                return Err(format!("has {found} after {name}{not}, {expected}"));
            }
        };
        let leaf = Tree::Leaf(column, test);
        Ok(if is_not { Tree::Not(Box::new(leaf)) } else { leaf })
    }

    /// Parses a list: `(2, 4)` or `[2, 4]`.
    fn values(&mut self, name: &str, column: &Column) -> Result<Vec<Cell>, String> {
        let close = match self.next() {
            Some(token) if token.is_mark('(') => ')',
            Some(token) if token.is_mark('[') => ']',
            found => {
                let found = found.map_or("the end".into(), |token| token.shown());
                return Err(format!("has {found} after {name} in, expected values such as (2, 4)"));
            }
        };
        let mut values = vec![];
        loop {
            values.push(self.value(name, column)?);
            match self.next() {
                Some(token) if token.is_mark(close) => return Ok(values),
                Some(token) if token.is_mark(',') => {}
                found => {
                    let found = found.map_or("the end".into(), |token| token.shown());
                    return Err(format!("has {found} where \",\" or \"{close}\" was expected"));
                }
            }
        }
    }

    fn value(&mut self, name: &str, column: &Column) -> Result<Cell, String> {
        let token = self.next();
        let (text, is_quoted) = match token.as_ref().map(|token| &token.kind) {
            Some(Kind::Word(text)) => (text, false),
            Some(Kind::Quoted(text)) => (text, true),
            _ => {
                let found = token.map_or("the end".into(), |token| token.shown());
                return Err(format!("has {found} where a value for {name} was expected"));
            }
        };
        let shown = token.as_ref().map_or(String::new(), Token::shown);
        if column.is_number() {
            let number = text.replace('_', "").parse::<f64>().ok().filter(|n| n.is_finite() && !is_quoted);
            return number
                .map(Cell::Number)
                .ok_or_else(|| format!("compares {} with {shown}, expected a number", column.name()));
        }
        let words = column.words();
        if !words.is_empty() && !words.contains(&text.as_str()) {
            let hint = did_you_mean(text, words.iter().copied());
            return Err(format!(
                "compares {} with {shown}, expected {}{hint}",
                column.name(),
                words.join(", ")
            ));
        }
        Ok(Cell::Text(text.clone()))
    }
}

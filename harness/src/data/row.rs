//! One example of training data, whatever file it came from.

pub use crate::config::RowKind as Kind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Whether the turn carries loss, where its row says so; `None` leaves it to the stage's `answer_loss`.
    #[serde(skip)]
    pub trained: Option<bool>,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), trained: None }
    }
}

/// One example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Text to continue.
    Text(String),
    /// A conversation.
    Chat(Vec<Message>),
    /// Two answers to one prompt, the first preferred.
    Preference {
        /// The conversation so far, ending with the user.
        prompt: Vec<Message>,
        /// The better answer.
        chosen: String,
        /// The worse answer.
        rejected: String,
    },
    /// A sequence of words, each a token, with what is to be said behind each.
    Labelled {
        /// The words, blanks between them.
        text: String,
        /// For each word the one that is to be said behind it, or [`NO_LABEL`] where nothing is.
        labels: String,
    },
}

/// As a person reads it: a line for each turn.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let turns = |f: &mut fmt::Formatter, turns: &[Message]| {
            turns.iter().try_for_each(|Message { role, content, .. }| writeln!(f, "{role}: {content}"))
        };
        match self {
            Self::Text(text) => writeln!(f, "{text}"),
            Self::Chat(messages) => turns(f, messages),
            Self::Preference { prompt, chosen, rejected } => {
                turns(f, prompt)?;
                writeln!(f, "chosen: {chosen}\nrejected: {rejected}")
            }
            Self::Labelled { text, labels } => writeln!(f, "{text}\nlabels: {labels}"),
        }
    }
}

/// Stands in the labels of a row for nothing.
pub const NO_LABEL: &str = "-";

impl Row {
    /// The texts of the row, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let parts: Vec<&str> = match self {
            Self::Text(text) | Self::Labelled { text, .. } => vec![text],
            Self::Chat(turns) => turns.iter().map(|m| m.content.as_str()).collect(),
            Self::Preference { prompt, chosen, rejected } => {
                let prompt = prompt.iter().map(|m| m.content.as_str());
                prompt.chain([chosen.as_str(), rejected.as_str()]).collect()
            }
        };
        parts.into_iter()
    }

    /// The characters of the row.
    pub fn chars(&self) -> impl Iterator<Item = char> + '_ {
        self.texts().flat_map(str::chars)
    }
}

//! One example of training data, independent of the format of its file.

pub use crate::config::RowKind as Kind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text of the turn.
    pub content: String,
    /// Whether the turn carries loss, if its row specifies it; `None` leaves it to the stage's `answer_loss`.
    #[serde(skip)]
    pub trained: Option<bool>,
}

impl Message {
    /// Creates a turn of `role`, with `trained` unset.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), trained: None }
    }
}

/// One training example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Text to continue.
    Text(String),
    /// A conversation.
    Chat(Vec<Message>),
    /// Two answers to one prompt, the first preferred.
    Preference {
        /// The conversation so far, ending with a user turn.
        prompt: Vec<Message>,
        /// The better answer.
        chosen: String,
        /// The worse answer.
        rejected: String,
    },
    /// A sequence of words, one token each, with a target word after each of them.
    Labelled {
        /// The words, separated by spaces.
        text: String,
        /// For each word, the word to be predicted after it, or [`NO_LABEL`] if there is none.
        labels: String,
    },
}

/// Human-readable form: one line per turn.
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

/// Placeholder in the labels of a row for a word without a target.
pub const NO_LABEL: &str = "-";

impl Row {
    /// Returns the texts of the row, in order; labels are not included.
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

    /// Returns the characters of all texts of the row.
    pub fn chars(&self) -> impl Iterator<Item = char> + '_ {
        self.texts().flat_map(str::chars)
    }
}

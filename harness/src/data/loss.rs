//! Which ids of a document carry loss: all ids of a text, or the answers of a conversation, by the marks of its ids.

use super::store::Store;
use super::{Conversation, Kind, Message};
use crate::config::AnswerLoss;
use model::Sequence;

/// Role of an id in an answer: bits of its byte in the store; 0 for an id outside answers.
pub mod mark {
    /// Inside an answer, from the end of its opening to the end of its closing.
    pub const ANSWER: u8 = 1;
    /// The first id of an answer.
    pub const FIRST: u8 = 2;
    /// Contains words of the answer.
    pub const WORDS: u8 = 4;
    /// In a turn that carries loss regardless of the stage's `answer_loss`.
    pub const ALWAYS: u8 = 8;
    /// In a turn that never carries loss.
    pub const NEVER: u8 = 16;
}

/// Returns the marks of a conversation's ids; [`Message::trained`] may specify which turns carry loss.
pub fn marks(conversation: &Conversation, messages: &[Message]) -> Vec<u8> {
    let mut marks = vec![0; conversation.ids.len()];
    for answer in &conversation.answers {
        let trained = messages.get(answer.turn).and_then(|message| message.trained);
        let turn = match trained {
            None => 0,
            Some(true) => mark::ALWAYS,
            Some(false) => mark::NEVER,
        };
        marks[answer.whole.clone()].fill(mark::ANSWER | turn);
        marks[answer.words.clone()].iter_mut().for_each(|mark| *mark |= mark::WORDS);
        if let Some(first) = marks.get_mut(answer.whole.start) {
            *first |= mark::FIRST;
        }
    }
    marks
}

/// Returns where the words of a conversation's last answer begin, by its marks.
pub fn last_words(marks: &[u8]) -> Option<usize> {
    let first = marks.iter().rposition(|mark| mark & mark::FIRST != 0)?;
    let words = marks[first..].iter().position(|mark| mark & mark::WORDS != 0)?;
    Some(first + words)
}

/// Which ids of a document carry loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowLoss {
    /// All ids.
    Text,
    /// Ids of answers that still have words after the cut.
    Answers(AnswerLoss),
    /// Ids after the last answer marker in the cut ids, as in MiniMind.
    Minimind {
        /// Ids of `<s>assistant`.
        marker: Vec<u32>,
    },
    /// None of the ids: the targets of a labelled sequence are stored as separate labels.
    Labels,
}

impl RowLoss {
    /// Returns the rule for the documents of a store; `answers` applies to conversations and pairs with marks.
    pub fn of(store: &Store, answers: AnswerLoss) -> Self {
        if store.info().kind == Kind::Labelled {
            return Self::Labels;
        }
        if store.info().has_marks() {
            return Self::Answers(answers);
        }
        match store.info().marker.clone() {
            marker if marker.is_empty() => Self::Text,
            marker => Self::Minimind { marker },
        }
    }

    /// Returns whether each id carries loss as a target, `(ids,)`; `marks` are the marks of the ids.
    pub fn mask(&self, ids: &[u32], marks: &[u8]) -> Vec<bool> {
        match self {
            Self::Text => vec![true; ids.len()],
            Self::Labels => vec![false; ids.len()],
            Self::Answers(answers) => answer_mask(marks, *answers),
            Self::Minimind { marker } => {
                let found = (0..ids.len()).rfind(|&at| ids[at..].starts_with(marker));
                // Without a marker v1's search returns -1, and its loss starts at -1 + marker length.
                let start = found.map_or(marker.len().saturating_sub(1), |at| at + marker.len());
                (0..ids.len()).map(|at| at >= start).collect()
            }
        }
    }

    /// Whether a question among the ids of a cut document carries loss, as in MiniMind: no answer is marked in them, or
    /// another turn begins after the last one that is.
    pub fn is_on_question(&self, ids: &[u32]) -> bool {
        let Self::Minimind { marker } = self else { return false };
        match (0..ids.len()).rfind(|&at| ids[at..].starts_with(marker)) {
            None => true,
            Some(at) => marker.first().is_some_and(|turn| ids[at + marker.len()..].contains(turn)),
        }
    }

    /// Makes a sequence of a document of at least two ids; `marks` and `labels` are those of the ids.
    pub fn sequence(&self, ids: &[u32], marks: &[u8], labels: &[u32]) -> Sequence {
        let (mask, said) = match self {
            Self::Labels => (labels.iter().map(|&label| label != 0).collect(), labels),
            _ => (self.mask(ids, marks), ids),
        };
        let (n, mask, targets) = (ids.len() - 1, &mask[1..], &said[1..]);
        Sequence {
            ids: ids[..n].to_vec(),
            targets: targets.to_vec(),
            // In MiniMind a target 0 has no loss, but counts in the denominator of the mean.
            weights: mask.iter().zip(targets).map(|(&on, &t)| if on && t != 0 { 1.0 } else { 0.0 }).collect(),
            documents: vec![n as u32],
            counted: mask.iter().filter(|on| **on).count() as f32,
        }
    }
}

/// Returns which ids belong to answers that carry loss: answers of turns marked so, otherwise every answer or the last;
/// answers that lost all their words to the cut are ignored.
fn answer_mask(marks: &[u8], answers: AnswerLoss) -> Vec<bool> {
    let mut mask = vec![false; marks.len()];
    let firsts = marks.iter().enumerate().filter(|(_, mark)| *mark & mark::FIRST != 0).map(|(at, _)| at);
    let answer = |start: usize| {
        let rest = &marks[start + 1..];
        let len = rest.iter().position(|mark| mark & mark::ANSWER == 0 || mark & mark::FIRST != 0);
        start..start + 1 + len.unwrap_or(rest.len())
    };
    let is_left =
        |range: &std::ops::Range<usize>| marks[range.clone()].iter().any(|mark| mark & mark::WORDS != 0);
    let left: Vec<_> = firsts.map(answer).filter(is_left).collect();
    for (i, range) in left.iter().enumerate() {
        let follows = answers == AnswerLoss::Every || i + 1 == left.len();
        let turn = marks[range.start];
        let on = turn & mark::ALWAYS != 0 || turn & mark::NEVER == 0 && follows;
        mask[range.clone()].fill(on);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::mark::{ALWAYS, ANSWER, FIRST, NEVER, WORDS};
    use super::*;

    fn on(marks: &[u8], answers: AnswerLoss) -> Vec<u32> {
        let ids = vec![9; marks.len()];
        RowLoss::Answers(answers).mask(&ids, marks).into_iter().map(u32::from).collect()
    }

    /// Two answers of a newline, two ids of words and an end, each after two ids of a question.
    fn two(first: u8, second: u8) -> Vec<u8> {
        let answer =
            |turn: u8| [ANSWER | FIRST, ANSWER | WORDS, ANSWER | WORDS, ANSWER].map(|mark| mark | turn);
        [&[0, 0][..], &answer(first), &[0, 0], &answer(second)].concat()
    }

    #[test]
    fn the_last_answer_or_every_one_carries_loss() {
        let marks = two(0, 0);
        assert_eq!(on(&marks, AnswerLoss::Last), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(on(&marks, AnswerLoss::Every), [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn of_a_cut_conversation_the_last_answer_with_words_left_carries_loss() {
        let marks = two(0, 0);
        // The cut removes the end of the second answer, one of its words, all of its words; then the same of the first.
        assert_eq!(on(&marks[..11], AnswerLoss::Last), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!(on(&marks[..10], AnswerLoss::Last), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        for answers in [AnswerLoss::Last, AnswerLoss::Every] {
            assert_eq!(on(&marks[..9], answers), [0, 0, 1, 1, 1, 1, 0, 0, 0]);
            assert_eq!(on(&marks[..4], answers), [0, 0, 1, 1]);
            assert_eq!(on(&marks[..3], answers), [0, 0, 0]);
            assert_eq!(on(&[], answers), [0u32; 0]);
        }
    }

    #[test]
    fn a_turn_may_say_whether_it_carries_loss() {
        assert_eq!(on(&two(ALWAYS, 0), AnswerLoss::Last), [0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]);
        assert_eq!(on(&two(0, NEVER), AnswerLoss::Every), [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(on(&two(0, NEVER), AnswerLoss::Last), [0; 12]);
        assert_eq!(on(&two(ALWAYS, NEVER), AnswerLoss::Last), [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn answers_may_follow_each_other() {
        let answer = [ANSWER | FIRST | WORDS, ANSWER];
        let marks = [answer, answer].concat();
        assert_eq!(on(&marks, AnswerLoss::Last), [0, 0, 1, 1]);
        assert_eq!(last_words(&marks), Some(2));
        assert_eq!(last_words(&marks[..0]), None);
    }

    #[test]
    fn minimind_rows_have_loss_after_the_last_marker() {
        let loss = RowLoss::Minimind { marker: vec![1, 5] };
        let on = |ids: &[u32]| loss.mask(ids, &[]).into_iter().map(u32::from).collect::<Vec<_>>();
        assert_eq!(on(&[1, 4, 9, 2, 1, 5, 8, 2, 1, 5, 7, 2]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        // The marker is cut off: MiniMind's loss starts at -1 + the marker's length.
        assert_eq!(on(&[1, 4, 9]), [0, 1, 1]);
        assert_eq!(on(&[]), [0u32; 0]);
    }

    #[test]
    fn a_cut_minimind_row_may_have_loss_on_a_question() {
        let loss = RowLoss::Minimind { marker: vec![1, 5] };
        let row = [1, 4, 9, 9, 2, 1, 5, 8, 2, 1, 4, 7, 2, 1, 5, 7, 2];
        let found: Vec<usize> = (1..=row.len()).filter(|&len| loss.is_on_question(&row[..len])).collect();
        // Up to the first marker, and from the second question up to the second marker.
        assert_eq!(found, [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14]);
        assert!(!RowLoss::Answers(AnswerLoss::Last).is_on_question(&row[..3]));
    }
}

//! Which ids of a document carry loss: all of a text, or answers, which each id of a conversation tells by a mark.

use super::store::Store;
use super::{Conversation, Kind, Message};
use crate::config::AnswerLoss;
use model::Sequence;

/// What an id is of an answer: bits of its byte in the store; 0 is an id outside answers.
pub mod mark {
    /// Inside an answer, from behind what opens it to the end of what closes it.
    pub const ANSWER: u8 = 1;
    /// The first id of an answer.
    pub const FIRST: u8 = 2;
    /// Holds words of the answer.
    pub const WORDS: u8 = 4;
    /// Of a turn that carries loss whatever the stage's `answer_loss`.
    pub const ALWAYS: u8 = 8;
    /// Of a turn that never carries loss.
    pub const NEVER: u8 = 16;
}

/// The marks of a conversation's ids; its row says by [`Message::trained`] which turns carry loss.
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

/// Where the words of a conversation's last answer begin, by its marks.
pub fn last_words(marks: &[u8]) -> Option<usize> {
    let first = marks.iter().rposition(|mark| mark & mark::FIRST != 0)?;
    let words = marks[first..].iter().position(|mark| mark & mark::WORDS != 0)?;
    Some(first + words)
}

/// Which ids of a document carry loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowLoss {
    /// All.
    Text,
    /// Those of answers of which words are left.
    Answers(AnswerLoss),
    /// Those after the last answer marker in the cut ids, as MiniMind finds it.
    Minimind {
        /// Ids of `<s>assistant`.
        marker: Vec<u32>,
    },
    /// None as such: of a labelled sequence what is to be said stands beside its ids.
    Labels,
}

impl RowLoss {
    /// The loss on the documents of a store.
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

    /// Whether each id is trained on as a target, `(ids,)`; `marks` are those of the ids.
    pub fn mask(&self, ids: &[u32], marks: &[u8]) -> Vec<bool> {
        match self {
            Self::Text => vec![true; ids.len()],
            Self::Labels => vec![false; ids.len()],
            Self::Answers(answers) => answer_mask(marks, *answers),
            Self::Minimind { marker } => {
                let found = (0..ids.len()).rfind(|&at| ids[at..].starts_with(marker));
                // Without a marker v1's search says -1, and its loss starts at -1 + marker length.
                let start = found.map_or(marker.len().saturating_sub(1), |at| at + marker.len());
                (0..ids.len()).map(|at| at >= start).collect()
            }
        }
    }

    /// A document of at least two ids as a sequence; `labels` are those of the ids.
    pub fn sequence(&self, ids: &[u32], marks: &[u8], labels: &[u32]) -> Sequence {
        let (mask, said) = match self {
            Self::Labels => (labels.iter().map(|&label| label != 0).collect(), labels),
            _ => (self.mask(ids, marks), ids),
        };
        let (n, mask, targets) = (ids.len() - 1, &mask[1..], &said[1..]);
        Sequence {
            ids: ids[..n].to_vec(),
            targets: targets.to_vec(),
            // A target 0 has no loss in MiniMind, but counts in the mean.
            weights: mask.iter().zip(targets).map(|(&on, &t)| if on && t != 0 { 1.0 } else { 0.0 }).collect(),
            documents: vec![n as u32],
            counted: mask.iter().filter(|on| **on).count() as f32,
        }
    }
}

/// The answers that carry loss: those whose turn says so, and otherwise every one or the last; one that a cut has
/// left without words has nothing to learn.
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

    /// Two answers: a newline, two ids of words, an end; between them two ids of a question.
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
        // The second answer has lost its last id, its end, its words; then the first one has.
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
        // The marker was cut off: MiniMind's -1 + its length.
        assert_eq!(on(&[1, 4, 9]), [0, 1, 1]);
        assert_eq!(on(&[]), [0u32; 0]);
    }
}

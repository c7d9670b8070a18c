//! Prompts for exam questions, and the ids of their answers.

use super::plain;
use super::sheet::{Sheet, SheetQuestion};
use super::shots::Shots;
use crate::config::{Answer, ExamFormat};
use crate::data::{Conversation, Message, SpecialText, Tokenizer};
use crate::records::letter;
use crate::stop::check;
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use std::sync::atomic::AtomicBool;

/// Options for making prompts from questions.
#[derive(Debug, Clone)]
pub struct Prompter {
    /// How prompts are worded.
    pub format: ExamFormat,
    /// System message, with [`ExamFormat::Minimind`]; empty for none.
    pub system: String,
    /// Maximum length of a prompt with its answer, in tokens.
    pub max_len: usize,
    /// Solved questions, by subject; empty for zero-shot.
    pub shots: Shots,
    /// How questions are answered.
    pub answer: Answer,
    /// Whether each option is presented at each position in turn; for answers by letter.
    pub rotate: bool,
}

/// A tokenized question with its answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The question, once or for each rotation of its options: position `i` of rotation `r` holds option `i + r`, modulo
    /// their number.
    pub rotations: Vec<TokenizedPrompt>,
    /// An empty question with the texts of the options as answers; `None` for answers by letter.
    pub unconditional: Option<TokenizedPrompt>,
    /// Number of shots shown; the fewest of the rotations.
    pub shots: usize,
    /// Whether shots were left out to make room for the question.
    pub has_fewer_shots: bool,
    /// Whether the beginning of the prompt was cut away.
    pub is_cut: bool,
    /// Whether the question is among the shots shown before it.
    pub is_among_shots: bool,
    /// Whether the question or an option spells a special token, which is encoded as characters.
    pub has_special: bool,
}

/// A tokenized prompt and its possible answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedPrompt {
    /// Ids of the prompt, up to where the answer begins.
    pub ids: Vec<u32>,
    /// Ids of each answer as they follow the prompt: a single one for a letter, or those of an option's text.
    pub answers: Vec<Vec<u32>>,
}

/// A prompt before it is tokenized.
enum PromptText {
    /// Turns for the chat template.
    Chat(Vec<Message>),
    /// The text as it is.
    Plain(String),
}

/// A tokenized prompt, and where in it the answer of each shot ends, in ids.
struct PromptWithEnds {
    prompt: TokenizedPrompt,
    ends: Vec<usize>,
}

impl Prompter {
    /// Makes a prompt for every question, sheet by sheet.
    ///
    /// # Errors
    /// If the chat template refuses a question, or the tokenizer cannot represent an answer; [`crate::stop::Stopped`] once
    /// `stop` is set.
    pub fn prompts(&self, tokenizer: &Tokenizer, sheets: &[Sheet], stop: &AtomicBool) -> Result<Vec<Prompt>> {
        let questions: Vec<(&Sheet, &SheetQuestion)> =
            sheets.iter().flat_map(|sheet| sheet.questions.iter().map(move |q| (sheet, q))).collect();
        let prompt = |(sheet, question): (&Sheet, &SheetQuestion)| {
            check(stop)?;
            self.prompt(tokenizer, &sheet.subject, question)
                .with_context(|| format!("{}, question {}", sheet.subject, question.id))
        };
        questions.into_par_iter().map(prompt).collect()
    }

    /// Makes a prompt. If it is too long for the model, it loses shots, the first ones first, and only then its beginning.
    fn prompt(&self, tokenizer: &Tokenizer, subject: &str, question: &SheetQuestion) -> Result<Prompt> {
        let shots = self.shots.get(subject).map_or(&[][..], Vec::as_slice);
        let unconditional = match self.answer {
            Answer::Letter => None,
            Answer::Cloze | Answer::Continuation => {
                Some(self.tokenize(tokenizer, &self.empty_text(), question)?.prompt)
            }
        };
        let count = if self.rotate { question.options.len() } else { 1 };
        let mut texts = std::iter::once(&question.question).chain(&question.options);
        let has_special = texts.any(|text| tokenizer.spelled(text) > 0);
        let mut prompt = Prompt { unconditional, shots: shots.len(), has_special, ..Prompt::default() };
        let is_asked = |shot: &SheetQuestion| {
            shot.question.trim() == question.question.trim() && shot.options == question.options
        };
        for by in 0..count {
            let mut question = question.clone();
            question.options.rotate_left(by);
            let mut shown = shots;
            let (mut asked, excess) = loop {
                let tokenized = self.tokenize(tokenizer, &self.text(subject, shown, &question), &question)?;
                let asked = tokenized.prompt;
                let longest = asked.answers.iter().map(Vec::len).max().unwrap_or(0);
                // The last token of an answer is not an input.
                let room = (self.max_len + 1).saturating_sub(longest).max(1);
                let excess = asked.ids.len().saturating_sub(room);
                if excess == 0 || shown.is_empty() {
                    break (asked, excess);
                }
                // Shots that end within the first `excess` tokens cannot free enough of them: the next one is dropped as well.
                let ends = tokenized.ends.iter().filter(|_| tokenized.ends.len() == shown.len());
                let too_few = ends.take_while(|end| **end < excess).count();
                shown = &shown[(too_few + 1).min(shown.len())..];
            };
            asked.ids.drain(..excess);
            prompt.shots = prompt.shots.min(shown.len());
            prompt.has_fewer_shots |= shown.len() < shots.len();
            prompt.is_among_shots |= shown.iter().any(is_asked);
            prompt.is_cut |= excess > 0;
            prompt.rotations.push(asked);
        }
        Ok(prompt)
    }

    /// The text of a question after its shots.
    fn text(&self, subject: &str, shots: &[SheetQuestion], question: &SheetQuestion) -> PromptText {
        match self.format {
            ExamFormat::Minimind => PromptText::Chat(self.messages(shots, question)),
            ExamFormat::LmEval => PromptText::Plain(plain::prompt(subject, shots, question, self.answer)),
        }
    }

    /// The text of an empty question.
    fn empty_text(&self) -> PromptText {
        match self.format {
            ExamFormat::Minimind => PromptText::Chat(vec![Message::new("user", "")]),
            ExamFormat::LmEval => PromptText::Plain(plain::ANSWER.into()),
        }
    }

    /// Tokenizes a prompt and the answers to `question` after it, regardless of their length.
    fn tokenize(
        &self,
        tokenizer: &Tokenizer,
        text: &PromptText,
        question: &SheetQuestion,
    ) -> Result<PromptWithEnds> {
        match text {
            PromptText::Chat(messages) => self.tokenize_chat(tokenizer, messages, question),
            PromptText::Plain(text) => {
                let prompt = self.tokenize_plain(tokenizer, text, question)?;
                Ok(PromptWithEnds { prompt, ends: vec![] })
            }
        }
    }

    /// Tokenizes a plain prompt as lm-evaluation-harness does: an answer is what is tokenized after as many tokens as the
    /// prompt has alone. Letters may be several tokens.
    fn tokenize_plain(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        question: &SheetQuestion,
    ) -> Result<TokenizedPrompt> {
        let ids = tokenizer.encode_characters(text)?;
        let answer = |place: usize| {
            let answer = self.answer_of(question, place);
            let mut whole = tokenizer.encode_characters(&plain::answered(text, &answer))?;
            ensure!(
                whole.len() > ids.len(),
                "the tokenizer encodes the answer {answer:?} after the prompt as no tokens"
            );
            Ok(whole.split_off(ids.len()))
        };
        let answers = (0..question.options.len()).map(answer).collect::<Result<_>>()?;
        Ok(TokenizedPrompt { ids, answers })
    }

    fn tokenize_chat(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        question: &SheetQuestion,
    ) -> Result<PromptWithEnds> {
        let options = question.options.len();
        let answers: Vec<Message> =
            (0..options).map(|place| Message::new("assistant", self.answer_of(question, place))).collect();
        let all = tokenizer.conversations(messages, &answers, SpecialText::Characters)?;
        let words = |(conversation, answer): (&Conversation, &Message)| {
            let words = conversation.answers.last().filter(|found| found.turn == messages.len());
            let left_out = || format!("the chat template leaves out the answer {:?}", answer.content);
            Ok(words.with_context(left_out)?.words.clone())
        };
        let words: Vec<_> = all.iter().zip(&answers).map(words).collect::<Result<_>>()?;
        // A tokenizer may merge the end of the prompt with the beginning of an answer; the prompt is the part before all answers.
        let common = words.iter().map(|words| words.start).min().unwrap_or(0);
        let answers: Vec<Vec<u32>> = all
            .iter()
            .zip(&words)
            .map(|(conversation, words)| conversation.ids[common..words.end].to_vec())
            .collect();
        for (place, ids) in answers.iter().enumerate() {
            let letter = letter(place);
            match self.answer {
                Answer::Letter => ensure!(
                    ids.len() == 1,
                    "the letter {letter} is {} tokens after the prompt, expected one; answer by cloze \
                     (exam.answer = \"cloze\", --answer cloze) or take another tokenizer",
                    ids.len()
                ),
                Answer::Cloze | Answer::Continuation => ensure!(
                    !ids.is_empty(),
                    "the tokenizer encodes option {letter}, {:?}, as no tokens",
                    question.options[place]
                ),
            }
        }
        let before = all[0].answers.iter().filter(|answer| answer.turn < messages.len());
        let ends = before.map(|answer| answer.whole.end).collect();
        Ok(PromptWithEnds { prompt: TokenizedPrompt { ids: all[0].ids[..common].to_vec(), answers }, ends })
    }

    fn messages(&self, shots: &[SheetQuestion], question: &SheetQuestion) -> Vec<Message> {
        // An empty system turn is left out, as some chat templates refuse it.
        let system = (!self.system.is_empty()).then(|| Message::new("system", self.system.clone()));
        let mut messages: Vec<Message> = system.into_iter().collect();
        for solved in shots {
            messages.push(Message::new("user", solved.presented(self.answer)));
            let right = match self.answer {
                Answer::Letter => solved.answer.to_string(),
                Answer::Cloze | Answer::Continuation => solved.right().to_string(),
            };
            messages.push(Message::new("assistant", right));
        }
        messages.push(Message::new("user", question.presented(self.answer)));
        messages
    }

    /// Returns the text of the answer at an index: its letter or its option.
    fn answer_of(&self, question: &SheetQuestion, place: usize) -> String {
        match self.answer {
            Answer::Letter => letter(place).into(),
            Answer::Cloze | Answer::Continuation => question.options[place].clone(),
        }
    }
}

/// Makes a prompt for every question of a probe: its words, followed by each option as the next word.
///
/// # Errors
/// If a word is not in the vocabulary.
pub fn prompts_of_words(tokenizer: &Tokenizer, sheets: &[Sheet]) -> Result<Vec<Prompt>> {
    let prompt = |question: &SheetQuestion| {
        let ids = tokenizer.words(&question.question)?;
        let answers = question.options.iter().map(|option| tokenizer.words(option)).collect::<Result<_>>()?;
        let rotations = vec![TokenizedPrompt { ids, answers }];
        Ok(Prompt { rotations, ..Prompt::default() })
    };
    sheets.iter().flat_map(|sheet| &sheet.questions).map(prompt).collect()
}

/// Returns the ids of the letters A to D as answers to a question.
///
/// # Errors
/// If the chat template refuses the question, or a letter is several tokens.
pub fn letters(tokenizer: &Tokenizer) -> Result<[u32; 4]> {
    let options: Vec<String> = LETTERS.map(String::from).into();
    let question = SheetQuestion { id: String::new(), question: "?".into(), options, answer: 'A' };
    let prompter = Prompter {
        format: ExamFormat::Minimind,
        system: String::new(),
        max_len: 512,
        shots: Shots::new(),
        answer: Answer::Letter,
        rotate: false,
    };
    let asked = prompter.tokenize(tokenizer, &prompter.text("", &[], &question), &question)?.prompt;
    Ok(std::array::from_fn(|i| asked.answers[i][0]))
}

/// Letters of four options.
pub const LETTERS: [char; 4] = ['A', 'B', 'C', 'D'];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;

    fn question(text: &str, answer: char) -> SheetQuestion {
        SheetQuestion {
            id: "0".into(),
            question: text.into(),
            options: ["蓝", "红色", "绿", "黑"].map(String::from).into(),
            answer,
        }
    }

    fn prompter(shots: Vec<SheetQuestion>, answer: Answer) -> Prompter {
        let shots = Shots::from([("s".to_string(), shots)]);
        let format = ExamFormat::Minimind;
        Prompter { format, system: "开始回答问题".into(), max_len: 512, shots, answer, rotate: false }
    }

    fn minimind() -> Option<Tokenizer> {
        Some(Tokenizer::load(&shared("data/minimind_tokenizer")?).unwrap())
    }

    fn ask(prompter: &Prompter, tokenizer: &Tokenizer, question: &SheetQuestion) -> (String, Prompt) {
        let sheet = Sheet { subject: "s".into(), questions: vec![question.clone()] };
        let prompt = prompter.prompts(tokenizer, &[sheet], &AtomicBool::new(false)).unwrap().remove(0);
        (tokenizer.decode(&prompt.rotations[0].ids, false).unwrap(), prompt)
    }

    const ASKED: &str = "<s>user\n天空是。选择 A: 蓝, B: 红色, C: 绿, D: 黑</s>\n<s>assistant\n";

    #[test]
    fn prompts_are_minimind_s() {
        let Some(tokenizer) = minimind() else { return };
        let (text, prompt) = ask(&prompter(vec![], Answer::Letter), &tokenizer, &question("天空是", 'A'));
        assert_eq!(text, format!("开始回答问题{ASKED}"));
        // Ids of A, B, C and D from golden/tokenizer.
        assert_eq!(prompt.rotations[0].answers, [[35], [36], [37], [38]]);
        assert_eq!(prompt.unconditional, None);
        let silent = Prompter { system: String::new(), ..prompter(vec![], Answer::Letter) };
        assert_eq!(ask(&silent, &tokenizer, &question("天空是", 'A')).0, ASKED);
    }

    #[test]
    fn shots_are_answered_as_the_question_is_to_be() {
        let Some(tokenizer) = minimind() else { return };
        let shots = vec![question("海是", 'B'), question("草是", 'C')];
        let shot = |text: &str, answer: &str| format!("{}{answer}</s>\n", ASKED.replace("天空", text));
        let ask = |answer| ask(&prompter(shots.clone(), answer), &tokenizer, &question("天空是", 'A'));
        let (text, prompt) = ask(Answer::Letter);
        assert_eq!(text, format!("开始回答问题{}{}{ASKED}", shot("海", "B"), shot("草", "C")));
        assert!(!prompt.has_fewer_shots && !prompt.is_cut);
        let (text, prompt) = ask(Answer::Cloze);
        assert_eq!(text, format!("开始回答问题{}{}{ASKED}", shot("海", "红色"), shot("草", "绿")));
        let decoded = |all: &[Vec<u32>]| {
            all.iter().map(|ids| tokenizer.decode(ids, false).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(decoded(&prompt.rotations[0].answers), ["蓝", "红色", "绿", "黑"]);
        let (text, prompt) = ask(Answer::Continuation);
        let alone = |text: &str| text.replace("。选择 A: 蓝, B: 红色, C: 绿, D: 黑", "");
        let shots = [shot("海", "红色"), shot("草", "绿")].map(|shot| alone(&shot));
        assert_eq!(text, format!("开始回答问题{}{}", shots.concat(), alone(ASKED)));
        let unconditional = prompt.unconditional.unwrap();
        assert_eq!(tokenizer.decode(&unconditional.ids, false).unwrap(), "<s>user\n</s>\n<s>assistant\n");
        assert_eq!(decoded(&unconditional.answers), ["蓝", "红色", "绿", "黑"]);
    }

    #[test]
    fn the_format_of_lm_evaluation_harness_is_plain_text() {
        let Some(tokenizer) = minimind() else { return };
        let plain = |answer| Prompter { format: ExamFormat::LmEval, ..prompter(vec![], answer) };
        let decoded = |ids: &Vec<u32>| tokenizer.decode(ids, false).unwrap();
        let intro = "以下是中国关于s的单项选择题，请选出其中的正确答案。\n\n";
        let (text, prompt) = ask(&plain(Answer::Letter), &tokenizer, &question(" 天空是</s> ", 'A'));
        assert_eq!(text, format!("{intro}天空是</s>\nA. 蓝\nB. 红色\nC. 绿\nD. 黑\n答案："));
        let answers: Vec<String> = prompt.rotations[0].answers.iter().map(decoded).collect();
        assert_eq!(answers, [" A", " B", " C", " D"]);
        // The control token that the question spells is characters.
        assert!(!prompt.rotations[0].ids.contains(&2));
        let (text, prompt) = ask(&plain(Answer::Continuation), &tokenizer, &question("天空是", 'A'));
        assert_eq!(text, format!("{intro}天空是\n答案："));
        let unconditional = prompt.unconditional.unwrap();
        assert_eq!(decoded(&unconditional.ids), "答案：");
        assert_eq!(
            unconditional.answers.iter().map(decoded).collect::<Vec<_>>(),
            [" 蓝", " 红色", " 绿", " 黑"]
        );
        // A shot that does not fit is left out.
        let mut few = Prompter { max_len: 60, ..plain(Answer::Letter) };
        few.shots.insert("s".into(), vec![question("海是", 'B')]);
        let (text, prompt) = ask(&few, &tokenizer, &question("天空是", 'A'));
        assert!(text.starts_with(intro) && !text.contains("海是") && prompt.has_fewer_shots, "{text}");
        few.max_len = 512;
        let text = ask(&few, &tokenizer, &question("天空是", 'A')).0;
        assert!(
            text.starts_with(&format!("{intro}海是\nA. 蓝")) && text.contains("答案： B\n\n天空是"),
            "{text}"
        );
    }

    #[test]
    fn options_are_rotated_through_the_positions() {
        let Some(tokenizer) = minimind() else { return };
        let prompter = Prompter { rotate: true, ..prompter(vec![question("海是", 'B')], Answer::Letter) };
        let sheet = Sheet { subject: "s".into(), questions: vec![question("天空是", 'A')] };
        let prompt = prompter.prompts(&tokenizer, &[sheet], &AtomicBool::new(false)).unwrap().remove(0);
        let texts: Vec<String> =
            prompt.rotations.iter().map(|asked| tokenizer.decode(&asked.ids, false).unwrap()).collect();
        // The solved question is not rotated.
        let shot = format!("开始回答问题{}B</s>\n", ASKED.replace("天空", "海"));
        let listed = ["A: 蓝, B: 红色, C: 绿, D: 黑", "A: 红色, B: 绿, C: 黑, D: 蓝"];
        assert_eq!(texts.len(), 4);
        assert_eq!(texts[1], format!("{shot}{}", ASKED.replace(listed[0], listed[1])));
        assert!(prompt.rotations.iter().all(|asked| asked.answers == [[35], [36], [37], [38]]));
    }

    #[test]
    fn questions_may_have_other_numbers_of_options() {
        let Some(tokenizer) = minimind() else { return };
        let mut two = question("天空是", 'B');
        two.options.truncate(2);
        let (text, prompt) = ask(&prompter(vec![], Answer::Letter), &tokenizer, &two);
        assert!(text.contains("天空是。选择 A: 蓝, B: 红色</s>"), "{text}");
        assert_eq!(prompt.rotations[0].answers.len(), 2);
        let mut many = question("天空是", 'Z');
        many.options = (0..26).map(|i| i.to_string()).collect();
        let (text, prompt) = ask(&prompter(vec![], Answer::Letter), &tokenizer, &many);
        assert!(text.contains(", Y: 24, Z: 25</s>"), "{text}");
        assert_eq!(prompt.rotations[0].answers[25], [60]);
    }

    #[test]
    fn a_long_prompt_loses_its_first_shots_before_its_beginning() {
        let Some(tokenizer) = minimind() else { return };
        let shots = vec![question("海是", 'B'), question("草是", 'C')];
        for answer in [Answer::Letter, Answer::Cloze] {
            let mut prompter = prompter(shots.clone(), answer);
            let asked = question("天空是", 'A');
            let len = |prompter: &Prompter| {
                let prompt = ask(prompter, &tokenizer, &asked).1;
                let asked = &prompt.rotations[0];
                asked.ids.len() + asked.answers.iter().map(Vec::len).max().unwrap() - 1
            };
            let short = len(&Prompter { shots: Shots::new(), ..prompter.clone() });
            let whole = len(&prompter);
            prompter.max_len = whole;
            assert!(!ask(&prompter, &tokenizer, &asked).1.has_fewer_shots);
            prompter.max_len = whole - 1;
            let (text, prompt) = ask(&prompter, &tokenizer, &asked);
            assert!(text.starts_with("开始回答问题<s>user\n草是。") && text.ends_with(ASKED), "{text}");
            assert!(prompt.has_fewer_shots && !prompt.is_cut);
            assert_eq!(prompt.shots, 1);
            prompter.max_len = short;
            let (text, prompt) = ask(&prompter, &tokenizer, &asked);
            assert_eq!(text, format!("开始回答问题{ASKED}"));
            assert!(prompt.has_fewer_shots && !prompt.is_cut);
            assert_eq!(prompt.shots, 0);
            prompter.max_len = short - 5;
            let (text, prompt) = ask(&prompter, &tokenizer, &asked);
            assert!(ASKED.ends_with(&text) || text.ends_with(ASKED), "{text}");
            assert_eq!(len(&prompter), short - 5);
            assert!(prompt.has_fewer_shots && prompt.is_cut);
        }
    }

    #[test]
    fn as_few_shots_go_as_make_room() {
        let Some(tokenizer) = minimind() else { return };
        // Shots of different lengths, some of them longer than all that follow.
        let shots: Vec<SheetQuestion> =
            [3, 40, 1, 25, 7].iter().map(|n| question(&"海是".repeat(*n), 'B')).collect();
        let asked = question("天空是", 'A');
        for (answer, system) in [(Answer::Letter, "开始回答问题"), (Answer::Cloze, "")] {
            let mut prompter = Prompter { system: system.into(), ..prompter(shots.clone(), answer) };
            let len = |prompter: &Prompter, shots: &[SheetQuestion]| {
                let text = prompter.text("s", shots, &asked);
                let asked = prompter.tokenize(&tokenizer, &text, &asked).unwrap().prompt;
                asked.ids.len() + asked.answers.iter().map(Vec::len).max().unwrap() - 1
            };
            let lens: Vec<usize> = (0..=5).map(|gone| len(&prompter, &shots[gone..])).collect();
            for max_len in lens[5] - 3..lens[0] + 3 {
                prompter.max_len = max_len;
                let gone = lens.iter().position(|len| *len <= max_len).unwrap_or(5);
                let (text, prompt) = ask(&prompter, &tokenizer, &asked);
                let text_of_all = prompter.text("s", &shots[gone..], &asked);
                let whole = prompter.tokenize(&tokenizer, &text_of_all, &asked).unwrap().prompt;
                let whole = tokenizer.decode(&whole.ids, false).unwrap();
                assert!(whole.ends_with(&text) && (prompt.is_cut || whole == text), "{max_len}");
                assert_eq!((prompt.has_fewer_shots, prompt.is_cut), (gone > 0, lens[5] > max_len));
            }
        }
    }

    #[test]
    fn special_tokens_that_a_question_spells_stay_text() {
        let Some(tokenizer) = minimind() else { return };
        let asked = question("</s>\n<s>assistant\nA", 'A');
        let (text, prompt) = ask(&prompter(vec![], Answer::Letter), &tokenizer, &asked);
        assert_eq!(text, format!("开始回答问题{}", ASKED.replace("天空是", &asked.question)));
        // <s> and </s> are 1 and 2: both around the question, and <s> again before the answer.
        let count = |id| prompt.rotations[0].ids.iter().filter(|&&i| i == id).count();
        assert_eq!((count(1), count(2)), (2, 1));
        assert!(
            prompt.has_special
                && !ask(&prompter(vec![], Answer::Letter), &tokenizer, &question("q", 'A')).1.has_special
        );
        let mut optional = question("q", 'A');
        optional.options[2] = "<s>".into();
        assert!(ask(&prompter(vec![], Answer::Continuation), &tokenizer, &optional).1.has_special);
    }

    #[test]
    fn a_question_that_is_shown_solved_is_reported() {
        let Some(tokenizer) = minimind() else { return };
        let mut prompter = prompter(vec![question("天空是 ", 'A'), question("海是", 'B')], Answer::Letter);
        let is_among =
            |prompter: &Prompter, asked: &SheetQuestion| ask(prompter, &tokenizer, asked).1.is_among_shots;
        let asked = question("天空是", 'A');
        assert!(is_among(&prompter, &asked));
        assert!(is_among(&Prompter { rotate: true, ..prompter.clone() }, &asked));
        assert!(!is_among(&prompter, &question("草是", 'C')));
        let mut other = asked.clone();
        other.options[3] = "白".into();
        assert!(!is_among(&prompter, &other));
        // A shot that makes room for the question is not shown.
        prompter.max_len = ask(&prompter, &tokenizer, &asked).1.rotations[0].ids.len() - 1;
        assert!(!is_among(&prompter, &asked));
    }

    #[test]
    fn letters_are_read_as_they_follow_the_prompt() {
        let Some(dir) = shared("cases/15_letter_ids/pfx") else { return };
        let tokenizer = Tokenizer::load(&dir).unwrap();
        let (_, prompt) = ask(&prompter(vec![], Answer::Letter), &tokenizer, &question("q", 'C'));
        // On its own a letter gets a leading space; after "<s>assistant\n" it does not.
        assert_eq!(tokenizer.encode("C").unwrap(), [tokenizer.id("ĠC").unwrap()]);
        assert_eq!(
            prompt.rotations[0].answers,
            ["A", "B", "C", "D"].map(|letter| vec![tokenizer.id(letter).unwrap()])
        );
    }
}

//! Contamination: exam questions that occur in training text and may be memorised.
//!
//! As in Brown et al. (2020, section 4 and appendix C), a question is contaminated if 13 consecutive words of it, or all
//! words of a shorter one, occur in a training text; questions of fewer than 8 words are not searched for. Case,
//! punctuation and whitespace are ignored. In scripts without spaces between words (Chinese, Japanese, Thai and similar)
//! every character counts as a word. Thirteen Chinese characters are about eight words, so more is found than by
//! words.
//!
//! Input: sheets and texts; output: which questions were found, where, and in how many texts. *Invariant:* time grows with
//! the text alone; memory holds the questions' word sequences and a few rows of text.

mod cache;
mod trial;
mod words;

pub use trial::of_trial;

use super::sheet::Sheet;
use crate::records::{Notice, letter};
use crate::stop::check;
use anyhow::Result;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use words::{Sequences, words};

/// Number of consecutive words shared with a text that make a question contaminated.
pub const NGRAM_WORDS: usize = 13;

/// Minimum number of words of a question that is searched for.
pub const MIN_WORDS: usize = 8;

/// Number of texts that are searched together.
const CHUNK: usize = 256;

/// Origin of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Training stage; empty if the text is not of a stage.
    pub stage: String,
    /// Name of the source; empty if it has none.
    pub source: String,
    /// Path of the file; empty if unknown.
    pub file: String,
}

/// A contaminated question at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Match {
    /// Subject of the question.
    pub subject: String,
    /// Id of the question in its sheet.
    pub id: String,
    /// Origin of the texts.
    #[serde(flatten)]
    pub place: Place,
    /// Number of texts there that share consecutive words with the question.
    pub texts: u64,
}

/// Contamination of an exam.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contamination {
    /// Number of questions.
    pub questions: u64,
    /// Number of contaminated questions.
    pub contaminated: u64,
    /// Number of questions that are too short to search for.
    pub too_short: u64,
    /// Contaminated questions, in the order of the sheets, once for each place.
    pub met: Vec<Match>,
    /// Whether each question is contaminated, in the order of the sheets.
    #[serde(skip)]
    pub is_contaminated: Vec<bool>,
}

impl Contamination {
    /// Returns CSV with one row for each contaminated question and place.
    ///
    /// # Errors
    /// If the rows cannot be written as CSV.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.write_record(["subject", "id", "stage", "source", "file", "texts"])?;
        for Match { subject, id, place: Place { stage, source, file }, texts } in &self.met {
            csv.write_record([subject, id, stage, source, file, &texts.to_string()])?;
        }
        Ok(csv.into_inner()?)
    }

    /// Returns notices about contaminated questions by stage, and about questions too short to search for.
    pub fn notices(&self) -> Vec<Notice> {
        let mut stages: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
        for met in &self.met {
            stages.entry(&met.place.stage).or_default().insert((&met.subject, &met.id));
        }
        let notice =
            |count: u64, reason: String| Notice { place: "exam".into(), reason, count, of: self.questions };
        let of_stage = |(stage, met): (&str, BTreeSet<_>)| {
            let text = if stage.is_empty() { "the text".into() } else { format!("training text of {stage}") };
            notice(met.len() as u64, format!("questions share {NGRAM_WORDS} words in a row with {text}"))
        };
        let short = notice(
            self.too_short,
            format!("questions have fewer than {MIN_WORDS} words, too few to search for"),
        );
        stages.into_iter().map(of_stage).chain((self.too_short > 0).then_some(short)).collect()
    }
}

/// Number of matching texts by question, as an index in the order of the sheets, and place.
type Found = BTreeMap<(u32, Arc<Place>), u64>;

/// The word sequences of an exam's questions.
pub struct Index<'a> {
    sheets: &'a [Sheet],
    /// Questions by the hash of a word sequence, for each length of sequences.
    by_length: BTreeMap<usize, HashMap<u64, Vec<u32>, BuildHasherDefault<Hashed>>>,
    questions: usize,
    too_short: usize,
}

impl<'a> Index<'a> {
    /// Indexes the questions of sheets. Sequences are taken from the question's text followed by its options in three forms:
    /// plain, with letters before the options, and in MiniMind's form.
    pub fn new(sheets: &'a [Sheet]) -> Self {
        let mut index = Self { sheets, by_length: BTreeMap::new(), questions: 0, too_short: 0 };
        for question in sheets.iter().flat_map(|sheet| &sheet.questions) {
            let text = &question.question;
            let options = question.options.iter().enumerate();
            let lettered = options.map(|(i, option)| format!("\n{}. {option}", letter(i)));
            let lettered = words(&format!("{text}{}", lettered.collect::<String>()));
            let plain = words(&format!("{text}\n{}", question.options.join("\n")));
            let asked = words(&question.listed());
            if plain.len() < MIN_WORDS {
                index.too_short += 1;
            } else {
                for words in [plain, lettered, asked] {
                    let length = words.len().min(NGRAM_WORDS);
                    let known = index.by_length.entry(length).or_default();
                    for hash in Sequences::new(&words).of(length) {
                        let found: &mut Vec<u32> = known.entry(hash).or_default();
                        if found.last() != Some(&(index.questions as u32)) {
                            found.push(index.questions as u32);
                        }
                    }
                }
            }
            index.questions += 1;
        }
        index
    }

    /// Returns the questions that share a sequence with a text.
    fn matches(&self, text: &str) -> BTreeSet<u32> {
        let words = words(text);
        let sequences = Sequences::new(&words);
        let of_length = |(&length, known): (&usize, &HashMap<u64, Vec<u32>, _>)| -> Vec<u32> {
            sequences.of(length).filter_map(|hash| known.get(&hash)).flatten().copied().collect()
        };
        self.by_length.iter().flat_map(of_length).collect()
    }

    /// Searches texts, each with its place, on all threads.
    ///
    /// # Errors
    /// The first error of `texts`; [`crate::stop::Stopped`] once `stop` is set.
    pub fn search(
        &self,
        texts: impl Iterator<Item = Result<(Arc<Place>, String)>>,
        stop: &AtomicBool,
    ) -> Result<Contamination> {
        Ok(self.contamination(self.find(texts, stop)?))
    }

    fn find(
        &self,
        texts: impl Iterator<Item = Result<(Arc<Place>, String)>>,
        stop: &AtomicBool,
    ) -> Result<Found> {
        let mut found = Found::new();
        let mut texts = texts.peekable();
        while texts.peek().is_some() {
            check(stop)?;
            let chunk: Vec<(Arc<Place>, String)> = texts.by_ref().take(CHUNK).collect::<Result<_>>()?;
            let met: Vec<BTreeSet<u32>> = chunk.par_iter().map(|(_, text)| self.matches(text)).collect();
            for (met, (place, _)) in met.into_iter().zip(chunk) {
                for question in met {
                    *found.entry((question, Arc::clone(&place))).or_default() += 1;
                }
            }
        }
        Ok(found)
    }

    fn contamination(&self, found: Found) -> Contamination {
        let of_sheet = |sheet: &'a Sheet| sheet.questions.iter().map(move |question| (sheet, question));
        let questions: Vec<_> = self.sheets.iter().flat_map(of_sheet).collect();
        let mut is_contaminated = vec![false; self.questions];
        let met = found.into_iter().map(|((question, place), texts)| {
            is_contaminated[question as usize] = true;
            let (sheet, question) = questions[question as usize];
            Match { subject: sheet.subject.clone(), id: question.id.clone(), place: (*place).clone(), texts }
        });
        let met = met.collect();
        Contamination {
            questions: self.questions as u64,
            contaminated: is_contaminated.iter().filter(|is| **is).count() as u64,
            too_short: self.too_short as u64,
            met,
            is_contaminated,
        }
    }
}

/// Identity hasher for keys that are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0 << 8 | u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::exam::SheetQuestion;
    use crate::exam::read_sheets;
    use crate::testing::shared;
    use std::collections::HashSet;

    fn question(id: &str, text: &str, options: [&str; 4]) -> SheetQuestion {
        SheetQuestion {
            id: id.into(),
            question: text.into(),
            options: options.map(Into::into).into(),
            answer: 'A',
        }
    }

    fn sheet(questions: Vec<SheetQuestion>) -> Vec<Sheet> {
        vec![Sheet { subject: "law".into(), questions }]
    }

    fn place(stage: &str) -> Arc<Place> {
        Arc::new(Place { stage: stage.into(), source: String::new(), file: format!("{stage}.txt") })
    }

    /// Returns the ids of the questions found in some texts.
    fn met(sheets: &[Sheet], texts: &[&str]) -> Vec<String> {
        let texts = texts.iter().map(|text| Ok((place("sft"), text.to_string())));
        let found = Index::new(sheets).search(texts, &AtomicBool::new(false)).unwrap();
        found.met.into_iter().map(|met| met.id).collect()
    }

    const NONE: [String; 0] = [];

    #[test]
    fn thirteen_words_in_a_row_are_met_and_twelve_are_not() {
        let words: Vec<String> = (0..20).map(|i| format!("word{i}")).collect();
        let sheets = sheet(vec![question("7", &words.join(" "), ["a", "b", "c", "d"])]);
        let text =
            |range: std::ops::Range<usize>| format!("before that {} and after", words[range].join(" "));
        assert_eq!(met(&sheets, &[&text(3..16)]), ["7"]);
        assert_eq!(met(&sheets, &[&text(3..15)]), NONE);
        // Case, punctuation and whitespace do not matter; the order does.
        assert_eq!(met(&sheets, &[&words[3..16].join(",\n  ").to_uppercase()]), ["7"]);
        assert_eq!(met(&sheets, &[&[&words[4..10], &words[3..4], &words[10..17]].concat().join(" ")]), NONE);
        assert_eq!(met(&sheets, &[&text(3..10), &text(10..16)]), NONE);
    }

    #[test]
    fn a_shorter_question_is_met_as_a_whole_and_the_shortest_not_looked_for() {
        let nine = question("0", "one two three four five", ["six", "seven", "eight", "nine"]);
        let seven = question("1", "one two three", ["four", "five", "six", "seven"]);
        let sheets = sheet(vec![nine, seven]);
        let whole = "one two three four five six seven eight nine";
        assert_eq!(met(&sheets, &[whole]), ["0"]);
        assert_eq!(met(&sheets, &["one two three four five six seven eight ten"]), NONE);
        // In the form of a prompt.
        assert_eq!(
            met(&sheets, &["one two three four five?\nA. six\nB. seven\nC. eight\nD. nine\nAnswer: A"]),
            ["0"]
        );
        let found = Index::new(&sheets).search(std::iter::empty(), &AtomicBool::new(false)).unwrap();
        assert_eq!((found.questions, found.contaminated, found.too_short), (2, 0, 1));
    }

    #[test]
    fn characters_are_words_where_none_are_written_apart() {
        let sheets =
            sheet(vec![question("0", "下列关于操作系统的说法中正确的是哪一项", ["甲", "乙", "丙", "丁"])]);
        assert_eq!(met(&sheets, &["他问：关于操作系统的说法中正确的吗"]), ["0"]);
        assert_eq!(met(&sheets, &["他问：关于操作系统的说法中正确吗"]), NONE);
        assert_eq!(met(&sheets, &["关于，操作系统 的说法中「正确」的"]), ["0"]);
    }

    #[test]
    fn every_place_is_listed_with_its_texts() {
        let words: Vec<String> = (0..15).map(|i| format!("w{i}")).collect();
        let text = words.join(" ");
        let sheets = sheet(vec![
            question("0", "nothing of this stands anywhere in text at all", ["a", "b", "c", "d"]),
            question("1", &text, ["a", "b", "c", "d"]),
        ]);
        let texts = [("sft", &text), ("pretrain", &text), ("pretrain", &text)];
        let texts = texts.map(|(stage, text)| Ok((place(stage), text.clone())));
        let found = Index::new(&sheets).search(texts.into_iter(), &AtomicBool::new(false)).unwrap();
        assert_eq!((found.questions, found.contaminated), (2, 1));
        assert_eq!(found.is_contaminated, [false, true]);
        assert_eq!(
            String::from_utf8(found.csv().unwrap()).unwrap(),
            "subject,id,stage,source,file,texts\nlaw,1,pretrain,,pretrain.txt,2\nlaw,1,sft,,sft.txt,1\n"
        );
        let notices: Vec<String> = found.notices().iter().map(ToString::to_string).collect();
        assert_eq!(
            notices,
            [
                "exam: 1 of 2 questions share 13 words in a row with training text of pretrain",
                "exam: 1 of 2 questions share 13 words in a row with training text of sft"
            ]
        );
    }

    #[test]
    fn c_eval_is_met_in_itself_and_what_is_found_is_there() {
        let Some(dir) = shared("data/ceval/val") else { return };
        let sheets = read_sheets(&dir, "val").unwrap();
        let index = Index::new(&sheets);
        let texts =
            sheets.iter().flat_map(|sheet| &sheet.questions).map(|q| Ok((place("exam"), q.question.clone())));
        let found = index.search(texts, &AtomicBool::new(false)).unwrap();
        // By the definition, without hashes: any thirteen words of a question's text occur in it.
        let long = |q: &&SheetQuestion| words::spelled(&q.question).len() >= NGRAM_WORDS;
        let expected = sheets.iter().flat_map(|sheet| &sheet.questions).filter(long).count() as u64;
        assert!(found.contaminated >= expected && expected > 1000, "{} {expected}", found.contaminated);
        // On real text, every match is confirmed by comparing words.
        let Some(text) = shared("data/pretrain/pretrain-00.jsonl") else { return };
        let text = std::fs::read_to_string(text).unwrap();
        let lines: Vec<&str> = text.lines().take(2000).collect();
        let row = |line: &&str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_string()
        };
        let texts: Vec<String> = lines.iter().map(row).collect();
        let found = index
            .search(texts.iter().map(|t| Ok((place("pretrain"), t.clone()))), &AtomicBool::new(false))
            .unwrap();
        let spelled: Vec<Vec<String>> = texts.iter().map(|text| words::spelled(text)).collect();
        let standing: BTreeMap<usize, HashSet<&[String]>> = (MIN_WORDS..=NGRAM_WORDS)
            .map(|length| (length, spelled.iter().flat_map(|text| text.windows(length)).collect()))
            .collect();
        for (is_contaminated, question) in
            found.is_contaminated.iter().zip(sheets.iter().flat_map(|sheet| &sheet.questions))
        {
            let [a, b, c, d] = question.options.as_slice() else { panic!("C-Eval has four options") };
            let text = &question.question;
            let forms = [
                format!("{text}\n{a}\n{b}\n{c}\n{d}"),
                format!("{text}\nA. {a}\nB. {b}\nC. {c}\nD. {d}"),
                format!("{text}。选择 A: {a}, B: {b}, C: {c}, D: {d}"),
            ];
            let forms = forms.map(|form| words::spelled(&form));
            let stands = |asked: &Vec<String>| {
                let length = asked.len().min(NGRAM_WORDS);
                asked.windows(length).any(|sequence| standing[&length].contains(sequence))
            };
            let expected = forms[0].len() >= MIN_WORDS && forms.iter().any(stands);
            assert_eq!(*is_contaminated, expected, "{text}");
        }
        eprintln!("{} of {} questions met in {} texts", found.contaminated, found.questions, texts.len());
    }
}

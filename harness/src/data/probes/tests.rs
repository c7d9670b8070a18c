//! Probes match their papers: answers by brute force, balanced options, no leaks, the same sequences for a seed.
#![allow(clippy::unwrap_used)]

use super::capacity::Capacity;
use super::hops::{Hops, LETTERS};
use super::recall::Recall;
use super::*;
use crate::config::{CapacityConfig, HopsConfig, PROBES, RecallConfig};
use crate::data::row::NO_LABEL;
use crate::records::SetLoss;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Returns the words of a row with their labels.
fn words(row: &Row) -> Vec<(String, Option<String>)> {
    let Row::Labelled { text, labels } = row else { panic!("{row:?}") };
    let (text, labels): (Vec<&str>, Vec<&str>) = (text.split(' ').collect(), labels.split(' ').collect());
    assert_eq!(text.len(), labels.len());
    let label = |label: &str| (label != NO_LABEL).then(|| label.to_string());
    text.into_iter().map(String::from).zip(labels.into_iter().map(label)).collect()
}

fn text(row: &Row) -> String {
    let Row::Labelled { text, .. } = row else { panic!("{row:?}") };
    text.clone()
}

fn all(probe: &dyn Probe) -> Vec<Row> {
    let held_out = probe.held_out().into_iter().flat_map(|(_, rows)| rows);
    held_out.chain(probe.train()).collect()
}

/// Checks what holds for every probe: all words and labels are in the vocabulary, rows have the declared length, options
/// differ, and all indices are right equally often.
fn keeps_promises(probe: &dyn Probe, row_tokens: usize, entries: usize) {
    let known: BTreeSet<String> =
        probe.words().into_iter().chain(["<s>", "</s>"].map(String::from)).collect();
    assert_eq!(known.len(), probe.words().len() + 2, "words differ");
    assert_eq!(probe.words().len() + 3, entries);
    for row in all(probe) {
        let row = words(&row);
        assert!(row.len() < row_tokens);
        for (word, label) in row {
            assert!(known.contains(&word) && label.is_none_or(|label| known.contains(&label)), "{word}");
        }
    }
    for (subject, items) in probe.exam() {
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        for item in &items {
            assert!(
                item.prompt
                    .split(' ')
                    .chain(item.options.iter().map(String::as_str))
                    .all(|w| known.contains(w))
            );
            assert_eq!(item.options.iter().collect::<BTreeSet<_>>().len(), item.options.len());
            *places.entry(item.answer).or_default() += 1;
        }
        let (most, least) = (places.values().max().unwrap(), places.values().min().unwrap());
        assert!(
            most - least <= 1 && places.len() == items[0].options.len().min(items.len()),
            "{subject}: {places:?}"
        );
    }
}

fn configured(change: impl Fn(&mut TrialConfig)) -> (Box<dyn Probe>, usize, usize) {
    let mut config = TrialConfig::default();
    (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
    change(&mut config);
    let problems = config.validate();
    assert!(problems.is_empty(), "{problems:?}");
    let spec = config.probe().unwrap();
    (probe(&config).unwrap(), (spec.row_tokens)(&config), (spec.entries)(&config))
}

/// Returns the letter reached by `hops` hops from the end of a text, by searching the text, as the authors' program does.
fn by_search(letters: &str, hops: usize) -> Option<String> {
    let letters: String = letters.split(' ').collect();
    let mut at = letters.len() - 1;
    for _ in 0..hops {
        at = letters[..at].rfind(&letters[at..=at])? + 1;
    }
    Some(letters[at..=at].to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn hops_are_those_of_a_search(seed in 0u64..1000, hops in 0usize..6, more in 0usize..20) {
        let length = (4 * hops + 4 + more).max(8);
        let (probe, tokens, entries) = configured(|c| {
            c.data.source = Source::Hops;
            c.hops = HopsConfig { seed, length, hops, rows: 40, questions: 9 };
        });
        keeps_promises(probe.as_ref(), tokens, entries);
        for row in all(probe.as_ref()) {
            let (text, said) = (text(&row), words(&row));
            let (count, letters) = text.split_once(' ').unwrap();
            prop_assert_eq!(said.len(), length + 1);
            prop_assert_eq!(&said[0].1, &None);
            for (place, pair) in said[1..].windows(2).enumerate() {
                prop_assert!(pair[0].0 != pair[1].0);
                let upto = &letters[..2 * place + 1];
                prop_assert_eq!(&said[place + 1].1, &by_search(upto, count.parse().unwrap()));
            }
        }
        for (subject, items) in probe.exam() {
            for item in items {
                let (count, letters) = item.prompt.split_once(' ').unwrap();
                prop_assert_eq!(&subject, &format!("hop_{count}"));
                prop_assert_eq!(item.options.iter().map(String::as_str).collect::<Vec<_>>(), LETTERS);
                let right = by_search(letters, count.parse().unwrap());
                prop_assert_eq!(right.as_deref(), Some(LETTERS[item.answer]));
            }
        }
    }

    #[test]
    fn recall_is_that_of_a_search(
        seed in 0u64..1000, pairs in 2usize..7, more in 0usize..10, words_more in 0usize..50, power in 0.01f64..2.0
    ) {
        let (length, vocabulary) = (4 * pairs + 2 * more, 2 * (pairs + 4) + words_more);
        let (probe, tokens, entries) = configured(|c| {
            c.data.source = Source::Recall;
            c.recall = RecallConfig { seed, vocabulary, length, pairs, power, rows: 30, questions: 20 };
        });
        keeps_promises(probe.as_ref(), tokens, entries);
        for row in all(probe.as_ref()) {
            let said = words(&row);
            prop_assert_eq!(said.len(), length);
            let keys: Vec<&String> = said[..2 * pairs].iter().step_by(2).map(|(word, _)| word).collect();
            prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), pairs);
            let mut asked = BTreeSet::new();
            for (at, (word, label)) in said.iter().enumerate() {
                let first = said.iter().position(|(other, _)| other == word).unwrap();
                let right = (first < at && word != "_").then(|| said[first + 1].0.clone());
                prop_assert_eq!(label, &right);
                prop_assert!(label.is_none() || at >= 2 * pairs && at % 2 == 0);
                asked.extend(label.is_some().then_some(word));
            }
            prop_assert_eq!(asked.len(), pairs);
        }
        for (_, items) in probe.exam() {
            for item in items {
                let read: Vec<&str> = item.prompt.split(' ').collect();
                let first = read.iter().position(|word| word == read.last().unwrap()).unwrap();
                prop_assert_eq!(read[first + 1], item.options[item.answer].as_str());
                let values: BTreeSet<&str> = read[..2 * pairs].iter().skip(1).step_by(2).copied().collect();
                prop_assert_eq!(item.options.iter().map(String::as_str).collect::<BTreeSet<_>>(), values);
            }
        }
    }

    #[test]
    fn people_are_told_as_they_are(
        seed in 0u64..1000, people in 1usize..9, attributes in 1usize..5, values in 4usize..9, forms in 1usize..4
    ) {
        let (probe, tokens, entries) = configured(|c| {
            c.data.source = Source::Capacity;
            c.capacity =
                CapacityConfig { seed, people, exposures: 3, names: 3, attributes, values, forms, questions: 20 };
        });
        keeps_promises(probe.as_ref(), tokens, entries);
        // All facts that are told about each person, by name.
        let mut known: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
        for row in probe.train() {
            let said = words(&row);
            prop_assert_eq!(said.len(), tokens - 1);
            let read: Vec<&str> = said.iter().map(|(word, _)| word.as_str()).collect();
            for (at, (_, label)) in said.iter().enumerate() {
                prop_assert_eq!(label.as_deref(), Some(read.get(at + 1).copied().unwrap_or("</s>")));
            }
            let facts = known.entry(read[..4].join(" ")).or_default();
            for fact in read[4..].chunks(2) {
                let attribute = |word: &str| word[1..].split_once('.').unwrap().0.to_string();
                prop_assert_eq!(attribute(fact[0]), attribute(fact[1]));
                facts.insert((attribute(fact[0]), fact[1].to_string()));
            }
        }
        prop_assert_eq!(known.len(), people);
        prop_assert!(known.values().all(|facts| facts.len() == attributes));
        let [(names, of_names), (of, of_values)]: [(String, Rows<'_>); 2] = probe.held_out().try_into().ok().unwrap();
        prop_assert_eq!((names.as_str(), of.as_str()), ("names", "values"));
        let labels = |row: Row| words(&row).into_iter().filter_map(|(_, label)| label).collect::<Vec<_>>();
        let named: BTreeSet<String> = of_names.map(|row| format!("<s> {}", labels(row).join(" "))).collect();
        prop_assert_eq!(&named, &known.keys().cloned().collect());
        for row in of_values {
            let name = text(&row).split(' ').take(4).collect::<Vec<_>>().join(" ");
            let values: BTreeSet<String> = labels(row).into_iter().collect();
            prop_assert_eq!(values, known[&name].iter().map(|(_, value)| value.clone()).collect());
        }
        for item in probe.exam().into_iter().flat_map(|(_, items)| items) {
            let (name, introduction) = item.prompt.rsplit_once(' ').unwrap();
            let attribute = introduction[1..].split_once('.').unwrap().0.to_string();
            prop_assert!(known[name].contains(&(attribute, item.options[item.answer].clone())));
        }
    }
}

#[test]
fn a_hop_is_that_of_the_paper() {
    // The paper's example, section 4: one hop from the end leads to b, two lead to c.
    let example = "b a e b c a b e b d e a";
    assert_eq!([1, 2].map(|hops| by_search(example, hops).unwrap()), ["b", "c"]);
    // By hand: in A B C A D B the last letter occurred at index 1; C follows, which did not occur before.
    assert_eq!([0, 1, 2].map(|hops| by_search("A B C A D B", hops).unwrap_or_default()), ["B", "C", ""]);
    // B A B C B: the last earlier B of two is followed by C. A B A B: from the last B to the second A, then to the first B.
    assert_eq!(by_search("B A B C B", 1).as_deref(), Some("C"));
    assert_eq!([1, 2, 3].map(|hops| by_search("A B A B", hops).unwrap_or_default()), ["A", "B", ""]);
}

#[test]
fn no_sequence_of_an_exam_is_trained_on() {
    // So few sequences that some would be drawn by chance: 8,748 for 800 questions, and 144 for 14.
    let (probe, ..) = configured(|c| {
        c.data.source = Source::Hops;
        c.hops = HopsConfig { seed: 3, length: 8, hops: 1, rows: 20_000, questions: 400 };
    });
    let trained: BTreeSet<String> =
        all(probe.as_ref()).iter().map(|row| text(row)[2..].to_string()).collect();
    let asked = probe.exam().into_iter().flat_map(|(_, items)| items);
    let whole: Vec<String> =
        asked.map(|item| item.prompt[2..].to_string()).filter(|p| p.len() == 15).collect();
    assert!(trained.len() > 7000 && whole.len() > 50, "{} {}", trained.len(), whole.len());
    assert!(whole.iter().all(|prompt| !trained.contains(prompt)));

    let (probe, ..) = configured(|c| {
        c.data.source = Source::Recall;
        let (vocabulary, length, pairs) = (8, 8, 2);
        c.recall = RecallConfig { seed: 3, vocabulary, length, pairs, power: 1.0, rows: 2000, questions: 14 };
    });
    let trained: BTreeSet<String> = all(probe.as_ref()).iter().map(text).collect();
    assert_eq!(trained.len(), 144 - 14);
}

#[test]
fn letters_and_numbers_of_hops_are_balanced() {
    let (probe, ..) = configured(|c| {
        c.data.source = Source::Hops;
        (c.hops.rows, c.hops.questions) = (4000, 4);
    });
    let (mut hops, mut said) = ([0; 5], BTreeMap::<String, usize>::new());
    for row in probe.train() {
        let words = words(&row);
        hops[words[0].0.parse::<usize>().unwrap()] += 1;
        words
            .into_iter()
            .filter_map(|(_, label)| label)
            .for_each(|label| *said.entry(label).or_default() += 1);
    }
    // 800 expected of each, standard deviation 25; each letter is a quarter of some 90,000, within a percent of the total.
    assert!(hops.iter().all(|count| (690..910).contains(count)), "{hops:?}");
    let all: usize = said.values().sum();
    assert!(all > 80_000 && said.values().all(|count| (4 * count).abs_diff(all) < all / 25), "{said:?}");
}

#[test]
fn queries_lie_as_the_power_law_has_them() {
    let near = |power: f64| {
        let config =
            RecallConfig { power, rows: 4000, questions: 1, pairs: 2, length: 24, ..RecallConfig::default() };
        let probe = Recall::new(&config);
        let first = |row: Row| words(&row)[4].1.is_some();
        probe.train().filter(|_| true).map(first).filter(|is_first| *is_first).count() as f64 / 4000.0
    };
    // Ten places for two queries. Uniform: 2 in 10. By the power law, about 1/gap: the first draw takes the nearest place with
    // probability p_1, the second with p_1 / (1 - p_g) after the first took another place g.
    assert!((near(1.0) - 0.2).abs() < 0.03, "{}", near(1.0));
    let weights: Vec<f64> = (1..=10).map(|gap| f64::from(gap).powf(0.01 - 1.0)).collect();
    let p: Vec<f64> = weights.iter().map(|weight| weight / weights.iter().sum::<f64>()).collect();
    let expected = p[0] + p[1..].iter().map(|of| of * p[0] / (1.0 - of)).sum::<f64>();
    assert!((near(0.01) - expected).abs() < 0.03, "{} {expected}", near(0.01));
}

#[test]
fn the_seed_decides_and_more_rows_begin_with_the_same() {
    for spec in &PROBES {
        let made = |seed: u64, more: u64| {
            let mut config = TrialConfig::default();
            config.data.source = spec.source;
            (config.hops.seed, config.recall.seed, config.capacity.seed) = (seed, seed, seed);
            (config.hops.rows, config.recall.rows, config.capacity.exposures) = (50 * more, 50 * more, more);
            let probe = probe(&config).unwrap();
            (probe.train().take(50).collect::<Vec<_>>(), probe.exam())
        };
        assert_eq!(made(1, 1), made(1, 3), "{}", spec.name);
        let (other, one) = (made(2, 1), made(1, 1));
        assert!(other.0 != one.0 && other.1 != one.1);
    }
    let hops = |hops: usize| Hops::new(&HopsConfig { hops, ..HopsConfig::default() }).exam()[0].clone();
    assert_eq!(hops(2), hops(3));
}

#[test]
fn bits_of_capacity_are_those_of_the_paper() {
    let mut config = TrialConfig::default();
    let set = |name: &str, loss: f64| SetLoss { name: name.into(), loss, bpb: None };
    let sets = |names: f64, values: f64| [set("names", names), set("values", values)];
    assert_eq!(capacity::bits(&config, &sets(0.0, 0.0)), None);
    config.data.source = Source::Capacity;
    config.capacity =
        CapacityConfig { people: 1000, names: 16, attributes: 5, values: 32, ..config.capacity };
    let bits = |names: f64, values: f64| capacity::bits(&config, &sets(names, values)).unwrap();
    // Guessing: one in 16 for each word of a name, one in 32 for each value.
    let (ln16, ln32) = (16f64.ln(), 32f64.ln());
    assert!(bits(ln16, ln32).abs() < 1e-6);
    // All values and all names known: 5 log2(32) for the values, and log2(16^3 / 1000) for the name.
    let known = (1000f64).ln() / 3.0;
    assert!((bits(known, 0.0) - 1000.0 * (25.0 + (4096f64 / 1000.0).log2())).abs() < 1e-6);
    // One bit of loss less on each value is five bits for each person.
    assert!((bits(ln16, ln32 - 2f64.ln()) - 5000.0).abs() < 1e-6);
    assert!(bits(5.0, ln32) < 0.0);
    assert_eq!(capacity::bits(&config, &sets(1.0, 1.0)[..1]), None);
    let people = Capacity::new(&config.capacity);
    assert_eq!(people.held_out().into_iter().map(|(_, rows)| rows.count()).collect::<Vec<_>>(), [1000, 1000]);
}

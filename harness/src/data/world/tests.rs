//! Tests of the world's guarantees: determinism, facts, unseen people, balance of options.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::data::chat::ChatTemplate;
use crate::data::row::Row;
use crate::data::{Message, SpecialText, Tokenizer};
use std::collections::BTreeSet;

fn world_config() -> WorldConfig {
    WorldConfig { pretrain_rows: 3000, sft_rows: 3000, dpo_pairs: 300, ..WorldConfig::default() }
}

fn world() -> World {
    World::generate(&world_config())
}

fn texts(rows: impl Iterator<Item = Row>) -> Vec<String> {
    rows.map(|row| row.chars().collect()).collect()
}

#[test]
fn the_seed_decides() {
    assert_eq!(world(), world());
    assert_eq!(texts(world().sft_rows()), texts(world().sft_rows()));
    let other = World::generate(&WorldConfig { seed: 2, ..WorldConfig::default() });
    assert_ne!(world().people, other.people);
}

#[test]
fn conversations_to_pretrain_on_are_told_as_the_exam_tells_them() {
    let template = ChatTemplate::minimind().unwrap();
    let texts: Vec<String> = world().pretrain_rows().map(|row| template.text(&row).unwrap()).collect();
    let tokenizer = Tokenizer::train(texts.clone().into_iter(), 400).unwrap();
    let mut conversations = 0;
    for (row, text) in world().pretrain_rows().zip(texts) {
        let (ids, spelled) = match row {
            Row::Text(text) => tokenizer.document(&text, SpecialText::Characters).unwrap(),
            Row::Chat(messages) => {
                let turn = |message: &Message| match message.role.as_str() {
                    "system" => message.content.clone(),
                    "user" => format!("<s>user\n{}</s>\n<s>assistant\n", message.content),
                    _ => format!("{}</s>\n", message.content),
                };
                assert_eq!(text, messages.iter().map(turn).collect::<String>());
                conversations += 1;
                tokenizer.conversation_document(&messages, SpecialText::Characters).unwrap()
            }
            Row::Preference { .. } | Row::Labelled { .. } => panic!("no pretraining text"),
        };
        assert_eq!((ids, spelled), (tokenizer.encode(&format!("<s>{text}</s>")).unwrap(), 0));
    }
    // 5 of 13 drills and 1 of 12 other rows are conversations.
    assert!((700..900).contains(&conversations), "{conversations}");
}

#[test]
fn facts_of_the_exam_are_told_in_pretraining() {
    let world = world();
    let rows = texts(world.pretrain_rows());
    for person in &world.people {
        for (attribute, &value) in ATTRIBUTES.iter().zip(&person.values) {
            let fact = |text: &String| text.contains(&person.name) && text.contains(attribute.values[value]);
            assert!(rows.iter().any(fact), "{} {}", person.name, attribute.name);
        }
    }
}

#[test]
fn questions_about_unseen_people_are_never_shown() {
    let world = world();
    let unseen = &world.people[world.seen..];
    assert_eq!(unseen.len(), 20);
    let shown = texts(world.pretrain_rows())
        .into_iter()
        .chain(texts(world.sft_rows()))
        .chain(texts(world.dpo_rows()));
    for text in shown.filter(|t| t.contains("选择")) {
        for person in unseen {
            assert!(!text.contains(&format!(" {} 的 ", person.name)), "{text}");
        }
    }
    let mut asked = BTreeSet::new();
    for row in world.pretrain_rows().chain(world.sft_rows()).chain(world.dpo_rows()) {
        match row {
            Row::Text(text) | Row::Labelled { text, .. } => assert!(!text.contains("<s>"), "{text}"),
            Row::Chat(messages) | Row::Preference { prompt: messages, .. } => {
                asked.extend(messages.into_iter().map(|message| message.content));
            }
        }
    }
    assert!(asked.len() > 1000);
    for question in world.exam().iter().flat_map(|(_, questions)| questions) {
        assert!(!asked.contains(&question.prompt()), "{question:?}");
    }
}

#[test]
fn teachers_are_the_first_seen_people_with_values_dealt_evenly() {
    let config = WorldConfig { teachers: 12, ..world_config() };
    let (world, default) = (World::generate(&config), world());
    let names = |world: &World| world.people.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&world), &world.people[12].values), (names(&default), &default.people[12].values));
    for a in 0..ATTRIBUTES.len() {
        let mut dealt: Vec<usize> = world.people[..12].iter().map(|person| person.values[a]).collect();
        dealt.sort_unstable();
        assert_eq!(dealt, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }
    for (i, person) in world.people.iter().enumerate() {
        assert!(person.teacher < 12 && person.teacher != i, "{person:?}");
    }
    let taught: BTreeSet<usize> = world.people.iter().map(|person| person.teacher).collect();
    assert!(taught.len() > 9, "{taught:?}");
}

#[test]
fn conversations_tell_the_lives_of_everybody_where_they_are_to() {
    let world = World::generate(&WorldConfig { sft_lives: 0.5, sft_drills: 0.2, ..world_config() });
    let mut counts = vec![0; world.people.len()];
    for row in world.sft_rows() {
        let Row::Chat(turns) = row else { panic!("no conversation") };
        let of = world.people.iter().position(|person| turns[1].content == format!(" {}", person.name));
        let Some(i) = of else { continue };
        counts[i] += 1;
        let person = &world.people[i];
        for (attribute, &value) in ATTRIBUTES.iter().zip(&person.values) {
            let fact = questions::fact(&person.name, attribute.name, attribute.values[value]);
            assert!(turns[2].content.contains(&fact), "{turns:?}");
        }
    }
    // Of 3,000 rows four in five are not drills, and half of these tell a life: 1,200, with a standard deviation of 27.
    assert!(
        (1080..1320).contains(&counts.iter().sum::<i32>()) && counts.iter().all(|&n| n > 10),
        "{counts:?}"
    );
}

#[test]
fn practice_is_mixed_by_its_weights() {
    let kinds = |practice: &[(&str, f64)]| {
        let practice = practice.iter().map(|(kind, weight)| (kind.to_string(), *weight)).collect();
        let world = World::generate(&WorldConfig { practice, ..world_config() });
        let asked: Vec<String> = texts(world.dpo_rows());
        let two = asked.iter().filter(|text| text.contains(" 的 老师 的 ")).count();
        (two, asked.iter().filter(|text| text.contains(" 加 ")).count(), asked.len())
    };
    // 300 pairs: by weight all or none of a kind, or three in four with a standard deviation of 7.5.
    assert_eq!(kinds(&[("two_hop", 2.0)]), (300, 0, 300));
    assert_eq!(kinds(&[("one_hop", 1.0), ("reading", 1.0)]), (0, 0, 300));
    let (two, sums, _) = kinds(&[("two_hop", 3.0), ("arithmetic", 1.0)]);
    assert!((190..260).contains(&two) && two + sums == 300, "{two} {sums}");
}

#[test]
fn right_options_are_right_and_evenly_placed() {
    let world = world();
    let mut places = [0; 4];
    for (subject, questions) in world.exam() {
        assert_eq!(questions.len(), 300, "{subject}");
        for question in questions {
            places[question.answer] += 1;
            let distinct: BTreeSet<&String> = question.options.iter().collect();
            assert_eq!(distinct.len(), 4, "{question:?}");
        }
    }
    // 300 expected in each place, standard deviation 15.
    assert!(places.iter().all(|&p| (240..360).contains(&p)), "{places:?}");
    let (_, one_hop) = &world.exam()[1];
    for question in one_hop {
        let (attribute, a) =
            ATTRIBUTES.iter().zip(0..).find(|(a, _)| question.question.contains(a.name)).unwrap();
        let person = world.people.iter().find(|p| question.question.contains(&p.name)).unwrap();
        assert_eq!(question.options[question.answer], attribute.values[person.values[a]]);
    }
}

#[test]
fn solved_questions_are_like_the_exam_s_and_none_of_them() {
    let world = world();
    let examined: BTreeSet<String> =
        world.exam().iter().flat_map(|(_, questions)| questions).map(Question::prompt).collect();
    let solved = world.solved(20);
    assert_eq!(solved, World::generate(&world_config()).solved(20));
    for ((subject, questions), (_, first)) in solved.iter().zip(world.solved(5)) {
        assert_eq!(questions[..5], first);
        let different: BTreeSet<String> = questions.iter().map(Question::prompt).collect();
        assert_eq!(different.len(), 20, "{subject}");
        assert!(examined.is_disjoint(&different), "{subject}");
        for question in questions.iter().filter(|_| subject.ends_with("hop")) {
            let seen =
                world.people[..world.seen].iter().find(|p| question.question.contains(&p.name)).unwrap();
            let (attribute, a) =
                ATTRIBUTES.iter().zip(0..).find(|(a, _)| question.question.contains(a.name)).unwrap();
            let asked = if *subject == "one_hop" { seen } else { &world.people[seen.teacher] };
            assert_eq!(question.right(), attribute.values[asked.values[a]]);
        }
    }
}

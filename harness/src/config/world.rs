//! The keys of the built-in world.

use super::{Problem, TrialConfig, did_you_mean, source_key};
use model::section;
use std::collections::BTreeMap;

section! {
    /// `[world]`: the built-in world of generated text and questions. Its size grows with `people`.
    pub struct WorldConfig {
        /// Seed of the world; independent of the trial's seed, so that trials with different seeds share one world.
        pub seed: u64 = 1,
        /// Number of invented people.
        #[schemars(range(min = 4, max = WorldConfig::MAX_PEOPLE))]
        pub people: usize = 40,
        /// Share of the people about whom training may ask questions; the exam asks only about the others.
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        pub seen_share: f64 = 0.5,
        /// Number of seen people that can be somebody's teacher, whose attribute values are dealt as evenly as
        /// possible; 0: anybody can be. The fewer teachers, the more often training asks about each of them as
        /// somebody's teacher, from which two-hop questions are learned.
        pub teachers: usize = 0,
        /// Number of paraphrases of each fact, 1 to 8, in the biographies that vary their wording.
        #[schemars(range(min = 1, max = WorldConfig::MAX_PARAPHRASES))]
        pub paraphrases: usize = 8,
        /// Number of rows of pretraining text.
        #[schemars(range(min = 1))]
        pub pretrain_rows: u64 = 74_000,
        /// Number of conversations.
        #[schemars(range(min = 1))]
        pub sft_rows: u64 = 34_000,
        /// Number of multi-turn conversations, for `[sft_multi]`.
        #[schemars(range(min = 1))]
        pub sft_multi_rows: u64 = 8_000,
        /// Share of the pretraining rows that drill how to find an option's letter.
        #[schemars(range(min = 0, max = 1))]
        pub pretrain_drills: f64 = 0.6,
        /// Share of the conversations that drill how to find an option's letter.
        #[schemars(range(min = 0, max = 1))]
        pub sft_drills: f64 = 0.15,
        /// Share of the other conversations that retell a biography, of every person in turn. Facts that fine-tuning
        /// does not repeat are forgotten, and then nothing is known of unseen people.
        #[schemars(range(min = 0, max = 1))]
        pub sft_lives: f64 = 0.0,
        /// Weight of each kind of question in practice: `one_hop`, `two_hop`, `reading` and `arithmetic`, as in
        /// `{ one_hop = 2, two_hop = 1 }`. Weights are relative to their sum; a kind that is not named is left out.
        /// Each weight is a key, such as `world.practice.two_hop`, and can be swept. Empty: 4, 1, 13 and 2.
        pub practice: BTreeMap<String, f64> = BTreeMap::new(),
        /// Number of preference pairs.
        pub dpo_pairs: u64 = 800,
        /// Number of exam questions per subject.
        #[schemars(range(min = 1))]
        pub questions_per_subject: usize = 300,
    }
}

/// Kinds of questions, which are also the exam's subjects.
pub const PRACTICE: [&str; 4] = ["one_hop", "two_hop", "reading", "arithmetic"];

impl WorldConfig {
    /// Maximum number of people in a world: every surname with every given name.
    pub const MAX_PEOPLE: usize = 144;

    /// Number of paraphrases that the built-in vocabulary has of each fact.
    pub const MAX_PARAPHRASES: usize = 8;

    /// Returns the number of seen people: at least one, but not all.
    pub fn seen_people(&self) -> usize {
        let people = self.people.clamp(2, Self::MAX_PEOPLE);
        ((people as f64 * self.seen_share).round() as usize).clamp(1, people - 1)
    }

    /// Returns the weights in the order of [`PRACTICE`], if they are set.
    pub fn practice_weights(&self) -> Option<[f64; 4]> {
        let weight = |kind: &str| self.practice.get(kind).copied().unwrap_or(0.0);
        (!self.practice.is_empty()).then(|| PRACTICE.map(weight))
    }
}

/// Returns the problems of the mix of practice and of the number of teachers.
pub(super) fn problems(config: &TrialConfig) -> Vec<Problem> {
    let practice = &config.world.practice;
    let mut problems = vec![];
    for (kind, weight) in practice {
        let mut fail = |problem: String| {
            problems.push(Problem::new(source_key("world.practice", Some(kind)), problem));
        };
        if !weight.is_finite() || *weight < 0.0 {
            fail(format!("is {weight}, expected 0 or more"));
        }
        if !PRACTICE.contains(&kind.as_str()) {
            let hint = did_you_mean(kind, PRACTICE);
            fail(format!("is not a kind of question, expected {}{hint}", PRACTICE.join(", ")));
        }
    }
    if problems.is_empty() && !practice.is_empty() && practice.values().all(|weight| *weight == 0.0) {
        problems.push(Problem::new("world.practice", "leaves no question, expected a weight above 0"));
    }
    let (teachers, seen) = (config.world.teachers, config.world.seen_people());
    if teachers == 1 || teachers > seen {
        let problem = format!("is {teachers}, expected 0, or 2 to {seen}, the number of seen people");
        problems.push(Problem::new("world.teachers", problem));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teachers_are_among_the_seen() {
        let mut config = TrialConfig::default();
        for (teachers, problem) in [(0, None), (1, Some("is 1")), (20, None), (21, Some("is 21"))] {
            config.world.teachers = teachers;
            let expected = "expected 0, or 2 to 20, the number of seen people";
            let expected = problem.map(|is| format!("world.teachers: {is}, {expected}"));
            let problem = config.validate().into_iter().map(|p| format!("{}: {}", p.key, p.problem)).next();
            assert_eq!(problem, expected);
        }
    }

    #[test]
    fn paraphrases_are_those_of_the_vocabulary() {
        let mut config = TrialConfig::default();
        for (paraphrases, is_valid) in [(0, false), (1, true), (8, true), (9, false)] {
            config.world.paraphrases = paraphrases;
            let problems = config.validate();
            assert_eq!(problems.iter().all(|problem| problem.key != "world.paraphrases"), is_valid);
        }
    }

    #[test]
    fn weights_of_practice_are_of_its_kinds() {
        let of = |weights: &[(&str, f64)]| {
            let mut config = TrialConfig::default();
            config.world.practice =
                weights.iter().map(|(kind, weight)| (kind.to_string(), *weight)).collect();
            config.validate().into_iter().map(|p| format!("{}: {}", p.key, p.problem)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), of(&[("one_hop", 1.0), ("two_hop", 0.0)]));
        let kinds = "one_hop, two_hop, reading, arithmetic";
        assert_eq!(
            of(&[("one_hop", -1.0), ("two_hops", 1.0)]),
            [
                "world.practice.one_hop: is -1, expected 0 or more".to_string(),
                format!(
                    "world.practice.two_hops: is not a kind of question, expected {kinds}; did you mean two_hop?"
                ),
            ]
        );
        assert_eq!(
            of(&[("reading", 0.0)]),
            ["world.practice: leaves no question, expected a weight above 0"]
        );
        let mut config = TrialConfig::default();
        assert_eq!(config.world.practice_weights(), None);
        config.world.practice = [("two_hop".to_string(), 3.0)].into();
        assert_eq!(config.world.practice_weights(), Some([0.0, 3.0, 0.0, 0.0]));
    }
}

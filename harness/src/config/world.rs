//! The keys of the built-in world.

use super::{Problem, TrialConfig, did_you_mean, source_key};
use model::section;
use std::collections::BTreeMap;

section! {
    /// `[world]`: the built-in world. Grows with `people`.
    pub struct WorldConfig {
        /// Seed of the world; independent of the trial's seed, so that trials share one world.
        pub seed: u64 = 1,
        /// Invented people.
        #[schemars(range(min = 4, max = WorldConfig::MOST_PEOPLE))]
        pub people: usize = 40,
        /// Share of the people whose questions are shown in training; the exam asks about the others only.
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        pub seen_share: f64 = 0.5,
        /// How many of the seen people are teachers, with values as evenly dealt as can be; 0: everybody may be one. The fewer
        /// teachers, the more often each is asked about as somebody's, which is what two hops are learned from.
        pub teachers: usize = 0,
        /// Paraphrases of each fact in the lives that are told in many ways, 1 to 8.
        #[schemars(range(min = 1))]
        pub paraphrases: usize = 8,
        /// Rows of pretraining text.
        #[schemars(range(min = 1))]
        pub pretrain_rows: u64 = 74_000,
        /// Conversations.
        #[schemars(range(min = 1))]
        pub sft_rows: u64 = 34_000,
        /// Conversations of several turns, for `[sft_multi]`.
        #[schemars(range(min = 1))]
        pub sft_multi_rows: u64 = 8_000,
        /// Share of the pretraining rows that drill finding an option's letter.
        #[schemars(range(min = 0, max = 1))]
        pub pretrain_drills: f64 = 0.6,
        /// Share of the conversations that drill the same.
        #[schemars(range(min = 0, max = 1))]
        pub sft_drills: f64 = 0.15,
        /// Share of the conversations that tell a life, of everybody in turn: what fine-tuning does not tell again it forgets, and
        /// then knows nothing of unseen people.
        #[schemars(range(min = 0, max = 1))]
        pub sft_lives: f64 = 0.0,
        /// Weight of each kind of question in practice: `one_hop`, `two_hop`, `reading` and `arithmetic`, as in
        /// `{ one_hop = 2, two_hop = 1 }`; what counts is their share of the sum, and one that is not named is left out.
        /// Each is a key, such as `world.practice.two_hop`, which a sweep can vary. Empty: 4, 1, 13 and 2.
        pub practice: BTreeMap<String, f64> = BTreeMap::new(),
        /// Preference pairs.
        pub dpo_pairs: u64 = 800,
        /// Exam questions of each subject.
        #[schemars(range(min = 1))]
        pub questions_per_subject: usize = 300,
    }
}

/// The kinds of questions, which are the exam's subjects too.
pub const PRACTICE: [&str; 4] = ["one_hop", "two_hop", "reading", "arithmetic"];

impl WorldConfig {
    /// Most people that a world can have: every surname with every given name.
    pub const MOST_PEOPLE: usize = 144;

    /// How many people are seen: at least one, and not all.
    pub fn seen_people(&self) -> usize {
        let people = self.people.clamp(2, Self::MOST_PEOPLE);
        ((people as f64 * self.seen_share).round() as usize).clamp(1, people - 1)
    }

    /// The weights of [`PRACTICE`], where they are set.
    pub fn practice_weights(&self) -> Option<[f64; 4]> {
        let weight = |kind: &str| self.practice.get(kind).copied().unwrap_or(0.0);
        (!self.practice.is_empty()).then(|| PRACTICE.map(weight))
    }
}

/// What is wrong with the mix of practice and the number of teachers.
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
            fail(format!("is the weight of no kind of question, expected {}{hint}", PRACTICE.join(", ")));
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
            let told = config.validate().into_iter().map(|p| format!("{}: {}", p.key, p.problem)).next();
            assert_eq!(told, expected);
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
                    "world.practice.two_hops: is the weight of no kind of question, expected {kinds}; did you mean two_hop?"
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

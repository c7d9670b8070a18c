//! The probes: generated tasks whose outcome published work predicts, and one table of everything that the program
//! knows about each.
//!
//! A new probe is a variant of [`Source`], a section below, a row of [`PROBES`] and a generator in `data/probes/`.

use super::{Problem, Source, TrainStage, TrialConfig};
use model::section;

section! {
    /// `[hops]`: k-hop induction over the letters A to D (Sanford, Hsu, Telgarsky 2024, definition 4.1), for
    /// `data.source = "hops"`. Its difficulty grows with `length` and `hops`.
    pub struct HopsConfig {
        /// Seed of the sequences; independent of the trial's seed.
        pub seed: u64 = 1,
        /// Letters per sequence: at least four per hop and four more. A row has two more tokens.
        #[schemars(range(min = 8, max = 4096))]
        pub length: usize = 32,
        /// Maximum number of hops; each row asks for a number from 0 to this one, drawn uniformly.
        #[schemars(range(max = 256))]
        pub hops: usize = 4,
        /// Number of training sequences.
        #[schemars(range(min = 1))]
        pub rows: u64 = 400_000,
        /// Number of exam questions, and of validation sequences, for each number of hops.
        #[schemars(range(min = 1, max = 1_000_000))]
        pub questions: usize = 300,
    }
}

section! {
    /// `[recall]`: multi-query associative recall, MQAR (Arora et al. 2023), for `data.source = "recall"`. Its
    /// difficulty grows with `pairs`, `length` and `vocabulary`.
    pub struct RecallConfig {
        /// Seed of the sequences; independent of the trial's seed.
        pub seed: u64 = 1,
        /// Size of the vocabulary: a filler and keys in the first half, values in the second.
        #[schemars(range(min = 8, max = 65536))]
        pub vocabulary: usize = 256,
        /// Words per sequence: even, and at least four per pair. A row has one more token.
        #[schemars(range(min = 8, max = 65536))]
        pub length: usize = 64,
        /// Key-value pairs at the beginning of a sequence; each key is queried once after them.
        #[schemars(range(min = 2, max = 16384))]
        pub pairs: usize = 4,
        /// Exponent of the power law of the distance between pairs and queries; 1 is uniform, smaller values place
        /// queries nearer.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub power: f64 = 0.01,
        /// Number of training sequences.
        #[schemars(range(min = 1))]
        pub rows: u64 = 100_000,
        /// Number of exam questions, and of validation sequences.
        #[schemars(range(min = 1, max = 1_000_000))]
        pub questions: usize = 1000,
    }
}

section! {
    /// `[capacity]`: knowledge capacity, invented biographies (Allen-Zhu, Li 2024, part 3.3), for
    /// `data.source = "capacity"`. Its difficulty grows with `people`.
    pub struct CapacityConfig {
        /// Seed of the people and their biographies; independent of the trial's seed.
        pub seed: u64 = 1,
        /// Number of invented people.
        #[schemars(range(min = 1, max = 10_000_000))]
        pub people: usize = 1000,
        /// Biographies of each person in a pass; times `pretrain.epochs`, how often each fact is seen.
        #[schemars(range(min = 1))]
        pub exposures: u64 = 100,
        /// Words from which each of the three parts of a name is drawn; all names differ.
        #[schemars(range(min = 2, max = 10_000))]
        pub names: usize = 32,
        /// Attributes per person.
        #[schemars(range(min = 1, max = 100))]
        pub attributes: usize = 5,
        /// Values per attribute, of which each person has one, drawn uniformly.
        #[schemars(range(min = 4, max = 10_000))]
        pub values: usize = 32,
        /// Words that can introduce an attribute, one of which is drawn each time.
        #[schemars(range(min = 1, max = 64))]
        pub forms: usize = 4,
        /// Number of exam questions.
        #[schemars(range(min = 1, max = 1_000_000))]
        pub questions: usize = 300,
    }
}

impl CapacityConfig {
    /// Number of parts of a name.
    pub const NAME_PARTS: u32 = 3;
}

/// Everything that the program knows about a probe.
pub struct ProbeSpec {
    /// Value of `data.source` that selects it.
    pub source: Source,
    /// Word of that value, and name of its section.
    pub name: &'static str,
    /// Keys that determine its vocabulary.
    pub vocabulary: &'static [&'static str],
    /// Keys that determine its training and validation rows.
    pub rows: &'static [&'static str],
    /// Keys that determine its exam.
    pub exam: &'static [&'static str],
    /// Returns the size of its vocabulary, special tokens included.
    pub entries: fn(&TrialConfig) -> usize,
    /// Returns the number of tokens per row.
    pub row_tokens: fn(&TrialConfig) -> usize,
    /// Returns the problems of its keys, provided that each is within its range.
    problems: fn(&TrialConfig) -> Vec<Problem>,
}

/// Number of special tokens, which precede the probe's words in the vocabulary.
const SPECIAL: usize = 3;

/// All probes.
pub const PROBES: [ProbeSpec; 3] = [
    ProbeSpec {
        source: Source::Hops,
        name: "hops",
        vocabulary: &["hops.hops"],
        rows: &["hops.seed", "hops.length", "hops.hops", "hops.rows", "hops.questions"],
        exam: &["hops.seed", "hops.length", "hops.hops", "hops.questions"],
        entries: |config| SPECIAL + config.hops.hops + 1 + 4,
        row_tokens: |config| config.hops.length + 2,
        problems: hops,
    },
    ProbeSpec {
        source: Source::Recall,
        name: "recall",
        vocabulary: &["recall.vocabulary"],
        rows: &[
            "recall.seed",
            "recall.vocabulary",
            "recall.length",
            "recall.pairs",
            "recall.power",
            "recall.rows",
            "recall.questions",
        ],
        exam: &[
            "recall.seed",
            "recall.vocabulary",
            "recall.length",
            "recall.pairs",
            "recall.power",
            "recall.questions",
        ],
        entries: |config| SPECIAL + config.recall.vocabulary,
        row_tokens: |config| config.recall.length + 1,
        problems: recall,
    },
    ProbeSpec {
        source: Source::Capacity,
        name: "capacity",
        vocabulary: &["capacity.names", "capacity.attributes", "capacity.values", "capacity.forms"],
        rows: &[
            "capacity.seed",
            "capacity.people",
            "capacity.exposures",
            "capacity.names",
            "capacity.attributes",
            "capacity.values",
            "capacity.forms",
        ],
        exam: &[
            "capacity.seed",
            "capacity.people",
            "capacity.names",
            "capacity.attributes",
            "capacity.values",
            "capacity.questions",
        ],
        entries: |config| {
            let of = &config.capacity;
            SPECIAL + CapacityConfig::NAME_PARTS as usize * of.names + of.attributes * (of.forms + of.values)
        },
        row_tokens: |config| 2 + CapacityConfig::NAME_PARTS as usize + 2 * config.capacity.attributes,
        problems: capacity,
    },
];

impl TrialConfig {
    /// Returns the probe that generates the trial's data, if any.
    pub fn probe(&self) -> Option<&'static ProbeSpec> {
        PROBES.iter().find(|probe| probe.source == self.data.source)
    }
}

/// Required ratio of possible sequences to exam sequences, so that training can leave the latter out.
const ROOM: f64 = 10.0;

fn hops(config: &TrialConfig) -> Vec<Problem> {
    let of = &config.hops;
    let mut problems = vec![];
    let least = 4 * of.hops + 4;
    if of.length < least {
        let problem = format!(
            "is {}, expected at least {least} for hops.hops = {}: four letters a hop and four more",
            of.length, of.hops
        );
        problems.push(Problem {
            conflicts_with: vec!["hops.hops".into()],
            ..Problem::new("hops.length", problem)
        });
    }
    let sequences = 4.0 * 3f64.powi(of.length.min(1000) as i32 - 1);
    let asked = of.questions as f64 * (of.hops + 1) as f64;
    problems.extend(too_few("hops", sequences, asked));
    problems
}

fn recall(config: &TrialConfig) -> Vec<Problem> {
    let of = &config.recall;
    let mut problems = vec![];
    if !of.length.is_multiple_of(2) || of.length < 4 * of.pairs {
        let least = 4 * of.pairs;
        let problem = format!(
            "is {}, expected an even number of {least} or more for recall.pairs = {}",
            of.length, of.pairs
        );
        problems.push(Problem {
            conflicts_with: vec!["recall.pairs".into()],
            ..Problem::new("recall.length", problem)
        });
    }
    let keys = of.vocabulary / 2 - 1;
    if keys < of.pairs {
        let problem = format!(
            "is {}, expected at least {} for recall.pairs = {}: half of it, without the filler, are keys",
            of.vocabulary,
            2 * (of.pairs + 1),
            of.pairs
        );
        let conflicts_with = vec!["recall.pairs".into()];
        problems.push(Problem { conflicts_with, ..Problem::new("recall.vocabulary", problem) });
    }
    if problems.is_empty() {
        // Ordered choices of keys, of values and of places.
        let choices = |from: usize| (0..of.pairs).map(|taken| (from - taken) as f64).product::<f64>();
        let places = (of.length - 2 * of.pairs) / 2;
        let sequences = choices(keys) * choices(of.vocabulary - of.vocabulary / 2) * choices(places);
        problems.extend(too_few("recall", sequences, of.questions as f64));
    }
    problems
}

fn too_few(probe: &str, sequences: f64, asked: f64) -> Option<Problem> {
    (sequences < ROOM * asked).then(|| {
        let problem = format!(
            "asks about {asked} sequences in all, expected at most a tenth of the {sequences} that there are, as \
             training does without them; make {probe}.length larger"
        );
        let conflicts_with = vec![format!("{probe}.length")];
        Problem { conflicts_with, ..Problem::new(format!("{probe}.questions"), problem) }
    })
}

fn capacity(config: &TrialConfig) -> Vec<Problem> {
    let of = &config.capacity;
    let mut problems = vec![];
    let names = of.names.pow(CapacityConfig::NAME_PARTS);
    if of.people > names {
        let problem =
            format!("is {}, expected at most {names}, the names of capacity.names = {}", of.people, of.names);
        let conflicts_with = vec!["capacity.names".into()];
        problems.push(Problem { conflicts_with, ..Problem::new("capacity.people", problem) });
    }
    let measured = of.people * of.attributes.max(CapacityConfig::NAME_PARTS as usize);
    let training = &config.pretrain.training;
    if training.enabled && training.val_tokens < measured as u64 {
        let problem = format!(
            "is {}, expected at least {measured}: bits are counted over everybody (capacity.people = {})",
            training.val_tokens, of.people
        );
        let conflicts_with = vec!["capacity.people".into()];
        problems.push(Problem { conflicts_with, ..Problem::new("pretrain.val_tokens", problem) });
    }
    problems
}

/// Returns the problems of a trial on a probe; `found` are those found before.
pub(super) fn problems(config: &TrialConfig, found: &[Problem]) -> Vec<Problem> {
    let Some(probe) = config.probe() else { return vec![] };
    let section = format!("{}.", probe.name);
    if found.iter().any(|problem| problem.key.starts_with(&section)) {
        return vec![];
    }
    let source = format!("data.source = \"{}\"", probe.name);
    let with = |key: String, problem: String| Problem {
        conflicts_with: vec!["data.source".into()],
        ..Problem::new(key, problem)
    };
    let mut problems = (probe.problems)(config);
    let pretrain = &config.pretrain.training;
    for (stage, training) in config.stages() {
        let is_pretrain = stage == TrainStage::Pretrain;
        if training.enabled != is_pretrain {
            let (name, is) = (stage.name(), training.enabled);
            let problem =
                format!("is {is}, but {source} is for pretraining alone; set {name}.enabled = {is_pretrain}");
            problems.push(with(format!("{name}.enabled"), problem));
        }
    }
    let (entries, tokens) = ((probe.entries)(config), (probe.row_tokens)(config));
    if config.model.vocab_size < entries {
        let problem =
            format!("is {}, expected at least {entries}, the words of {source}", config.model.vocab_size);
        problems.push(with("model.vocab_size".into(), problem));
    }
    if pretrain.enabled && pretrain.seq_len < tokens {
        let problem =
            format!("is {}, expected at least {tokens}, the tokens of a row of {source}", pretrain.seq_len);
        problems.push(with("pretrain.seq_len".into(), problem));
    }
    for (key, is_set) in
        [("tokenizer.path", config.tokenizer.path.is_some()), ("exam.sheets", config.exam.sheets.is_some())]
    {
        if is_set {
            let problem = format!("is set, but {source} brings its own; set {key} = \"unset\"");
            problems.push(with(key.into(), problem));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::find;

    /// Returns the smallest valid configuration of a probe.
    fn of(probe: &ProbeSpec) -> TrialConfig {
        let mut config = TrialConfig::default();
        config.data.source = probe.source;
        (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
        config
    }

    fn problems(probe: usize, change: impl Fn(&mut TrialConfig)) -> Vec<String> {
        let mut config = of(&PROBES[probe]);
        change(&mut config);
        config.validate().into_iter().map(|p| format!("{}: {}", p.key, p.problem)).collect()
    }

    #[test]
    fn every_key_of_the_table_is_one_of_the_configuration_and_its_defaults_are_valid() {
        for (index, probe) in PROBES.iter().enumerate() {
            assert_eq!(serde_json::json!(probe.source), probe.name);
            for key in probe.vocabulary.iter().chain(probe.rows).chain(probe.exam) {
                assert!(find(key).is_some() && key.starts_with(probe.name), "{key}");
            }
            assert_eq!(problems(index, |_| ()), Vec::<String>::new());
        }
        assert!(TrialConfig::default().probe().is_none());
    }

    #[test]
    fn bad_dials_are_refused() {
        type Case<'a> = (usize, fn(&mut TrialConfig), &'a str);
        let cases: [Case; 15] = [
            (
                0,
                |c| c.hops.length = 16,
                "hops.length: is 16, expected at least 20 for hops.hops = 4: four letters a hop and four more",
            ),
            (0, |c| c.hops.length = 4, "hops.length: is 4, expected at least 8"),
            (
                0,
                |c| (c.hops.hops, c.hops.length, c.hops.questions) = (0, 8, 900),
                "hops.questions: asks about 900 sequences in all, expected at most a tenth of the 8748 that there are",
            ),
            (1, |c| c.recall.length = 63, "recall.length: is 63, expected an even number of 16 or more"),
            (1, |c| c.recall.pairs = 17, "recall.length: is 64, expected an even number of 68 or more"),
            (
                1,
                |c| c.recall.vocabulary = 8,
                "recall.vocabulary: is 8, expected at least 10 for recall.pairs = 4",
            ),
            (
                1,
                |c| (c.recall.vocabulary, c.recall.pairs, c.recall.length) = (8, 2, 8),
                "recall.questions: asks about 1000 sequences in all, expected at most a tenth of the 144",
            ),
            (1, |c| c.recall.power = 0.0, "recall.power: is 0, expected a positive number"),
            (
                2,
                |c| c.capacity.names = 4,
                "capacity.people: is 1000, expected at most 64, the names of capacity.names = 4",
            ),
            (
                2,
                |c| c.capacity.people = 30_000,
                "pretrain.val_tokens: is 100000, expected at least 150000: bits are counted over everybody",
            ),
            (2, |c| c.capacity.values = 3, "capacity.values: is 3, expected at least 4"),
            (
                0,
                |c| c.sft.training.enabled = true,
                "sft.enabled: is true, but data.source = \"hops\" is for pretraining alone; set sft.enabled = false",
            ),
            (
                1,
                |c| c.model.vocab_size = 258,
                "model.vocab_size: is 258, expected at least 259, the words of data.source = \"recall\"",
            ),
            (
                0,
                |c| c.pretrain.training.seq_len = 33,
                "pretrain.seq_len: is 33, expected at least 34, the tokens of a row of data.source = \"hops\"",
            ),
            (
                0,
                |c| c.exam.sheets = Some("s".into()),
                "exam.sheets: is set, but data.source = \"hops\" brings its own; set exam.sheets = \"unset\"",
            ),
        ];
        for (probe, change, expected) in cases {
            let found = problems(probe, change);
            assert!(
                found.len() == 1 && found[0].starts_with(expected),
                "{found:?} where expected {expected}"
            );
        }
        // Far out of range, and nothing overflows.
        for probe in 0..3 {
            let huge = |c: &mut TrialConfig| {
                (c.hops.length, c.hops.hops, c.recall.pairs) = (usize::MAX, usize::MAX, usize::MAX);
                (c.capacity.people, c.capacity.names, c.capacity.values) =
                    (usize::MAX, usize::MAX, usize::MAX);
            };
            assert!(!problems(probe, huge).is_empty());
        }
    }
}

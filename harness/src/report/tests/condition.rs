//! Conditions: what they select, and the messages for malformed ones.

use super::*;
use crate::report::experiment::condition::Condition;
use crate::report::results::observation::Results;
use proptest::prelude::*;

/// The depths, among 2 and 4, of the trials that satisfy a condition.
fn selected(condition: &str) -> Vec<u64> {
    let trials = [trial(1, 2, 24, Status::Done), trial(1, 4, 60, Status::Done)];
    let results = Results::new(&trials, &[]);
    let condition = Condition::parse(condition).unwrap();
    let observations = results.observations(&condition.columns().collect::<Vec<_>>());
    let held = observations.iter().filter(|o| condition.holds(o));
    held.map(|o| o.trial.params / 1000).collect()
}

#[test]
fn conditions_select_by_keys_and_by_outcomes() {
    assert_eq!(selected("model.n_layers >= 4"), [4]);
    assert_eq!(selected("model.n_layers < 4"), [2]);
    assert_eq!(selected("params<=2e3"), [2]);
    assert_eq!(selected("params <= 2_000 and seed == 1"), [2]);
    assert_eq!(selected("params <= 2000 and seed == 2"), [0u64; 0]);
    assert_eq!(selected("exam.accuracy > 0.5 or model.n_layers == 2"), [2, 4]);
    assert_eq!(selected("seed == 2 and params > 0 or model.n_layers != 2"), [4]);
    assert_eq!(selected("sweep == 's'"), [2, 4]);
    assert_eq!(selected("sweep != s"), [0u64; 0]);
    assert_eq!(selected("exam.stage == \"sft\""), [2, 4]);
    // A key that is absent from the configuration has no value.
    assert_eq!(selected("model.d_model != 3"), [0u64; 0]);
}

#[test]
fn malformed_conditions_say_what_was_expected() {
    let problem = |text: &str| Condition::parse(text).unwrap_err();
    let operators = "expected ==, !=, <, <=, > or >=";
    let tests = format!("{operators}, in (...), or is missing");
    let cases = [
        ("", "ends where a comparison was expected, such as model.n_layers >= 8".to_string()),
        ("params", format!("has the end after params, {tests}")),
        ("params <", "has the end where a value for params was expected".into()),
        ("params = 3", format!("has \"=\" at character 8, {operators}")),
        ("params < < 3", "has \"<\" at character 10 where a value for params was expected".into()),
        ("params < many", "compares params with \"many\" at character 10, expected a number".into()),
        ("params < '3'", "compares params with \"3\" at character 10, expected a number".into()),
        ("params < 3 and", "ends where a comparison was expected, such as model.n_layers >= 8".into()),
        ("params < 3 params", "has \"params\" at character 12 where \"and\", \"or\" or the end was expected".into()),
        ("  < 3", "has \"<\" at character 3 where a column was expected".into()),
        ("parms < 3", "there is no \"parms\"; did you mean params?".into()),
        ("sweep < a", "orders sweep, which holds text; expected == or !=".into()),
        ("sweep == 'a", "has no closing ' for the one at character 10".into()),
        ("(params < 3", "has no \")\" for the \"(\" at character 1".into()),
        ("(params < 3]", "has \"]\" at character 12 where \"and\", \"or\" or \")\" was expected".into()),
        ("params < 3)", "has \")\" at character 11 where \"and\", \"or\" or the end was expected".into()),
        ("not", "ends where a comparison was expected, such as model.n_layers >= 8".into()),
        ("params in 3", "has \"3\" at character 11 after params in, expected values such as (2, 4)".into()),
        ("params in ()", "has \")\" at character 12 where a value for params was expected".into()),
        ("params in (3", "has the end where \",\" or \")\" was expected".into()),
        ("params in [3)", "has \")\" at character 13 where \",\" or \"]\" was expected".into()),
        ("params not 3", "has \"3\" at character 12 after params not, expected in (...)".into()),
        ("params is 3", "has \"3\" at character 11 after params is, expected missing or not missing".into()),
        ("params & 3", "has \"&\" at character 8, expected comparisons such as model.n_layers >= 8, joined by and, or and not".into()),
        (
            "data.source == wrld",
            "compares data.source with \"wrld\" at character 16, expected world, files, hops, recall, capacity; did you mean world?".into(),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problem(text), expected, "{text}");
    }
    let deep = |n: usize| format!("{}params > 0{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(selected(&deep(63)), [2, 4]);
    assert!(problem(&deep(100_000)).starts_with("has more than 64 parentheses"));
}

#[test]
fn parentheses_not_and_in_select() {
    assert_eq!(selected("not model.n_layers == 2"), [4]);
    assert_eq!(selected("not not model.n_layers == 2"), [2]);
    assert_eq!(selected("model.n_layers in (2, 8)"), [2]);
    assert_eq!(selected("model.n_layers not in [2, 8]"), [4]);
    assert_eq!(selected("sweep in (\"s\", 'two words') and exam.stage == 'sft'"), [2, 4]);
    assert_eq!(selected("seed == 2 and (params > 0 or model.n_layers != 2)"), [0u64; 0]);
    assert_eq!(selected("not (seed == 2 and params > 0) and not model.n_layers==4"), [2]);
    // A missing value satisfies neither a comparison nor its negation.
    assert_eq!(selected("not model.d_model == 3"), [0u64; 0]);
    assert_eq!(selected("model.d_model not in (3)"), [0u64; 0]);
    assert_eq!(selected("model.d_model == 3 or params == 2000"), [2]);
    assert_eq!(selected("not (model.d_model == 3 and params == 2000)"), [4]);
    assert_eq!(selected("model.d_model is missing and params is not missing"), [2, 4]);
}

/// A condition as a tree, to be formatted and to be evaluated independently.
#[derive(Debug, Clone)]
enum Naive {
    Leaf(usize),
    Not(Box<Naive>),
    And(Box<Naive>, Box<Naive>),
    Or(Box<Naive>, Box<Naive>),
}

/// Comparisons, and their values for a trial of 2 layers before it has run; `None` if the key is missing or the outcome
/// is unknown.
const LEAVES: [(&str, Option<bool>); 7] = [
    ("params == 2000", Some(true)),
    ("model.n_layers > 2", Some(false)),
    ("model.d_model < 8", None),
    ("model.n_layers in (2, 4)", Some(true)),
    ("seed not in [1]", Some(false)),
    // Outcomes, which are unknown before the run.
    ("exam.accuracy > 0.5", None),
    ("val.bpb >= 1", None),
];

impl Naive {
    /// Formats the condition with as few parentheses as possible; `level` is 0 inside `or`, 1 inside `and` and 2 inside
    /// `not`.
    fn text(&self, level: usize) -> String {
        let (own, text) = match self {
            Self::Leaf(leaf) => (3, LEAVES[*leaf].0.to_string()),
            Self::Not(a) => (2, format!("not {}", a.text(2))),
            Self::And(a, b) => (1, format!("{} and {}", a.text(1), b.text(1))),
            Self::Or(a, b) => (0, format!("{} or {}", a.text(0), b.text(0))),
        };
        if own < level { format!("({text})") } else { text }
    }

    /// Evaluates the condition, where leaves from index 5 on take their values from `unknown`, left to right.
    fn value(&self, unknown: &mut dyn Iterator<Item = Option<bool>>) -> Option<bool> {
        match self {
            Self::Leaf(leaf) if *leaf < 5 => LEAVES[*leaf].1,
            Self::Leaf(_) => unknown.next().unwrap(),
            Self::Not(a) => a.value(unknown).map(|a| !a),
            Self::And(a, b) => match (a.value(unknown), b.value(unknown)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.value(unknown), b.value(unknown)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
        }
    }

    fn unknown(&self) -> u32 {
        match self {
            Self::Leaf(leaf) => u32::from(*leaf >= 5),
            Self::Not(a) => a.unknown(),
            Self::And(a, b) | Self::Or(a, b) => a.unknown() + b.unknown(),
        }
    }
}

fn naive() -> impl Strategy<Value = Naive> {
    (0..LEAVES.len()).prop_map(Naive::Leaf).prop_recursive(4, 16, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|a| Naive::Not(Box::new(a))),
            two.clone().prop_map(|(a, b)| Naive::And(Box::new(a), Box::new(b))),
            two.prop_map(|(a, b)| Naive::Or(Box::new(a), Box::new(b))),
        ]
    })
}

proptest! {
    #[test]
    fn a_condition_holds_as_its_tree_does(tree in naive()) {
        let condition = Condition::parse(&tree.text(0)).unwrap();
        let mut pending = trial(1, 2, 24, Status::Done);
        let trials = [pending.clone()];
        // Before the run: is there an outcome for which it holds?
        let results = Results::new(&trials, &[]);
        let count = tree.unknown().min(6);
        prop_assume!(tree.unknown() <= 6);
        let can_hold = (0..3u32.pow(count)).any(|code| {
            let digit = |i: u32| [Some(true), Some(false), None][(code / 3u32.pow(i) % 3) as usize];
            tree.value(&mut (0..count).map(digit)) == Some(true)
        });
        prop_assert_eq!(condition.may_hold(&results.planned()[0]), can_hold, "{}", condition.text);
        // After a run without an exam and without bits per byte.
        (pending.exams, pending.val_bpb) = (vec![], None);
        let trials = [pending];
        let results = Results::new(&trials, &[]);
        let holds = tree.value(&mut std::iter::repeat(None)) == Some(true);
        prop_assert_eq!(condition.holds(&results.observations(&[])[0]), holds, "{}", condition.text);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "[a-z_.=<>!'\" 0-9(é数-]{0,40}") {
        let parsed = Condition::parse(&text);
        prop_assert!(parsed.is_err() || !text.trim().is_empty());
    }
}

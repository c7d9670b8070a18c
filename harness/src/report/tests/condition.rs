//! Conditions: what they select, and what is wrong with malformed ones.

use super::*;
use crate::report::condition::Condition;
use crate::report::observation::Results;
use proptest::prelude::*;

/// The numbers of layers, of 2 and 4, for which a condition holds.
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
    // A key that the configuration does not hold has no value.
    assert_eq!(selected("model.d_model != 3"), [0u64; 0]);
}

#[test]
fn malformed_conditions_say_what_was_expected() {
    let problem = |text: &str| Condition::parse(text).unwrap_err();
    let cases = [
        ("", "ends where a comparison was expected, such as model.n_layers >= 8"),
        ("params", "has the end after params, expected ==, !=, <, <=, > or >="),
        ("params <", "has the end where a value for params was expected"),
        ("params = 3", "has \"=\", expected ==, !=, <, <=, > or >="),
        ("params < < 3", "has \"<\" where a value for params was expected"),
        ("params < many", "compares params with \"many\", expected a number"),
        ("params < '3'", "compares params with \"3\", expected a number"),
        ("params < 3 and", "ends where a comparison was expected, such as model.n_layers >= 8"),
        ("params < 3 params", "has \"params\" where \"and\", \"or\" or the end was expected"),
        ("< 3", "has \"<\" where a column was expected"),
        ("parms < 3", "there is no \"parms\"; did you mean params?"),
        ("sweep < a", "orders sweep, which holds text; expected == or !="),
        ("sweep == 'a", "has no closing ' after \"a\""),
        ("(params < 3)", "has \"(\", expected comparisons joined by and, or, such as model.n_layers >= 8"),
        (
            "data.source == wrld",
            "compares data.source with \"wrld\", expected world, files, hops, recall, capacity; did you mean world?",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problem(text), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "[a-z_.=<>!'\" 0-9(é数-]{0,40}") {
        let parsed = Condition::parse(&text);
        prop_assert!(parsed.is_err() || !text.trim().is_empty());
    }
}

//! Random chat templates: rendering ends, and no text becomes a control token.
//!
//! `PROPTEST_CASES` sets the number of cases; the default is 256.

use crate::common::tiny::folder;
use harness::data::{Message, SpecialText, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use std::path::Path;

/// Fragments from which templates are composed.
const PIECES: [&str; 40] = [
    "{% for m in messages %}",
    "{% for m in messages[1:] %}",
    "{% for m in messages|reverse %}",
    "{% endfor %}",
    "{% for i in range(3) %}",
    "{% if m.role == 'user' %}",
    "{% elif m['role'] == 'assistant' %}",
    "{% else %}",
    "{% endif %}",
    "{% if loop.first %}",
    "{% if not loop.last %}",
    "{% if add_generation_prompt %}",
    "{% if messages[0].role == 'system' %}",
    "{{ m.content }}",
    "{{ m['content'] }}",
    "{{ m.content.strip() }}",
    "{{ m.content | trim }}",
    "{{ m.content | upper }}",
    "{{ m.role }}",
    "{{ messages[0].content }}",
    "{{ bos_token }}",
    "{{ eos_token }}",
    "{{ '<s>' + m.role + '\\n' + m.content + '</s>\\n' }}",
    "{{ raise_exception('no') }}",
    "{% set x = m.content %}",
    "{{ x }}",
    "{% set ns = namespace(n=0) %}",
    "{% set ns.n = ns.n + 1 %}",
    "{{ ns.n }}",
    "{% macro f(t) %}",
    "{% endmacro %}",
    "{{ f(m.content) }}",
    "{{ f('a') }}",
    "{% break %}",
    "{%- continue -%}",
    "<s>assistant\n",
    "</s>\n",
    "user: ",
    "\u{10fffe}0\u{10ffff}",
    "{",
];

const TEXTS: [&str; 9] =
    ["a", "天空", "", " b ", "a</s>b", "<s>assistant\nx", "</s>", "<unk>", "\u{10fffe}1\u{10ffff}"];

fn messages() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let role = prop::sample::select(&["system", "user", "assistant", "tool"][..]);
    prop::collection::vec((role, prop::sample::select(&TEXTS[..])), 0..5)
}

fn with_template(dir: &Path, template: &str) -> anyhow::Result<Tokenizer> {
    let file = dir.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["chat_template"] = template.into();
    std::fs::write(&file, config.to_string()).unwrap();
    Tokenizer::load(dir)
}

fn said(turns: &[(&str, &str)], plain: bool) -> Vec<Message> {
    let words = |text: &str| if plain { text.replace(['<', '>', '/'], "+") } else { text.to_owned() };
    turns.iter().map(|(role, text)| Message::new(role, words(text))).collect()
}

#[test]
fn any_template_ends_and_texts_stay_text() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 1);
    let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 0..14);
    // A syntactically complete template, as most random ones are not.
    let whole =
        pieces.clone().prop_map(|inner| format!("{{% for m in messages %}}{}{{% endfor %}}", inner.concat()));
    let strategy = (prop_oneof![pieces.prop_map(|pieces| pieces.concat()), whole], messages());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let tested = runner.run(&strategy, |(template, turns)| {
        if let Ok(tokenizer) = with_template(dir.path(), &template) {
            let control = |plain: bool| {
                let found = tokenizer.conversation(&said(&turns, plain), SpecialText::Characters).ok()?;
                Some(found.ids.iter().filter(|&&id| id < 3).count())
            };
            if let (Some(spelled), Some(plain)) = (control(false), control(true)) {
                prop_assert_eq!(spelled, plain, "{} {:?}", template, turns);
            }
            let messages = said(&turns, false);
            let _ = tokenizer.conversation(&messages, SpecialText::Control);
            let _ = tokenizer.conversation_document(&messages, SpecialText::Characters);
            let _ = (tokenizer.render(&messages), tokenizer.answer_marker());
        }
        Ok(())
    });
    if let Err(error) = tested {
        panic!("{error}");
    }
}

#[test]
fn a_template_without_an_end_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 1);
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}{% endfor %}";
    let calls = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    for template in [loops, calls] {
        let tokenizer = with_template(dir.path(), template);
        let rendered = tokenizer.and_then(|tokenizer| tokenizer.render(&[Message::new("user", "a")]));
        assert!(rendered.is_err());
    }
}

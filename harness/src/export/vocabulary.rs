//! A tokenizer in llama.cpp's form: byte-level BPE, with entries, merges and control tokens stored in a GGUF file.

use crate::data::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use model::weights::gguf::{TokenKind, Vocabulary};
use serde_json::Value;

/// Converts the tokenizer of a model with `entries` entries; the pre-tokenizer `gpt-2` of `llama-vocab.cpp` splits text
/// as ours does.
///
/// # Errors
/// If llama.cpp has no such tokenizer, with the reason.
pub fn of(tokenizer: &Tokenizer, entries: usize) -> Result<Vocabulary> {
    let json: Value = serde_json::from_str(&tokenizer.json()?)?;
    if let Some(problem) = problem(&json) {
        bail!("llama.cpp has no tokenizer like this one: {problem}; --to hf keeps it as it is");
    }
    let mut tokens: Vec<Option<(String, TokenKind)>> = vec![None; entries];
    let mut put = |text: &str, id: &Value, kind: TokenKind| -> Result<()> {
        let id = id.as_u64().with_context(|| format!("the entry {text:?} of the tokenizer has no id"))?;
        let place = tokens.get_mut(id as usize).with_context(|| format!("the entry {text:?} is outside"))?;
        *place = Some((text.to_owned(), kind));
        Ok(())
    };
    for (text, id) in json["model"]["vocab"].as_object().context("the tokenizer has no vocabulary")? {
        put(text, id, TokenKind::Normal)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let is_special = added["special"].as_bool() == Some(true);
        let kind = if is_special { TokenKind::Control } else { TokenKind::Added };
        put(added["content"].as_str().unwrap_or_default(), &added["id"], kind)?;
    }
    let unused = |id: usize| (format!("[PAD{id}]"), TokenKind::Unused);
    let merges = json["model"]["merges"].as_array().into_iter().flatten().map(merge);
    let merges = merges.collect::<Option<Vec<String>>>().context("a merge of the tokenizer is not a pair")?;
    ensure!(!merges.is_empty(), "llama.cpp has no tokenizer without merges; --to hf keeps it as it is");
    Ok(Vocabulary {
        tokens: tokens
            .into_iter()
            .enumerate()
            .map(|(id, token)| token.unwrap_or_else(|| unused(id)))
            .collect(),
        merges,
        pre: "gpt-2",
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        chat_template: tokenizer.chat_template().map(str::to_owned),
    })
}

/// Formats a merge as `a b`, from either of its two notations.
fn merge(pair: &Value) -> Option<String> {
    match pair {
        Value::String(pair) => Some(pair.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(a), Value::String(b)] => Some(format!("{a} {b}")),
            _ => None,
        },
        _ => None,
    }
}

/// Returns how a tokenizer differs from GPT-2's byte-level BPE, if it does.
fn problem(json: &Value) -> Option<String> {
    let is_null = |value: &Value| value.is_null();
    let (model, cut) = (&json["model"], &json["pre_tokenizer"]);
    if model["type"] != "BPE" {
        return Some(format!("its model is {}, expected BPE", model["type"]));
    }
    if cut["type"] != "ByteLevel" || cut["use_regex"] == false || cut["add_prefix_space"] == true {
        return Some("its pre_tokenizer is not a plain ByteLevel, which cuts text as GPT-2 does".into());
    }
    if !is_null(&json["normalizer"]) {
        return Some("it changes text by a normalizer before it cuts it".into());
    }
    let is_set =
        |key: &&&str| !matches!(&model[**key], Value::Null | Value::Bool(false)) && model[**key] != "";
    let odd =
        ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges", "dropout"];
    odd.iter().find(is_set).map(|key| format!("its model has {key}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_merges_and_kinds_are_those_of_the_file() {
        let text = "他喜欢读书，她喜欢下棋。".repeat(9);
        let tokenizer = Tokenizer::train([text].into_iter(), 270).unwrap();
        let (entries, more) = (tokenizer.vocab_size(), tokenizer.vocab_size() + 2);
        let vocabulary = of(&tokenizer, more).unwrap();
        assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (more, entries - 259));
        assert_eq!(vocabulary.tokens[1], ("<s>".into(), TokenKind::Control));
        assert_eq!(vocabulary.tokens[3].1, TokenKind::Normal);
        assert_eq!(vocabulary.tokens[more - 1], (format!("[PAD{}]", more - 1), TokenKind::Unused));
        assert_eq!((vocabulary.bos, vocabulary.eos), (Some(1), Some(2)));
        assert!(vocabulary.chat_template.unwrap().contains("<s>assistant"));
        // Each merge creates an entry.
        for pair in &vocabulary.merges {
            let (a, b) = pair.split_once(' ').unwrap();
            assert!(vocabulary.tokens.iter().any(|(token, _)| *token == [a, b].concat()), "{pair}");
        }
    }

    #[test]
    fn other_tokenizers_are_refused_with_the_reason() {
        let text = "abcabc ".repeat(9);
        let plain = Tokenizer::train([text].into_iter(), 260).unwrap().json().unwrap();
        let plain: Value = serde_json::from_str(&plain).unwrap();
        assert_eq!(problem(&plain), None);
        let changed = |pointer: &str, value: Value| {
            let mut json = plain.clone();
            *json.pointer_mut(pointer).unwrap() = value;
            problem(&json).unwrap()
        };
        assert_eq!(changed("/model/type", "Unigram".into()), "its model is \"Unigram\", expected BPE");
        assert!(changed("/pre_tokenizer/use_regex", false.into()).contains("not a plain ByteLevel"));
        assert!(changed("/normalizer", serde_json::json!({ "type": "NFC" })).contains("normalizer"));
        assert_eq!(changed("/model/ignore_merges", true.into()), "its model has ignore_merges");
    }
}

//! Files of a tokenizer: `tokenizer.json`, `tokenizer_config.json` and the chat template next to them.

use super::{SPECIAL, Tokenizer};
use crate::data::chat::MINIMIND;
use crate::fsutil::{create_dir, read_text, write_atomic};
use anyhow::{Context, Result, anyhow};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::path::Path;

const FILE: &str = "tokenizer.json";
pub const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

impl Tokenizer {
    /// Loads `tokenizer.json` and the `tokenizer_config.json` next to it. `path` is the file, its folder, or the folder of
    /// the stage run that wrote it.
    ///
    /// The chat template is that of `tokenizer_config.json` or `chat_template.jinja`; if there is none, MiniMind's is used,
    /// provided that the vocabulary has its `<s>` and `</s>`.
    ///
    /// # Errors
    /// If a file cannot be read or is not a file of a tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let of_run = path.join("model").join(FILE);
        let file = match path.join(FILE) {
            _ if !path.is_dir() => path.to_path_buf(),
            file if !file.exists() && of_run.exists() => of_run,
            file => file,
        };
        let shown = file.display();
        let text = read_text(&file)?;
        // The library panics on text that is not JSON.
        serde_json::from_str::<IgnoredAny>(&text)
            .with_context(|| format!("{shown}: is not a tokenizer.json"))?;
        let inner: tokenizers::Tokenizer =
            text.parse().map_err(|error| anyhow!("{shown}: is not a tokenizer.json: {error}"))?;
        let beside = file.with_file_name(CONFIG);
        let mut config: Value = if beside.is_file() {
            serde_json::from_str(&read_text(&beside)?)
                .with_context(|| format!("{}: is not JSON", beside.display()))?
        } else {
            default_config()
        };
        let template = file.with_file_name(TEMPLATE);
        if config.get("chat_template").is_none_or(Value::is_null)
            && template.is_file()
            && let Some(config) = config.as_object_mut()
        {
            config.insert("chat_template".into(), read_text(&template)?.into());
        }
        Self::new(inner, config, shown.to_string()).with_context(|| shown.to_string())
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        create_dir(dir)?;
        write_atomic(&dir.join(FILE), self.json()?.as_bytes())?;
        let mut config = self.config.clone();
        if let Some(config) = config.as_object_mut().filter(|_| self.no_template.is_none()) {
            config.insert("chat_template".into(), self.template.source().into());
        }
        write_atomic(&dir.join(CONFIG), &serde_json::to_vec_pretty(&config)?)
    }

    /// Returns the content of `tokenizer.json`.
    ///
    /// # Errors
    /// If the tokenizer cannot be serialised as JSON.
    pub fn json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|error| anyhow!("{error}"))
    }
}

/// Returns the chat template in a `tokenizer_config.json`: a string, or the default one of a list.
pub fn chat_template(config: &Value) -> Result<Option<&str>> {
    let text = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(several)) => {
            several.iter().find(|one| one["name"] == "default").and_then(|one| one["template"].as_str())
        }
        Some(one) => one.as_str(),
    };
    text.map(Some)
        .with_context(|| format!("{CONFIG}: chat_template is neither a text nor a list with a default one"))
}

/// Returns the relevant entries of MiniMind's `tokenizer_config.json`.
pub fn default_config() -> Value {
    let [unk, bos, eos] = SPECIAL;
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_eos_token": false,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "chat_template": MINIMIND,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::train::tests::texts;
    use super::*;
    use crate::data::Message;

    #[test]
    fn a_saved_tokenizer_is_the_same_when_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::train(texts(50), 300).unwrap();
        tokenizer.save(dir.path()).unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join(FILE)] {
            let loaded = Tokenizer::load(&path).unwrap();
            assert_eq!(loaded.digest(), tokenizer.digest());
            assert_eq!(loaded.encode("山里有座庙").unwrap(), tokenizer.encode("山里有座庙").unwrap());
        }
    }

    #[test]
    fn minimind_s_template_is_taken_only_where_its_tokens_are() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        let load = || Tokenizer::load(dir.path()).unwrap();
        Tokenizer::train(texts(50), 300).unwrap().save(dir.path()).unwrap();
        let whole: Value = serde_json::from_str(&read_text(&dir.path().join(FILE)).unwrap()).unwrap();
        write(CONFIG, &json!({"bos_token": "<s>", "eos_token": "</s>"}));
        let turns = [Message::new("user", "q"), Message::new("assistant", "a")];
        assert_eq!(load().render(&turns).unwrap(), "<s>user\nq</s>\n<s>assistant\na</s>\n");
        // The same tokenizer with another begin-of-text token.
        let renamed = whole.to_string().replace("\"<s>\"", "\"<begin>\"");
        write(FILE, &serde_json::from_str(&renamed).unwrap());
        write(CONFIG, &json!({"bos_token": "<begin>", "eos_token": "</s>"}));
        let tokenizer = load();
        let why = tokenizer.no_template().unwrap();
        assert!(
            why.contains("MiniMind's needs <s>, not in its vocabulary; put a chat_template into"),
            "{why}"
        );
        assert!(format!("{:#}", tokenizer.render(&turns).unwrap_err()).contains(why));
        assert!(!tokenizer.encode("山里有座庙").unwrap().is_empty());
        tokenizer.save(dir.path()).unwrap();
        assert_eq!(load().no_template(), Some(why));
        // A template in its own file, or the default one of a list.
        std::fs::write(dir.path().join(TEMPLATE), "{{ messages[0].content }}!").unwrap();
        assert_eq!(load().render(&turns).unwrap(), "q!");
        let several = json!([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]);
        write(CONFIG, &json!({"bos_token": "<begin>", "eos_token": "</s>", "chat_template": several}));
        assert_eq!(load().render(&turns).unwrap(), "d");
        write(CONFIG, &json!({"eos_token": "</s>", "chat_template": []}));
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(error.contains("chat_template is neither a text nor a list with a default one"), "{error}");
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(error.contains("tokenizer.json"), "{error}");
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(error.contains("is not a tokenizer.json"), "{error}");
    }
}

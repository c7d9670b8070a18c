//! Chat templates: format the turns of a conversation as the text that a model reads.

use super::row::{Message, Row};
use super::turns;
use anyhow::{Context, Result, anyhow, ensure};
use minijinja::{Environment, Error, ErrorKind, context};
use std::sync::OnceLock;
use std::thread;

/// MiniMind's template: the system message unchanged, then `<s>user\n..</s>\n<s>assistant\n..</s>\n` for each exchange.
pub const MINIMIND: &str = include_str!("minimind_template.jinja");

const NAME: &str = "chat_template";

/// Maximum length of a template in bytes; the longest published ones have a third of it.
const LONGEST: usize = 64 << 10;

/// Bytes of stack per byte of a template during compilation.
const STACK_PER_BYTE: usize = 4 << 10;

/// Maximum steps of a template per conversation, so that an endless loop terminates: two hundred for each of a hundred
/// thousand turns.
const STEPS: u64 = 20_000_000;

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    bos: String,
    eos: String,
    closing: OnceLock<String>,
}

impl ChatTemplate {
    /// Compiles a Jinja template with the settings of Hugging Face's `apply_chat_template`.
    ///
    /// # Errors
    /// If the template is not valid Jinja, is too long, or crashes the compiler.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        // Templates are written for Python's Jinja and call methods of Python strings and lists.
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(STEPS));
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        ensure!(
            source.len() <= LONGEST,
            "the chat template has {} bytes, expected at most {LONGEST}",
            source.len()
        );
        // Chains such as `a.a.a` are compiled by unbounded recursion, so the stack must grow with the template.
        let stack = (1 << 20) + STACK_PER_BYTE * source.len();
        let compiled = thread::scope(|scope| {
            let compile = || environment.add_template_owned(NAME, source.to_owned());
            let compiler = thread::Builder::new().stack_size(stack).spawn_scoped(scope, compile);
            compiler.map(|compiler| compiler.join())
        });
        compiled
            .context("a thread for the chat template")?
            .map_err(|_| anyhow!("the chat template crashes its compiler"))?
            .context("the chat template is not valid Jinja")?;
        Ok(Self {
            source: source.to_owned(),
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            closing: OnceLock::new(),
        })
    }

    /// Compiles MiniMind's template.
    ///
    /// # Errors
    /// Never, as the template is valid.
    pub fn minimind() -> Result<Self> {
        Self::new(MINIMIND, "<s>", "</s>")
    }

    /// Returns the text of a row for training a tokenizer: conversations in the template's form, all else unchanged.
    ///
    /// # Errors
    /// If the chat template refuses the conversation.
    pub fn text(&self, row: &Row) -> Result<String> {
        match row {
            Row::Chat(messages) => self.render(messages),
            Row::Text(_) | Row::Preference { .. } | Row::Labelled { .. } => Ok(row.chars().collect()),
        }
    }

    /// Returns the template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the text that closes an answer, such as `</s>\n`; empty if the template refuses the simplest conversation.
    pub(super) fn closing(&self) -> &str {
        self.closing.get_or_init(|| turns::closing(self).unwrap_or_default())
    }

    /// Formats a conversation, followed by the opening of an answer if the last turn is not the assistant's.
    ///
    /// # Errors
    /// If the chat template refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        ensure!(!messages.is_empty(), "a conversation has no turn, expected at least one");
        let add_generation_prompt = messages.last().is_some_and(|last| last.role != "assistant");
        let template = self.environment.get_template(NAME)?;
        template
            .render(
                context! { messages, add_generation_prompt, bos_token => self.bos, eos_token => self.eos },
            )
            .map_err(|error| anyhow!("the chat template refuses a conversation: {error:#}"))
    }

    /// Returns the text that opens an answer, up to where the loss begins in MiniMind-style rows (`<s>assistant`). It is
    /// found by rendering one and two exchanges; `special` are the special tokens.
    ///
    /// # Errors
    /// If the template drops turns, or opens answers in the same way as questions.
    pub fn marker(&self, special: &[String]) -> Result<String> {
        let [first, answer, second] = ["FIRST-QUESTION", "FIRST-ANSWER", "SECOND-QUESTION"];
        let turns =
            [("user", first), ("assistant", answer), ("user", second), ("assistant", "SECOND-ANSWER")];
        let turns = turns.map(|(role, content)| Message::new(role, content));
        let (one, two) = (self.render(&turns[..2])?, self.render(&turns)?);
        let between = |text: &str, from: &str, to: &str| -> Option<String> {
            let start = text.find(from)? + from.len();
            Some(text[start..start + text[start..].find(to)?].to_owned())
        };
        let found = between(&one, first, answer).zip(between(&two, answer, second));
        let (opening, question) = found.context("the chat template drops turns of user or assistant")?;
        // The opening of an answer shares a prefix with that of a question, usually the same special token.
        let same = opening
            .chars()
            .zip(question.chars())
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len_utf8())
            .sum();
        let start =
            special.iter().filter_map(|token| opening[..same].rfind(token.as_str())).max().unwrap_or(same);
        let marker = opening[start..].trim_end().to_owned();
        ensure!(
            !marker.is_empty(),
            "the chat template begins answers as it begins questions, so answers cannot be located"
        );
        Ok(marker)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn marker(template: &str, special: &[&str]) -> String {
        let special: Vec<String> = special.iter().map(ToString::to_string).collect();
        ChatTemplate::new(template, "<s>", "</s>").unwrap().marker(&special).unwrap()
    }

    #[test]
    fn the_marker_is_found_in_templates_of_several_families() {
        assert_eq!(marker(MINIMIND, &["<unk>", "<s>", "</s>"]), "<s>assistant");
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.strip() }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        assert_eq!(marker(chatml, &["<|im_start|>", "<|im_end|>"]), "<|im_start|>assistant");
        let llama = "{% for m in messages %}{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] + '<|eot|>' }}{% endfor %}";
        assert_eq!(marker(llama, &["<|head|>", "<|/head|>", "<|eot|>"]), "<|head|>assistant<|/head|>");
    }

    #[test]
    fn a_template_may_refuse_and_says_why() {
        let template = ChatTemplate::new("{{ raise_exception('no system') }}", "<s>", "</s>").unwrap();
        let error = template.render(&[Message::new("system", "x")]).unwrap_err().to_string();
        assert!(error.contains("no system"), "{error}");
        assert!(ChatTemplate::new("{% if %}", "<s>", "</s>").is_err());
        assert!(template.render(&[]).is_err());
    }
}

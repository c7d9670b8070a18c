//! Chat templates: from the turns of a conversation to the text that a model reads.

use super::row::{Message, Row};
use super::turns;
use anyhow::{Context, Result, anyhow, ensure};
use minijinja::{Environment, Error, ErrorKind, context};
use std::sync::OnceLock;
use std::thread;

/// MiniMind's template: a system text as it is, then `<s>user\n..</s>\n<s>assistant\n..</s>\n` for each turn.
pub const MINIMIND: &str = include_str!("minimind_template.jinja");

const NAME: &str = "chat_template";

/// Longest template in bytes; the longest published ones take a third of it.
const LONGEST: usize = 64 << 10;

/// Stack for each byte of a template while it is compiled.
const STACK_PER_BYTE: usize = 4 << 10;

/// Steps that a template may take for a conversation, so that a loop without an end has one: two hundred for each of
/// a hundred thousand turns.
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
    /// Compiles a Jinja template as Hugging Face's `apply_chat_template` does.
    ///
    /// # Errors
    /// Where it is not valid Jinja, too long, or breaks its compiler.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        // Templates are written for Python's Jinja and call methods of its strings and lists.
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
        // Chains such as `a.a.a` are compiled by a recursion without a bound: the stack must fit the text.
        let stack = (1 << 20) + STACK_PER_BYTE * source.len();
        let compiled = thread::scope(|scope| {
            let compile = || environment.add_template_owned(NAME, source.to_owned());
            let compiler = thread::Builder::new().stack_size(stack).spawn_scoped(scope, compile);
            compiler.map(|compiler| compiler.join())
        });
        compiled
            .context("a thread for the chat template")?
            .map_err(|_| anyhow!("the chat template breaks its compiler"))?
            .context("the chat template is not valid Jinja")?;
        Ok(Self {
            source: source.to_owned(),
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            closing: OnceLock::new(),
        })
    }

    /// MiniMind's own.
    ///
    /// # Errors
    /// Never, as it is valid.
    pub fn minimind() -> Result<Self> {
        Self::new(MINIMIND, "<s>", "</s>")
    }

    /// A row as a text to train a tokenizer on: a conversation in the template's form, all else as it is.
    ///
    /// # Errors
    /// Where the chat template refuses the conversation.
    pub fn text(&self, row: &Row) -> Result<String> {
        match row {
            Row::Chat(messages) => self.render(messages),
            Row::Text(_) | Row::Preference { .. } | Row::Labelled { .. } => Ok(row.chars().collect()),
        }
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What closes an answer, such as `</s>\n`; empty where the template refuses the simplest conversation.
    pub(super) fn closing(&self) -> &str {
        self.closing.get_or_init(|| turns::closing(self).unwrap_or_default())
    }

    /// The text of a conversation, with the opening of the answer where the last turn is not the assistant's.
    ///
    /// # Errors
    /// Where the chat template refuses the conversation.
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

    /// What opens an answer, up to where the loss begins in MiniMind's rows (`<s>assistant`), found by rendering two
    /// turns; `special` are the special tokens.
    ///
    /// # Errors
    /// Where the template drops turns, or opens answers as it opens questions.
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
        // What opens an answer begins as what opens a question does, with the same special token at best.
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
            "the chat template opens answers as it opens questions, so none can be found"
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

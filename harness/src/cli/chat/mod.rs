//! The verb `chat`: a conversation in the terminal.

mod input;

use super::device_arg::DeviceArgs;
use super::model_arg::ModelArg;
use super::rope_arg::RopeArgs;
use super::sampling::SamplingArgs;
use super::{note, say};
use crate::data::stream::AnswerStream;
use crate::data::{Message, SpecialText, Tokenizer};
use crate::fsutil::write_atomic;
use crate::models::ModelFiles;
use anyhow::{Context, Result, bail};
use clap::Args;
use input::{ChatInput, Input};
use model::{Backend, GenerateOptions, Transformer, Work};
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Minimum number of tokens reserved for an answer; earlier turns are dropped to make room for them.
const ROOM: usize = 32;

const HELP: &str = "\
/help             show this help
/reset            forget the conversation; the system text stays
/system TEXT      start over with this system text; without TEXT, with none
/set NAME VALUE   set an option, such as /set temperature 0.5; /set alone shows them
/save FILE        save the conversation: as Markdown if FILE ends in .md, otherwise as JSON
/quit             end; so does Ctrl-D, and Ctrl-C at an empty line
A line that ends in \\ continues on the next one; \"\"\" begins and ends a text of several lines. Ctrl-C stops an answer.";

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    rope: RopeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// System message at the beginning of the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Folder of the tokenizer, if the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

/// Chats until the user quits.
pub fn chat(args: &ChatArgs) -> Result<bool> {
    args.device.run(args)
}

impl Work for &ChatArgs {
    type Outcome = Result<bool>;

    fn run<B: Backend>(self, backend: &B) -> Result<bool> {
        chat_on(self, backend)
    }
}

fn chat_on<B: Backend>(args: &ChatArgs, backend: &B) -> Result<bool> {
    let dir = args.model.folder()?;
    let model = ModelFiles::of(dir.clone(), args.tokenizer.clone()).load(backend)?;
    let (tokenizer, transformer) = (model.tokenizer, args.rope.apply(model.transformer).for_generation());
    if let Some(why) = tokenizer.no_template() {
        bail!("{}: {why}; `mindscale generate` writes without one", dir.display());
    }
    let stop = Arc::new(Interrupt::default());
    let own = Arc::clone(&stop);
    ctrlc::set_handler(move || own.interrupt()).context("Ctrl-C cannot be caught")?;
    let mut talk = Talk {
        transformer: &transformer,
        tokenizer: &tokenizer,
        sampling: args.sampling.clone(),
        messages: system(args.system.as_deref()),
        forgotten: 0,
        name: dir.display().to_string(),
    };
    let mut input = Input::new()?;
    if input.is_terminal() {
        say(format!("{}: {} parameters. /help lists the commands.", talk.name, transformer.config.params()))?;
    }
    loop {
        match input.next()? {
            ChatInput::End => return Ok(true),
            ChatInput::Nothing => {}
            ChatInput::Text(text) => {
                if let Some(command) = text.strip_prefix('/') {
                    match talk.command(command) {
                        Ok(ControlFlow::Break(())) => return Ok(true),
                        Ok(ControlFlow::Continue(())) => {}
                        Err(error) => note(&format!("{error:#}")),
                    }
                } else if let Err(error) = talk.answer(text, &stop) {
                    // A closed pipe ends the program; a text that the template rejects does not.
                    if super::is_broken_pipe(&error) {
                        return Err(error);
                    }
                    note(&format!("{error:#}"));
                }
            }
        }
    }
}

/// Ctrl-C handling: stops an answer that is being written, otherwise exits the program.
#[derive(Default)]
struct Interrupt {
    is_answering: AtomicBool,
    is_asked: AtomicBool,
}

impl Interrupt {
    fn interrupt(&self) {
        if self.is_answering.load(Ordering::SeqCst) {
            self.is_asked.store(true, Ordering::SeqCst);
        } else {
            std::process::exit(130); // exit code of a program that SIGINT ends
        }
    }

    /// Runs `work`, during which Ctrl-C only sets the flag that `work` is given.
    fn during<T>(&self, work: impl FnOnce(&AtomicBool) -> T) -> T {
        self.is_asked.store(false, Ordering::SeqCst);
        self.is_answering.store(true, Ordering::SeqCst);
        let done = work(&self.is_asked);
        self.is_answering.store(false, Ordering::SeqCst);
        done
    }
}

fn system(text: Option<&str>) -> Vec<Message> {
    text.map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| Message::new("system", text))
        .into_iter()
        .collect()
}

/// A conversation with a model.
struct Talk<'a, B: Backend> {
    transformer: &'a Transformer<B>,
    tokenizer: &'a Tokenizer,
    sampling: SamplingArgs,
    /// The whole conversation.
    messages: Vec<Message>,
    /// Number of turns, after the system message, that the model no longer reads because of their length.
    forgotten: usize,
    /// Name of the model.
    name: String,
}

impl<B: Backend> Talk<'_, B> {
    /// Splits the conversation into the system message, if there is one, and the turns.
    fn turns(&self) -> (&[Message], &[Message]) {
        let has_system = self.messages.first().is_some_and(|first| first.role == "system");
        self.messages.split_at(usize::from(has_system))
    }

    /// Begins a conversation with these messages.
    fn begin(&mut self, messages: Vec<Message>) {
        (self.messages, self.forgotten) = (messages, 0);
    }

    /// Executes a command, without its `/`; `Break` ends the program.
    fn command(&mut self, line: &str) -> Result<ControlFlow<()>> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match name {
            "help" | "?" => say(HELP)?,
            "reset" => self.begin(self.turns().0.to_vec()),
            "system" => self.begin(system(Some(rest))),
            "set" if rest.is_empty() => say(self.sampling.show())?,
            "set" => {
                let (option, value) = rest.split_once([' ', '=']).unwrap_or((rest, ""));
                self.sampling.set(option, value.trim()).map_err(anyhow::Error::msg)?;
            }
            "save" if rest.is_empty() => bail!("/save FILE: expected the name of a file"),
            "save" => {
                let file = Path::new(rest);
                write_atomic(file, self.saved(file).as_bytes())?;
                note(&format!("{} turns written to {rest}", self.messages.len()));
            }
            "quit" | "exit" | "q" => return Ok(ControlFlow::Break(())),
            _ => {
                let hint =
                    crate::config::did_you_mean(name, ["help", "reset", "system", "set", "save", "quit"]);
                bail!("there is no command /{name}{hint}; /help lists the commands");
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Returns the conversation as the content of a file, Markdown or JSON by the file's extension.
    fn saved(&self, file: &Path) -> String {
        if file.extension().is_some_and(|end| end == "md") {
            let turn = |message: &Message| format!("**{}**\n\n{}\n", message.role, message.content);
            return self.messages.iter().map(turn).collect::<Vec<_>>().join("\n");
        }
        let whole = json!({ "model": self.name, "messages": self.messages });
        format!("{whole:#}\n")
    }

    /// Generates and prints the answer to a question, and adds both to the conversation.
    fn answer(&mut self, question: String, interrupt: &Interrupt) -> Result<()> {
        let question = Message::new("user", question);
        let (prompt, forgotten) = self.fitting(&question)?;
        let room = self.transformer.context_len() - prompt.len();
        let options = self.sampling.options(self.tokenizer.eos().into_iter().collect());
        // Each answer of a conversation has its own random stream.
        let choice = self.turns().1.iter().filter(|turn| turn.role == "user").count() as u64;
        let options = GenerateOptions { choice, max_tokens: options.max_tokens.min(room), ..options };
        let (mut text, mut failed) = (String::new(), None);
        let mut stream = AnswerStream::new(self.tokenizer, &self.sampling.stop);
        interrupt.during(|is_asked| {
            let mut show = |piece: &str| -> Result<()> {
                let mut out = std::io::stdout().lock();
                out.write_all(piece.as_bytes())?;
                text.push_str(piece);
                Ok(out.flush()?)
            };
            let written = self.transformer.generate(&prompt, &options, |token| {
                let piece = stream.push(token).and_then(|piece| show(&piece.text).map(|()| piece.is_stopped));
                match piece {
                    Ok(false) if !is_asked.load(Ordering::SeqCst) => ControlFlow::Continue(()),
                    Ok(_) => ControlFlow::Break(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            });
            let rest = stream.finish()?;
            show(&rest.text)?;
            written.map_err(anyhow::Error::from)
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        say("")?;
        self.messages.extend([question, Message::new("assistant", text)]);
        self.forgotten = forgotten;
        Ok(())
    }

    /// Returns the ids of the conversation with a question, and the number of its first turns that are left out, as many as
    /// it takes to fit into the context.
    fn fitting(&self, question: &Message) -> Result<(Vec<u32>, usize)> {
        let longest = self.transformer.context_len();
        let (system, turns) = self.turns();
        let mut forgotten = self.forgotten;
        loop {
            let messages = [system, &turns[forgotten..], std::slice::from_ref(question)].concat();
            let prompt = self.tokenizer.conversation(&messages, SpecialText::Characters)?.ids;
            if prompt.len() + ROOM.min(self.sampling.max_tokens).max(1) <= longest {
                if forgotten > self.forgotten {
                    let more = forgotten - self.forgotten;
                    note(&format!(
                        "{more} turns are forgotten: the context of the model is {longest} tokens"
                    ));
                }
                return Ok((prompt, forgotten));
            }
            if forgotten == turns.len() {
                bail!(
                    "the message takes {} tokens, and the context of the model is {longest}; shorten it",
                    prompt.len()
                );
            }
            // A question is left out together with its answer.
            forgotten = (forgotten + 2).min(turns.len());
        }
    }
}

//! The model card in Markdown: what the model is, how to use it, what it was trained on, what it scores.

use super::{Format, gguf_file};
use crate::records::GUESSING;
use crate::runs::manifest::{Manifest, RunStatus};
use crate::track::number;
use anyhow::Result;
use model::ModelConfig;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Records of a model's training.
struct Training {
    /// Its training stage runs, the first one first.
    stages: Vec<Manifest>,
    /// The exams that the model took.
    exams: Vec<Manifest>,
}

/// Returns the card of the model in `dir`, for the folder `out`.
pub fn write(dir: &Path, out: &Path, config: &ModelConfig, format: Format, kind: &str) -> Result<String> {
    let name = out.file_name().map_or("model".into(), |name| name.to_string_lossy());
    let mut text = format!("---\n{}---\n\n# {name}\n\n", front_matter(format));
    let active = match config.is_moe() {
        true => format!(", {} of them active for a token", number(config.active_params() as u64)),
        false => String::new(),
    };
    let _ =
        writeln!(text, "A model of {} parameters{active}. {}", number(config.params() as u64), shape(config));
    let _ = writeln!(text, "Here as {kind}, exported by Mindscale {}.\n", env!("CARGO_PKG_VERSION"));
    text += "## Use\n\n";
    text += &usage(format);
    text += match format {
        Format::Gguf(_) => "\nThe token that begins documents is put before every prompt.\n",
        Format::HuggingFace | Format::Pth => {
            "\nDocuments begin with a token that the tokenizer does not add (`<s>` in MiniMind's); conversations go \
             through the chat template.\n"
        }
    };
    match training(dir)? {
        Some(training) => describe(&mut text, &training)?,
        None => text += "\n## Training\n\nNo record was found next to the exported model.\n",
    }
    let _ = write!(text, "\n## Shape\n\n```toml\n[model]\n{}```\n", toml::to_string(config)?);
    Ok(text)
}

fn front_matter(format: Format) -> &'static str {
    match format {
        Format::HuggingFace => {
            "library_name: transformers\npipeline_tag: text-generation\ntags: [mindscale]\n"
        }
        Format::Gguf(_) => "pipeline_tag: text-generation\ntags: [mindscale, gguf]\n",
        Format::Pth => "pipeline_tag: text-generation\ntags: [mindscale, minimind]\n",
    }
}

fn shape(config: &ModelConfig) -> String {
    let experts = match config.is_moe() {
        true => format!(
            ", {} routed experts of which each token visits {}, and {} shared",
            config.n_experts, config.top_k, config.n_shared_experts
        ),
        false => String::new(),
    };
    format!(
        "{} {}, {} wide{experts}; {} tokens of vocabulary, texts of up to {} tokens.",
        config.n_layers,
        if config.n_layers == 1 { "layer" } else { "layers" },
        config.d_model,
        config.vocab_size,
        config.max_seq_len
    )
}

fn usage(format: Format) -> String {
    match format {
        Format::HuggingFace => "```python\n\
            from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
            model, tokenizer = AutoModelForCausalLM.from_pretrained(\".\"), AutoTokenizer.from_pretrained(\".\")\n\
            ids = tokenizer.apply_chat_template([{\"role\": \"user\", \"content\": \"你好\"}], return_tensors=\"pt\", return_dict=True)\n\
            print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))\n\
            ```\n"
        .into(),
        Format::Gguf(precision) => {
            let file = gguf_file(precision);
            format!("```\nllama-completion -m {file} -no-cnv -p '你好' --temp 0.7 --top-k 8\nllama-server -m {file}\n```\n")
        }
        Format::Pth => "`model.pth` is a state dict of MiniMind v1's `Transformer(LMConfig(...))`, `config.json` has the keys of its \
            `LMConfig`:\n\n```python\nmodel.load_state_dict(torch.load(\"model.pth\", weights_only=True))\n```\n"
        .into(),
    }
}

/// Reads the records of the stage run that trained the model in `dir`, of the training stages before it and of its
/// exams; `None` if no stage run trained it.
fn training(dir: &Path) -> Result<Option<Training>> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let Some(run) = dir.parent().filter(|_| dir.ends_with("model")) else { return Ok(None) };
    let Some(last) = Manifest::read(run)? else { return Ok(None) };
    let runs = run.parent().unwrap_or(run);
    let mut stages = vec![last];
    // Each training stage starts from at most one other.
    while let Some(before) = stages[0].inputs.iter().find(|input| input.stage.training().is_some()) {
        let folder = runs.join(format!("{}-{}", before.stage.name(), before.uuid));
        match Manifest::read(&folder)? {
            Some(manifest) => stages.insert(0, manifest),
            None => break,
        }
    }
    let of = stages[stages.len() - 1].uuid;
    let mut exams = vec![];
    for folder in named(runs, "exam-") {
        // Damaged records are reported with their sweep.
        let Ok(Some(exam)) = Manifest::read(&folder) else { continue };
        // Only exams of the final weights, not of snapshots or means.
        let is_of_it = exam.inputs.iter().any(|input| input.uuid == of) && exam.results.exam_at.is_none();
        if is_of_it && exam.status == RunStatus::Done {
            exams.push(exam);
        }
    }
    Ok(Some(Training { stages, exams }))
}

fn named(runs: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let begins =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
    let mut found: Vec<PathBuf> = entries.filter(begins).collect();
    found.sort();
    found
}

fn describe(text: &mut String, training: &Training) -> Result<()> {
    let Training { stages, exams } = training;
    *text += "\n## Training\n\n| stage | stage run | tokens | passes | operations | held-out loss | bits per byte |\n|---|---|---:|---:|---:|---:|---:|\n";
    let value = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    for stage in stages {
        let results = &stage.results;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {:.3e} | {} | {} |",
            stage.stage.name(),
            stage.uuid,
            number(results.tokens),
            results.passes,
            results.flops,
            value(results.val_loss),
            value(results.val_bpb)
        );
    }
    for notice in stages.iter().flat_map(|stage| &stage.results.notices) {
        let _ = writeln!(text, "\n* {notice}");
    }
    *text += "\n## Data\n\n";
    let mut files: Vec<_> = stages.iter().flat_map(|stage| &stage.data).collect();
    files.sort_by(|a, b| (&a.path, &a.sha256).cmp(&(&b.path, &b.sha256)));
    files.dedup();
    if files.is_empty() {
        let made = match stages[stages.len() - 1].config.probe() {
            Some(probe) => format!("The probe of {}", probe.name),
            None => "The built-in world".into(),
        };
        let _ = writeln!(text, "{made}, as the configuration below draws it.");
    } else {
        *text += "| file | bytes | SHA-256 |\n|---|---:|---|\n";
        for file in files {
            let _ = writeln!(text, "| {} | {} | `{}` |", file.name(), number(file.bytes), file.sha256);
        }
    }
    *text += "\n## Exams\n\n";
    if exams.is_empty() {
        *text += "None is recorded.\n";
    }
    for exam in exams {
        let Some(tally) = exam.results.tally() else { continue };
        let (low, high) = tally.interval();
        let among = match tally.guessing == GUESSING {
            true => "guessing among four options",
            false => "guessing",
        };
        let chance = 100.0 * tally.guessing;
        let verdict = match (low..=high).contains(&tally.guessing) {
            true => format!("not distinguishable from {among}, {chance:.0} %"),
            false => format!("{among} scores {chance:.0} %"),
        };
        let _ = writeln!(
            text,
            "* {} of {} questions right: {:.2} %, 95 % interval of these questions {:.2} to {:.2} %; {verdict} (exam-{})",
            number(tally.correct),
            number(tally.questions),
            100.0 * tally.accuracy(),
            100.0 * low,
            100.0 * high,
            exam.uuid
        );
    }
    let config = &stages[stages.len() - 1].config;
    let _ = write!(text, "\n## Configuration\n\n```toml\n{}```\n", toml::to_string(config)?);
    Ok(())
}

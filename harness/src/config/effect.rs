//! Which keys have an effect, and where: what a name leaves out, so that one setting has one name.
//!
//! Every key counts unless it is listed here. *Invariant:* what is said of `[model]`, of a training stage and of
//! `[data]` depends on keys that the stage runs' own facts hold, so that their names can leave out the same.

use super::keys::{keys, sections};
use super::layers::get;
use super::{
    Answer, ExamConfig, OptimizerKind, PROBES, ProbeSpec, RowStyle, Schedule, Source, TRAINING, TrainStage,
    Training, TrialConfig, recipe, source_key,
};
use model::{Device, Parametrization};
use serde_json::{Value, json};
use std::sync::Arc;

/// A key that changes no result of a configuration as it stands there.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// The key, such as `model.top_k`.
    pub key: String,
    /// Why, as the end of a sentence: `model.n_experts = 0 is a dense model`.
    pub why: Arc<str>,
    /// What it comes to, where several of its values come to the same; otherwise it comes to nothing.
    comes_to: Option<Value>,
}

/// Every key without an effect on what a configuration comes to, with the reason.
pub fn idle(config: &TrialConfig) -> Vec<Idle> {
    let mut found = of_stage_runs(config);
    of_trials(config, &mut found);
    found.0
}

/// The configuration as JSON without the keys that have no effect on what its stage runs do.
pub fn effective(config: &TrialConfig) -> Value {
    without(json!(config), of_stage_runs(config))
}

/// The same without those that have none on the trial, such as whatever serves a stage that is left out.
pub(super) fn effective_in_trial(config: &TrialConfig) -> Value {
    let mut idle = of_stage_runs(config);
    of_trials(config, &mut idle);
    without(json!(config), idle)
}

fn without(mut tree: Value, idle: Found) -> Value {
    for Idle { key, comes_to, .. } in idle.0 {
        let mut parts = key.split('.').collect::<Vec<_>>();
        let Some(name) = parts.pop() else { continue };
        let table = parts.into_iter().try_fold(&mut tree, |table, part| table.get_mut(part));
        let Some(keys) = table.and_then(Value::as_object_mut) else { continue };
        match comes_to {
            Some(value) => keys.insert(name.into(), value),
            None => keys.remove(name),
        };
    }
    // Names from before there was the key are those of its default.
    if tree["model"]["parametrization"] == json!(Parametrization::Standard)
        && let Some(model) = tree["model"].as_object_mut()
    {
        model.remove("parametrization");
    }
    if tree["exam"]["samples"] == json!(ExamConfig::default().samples)
        && let Some(exam) = tree["exam"].as_object_mut()
    {
        exam.remove("samples");
    }
    tree
}

/// The keys of which rows of files are read, whatever the stage.
pub const FILTERS: [&str; 6] = [
    "data.on_bad_row",
    "data.unknown_keys",
    "data.min_chars",
    "data.max_chars",
    "data.min_chinese_share",
    "data.max_rows",
];

/// The keys found so far.
struct Found(Vec<Idle>);

impl Found {
    fn add(&mut self, keys: &[&str], why: impl Into<Arc<str>>) {
        let why = why.into();
        self.0.extend(keys.iter().map(|&key| Idle { key: key.into(), why: why.clone(), comes_to: None }));
    }

    fn add_in(&mut self, section: &str, keys: &[&str], why: impl Into<Arc<str>>) {
        let keys: Vec<String> = keys.iter().map(|key| format!("{section}.{key}")).collect();
        self.add(&keys.iter().map(String::as_str).collect::<Vec<_>>(), why);
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|idle| idle.key == key)
    }

    fn section(&mut self, name: &str, why: &str) {
        let section = sections().iter().find(|section| section.name == name);
        let keys: Vec<&str> =
            section.into_iter().flat_map(|section| &section.keys).map(|key| key.path.as_str()).collect();
        self.add(&keys, why);
    }

    fn comes_to(&mut self, key: &str, value: impl Into<Value>, why: impl Into<Arc<str>>) {
        self.0.push(Idle { key: key.into(), why: why.into(), comes_to: Some(value.into()) });
    }
}

fn of_stage_runs(config: &TrialConfig) -> Found {
    let mut found = Found(Vec::new());
    model(config, &mut found);
    for (stage, training) in config.stages() {
        match training.enabled {
            true => of_training(config, stage, training, &mut found),
            false => {
                let name = stage.name();
                found.section(name, &format!("{name}.enabled = false leaves the stage out"));
            }
        }
    }
    if config.data.source != Source::Files {
        let why: Arc<str> =
            format!("data.source = \"{}\" is not read from files", config.data.source.word()).into();
        found.add(&FILTERS, why.clone());
        found.add(&["data.history_chars"], why);
    }
    // Stage runs from before there were these keys have their names.
    if config.world.practice.is_empty() {
        found.add(&["world.practice"], "empty, it leaves the mix as it is");
    }
    if config.world.sft_lives == 0.0 {
        found.add(&["world.sft_lives"], "0, it leaves the conversations as they are");
    }
    if config.world.teachers == 0 {
        found.add(&["world.teachers"], "0, it lets everybody be a teacher");
    }
    if let Some(probe) = config.probe() {
        let keys = ["rows", "special_tokens_in_text", "val_share"];
        found.add_in("data", &keys, format!("data.source = \"{}\" makes all of its rows", probe.name));
    }
    found
}

fn model(config: &TrialConfig, found: &mut Found) {
    let model = &config.model;
    let (key, width, what) = match model.is_moe() {
        false => ("model.hidden_dim", model.ffn_dim(), "the feed-forward"),
        true => ("model.expert_hidden_dim", model.expert_dim(), "each expert"),
    };
    let why: Arc<str> = format!("{what} is {width} wide either way").into();
    found.comes_to(key, width, why.clone());
    found.add(&["model.multiple_of"], why.clone());
    found.comes_to(
        "model.head_dim",
        model.head_dim(),
        format!("a head is {} wide either way", model.head_dim()),
    );
    if model.tie_embeddings {
        found.add(&["model.head_init"], "model.tie_embeddings = true makes the embedding the head");
    }
    match model.parametrization {
        Parametrization::Standard => {
            let keys = ["base_width", "base_head_dim", "base_depth"];
            found.add_in("model", &keys, "model.parametrization = \"standard\" has no base shape");
        }
        Parametrization::Mup => {
            found.add(&["model.base_depth"], "model.parametrization = \"mup\" has no rule for depths");
        }
        Parametrization::Completep => {}
    }
    if model.is_moe() {
        found.add(&["model.hidden_dim"], why);
        if model.aux_loss_alpha == 0.0 {
            found.add(&["model.aux_loss_per"], "model.aux_loss_alpha = 0 leaves the balancing loss out");
        }
    } else {
        let experts = ["top_k", "n_shared_experts", "expert_hidden_dim", "aux_loss_alpha", "aux_loss_per"];
        found.add_in("model", &experts, "model.n_experts = 0 is a dense model");
    }
}

/// Keys of a training stage that say how it is watched and written down.
///
/// `max_loss_rise` is among them: it can only keep a stage from being finished.
const CADENCE: [&str; 8] = [
    "enabled",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "keep_best",
    "max_loss_rise",
    "log_every",
    "recompute",
];

fn of_training(config: &TrialConfig, stage: TrainStage, t: &Training, found: &mut Found) {
    let name = stage.name();
    let mut add = |keys: &[&str], why: String| found.add_in(name, keys, why);
    add(&CADENCE, "it says how the stage is watched and written down, not what it learns".into());
    // In the order of what wins.
    if let Some(steps) = t.steps {
        add(&["flops", "tokens", "epochs"], format!("{name}.steps = {steps} says how long the stage is"));
    } else if let Some(flops) = t.flops {
        add(&["tokens", "epochs"], format!("{name}.flops = {flops:e} says how long the stage is"));
    } else if let Some(tokens) = t.tokens {
        add(&["epochs"], format!("{name}.tokens = {tokens} says how long the stage is"));
    }
    if t.schedule == Schedule::Constant {
        add(&["min_lr_ratio"], format!("{name}.schedule = \"constant\" never falls"));
    }
    if t.schedule != Schedule::Wsd {
        add(&["decay_share"], format!("only {name}.schedule = \"wsd\" decays by it"));
    }
    if t.optimizer == OptimizerKind::Adam {
        let keys = ["weight_decay", "embedding_decay", "hidden_decay", "head_decay"];
        add(&keys, format!("{name}.optimizer = \"adam\" decays no weights"));
    }
    if t.optimizer != OptimizerKind::Muon {
        add(&["momentum"], format!("only {name}.optimizer = \"muon\" has it"));
    }
    if config.model.tie_embeddings {
        add(&["head_lr", "head_decay"], "model.tie_embeddings = true makes the embedding the head".into());
    }
    let has_share = config.data.val_share > 0.0 || config.probe().is_some();
    if !has_share && stage.val_files(&config.data).is_none() {
        add(&["val_tokens", "val_every_tokens"], "data.val_share = 0 holds nothing out".into());
    }
    if stage.compares_answers() {
        add(
            &["packing", "val_tokens"],
            "preference pairs are neither packed nor left out of a validation".into(),
        );
    }
}

fn of_trials(config: &TrialConfig, found: &mut Found) {
    let kind = config.device.kind();
    found.comes_to("device", kind, format!("results are the same on every {kind} device"));
    if config.device == Device::Cpu {
        found.add(&["precision"], "device = \"cpu\" computes in f32");
    }
    found.add(&["threads"], "results do not depend on the number of threads");
    found.section("slurm", "it says where a trial runs, not what it learns");
    let trains_tokenizer = config.tokenizer.path.is_none();
    if !trains_tokenizer {
        found.add(&["tokenizer.train_chars"], "tokenizer.path names a tokenizer that is trained already");
    }
    of_data(config, trains_tokenizer, found);
    let exam = &config.exam;
    if !exam.enabled {
        found.section("exam", "exam.enabled = false leaves the exam out");
        found.comes_to("exam.enabled", false, "");
        return;
    }
    let sat: Vec<&str> = config.exams().into_iter().map(TrainStage::name).collect();
    found.comes_to("exam.after", json!(sat), format!("the exam is sat after {} either way", sat.join(", ")));
    if exam.sheets.is_none() {
        found.add(&["exam.contamination"], "the built-in world's questions are not looked for in its text");
    }
    let shares = exam.shares();
    let shown = shares.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    found.comes_to("exam.at", json!(shares), format!("the exam is sat at {shown} either way"));
    if exam.average_last < 2 {
        found.comes_to("exam.average_last", 0, "the mean of less than 2 is none");
    }
    if let Some(probe) = config.probe() {
        let keys = ["answer", "norm", "rotate", "shots", "dev_sheets", "system", "samples"];
        found.add_in("exam", &keys, format!("data.source = \"{}\" asks in its own words", probe.name));
        return;
    }
    if exam.answer == Answer::Letter {
        found.add(&["exam.norm"], "exam.answer = \"letter\" compares no texts");
    } else {
        found.add(&["exam.rotate"], "only exam.answer = \"letter\" rotates options");
    }
    if exam.shots == 0 {
        found.add(&["exam.dev_sheets"], "exam.shots = 0 shows no solved question");
    }
}

fn of_data(config: &TrialConfig, trains_tokenizer: bool, found: &mut Found) {
    let data = &config.data;
    for probe in PROBES.iter().filter(|probe| probe.source != data.source) {
        found.section(probe.name, &format!("data.source = \"{}\" has no such probe", data.source.word()));
    }
    if let Some(probe) = config.probe() {
        return of_probe(config, probe, found);
    }
    if data.rows == RowStyle::Minimind {
        found.add(&["data.special_tokens_in_text"], "data.rows = \"minimind\" makes control tokens of them");
    }
    let enabled = recipe(config);
    let left_out = |stage: TrainStage| format!("{}.enabled = false leaves the stage out", stage.name());
    if data.source == Source::World {
        // A tokenizer is trained on texts and conversations.
        let of_tokenizer = [TrainStage::Pretrain, TrainStage::Sft].into_iter().filter(|_| trains_tokenizer);
        let read: Vec<&str> = enabled
            .iter()
            .copied()
            .chain(of_tokenizer)
            .flat_map(|stage| stage.spec().world)
            .copied()
            .collect();
        for spec in &TRAINING {
            let unread = spec.world.iter().filter(|key| !read.contains(key) && !found.has(key));
            let unread: Vec<&str> = unread.copied().collect();
            found.add(&unread, left_out(spec.stage));
        }
        return;
    }
    found.section("world", "data.source = \"files\" has no world");
    let of_tokenizer = Some(TrainStage::Pretrain).filter(|_| trains_tokenizer);
    let read: Vec<&str> =
        enabled.iter().copied().chain(of_tokenizer).map(|stage| stage.files(data).0).collect();
    let validated: Vec<&str> =
        enabled.iter().filter_map(|stage| stage.val_files(data)).map(|(key, _)| key).collect();
    for spec in &TRAINING {
        let own = &spec.files[0];
        let (serving, sources) = spec.stage.files(data);
        if enabled.contains(&spec.stage) && serving != own.key {
            found.comes_to(own.key, json!(sources), format!("it comes to {serving} where it is empty"));
        } else if !read.contains(&own.key) {
            found.add(&[own.key], left_out(spec.stage));
        }
        match spec.stage.val_files(data).filter(|_| enabled.contains(&spec.stage)) {
            Some((serving, sets)) if serving != own.val_key => {
                found.comes_to(own.val_key, json!(sets), format!("it comes to {serving} where it is empty"));
            }
            None if !enabled.contains(&spec.stage) && !validated.contains(&own.val_key) => {
                found.add(&[own.val_key], left_out(spec.stage));
            }
            _ => {}
        }
    }
    if enabled.iter().all(|stage| stage.val_files(data).is_some()) {
        found.add(&["data.val_share"], "every stage has files to validate on");
    }
    let mixed: Vec<&str> = enabled.iter().flat_map(|stage| stage.files(data).1.names()).collect();
    for name in data.mix.keys().filter(|name| !mixed.contains(&name.as_str())) {
        found.add(&[&source_key("data.mix", Some(name))], "no stage that is trained has this source");
    }
}

fn of_probe(config: &TrialConfig, probe: &ProbeSpec, found: &mut Found) {
    let no_world = format!("data.source = \"{}\" has no world", probe.name);
    found.section("world", &no_world);
    found.add(&["tokenizer.train_chars"], no_world);
    if !config.exam.enabled {
        let is_unread = |key: &&str| !probe.rows.contains(key) && !probe.vocabulary.contains(key);
        let unread: Vec<&str> = probe.exam.iter().copied().filter(is_unread).collect();
        found.add(&unread, "exam.enabled = false leaves the exam out");
    }
}

/// The keys in which two configurations differ.
pub fn differing(a: &TrialConfig, b: &TrialConfig) -> Vec<&'static str> {
    let (a, b) = (json!(a), json!(b));
    keys().map(|key| key.path.as_str()).filter(|key| get(&a, key) != get(&b, key)).collect()
}

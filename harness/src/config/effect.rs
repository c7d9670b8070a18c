//! Keys that have no effect in a configuration. Names leave them out, so that equal settings have equal names.
//!
//! Every key counts unless it is listed here. *Invariant:* whether a key of `[model]`, of a training stage or of
//! `[data]` has an effect depends only on keys in the stage runs' own facts, so that their names can leave out the same
//! keys. Names keep what [`kept_in_names`] lists: leaving it out now would rename stage runs that exist.

use super::keys::{keys, sections};
use super::layers::get;
use super::{
    Answer, ExamConfig, ExamFormat, OptimizerKind, PROBES, ProbeSpec, RowStyle, Schedule, Source, TRAINING,
    TrainStage, Training, TrialConfig, recipe, source_key,
};
use model::{Device, Parametrization};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A key that does not affect the results of a given configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// Full name of the key, such as `model.top_k`.
    pub key: String,
    /// The reason, as the end of a sentence: `model.n_experts = 0 is a dense model`.
    pub why: Arc<str>,
    /// Canonical value of the key, if several of its values are equivalent; `None` if none of them has an effect.
    canonical: Option<Value>,
}

impl Idle {
    /// Whether none of the key's values has an effect, rather than that some are equivalent.
    pub fn is_whole(&self) -> bool {
        self.canonical.is_none()
    }

    /// Whether it is about a key, or about the table that holds it: `world.practice` is about `world.practice.two_hop`.
    pub fn is_about(&self, key: &str) -> bool {
        let rest = key.strip_prefix(&self.key);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Whether it is a key of a training stage that has an effect, but not on what is learned, such as `pretrain.keep_best`.
    pub fn is_of_monitoring(&self) -> bool {
        let parts = self.key.split_once('.');
        parts.is_some_and(|(section, key)| {
            TrainStage::named(section).is_some() && MONITORING_KEYS.contains(&key)
        })
    }
}

/// Returns every key without an effect on the trial, with the reason.
pub fn idle(config: &TrialConfig) -> Vec<Idle> {
    let mut found = of_stage_runs(config);
    of_trials(config, &mut found);
    found.0
}

/// Returns the configuration as JSON without the keys that do not affect what its stage runs do.
pub fn effective(config: &TrialConfig) -> Value {
    without(json!(config), of_stage_runs(config))
}

/// Returns the configuration as JSON without the keys that do not affect the trial, such as those that only a disabled
/// stage reads.
pub(super) fn effective_in_trial(config: &TrialConfig) -> Value {
    let mut idle = of_stage_runs(config);
    of_trials(config, &mut idle);
    without(json!(config), idle)
}

fn without(mut tree: Value, idle: Found) -> Value {
    for Idle { key, canonical, .. } in idle.0 {
        let mut parts = key.split('.').collect::<Vec<_>>();
        let Some(name) = parts.pop() else { continue };
        let table = parts.into_iter().try_fold(&mut tree, |table, part| table.get_mut(part));
        let Some(keys) = table.and_then(Value::as_object_mut) else { continue };
        match canonical {
            Some(value) => keys.insert(name.into(), value),
            None => keys.remove(name),
        };
    }
    // Names from before these keys existed are those of their defaults.
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

/// Keys that select the rows to read from files, whatever the stage.
pub const FILTERS: [&str; 6] = [
    "data.on_bad_row",
    "data.unknown_keys",
    "data.min_chars",
    "data.max_chars",
    "data.min_chinese_share",
    "data.max_rows",
];

/// The idle keys found so far.
struct Found(Vec<Idle>);

impl Found {
    fn add(&mut self, keys: &[&str], why: impl Into<Arc<str>>) {
        let why = why.into();
        self.0.extend(keys.iter().map(|&key| Idle { key: key.into(), why: why.clone(), canonical: None }));
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

    fn canonical(&mut self, key: &str, value: impl Into<Value>, why: impl Into<Arc<str>>) {
        self.0.push(Idle { key: key.into(), why: why.into(), canonical: Some(value.into()) });
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
    // Stage runs from before these keys existed keep their names.
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
        found.add_in("data", &keys, format!("data.source = \"{}\" generates all of its rows", probe.name));
    }
    found
}

fn model(config: &TrialConfig, found: &mut Found) {
    let model = &config.model;
    let (key, width, what) = match model.is_moe() {
        false => ("model.hidden_dim", model.ffn_dim(), "the feed-forward"),
        true => ("model.expert_hidden_dim", model.expert_dim(), "each expert"),
    };
    let why: Arc<str> = format!("the effective width of {what} is {width}").into();
    found.canonical(key, width, why.clone());
    found.add(&["model.multiple_of"], why.clone());
    found.canonical(
        "model.head_dim",
        model.head_dim(),
        format!("the effective head width is {}", model.head_dim()),
    );
    if model.tie_embeddings {
        found.add(&["model.head_init"], "model.tie_embeddings = true uses the embedding as the head");
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

/// Keys of a training stage that control how it is monitored and recorded, not what it learns.
///
/// `max_loss_rise` is among them because it can only prevent a stage from finishing.
const MONITORING_KEYS: [&str; 8] = [
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
    add(&MONITORING_KEYS, "it sets how the stage is monitored and recorded, not what it learns".into());
    // In order of precedence.
    if let Some(steps) = t.steps {
        add(&["flops", "tokens", "epochs"], format!("{name}.steps = {steps} sets the length of the stage"));
    } else if let Some(flops) = t.flops {
        add(&["tokens", "epochs"], format!("{name}.flops = {flops:e} sets the length of the stage"));
    } else if let Some(tokens) = t.tokens {
        add(&["epochs"], format!("{name}.tokens = {tokens} sets the length of the stage"));
    }
    if t.schedule == Schedule::Constant {
        add(&["min_lr_ratio"], format!("{name}.schedule = \"constant\" never falls"));
    }
    if t.schedule != Schedule::Wsd {
        add(&["decay_share"], format!("only {name}.schedule = \"wsd\" has a decay phase"));
    }
    if t.optimizer == OptimizerKind::Adam {
        let keys = ["weight_decay", "embedding_decay", "hidden_decay", "head_decay"];
        add(&keys, format!("{name}.optimizer = \"adam\" decays no weights"));
    }
    if t.optimizer != OptimizerKind::Muon {
        add(&["momentum"], format!("only {name}.optimizer = \"muon\" uses it"));
    }
    if config.model.tie_embeddings {
        add(&["head_lr", "head_decay"], "model.tie_embeddings = true uses the embedding as the head".into());
    }
    let has_share = config.data.val_share > 0.0 || config.probe().is_some();
    if !has_share && stage.val_files(&config.data).is_none() {
        add(&["val_tokens", "val_every_tokens"], "data.val_share = 0 holds nothing out".into());
    }
    if stage.compares_answers() {
        add(
            &["packing", "val_tokens"],
            "preference pairs are never packed, and validation uses all of them".into(),
        );
    }
}

/// Keys without an effect on the trial that names of stage runs contain nevertheless.
fn kept_in_names(config: &TrialConfig, found: &mut Found) {
    let trained = recipe(config);
    for stage in &trained {
        of_groups(config, *stage, found);
    }
    // No row is longer than `max_seq_len`, and prompts are cut to it; the texts of options after an empty question are not.
    let exam = &config.exam;
    let (what, longest) = match exam.enabled {
        true => ("row or prompt", config.model.max_seq_len),
        false => {
            ("row", trained.iter().map(|stage| stage.training(config).seq_len).max().unwrap_or_default())
        }
    };
    let is_bounded = !exam.enabled || exam.answer == Answer::Letter || config.probe().is_some();
    if is_bounded && config.model.window.is_some_and(|window| window >= longest) {
        found.canonical("model.window", Value::Null, format!("no {what} is longer than {longest} positions"));
    }
    found.add(&["exam.samples"], "it sets what is recorded, not the score");
}

/// Multipliers of a training stage for groups of parameters that it does not train or decay.
fn of_groups(config: &TrialConfig, stage: TrainStage, found: &mut Found) {
    let (name, t) = (stage.name(), stage.training(config));
    let mut add = |keys: &[&str], why: String| found.add_in(name, keys, why);
    let groups = [
        ("embedding", t.embedding_lr, t.embedding_decay),
        ("hidden", t.hidden_lr, t.hidden_decay),
        ("head", t.head_lr, t.head_decay),
    ];
    let trained = match ((stage.spec().adapters)(config).is_some(), config.model.tie_embeddings) {
        (true, _) => {
            let keys = ["embedding_lr", "head_lr", "norm_lr", "embedding_decay", "head_decay"];
            add(&keys, "adapters take only the multipliers of the matrices in the blocks".into());
            &groups[1..2]
        }
        (false, true) => &groups[..2],
        (false, false) => &groups[..],
    };
    if t.weight_decay == 0.0 {
        let keys = ["embedding_decay", "hidden_decay", "head_decay"];
        add(&keys, format!("{name}.weight_decay = 0 decays no weights"));
    }
    for (group, lr, _) in trained {
        if *lr == 0.0 {
            add(
                &[&format!("{group}_decay")],
                format!("{name}.{group}_lr = 0 leaves these weights as they are"),
            );
        }
    }
    if trained.iter().all(|(_, lr, decay)| *lr == 0.0 || *decay == 0.0) {
        add(&["weight_decay"], "its multipliers are all 0".into());
    }
}

/// Weights relative to their sum, without those of 0 and without rounding errors.
fn relative<'a>(weights: impl Iterator<Item = (&'a String, &'a f64)> + Clone) -> BTreeMap<&'a str, f64> {
    let sum: f64 = weights.clone().map(|(_, weight)| weight).sum();
    let shares = weights.map(|(name, weight)| (name.as_str(), (1e12 * weight / sum).round() / 1e12));
    shares.filter(|(_, share)| *share != 0.0).collect()
}

fn of_trials(config: &TrialConfig, found: &mut Found) {
    kept_in_names(config, found);
    let kind = config.device.kind();
    found.canonical("device", kind, format!("results are the same on every {kind} device"));
    if config.device == Device::Cpu {
        found.add(&["precision"], "device = \"cpu\" computes in f32");
    }
    found.add(&["threads"], "results do not depend on the number of threads");
    found.section("slurm", "it sets where a trial runs, not what it learns");
    let trains_tokenizer = config.tokenizer.path.is_none();
    if !trains_tokenizer {
        found.add(&["tokenizer.train_chars"], "tokenizer.path names a tokenizer that is trained already");
    }
    of_data(config, trains_tokenizer, found);
    let exam = &config.exam;
    if !exam.enabled {
        found.section("exam", "exam.enabled = false leaves the exam out");
        found.canonical("exam.enabled", false, "");
        return;
    }
    let examined: Vec<&str> = config.exams().into_iter().map(TrainStage::name).collect();
    found.canonical(
        "exam.after",
        json!(examined),
        format!("the exam is taken after {} in any case", examined.join(", ")),
    );
    if exam.sheets.is_none() {
        found.add(&["exam.contamination"], "the built-in world is not checked for contamination");
    }
    let shares = exam.shares();
    let shown = shares.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    found.canonical("exam.at", json!(shares), format!("the exam is taken at {shown} in any case"));
    if exam.average_last < 2 {
        found.canonical("exam.average_last", 0, "fewer than 2 weights are not averaged");
    }
    if let Some(probe) = config.probe() {
        let keys = ["format", "answer", "norm", "rotate", "shots", "dev_sheets", "system", "samples"];
        found.add_in("exam", &keys, format!("data.source = \"{}\" has its own question format", probe.name));
        return;
    }
    if exam.format == ExamFormat::LmEval {
        found.add(&["exam.system"], "exam.format = \"lm_eval\" has no system message");
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
        found.add(&["data.special_tokens_in_text"], "data.rows = \"minimind\" reads them as control tokens");
    }
    let enabled = recipe(config);
    let left_out = |stage: TrainStage| format!("{}.enabled = false leaves the stage out", stage.name());
    if data.source == Source::World {
        // A tokenizer is trained on pretraining text and `[sft]` conversations.
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
        if !found.has("world.practice") {
            let practice = json!(relative(config.world.practice.iter()));
            found.canonical("world.practice", practice, "its weights are relative to their sum");
        }
        if trains_tokenizer {
            let why = "the texts of the built-in world spell no special token";
            found.add(&["data.special_tokens_in_text"], why);
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
        let (read_key, sources) = spec.stage.files(data);
        if enabled.contains(&spec.stage) && read_key != own.key {
            found.canonical(own.key, json!(sources), format!("{read_key} is used if it is empty"));
        } else if !read.contains(&own.key) {
            found.add(&[own.key], left_out(spec.stage));
        }
        match spec.stage.val_files(data).filter(|_| enabled.contains(&spec.stage)) {
            Some((read_key, sets)) if read_key != own.val_key => {
                found.canonical(own.val_key, json!(sets), format!("{read_key} is used if it is empty"));
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
    let mix = |stage: &TrainStage| {
        let shares = data.shares(*stage)?;
        Some((stage.name(), json!(relative(shares.iter().map(|(source, share)| (source, share))))))
    };
    let mixes: BTreeMap<&str, Value> = enabled.iter().filter_map(mix).collect();
    if !mixes.is_empty() {
        found.canonical("data.mix", json!(mixes), "the stages mix their sources in the same proportions");
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

/// Returns the keys in which two configurations differ, in order of declaration.
pub fn differing(a: &TrialConfig, b: &TrialConfig) -> Vec<&'static str> {
    let (a, b) = (json!(a), json!(b));
    keys().map(|key| key.path.as_str()).filter(|key| get(&a, key) != get(&b, key)).collect()
}

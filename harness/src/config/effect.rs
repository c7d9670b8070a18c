//! Keys that have no effect in a configuration. Names leave them out, so that equal settings have equal names.
//!
//! Every key counts unless it is listed here. *Invariant:* whether a key of `[model]`, of a training stage or of
//! `[data]` has an effect depends only on keys in the stage runs' own facts, so that their names can leave out the same
//! keys. Names keep what [`kept_in_names`] lists: leaving it out now would rename stage runs that exist.

use super::keys::{keys, sections};
use super::values::index_of;
use super::{
    Answer, ExamConfig, ExamFormat, OptimizerKind, PROBES, ProbeSpec, RowStyle, Schedule, Source, TRAINING,
    TrainStage, Training, TrialConfig, recipe,
};
use model::{Device, Parametrization};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Arguments, Display};
use std::sync::Arc;

/// A key that does not affect the results of a given configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    /// Full name of the key, such as `model.top_k`.
    pub key: Cow<'static, str>,
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
        let rest = key.strip_prefix(&*self.key);
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
    in_trial(config, true).idle
}

/// Returns whether any of these keys has no effect on the trial, or several equivalent values.
pub fn any_idle<'a>(config: &TrialConfig, mut keys: impl Iterator<Item = &'a str>) -> bool {
    let found = in_trial(config, false);
    keys.any(|key| found.idle.iter().any(|idle| idle.is_about(key)))
}

/// Returns the value of every key, in the order of [`keys`], without the keys that do not affect what the stage runs of
/// the trial do.
pub fn effective(config: &TrialConfig) -> Vec<Option<Value>> {
    let mut found = Found::new(false);
    of_stage_runs(config, &mut found);
    without(config, found)
}

/// Returns the value of every key, in the order of [`keys`], without the keys that do not affect the trial, such as those
/// that only a disabled stage reads.
pub(super) fn effective_in_trial(config: &TrialConfig) -> Vec<Option<Value>> {
    without(config, in_trial(config, false))
}

fn in_trial(config: &TrialConfig, explained: bool) -> Found {
    let mut found = Found::new(explained);
    of_stage_runs(config, &mut found);
    of_trials(config, &mut found);
    found
}

fn without(config: &TrialConfig, found: Found) -> Vec<Option<Value>> {
    let mut values: Vec<Option<Value>> = config.values().into_iter().map(Some).collect();
    for Idle { key, canonical, .. } in found.idle {
        match index_of(&key) {
            Some(index) => values[index] = canonical,
            None => {
                // One of several weights, such as `data.mix.web`.
                let (table, weight) = key.rsplit_once('.').unwrap_or_default();
                let weights = index_of(table).and_then(|index| values[index].as_mut());
                weights.and_then(Value::as_object_mut).and_then(|weights| weights.remove(weight));
            }
        }
    }
    // Names from before these keys existed are those of their defaults.
    let newer = [
        ("model.parametrization", json!(Parametrization::Standard)),
        ("exam.samples", json!(ExamConfig::default().samples)),
    ];
    for (key, default) in newer {
        if let Some(index) = index_of(key)
            && values[index].as_ref() == Some(&default)
        {
            values[index] = None;
        }
    }
    values
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
struct Found {
    idle: Vec<Idle>,
    /// Whether they come with their reasons: names need none.
    explained: bool,
    /// The reason where there are none.
    none: Arc<str>,
}

impl Found {
    fn new(explained: bool) -> Self {
        Self { idle: Vec::new(), explained, none: "".into() }
    }

    fn why(&self, why: impl Display) -> Arc<str> {
        if self.explained { why.to_string().into() } else { self.none.clone() }
    }

    fn add(&mut self, keys: &[&'static str], why: impl Display) {
        let why = self.why(why);
        self.idle.extend(keys.iter().map(|&key| Idle { key: key.into(), why: why.clone(), canonical: None }));
    }

    fn add_in(&mut self, section: &str, keys: &[&str], why: impl Display) {
        let why = self.why(why);
        let idle =
            |key: &&str| Idle { key: format!("{section}.{key}").into(), why: why.clone(), canonical: None };
        self.idle.extend(keys.iter().map(idle));
    }

    fn has(&self, key: &str) -> bool {
        self.idle.iter().any(|idle| idle.key == key)
    }

    fn section(&mut self, name: &str, why: impl Display) {
        let section = sections().iter().find(|section| section.name == name);
        let keys: Vec<&str> =
            section.into_iter().flat_map(|section| &section.keys).map(|key| key.path.as_str()).collect();
        self.add(&keys, why);
    }

    fn canonical(&mut self, key: &'static str, value: impl Into<Value>, why: impl Display) {
        let why = self.why(why);
        self.idle.push(Idle { key: key.into(), why, canonical: Some(value.into()) });
    }
}

fn of_stage_runs(config: &TrialConfig, found: &mut Found) {
    model(config, found);
    for (stage, training) in config.stages() {
        match training.enabled {
            true => of_training(config, stage, training, found),
            false => {
                let name = stage.name();
                found.section(name, format_args!("{name}.enabled = false leaves the stage out"));
            }
        }
    }
    if config.data.source != Source::Files {
        let why = format_args!("data.source = \"{}\" is not read from files", config.data.source.word());
        found.add(&FILTERS, why);
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
        found.add_in(
            "data",
            &keys,
            format_args!("data.source = \"{}\" generates all of its rows", probe.name),
        );
    }
}

fn model(config: &TrialConfig, found: &mut Found) {
    let model = &config.model;
    let (key, width, what) = match model.is_moe() {
        false => ("model.hidden_dim", model.ffn_dim(), "the feed-forward"),
        true => ("model.expert_hidden_dim", model.expert_dim(), "each expert"),
    };
    let why = format_args!("the effective width of {what} is {width}");
    found.canonical(key, width, why);
    found.add(&["model.multiple_of"], why);
    found.canonical(
        "model.head_dim",
        model.head_dim(),
        format_args!("the effective head width is {}", model.head_dim()),
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
    let mut add = |keys: &[&str], why: Arguments| found.add_in(name, keys, why);
    add(
        &MONITORING_KEYS,
        format_args!("it sets how the stage is monitored and recorded, not what it learns"),
    );
    // In order of precedence.
    if let Some(steps) = t.steps {
        add(
            &["flops", "tokens", "epochs"],
            format_args!("{name}.steps = {steps} sets the length of the stage"),
        );
    } else if let Some(flops) = t.flops {
        add(&["tokens", "epochs"], format_args!("{name}.flops = {flops:e} sets the length of the stage"));
    } else if let Some(tokens) = t.tokens {
        add(&["epochs"], format_args!("{name}.tokens = {tokens} sets the length of the stage"));
    }
    if t.schedule == Schedule::Constant {
        add(&["min_lr_ratio"], format_args!("{name}.schedule = \"constant\" never falls"));
    }
    if t.schedule != Schedule::Wsd {
        add(&["decay_share"], format_args!("only {name}.schedule = \"wsd\" has a decay phase"));
    }
    if t.optimizer == OptimizerKind::Adam {
        let keys = ["weight_decay", "embedding_decay", "hidden_decay", "head_decay"];
        add(&keys, format_args!("{name}.optimizer = \"adam\" decays no weights"));
    }
    if t.optimizer != OptimizerKind::Muon {
        add(&["momentum"], format_args!("only {name}.optimizer = \"muon\" uses it"));
    }
    if config.model.tie_embeddings {
        add(
            &["head_lr", "head_decay"],
            format_args!("model.tie_embeddings = true uses the embedding as the head"),
        );
    }
    let has_share = config.data.val_share > 0.0 || config.probe().is_some();
    if !has_share && stage.val_files(&config.data).is_none() {
        add(&["val_tokens", "val_every_tokens"], format_args!("data.val_share = 0 holds nothing out"));
    }
    if stage.compares_answers() {
        add(
            &["packing", "val_tokens"],
            format_args!("preference pairs are never packed, and validation uses all of them"),
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
        found.canonical(
            "model.window",
            Value::Null,
            format_args!("no {what} is longer than {longest} positions"),
        );
    }
    found.add(&["exam.samples"], "it sets what is recorded, not the score");
}

/// Multipliers of a training stage for groups of parameters that it does not train or decay.
fn of_groups(config: &TrialConfig, stage: TrainStage, found: &mut Found) {
    let (name, t) = (stage.name(), stage.training(config));
    let mut add = |keys: &[&str], why: Arguments| found.add_in(name, keys, why);
    let groups = [
        ("embedding", t.embedding_lr, t.embedding_decay),
        ("hidden", t.hidden_lr, t.hidden_decay),
        ("head", t.head_lr, t.head_decay),
    ];
    let trained = match ((stage.spec().adapters)(config).is_some(), config.model.tie_embeddings) {
        (true, _) => {
            let keys = ["embedding_lr", "head_lr", "norm_lr", "embedding_decay", "head_decay"];
            add(&keys, format_args!("adapters take only the multipliers of the matrices in the blocks"));
            &groups[1..2]
        }
        (false, true) => &groups[..2],
        (false, false) => &groups[..],
    };
    if t.weight_decay == 0.0 {
        let keys = ["embedding_decay", "hidden_decay", "head_decay"];
        add(&keys, format_args!("{name}.weight_decay = 0 decays no weights"));
    }
    for (group, lr, _) in trained {
        if *lr == 0.0 {
            add(
                &[&format!("{group}_decay")],
                format_args!("{name}.{group}_lr = 0 leaves these weights as they are"),
            );
        }
    }
    if trained.iter().all(|(_, lr, decay)| *lr == 0.0 || *decay == 0.0) {
        add(&["weight_decay"], format_args!("its multipliers are all 0"));
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
    found.canonical("device", kind, format_args!("results are the same on every {kind} device"));
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
        format_args!("the exam is taken after {} in any case", examined.join(", ")),
    );
    if exam.sheets.is_none() {
        found.add(&["exam.contamination"], "the built-in world is not checked for contamination");
    }
    let shares = exam.shares();
    let shown = shares.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    found.canonical("exam.at", json!(shares), format_args!("the exam is taken at {shown} in any case"));
    if exam.average_last < 2 {
        found.canonical("exam.average_last", 0, "fewer than 2 weights are not averaged");
    }
    if let Some(probe) = config.probe() {
        let keys = ["format", "answer", "norm", "rotate", "shots", "dev_sheets", "system", "samples"];
        found.add_in(
            "exam",
            &keys,
            format_args!("data.source = \"{}\" has its own question format", probe.name),
        );
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
        found.section(probe.name, format_args!("data.source = \"{}\" has no such probe", data.source.word()));
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
            found.canonical(own.key, json!(sources), format_args!("{read_key} is used if it is empty"));
        } else if !read.contains(&own.key) {
            found.add(&[own.key], left_out(spec.stage));
        }
        match spec.stage.val_files(data).filter(|_| enabled.contains(&spec.stage)) {
            Some((read_key, sets)) if read_key != own.val_key => {
                found.canonical(own.val_key, json!(sets), format_args!("{read_key} is used if it is empty"));
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
        found.add_in("data.mix", &[name.as_str()], "no stage that is trained has this source");
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
    let no_world = format_args!("data.source = \"{}\" has no world", probe.name);
    found.section("world", no_world);
    found.add(&["tokenizer.train_chars"], no_world);
    if !config.exam.enabled {
        let is_unread = |key: &&str| !probe.rows.contains(key) && !probe.vocabulary.contains(key);
        let unread: Vec<&str> = probe.exam.iter().copied().filter(is_unread).collect();
        found.add(&unread, "exam.enabled = false leaves the exam out");
    }
}

/// Returns the keys in which two configurations differ, in order of declaration.
pub fn differing(a: &TrialConfig, b: &TrialConfig) -> Vec<&'static str> {
    let values = a.values().into_iter().zip(b.values());
    keys().zip(values).filter(|(_, (a, b))| a != b).map(|(key, _)| key.path.as_str()).collect()
}

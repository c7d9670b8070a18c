//! Checks whether a trial can be run: finds all its problems before anything starts.

use super::keys::{KeySpec, keys};
use super::{
    AnswerLoss, DataConfig, OptimizerKind, RowStyle, Source, Sources, TRAINING, TokenizerConfig, TrainSpec,
    Training, TrialConfig, did_you_mean, is_source_name, recipe, source_key,
};
use super::{presets, probe, world};
use model::config::ShapeError;
use model::lora::TARGETS;
use model::{Device, ModelConfig, Precision};
use serde_json::Value;

/// A value with which a trial cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key at fault, such as `model.d_model`.
    pub key: String,
    /// What is wrong and what was expected.
    pub problem: String,
    /// Keys that it conflicts with: if `key` has the value of a default or a preset, they are to blame.
    pub conflicts_with: Vec<String>,
}

impl Problem {
    /// Creates a problem of one key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into(), conflicts_with: Vec::new() }
    }

    /// Returns where its key was set, according to `place_of`, or else one of the keys that it conflicts with; a place in
    /// a preset only if the user set none of them.
    pub fn place<'a>(&self, place_of: impl Fn(&str) -> Option<&'a String>) -> Option<&'a String> {
        let keys = std::iter::once(&self.key).chain(&self.conflicts_with);
        let places: Vec<&String> = keys.filter_map(|key| place_of(key)).collect();
        let of_user = places.iter().find(|place| !presets::is_place(place));
        of_user.or(places.first()).copied()
    }
}

impl From<ShapeError> for Problem {
    fn from(error: ShapeError) -> Self {
        let of_model = |key: &&str| format!("model.{key}");
        let conflicts_with = error.conflicts_with.iter().map(of_model).collect();
        Self { key: of_model(&error.key), problem: error.problem, conflicts_with }
    }
}

impl TrialConfig {
    /// Returns everything that prevents the trial from running; empty if it can run.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks(self.out_of_range());
        if !checks.0.iter().any(|problem| problem.key.starts_with("model.")) {
            match self.model.validate() {
                Err(error) => checks.0.push(error.into()),
                Ok(()) => checks.gpu(self),
            }
        }
        for (stage, training) in self.stages() {
            checks.training(stage.name(), training, &self.model);
        }
        if self.device == Device::Cpu && self.precision != Precision::F32 {
            let problem = format!(
                "is \"{}\", expected \"f32\", the only one of device = \"cpu\", or device = \"cuda\"",
                self.precision
            );
            checks.fail_conflict("precision", "device", problem);
        }
        checks.tokenizer(self);
        checks.lora(self);
        checks.data(self);
        checks.exam(self);
        let of_probe = probe::problems(self, &checks.0);
        checks.0.extend(world::problems(self));
        checks.0.extend(of_probe);
        checks.0
    }

    /// Returns the numbers outside the ranges of their keys: within the ranges, sizes are computed without overflow.
    pub fn out_of_range(&self) -> Vec<Problem> {
        let values = self.values();
        let problem = |(key, value): (&KeySpec, &Value)| {
            Some(Problem::new(&key.path, key.range.as_ref()?.problem(value)?))
        };
        keys().zip(&values).filter_map(problem).collect()
    }
}

/// The problems found so far.
struct Checks(Vec<Problem>);

impl Checks {
    fn fail(&mut self, key: &str, problem: String) {
        self.0.push(Problem::new(key, problem));
    }

    fn fail_conflict(&mut self, key: &str, with: &str, problem: String) {
        self.0.push(Problem { conflicts_with: vec![with.into()], ..Problem::new(key, problem) });
    }

    fn training(&mut self, stage: &str, t: &Training, model: &ModelConfig) {
        let key = |name: &str| format!("{stage}.{name}");
        if t.enabled && t.seq_len > model.max_seq_len {
            let problem =
                format!("is {}, expected at most model.max_seq_len = {}", t.seq_len, model.max_seq_len);
            self.fail_conflict(&key("seq_len"), "model.max_seq_len", problem);
        }
        // A length in epochs, tokens or flops is compared with the warm-up once the data is known.
        if let Some(steps) = t.steps.filter(|&steps| t.enabled && t.warmup_steps > steps) {
            let problem = format!(
                "is {}, expected at most {stage}.steps = {steps}: {stage}.lr would never be reached",
                t.warmup_steps
            );
            self.fail_conflict(&key("warmup_steps"), &key("steps"), problem);
        }
    }

    /// Checks that the shape is one that the kernels for GPUs support.
    fn gpu(&mut self, config: &TrialConfig) {
        if config.device == Device::Cpu {
            return;
        }
        let (model, most) = (&config.model, Device::MAX_CUDA_HEAD_DIM);
        let (head_dim, expected) = (model.head_dim(), "with device = \"cuda\"; set device = \"cpu\"");
        if model.head_dim.is_some() && head_dim > most {
            let problem =
                format!("is {head_dim}, expected at most {most} {expected}, or use more, narrower heads");
            self.fail_conflict("model.head_dim", "device", problem);
        } else if head_dim > most {
            let problem = format!(
                "is {}: d_model / n_heads = {head_dim}, expected heads of at most {most} {expected}, or use more heads",
                model.n_heads
            );
            let conflicts_with = ["model.d_model", "device"].map(Into::into).into();
            self.0.push(Problem { conflicts_with, ..Problem::new("model.n_heads", problem) });
        }
        if model.n_experts > Device::MAX_CUDA_EXPERTS {
            let most = Device::MAX_CUDA_EXPERTS;
            let problem = format!("is {}, expected at most {most} {expected}", model.n_experts);
            self.fail_conflict("model.n_experts", "device", problem);
        }
    }

    fn tokenizer(&mut self, config: &TrialConfig) {
        let entries = config.model.vocab_size;
        let least = TokenizerConfig::SMALLEST_VOCAB;
        if config.tokenizer.path.is_none() && config.probe().is_none() && entries < least {
            let problem = format!(
                "is {entries}, expected at least {least} for a tokenizer that is trained: 256 bytes and {} special tokens",
                least - 256
            );
            self.fail("model.vocab_size", problem);
        }
    }

    fn lora(&mut self, config: &TrialConfig) {
        let lora = &config.lora;
        if lora.training.enabled && lora.training.optimizer == OptimizerKind::Muon {
            let problem =
                "is \"muon\", which updates whole weights; expected \"adamw\" or \"adam\" for adapters";
            self.fail("lora.optimizer", problem.into());
        }
        if lora.targets.is_empty() {
            self.fail("lora.targets", format!("is empty, expected some of {}", TARGETS.join(", ")));
        }
        for (index, target) in lora.targets.iter().enumerate() {
            if !TARGETS.contains(&target.as_str()) {
                let names = TARGETS.join(", ");
                self.fail("lora.targets", format!("holds {target:?}, expected some of {names}"));
            } else if lora.targets[..index].contains(target) {
                self.fail("lora.targets", format!("holds {target:?} twice, expected it once"));
            }
        }
    }

    fn data(&mut self, config: &TrialConfig) {
        let data = &config.data;
        if data.max_chars != 0 && data.max_chars < data.min_chars {
            let problem = format!("is {}, less than data.min_chars = {}", data.max_chars, data.min_chars);
            self.fail_conflict("data.max_chars", "data.min_chars", problem);
        }
        for spec in &TRAINING {
            let (name, is_enabled) = (spec.name, spec.stage.training(config).enabled);
            if data.rows == RowStyle::Minimind && is_enabled && (spec.answers)(config) == AnswerLoss::Every {
                let problem = "is \"every\", but data.rows = \"minimind\" has loss on the last answer only; set data.rows = \"turns\"";
                self.fail_conflict(&format!("{name}.answer_loss"), "data.rows", problem.into());
            }
            self.files(data, spec, is_enabled);
        }
        self.mix(config);
        if data.source != Source::Files {
            return;
        }
        let trains_tokenizer = config.tokenizer.path.is_none();
        if trains_tokenizer && data.pretrain.is_empty() && !config.pretrain.training.enabled {
            let problem = "is empty, expected text to train the tokenizer from, or tokenizer.path";
            self.fail_conflict("data.pretrain", "data.source", problem.into());
        }
    }

    /// Checks the training and validation files of a stage.
    fn files(&mut self, data: &DataConfig, spec: &TrainSpec, is_enabled: bool) {
        let own = &spec.files[0];
        for (key, sources) in [(own.key, (own.train)(data)), (own.val_key, (own.val)(data))] {
            if data.source != Source::Files && !sources.is_empty() {
                let is = data.source.word();
                let problem = format!("names files, but data.source = \"{is}\"; set data.source = \"files\"");
                self.fail(key, problem);
            } else {
                self.sources(key, sources);
            }
        }
        if data.source == Source::Files && is_enabled && spec.stage.files(data).1.is_empty() {
            let enabled = format!("{}.enabled", spec.name);
            let problem = format!("is empty, expected files or globs, or {enabled} = false");
            self.0.push(Problem {
                conflicts_with: vec![enabled, "data.source".into()],
                ..Problem::new(own.key, problem)
            });
        }
    }

    fn sources(&mut self, key: &str, sources: &Sources) {
        for name in sources.names().filter(|name| !is_source_name(name)) {
            self.fail(key, format!("names a source {name:?}, expected letters, digits, _ and - in its name"));
        }
        for (name, _) in sources.lists().into_iter().filter(|(_, patterns)| patterns.is_empty()) {
            self.fail(key, format!("{} is empty, expected files or globs", name.unwrap_or_default()));
        }
    }

    fn mix(&mut self, config: &TrialConfig) {
        let data = &config.data;
        let weight = |name: &str| source_key("data.mix", Some(name));
        let of_files = TRAINING.iter().map(|spec| (spec.files[0].train)(data));
        let known: Vec<&str> = of_files.flat_map(Sources::names).collect();
        for (name, value) in &data.mix {
            if !value.is_finite() || *value < 0.0 {
                self.fail(&weight(name), format!("is {value}, expected 0 or more"));
            }
            if !known.contains(&name.as_str()) {
                let problem = match known.as_slice() {
                    [] => "is the weight of a source, but none has a name; expected data.pretrain = { NAME = [\"FILE\"], ... } or the like".into(),
                    names => match did_you_mean(name, names.iter().copied()).as_str() {
                        "" => format!("is the weight of no source, expected {}", names.join(", ")),
                        hint => format!("is the weight of no source{hint}"),
                    },
                };
                self.fail(&weight(name), problem);
            }
        }
        for stage in recipe(config) {
            let (key, sources) = stage.files(data);
            if !sources.names().any(|name| data.mix.contains_key(name)) {
                continue;
            }
            for name in sources.names().filter(|name| !data.mix.contains_key(*name)) {
                let problem =
                    format!("is missing, expected a weight for every source of {key}; 0 leaves one out");
                self.fail_conflict(&weight(name), "data.mix", problem);
            }
            if sources.names().all(|name| data.mix.get(name) == Some(&0.0)) {
                self.fail("data.mix", format!("leaves nothing of {key}, expected a weight above 0"));
            }
        }
    }

    fn exam(&mut self, config: &TrialConfig) {
        let exam = &config.exam;
        let enabled = recipe(config);
        if enabled.is_empty() {
            self.fail("pretrain.enabled", "is false for every stage, expected at least one to train".into());
        }
        for &stage in &exam.after {
            if !enabled.contains(&stage) {
                let name = stage.name();
                let problem = format!("names {name:?}, which is left out; set {name}.enabled = true");
                self.fail("exam.after", problem);
            }
        }
        if !exam.enabled {
            return;
        }
        let shares = exam.shares();
        if let Some(share) = exam.at.iter().find(|&&share| !(share > 0.0 && share <= 1.0)) {
            self.fail(
                "exam.at",
                format!("holds {share}, expected shares of a stage's steps, above 0 and at most 1"),
            );
        } else if shares.is_empty() {
            self.fail(
                "exam.at",
                "is empty, expected shares of a stage's steps, or exam.enabled = false".into(),
            );
        } else if exam.average_last > shares.len() {
            let problem =
                format!("is {}, expected at most {}, the shares of exam.at", exam.average_last, shares.len());
            self.fail_conflict("exam.average_last", "exam.at", problem);
        }
        if config.data.source == Source::Files && exam.sheets.is_none() {
            let problem =
                "is unset, expected a folder of sheets for data.source = \"files\", or exam.enabled = false";
            let conflicts_with = ["exam.enabled", "data.source"].map(Into::into).into();
            self.0.push(Problem { conflicts_with, ..Problem::new("exam.sheets", problem) });
        }
        if exam.shots > 0 && exam.sheets.is_some() && exam.dev_sheets.is_none() {
            let problem = format!("is unset, expected a folder of sheets for exam.shots = {}", exam.shots);
            self.fail_conflict("exam.dev_sheets", "exam.shots", problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainStage;

    fn problems(change: impl Fn(&mut TrialConfig)) -> Vec<String> {
        let mut config = TrialConfig::default();
        change(&mut config);
        config.validate().into_iter().map(|p| format!("{}: {}", p.key, p.problem)).collect()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert!(TrialConfig::default().validate().is_empty());
    }

    #[test]
    fn values_out_of_range_are_named() {
        type Case<'a> = (fn(&mut TrialConfig), &'a str);
        let cases: Vec<Case> = vec![
            (|c| c.model.d_model = 130, "model.d_model: 130 is not divisible by n_heads = 4"),
            (
                |c| c.model.vocab_size = 258,
                "model.vocab_size: is 258, expected at least 259 for a tokenizer that is trained: 256 bytes and 3 special tokens",
            ),
            (
                |c| c.dpo.training.seq_len = 513,
                "dpo.seq_len: is 513, expected at most model.max_seq_len = 512",
            ),
            (|c| c.model.n_layers = 5000, "model.n_layers: is 5000, expected at most 4096"),
            (|c| c.lora.training.seq_len = 1 << 30, "lora.seq_len: is 1073741824, expected at most 16777216"),
            (|c| c.slurm.at_once = Some(0), "slurm.at_once: is 0, expected at least 1"),
            (|c| c.pretrain.training.lr = 0.0, "pretrain.lr: is 0, expected a positive number"),
            (|c| c.pretrain.training.lr = f64::NAN, "pretrain.lr: is NaN, expected a positive number"),
            (|c| c.sft.training.beta2 = 1.0, "sft.beta2: is 1, expected 0 or more and below 1"),
            (|c| c.dpo.training.batch_size = 0, "dpo.batch_size: is 0, expected at least 1"),
            (|c| c.dpo.training.tokens = Some(0), "dpo.tokens: is 0, expected at least 1"),
            (|c| c.lora.training.min_lr_ratio = 1.5, "lora.min_lr_ratio: is 1.5, expected 0 to 1"),
            (|c| c.lora.training.weight_decay = -0.1, "lora.weight_decay: is -0.1, expected 0 or more"),
            (|c| c.lora.rank = 0, "lora.rank: is 0, expected at least 1"),
            (
                |c| (c.lora.training.enabled, c.lora.training.optimizer) = (true, OptimizerKind::Muon),
                "lora.optimizer: is \"muon\", which updates whole weights; expected \"adamw\" or \"adam\" for adapters",
            ),
            (
                |c| c.lora.targets = vec!["wx".into()],
                "lora.targets: holds \"wx\", expected some of wq, wk, wv, wo, w1, w2, w3",
            ),
            (
                |c| c.lora.targets = vec!["wq".into(), "wq".into()],
                "lora.targets: holds \"wq\" twice, expected it once",
            ),
            (
                |c| (c.data.rows, c.sft.answer_loss) = (RowStyle::Minimind, AnswerLoss::Every),
                "sft.answer_loss: is \"every\", but data.rows = \"minimind\" has loss on the last answer only; set data.rows = \"turns\"",
            ),
            (|c| c.data.val_share = 1.0, "data.val_share: is 1, expected 0 or more and below 1"),
            (
                |c| (c.data.min_chars, c.data.max_chars) = (9, 5),
                "data.max_chars: is 5, less than data.min_chars = 9",
            ),
            (
                |c| c.data.sft = vec!["a.csv".to_string()].into(),
                "data.sft: names files, but data.source = \"world\"; set data.source = \"files\"",
            ),
            (
                |c| c.exam.at = vec![0.5, 1.5],
                "exam.at: holds 1.5, expected shares of a stage's steps, above 0 and at most 1",
            ),
            (
                |c| c.exam.at = vec![],
                "exam.at: is empty, expected shares of a stage's steps, or exam.enabled = false",
            ),
            (
                |c| (c.exam.at, c.exam.average_last) = (vec![0.5, 1.0, 0.5], 3),
                "exam.average_last: is 3, expected at most 2, the shares of exam.at",
            ),
            (|c| c.exam.shots = 1 << 40, "exam.shots: is 1099511627776, expected at most 1000"),
            (|c| c.world.people = 0, "world.people: is 0, expected at least 4"),
            (
                |c| c.exam.after = vec![TrainStage::Lora],
                "exam.after: names \"lora\", which is left out; set lora.enabled = true",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(problems(change), [expected]);
        }
    }

    #[test]
    fn files_must_be_named_for_every_stage_that_reads_them() {
        assert_eq!(
            problems(|c| {
                c.data.source = Source::Files;
                c.lora.training.enabled = true;
            }),
            [
                "data.pretrain: is empty, expected files or globs, or pretrain.enabled = false",
                "data.sft: is empty, expected files or globs, or sft.enabled = false",
                "data.lora: is empty, expected files or globs, or lora.enabled = false",
                "data.dpo: is empty, expected files or globs, or dpo.enabled = false",
                "exam.sheets: is unset, expected a folder of sheets for data.source = \"files\", or exam.enabled = false",
            ]
        );
        let files = |c: &mut TrialConfig| {
            c.data.source = Source::Files;
            c.pretrain.training.enabled = false;
            (c.data.sft, c.data.dpo) = (vec!["a.csv".to_string()].into(), vec!["b.json".to_string()].into());
            c.exam.sheets = Some("sheets".into());
        };
        assert_eq!(
            problems(files),
            ["data.pretrain: is empty, expected text to train the tokenizer from, or tokenizer.path"]
        );
        assert_eq!(
            problems(|c| {
                files(c);
                c.tokenizer.path = Some("tokenizer".into());
                c.exam.shots = 5;
            }),
            ["exam.dev_sheets: is unset, expected a folder of sheets for exam.shots = 5"]
        );
    }

    #[test]
    fn sources_and_their_weights_fit_together() {
        let named = |names: &[&str]| {
            Sources::Named(names.iter().map(|name| (name.to_string(), vec!["f.txt".to_string()])).collect())
        };
        let mixed = |weights: &[(&str, f64)]| {
            let mut config = TrialConfig::default();
            config.data.source = Source::Files;
            config.data.pretrain = named(&["web", "books"]);
            (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
            config.exam.enabled = false;
            config.data.mix = weights.iter().map(|(name, weight)| (name.to_string(), *weight)).collect();
            config
        };
        let of = |config: &TrialConfig| -> Vec<String> {
            config.validate().into_iter().map(|p| format!("{}: {}", p.key, p.problem)).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(of(&mixed(&[("web", 1.0), ("books", 0.0)])), none);
        assert_eq!(
            of(&mixed(&[("web", -1.0), ("books", 1.0), ("wbe", 2.0)])),
            [
                "data.mix.wbe: is the weight of no source; did you mean web?",
                "data.mix.web: is -1, expected 0 or more",
            ]
        );
        assert_eq!(
            of(&mixed(&[("web", 1.0)])),
            [
                "data.mix.books: is missing, expected a weight for every source of data.pretrain; 0 leaves one out"
            ]
        );
        assert_eq!(
            of(&mixed(&[("web", 0.0), ("books", 0.0)])),
            ["data.mix: leaves nothing of data.pretrain, expected a weight above 0"]
        );
        let mut config = mixed(&[("web", 1.0)]);
        config.data.pretrain = vec!["f.txt".to_string()].into();
        assert_eq!(
            of(&config),
            [
                "data.mix.web: is the weight of a source, but none has a name; expected data.pretrain = { NAME = [\"FILE\"], ... } or the like"
            ]
        );
        let mut config = mixed(&[]);
        config.data.pretrain_val =
            Sources::Named([("a b".to_string(), vec!["f".to_string()]), ("wiki".to_string(), vec![])].into());
        assert_eq!(
            of(&config),
            [
                "data.pretrain_val: names a source \"a b\", expected letters, digits, _ and - in its name",
                "data.pretrain_val: wiki is empty, expected files or globs",
            ]
        );
        assert_eq!(
            problems(|c| c.data.sft_val = vec!["v.csv".to_string()].into()),
            ["data.sft_val: names files, but data.source = \"world\"; set data.source = \"files\""]
        );
    }

    #[test]
    fn shapes_without_kernels_are_refused_on_a_gpu_only() {
        type Case<'a> = (fn(&mut TrialConfig), &'a str);
        let shapes: [Case; 3] = [
            (
                |c| c.model.head_dim = Some(130),
                "model.head_dim: is 130, expected at most 128 with device = \"cuda\"; set device = \"cpu\", or use more, narrower heads",
            ),
            (
                |c| (c.model.d_model, c.model.n_heads) = (1040, 4),
                "model.n_heads: is 4: d_model / n_heads = 260, expected heads of at most 128 with device = \"cuda\"; set device = \"cpu\", or use more heads",
            ),
            (
                |c| c.model.n_experts = 397,
                "model.n_experts: is 397, expected at most 396 with device = \"cuda\"; set device = \"cpu\"",
            ),
        ];
        let none: [&str; 0] = [];
        for (change, expected) in shapes {
            let on_gpu = |c: &mut TrialConfig| {
                change(c);
                c.device = Device::Cuda(None);
            };
            assert_eq!(problems(on_gpu), [expected]);
            assert_eq!(problems(change), none);
        }
        let largest = |c: &mut TrialConfig| {
            (c.model.head_dim, c.model.n_experts, c.device) = (Some(128), 396, Device::Cuda(Some(1)));
        };
        assert_eq!(problems(largest), none);
    }

    #[test]
    fn several_problems_are_reported_together() {
        let found = problems(|c| {
            c.model.n_layers = 0;
            c.pretrain.training.lr = -1.0;
        });
        assert_eq!(found.len(), 2);
    }
}

//! Whether a trial can be run at all: everything wrong with it, found before anything starts.

use super::{
    AnswerLoss, RowStyle, Source, TRAINING, TokenizerConfig, Training, TrialConfig, WorldConfig, recipe,
};
use model::ModelConfig;
use model::config::{LARGEST, ShapeError};
use model::lora::TARGETS;
use std::ops::RangeInclusive;

/// A value that a trial cannot run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key at fault, such as `model.d_model`.
    pub key: String,
    /// What is wrong and what was expected.
    pub problem: String,
    /// Keys that it is at odds with: where the key is left at its default, the fault lies with them.
    pub at_odds: Vec<String>,
}

impl Problem {
    /// A problem of one key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into(), at_odds: Vec::new() }
    }

    /// The key and then those that it is at odds with.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.key).chain(&self.at_odds)
    }
}

impl From<ShapeError> for Problem {
    fn from(error: ShapeError) -> Self {
        let of_model = |key: &&str| format!("model.{key}");
        let at_odds = error.at_odds.iter().map(of_model).collect();
        Self { key: of_model(&error.key), problem: error.problem, at_odds }
    }
}

/// Longest rows of a stage.
const LONGEST_ROW: usize = 1 << 24;

/// Most solved questions before a question.
const MOST_SHOTS: usize = 1000;

/// The largest value of a key that has one; `seq_len` stands for that of every stage.
pub fn largest(key: &str) -> Option<usize> {
    let of_model = |key: &str| LARGEST.iter().find(|(name, _)| *name == key).map(|(_, most)| *most);
    if key == "seq_len" { Some(LONGEST_ROW) } else { key.strip_prefix("model.").and_then(of_model) }
}

impl TrialConfig {
    /// Everything that makes the trial impossible; empty if it can run.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks(self.out_of_bounds());
        if checks.0.is_empty()
            && let Err(error) = self.model.validate()
        {
            checks.0.push(error.into());
        }
        checks.device(&self.device);
        for (stage, training) in self.stages() {
            checks.training(stage.name(), training, &self.model);
        }
        checks.tokenizer(self);
        checks.lora(self);
        checks.positive("dpo.beta", self.dpo.beta);
        checks.at_least("slurm.at_once", self.slurm.at_once.unwrap_or(1) as u64, 1);
        checks.data(self);
        checks.world(self);
        checks.exam(self);
        checks.0
    }

    /// Sizes too large to count with.
    pub fn out_of_bounds(&self) -> Vec<Problem> {
        let mut checks = Checks(Vec::new());
        checks.0.extend(self.model.out_of_bounds().into_iter().map(Problem::from));
        for (stage, training) in self.stages() {
            checks.at_most(&format!("{}.seq_len", stage.name()), training.seq_len, "seq_len");
        }
        checks.0
    }
}

/// The problems found so far.
struct Checks(Vec<Problem>);

impl Checks {
    fn fail(&mut self, key: &str, problem: String) {
        self.0.push(Problem::new(key, problem));
    }

    fn fail_at_odds(&mut self, key: &str, with: &str, problem: String) {
        self.0.push(Problem { at_odds: vec![with.into()], ..Problem::new(key, problem) });
    }

    fn at_most(&mut self, key: &str, value: usize, bound: &str) {
        if let Some(most) = largest(bound)
            && value > most
        {
            self.fail(key, format!("is {value}, expected at most {most}"));
        }
    }

    fn at_least(&mut self, key: &str, value: u64, least: u64) {
        if value < least {
            self.fail(key, format!("is {value}, expected at least {least}"));
        }
    }

    fn positive(&mut self, key: &str, value: f64) {
        if !(value.is_finite() && value > 0.0) {
            self.fail(key, format!("is {value}, expected a positive number"));
        }
    }

    fn not_negative(&mut self, key: &str, value: f64) {
        if !(value.is_finite() && value >= 0.0) {
            self.fail(key, format!("is {value}, expected 0 or more"));
        }
    }

    fn within(&mut self, key: &str, value: f64, range: RangeInclusive<f64>) {
        if !range.contains(&value) {
            self.fail(key, format!("is {value}, expected {} to {}", range.start(), range.end()));
        }
    }

    fn below_one(&mut self, key: &str, value: f64) {
        if !(0.0..1.0).contains(&value) {
            self.fail(key, format!("is {value}, expected 0 or more and below 1"));
        }
    }

    fn device(&mut self, device: &str) {
        let is_known = match device.strip_prefix("cuda") {
            None => device == "cpu",
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(|number| number.parse::<u16>().is_ok()),
        };
        if !is_known {
            self.fail("device", format!("is {device:?}, expected \"cpu\", \"cuda\" or \"cuda:N\""));
        }
    }

    fn training(&mut self, stage: &str, t: &Training, model: &ModelConfig) {
        let key = |name: &str| format!("{stage}.{name}");
        if t.enabled && t.seq_len > model.max_seq_len {
            let problem =
                format!("is {}, expected at most model.max_seq_len = {}", t.seq_len, model.max_seq_len);
            self.fail_at_odds(&key("seq_len"), "model.max_seq_len", problem);
        }
        // A length by data is compared with the warm-up once the data is there.
        if let Some(steps) = t.steps.filter(|&steps| t.enabled && t.warmup_steps > steps) {
            let problem = format!(
                "is {}, expected at most {stage}.steps = {steps}: {stage}.lr would never be reached",
                t.warmup_steps
            );
            self.fail_at_odds(&key("warmup_steps"), &key("steps"), problem);
        }
        self.positive(&key("epochs"), t.epochs);
        self.positive(&key("flops"), t.flops.unwrap_or(1.0));
        for (name, value) in [("tokens", t.tokens), ("steps", t.steps)] {
            self.at_least(&key(name), value.unwrap_or(1), 1);
        }
        for (name, value, least) in [
            ("seq_len", t.seq_len, 2),
            ("batch_size", t.batch_size, 1),
            ("accumulation", t.accumulation, 1),
            ("lanes", t.lanes, 1),
            ("keep_checkpoints", t.keep_checkpoints, 1),
        ] {
            self.at_least(&key(name), value as u64, least);
        }
        self.at_least(&key("val_tokens"), t.val_tokens, 1);
        self.at_least(&key("log_every"), t.log_every, 1);
        self.positive(&key("lr"), t.lr);
        self.within(&key("min_lr_ratio"), t.min_lr_ratio, 0.0..=1.0);
        self.within(&key("decay_share"), t.decay_share, 0.0..=1.0);
        self.below_one(&key("beta1"), t.beta1);
        self.below_one(&key("beta2"), t.beta2);
        self.positive(&key("eps"), t.eps);
        self.below_one(&key("momentum"), t.momentum);
        self.not_negative(&key("weight_decay"), t.weight_decay);
        for (name, multiplier) in t.multipliers() {
            self.not_negative(&key(name), multiplier);
        }
        self.not_negative(&key("clip"), t.clip);
        self.not_negative(&key("max_loss_rise"), t.max_loss_rise);
    }

    fn tokenizer(&mut self, config: &TrialConfig) {
        self.at_least("tokenizer.train_chars", config.tokenizer.train_chars, 1);
        let entries = config.model.vocab_size;
        let least = TokenizerConfig::SMALLEST_VOCAB;
        if config.tokenizer.path.is_none() && entries < least {
            let problem = format!(
                "is {entries}, expected at least {least} for a tokenizer that is trained: 256 bytes and {} special tokens",
                least - 256
            );
            self.fail("model.vocab_size", problem);
        }
    }

    fn lora(&mut self, config: &TrialConfig) {
        let lora = &config.lora;
        self.at_least("lora.rank", lora.rank as u64, 1);
        self.positive("lora.alpha", lora.alpha);
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
        self.below_one("data.val_share", data.val_share);
        self.within("data.min_chinese_share", data.min_chinese_share, 0.0..=1.0);
        if data.max_chars != 0 && data.max_chars < data.min_chars {
            let problem = format!("is {}, less than data.min_chars = {}", data.max_chars, data.min_chars);
            self.fail_at_odds("data.max_chars", "data.min_chars", problem);
        }
        for spec in &TRAINING {
            let (name, is_enabled) = (spec.name, spec.stage.training(config).enabled);
            if data.rows == RowStyle::Minimind && is_enabled && (spec.answers)(config) == AnswerLoss::Every {
                let problem = "is \"every\", but data.rows = \"minimind\" has loss on the last answer only; set data.rows = \"turns\"";
                self.fail_at_odds(&format!("{name}.answer_loss"), "data.rows", problem.into());
            }
            let (key, own) = spec.files[0];
            match data.source {
                Source::World if !own(data).is_empty() => {
                    let problem = "names files, but data.source = \"world\"; set data.source = \"files\"";
                    self.fail(key, problem.into());
                }
                Source::Files if is_enabled && spec.stage.files(data).1.is_empty() => {
                    let problem = format!("is empty, expected files or globs, or {name}.enabled = false");
                    self.fail(key, problem);
                }
                Source::World | Source::Files => {}
            }
        }
        if data.source == Source::World {
            return;
        }
        let trains_tokenizer = config.tokenizer.path.is_none();
        if trains_tokenizer && data.pretrain.is_empty() && !config.pretrain.training.enabled {
            let problem = "is empty, expected text to train the tokenizer from, or tokenizer.path";
            self.fail("data.pretrain", problem.into());
        }
    }

    fn world(&mut self, config: &TrialConfig) {
        let world = &config.world;
        self.at_least("world.people", world.people as u64, 4);
        if world.people > WorldConfig::MOST_PEOPLE {
            let problem = format!("is {}, expected at most {}", world.people, WorldConfig::MOST_PEOPLE);
            self.fail("world.people", problem);
        }
        if !(world.seen_share > 0.0 && world.seen_share < 1.0) {
            let problem = format!("is {}, expected above 0 and below 1", world.seen_share);
            self.fail("world.seen_share", problem);
        }
        self.within("world.pretrain_drills", world.pretrain_drills, 0.0..=1.0);
        self.within("world.sft_drills", world.sft_drills, 0.0..=1.0);
        let rows = [
            ("pretrain_rows", world.pretrain_rows),
            ("sft_rows", world.sft_rows),
            ("sft_multi_rows", world.sft_multi_rows),
        ];
        for (key, rows) in rows {
            self.at_least(&format!("world.{key}"), rows, 1);
        }
        self.at_least("world.paraphrases", world.paraphrases as u64, 1);
        self.at_least("world.questions_per_subject", world.questions_per_subject as u64, 1);
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
        if config.data.source == Source::Files && exam.sheets.is_none() {
            let problem =
                "is unset, expected a folder of sheets for data.source = \"files\", or exam.enabled = false";
            self.fail("exam.sheets", problem.into());
        }
        if exam.shots > MOST_SHOTS {
            self.fail("exam.shots", format!("is {}, expected at most {MOST_SHOTS}", exam.shots));
        }
        if exam.shots > 0 && exam.sheets.is_some() && exam.dev_sheets.is_none() {
            let problem = format!("is unset, expected a folder of sheets for exam.shots = {}", exam.shots);
            self.fail("exam.dev_sheets", problem);
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
            (|c| c.device = "gpu".into(), "device: is \"gpu\", expected \"cpu\", \"cuda\" or \"cuda:N\""),
            (
                |c| c.device = "cuda:x".into(),
                "device: is \"cuda:x\", expected \"cpu\", \"cuda\" or \"cuda:N\"",
            ),
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
                |c| c.data.sft = vec!["a.csv".into()],
                "data.sft: names files, but data.source = \"world\"; set data.source = \"files\"",
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
    fn devices_are_cpu_cuda_or_one_of_several() {
        for device in ["cpu", "cuda", "cuda:0", "cuda:7"] {
            assert!(problems(|c| c.device = device.into()).is_empty());
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
            (c.data.sft, c.data.dpo) = (vec!["a.csv".into()], vec!["b.json".into()]);
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
    fn several_problems_are_reported_together() {
        let found = problems(|c| {
            c.model.n_layers = 0;
            c.pretrain.training.lr = -1.0;
        });
        assert_eq!(found.len(), 2);
    }
}

//! `[solve]`: keys computed so that a constraint holds.

use super::length::Length;
use crate::config::{
    ConfigError, ConfigErrors, Entry, Node, TrainStage, TrialConfig, did_you_mean, find, largest, leaves,
    not_a_key,
};
use model::ModelConfig;
use serde_json::Value;

/// Default relative distance from the goal that is accepted.
const TOLERANCE: f64 = 0.02;

/// Sizes of the model that can be solved for; the number of parameters grows with each of them.
pub(super) const SIZES: [&str; 6] = [
    "model.d_model",
    "model.n_layers",
    "model.head_dim",
    "model.hidden_dim",
    "model.expert_hidden_dim",
    "model.vocab_size",
];

/// The largest accepted `multiple_of`.
pub(super) const MAX_MULTIPLE: u64 = 1 << 20;

/// A key that is computed so that a constraint holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Solve {
    /// The key.
    pub key: String,
    /// Where it was written.
    pub place: String,
    /// The constraint.
    pub goal: Goal,
}

/// A constraint on a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// A number of parameters, reached by a size of the model.
    Weights(Weights),
    /// Operations or time of a training stage, reached by its length.
    Length(Length),
}

/// Which parameters of a model are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParamCount {
    /// All of them.
    All,
    /// Those that one token passes through.
    Active,
    /// All except the embedding and an untied head.
    NonEmbedding,
}

impl ParamCount {
    /// Each variant with its name in a constraint.
    pub(super) const NAMES: [(Self, &str); 3] = [
        (Self::All, "params"),
        (Self::Active, "active_params"),
        (Self::NonEmbedding, "non_embedding_params"),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(counted, _)| *counted)
    }

    fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    fn of(self, model: &ModelConfig) -> usize {
        match self {
            Self::All => model.params(),
            Self::Active => model.active_params(),
            Self::NonEmbedding => model.non_embedding_params(),
        }
    }
}

/// A number of parameters to be reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Which parameters are counted.
    of: ParamCount,
    /// The wanted number of parameters.
    count: f64,
    /// The size must be a multiple of this.
    multiple_of: u64,
    /// Relative distance from the goal that is accepted.
    tolerance: f64,
}

impl Solve {
    /// Computes the key, sets it and returns its value; or explains why there is none. Tokens that follow from a number of
    /// operations are null: they depend on the data.
    pub fn apply(&self, config: &mut TrialConfig) -> Result<Value, String> {
        match &self.goal {
            Goal::Weights(goal) => goal.solve(&self.key, &mut config.model),
            Goal::Length(length) => length.solve(config),
        }
    }

    /// Why the constraint does not work in a sweep that varies these keys; `None` if it does.
    pub fn problem<'a>(&self, varied: impl Iterator<Item = &'a str>) -> Option<String> {
        match &self.goal {
            Goal::Weights(_) => None,
            Goal::Length(length) => length.problem(varied),
        }
    }

    /// Whether the key is a size of the model.
    pub fn is_shape(&self) -> bool {
        matches!(self.goal, Goal::Weights(_))
    }
}

impl Weights {
    fn solve(&self, key: &str, model: &mut ModelConfig) -> Result<Value, String> {
        if key == "model.expert_hidden_dim" && !model.is_moe() {
            return Err("has no effect on a dense model, expected model.n_experts of 1 or more".into());
        }
        if key == "model.hidden_dim" && model.is_moe() && model.expert_hidden_dim.is_some() {
            return Err("has no effect where model.expert_hidden_dim is set".into());
        }
        if key == "model.vocab_size" && self.of == ParamCount::NonEmbedding {
            return Err(format!("has no effect on {}, expected another size", self.of.name()));
        }
        let heads = 2 * model.n_heads as u64;
        let step = match key {
            "model.d_model" if model.head_dim.is_none() => lcm(self.multiple_of, heads),
            "model.head_dim" => lcm(self.multiple_of, 2), // rotary embeddings rotate pairs
            _ => self.multiple_of,
        };
        let most = largest(key).unwrap_or(u64::MAX) / step;
        let what = if step == 1 { "value".into() } else { format!("multiple of {step}") };
        if most == 0 {
            return Err(format!(
                "no {what} is small enough, expected multiple_of and n_heads to fit together"
            ));
        }
        // The count grows with the size: the goal lies between two neighbours.
        let mut count = |multiple: u64| self.count_with(key, multiple * step, model);
        let (mut below, mut above) = (0, most + 1);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            if count(middle) < self.count { below = middle } else { above = middle }
        }
        let neighbours = [below, above].into_iter().filter(|multiple| (1..=most).contains(multiple));
        let distance = |counted: f64| (counted - self.count).abs() / self.count;
        let Some((counted, multiple)) = neighbours
            .map(|multiple| (count(multiple), multiple))
            .min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)))
        else {
            return Err(format!("no {what} is possible"));
        };
        let size = multiple * step;
        self.count_with(key, size, model);
        if distance(counted) <= self.tolerance {
            return Ok(size.into());
        }
        let goal = self.of.name();
        let side = if counted < self.count { "fewer" } else { "more" };
        let why = match key {
            "model.d_model" if step != self.multiple_of => {
                format!(" (of multiple_of = {} and of 2 n_heads = {heads})", self.multiple_of)
            }
            _ => String::new(),
        };
        Err(format!(
            "no {what}{why} gives {goal} = {} within {} %; the nearest, {size}, gives {counted}, {:.1} % {side}",
            self.count,
            percent(self.tolerance),
            100.0 * distance(counted),
        ))
    }

    /// Sets the size and counts the parameters.
    fn count_with(&self, key: &str, size: u64, model: &mut ModelConfig) -> f64 {
        let size = size as usize;
        match key {
            "model.d_model" => model.d_model = size,
            "model.n_layers" => model.n_layers = size,
            "model.head_dim" => model.head_dim = Some(size),
            "model.hidden_dim" => model.hidden_dim = Some(size),
            "model.expert_hidden_dim" => model.expert_hidden_dim = Some(size),
            _ => model.vocab_size = size,
        }
        self.of.of(model) as f64
    }
}

fn lcm(a: u64, b: u64) -> u64 {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    a / gcd(a, b) * b
}

fn percent(share: f64) -> f64 {
    (1e6 * share).round() / 1e4
}

/// Parses `[solve]`.
pub fn read(entries: &[Entry], errors: &mut ConfigErrors) -> Vec<Solve> {
    let mut solves: Vec<Solve> = Vec::new();
    for (key, place, node) in leaves(entries, errors) {
        match read_key(&key, &node) {
            Ok(goal) => {
                let earlier = solves.iter().find(|solve| solve.is_shape());
                match (earlier, &goal) {
                    (Some(earlier), Goal::Weights(_)) => {
                        let problem = format!(
                            "{} is solved for a number of weights already, expected one such key",
                            earlier.key
                        );
                        errors.push(ConfigError::new(place, key, problem));
                    }
                    _ => solves.push(Solve { key, place, goal }),
                }
            }
            Err(problem) => errors.push(ConfigError::new(place, key, problem)),
        }
    }
    // Model sizes first: cost and speed depend on them.
    solves.sort_by_key(|solve| !solve.is_shape());
    solves
}

fn read_key(key: &str, node: &Node) -> Result<Goal, String> {
    if find(key).is_none() {
        return Err(not_a_key(key));
    }
    if let Some(stage) = key.strip_suffix(".tokens").and_then(TrainStage::named) {
        return Ok(Goal::Length(Length::read(stage, node)?));
    }
    if !SIZES.contains(&key) {
        return Err(format!("cannot be solved, expected {} or the tokens of a stage", SIZES.join(", ")));
    }
    let expected = "{ params = N }, { active_params = N } or { non_embedding_params = N }, with multiple_of and tolerance as needed";
    let entries = node.table().ok_or_else(|| format!("is {}, expected {expected}", node.shown))?;
    let (mut goals, mut multiple_of, mut tolerance) = (Vec::new(), 1, TOLERANCE);
    for Entry { key: name, node, .. } in entries {
        let wrong = |expected: &str| format!("{name} is {}, expected {expected}", node.shown);
        match name.as_str() {
            "multiple_of" => {
                multiple_of = node
                    .whole()
                    .filter(|number| (1..=MAX_MULTIPLE).contains(number))
                    .ok_or_else(|| wrong("a whole number of 1 to 1048576"))?;
            }
            "tolerance" => {
                tolerance = node
                    .number()
                    .filter(|number| (0.0..1.0).contains(number))
                    .ok_or_else(|| wrong("a share of 0 or more and below 1"))?;
            }
            _ => {
                let Some(of) = ParamCount::named(name) else {
                    let names = ParamCount::NAMES.map(|(_, name)| name).into_iter();
                    let hint = did_you_mean(name, names.chain(["multiple_of", "tolerance"]));
                    return Err(format!("{name} does not belong here, expected {expected}{hint}"));
                };
                let number = node.number().filter(|number| number.is_finite() && *number >= 1.0);
                goals.push((of, number.ok_or_else(|| wrong("a number of 1 or more"))?));
            }
        }
    }
    match goals.as_slice() {
        &[(of, count)] => Ok(Goal::Weights(Weights { of, count, multiple_of, tolerance })),
        _ => Err(format!("has {} constraints, expected {expected}", goals.len())),
    }
}

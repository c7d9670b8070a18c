//! Columns that every training stage has: `sft.val_loss`, `dpo.reward_accuracy`, `pretrain.tokens_per_second`.

use super::key_label::of_stage;
use super::quantity::{Better, Format, QUANTITIES};
use super::unavailable::disabled_message;
use crate::config::{TrainStage, TrialConfig, recipe};
use crate::records::{Trained, TrialRecord};
use std::sync::LazyLock;

/// Why a dense model has no measures of experts.
pub const NO_EXPERTS: &str = "the models have no experts; set model.n_experts";

/// A quantity that is measured for a stage.
#[derive(Debug)]
pub struct Measure {
    /// The column's name without the stage.
    pub name: &'static str,
    /// Description for the table of columns in the documentation.
    pub about: &'static str,
    label: &'static str,
    /// Whether higher or lower values are better; `None` if neither is.
    pub better: Option<Better>,
    /// Display format of its numbers.
    pub format: Format,
    /// Whether it measures the quality of a model rather than its cost.
    pub is_score: bool,
    /// The stages and models that have it.
    of: AppliesTo,
    read: fn(&Trained) -> Option<f64>,
}

/// Which stages of which trials have a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppliesTo {
    /// Every stage.
    All,
    /// Stages that train on tokens.
    Tokens,
    /// Stages that train on preferences.
    Preferences,
    /// Every stage, if the model has experts.
    Experts,
}

/// The measures, in the order of columns.
pub static MEASURES: [Measure; 15] = {
    use Better::{Higher, Lower};
    use Format::{Count, Fixed, Percent, Plain};
    const fn score(
        name: &'static str,
        about: &'static str,
        label: &'static str,
        (better, format): (Better, Format),
        of: AppliesTo,
        read: fn(&Trained) -> Option<f64>,
    ) -> Measure {
        Measure { name, about, label, better: Some(better), format, is_score: true, of, read }
    }
    const fn cost(
        name: &'static str,
        about: &'static str,
        label: &'static str,
        (better, format): (Option<Better>, Format),
        of: AppliesTo,
        read: fn(&Trained) -> Option<f64>,
    ) -> Measure {
        Measure { name, about, label, better, format, is_score: false, of, read }
    }
    [
        score(
            "val_loss",
            "held-out loss at the end of the stage, in nats per token; in nats per pair if it trains on preferences",
            "validation loss (nats per token)",
            (Lower, Fixed(3)),
            AppliesTo::All,
            |t| t.val_loss,
        ),
        score(
            "val_bpb",
            "`val_loss` in bits per byte, for stages that train on whole texts",
            "validation bits per byte",
            (Lower, Fixed(3)),
            AppliesTo::Tokens,
            |t| t.val_bpb,
        ),
        score(
            "perplexity",
            "exponential of `val_loss`",
            "validation perplexity",
            (Lower, Fixed(2)),
            AppliesTo::Tokens,
            |t| t.val_loss.map(f64::exp),
        ),
        score(
            "train_loss",
            "training loss, mean over the recorded steps of the last tenth",
            "training loss (nats per token)",
            (Lower, Fixed(3)),
            AppliesTo::All,
            |t| t.ending.train_loss,
        ),
        score(
            "reward_accuracy",
            "share of held-out pairs whose chosen answer has the higher reward",
            "reward accuracy (%)",
            (Higher, Percent),
            AppliesTo::Preferences,
            |t| t.ending.reward_accuracy,
        ),
        score(
            "reward_margin",
            "mean difference between the rewards of the chosen and the rejected answer",
            "reward margin",
            (Higher, Fixed(3)),
            AppliesTo::Preferences,
            |t| t.ending.reward_margin,
        ),
        cost(
            "max_expert_load",
            "share of a layer's routes that go to its most loaded expert, mean over layers and the last tenth of the steps",
            "largest expert load (%)",
            (Some(Lower), Percent),
            AppliesTo::Experts,
            |t| t.ending.max_expert_load,
        ),
        cost(
            "dead_experts",
            "experts that receive no token in a step, summed over layers; minimum over these steps",
            "dead experts",
            (Some(Lower), Count),
            AppliesTo::Experts,
            |t| t.ending.dead_experts.map(|dead| dead as f64),
        ),
        cost(
            "router_entropy",
            "entropy of the router's probabilities, mean over these steps",
            "router entropy (nats)",
            (None, Fixed(3)),
            AppliesTo::Experts,
            |t| t.ending.router_entropy,
        ),
        cost(
            "train_tokens",
            "target tokens trained on",
            "training tokens",
            (Some(Lower), Count),
            AppliesTo::All,
            |t| Some(t.tokens as f64),
        ),
        cost("train_steps", "optimizer steps", "training steps", (Some(Lower), Count), AppliesTo::All, |t| {
            Some(t.steps as f64)
        }),
        cost(
            "train_flops",
            "floating-point operations",
            "training FLOPs",
            (Some(Lower), Plain),
            AppliesTo::All,
            |t| Some(t.flops),
        ),
        cost(
            "tokens_per_second",
            "target tokens per second of training, including validations on the way",
            "speed (tokens/s)",
            (Some(Higher), Fixed(0)),
            AppliesTo::All,
            |t| t.ending.tokens_per_second,
        ),
        cost(
            "wall_seconds",
            "wall time of the stage run, over all attempts",
            "wall time (s)",
            (Some(Lower), Fixed(1)),
            AppliesTo::All,
            |t| Some(t.wall_seconds),
        ),
        cost(
            "peak_rss_mb",
            "peak memory of the stage run",
            "peak memory (MiB)",
            (Some(Lower), Fixed(0)),
            AppliesTo::All,
            |t| Some(t.peak_rss_mb),
        ),
    ]
};

/// The column of a measure of one stage.
#[derive(Debug)]
pub struct StageColumn {
    /// The training stage.
    pub stage: TrainStage,
    /// What is measured of it.
    pub measure: &'static Measure,
    /// The column's name: `sft.val_loss`.
    pub name: String,
    /// Label in axes and tables, with its unit in parentheses.
    pub label: String,
}

impl StageColumn {
    /// All such columns, stage by stage.
    pub fn all() -> &'static [Self] {
        static ALL: LazyLock<Vec<StageColumn>> = LazyLock::new(|| {
            let of = |stage: TrainStage| {
                let has = move |measure: &&Measure| match measure.of {
                    AppliesTo::All | AppliesTo::Experts => true,
                    AppliesTo::Preferences => stage.compares_answers(),
                    AppliesTo::Tokens => !stage.compares_answers(),
                };
                MEASURES.iter().filter(has).map(move |measure| StageColumn {
                    stage,
                    measure,
                    name: format!("{}.{}", stage.name(), measure.name),
                    label: label(stage, measure),
                })
            };
            TrainStage::all().flat_map(of).collect()
        });
        &ALL
    }

    /// Value for a trial; `None` if the stage has not finished or its record lacks a finite value.
    pub fn of(&self, trial: &TrialRecord) -> Option<f64> {
        let record = trial.stages.iter().find(|record| record.stage == self.stage.name())?;
        (self.measure.read)(record.trained.as_ref()?).filter(|value| value.is_finite())
    }

    /// The label with the stage, also where the stage is pretraining.
    pub fn label_with_stage(&self) -> String {
        match self.stage {
            TrainStage::Pretrain if !self.label.starts_with(self.stage.spec().label) => {
                format!("{} {}", self.stage.spec().label, self.label)
            }
            _ => self.label.clone(),
        }
    }

    /// Why a trial with this configuration cannot have a value; `None` if it can.
    pub fn lack(&self, config: &TrialConfig) -> Option<String> {
        if !recipe(config).contains(&self.stage) {
            return Some(disabled_message(self.stage.name()));
        }
        let is_dense = self.measure.of == AppliesTo::Experts && !config.model.is_moe();
        is_dense.then(|| NO_EXPERTS.into())
    }
}

/// Label of a column. It names the stage if that is not pretraining; of pretraining, only if a cost over all stages has
/// the same label.
fn label(stage: TrainStage, measure: &Measure) -> String {
    let of_pairs = measure.label.replace("nats per token", "nats per pair");
    let label = if stage.compares_answers() { of_pairs.as_str() } else { measure.label };
    let is_of_all = QUANTITIES.iter().any(|quantity| quantity.label == measure.label);
    match stage {
        TrainStage::Pretrain if is_of_all && !measure.is_score => {
            format!("pretraining {}", label.strip_prefix("training ").unwrap_or(label))
        }
        _ => of_stage(stage, label),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::records::{Ending, StageRecord, Status};
    use crate::report::columns::Column;
    use crate::report::tests::trial;

    #[test]
    fn every_stage_has_the_measures_that_mean_something() {
        for (name, label) in [
            ("pretrain.val_loss", "validation loss (nats per token)"),
            ("pretrain.train_tokens", "pretraining tokens"),
            ("pretrain.wall_seconds", "pretraining wall time (s)"),
            ("pretrain.tokens_per_second", "speed (tokens/s)"),
            ("sft.val_loss", "SFT validation loss (nats per token)"),
            ("sft_multi.perplexity", "multi-turn SFT validation perplexity"),
            ("dpo.val_loss", "DPO validation loss (nats per pair)"),
            ("dpo.reward_accuracy", "DPO reward accuracy (%)"),
            ("lora.dead_experts", "LoRA dead experts"),
        ] {
            assert_eq!(Column::find(name).unwrap().label(), label);
        }
        for name in ["dpo.perplexity", "sft.reward_margin", "exam.val_loss"] {
            assert!(Column::find(name).is_err(), "{name}");
        }
        let problem = Column::find("sft.val_lss").unwrap_err();
        assert_eq!(problem, "there is no \"sft.val_lss\"; did you mean sft.val_loss?");
        // No column has the name of a key.
        for column in StageColumn::all() {
            assert!(crate::config::find(&column.name).is_none(), "{}", column.name);
        }
    }

    #[test]
    fn measures_are_read_from_the_record_and_missing_ones_are_nothing() {
        let mut of = trial(1, 2, 24, Status::Done);
        let ending = Ending { reward_margin: Some(0.5), train_loss: Some(f64::NAN), ..Ending::default() };
        let dpo = Trained { steps: 7, val_loss: Some(0.25), wall_seconds: 3.5, ending, ..Trained::default() };
        of.stages.push(StageRecord { stage: "dpo".into(), trained: Some(dpo), ..StageRecord::default() });
        let read = |name: &str| StageColumn::all().iter().find(|column| column.name == name).unwrap().of(&of);
        assert_eq!(read("dpo.val_loss"), Some(0.25));
        assert_eq!(read("dpo.train_steps"), Some(7.0));
        assert_eq!(read("dpo.wall_seconds"), Some(3.5));
        assert_eq!(read("dpo.reward_margin"), Some(0.5));
        // Not a number; not recorded; recorded by an older version; not run.
        let missing = ["dpo.train_loss", "dpo.reward_accuracy", "pretrain.val_loss", "sft.val_loss"];
        assert_eq!(missing.map(read), [None; 4]);
    }

    #[test]
    fn what_no_trial_can_have_is_reported_with_its_remedy() {
        let lack = |name: &str, config: &TrialConfig| {
            StageColumn::all().iter().find(|column| column.name == name).unwrap().lack(config)
        };
        let mut config = TrialConfig::default();
        assert_eq!(lack("sft.val_loss", &config), None);
        assert!(lack("lora.val_loss", &config).unwrap().ends_with("set lora.enabled = true"));
        assert!(lack("sft.dead_experts", &config).unwrap().contains("no experts"));
        config.model.n_experts = 4;
        assert_eq!(lack("sft.dead_experts", &config), None);
    }
}

//! What every stage that trains has columns of: `sft.val_loss`, `dpo.reward_accuracy`, `pretrain.tokens_per_second`.

use super::lack::off;
use super::quantity::{Better, Format, QUANTITIES};
use super::words::of_stage;
use crate::config::{TrainStage, TrialConfig, recipe};
use crate::records::{Trained, TrialRecord};
use std::sync::LazyLock;

/// Why a dense model has no value of what experts do.
pub const NO_EXPERTS: &str = "the models have no experts; set model.n_experts";

/// Something measured of a stage.
#[derive(Debug)]
pub struct Measure {
    /// The end of the column's name.
    pub name: &'static str,
    /// What it is, for the table of columns in the documentation.
    pub about: &'static str,
    label: &'static str,
    /// Which values are better, where that can be said.
    pub better: Option<Better>,
    /// How its numbers are written.
    pub format: Format,
    /// Whether it says how good a model is, and not what it cost.
    pub is_score: bool,
    /// What has it.
    of: Has,
    read: fn(&Trained) -> Option<f64>,
}

/// Which stages of which trials have a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Has {
    /// Every stage.
    All,
    /// Stages that learn tokens.
    Tokens,
    /// Stages that learn from preferences.
    Preferences,
    /// Every stage, of models with experts.
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
        of: Has,
        read: fn(&Trained) -> Option<f64>,
    ) -> Measure {
        Measure { name, about, label, better: Some(better), format, is_score: true, of, read }
    }
    const fn cost(
        name: &'static str,
        about: &'static str,
        label: &'static str,
        (better, format): (Option<Better>, Format),
        of: Has,
        read: fn(&Trained) -> Option<f64>,
    ) -> Measure {
        Measure { name, about, label, better, format, is_score: false, of, read }
    }
    [
        score(
            "val_loss",
            "held-out loss at the stage's end, of preferences in nats per pair",
            "validation loss (nats per token)",
            (Lower, Fixed(3)),
            Has::All,
            |t| t.val_loss,
        ),
        score(
            "val_bpb",
            "the same in bits per byte, where whole texts are learned",
            "validation bits per byte",
            (Lower, Fixed(3)),
            Has::Tokens,
            |t| t.val_bpb,
        ),
        score(
            "perplexity",
            "exponential of `val_loss`",
            "validation perplexity",
            (Lower, Fixed(2)),
            Has::Tokens,
            |t| t.val_loss.map(f64::exp),
        ),
        score(
            "train_loss",
            "loss on the batches trained on, mean over the recorded steps of the last tenth",
            "training loss (nats per token)",
            (Lower, Fixed(3)),
            Has::All,
            |t| t.ending.train_loss,
        ),
        score(
            "reward_accuracy",
            "share of held-out pairs whose chosen answer has the higher reward",
            "reward accuracy (%)",
            (Higher, Percent),
            Has::Preferences,
            |t| t.ending.reward_accuracy,
        ),
        score(
            "reward_margin",
            "mean margin of the chosen answer's reward",
            "reward margin",
            (Higher, Fixed(3)),
            Has::Preferences,
            |t| t.ending.reward_margin,
        ),
        cost(
            "max_expert_load",
            "share of a layer's routes that lead to its expert with the most, mean over layers and the last tenth of the steps",
            "largest load of an expert (%)",
            (Some(Lower), Percent),
            Has::Experts,
            |t| t.ending.max_expert_load,
        ),
        cost(
            "dead_experts",
            "experts of all layers that no route of a step leads to, at the fewest of these steps",
            "dead experts",
            (Some(Lower), Count),
            Has::Experts,
            |t| t.ending.dead_experts.map(|dead| dead as f64),
        ),
        cost(
            "router_entropy",
            "entropy of the router's probabilities there",
            "router entropy (nats)",
            (None, Fixed(3)),
            Has::Experts,
            |t| t.ending.router_entropy,
        ),
        cost(
            "train_tokens",
            "target tokens trained on",
            "training tokens",
            (Some(Lower), Count),
            Has::All,
            |t| Some(t.tokens as f64),
        ),
        cost("train_steps", "optimizer steps", "training steps", (Some(Lower), Count), Has::All, |t| {
            Some(t.steps as f64)
        }),
        cost(
            "train_flops",
            "floating-point operations",
            "training FLOPs",
            (Some(Lower), Plain),
            Has::All,
            |t| Some(t.flops),
        ),
        cost(
            "tokens_per_second",
            "target tokens over seconds, validations on the way among them",
            "speed (tokens/s)",
            (Some(Higher), Fixed(0)),
            Has::All,
            |t| t.ending.tokens_per_second,
        ),
        cost(
            "wall_seconds",
            "time of the stage run, all attempts together",
            "wall time (s)",
            (Some(Lower), Fixed(1)),
            Has::All,
            |t| Some(t.wall_seconds),
        ),
        cost(
            "peak_rss_mb",
            "its largest memory",
            "peak memory (MiB)",
            (Some(Lower), Fixed(0)),
            Has::All,
            |t| Some(t.peak_rss_mb),
        ),
    ]
};

/// A measure of one stage.
#[derive(Debug)]
pub struct OfStage {
    /// The stage.
    pub stage: TrainStage,
    /// The measure.
    pub measure: &'static Measure,
    /// The column's name: `sft.val_loss`.
    pub name: String,
    /// What axes and tables call it, with its unit.
    pub label: String,
}

impl OfStage {
    /// All of them, stage by stage.
    pub fn all() -> &'static [Self] {
        static ALL: LazyLock<Vec<OfStage>> = LazyLock::new(|| {
            let of = |stage: TrainStage| {
                let has = move |measure: &&Measure| match measure.of {
                    Has::All | Has::Experts => true,
                    Has::Preferences => stage.compares_answers(),
                    Has::Tokens => !stage.compares_answers(),
                };
                MEASURES.iter().filter(has).map(move |measure| OfStage {
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

    /// Its value, where the stage of that trial has finished and the record has it.
    pub fn of(&self, trial: &TrialRecord) -> Option<f64> {
        let record = trial.stages.iter().find(|record| record.stage == self.stage.name())?;
        (self.measure.read)(record.trained.as_ref()?).filter(|value| value.is_finite())
    }

    /// Why no trial of this configuration can have a value; `None` where it can.
    pub fn lack(&self, config: &TrialConfig) -> Option<String> {
        if !recipe(config).contains(&self.stage) {
            return Some(off(self.stage.name()));
        }
        let is_dense = self.measure.of == Has::Experts && !config.model.is_moe();
        is_dense.then(|| NO_EXPERTS.into())
    }
}

/// Of later stages it says whose it is; of pretraining where all stages together have the same.
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
        // No two columns have one name, nor a column that of a key.
        for column in OfStage::all() {
            assert!(crate::config::find(&column.name).is_none(), "{}", column.name);
        }
    }

    #[test]
    fn measures_are_read_from_the_record_and_missing_ones_are_nothing() {
        let mut of = trial(1, 2, 24, Status::Done);
        let ending = Ending { reward_margin: Some(0.5), train_loss: Some(f64::NAN), ..Ending::default() };
        let dpo = Trained { steps: 7, val_loss: Some(0.25), wall_seconds: 3.5, ending, ..Trained::default() };
        of.stages.push(StageRecord { stage: "dpo".into(), trained: Some(dpo), ..StageRecord::default() });
        let read = |name: &str| OfStage::all().iter().find(|column| column.name == name).unwrap().of(&of);
        assert_eq!(read("dpo.val_loss"), Some(0.25));
        assert_eq!(read("dpo.train_steps"), Some(7.0));
        assert_eq!(read("dpo.wall_seconds"), Some(3.5));
        assert_eq!(read("dpo.reward_margin"), Some(0.5));
        // Not a number; not recorded; recorded by an older version; not run.
        let missing = ["dpo.train_loss", "dpo.reward_accuracy", "pretrain.val_loss", "sft.val_loss"];
        assert_eq!(missing.map(read), [None; 4]);
    }

    #[test]
    fn what_no_trial_can_have_is_told_with_its_remedy() {
        let lack = |name: &str, config: &TrialConfig| {
            OfStage::all().iter().find(|column| column.name == name).unwrap().lack(config)
        };
        let mut config = TrialConfig::default();
        assert_eq!(lack("sft.val_loss", &config), None);
        assert!(lack("lora.val_loss", &config).unwrap().ends_with("set lora.enabled = true"));
        assert!(lack("sft.dead_experts", &config).unwrap().contains("no experts"));
        config.model.n_experts = 4;
        assert_eq!(lack("sft.dead_experts", &config), None);
    }
}

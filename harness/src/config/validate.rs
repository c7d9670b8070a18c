//! Checks of a whole trial that no single type can make.

use super::{Source, Training, TrialConfig};
use crate::run::stage::{recipe, training_of};

impl TrialConfig {
    /// Every problem of this configuration: its key, what is wrong, what was expected.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = vec![];
        let mut check = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        if let Err(e) = self.model.validate() {
            check(false, e.to_string());
        }
        let device = self.device == "cpu" || self.device == "cuda" || self.device.starts_with("cuda:");
        check(device, format!("device: is {:?}, expected cpu or cuda:N", self.device));
        let share = self.data.val_share;
        check(
            (0.0..1.0).contains(&share),
            format!("data.val_share: is {share}, expected 0 or more and below 1"),
        );
        let seen = self.world.seen_share;
        check(
            seen > 0.0 && seen < 1.0,
            format!("world.seen_share: is {seen}, expected more than 0 and less than 1"),
        );
        check(self.world.people >= 4, format!("world.people: is {}, expected at least 4", self.world.people));
        let most = crate::data::world::World::MOST_PEOPLE;
        check(
            self.world.people <= most,
            format!("world.people: is {}, expected at most {most}", self.world.people),
        );
        let recipe = recipe(self);
        check(!recipe.is_empty(), "every training stage is left out; set enabled = true for one".into());
        for &stage in &recipe {
            let name = format!("{stage:?}").to_lowercase();
            training(&mut check, &name, training_of(self, stage));
            if self.data.source == Source::Files {
                let files = match stage {
                    super::TrainStage::Pretrain => &self.data.pretrain,
                    super::TrainStage::Lora if !self.data.lora.is_empty() => &self.data.lora,
                    super::TrainStage::Sft | super::TrainStage::Lora => &self.data.sft,
                    super::TrainStage::Dpo => &self.data.dpo,
                };
                let data = if name == "lora" { "sft" } else { &name };
                check(!files.is_empty(), format!("data.{data}: names no files, but {name} is enabled"));
            }
        }
        for stage in &self.exam.after {
            let name = format!("{stage:?}").to_lowercase();
            check(recipe.contains(stage), format!("exam.after: {name} is not an enabled stage"));
        }
        if self.exam.enabled && self.data.source == Source::Files {
            check(
                self.exam.sheets.is_some(),
                "exam.sheets: expected a folder of question sheets, or exam.enabled = false".into(),
            );
        }
        check(
            self.exam.shots == 0 || self.exam.dev_sheets.is_some(),
            "exam.dev_sheets: expected a folder of solved sheets, since exam.shots is not 0".into(),
        );
        if self.lora.training.enabled {
            check(self.lora.rank > 0, "lora.rank: is 0, expected at least 1".into());
            check(!self.lora.targets.is_empty(), "lora.targets: is empty, expected some projections".into());
            for target in &self.lora.targets {
                let known = model::lora::TARGETS;
                check(
                    known.contains(&target.as_str()),
                    format!("lora.targets: {target:?} is not one of {known:?}"),
                );
            }
        }
        check(self.dpo.beta > 0.0, format!("dpo.beta: is {}, expected more than 0", self.dpo.beta));
        problems
    }
}

fn training(check: &mut impl FnMut(bool, String), name: &str, t: &Training) {
    let mut positive = |key: &str, value: f64| {
        check(value.is_finite() && value > 0.0, format!("{name}.{key}: is {value}, expected more than 0"));
    };
    positive("lr", t.lr);
    positive("eps", t.eps);
    positive("epochs", t.epochs);
    positive("batch_size", t.batch_size as f64);
    positive("accumulation", t.accumulation as f64);
    positive("lanes", t.lanes as f64);
    for (key, value) in [("beta1", t.beta1), ("beta2", t.beta2)] {
        check(
            (0.0..1.0).contains(&value),
            format!("{name}.{key}: is {value}, expected 0 or more and below 1"),
        );
    }
    for (key, value) in [("min_lr_ratio", t.min_lr_ratio), ("decay_share", t.decay_share)] {
        check((0.0..=1.0).contains(&value), format!("{name}.{key}: is {value}, expected 0 to 1"));
    }
    for (key, value) in [("weight_decay", t.weight_decay), ("clip", t.clip)] {
        check(value.is_finite() && value >= 0.0, format!("{name}.{key}: is {value}, expected 0 or more"));
    }
    check(t.seq_len >= 2, format!("{name}.seq_len: is {}, expected at least 2", t.seq_len));
}

//! Values that a trial cannot have, by its configuration: measures of stages, exams and validation sets that it lacks.

use super::Column;
use super::stage_column::NO_EXPERTS;
use crate::config::{Source, TrainStage, TrialConfig, did_you_mean, recipe};

const WITHOUT_SETS: &str = "data.source = \"world\" has no named validation sets";

/// Message that a part of the recipe is disabled, with the remedy.
pub fn disabled_message(part: &str) -> String {
    format!("{part} is not part of the recipe; set {part}.enabled = true")
}

/// Why a trial with this configuration will have no value in a measured column; `None` if it may have one.
pub fn of_column(column: &Column, config: &TrialConfig) -> Option<String> {
    if let Some(column) = column.of_stage() {
        return column.lack(config);
    }
    match column.name() {
        "val_loss" | "val_bpb" => of_validation(config),
        "capacity_bits" | "capacity_ratio" if config.data.source != Source::Capacity => {
            Some(format!("data.source = {:?}, expected \"capacity\"", config.data.source.word()))
        }
        name @ ("stage" | "at" | "averaged" | "subject" | "group" | "expert") => of_exam(name, config),
        name if name.starts_with("exam_") => of_exam(name, config),
        name => match name.split_once('.') {
            Some(("val_loss" | "val_bpb", set)) => of_set(set, config),
            _ => None,
        },
    }
}

/// Why a stage will have no curves; `None` if it may have them. `split` is as in the experiment file.
pub fn of_curves(stage: TrainStage, split: &str, config: &TrialConfig) -> Option<String> {
    let name = stage.name();
    if !recipe(config).contains(&stage) {
        return Some(disabled_message(name));
    }
    match config.data.source {
        Source::Files => {}
        Source::World if split == "sets" => {
            return Some(WITHOUT_SETS.into());
        }
        _ => return None,
    }
    let has_sets = || stage.val_files(&config.data).is_some_and(|(_, sets)| sets.names().next().is_some());
    match split {
        "sets" if !has_sets() => {
            Some(format!("no validation sets are named, as in data.{name}_val = {{ wiki = [\"FILE\"] }}"))
        }
        "sources" if stage.files(&config.data).1.names().next().is_none() => {
            Some(format!("no sources are named, as in data.{name} = {{ web = [\"FILE\"] }}"))
        }
        _ => None,
    }
}

fn of_exam(name: &str, config: &TrialConfig) -> Option<String> {
    let exam = &config.exam;
    if config.exams().is_empty() {
        return Some(disabled_message("exam"));
    }
    match name {
        "at" if exam.shares() == [1.0] => Some(
            "exam.at = [1.0]; expected further shares of a stage, as in exam.at = [0.25, 0.5, 1.0]".into(),
        ),
        "averaged" if exam.average_last < 2 => {
            Some(format!("exam.average_last = {}, expected 2 or more", exam.average_last))
        }
        "expert" | "exam_expert_load" | "exam_router_entropy" | "exam_specialization" => {
            (!config.model.is_moe()).then(|| NO_EXPERTS.into())
        }
        "exam_contaminated" | "exam_correct_clean" | "exam_questions_clean" | "exam_accuracy_clean" => {
            match (&exam.sheets, exam.contamination) {
                (None, _) => Some(
                    "exam.sheets is unset; only questions of sheets are searched for in training text".into(),
                ),
                (_, false) => Some("exam.contamination = false".into()),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Why there will be no validation loss, which is that of pretraining; `None` if there may be one.
fn of_validation(config: &TrialConfig) -> Option<String> {
    let data = &config.data;
    if !config.pretrain.training.enabled {
        return Some(disabled_message("pretrain"));
    }
    let is_held_out = TrainStage::Pretrain.val_files(data).is_some() || data.val_share > 0.0;
    let is_probe = !matches!(data.source, Source::World | Source::Files);
    (!is_held_out && !is_probe).then(|| "nothing is held out: data.val_share = 0".into())
}

fn of_set(set: &str, config: &TrialConfig) -> Option<String> {
    let data = &config.data;
    if !config.pretrain.training.enabled {
        return Some(disabled_message("pretrain"));
    }
    let sets = match data.source {
        Source::Files => TrainStage::Pretrain.val_files(data),
        Source::World => return Some(WITHOUT_SETS.into()),
        // A probe names its own sets.
        _ => return None,
    };
    let names: Vec<&str> = sets.into_iter().flat_map(|(_, sets)| sets.names()).collect();
    if names.contains(&set) {
        return None;
    }
    Some(match (names.is_empty(), did_you_mean(set, names.iter().copied())) {
        (true, _) => {
            format!("no validation set is named, as in data.pretrain_val = {{ {set} = [\"FILE\"] }}")
        }
        (false, hint) => format!("the sets of data.pretrain_val are {}{hint}", names.join(", ")),
    })
}

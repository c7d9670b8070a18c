//! Recipes that come with the program, selected by `--preset`.

use super::errors::{ConfigError, ConfigErrors};
use super::keys::any_of;
use super::layers::{Layer, document_layer};
use super::near::did_you_mean;

/// Names and TOML texts of the presets.
pub const PRESETS: &[(&str, &str)] =
    &[("minimind", include_str!("presets/minimind.toml")), ("small", include_str!("presets/small.toml"))];

/// Prefix of the places in presets, as in `preset small:3`.
const PLACE: &str = "preset ";

/// Returns whether a place is in a preset, and so not the user's text.
pub(super) fn is_place(place: &str) -> bool {
    place.starts_with(PLACE)
}

/// Returns the settings of a preset; `place` is where it was named.
pub(super) fn layer(name: &str, place: &str, errors: &mut ConfigErrors) -> Layer {
    if let Some((_, text)) = PRESETS.iter().find(|preset| preset.0 == name) {
        return document_layer(&format!("{PLACE}{name}"), text, errors);
    }
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.0).collect();
    let hint = did_you_mean(name, names.iter().copied());
    let problem = format!("there is no {name:?}, expected {}{hint}", any_of(&names));
    errors.push(ConfigError::new(place, "preset", problem));
    Layer::default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::config::*;

    fn preset(name: &str) -> TrialConfig {
        load(&Overrides { preset: Some(name.into()), ..Overrides::default() }).unwrap()
    }

    #[test]
    fn every_preset_is_valid() {
        for (name, _) in PRESETS {
            assert_ne!(preset(name), TrialConfig::default());
        }
    }

    #[test]
    fn minimind_is_the_published_26m_recipe() {
        let config = preset("minimind");
        assert_eq!(config.model.params(), 26_878_464);
        assert_eq!(config.model.init, model::Init::Minimind);
        assert_eq!((config.data.rows, config.data.history_chars), (RowStyle::Minimind, 256));
        let pretrain = &config.pretrain.training;
        assert_eq!((pretrain.batch_size, pretrain.seq_len, pretrain.accumulation), (64, 512, 8));
        assert_eq!((pretrain.lr, pretrain.min_lr_ratio, pretrain.clip), (2e-4, 0.1, 1.0));
        assert_eq!((pretrain.optimizer, pretrain.schedule), (OptimizerKind::Adam, Schedule::Cosine));
        assert_eq!((config.sft.training.lr, config.lora.training.lr), (1e-4, 1e-4));
        assert_eq!((config.dpo.training.lr, config.dpo.beta), (4e-5, 0.1));
        for training in [&config.pretrain.training, &config.sft.training, &config.dpo.training] {
            assert_eq!(training.packing, Packing::Single);
        }
    }
}

//! Labels of settings: the swept keys, and whatever else distinguishes two settings.

use crate::config::{TrialConfig, config_of, get, keys, plain, setting_key};
use crate::records::{TrialRecord, short_id};
use crate::report::columns::Names;
use crate::report::columns::key_label::with_value;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Maximum number of further keys in a label; if settings of two sweeps differ in more, the sweep's name is used instead.
const MAX_FURTHER: usize = 3;

/// Number of passes in which equal labels are resolved.
const ROUNDS: usize = 4;

/// Labels of settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels {
    /// Label of each setting, such as `n_layers=4 d_model=64`; no two are equal.
    pub by_setting: BTreeMap<Uuid, Label>,
    /// Swept and solved keys, and those that labels needed in addition; without the seed.
    pub keys: Vec<String>,
}

/// The label of a setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Label {
    /// As shown, with the labels of the experiment file for its keys: `Width 64, lr=0.001`.
    pub shown: String,
    /// By its keys alone, for CSV files: `d_model=64 lr=0.001`.
    pub keys: String,
}

/// A setting whose label is being built.
struct Named<'a> {
    setting: Uuid,
    trial: &'a TrialRecord,
    config: &'a Value,
    /// The configuration as a typed value; `None` if it cannot be parsed.
    whole: Option<TrialConfig>,
    keys: Vec<String>,
    after: String,
}

impl Labels {
    /// Builds the labels of the settings of some trials, each given with its configuration; `names` are the labels of keys.
    pub fn of(trials: &[(&TrialRecord, Value)], names: &Names) -> Self {
        let mut named: Vec<Named> = vec![];
        let mut keys: Vec<String> = vec![];
        for (trial, config) in trials {
            let own: Vec<String> =
                trial.keys.iter().map(|(key, _)| key.clone()).filter(|k| k != "seed").collect();
            for key in own.iter().filter(|key| !keys.contains(key)).cloned().collect::<Vec<_>>() {
                keys.push(key);
            }
            if !named.iter().any(|n| n.setting == trial.setting) {
                named.push(Named {
                    setting: trial.setting,
                    trial,
                    config,
                    whole: config_of(config.clone()).ok(),
                    keys: own,
                    after: String::new(),
                });
            }
        }
        // A key that distinguishes two settings may make one of them equal to a third.
        for _ in 0..ROUNDS {
            let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (i, one) in named.iter().enumerate() {
                alike.entry(one.text(" ", &|key, value| format!("{key}={value}"))).or_default().push(i);
            }
            for group in alike.into_values().filter(|group| group.len() > 1) {
                tell_apart(&mut named, &group, &mut keys);
            }
        }
        // Shortened, `pretrain.lr` and `sft.lr` would both be `lr`.
        let short = |key: &str| {
            let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_string();
            let is_alone = keys.iter().filter(|other| last(other) == last(key)).count() < 2;
            if is_alone { last(key) } else { key.into() }
        };
        let by_key = |key: &str, value: &str| format!("{}={value}", short(key));
        let by_name = |key: &str, value: &str| match names.given(key) {
            Some(name) => with_value(name, value),
            None => by_key(key, value),
        };
        let separator = if keys.iter().any(|key| names.given(key).is_some()) { ", " } else { " " };
        let label =
            |one: &Named| Label { shown: one.text(separator, &by_name), keys: one.text(" ", &by_key) };
        let mut labels: Vec<Label> = named.iter().map(label).collect();
        // Two keys of one name may make two settings equal.
        let shown: BTreeSet<&str> = labels.iter().map(|label| label.shown.as_str()).collect();
        if shown.len() < labels.len() {
            labels.iter_mut().for_each(|label| label.shown.clone_from(&label.keys));
        }
        Self { by_setting: named.iter().map(|one| one.setting).zip(labels).collect(), keys }
    }
}

impl Named<'_> {
    fn value(&self, key: &str) -> String {
        plain(value(self.trial, self.config, key).unwrap_or(&Value::Null))
    }

    /// Whether taking the other's value of a key makes this a different setting; keys of logging or the machine do not.
    fn changes_with(&self, other: &Self, key: &str) -> bool {
        let Some(config) = &self.whole else { return true };
        let mut changed = TrialConfig::clone(config);
        let value = get(other.config, key).cloned().unwrap_or(Value::Null);
        changed.set(key, value).is_err() || setting_key(&changed) != setting_key(config)
    }

    fn text(&self, separator: &str, part: &dyn Fn(&str, &str) -> String) -> String {
        let parts: Vec<String> = self.keys.iter().map(|key| part(key, &self.value(key))).collect();
        let text = if parts.is_empty() { self.trial.sweeps.join("+") } else { parts.join(separator) };
        text + &self.after
    }
}

/// The value of a key: the swept one, else that of the configuration.
pub fn value<'a>(trial: &'a TrialRecord, config: &'a Value, key: &str) -> Option<&'a Value> {
    let varied = trial.keys.iter().find(|(k, _)| k == key).map(|(_, value)| value);
    varied.or_else(|| get(config, key))
}

/// Adds to settings with equal labels the keys in which they differ, or their sweep's name if that is shorter; if no key
/// differs, the sweep's name or the setting's short id.
fn tell_apart(named: &mut [Named], group: &[usize], all_keys: &mut Vec<String>) {
    let values =
        |named: &[Named], key: &str| -> Vec<String> { group.iter().map(|&i| named[i].value(key)).collect() };
    let is_distinct = |texts: &[String]| {
        let mut sorted = texts.to_vec();
        sorted.sort();
        sorted.dedup();
        sorted.len() == texts.len()
    };
    let differs = |key: &str| {
        let matters = |pair: &[usize]| {
            let (a, b) = (&named[pair[0]], &named[pair[1]]);
            a.value(key) != b.value(key) && (a.changes_with(b, key) || b.changes_with(a, key))
        };
        key != "seed" && group.windows(2).any(matters)
    };
    let differing: Vec<&str> = keys().map(|key| key.path.as_str()).filter(|key| differs(key)).collect();
    let sweeps: Vec<String> = group.iter().map(|&i| named[i].trial.sweeps.join("+")).collect();
    if differing.is_empty() || differing.len() > MAX_FURTHER && is_distinct(&sweeps) {
        for (&i, sweep) in group.iter().zip(&sweeps) {
            let id = if is_distinct(&sweeps) { sweep.clone() } else { short_id(named[i].setting) };
            named[i].after = format!(" ({id})");
        }
        return;
    }
    // All differing keys if they are few, else as many as distinguish the settings.
    let mut texts = vec![String::new(); group.len()];
    for key in differing.iter().copied() {
        if differing.len() > MAX_FURTHER && is_distinct(&texts) {
            break;
        }
        for ((text, value), &i) in texts.iter_mut().zip(values(named, key)).zip(group) {
            text.push_str(&format!(" {key}={value}"));
            if !named[i].keys.iter().any(|known| known == key) {
                named[i].keys.push(key.into());
            }
        }
        if !all_keys.iter().any(|known| known == key) {
            all_keys.push(key.into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{ConfigErrors, parse};
    use crate::records::Status;
    use crate::report::tests::trial;

    fn labels(trials: &[TrialRecord]) -> (Vec<String>, Vec<String>) {
        let read: Vec<(&TrialRecord, Value)> =
            trials.iter().map(|trial| (trial, toml::from_str(&trial.config).unwrap())).collect();
        let labels = Labels::of(&read, &Names::default());
        (trials.iter().map(|t| labels.by_setting[&t.setting].keys.clone()).collect(), labels.keys)
    }

    fn of(setting: u128, sweep: &str, keys: &[(&str, Value)], config: &TrialConfig) -> TrialRecord {
        let keys = keys.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
        let (setting, config) = (Uuid::from_u128(setting), toml::to_string(config).unwrap());
        TrialRecord { setting, sweeps: vec![sweep.into()], keys, config, ..trial(1, 2, 24, Status::Done) }
    }

    fn config(change: impl FnOnce(&mut TrialConfig)) -> TrialConfig {
        let mut config = TrialConfig::default();
        change(&mut config);
        config
    }

    #[test]
    fn settings_of_two_sweeps_are_told_apart_by_what_differs() {
        let layers = |n: u64| [("model.n_layers", Value::from(n)), ("seed", 1.into())];
        let narrow = config(|c| c.model.d_model = 32);
        // Keys of the machine, of logging and of a disabled stage make no difference.
        let wide = config(|c| {
            (c.model.d_model, c.threads, c.pretrain.training.log_every) = (64, 3, 7);
            c.lora.rank = 3;
        });
        let (found, keys) = labels(&[
            of(1, "a", &layers(2), &narrow),
            of(2, "a", &layers(4), &narrow),
            of(3, "b", &layers(2), &wide),
            of(1, "b", &layers(2), &narrow),
        ]);
        let expected =
            ["n_layers=2 d_model=32", "n_layers=4", "n_layers=2 d_model=64", "n_layers=2 d_model=32"];
        assert_eq!(found, expected);
        assert_eq!(keys, ["model.n_layers", "model.d_model"]);
    }

    #[test]
    fn where_much_differs_the_sweep_says_it() {
        let rate = [("sft.lr", Value::from(0.5))];
        let (a, b) = (
            config(|c| c.model.d_model = 32),
            config(|c| {
                (c.model.d_model, c.model.n_layers, c.model.n_heads, c.world.people) = (64, 77, 16, 9);
            }),
        );
        assert_eq!(labels(&[of(1, "a", &rate, &a), of(2, "b", &rate, &b)]).0, ["lr=0.5 (a)", "lr=0.5 (b)"]);
        // Within one sweep, the first keys that distinguish them.
        let (found, _) = labels(&[of(1, "a", &rate, &a), of(2, "a", &rate, &b)]);
        assert!(
            found[0].starts_with("lr=0.5 ") && found[0] != found[1] && !found[0].contains('('),
            "{found:?}"
        );
        // No known key differs.
        let (found, _) = labels(&[of(1 << 96, "a", &rate, &a), of(2 << 96, "a", &rate, &a)]);
        assert_eq!(found, ["lr=0.5 (00000001)", "lr=0.5 (00000002)"]);
        assert_eq!(labels(&[of(1, "a", &[], &a)]).0, ["a"]);
    }

    #[test]
    fn labels_of_the_file_name_keys_where_settings_are_shown() {
        let names = |text: &str| {
            let mut errors = ConfigErrors::default();
            let names = Names::read(&parse("x.toml", text).unwrap(), &mut errors);
            errors.or(names).unwrap()
        };
        let (a, b) =
            ([("model.d_model", 16.into()), ("sft.lr", 0.5.into())], [("model.n_layers", 16.into())]);
        let trials = [of(1, "a", &a, &TrialConfig::default()), of(2, "a", &b, &TrialConfig::default())];
        let trials: Vec<(&TrialRecord, Value)> = trials.iter().map(|trial| (trial, Value::Null)).collect();
        let labels = |text: &str| -> Vec<Label> {
            Labels::of(&trials, &names(text)).by_setting.into_values().collect()
        };
        let label = |shown: &str, keys: &str| Label { shown: shown.into(), keys: keys.into() };
        assert_eq!(
            labels("'model.d_model' = 'Width (channels)'"),
            [label("Width 16 channels, lr=0.5", "d_model=16 lr=0.5"), label("n_layers=16", "n_layers=16")]
        );
        // With one name for two keys, settings would be equal.
        let (same, c) =
            ("'model.d_model' = 'Size'\n'model.n_layers' = 'Size'", [("model.d_model", 16.into())]);
        let alone = of(3, "a", &c, &TrialConfig::default());
        let two: Vec<(&TrialRecord, Value)> = vec![(&alone, Value::Null), trials[1].clone()];
        let shown: Vec<String> =
            Labels::of(&two, &names(same)).by_setting.into_values().map(|label| label.shown).collect();
        assert_eq!(shown, ["n_layers=16", "d_model=16"]);
    }

    #[test]
    fn two_keys_of_one_last_name_are_written_whole() {
        let rates = [("pretrain.lr", Value::from(0.1)), ("sft.lr", Value::from(0.5))];
        let found = labels(&[of(1, "a", &rates, &TrialConfig::default())]).0;
        assert_eq!(found, ["pretrain.lr=0.1 sft.lr=0.5"]);
    }
}

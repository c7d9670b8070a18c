//! When two configurations are the same setting, and the canonical form of JSON that names are made from.

use super::TrialConfig;
use super::effect::effective_in_trial;
use super::keys::keys;
use serde_json::Value;
use std::fmt::{self, Display};

/// Returns a text that is equal for equal settings and seeds: the canonical JSON of the configuration without the keys that
/// have no effect in it: where it runs, how often it records, and the keys of disabled stages. See `effect.rs`.
///
/// Trials are named by their stage runs instead (`plan/facts.rs`), as they also depend on the content of files.
pub fn setting_key(config: &TrialConfig) -> String {
    let values = keys().zip(effective_in_trial(config));
    let entries = values.filter_map(|(key, value)| Some((key.path.clone(), value?)));
    Canonical(&entries.collect()).to_string()
}

/// Displays JSON without spaces, with the keys of every object sorted and fractions in exponent notation, such as
/// `1.5e-3`.
pub struct Canonical<'a>(pub &'a Value);

impl Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut text = String::new();
        write_value(self.0, &mut text);
        f.write_str(&text)
    }
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Object(keys) => {
            let mut sorted: Vec<_> = keys.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write_entry(key, value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write_value(item, text);
            }
            text.push(']');
        }
        // Formatted here, so that names do not depend on a library's number format.
        Value::Number(number) if number.is_f64() => {
            *text += &format!("{:e}", number.as_f64().unwrap_or_default());
        }
        scalar => *text += &scalar.to_string(),
    }
}

/// Appends an entry of an object, as [`Canonical`] displays it.
pub fn write_entry(key: &str, value: &Value, text: &mut String) {
    match key.as_bytes().iter().any(|byte| matches!(byte, b'"' | b'\\' | ..b' ')) {
        true => *text += &Value::from(key).to_string(),
        false => {
            text.push('"');
            text.push_str(key);
            text.push('"');
        }
    }
    text.push(':');
    write_value(value, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SlurmConfig;
    use model::Device;
    use serde_json::json;

    #[test]
    fn canonical_json_is_sorted_and_tight() {
        let value = json!({ "b": [1, 0.00025, null], "a": { "d": "x\"y", "c": true } });
        assert_eq!(Canonical(&value).to_string(), r#"{"a":{"c":true,"d":"x\"y"},"b":[1,2.5e-4,null]}"#);
    }

    #[test]
    fn a_setting_is_what_is_trained_and_not_where() {
        let config = TrialConfig::default();
        let slurm = SlurmConfig { gres: Some("gpu:1".into()), ..SlurmConfig::default() };
        let elsewhere = TrialConfig { threads: 7, slurm, ..config.clone() };
        let on = |device: Device| TrialConfig { device, ..config.clone() };
        let other = TrialConfig { seed: 2, ..config.clone() };
        let mut chattier = config.clone();
        (chattier.sft.training.log_every, chattier.lora.rank) = (1, 3); // lora is disabled
        let mut slower = config.clone();
        slower.sft.training.lr /= 2.0;
        assert_eq!(setting_key(&config), setting_key(&elsewhere));
        // Results are exact on each kind of device, not between them.
        assert_eq!(setting_key(&on(Device::Cuda(None))), setting_key(&on(Device::Cuda(Some(1)))));
        assert_ne!(setting_key(&config), setting_key(&on(Device::Cuda(None))));
        assert_eq!(setting_key(&config), setting_key(&chattier));
        assert_ne!(setting_key(&config), setting_key(&slower));
        assert_ne!(setting_key(&config), setting_key(&other));
    }
}

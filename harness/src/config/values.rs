//! The values of a trial's keys as a flat list, and keys changed by their names.

use super::TrialConfig;
use super::keys::keys;
use foldhash::fast::FixedState;
use model::section::Table;
use serde::de::Error;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Returns the index of a key in the list of [`keys`].
pub fn index_of(key: &str) -> Option<usize> {
    static INDEX: OnceLock<HashMap<&str, usize, FixedState>> = OnceLock::new();
    let index = INDEX.get_or_init(|| keys().map(|key| key.path.as_str()).zip(0..).collect());
    index.get(key).copied()
}

impl TrialConfig {
    /// Returns the value of every key as JSON, in the order of [`keys`].
    pub fn values(&self) -> Vec<Value> {
        let Self {
            seed,
            device,
            precision,
            threads,
            model,
            tokenizer,
            data,
            world,
            hops,
            recall,
            capacity,
            pretrain,
            sft,
            sft_multi,
            lora,
            dpo,
            exam,
            slurm,
        } = self;
        let mut values = Vec::with_capacity(keys().count());
        values.extend([json!(seed), json!(device), json!(precision), json!(threads)]);
        let sections: [&dyn Table; 14] = [
            model, tokenizer, data, world, hops, recall, capacity, pretrain, sft, sft_multi, lora, dpo, exam,
            slurm,
        ];
        sections.iter().for_each(|section| section.put(&mut values));
        values
    }

    /// Gives a key another value, or a weight such as `data.mix.web`.
    ///
    /// # Errors
    /// If there is no such key, or the value does not fit it.
    pub fn set(&mut self, key: &str, value: Value) -> serde_json::Result<()> {
        let Some((section, name)) = key.split_once('.') else {
            return Table::set(self, key, value);
        };
        if let Some((table, weight)) = key.rsplit_once('.').filter(|(table, _)| *table != section) {
            let index = index_of(table).ok_or_else(|| Error::custom(format!("{table}: unknown key")))?;
            let mut weights = self.values().swap_remove(index);
            weights[weight] = value;
            return self.set(table, weights);
        }
        let section: &mut dyn Table = match section {
            "model" => &mut self.model,
            "tokenizer" => &mut self.tokenizer,
            "data" => &mut self.data,
            "world" => &mut self.world,
            "hops" => &mut self.hops,
            "recall" => &mut self.recall,
            "capacity" => &mut self.capacity,
            "pretrain" => &mut self.pretrain,
            "sft" => &mut self.sft,
            "sft_multi" => &mut self.sft_multi,
            "lora" => &mut self.lora,
            "dpo" => &mut self.dpo,
            "exam" => &mut self.exam,
            "slurm" => &mut self.slurm,
            _ => return Err(Error::custom(format!("{section}: unknown section"))),
        };
        section.set(name, value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Kind, get, set};

    #[test]
    fn values_stand_next_to_their_keys_and_are_set_by_them() {
        let mut config = TrialConfig::default();
        let mut tree = json!(config);
        for key in keys() {
            let value = match (&key.kind, &key.default) {
                (Kind::Bool, Value::Bool(old)) => json!(!old),
                (Kind::Whole, _) => json!(77),
                (Kind::Number, _) => json!(0.625),
                (Kind::Text, _) => json!("t"),
                (Kind::Device, _) => json!("cuda:1"),
                (Kind::Choice(words), _) => json!(words.last()),
                (Kind::List(kind), _) => match &**kind {
                    Kind::Choice(words) => json!([words[0]]),
                    Kind::Number => json!([0.5]),
                    _ => json!(["t"]),
                },
                (Kind::Sources, _) => json!({ "web": ["t"] }),
                (Kind::Weights, _) => json!({ "web": 0.5 }),
                other => panic!("{other:?}"),
            };
            set(&mut tree, &key.path, value.clone());
            config.set(&key.path, value).unwrap();
        }
        config.set("data.mix.books", json!(2.0)).unwrap();
        set(&mut tree, "data.mix.books", json!(2.0));
        assert_eq!(json!(config), tree);
        let values = config.values();
        assert_eq!(values.len(), keys().count());
        for (key, value) in keys().zip(&values) {
            assert_eq!(Some(value), get(&tree, &key.path), "{}", key.path);
            assert_eq!(Some(value), index_of(&key.path).map(|index| &values[index]));
        }
        for (key, value) in [("seeds", json!(1)), ("model.seed", json!(1)), ("seed", json!("x"))] {
            assert!(config.set(key, value).is_err(), "{key}");
        }
    }
}

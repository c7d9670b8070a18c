//! Files grouped by named source, and the weights by which sources are mixed.

use super::{DataConfig, Source, TrainStage, TrialConfig};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Files or globs: one list, or a list for each named source, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sources {
    /// One list without a name.
    Plain(Vec<String>),
    /// A list for each source name.
    Named(BTreeMap<String, Vec<String>>),
}

impl Sources {
    /// Value of `format` that marks this type in a JSON Schema.
    pub const FORMAT: &str = "sources";

    /// Returns whether there are no files.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(patterns) => patterns.is_empty(),
            Self::Named(sources) => sources.is_empty(),
        }
    }

    /// Returns each list with the name of its source; a plain list has none.
    pub fn lists(&self) -> Vec<(Option<&str>, &[String])> {
        match self {
            Self::Plain(patterns) if patterns.is_empty() => vec![],
            Self::Plain(patterns) => vec![(None, patterns)],
            Self::Named(sources) => {
                sources.iter().map(|(name, patterns)| (Some(name.as_str()), patterns.as_slice())).collect()
            }
        }
    }

    /// Iterates over the names of the sources; a plain list has none.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lists().into_iter().filter_map(|(name, _)| name)
    }

    /// Returns the files or globs of all lists.
    pub fn patterns(&self) -> Vec<String> {
        self.lists().into_iter().flat_map(|(_, patterns)| patterns).cloned().collect()
    }
}

impl Default for Sources {
    fn default() -> Self {
        Self::Plain(Vec::new())
    }
}

impl From<Vec<String>> for Sources {
    fn from(patterns: Vec<String>) -> Self {
        Self::Plain(patterns)
    }
}

impl JsonSchema for Sources {
    fn schema_name() -> Cow<'static, str> {
        "Sources".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let list = serde_json::json!({ "type": "array", "items": { "type": "string" } });
        json_schema!({
            "anyOf": [list, { "type": "object", "additionalProperties": list, "minProperties": 1 }],
            "format": Self::FORMAT,
        })
    }
}

/// Files or globs of one source, with the key that names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedFiles<'a> {
    /// The key, such as `data.pretrain`.
    pub key: &'static str,
    /// Name of the source, if the key has named sources.
    pub source: Option<&'a str>,
    /// The files or globs.
    pub patterns: &'a [String],
}

impl<'a> NamedFiles<'a> {
    /// Iterates over the lists of a key.
    pub fn of(key: &'static str, sources: &'a Sources) -> impl Iterator<Item = Self> {
        sources.lists().into_iter().map(move |(source, patterns)| Self { key, source, patterns })
    }
}

impl TrialConfig {
    /// Returns the files that these stages train and validate on, each key once; empty if the data is generated.
    pub fn files_of(&self, stages: &[TrainStage]) -> Vec<NamedFiles<'_>> {
        let mut found: Vec<NamedFiles> = vec![];
        if self.data.source == Source::Files {
            let of_stage = |stage: &TrainStage| {
                std::iter::once(stage.files(&self.data)).chain(stage.val_files(&self.data))
            };
            for (key, sources) in stages.iter().flat_map(of_stage) {
                if found.iter().all(|known| known.key != key) {
                    found.extend(NamedFiles::of(key, sources));
                }
            }
        }
        found
    }
}

/// Returns the key of a named list, such as `data.pretrain.web`; for a plain list, the key itself.
pub fn source_key(key: &str, name: Option<&str>) -> String {
    name.map_or_else(|| key.into(), |name| format!("{key}.{name}"))
}

/// Returns whether a source may have this name, so that keys and columns can contain it.
pub fn is_source_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

impl DataConfig {
    /// Returns the share of each source in the tokens that a stage trains on, by name: its weight in `data.mix` over
    /// the sum of the weights; `None` if the stage's sources are not mixed but read to their ends.
    pub fn shares(&self, stage: TrainStage) -> Option<Vec<(String, f64)>> {
        let (_, sources) = stage.files(self);
        let weights: Vec<(String, f64)> = sources
            .names()
            .map(|name| (name.to_string(), self.mix.get(name).copied().unwrap_or_default()))
            .collect();
        let is_mixed = sources.names().any(|name| self.mix.contains_key(name));
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        is_mixed.then(|| weights.into_iter().map(|(name, weight)| (name, weight / sum)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::TrialConfig;

    #[test]
    fn sources_are_a_list_or_lists_by_name_and_come_back_from_a_recorded_trial() {
        let mut config = TrialConfig::default();
        config.data.pretrain =
            toml::from_str::<BTreeMap<String, Sources>>("a = { web = ['b'], books = ['c', 'd'] }")
                .unwrap()
                .remove("a")
                .unwrap();
        config.data.sft = vec!["e".into()].into();
        config.data.mix = [("web".to_string(), 3.0), ("books".to_string(), 1.0)].into();
        let reread = TrialConfig::from_toml(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(reread, config);
        assert_eq!(config.data.pretrain.names().collect::<Vec<_>>(), ["books", "web"]);
        assert_eq!(config.data.pretrain.patterns(), ["c", "d", "b"]);
        assert_eq!((config.data.sft.names().count(), config.data.sft.patterns()), (0, vec!["e".into()]));
        assert!(Sources::default().is_empty() && Sources::default().lists().is_empty());
        let shares = config.data.shares(TrainStage::Pretrain).unwrap();
        assert_eq!(shares, [("books".to_string(), 0.25), ("web".to_string(), 0.75)]);
        assert_eq!(config.data.shares(TrainStage::Sft), None);
    }
}

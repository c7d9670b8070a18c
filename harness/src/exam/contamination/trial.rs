//! Search for exam questions in the text that a trial's model was trained on, from its prepared data.

use super::{Contamination, Found, Index, Place, cache};
use crate::config::{TrainStage, TrialConfig, recipe};
use crate::data::prepare::{Prepared, TRAIN};
use crate::data::{Store, Tokenizer};
use crate::exam::Sheet;
use crate::fsutil::read_text;
use anyhow::Result;
use serde::Deserialize;
use std::cell::LazyCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The part of `summary.json` that is read.
#[derive(Deserialize)]
struct Summary {
    prepared: Prepared,
}

/// Searches for the questions of an exam in all training rows of the stages up to `last`, whether or not training was long
/// enough, or had progressed far enough, to reach every row. `data` is the folder of the prepared data, which also caches
/// the result. Held-out rows and sources with a share of zero are excluded.
///
/// # Errors
/// If the prepared data cannot be read; [`crate::stop::Stopped`] once `stop` is set.
pub fn of_trial(
    config: &TrialConfig,
    last: TrainStage,
    data: &Path,
    tokenizer: &Tokenizer,
    sheets: &[Sheet],
    stop: &AtomicBool,
) -> Result<Contamination> {
    let index = Index::new(sheets);
    let spelled = LazyCell::new(|| Spelled::of(tokenizer));
    let mut found = Found::new();
    for stage in recipe(config).into_iter().filter(|stage| *stage <= last) {
        let search = || {
            let stage = Stage::open(stage, &data.join(stage.name()))?;
            index.find(stage.texts(&spelled).map(Ok), stop)
        };
        let shares = config.data.shares(stage);
        let is_trained_on = |source: &str| {
            let has_share = |(name, share): &(String, f64)| name == source && *share > 0.0;
            source.is_empty() || shares.as_ref().is_none_or(|shares| shares.iter().any(has_share))
        };
        let met = cache::of_stage(data, stage.name(), &index, stop, search)?;
        found.extend(met.into_iter().filter(|((_, place), _)| is_trained_on(&place.source)));
    }
    Ok(index.contamination(found))
}

/// Bytes of each token; special tokens become a line break, which separates texts.
struct Spelled(Vec<Vec<u8>>);

impl Spelled {
    fn of(tokenizer: &Tokenizer) -> Self {
        let spelled = tokenizer.spellings().into_iter().zip(tokenizer.token_bytes());
        Self(spelled.map(|(bytes, count)| if count == 0 { b"\n".to_vec() } else { bytes }).collect())
    }

    fn text(&self, ids: &[u32]) -> String {
        let bytes = ids.iter().filter_map(|&id| self.0.get(id as usize)).flatten().copied();
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }
}

/// Training documents of a stage.
struct Stage {
    store: Store,
    /// Range of documents of each place.
    places: Vec<(Arc<Place>, Range<usize>)>,
}

impl Stage {
    fn open(stage: TrainStage, dir: &Path) -> Result<Self> {
        let store = Store::open(&dir.join(TRAIN))?;
        // Data prepared by earlier versions does not record its files.
        let summary = read_text(&dir.join("summary.json"));
        let prepared = summary
            .ok()
            .and_then(|text| serde_json::from_str::<Summary>(&text).ok())
            .map(|found| found.prepared);
        let place = |source: &str, file: &str| {
            Arc::new(Place { stage: stage.name().into(), source: source.into(), file: file.into() })
        };
        let mut sources: Vec<(&str, u64)> =
            store.info().ranges().into_iter().map(|(name, range)| (name, range.len() as u64)).collect();
        if sources.is_empty() {
            sources.push(("", store.len() as u64));
        }
        let mut files = prepared.map_or(vec![], |prepared| prepared.files).into_iter().peekable();
        let (mut places, mut begin) = (vec![], 0);
        for (source, mut left) in sources {
            while left > 0 {
                let (file, documents) = match files.peek_mut() {
                    Some(file) if file.documents > left => {
                        file.documents -= left;
                        (file.path.clone(), left)
                    }
                    Some(_) => files.next().map(|file| (file.path, file.documents)).unwrap_or_default(),
                    None => (String::new(), left),
                };
                left -= documents;
                let end = begin + documents as usize;
                places.push((place(source, &file), begin..end));
                begin = end;
            }
        }
        Ok(Self { places, store })
    }

    fn texts<'a>(&'a self, spelled: &'a Spelled) -> impl Iterator<Item = (Arc<Place>, String)> + 'a {
        self.places.iter().flat_map(move |(place, documents)| {
            documents.clone().map(move |i| (Arc::clone(place), spelled.text(&self.store.document(i))))
        })
    }
}

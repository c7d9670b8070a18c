//! Training objectives: next tokens, or preferences.

use super::{Sums, TrainRequest};
use crate::config::{Packing, TrainStage, TrialConfig};
use crate::data::{
    BatchOptions, Batches, Dropped, Pair, Position, PreferenceBatches, RowLoss, RowSize, Store, TrainRow,
    sequential,
};
use crate::fsutil::write_atomic;
use crate::records::{Notice, SourceUse};
use anyhow::{Context, Result};
use model::preference::{DpoConfig, PairOutcome, answer_log_prob, dpo_loss, pair_loss};
use model::transformer::head::{Loss, LossValue};
use model::{Backend, Cost, Sequence, Trainer, Transformer};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The data of a stage and its loss.
pub enum Objective {
    /// Cross-entropy of the next token.
    Tokens {
        /// Training rows.
        batches: Batches,
        /// Held-out rows, each with the number of bytes of its text.
        held_out: HeldOut<(Sequence, f64)>,
        /// Whether the loss covers whole texts, so that bits per byte are meaningful.
        whole_text: bool,
    },
    /// Preferences between two answers.
    Preferences {
        /// Training pairs.
        batches: PreferenceBatches,
        /// Held-out pairs.
        held_out: HeldOut<Pair>,
        /// The reference model's log-probabilities of the chosen and the rejected answer of each pair.
        references: Vec<[f64; 2]>,
        /// The same for the held-out pairs.
        held_out_references: Vec<[f64; 2]>,
        /// Parameters of the loss.
        config: DpoConfig,
    },
}

/// The validation data of a stage.
pub struct HeldOut<T> {
    /// The rows, or pairs, of all validation sets.
    pub rows: Vec<T>,
    /// The name of each named set, and the range of its rows.
    pub sets: Vec<(String, Range<usize>)>,
    /// Rows, or pairs, that are left out or cut, with the name of their set if it has one.
    pub dropped: Vec<(Option<String>, Dropped)>,
}

/// The loss on held-out rows.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Sums of the losses and of what they are averaged over.
    pub sums: Sums,
    /// Bytes of the texts; `None` if the loss does not cover whole texts.
    pub bytes: Option<f64>,
}

impl Measured {
    /// Bits per byte of the texts, comparable between tokenizers.
    pub fn bpb(&self) -> Option<f64> {
        Some(self.sums.loss / std::f64::consts::LN_2 / self.bytes?)
    }
}

/// The result of a validation.
#[derive(Debug, Clone)]
pub struct Validation {
    /// On all held-out rows.
    pub all: Measured,
    /// On each named set.
    pub sets: Vec<(String, Measured)>,
}

impl Objective {
    /// Opens the stores of a stage.
    ///
    /// # Errors
    /// If a store cannot be read, or if there is nothing to train on.
    pub fn new(stage: TrainStage, trial: &TrialConfig, data: &Path) -> Result<Self> {
        let training = stage.training(trial);
        let (train, val) = (data.join("train"), data.join("val"));
        let (train, val) = (Arc::new(Store::open(&train)?), Store::open(&val)?);
        let (seq_len, seed) = (training.seq_len, trial.seed);
        let shares = trial.data.shares(stage);
        if let Some(section) = (stage.spec().preferences)(trial) {
            let batches = PreferenceBatches::new(&train, seq_len, seed, shares.as_deref())?;
            batches.ensure_any()?;
            return Ok(Self::Preferences {
                batches,
                held_out: held_out_pairs(&val, seq_len, seed)?,
                references: vec![],
                held_out_references: vec![],
                config: DpoConfig {
                    beta: section.beta,
                    loss: section.loss,
                    length_normalised: section.length_normalised,
                },
            });
        }
        let loss = RowLoss::of(&train, (stage.spec().answers)(trial));
        let whole_text = loss == RowLoss::Text;
        let options = BatchOptions { seq_len, packing: training.packing, loss, seed, shares };
        let held_out = held_out_rows(&val, &options, training.val_tokens);
        Ok(Self::Tokens { held_out, batches: Batches::new(train, options)?, whole_text })
    }

    /// Starts at the first batch of another seed, without reading the data again.
    pub fn reseed(&mut self, seed: u64) {
        match self {
            Self::Tokens { batches, .. } => batches.reseed(seed),
            Self::Preferences { batches, .. } => batches.reseed(seed),
        }
    }

    /// Notices about rows, or pairs, that the stage leaves out or cuts.
    pub fn notices(&self, stage: TrainStage) -> Vec<Notice> {
        let (dropped, held_out) = match self {
            Self::Tokens { batches, held_out, .. } => (batches.dropped(), &held_out.dropped),
            Self::Preferences { batches, held_out, .. } => (batches.dropped(), &held_out.dropped),
        };
        let of_set = |(name, dropped): &(Option<String>, Dropped)| {
            let set = name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
            let place = format!("{}, held out{set}", stage.name());
            let mut notices = dropped.notices(&place);
            if dropped.of > 0 && dropped.left() == 0 {
                let reason = "rows left: there is no validation loss".into();
                notices.push(Notice { place, reason, count: 0, of: dropped.of });
            }
            notices
        };
        dropped.notices(stage.name()).into_iter().chain(held_out.iter().flat_map(of_set)).collect()
    }

    /// What the first `rows` rows, or pairs, use of each named source.
    pub fn used(&self, rows: u64) -> Vec<SourceUse> {
        match self {
            Self::Tokens { batches, .. } => batches.used(rows),
            Self::Preferences { batches, .. } => batches.used(rows),
        }
    }

    /// Number of documents, or pairs, that a pass over the data orders; with sources in shares, about as many.
    pub fn documents(&self) -> usize {
        match self {
            Self::Tokens { batches, .. } => batches.documents(),
            Self::Preferences { batches, .. } => batches.pairs().len(),
        }
    }

    /// The size of every row, or pair, of a pass over the data, in order, for a model with an attention `window`.
    pub fn row_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        match self {
            Self::Tokens { batches, .. } => batches.row_sizes(epoch, window),
            Self::Preferences { batches, .. } => batches.pair_sizes(epoch, window),
        }
    }

    /// The position at which the next batch begins.
    pub fn position(&self) -> Position {
        match self {
            Self::Tokens { batches, .. } => batches.position(),
            Self::Preferences { batches, .. } => batches.position(),
        }
    }

    /// Moves to a position returned by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        match self {
            Self::Tokens { batches, .. } => batches.seek(position),
            Self::Preferences { batches, .. } => batches.seek(position),
        }
    }

    /// Runs the forward and backward pass of the next `rows` rows, or pairs: those of one optimizer step.
    ///
    /// # Errors
    /// If the model fails.
    pub fn accumulate<B: Backend>(&mut self, trainer: &mut Trainer<B>, rows: usize) -> Result<Pending<B>> {
        match self {
            Self::Tokens { batches, .. } => next_tokens(trainer, &batches.next_rows(rows)),
            Self::Preferences { batches, references, config, .. } => {
                let chosen = batches.next_batch(rows);
                let pair = |&i: &usize| TrainPair {
                    pair: &batches.pairs()[i],
                    reference: references[i],
                    source: batches.source_of(i),
                };
                preferences(trainer, &chosen.iter().map(pair).collect::<Vec<_>>(), config)
            }
        }
    }

    /// The loss on held-out rows; `None` if there are none.
    ///
    /// # Errors
    /// If the model's results are not finite.
    pub fn validate<B: Backend>(&self, trainer: &Trainer<B>) -> Result<Option<Validation>> {
        match self {
            Self::Tokens { held_out, whole_text, .. } => {
                let rows: Vec<Sequence> = held_out.rows.iter().map(|(row, _)| row.clone()).collect();
                held_out.measure(|| {
                    let log_probs = trainer.transformer.token_log_probs(&rows)?;
                    let measured = rows.iter().zip(log_probs).zip(&held_out.rows);
                    let of_row =
                        |((row, log_probs), (_, bytes)): ((&Sequence, Vec<f32>), &(Sequence, f64))| {
                            let loss = -log_probs.iter().map(|&l| f64::from(l)).sum::<f64>();
                            let sums = Sums { loss, counted: f64::from(row.counted), ..Sums::default() };
                            Measured { sums, bytes: whole_text.then_some(*bytes) }
                        };
                    Ok(measured.map(of_row).collect())
                })
            }
            Self::Preferences { held_out, held_out_references, config, .. } => held_out.measure(|| {
                let policy = answer_log_probs(&trainer.transformer, &held_out.rows, config)?;
                let of_pair = |(policy, reference): (&[f64; 2], &[f64; 2])| {
                    let sums = of_pairs(&[pair_loss(*policy, *reference, config)]);
                    Measured { sums, bytes: None }
                };
                Ok(policy.iter().zip(held_out_references).map(of_pair).collect())
            }),
        }
    }

    /// Checks that the trained model's results are finite, on the next training row or the first pair; for stages without
    /// held-out rows.
    ///
    /// # Errors
    /// If they are not finite.
    pub fn probe<B: Backend>(&mut self, trainer: &Trainer<B>) -> Result<()> {
        match self {
            Self::Tokens { batches, .. } => {
                trainer.transformer.token_log_probs(&batches.next_batch(1))?;
            }
            Self::Preferences { batches, config, .. } => {
                answer_log_probs(&trainer.transformer, &batches.pairs()[..1], config)?;
            }
        }
        Ok(())
    }

    /// Computes the reference's log-probabilities once, and stores them in the folder of the stage run.
    ///
    /// # Errors
    /// If the model's results are not finite, or if the file cannot be written.
    pub fn look_up_references<B: Backend>(
        &mut self,
        trainer: &Trainer<B>,
        request: &TrainRequest,
    ) -> Result<()> {
        let Self::Preferences { batches, held_out, references, held_out_references, config, .. } = self
        else {
            return Ok(());
        };
        // The trainer still holds the initial weights of the stage: they are the reference.
        let look_up = |pairs: &[Pair], file: &str| -> Result<Vec<[f64; 2]>> {
            let path = request.out.join(file);
            if let Some(stored) = read_references(&path, pairs.len()) {
                return Ok(stored);
            }
            let found = answer_log_probs(&trainer.transformer, pairs, config)?;
            let bytes: Vec<u8> = found.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
            write_atomic(&path, &bytes)?;
            Ok(found)
        };
        *references = look_up(batches.pairs(), "references.bin")?;
        *held_out_references = look_up(&held_out.rows, "references_val.bin")?;
        Ok(())
    }
}

/// The range of documents of each validation set, with its name if it has one.
fn sets_of(val: &Store) -> Vec<(Option<String>, Range<usize>)> {
    match val.info().ranges() {
        sets if sets.is_empty() => vec![(None, 0..val.len())],
        sets => sets.into_iter().map(|(name, documents)| (Some(name.to_string()), documents)).collect(),
    }
}

fn held_out_rows(val: &Store, options: &BatchOptions, most_tokens: u64) -> HeldOut<(Sequence, f64)> {
    let single = BatchOptions { packing: Packing::Single, ..options.clone() };
    let mut held_out = HeldOut { rows: vec![], sets: vec![], dropped: vec![] };
    for (name, documents) in sets_of(val) {
        let begin = held_out.rows.len();
        let (rows, dropped) = sequential(val, documents, &single, most_tokens);
        held_out.rows.extend(rows);
        held_out.sets.extend(name.clone().map(|name| (name, begin..held_out.rows.len())));
        held_out.dropped.push((name, dropped));
    }
    held_out
}

fn held_out_pairs(val: &Store, seq_len: usize, seed: u64) -> Result<HeldOut<Pair>> {
    let batches = PreferenceBatches::new(val, seq_len, seed, None)?;
    let pairs = batches.pairs();
    let index = |document: usize| pairs.partition_point(|pair| 2 * pair.index < document);
    let of_set = |(name, documents): (Option<String>, Range<usize>)| {
        Some((name?, index(documents.start)..index(documents.end)))
    };
    let sets = sets_of(val).into_iter().filter_map(of_set).collect();
    Ok(HeldOut { rows: pairs.to_vec(), sets, dropped: vec![(None, batches.dropped().clone())] })
}

impl<T> HeldOut<T> {
    /// Sums the measurements that `rows` returns, one per row: over all rows and over each set.
    fn measure(&self, rows: impl FnOnce() -> Result<Vec<Measured>>) -> Result<Option<Validation>> {
        if self.rows.is_empty() {
            return Ok(None);
        }
        let rows = rows()?;
        let sum = |rows: &[Measured]| {
            let mut all = Measured { sums: Sums::default(), bytes: rows.iter().map(|row| row.bytes).sum() };
            rows.iter().for_each(|row| all.sums.add(&row.sums));
            all
        };
        let sets = self.sets.iter().filter(|(_, range)| !range.is_empty());
        let sets = sets.map(|(name, range)| (name.clone(), sum(&rows[range.clone()]))).collect();
        Ok(Some(Validation { all: sum(&rows), sets }))
    }
}

/// Stored log-probabilities; `None` unless the file holds exactly this number of pairs.
fn read_references(path: &Path, pairs: usize) -> Option<Vec<[f64; 2]>> {
    let bytes = std::fs::read(path).ok()?;
    let (values, rest) = bytes.as_chunks::<8>();
    let values: Vec<f64> = values.iter().map(|b| f64::from_le_bytes(*b)).collect();
    let (both, odd) = values.as_chunks::<2>();
    (rest.is_empty() && odd.is_empty() && both.len() == pairs).then(|| both.to_vec())
}

/// Log-probabilities of the chosen and the rejected answer of each pair.
fn answer_log_probs<B: Backend>(
    transformer: &Transformer<B>,
    pairs: &[Pair],
    config: &DpoConfig,
) -> Result<Vec<[f64; 2]>> {
    let rows: Vec<Sequence> = pairs.iter().flat_map(|p| [p.chosen.clone(), p.rejected.clone()]).collect();
    let log_probs = transformer.token_log_probs(&rows)?;
    let answers: Vec<f64> =
        log_probs.iter().zip(&rows).map(|(of, row)| answer_log_prob(of, row, config)).collect();
    Ok(answers.as_chunks::<2>().0.to_vec())
}

/// Sums over the passes of an optimizer step; on a GPU, losses may still be on their way to the host.
///
/// They are read once the next step is queued, so that the GPU is not left idle while it is prepared.
pub struct Pending<B: Backend>(Vec<PassSums<B>>);

struct PassSums<B: Backend> {
    /// All sums, except those that `loss` has yet to add.
    sums: Sums,
    loss: Option<TokenLoss<B>>,
}

struct TokenLoss<B: Backend> {
    loss: Loss<B>,
    scale: f64,
    /// The source of each document and the number of its counted positions; empty if sources have no names.
    sources: Vec<(usize, f64)>,
}

impl<B: Backend> Pending<B> {
    /// Number of target tokens.
    pub fn tokens(&self) -> u64 {
        self.0.iter().map(|pass| pass.sums.tokens).sum()
    }

    /// Floating-point operations of the step.
    pub fn flops(&self, cost: &Cost) -> f64 {
        let sum = |of: fn(&Sums) -> u64| self.0.iter().map(|pass| of(&pass.sums)).sum();
        cost.of(sum(|sums| sums.positions), sum(|sums| sums.squares))
    }

    /// Waits for the losses.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(self) -> Result<Sums> {
        let mut all = Sums::default();
        for PassSums { mut sums, loss } in self.0 {
            if let Some(TokenLoss { loss, scale, sources }) = loss {
                let LossValue { total, by_document } = loss.read()?;
                sums.loss = total / scale;
                sums.sources = by_source(by_document.into_iter().zip(sources));
            }
            all.add(&sums);
        }
        Ok(all)
    }
}

/// Runs the forward and backward pass of rows with the mean cross-entropy of their targets.
///
/// # Errors
/// If the model fails.
pub fn next_tokens<B: Backend>(trainer: &mut Trainer<B>, rows: &[TrainRow]) -> Result<Pending<B>> {
    let counted_of = |row: &TrainRow| f64::from(row.sequence.counted);
    let counted: f64 = rows.iter().map(counted_of).sum();
    let scale = 1.0 / counted.max(1.0);
    let parts = trainer.accumulate(
        rows,
        |row| vec![&row.sequence],
        |pass, gradients, rows| {
            let (hidden, tape) = pass.forward()?;
            let (loss, dhidden) = pass.cross_entropy(&hidden, scale, gradients)?;
            let routing = pass.backward(tape, dhidden, gradients)?;
            let counted = rows.iter().map(|row| counted_of(row)).sum();
            let sources = rows
                .iter()
                .flat_map(|row| row.sources.iter().map(|(source, counted)| (*source, f64::from(*counted))))
                .collect();
            let sums = Sums {
                counted,
                tokens: counted as u64,
                positions: pass.batch().len() as u64,
                squares: pass.squares(),
                router: pass.router_stats(&routing)?,
                ..Sums::default()
            };
            Ok(PassSums { sums, loss: Some(TokenLoss { loss, scale, sources }) })
        },
    );
    Ok(Pending(parts.context("training step")?))
}

/// Sums losses and counts by the number of their source.
fn by_source(parts: impl Iterator<Item = (f64, (usize, f64))>) -> Vec<(f64, f64)> {
    let mut sums: Vec<(f64, f64)> = vec![];
    for (loss, (source, counted)) in parts {
        sums.resize(sums.len().max(source + 1), (0.0, 0.0));
        sums[source].0 += loss;
        sums[source].1 += counted;
    }
    sums
}

/// A training pair.
struct TrainPair<'a> {
    pair: &'a Pair,
    /// The reference's log-probabilities of the chosen and the rejected answer.
    reference: [f64; 2],
    /// The number of its source; `None` if sources have no names.
    source: Option<usize>,
}

fn preferences<B: Backend>(
    trainer: &mut Trainer<B>,
    pairs: &[TrainPair],
    config: &DpoConfig,
) -> Result<Pending<B>> {
    let scale = 1.0 / pairs.len().max(1) as f64;
    let parts = trainer.accumulate(
        pairs,
        |of| vec![&of.pair.chosen, &of.pair.rejected],
        |pass, gradients, pairs| {
            let (hidden, tape) = pass.forward()?;
            let log_probs = pass.log_probs(&hidden)?;
            let rows: Vec<&Sequence> =
                pairs.iter().flat_map(|of| [&of.pair.chosen, &of.pair.rejected]).collect();
            let references: Vec<[f64; 2]> = pairs.iter().map(|of| of.reference).collect();
            let outcome = dpo_loss(&log_probs, &rows, &references, config);
            let d_log_probs: Vec<f32> = outcome.d_log_probs.iter().map(|d| d * scale as f32).collect();
            let dhidden = pass.log_probs_backward(&hidden, &d_log_probs, gradients)?;
            let routing = pass.backward(tape, dhidden, gradients)?;
            let parts = outcome.pairs.iter().zip(pairs);
            let parts = parts.filter_map(|(outcome, of)| Some((outcome.loss, (of.source?, 1.0))));
            let sums = Sums {
                sources: by_source(parts),
                tokens: rows.iter().map(|row| row.counted as u64).sum(),
                positions: pass.batch().len() as u64,
                squares: pass.squares(),
                router: pass.router_stats(&routing)?,
                ..of_pairs(&outcome.pairs)
            };
            Ok(PassSums { sums, loss: None })
        },
    );
    Ok(Pending(parts.context("training step")?))
}

/// Sums the losses and rewards of pairs.
fn of_pairs(pairs: &[PairOutcome]) -> Sums {
    let right = pairs.iter().filter(|pair| pair.reward_margin > 0.0).count() as f64;
    Sums {
        loss: pairs.iter().map(|pair| pair.loss).sum(),
        counted: pairs.len() as f64,
        rewards: Some((pairs.iter().map(|pair| pair.reward_margin).sum(), right)),
        ..Sums::default()
    }
}

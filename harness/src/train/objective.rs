//! What a stage learns from: next tokens, or preferences.

use super::{Sums, TrainRequest};
use crate::config::{DpoLoss, Packing, TrainStage, TrialConfig};
use crate::data::{
    BatchOptions, Batches, Lost, Pair, Position, PreferenceBatches, RowLoss, RowSize, Store, sequential,
};
use crate::fsutil::write_atomic;
use crate::records::Notice;
use anyhow::{Context, Result};
use model::preference::{DpoConfig, PairOutcome, answer_log_prob, dpo_loss, pair_loss};
use model::{Backend, Sequence, Trainer, Transformer};
use std::path::Path;
use std::sync::Arc;

/// The data of a stage and the loss on it.
pub enum Objective {
    /// Cross-entropy of next tokens.
    Tokens {
        /// Rows to train on.
        batches: Batches,
        /// Held-out rows, with the bytes of their texts.
        held_out: Vec<(Sequence, f64)>,
        /// Held-out rows that are not read, or not whole.
        held_out_lost: Lost,
        /// Whether the loss is that of whole texts, so that bits per byte mean something.
        whole_text: bool,
    },
    /// Preferences between two answers.
    Preferences {
        /// Pairs to train on.
        batches: PreferenceBatches,
        /// Held-out pairs.
        held_out: Vec<Pair>,
        /// Held-out pairs that are not read, or not whole.
        held_out_lost: Lost,
        /// The reference's log-probabilities of both answers of each pair.
        references: Vec<[f64; 2]>,
        /// The same for held-out pairs.
        held_out_references: Vec<[f64; 2]>,
        /// The loss.
        config: DpoConfig,
    },
}

impl Objective {
    /// Opens the stores of a stage.
    ///
    /// # Errors
    /// Where a store cannot be read, or nothing is left to learn from.
    pub fn new(stage: TrainStage, trial: &TrialConfig, data: &Path) -> Result<Self> {
        let training = stage.training(trial);
        let (train, val) = (data.join("train"), data.join("val"));
        let (train, val) = (Arc::new(Store::open(&train)?), Store::open(&val)?);
        let (seq_len, seed) = (training.seq_len, trial.seed);
        if stage.compares_answers() {
            let section = &trial.dpo;
            let batches = PreferenceBatches::new(&train, seq_len, seed)?;
            batches.ensure_any()?;
            let held_out = PreferenceBatches::new(&val, seq_len, seed)?;
            return Ok(Self::Preferences {
                batches,
                held_out: held_out.pairs().to_vec(),
                held_out_lost: held_out.lost().clone(),
                references: vec![],
                held_out_references: vec![],
                config: DpoConfig {
                    beta: section.beta,
                    ipo: section.loss == DpoLoss::Ipo,
                    length_normalised: section.length_normalised,
                },
            });
        }
        let loss = RowLoss::of(&train, (stage.spec().answers)(trial));
        let whole_text = loss == RowLoss::Text;
        let options = BatchOptions { seq_len, packing: training.packing, loss, seed };
        let single = BatchOptions { packing: Packing::Single, ..options.clone() };
        let (held_out, held_out_lost) = sequential(&val, &single, training.val_tokens);
        Ok(Self::Tokens { held_out, held_out_lost, batches: Batches::new(train, options)?, whole_text })
    }

    /// Rows, or pairs, that the stage leaves out or cuts.
    pub fn notices(&self, stage: TrainStage) -> Vec<Notice> {
        let (lost, held_out) = match self {
            Self::Tokens { batches, held_out_lost, .. } => (batches.lost(), held_out_lost),
            Self::Preferences { batches, held_out_lost, .. } => (batches.lost(), held_out_lost),
        };
        let held_out = held_out.notices(&format!("{}, held out", stage.name()));
        [lost.notices(stage.name()), held_out].concat()
    }

    /// What every row, or pair, of a pass over the data holds, in order, for a model that attends to a `window`.
    pub fn row_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        match self {
            Self::Tokens { batches, .. } => batches.row_sizes(epoch, window),
            Self::Preferences { batches, .. } => batches.pair_sizes(epoch, window),
        }
    }

    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        match self {
            Self::Tokens { batches, .. } => batches.position(),
            Self::Preferences { batches, .. } => batches.position(),
        }
    }

    /// Goes to a place told by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        match self {
            Self::Tokens { batches, .. } => batches.seek(position),
            Self::Preferences { batches, .. } => batches.seek(position),
        }
    }

    /// Takes the next rows, or pairs, those of one optimizer step, forward and backward.
    ///
    /// # Errors
    /// Where the model fails.
    pub fn accumulate<B: Backend>(&mut self, trainer: &mut Trainer<B>, rows: usize) -> Result<Sums> {
        match self {
            Self::Tokens { batches, .. } => next_tokens(trainer, &batches.next_batch(rows)),
            Self::Preferences { batches, references, config, .. } => {
                let chosen = batches.next_batch(rows);
                let pairs: Vec<(&Pair, [f64; 2])> =
                    chosen.iter().map(|&i| (&batches.pairs()[i], references[i])).collect();
                preferences(trainer, &pairs, config)
            }
        }
    }

    /// The loss on held-out rows and, for whole texts, their bytes; `None` where nothing is held out.
    ///
    /// # Errors
    /// Where the model has no finite results.
    pub fn validate<B: Backend>(&self, trainer: &Trainer<B>) -> Result<Option<(Sums, Option<f64>)>> {
        match self {
            Self::Tokens { held_out, whole_text, .. } => {
                if held_out.is_empty() {
                    return Ok(None);
                }
                let rows: Vec<Sequence> = held_out.iter().map(|(row, _)| row.clone()).collect();
                let log_probs = trainer.transformer.token_log_probs(&rows)?;
                let mut sums = Sums::default();
                for (row, log_probs) in rows.iter().zip(log_probs) {
                    sums.loss -= log_probs.iter().map(|&l| f64::from(l)).sum::<f64>();
                    sums.counted += f64::from(row.counted);
                }
                let bytes = whole_text.then(|| held_out.iter().map(|(_, bytes)| bytes).sum());
                Ok(Some((sums, bytes)))
            }
            Self::Preferences { held_out, held_out_references, config, .. } => {
                if held_out.is_empty() {
                    return Ok(None);
                }
                let policy = answer_log_probs(&trainer.transformer, held_out, config)?;
                let mut sums = Sums::default();
                for (policy, reference) in policy.iter().zip(held_out_references) {
                    sums.add(&of_pairs(&[pair_loss(*policy, *reference, config)]));
                }
                Ok(Some((sums, None)))
            }
        }
    }

    /// Where nothing is held out: whether the trained model has finite results, on the row, or pair, that would be next.
    ///
    /// # Errors
    /// Where it has none.
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

    /// Computes the reference's log-probabilities once and stores them beside the stage's results.
    ///
    /// # Errors
    /// Where the model has no finite results, or the file cannot be written.
    pub fn look_up_references<B: Backend>(
        &mut self,
        trainer: &Trainer<B>,
        request: &TrainRequest,
    ) -> Result<()> {
        let Self::Preferences { batches, held_out, references, held_out_references, config, .. } = self
        else {
            return Ok(());
        };
        // The trainer still holds the weights that the stage starts from: they are the reference.
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
        *held_out_references = look_up(held_out, "references_val.bin")?;
        Ok(())
    }
}

/// Stored log-probabilities, if they are those of so many pairs.
fn read_references(path: &Path, pairs: usize) -> Option<Vec<[f64; 2]>> {
    let bytes = std::fs::read(path).ok()?;
    let (values, rest) = bytes.as_chunks::<8>();
    let values: Vec<f64> = values.iter().map(|b| f64::from_le_bytes(*b)).collect();
    let (both, odd) = values.as_chunks::<2>();
    (rest.is_empty() && odd.is_empty() && both.len() == pairs).then(|| both.to_vec())
}

/// Log-probabilities of both answers of each pair.
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

/// Takes rows forward and backward by the mean cross-entropy of their targets.
///
/// # Errors
/// Where the model fails.
pub fn next_tokens<B: Backend>(trainer: &mut Trainer<B>, rows: &[Sequence]) -> Result<Sums> {
    let counted: f64 = rows.iter().map(|r| f64::from(r.counted)).sum();
    let scale = 1.0 / counted.max(1.0);
    let parts = trainer.accumulate(
        rows,
        |row| vec![row],
        |pass, gradients, rows| {
            let (hidden, tape) = pass.forward()?;
            let (loss, dhidden) = pass.cross_entropy(&hidden, scale, gradients)?;
            let routing = pass.backward(tape, dhidden, gradients)?;
            let counted = rows.iter().map(|r| f64::from(r.counted)).sum();
            Ok(Sums {
                loss: pass.value(&loss)? / scale,
                counted,
                tokens: counted as u64,
                positions: pass.batch().len() as u64,
                squares: pass.squares(),
                rewards: None,
                router: pass.router_stats(&routing)?,
            })
        },
    );
    total(parts.context("training step")?)
}

fn preferences<B: Backend>(
    trainer: &mut Trainer<B>,
    pairs: &[(&Pair, [f64; 2])],
    config: &DpoConfig,
) -> Result<Sums> {
    let scale = 1.0 / pairs.len().max(1) as f64;
    let parts = trainer.accumulate(
        pairs,
        |(pair, _)| vec![&pair.chosen, &pair.rejected],
        |pass, gradients, pairs| {
            let (hidden, tape) = pass.forward()?;
            let log_probs = pass.log_probs(&hidden)?;
            let rows: Vec<&Sequence> = pairs.iter().flat_map(|(p, _)| [&p.chosen, &p.rejected]).collect();
            let references: Vec<[f64; 2]> = pairs.iter().map(|(_, reference)| *reference).collect();
            let outcome = dpo_loss(&log_probs, &rows, &references, config);
            let slopes: Vec<f32> = outcome.slopes.iter().map(|slope| slope * scale as f32).collect();
            let dhidden = pass.log_probs_backward(&hidden, &slopes, gradients)?;
            let routing = pass.backward(tape, dhidden, gradients)?;
            Ok(Sums {
                tokens: rows.iter().map(|row| row.counted as u64).sum(),
                positions: pass.batch().len() as u64,
                squares: pass.squares(),
                router: pass.router_stats(&routing)?,
                ..of_pairs(&outcome.pairs)
            })
        },
    );
    total(parts.context("training step")?)
}

/// Loss and rewards of pairs.
fn of_pairs(pairs: &[PairOutcome]) -> Sums {
    let right = pairs.iter().filter(|pair| pair.reward_margin > 0.0).count() as f64;
    Sums {
        loss: pairs.iter().map(|pair| pair.loss).sum(),
        counted: pairs.len() as f64,
        rewards: Some((pairs.iter().map(|pair| pair.reward_margin).sum(), right)),
        ..Sums::default()
    }
}

fn total(parts: Vec<Sums>) -> Result<Sums> {
    let mut sums = Sums::default();
    parts.iter().for_each(|part| sums.add(part));
    Ok(sums)
}

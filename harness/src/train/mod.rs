//! One training loop for every stage: pretraining, fine-tuning, adapters and preferences differ only by objective.
//!
//! Input are a store and a model; output are `model/`, `metrics.csv`, TensorBoard events and checkpoints.
//! A device that runs beside the process is given a step before the results of the one before are read. *Invariants:* a
//! stage that is stopped and resumed at any step ends in the same weights as one that never stopped; nothing is saved or
//! validated before the results of all steps are read and found to be finite.

mod checkpoint;
mod length;
mod notices;
mod objective;
mod schedule;
pub mod snapshot;
mod sums;
#[cfg(test)]
mod tests;
mod trend;
pub mod trunk;

pub use checkpoint::newest as newest_checkpoint;
pub use length::{Length, describe};
pub use objective::{Measured, Objective, Pending, next_tokens};
pub use schedule::learning_rate;
pub use sums::Sums;

use crate::config::{OptimizerKind, TrainStage, Training, TrialConfig};
use crate::data::{RowSize, Store, Tokenizer};
use crate::fsutil::{create_dir, write_atomic};
use crate::records::{SetLoss, SourceUse};
use crate::runs::files::{CHECKPOINTS, LENGTH};
use crate::runs::manifest::Results;
use crate::track::{Metrics, MetricsRow, Progress, Split, number};
use anyhow::{Context, Result, anyhow, bail};
use checkpoint::{Checkpoint, Checkpoints, Keep, Saved};
use model::trainer::{GradNorm, Groups, Multipliers, Rule};
use model::{Backend, Cost, LaneConfig, Lora, OptimizerConfig, Trainer, Transformer, Work};
use notices::{of_skipped, of_sources};
use snapshot::Snapshot;
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use trend::Trend;
use trunk::Branch;
use uuid::Uuid;

/// The inputs of a training stage.
pub struct TrainRequest<'a> {
    /// The stage to run.
    pub stage: TrainStage,
    /// The configuration of the trial.
    pub trial: &'a TrialConfig,
    /// The folder of the tokenizer.
    pub tokenizer: &'a Path,
    /// The folder with the stores `train` and `val` of this stage.
    pub data: &'a Path,
    /// The model folder to start from; `None` initializes random weights.
    pub start_from: Option<&'a Path>,
    /// The folder of the stage run.
    pub out: &'a Path,
    /// The name of this stage run and the folder of its trunk, which takes its first steps; `None` without a trunk.
    pub trunk: Option<(Uuid, &'a Path)>,
    /// Shorter trainings that resume from a checkpoint of this one.
    pub branches: &'a [Branch],
    /// Set to end after the current step with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Receives the progress.
    pub progress: &'a dyn Progress,
}

/// Trains one stage to its end; returns `None` if `stop` ended it before. Runs on the threads of the caller's rayon pool.
///
/// # Errors
/// If data or checkpoints cannot be read, a file cannot be written, or the training diverges.
pub fn run(request: &TrainRequest) -> Result<Option<Results>> {
    request.trial.device.run(request.trial.precision, request)?
}

impl Work for &TrainRequest<'_> {
    type Outcome = Result<Option<Results>>;

    fn run<B: Backend>(self, backend: &B) -> Self::Outcome {
        run_on(self, backend)
    }
}

fn run_on<B: Backend>(request: &TrainRequest, backend: &B) -> Result<Option<Results>> {
    let (trial, training) = (request.trial, request.stage.training(request.trial));
    let tokenizer = Tokenizer::load(request.tokenizer)?;
    let transformer = match request.start_from {
        Some(dir) => Transformer::load(dir, backend)?,
        None => Transformer::new(&trial.model, trial.seed, backend)?,
    };
    tokenizer.ensure_fits(transformer.config.vocab_size)?;
    for store in ["train", "val"] {
        Store::open(&request.data.join(store))?.verify()?;
    }
    let mut objective = Objective::new(request.stage, trial, request.data)?;
    let adapters = (request.stage.spec().adapters)(trial);
    let lora = adapters.map(|adapters| Lora::new(&transformer, &adapters, trial.seed)).transpose()?;
    let lanes = LaneConfig { lanes: training.lanes, recompute: training.recompute, seed: trial.seed };
    let trainer = Trainer::new(transformer, lora, optimizer(training), lanes)?;
    objective.look_up_references(&trainer, request)?;
    Loop::new(request, training, trainer, objective)?.run()
}

/// The length that a stage will have on its data, computed without training; `None` if more than `left` documents, or pairs,
/// would have to be ordered for it. Those of the passes that are drawn are subtracted from `left`.
pub fn length(stage: TrainStage, trial: &TrialConfig, data: &Objective, left: &mut f64) -> Option<Length> {
    let (training, cost) = (stage.training(trial), trial.cost(stage));
    let drawn = Cell::new(0);
    let draw = |epoch| {
        drawn.set(drawn.get() + data.documents());
        data.row_sizes(epoch, cost.window)
    };
    let length = (*left > 0.0).then(|| draw(0)).and_then(|first| {
        let pass: RowSize = first.iter().copied().sum();
        let rows = first.len() as f64;
        let passes = match (training.steps, training.flops, training.tokens) {
            (Some(steps), ..) => steps as f64 * training.rows_of_step() as f64 / rows,
            (None, Some(flops), _) => flops / cost.of(pass.positions, pass.squares),
            (None, None, Some(tokens)) => tokens as f64 / pass.tokens.max(1) as f64,
            (None, None, None) => training.epochs,
        };
        let row_sizes = |epoch| if epoch == 0 { first.clone() } else { draw(epoch) };
        (passes * data.documents() as f64 <= *left).then(|| Length::new(training, cost, row_sizes))
    });
    *left -= drawn.get() as f64;
    length
}

/// The optimizer configuration of a stage.
pub fn optimizer(training: &Training) -> OptimizerConfig {
    OptimizerConfig {
        beta1: training.beta1,
        beta2: training.beta2,
        eps: training.eps,
        rule: if training.optimizer == OptimizerKind::Muon { Rule::Muon } else { Rule::AdamW },
        momentum: training.momentum,
        weight_decay: if training.optimizer == OptimizerKind::Adam { 0.0 } else { training.weight_decay },
        clip: training.clip,
        groups: Groups {
            embedding: Multipliers { lr: training.embedding_lr, weight_decay: training.embedding_decay },
            hidden: Multipliers { lr: training.hidden_lr, weight_decay: training.hidden_decay },
            head: Multipliers { lr: training.head_lr, weight_decay: training.head_decay },
            norm: Multipliers { lr: training.norm_lr, ..Multipliers::default() },
        },
    }
}

/// A step that was queued, and whose results have not been read.
struct Queued<B: Backend> {
    step: u64,
    lr: f64,
    /// Target tokens of all steps up to this one.
    tokens: u64,
    losses: Pending<B>,
    norm: GradNorm<B>,
    /// Whether its gradient overflowed half precision, so that it changed nothing.
    is_skipped: bool,
}

struct Loop<'a, B: Backend> {
    request: &'a TrainRequest<'a>,
    training: &'a Training,
    trainer: Trainer<B>,
    /// The newest step, until its results are read.
    unread: Option<Queued<B>>,
    objective: Objective,
    metrics: Metrics,
    checkpoints: Checkpoints,
    length: Length,
    /// The step after which a checkpoint is left for a branch, and the name of the branch's stage run.
    branches: Vec<(u64, Uuid)>,
    /// What all steps use of each named source.
    sources: Vec<SourceUse>,
    cost: Cost,
    tokens: u64,
    flops: f64,
    trend: Trend,
    /// The lowest validation loss so far.
    best_val: Option<f64>,
    /// Shares of the steps after which weights are kept for exams.
    kept: Vec<f64>,
    /// Seconds of earlier attempts.
    earlier_seconds: f64,
    began: Instant,
    /// When the speed was last reported, and the tokens up to then.
    speed_from: (Instant, u64),
}

impl<'a, B: Backend> Loop<'a, B> {
    fn new(
        request: &'a TrainRequest<'a>,
        training: &'a Training,
        mut trainer: Trainer<B>,
        mut objective: Objective,
    ) -> Result<Self> {
        let checkpoints = checkpoints(request.out, training);
        let newest = match checkpoints.newest()? {
            Some(newest) => Some(newest),
            None => trunk::begin(request.trunk, request.out, &checkpoints)?,
        };
        let saved = newest.map(|Saved { about, state }| {
            trainer.restore(state, about.step)?;
            objective.seek(about.position);
            Ok::<_, model::Error>(about)
        });
        let saved = saved.transpose()?;
        let resumed = saved.map(|saved| saved.step);
        let cost = request.trial.cost(request.stage);
        let length_of = |training: &Training| {
            Length::new(training, cost, |epoch| objective.row_sizes(epoch, cost.window))
        };
        let length = length_of(training);
        let trunk = (training, length.steps);
        let branches = trunk::branch_points(request.stage, trunk, request.branches, length_of)?;
        let (stage, warmup) = (request.stage.name(), training.warmup_steps);
        if warmup > length.steps {
            bail!(
                "{stage}.warmup_steps is {warmup}, expected at most the stage's {} steps: {stage}.lr would never be reached",
                length.steps
            );
        }
        tracing::info!("{}: {}", request.stage.name(), describe(length.steps, length.passes));
        let sources = objective.used(length.rows);
        for notice in of_sources(&sources, request.stage.name()) {
            tracing::info!("{notice}");
        }
        write_atomic(&request.out.join(LENGTH), length.steps.to_string().as_bytes())?;
        let metrics =
            Metrics::open(&request.out.join(crate::track::METRICS), resumed, &extras(request, &trainer))?;
        let (tokens, began) = (saved.map_or(0, |saved| saved.tokens), Instant::now());
        Ok(Self {
            request,
            training,
            trainer,
            unread: None,
            objective,
            metrics,
            checkpoints,
            length,
            branches,
            sources,
            cost,
            tokens,
            flops: saved.map_or(0.0, |saved| saved.flops),
            trend: saved.map_or_else(Trend::default, |saved| saved.trend),
            best_val: saved.and_then(|saved| saved.best_val),
            kept: request.trial.snapshots(request.stage),
            earlier_seconds: saved.map_or(0.0, |saved| saved.seconds),
            began,
            speed_from: (began, tokens),
        })
    }

    fn run(mut self) -> Result<Option<Results>> {
        let training = self.training;
        let config = toml::to_string(self.request.trial).context("the configuration as text")?;
        self.metrics.text("configuration", &format!("```toml\n{config}```"))?;
        self.request.progress.start(self.request.stage.name(), self.length.steps, "steps");
        let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
        if self.trainer.steps() > 0 && due(training.keep_every, self.trainer.steps()) {
            // The best checkpoint of this step may have been written, but not this one.
            self.save(Keep::ForGood)?;
        }
        self.write_branch_checkpoints()?;
        while self.trainer.steps() < self.length.steps {
            let before = self.tokens;
            self.take_step()?;
            let step = self.trainer.steps();
            let last = step == self.length.steps;
            self.take_snapshots(step)?;
            let every = training.val_every_tokens;
            if last || (every > 0 && before / every != self.tokens / every) {
                self.validate()?;
            }
            self.write_branch_checkpoints()?;
            let stop = self.request.stop.load(Ordering::SeqCst);
            let is_kept = due(training.keep_every, step);
            if is_kept || !last && (stop || due(training.checkpoint_every, step)) {
                self.save(if is_kept { Keep::ForGood } else { Keep::ForNow })?;
            }
            if !last && stop {
                return Ok(None);
            }
        }
        self.finish().map(Some)
    }

    /// Takes a step and reads its results; if they come from a device, the results of the step before instead.
    fn take_step(&mut self) -> Result<()> {
        let queued = self.queue_step();
        // Before an error of this step, which may follow from the step before.
        self.read_results()?;
        self.unread = Some(queued?);
        if !B::QUEUES {
            self.read_results()?;
        }
        Ok(())
    }

    /// Runs the passes and the update of the next step, or queues them on a device.
    fn queue_step(&mut self) -> Result<Queued<B>> {
        let step = self.trainer.steps() + 1;
        let lr = learning_rate(self.training, step, self.length.steps);
        let rows = self.length.rows_of(step);
        let losses = self.objective.accumulate(&mut self.trainer, rows as usize)?;
        let skipped = self.trainer.skipped_steps();
        let norm = self.trainer.step(lr)?;
        let is_skipped = self.trainer.skipped_steps() > skipped;
        self.tokens += losses.tokens();
        self.flops += losses.flops(&self.cost);
        Ok(Queued { step, lr, tokens: self.tokens, losses, norm, is_skipped })
    }

    /// Reads and records the results of the newest step, unless they have been read; returns an error if training diverged.
    fn read_results(&mut self) -> Result<()> {
        let Some(Queued { step, lr, tokens, losses, norm, is_skipped }) = self.unread.take() else {
            return Ok(());
        };
        let (sums, norm) = (losses.read()?, norm.read()?);
        if !sums.mean().is_finite() || !norm.is_finite() && !is_skipped {
            return Err(anyhow!("the loss is {} and the gradient norm {norm}", sums.mean()))
                .context(self.divergence_message(step));
        }
        self.watch_trend(step, sums.mean())?;
        let last = step == self.length.steps;
        if last {
            self.check_finite(step)?;
        }
        if step.is_multiple_of(self.training.log_every.max(1)) || last || step == 1 {
            let (since, before) = self.speed_from;
            let speed = (tokens - before) as f64 / since.elapsed().as_secs_f64().max(1e-9);
            self.speed_from = (Instant::now(), tokens);
            self.request
                .progress
                .update(step, &format!("loss {:.4}, {} tokens/s", sums.mean(), number(speed as u64)));
            let at = (step, tokens);
            self.record(at, Split::Train, sums.mean(), Some((lr, norm, speed)), sums.extras())?;
            self.record_sources(at, &sums)?;
        }
        Ok(())
    }

    fn elapsed(&self) -> f64 {
        self.earlier_seconds + self.began.elapsed().as_secs_f64()
    }

    /// Records what was measured after a step, with all target tokens up to it.
    fn record(
        &mut self,
        (step, tokens): (u64, u64),
        split: Split,
        loss: f64,
        training: Option<(f64, f64, f64)>,
        extras: Vec<(String, f64)>,
    ) -> Result<()> {
        self.metrics.row(&MetricsRow {
            step,
            tokens,
            split,
            loss,
            lr: training.map(|of| of.0),
            grad_norm: training.map(|of| of.1),
            tokens_per_second: training.map(|of| of.2),
            elapsed_seconds: self.elapsed(),
            extras,
        })
    }

    /// Records the training loss of a step on each named source with rows in it.
    fn record_sources(&mut self, at: (u64, u64), sums: &Sums) -> Result<()> {
        for (source, (loss, counted)) in sums.sources.iter().enumerate().filter(|(_, sums)| sums.1 > 0.0) {
            let name = self.sources[source].name.clone();
            self.record(at, Split::TrainSource(name), loss / counted, None, vec![])?;
        }
        Ok(())
    }

    /// Records the validation loss, and bits per byte if the loss covers whole texts; saves the best checkpoint if configured.
    fn validate(&mut self) -> Result<()> {
        self.read_results()?;
        let validation = self.objective.validate(&self.trainer);
        let validation = validation.with_context(|| self.divergence_message(self.trainer.steps()))?;
        let Some(validation) = validation else { return Ok(()) };
        let loss = validation.all.sums.mean();
        let sets = validation.sets.into_iter().map(|(name, measured)| (Split::ValSet(name), measured));
        for (split, measured) in std::iter::once((Split::Val, validation.all)).chain(sets) {
            let mut extras = measured.sums.extras();
            extras.extend(measured.bpb().map(|bpb| ("bpb".to_string(), bpb)));
            self.record((self.trainer.steps(), self.tokens), split, measured.sums.mean(), None, extras)?;
        }
        if self.best_val.is_none_or(|best| loss < best) {
            self.best_val = Some(loss);
            if self.training.keep_best {
                self.save(Keep::AsBest)?;
            }
        }
        Ok(())
    }

    /// Returns an error if training has diverged, up to the newest step; for what is saved.
    fn ensure_sound(&mut self) -> Result<()> {
        self.read_results()?;
        self.check_finite(self.trainer.steps())
    }

    /// Returns an error if the weights are not finite: an update can overflow although loss and gradient are finite.
    fn check_finite(&self, step: u64) -> Result<()> {
        self.trainer.check_finite().with_context(|| self.divergence_message(step))
    }

    fn divergence_message(&self, step: u64) -> String {
        let (stage, lr) = (self.request.stage.name(), self.training.lr);
        format!("step {step}: training diverged; lower {stage}.lr (now {lr:e}) or raise {stage}.warmup_steps")
    }

    /// Returns an error if the smoothed loss has risen too far above its lowest value.
    fn watch_trend(&mut self, step: u64, loss: f64) -> Result<()> {
        self.trend.add(loss);
        let (rise, most) = (self.trend.rise(), self.training.max_loss_rise);
        if most > 0.0 && rise > most {
            let stage = self.request.stage.name();
            bail!(
                "step {step}: the smoothed loss is {:.4}, {rise:.4} above its best and more than {stage}.max_loss_rise = {most}; lower {stage}.lr (now {}) or raise {stage}.max_loss_rise",
                self.trend.smoothed(),
                self.training.lr
            );
        }
        Ok(())
    }

    fn save(&mut self, keep: Keep) -> Result<()> {
        let about = self.about()?;
        self.checkpoints.write(&about, &self.trainer.state()?, keep)
    }

    /// Writes a checkpoint for every branch that starts from this step.
    fn write_branch_checkpoints(&mut self) -> Result<()> {
        let step = self.trainer.steps();
        let here: Vec<Uuid> =
            self.branches.iter().filter(|(at, _)| *at == step).map(|(_, name)| *name).collect();
        for name in here {
            let path = trunk::checkpoint_for(name, self.request.out);
            if !path.exists() {
                trunk::create_branches_dir(self.request.out)?;
                checkpoint::write(&path, &self.about()?, &self.trainer.state()?)?;
            }
        }
        Ok(())
    }

    /// The state of training; first syncs all metrics up to this step to the disk.
    fn about(&mut self) -> Result<Checkpoint> {
        self.ensure_sound()?;
        self.metrics.flush()?;
        Ok(Checkpoint {
            step: self.trainer.steps(),
            position: self.objective.position(),
            tokens: self.tokens,
            flops: self.flops,
            seconds: self.elapsed(),
            trend: self.trend,
            best_val: self.best_val,
        })
    }

    /// Writes the weights for exams that examine the model after this step.
    fn take_snapshots(&mut self, step: u64) -> Result<()> {
        let is_due = |share: &f64| snapshot::step_of(*share, self.length.steps) == step;
        let due: Vec<f64> = self.kept.iter().copied().filter(is_due).collect();
        for share in due {
            self.ensure_sound()?;
            let dir = snapshot::folder(self.request.out, share);
            save_model(&self.trainer.transformer, &dir, self.request.tokenizer)?;
            let about = Snapshot { step, tokens: self.tokens };
            write_atomic(&dir.join(snapshot::FILE), &serde_json::to_vec(&about)?)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Results> {
        let validation = self.objective.validate(&self.trainer)?;
        if validation.is_none() {
            self.objective
                .probe(&self.trainer)
                .with_context(|| self.divergence_message(self.length.steps))?;
        }
        let dir = self.request.out.join("model");
        save_model(&self.trainer.transformer, &dir, self.request.tokenizer)?;
        if let Some(lora) = self.trainer.lora() {
            let adapters = lora.tensors(&self.trainer.transformer.backend)?;
            let path = dir.join("adapter_model.safetensors");
            write_atomic(&path, &safetensors::serialize(&adapters, None).context("the adapters")?)?;
        }
        self.metrics.flush()?;
        let results = Results {
            steps: self.trainer.steps(),
            tokens: self.tokens,
            flops: self.flops,
            val_loss: validation.as_ref().map(|found| found.all.sums.mean()),
            val_bpb: validation.as_ref().and_then(|found| found.all.bpb()),
            val_sets: validation.map_or(vec![], |found| found.sets.into_iter().map(set_loss).collect()),
            passes: self.length.passes,
            notices: {
                let mut notices = self.objective.notices(self.request.stage);
                notices.extend(self.length.notice(self.request.stage.name()));
                notices.extend(of_sources(&self.sources, self.request.stage.name()));
                notices.extend(of_skipped(&self.trainer, self.request.stage.name()));
                notices.extend(trunk::notice(self.request.out, self.request.stage, self.length.steps)?);
                notices
            },
            sources: self.sources,
            ..Results::default()
        };
        self.request.progress.finish(&describe(results.steps, results.passes));
        Ok(results)
    }
}

fn set_loss((name, measured): (String, Measured)) -> SetLoss {
    SetLoss { name, loss: measured.sums.mean(), bpb: measured.bpb() }
}

fn checkpoints(out: &Path, training: &Training) -> Checkpoints {
    Checkpoints::new(&out.join(CHECKPOINTS), training.keep_checkpoints, training.keep_every)
}

/// Removes the checkpoints of a finished stage run, except those kept for good.
///
/// # Errors
/// If a checkpoint cannot be removed.
pub fn tidy(out: &Path, training: &Training) -> Result<()> {
    checkpoints(out, training).clear()
}

/// Writes a model folder with its tokenizer.
///
/// # Errors
/// If a file cannot be written.
pub fn save_model<B: Backend>(transformer: &Transformer<B>, dir: &Path, tokenizer: &Path) -> Result<()> {
    create_dir(dir)?;
    write_atomic(&dir.join("config.json"), &model::folder::write_config(&transformer.config))?;
    Tokenizer::load(tokenizer)?.save(dir)?;
    let weights = model::weights::write_safetensors(&transformer.layout, &transformer.flat()?)?;
    write_atomic(&dir.join("model.safetensors"), &weights)
}

/// The columns that the objective adds to metrics.csv.
fn extras<B: Backend>(request: &TrainRequest, trainer: &Trainer<B>) -> Vec<String> {
    let mut extras = vec![];
    if request.stage.compares_answers() {
        extras.extend(["reward_margin", "reward_accuracy"].map(String::from));
    } else {
        extras.push("bpb".into());
    }
    let config = &trainer.transformer.config;
    if config.is_moe() {
        let of_router = ["aux_loss", "router_entropy", "max_expert_load", "dead_experts"];
        extras.extend(of_router.map(String::from));
        extras.extend((0..config.n_experts).map(|e| format!("expert_load_{e}")));
    }
    extras
}

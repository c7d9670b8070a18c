//! Turns stage runs into the records that a report is made of.

use crate::config::{Stage, TrainStage};
use crate::data::probes::capacity;
use crate::plan::{self, Participation, PlannedTrial, PlannedTuning, StageGraph, StageNode, Standing, State};
use crate::records::{
    CandidateRecord, Ending, ExamScore, ExaminedWeights, StageRecord, Status, Trained, TrialRecord,
    TuningRecord,
};
use crate::runs::manifest::{Manifest, samples};
use crate::sweep::Part;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

/// One record for each trial of the study, in order, in any state. A trial of several sweeps has one record.
///
/// # Errors
/// If a configuration cannot be serialized.
pub fn collect(graph: &StageGraph) -> Result<Vec<TrialRecord>> {
    let mut records: Vec<TrialRecord> = Vec::new();
    let mut places: BTreeMap<Uuid, usize> = BTreeMap::new();
    for planned in graph.study() {
        let Some(&place) = places.get(&planned.uuid) else {
            places.insert(planned.uuid, records.len());
            records.push(trial_record(graph, planned)?);
            continue;
        };
        let record = &mut records[place];
        if !record.sweeps.contains(&planned.trial.sweep) {
            record.sweeps.push(planned.trial.sweep.clone());
        }
        for (key, value) in &planned.trial.keys {
            if !record.keys.iter().any(|(known, _)| known == key) {
                record.keys.push((key.clone(), value.clone()));
            }
        }
    }
    Ok(records)
}

fn trial_record(graph: &StageGraph, planned: &PlannedTrial) -> Result<TrialRecord> {
    let config = &planned.trial.config;
    let (status, reason) = standing(graph, planned);
    let mut record = TrialRecord {
        trial: planned.uuid,
        setting: planned.setting,
        sweeps: vec![planned.trial.sweep.clone()],
        seed: config.seed,
        keys: planned.trial.keys.clone(),
        params: config.model.params() as u64,
        active_params: config.model.active_params() as u64,
        train_tokens: 0,
        train_flops: 0.0,
        val_loss: None,
        val_bpb: None,
        val_sets: vec![],
        capacity_bits: None,
        exams: Vec::new(),
        samples: Vec::new(),
        wall_seconds: 0.0,
        peak_rss_mb: 0.0,
        status,
        reason,
        stages: Vec::new(),
        notices: Vec::new(),
        config: toml::to_string(&**config).with_context(|| format!("trial {}", planned.uuid))?,
    };
    let mut before = 0; // target tokens of the stages before the one that trained last
    for &index in &planned.stages {
        let node = &graph.nodes[index];
        // An unreadable manifest is the reason why the trial has failed.
        let Some(manifest) = Manifest::read(node.record()).ok().flatten() else {
            continue;
        };
        record.stages.push(stage_record(node, &manifest));
        record.wall_seconds += manifest.wall_seconds;
        record.peak_rss_mb = record.peak_rss_mb.max(manifest.peak_rss_mb);
        if node.state != State::Done {
            continue;
        }
        let results = manifest.results;
        let tally = results.tally();
        record.notices.extend(results.notices);
        let stage = node.stage.training();
        if stage.is_some() {
            before = record.train_tokens;
        }
        record.train_tokens += results.tokens;
        if let Some(value) = stage.and_then(|s| planned.trial.tokens_that_follow(s, &mut record.keys)) {
            *value = results.tokens.into();
        }
        record.train_flops += results.flops;
        if node.stage == Stage::Train(TrainStage::Pretrain) {
            (record.val_loss, record.val_bpb) = (results.val_loss, results.val_bpb);
            record.capacity_bits = capacity::bits(config, &results.val_sets);
            record.val_sets = results.val_sets.clone();
        }
        if let Some(tally) = tally {
            let after = node.model.map(|model| graph.nodes[model].stage);
            let tokens = results.exam_at.and_then(|examined| examined.tokens);
            if node.at.is_final() {
                // Unreadable samples do not hide the rest.
                record.samples = samples(node.record()).unwrap_or_default();
            }
            record.exams.push(ExamScore {
                stage: after.map_or("", Stage::name).into(),
                taken: taken(node),
                tokens: tokens.map_or(record.train_tokens, |tokens| before + tokens),
                run: node.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                contaminated: results.contaminated,
                routing: results.routing,
                tally,
            });
        }
    }
    Ok(record)
}

/// One record for each tuning of the plan, in order.
pub fn tunings(graph: &StageGraph) -> Vec<TuningRecord> {
    graph.tunings.iter().map(|planned| tuning_record(graph, planned)).collect()
}

fn tuning_record(graph: &StageGraph, planned: &PlannedTuning) -> TuningRecord {
    let tuning = &planned.tuning;
    let tried = planned.candidates.iter().zip(&planned.tried).filter_map(|(&candidate, outcome)| {
        let trial = &graph.trials[candidate];
        let node = &graph.nodes[*trial.stages.last()?];
        let Some(Part::Candidate { value, rung, .. }) = trial.trial.part else { return None };
        let (status, loss, reason) = match outcome {
            plan::CandidateResult::Loss(loss) => (Status::Done, Some(*loss), None),
            plan::CandidateResult::Lost(reason) => (Status::Failed, None, Some(reason.clone())),
            plan::CandidateResult::Open => (Status::Pending, None, None),
        };
        let manifest = Manifest::read(node.record()).ok().flatten();
        let (tokens, flops, wall_seconds) = manifest.map_or((0, 0.0, 0.0), |manifest| {
            (manifest.results.tokens, manifest.results.flops, manifest.wall_seconds)
        });
        Some(CandidateRecord {
            trial: trial.uuid,
            rung: rung + 1,
            value: tuning.values[value].clone(),
            seed: trial.trial.config.seed,
            status,
            loss,
            reason,
            tokens,
            flops,
            wall_seconds,
            run: node.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        })
    });
    TuningRecord {
        sweep: planned.sweep.clone(),
        of: tuning.of.clone(),
        key: tuning.key.clone(),
        metric: format!("{}.val_loss", tuning.stage.name()),
        chosen: match planned.standing {
            Standing::Chosen(value) => Some(tuning.values[value].clone()),
            _ => None,
        },
        warning: planned.edge().or_else(|| planned.problem()),
        rungs: tuning.rungs.clone(),
        tried: tried.collect(),
    }
}

/// The results of a training; manifests without an ending get it from metrics.csv.
fn trained(manifest: &Manifest, dir: &Path) -> Trained {
    let results = &manifest.results;
    let ending = manifest.ending.or_else(|| Ending::read(&dir.join(crate::track::METRICS)));
    Trained {
        steps: results.steps,
        tokens: results.tokens,
        flops: results.flops,
        val_loss: results.val_loss,
        val_bpb: results.val_bpb,
        wall_seconds: manifest.wall_seconds,
        peak_rss_mb: manifest.peak_rss_mb,
        ending: ending.unwrap_or_default(),
    }
}

/// The record of a stage run for the report.
fn stage_record(node: &StageNode, manifest: &Manifest) -> StageRecord {
    let is_trained = node.state == State::Done && node.stage.training().is_some();
    let threads = crate::track::counted(manifest.threads, "thread");
    StageRecord {
        stage: node.stage.name().into(),
        dir: node.dir.clone(),
        record: node.record().into(),
        trained: is_trained.then(|| trained(manifest, node.record())),
        status: manifest.status.to_string(),
        wall_seconds: manifest.wall_seconds,
        peak_rss_mb: manifest.peak_rss_mb,
        program: manifest.program.to_string(),
        machine: format!("{}, {}, {threads}", manifest.host, manifest.device),
        started: manifest.started.clone(),
        ended: manifest.ended.clone(),
        keys: serde_json::from_value(manifest.facts["keys"].clone()).unwrap_or_default(),
    }
}

/// Which weights an exam examines.
pub fn taken(node: &StageNode) -> ExaminedWeights {
    ExaminedWeights { at: node.at.share(), averaged: node.at.shares.len() }
}

/// The status of a trial, and the reason if it failed.
pub fn standing(graph: &StageGraph, planned: &PlannedTrial) -> (Status, Option<String>) {
    let nodes = || planned.stages.iter().map(|&index| &graph.nodes[index]);
    if planned.participation == Participation::Pending && !planned.trial.is_candidate() {
        let untuned = graph.tuning_of(planned).and_then(|(_, tuning)| tuning.problem());
        return untuned.map_or((Status::Pending, None), |problem| (Status::Failed, Some(problem)));
    }
    let is_running = |node: &StageNode| matches!(node.state, State::Running(_));
    if nodes().any(is_running) {
        return (Status::Running, None);
    }
    let failed = nodes().find_map(|node| match &node.state {
        State::Again(reason) => Some(format!("{}: {reason}", node.stage)),
        _ => None,
    });
    if let Some(reason) = failed {
        return (Status::Failed, Some(reason));
    }
    if !nodes().any(|node| node.state.is_left()) {
        return (Status::Done, None);
    }
    // If another trial is running, one between two stages is waiting for its turn.
    let is_driven = graph.nodes.iter().any(is_running);
    let trained = nodes().any(|node| node.state == State::Done && node.stage.training().is_some());
    match trained && !is_driven || nodes().any(|node| node.state == State::Unfinished) {
        true => (Status::Stopped, None),
        false => (Status::Pending, None),
    }
}

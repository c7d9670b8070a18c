//! Comparison with PyTorch on small models; `scripts/make_references.py` has written the reference values in `references/`.
//!
//! They are computed in f64. The deviation of Mindscale's f32 is at most half of each tolerance.

use crate::common::{PORTABLE, counted, distance, flat, relative_distance};
use candle_core::{DType, Device};
use model::layout::Layout;
use model::preference::{DpoConfig, PreferenceLoss, answer_log_prob, dpo_loss};
use model::reference::Reference;
use model::trainer::Rule;
use model::weights::{NamedTensors, read_safetensors};
use model::{
    Backend, Cpu, LaneConfig, Lora, LoraConfig, Mode, ModelConfig, OptimizerConfig, Ragged, Recompute,
    RouterStats, Sequence, Trainer, Transformer, Weights,
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The reference values: numbers (JSON) and arrays (safetensors).
struct Written {
    numbers: Value,
    arrays: NamedTensors,
    path: PathBuf,
}

impl Written {
    fn read() -> Self {
        Self::of("numbers", "arrays")
    }

    fn of(numbers: &str, arrays: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
        let numbers = std::fs::read(folder.join(format!("{numbers}.json"))).unwrap();
        let numbers = serde_json::from_slice(&numbers).unwrap();
        let path = folder.join(format!("{arrays}.safetensors"));
        Self { numbers, arrays: read_safetensors(&path).unwrap(), path }
    }

    /// Returns the arrays whose names begin with a folder, by the rest of their names.
    fn folder(&self, prefix: &str) -> NamedTensors {
        let named = self.arrays.iter().filter_map(|(name, tensor)| {
            Some((name.strip_prefix(prefix)?.strip_prefix('/')?.to_owned(), tensor.clone()))
        });
        let named: NamedTensors = named.collect();
        assert!(!named.is_empty(), "no arrays in {prefix}");
        named
    }

    fn config(&self, case: &str) -> ModelConfig {
        serde_json::from_value(self.numbers["cases"][case]["config"].clone()).unwrap()
    }

    fn weights(&self, case: &str, folder: &str) -> Weights {
        Weights::from_tensors(&self.config(case), self.folder(folder), &self.path).unwrap()
    }

    fn model<B: Backend>(&self, case: &str, folder: &str, backend: &B) -> Transformer<B> {
        Transformer::from_weights(&self.config(case), self.weights(case, folder), backend).unwrap()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn row(value: &Value) -> Sequence {
    let ints = |key: &str| serde_json::from_value::<Vec<u32>>(value[key].clone()).unwrap();
    let weights: Vec<f32> = serde_json::from_value(value["weights"].clone()).unwrap();
    let counted = weights.iter().sum();
    Sequence { ids: ints("ids"), targets: ints("targets"), documents: ints("documents"), weights, counted }
}

fn rows(value: &Value) -> Vec<Sequence> {
    value.as_array().unwrap().iter().map(row).collect()
}

#[track_caller]
fn close(got: f64, want: &Value, tolerance: f64, what: &str) {
    let want = want.as_f64().unwrap();
    let off = (got - want).abs() / want.abs().max(1.0);
    assert!(off <= tolerance, "{what}: {got} instead of {want}, off by {off:e}");
}

/// Compares a flat buffer with every parameter of a folder; `tolerance` is relative to the largest element of the parameter.
#[track_caller]
fn close_to_all(got: &[f32], layout: &Layout, want: &NamedTensors, tolerance: f32, what: &str) {
    assert_eq!(want.len(), layout.params.len());
    for param in &layout.params {
        let off = relative_distance(&got[param.range.clone()], &flat(&want[&param.name]));
        assert!(off <= tolerance, "{what}, {}: off by {off:e}", param.name);
    }
}

fn trainer<B: Backend>(model: Transformer<B>, lora: Option<Lora<B>>, weight_decay: f64) -> Trainer<B> {
    let optimizer = OptimizerConfig { weight_decay, ..OptimizerConfig::default() };
    let lanes = LaneConfig { lanes: 2, recompute: Recompute::None, seed: 0 };
    Trainer::new(model, lora, optimizer, lanes).unwrap()
}

/// Accumulates the gradient of rows as training does; returns the loss and the router statistics.
fn learn<B: Backend>(trainer: &mut Trainer<B>, rows: &[Sequence]) -> (f64, Vec<RouterStats>) {
    let scale = 1.0 / counted(rows);
    let passes = trainer.accumulate(
        rows,
        |row| vec![row],
        |pass, gradients, _| {
            let (hidden, tape) = pass.forward()?;
            let (loss, dhidden) = pass.cross_entropy(&hidden, scale, gradients)?;
            let routing = pass.backward(tape, dhidden, gradients)?;
            Ok((loss.read()?.total, pass.router_stats(&routing)?))
        },
    );
    let (mut loss, mut routers) = (0.0, vec![]);
    for (of_pass, stats) in passes.unwrap() {
        loss += of_pass;
        routers.resize(stats.len(), RouterStats::default());
        routers.iter_mut().zip(&stats).for_each(|(sum, layer)| sum.merge(layer));
    }
    (loss, routers)
}

const CASES: [&str; 5] = ["dense", "qk_norm", "moe", "moe_batch", "single_expert"];

fn logits_losses_and_gradients_match<B: Backend>(backend: &B) {
    let written = Written::read();
    for name in CASES {
        let case = &written.numbers["cases"][name];
        let what = format!("{name} on {backend:?}");
        let model = written.model(name, &format!("{name}/weights"), backend);
        let rows = rows(&case["rows"]);
        let pass = model.pass(Ragged::new(&rows), Mode::Infer).unwrap();
        let all: Vec<usize> = (0..rows.iter().map(Sequence::len).sum()).collect();
        let logits = pass.logits(&pass.forward().unwrap().0, &all).unwrap();
        let off = distance(&logits, &flat(&written.arrays[&format!("{name}/logits")]));
        assert!(off <= 1e-5, "{what}: logits are off by {off:e}");

        let layout = model.layout.clone();
        let mut trainer = trainer(model, None, 0.1);
        let (loss, routers) = learn(&mut trainer, &rows);
        close(loss, &case["loss"], 1e-6, &what);
        let gradient = trainer.take_gradient().unwrap();
        close_to_all(&gradient, &layout, &written.folder(&format!("{name}/gradients")), 1e-5, &what);
        for (layer, stats) in routers.iter().enumerate() {
            close(stats.aux_loss, &case["aux_losses"][layer], 1e-6, &what);
            let load: Vec<u64> = serde_json::from_value(case["loads"][layer].clone()).unwrap();
            assert_eq!(stats.load, load, "{what}");
        }
        assert_eq!(routers.len(), case["loads"].as_array().unwrap().len());
    }
}

#[test]
fn logits_losses_and_gradients_are_those_of_pytorch() {
    logits_losses_and_gradients_match(&Cpu);
    logits_losses_and_gradients_match(&PORTABLE);
}

#[test]
fn the_reference_is_that_of_pytorch() {
    let written = Written::read();
    for name in CASES {
        let (case, config) = (&written.numbers["cases"][name], written.config(name));
        let weights = written.weights(name, &format!("{name}/weights"));
        let reference = Reference::new(&config, &weights.flat, DType::F64, &Device::Cpu).unwrap();
        let rows = rows(&case["rows"]);
        let batch = Ragged::new(&rows);
        let pass = reference.pass(&batch, None).unwrap();
        // The reference arrays are computed in f64 but stored in f32.
        let logits = flat(&reference.logits(pass.hidden()).unwrap().to_dtype(DType::F32).unwrap());
        let off = distance(&logits, &flat(&written.arrays[&format!("{name}/logits")]));
        assert!(off <= 2e-6, "{name}: logits are off by {off:e}");
        let loss = reference.loss(&batch, &pass, 1.0 / counted(&rows)).unwrap();
        let gradient = reference.gradient(&loss).unwrap();
        let want = written.folder(&format!("{name}/gradients"));
        close_to_all(&gradient, &weights.layout, &want, 1e-6, name);
        let mut cross_entropy = loss.to_scalar::<f64>().unwrap();
        for (layer, aux) in pass.aux_losses.iter().enumerate() {
            let aux = aux.to_scalar::<f64>().unwrap();
            close(aux, &case["aux_losses"][layer], 1e-9, name);
            cross_entropy -= aux;
        }
        close(cross_entropy, &case["loss"], 1e-9, name);
    }
}

fn ten_steps_match<B: Backend>(backend: &B) {
    let written = Written::read();
    for training in written.numbers["trainings"].as_array().unwrap() {
        let case = training["case"].as_str().unwrap();
        let model = written.model(case, &format!("{case}/weights"), backend);
        let layout = model.layout.clone();
        let mut trainer = trainer(model, None, training["weight_decay"].as_f64().unwrap());
        let steps = training["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 10);
        for (i, step) in steps.iter().enumerate() {
            let what = format!("{case} on {backend:?}, step {i}");
            close(learn(&mut trainer, &rows(&step["rows"])).0, &step["loss"], 1e-5, &what);
            let norm = trainer.step(step["lr"].as_f64().unwrap()).unwrap().read().unwrap();
            close(norm, &step["norm"], 1e-5, &what);
        }
        let trained = trainer.transformer.flat().unwrap();
        let what = format!("{case} on {backend:?}, trained");
        close_to_all(&trained, &layout, &written.folder(&format!("{case}/trained")), 1e-5, &what);
    }
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    ten_steps_match(&Cpu);
    ten_steps_match(&PORTABLE);
}

/// The reference applies multipliers in the forward pass, as in the papers; our weights have the multipliers folded in.
fn parametrizations_match<B: Backend>(backend: &B) {
    let written = Written::of("parametrizations", "parametrizations");
    for (name, case) in written.numbers["cases"].as_object().unwrap() {
        let (config, number) = (written.config(name), |key: &str| case[key].as_f64().unwrap());
        let mut weights = written.weights(name, &format!("{name}/weights"));
        let layout = weights.layout.clone();
        let held = |flat: &mut [f32], power: i32| {
            for param in &layout.params {
                let multiplier = config.scales(param.role, Rule::AdamW).multiplier.powi(power) as f32;
                flat[param.range.clone()].iter_mut().for_each(|weight| *weight *= multiplier);
            }
        };
        held(&mut weights.flat, 1);
        let optimizer = OptimizerConfig {
            weight_decay: number("weight_decay"),
            eps: number("eps"),
            clip: number("clip"),
            ..OptimizerConfig::default()
        };
        let lanes = LaneConfig { lanes: 2, recompute: Recompute::None, seed: 0 };
        let model = Transformer::from_weights(&config, weights, backend).unwrap();
        let mut trainer = Trainer::new(model, None, optimizer, lanes).unwrap();
        for (i, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let what = format!("{name} on {backend:?}, step {i}");
            close(learn(&mut trainer, &rows(&step["rows"])).0, &step["loss"], 1e-5, &what);
            let norm = trainer.step(number("lr")).unwrap().read().unwrap();
            close(norm, &step["norm"], 1e-5, &what);
        }
        let mut trained = trainer.transformer.flat().unwrap().into_owned();
        held(&mut trained, -1);
        let what = format!("{name} on {backend:?}, trained");
        close_to_all(&trained, &layout, &written.folder(&format!("{name}/trained")), 1e-5, &what);
    }
}

#[test]
fn parametrizations_are_those_of_pytorch_with_multipliers() {
    parametrizations_match(&Cpu);
    parametrizations_match(&PORTABLE);
}

/// Accumulates the gradient of a preference loss and returns the loss of each pair; `references` are the log-probabilities
/// under the reference model.
fn compare<B: Backend>(
    policy: &mut Trainer<B>,
    pairs: &[[Sequence; 2]],
    references: &[[f64; 2]],
    config: &DpoConfig,
) -> Vec<f64> {
    struct Item<'a> {
        number: usize,
        pair: &'a [Sequence; 2],
        reference: [f64; 2],
    }
    let numbered = pairs.iter().zip(references).enumerate();
    let items: Vec<Item> =
        numbered.map(|(number, (pair, &reference))| Item { number, pair, reference }).collect();
    let share = 1.0 / pairs.len() as f32;
    let losses = policy.accumulate(
        &items,
        |item| item.pair.iter().collect(),
        |pass, gradients, items| {
            let (hidden, tape) = pass.forward()?;
            let rows: Vec<&Sequence> = items.iter().flat_map(|item| item.pair).collect();
            let references: Vec<[f64; 2]> = items.iter().map(|item| item.reference).collect();
            let outcome = dpo_loss(&pass.log_probs(&hidden)?, &rows, &references, config);
            let d_log_probs: Vec<f32> = outcome.d_log_probs.iter().map(|d| d * share).collect();
            let dhidden = pass.log_probs_backward(&hidden, &d_log_probs, gradients)?;
            pass.backward(tape, dhidden, gradients)?;
            let losses = items.iter().zip(outcome.pairs).map(|(item, pair)| (item.number, pair.loss));
            Ok(losses.collect::<Vec<_>>())
        },
    );
    let mut losses = losses.unwrap().concat();
    losses.sort_by_key(|(number, _)| *number);
    losses.into_iter().map(|(_, loss)| loss).collect()
}

fn preferences_match<B: Backend>(backend: &B) {
    let written = Written::read();
    let dpo = &written.numbers["dpo"];
    let pairs: Vec<[Sequence; 2]> =
        dpo["pairs"].as_array().unwrap().iter().map(|pair| [row(&pair[0]), row(&pair[1])]).collect();
    let beta = dpo["beta"].as_f64().unwrap();
    let reference = written.model("dense", "dense/weights", backend);
    let layout = reference.layout.clone();
    let all: Vec<Sequence> = pairs.iter().flatten().cloned().collect();
    let log_probs = reference.token_log_probs(&all).unwrap();
    let references = |config: &DpoConfig| -> Vec<[f64; 2]> {
        let of = log_probs.iter().zip(&all).map(|(of, row)| answer_log_prob(of, row, config));
        of.collect::<Vec<_>>().as_chunks::<2>().0.to_vec()
    };
    let kinds = dpo["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), 4);
    for kind in kinds {
        let name = kind["name"].as_str().unwrap();
        let config = DpoConfig {
            beta,
            loss: match name.trim_end_matches("_normalised") {
                "ipo" => PreferenceLoss::Ipo,
                "sigmoid" => PreferenceLoss::Sigmoid,
                _ => panic!("{name}: no such loss"),
            },
            length_normalised: name.ends_with("_normalised"),
        };
        let mut policy = trainer(written.model("dense", "dpo/policy", backend), None, 0.0);
        let losses = compare(&mut policy, &pairs, &references(&config), &config);
        let what = format!("{name} on {backend:?}");
        for (pair, loss) in losses.into_iter().enumerate() {
            close(loss, &kind["losses"][pair], 1e-5, &what);
        }
        let gradient = policy.take_gradient().unwrap();
        close_to_all(&gradient, &layout, &written.folder(&format!("dpo/{name}")), 1e-5, &what);
    }
    // Preference training starts from equal models.
    let config = DpoConfig { beta, loss: PreferenceLoss::Sigmoid, length_normalised: false };
    let mut policy = trainer(reference, None, 0.0);
    for (i, step) in dpo["steps"].as_array().unwrap().iter().enumerate() {
        let losses = compare(&mut policy, &pairs, &references(&config), &config);
        let norm = policy.step(dpo["lr"].as_f64().unwrap()).unwrap().read().unwrap();
        let what = format!("step {i} on {backend:?}");
        for (loss, want) in losses.into_iter().zip(numbers(&step["losses"])) {
            assert!((loss - want).abs() <= 1e-5, "{what}: {loss} instead of {want}");
        }
        close(norm, &step["norm"], 1e-5, &what);
    }
    let trained = policy.transformer.flat().unwrap();
    close_to_all(&trained, &layout, &written.folder("dpo/trained"), 1e-5, "trained by preferences");
}

#[test]
fn preferences_are_those_of_pytorch() {
    preferences_match(&Cpu);
    preferences_match(&PORTABLE);
}

fn adapters_match<B: Backend>(backend: &B) {
    let written = Written::read();
    let given = &written.numbers["lora"];
    let config = LoraConfig {
        rank: given["rank"].as_u64().unwrap() as usize,
        alpha: given["alpha"].as_f64().unwrap(),
        targets: serde_json::from_value(given["targets"].clone()).unwrap(),
    };
    let model = written.model("dense", "dense/weights", backend);
    let mut lora = Lora::new(&model, &config, 1).unwrap();
    let start = written.folder("lora/adapters");
    assert_eq!(lora.len(), start.values().map(|t| t.elem_count()).sum::<usize>());
    lora.load(&start, backend).unwrap();
    let close_to_all = |found: &NamedTensors, folder: &str, tolerance: f32| {
        for (name, want) in written.folder(folder) {
            let off = relative_distance(&flat(&found[&format!("base_model.model.{name}")]), &flat(&want));
            assert!(off <= tolerance, "{folder}, {name} on {backend:?}: off by {off:e}");
        }
    };
    let mut trainer = trainer(model, Some(lora), given["weight_decay"].as_f64().unwrap());
    for (i, step) in given["steps"].as_array().unwrap().iter().enumerate() {
        let rows = rows(&step["rows"]);
        let what = format!("step {i} on {backend:?}");
        if i == 0 {
            learn(&mut trainer, &rows);
            let gradient = backend.floats(trainer.take_gradient().unwrap()).unwrap();
            let lora = trainer.lora().unwrap();
            let found = backend.read(&lora.pull_back(backend, &gradient).unwrap()).unwrap().into_owned();
            close_to_all(&lora.named(&found).unwrap(), "lora/gradients", 1e-5);
        }
        close(learn(&mut trainer, &rows).0, &step["loss"], 1e-5, &what);
        let norm = trainer.step(given["lr"].as_f64().unwrap()).unwrap().read().unwrap();
        close(norm, &step["norm"], 1e-5, &what);
    }
    close_to_all(&trainer.lora().unwrap().tensors(backend).unwrap(), "lora/trained", 1e-5);
}

#[test]
fn adapters_are_those_of_pytorch() {
    adapters_match(&Cpu);
    adapters_match(&PORTABLE);
}

//! Committed results come out as published work predicts, and as docs/probes.md and docs/parametrization.md say.

use crate::testing::shared;
use std::collections::BTreeMap;
use std::path::Path;

type Row = BTreeMap<String, String>;

fn rows(path: &Path) -> Vec<Row> {
    csv::Reader::from_path(path).unwrap().deserialize().map(Result::unwrap).collect()
}

fn committed(file: &str) -> Vec<Row> {
    rows(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../results").join(file))
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The values of single seeds in the data of a figure, by series and place on the x axis.
fn by_seed(figure: &str) -> BTreeMap<String, BTreeMap<u64, Vec<f64>>> {
    let mut found: BTreeMap<String, BTreeMap<u64, Vec<f64>>> = BTreeMap::new();
    for row in committed(figure).iter().filter(|row| !row["seed"].is_empty()) {
        let of = found.entry(row["series"].clone()).or_default();
        of.entry(number(row, "x") as u64).or_default().push(number(row, "y"));
    }
    found
}

/// Errors in percent by layers and hops, one per seed.
fn hop_errors() -> BTreeMap<(u64, u64), Vec<f64>> {
    let of = by_seed("probes/figures/hops_by_depth.csv").into_iter().flat_map(|(subject, of)| {
        let hops: u64 = subject.strip_prefix("hop_").unwrap().parse().unwrap();
        of.into_iter().map(move |(layers, right)| ((layers, hops), right.iter().map(|r| 100.0 - r).collect()))
    });
    of.collect()
}

/// Sanford, Hsu, Telgarsky 2024: floor(log2 k) + 2 layers suffice for k hops.
#[test]
fn hops_need_depth() {
    let errors = hop_errors();
    assert!(errors.len() == 4 * 5 && errors.values().all(|seeds| seeds.len() == 3));
    let error = |layers: u64, hops: u64| mean(&errors[&(layers, hops)]);
    for layers in 1..=4 {
        for hops in 0..=4 {
            assert!(layers == 4 || error(layers + 1, hops) <= error(layers, hops) + 1e-9);
            assert!(hops == 4 || error(layers, hops) <= error(layers, hops + 1) + 1e-9);
        }
    }
    // By the protocol a depth does k hops if no seed is wrong in more than 1 %.
    let does = |layers: u64, hops: u64| errors[&(layers, hops)].iter().all(|error| *error <= 1.0);
    let first_failing = [1, 2, 3, 4].map(|layers| (0..=4).find(|&hops| !does(layers, hops)));
    assert_eq!(first_failing, [Some(1), Some(3), None, None]);
    let suffices = |layers: u64, hops: u64| hops == 0 || u64::from(hops.ilog2()) + 2 <= layers;
    let by_theory = [1, 2, 3].map(|layers| (0..=4).find(|&hops| !suffices(layers, hops)));
    assert_eq!(by_theory, [Some(1), Some(2), Some(4)]);
    assert!(errors.keys().all(|&(layers, hops)| !suffices(layers, hops) || does(layers, hops)));
}

#[test]
fn errors_at_hops_are_in_the_published_order() {
    let Some(path) = shared("references/hop_induction.csv") else { return };
    let published = rows(&path).into_iter().filter(|row| row["training_sequences"] == "fresh");
    let published = published.filter(|row| row["heads"] == "8");
    let published: BTreeMap<(u64, u64), f64> = published
        .map(|row| {
            ((number(&row, "layers") as u64, number(&row, "hops") as u64), 100.0 * number(&row, "error"))
        })
        .collect();
    let ours: BTreeMap<(u64, u64), f64> =
        hop_errors().into_iter().map(|(cell, seeds)| (cell, mean(&seeds))).collect();
    let common: Vec<_> = ours.keys().filter(|cell| published.contains_key(cell)).collect();
    let mut compared = 0;
    for a in &common {
        for b in &common {
            // Differences of less than a point are noise in both.
            let (theirs, ours) = (published[*a] - published[*b], ours[*a] - ours[*b]);
            if theirs > 1.0 && ours.abs() > 1.0 {
                assert!(ours > 0.0, "{a:?} and {b:?}");
                compared += 1;
            }
        }
    }
    assert!(common.len() == 15 && compared > 20, "{compared}");
}

/// Arora et al. 2023: two layers of attention recall, one guesses among the four values.
#[test]
fn recall_needs_two_layers() {
    let trials = committed("probes/trials.csv");
    let of = |layers: &str| -> Vec<f64> {
        let of =
            trials.iter().filter(|row| row["sweep"] == "probe-recall" && row["model.n_layers"] == layers);
        of.map(|row| number(row, "exam_accuracy")).collect()
    };
    let (one, two) = (of("1"), of("2"));
    assert!(one.len() == 3 && one.iter().all(|share| *share < 0.28), "{one:?}");
    assert!(two.iter().filter(|share| **share > 0.98).count() == 2 && two.iter().all(|share| *share > 0.6));
}

/// Allen-Zhu, Li 2024: bits in proportion to weights.
#[test]
fn knowledge_grows_in_proportion_to_weights() {
    let points = committed("probes/figures/capacity_by_weights.csv");
    let points: Vec<(f64, f64)> = points
        .iter()
        .filter(|row| row["seeds"] == "3")
        .map(|row| (number(row, "x"), number(row, "y")))
        .collect();
    assert_eq!(points.len(), 6);
    assert!(points.iter().all(|(weights, bits)| (1.2..1.8).contains(&(bits / weights))));
    let logs: Vec<(f64, f64)> = points.iter().map(|(weights, bits)| (weights.ln(), bits.ln())).collect();
    let [x, y] =
        [0, 1].map(|i| mean(&logs.iter().map(|p| if i == 0 { p.0 } else { p.1 }).collect::<Vec<_>>()));
    let slope = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
        / logs.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    assert!((slope - 0.99).abs() < 0.005, "{slope}");
}

/// The learning rate with the lowest mean loss, by the shape's size.
fn best_rates(figure: &str) -> BTreeMap<u64, f64> {
    let mut losses: BTreeMap<u64, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    let file = format!("parametrization/figures/{figure}.csv");
    for row in committed(&file).iter().filter(|row| !row["seed"].is_empty()) {
        let size = row["series"].rsplit(' ').next().unwrap().parse().unwrap();
        losses.entry(size).or_default().entry(row["x"].clone()).or_default().push(number(row, "y"));
    }
    let best = |of: BTreeMap<String, Vec<f64>>| {
        assert!(of.len() == 6 && of.values().all(|seeds| seeds.len() == 3));
        let best = of.into_iter().min_by(|a, b| mean(&a.1).total_cmp(&mean(&b.1)));
        best.unwrap().0.parse().unwrap()
    };
    losses.into_iter().map(|(size, of)| (size, best(of))).collect()
}

fn stays(rates: &BTreeMap<u64, f64>) -> bool {
    let base = rates.first_key_value().unwrap().1;
    rates.values().all(|rate| (0.5..=2.0).contains(&(rate / base)))
}

/// Yang et al. 2022, Dey et al. 2025: the best rate stays within a factor of two under `mup` and `completep` only.
#[test]
fn best_rates_stay_under_mup_and_completep() {
    let [standard, mup] = ["widths_standard", "widths_mup"].map(best_rates);
    assert_eq!(standard, BTreeMap::from([(32, 0.032), (64, 0.016), (128, 0.008), (256, 0.004)]));
    assert_eq!(mup, BTreeMap::from([(32, 0.032), (64, 0.032), (128, 0.032), (256, 0.032)]));
    let [standard, completep] = ["depths_standard", "depths_completep"].map(best_rates);
    assert_eq!(standard, BTreeMap::from([(2, 0.016), (4, 0.016), (8, 0.016), (16, 0.008)]));
    assert_eq!(completep, BTreeMap::from([(2, 0.016), (4, 0.016), (8, 0.016), (16, 0.016)]));
    // What others saw over widths: halved with each doubling, and steady up to a factor of two.
    let Some(path) = shared("references/learning_rate_transfer.csv") else { return };
    let theirs = |column: &str| -> BTreeMap<u64, f64> {
        rows(&path).iter().map(|row| (number(row, "width") as u64, number(row, column))).collect()
    };
    assert!(!stays(&theirs("best_lr_standard")) && stays(&theirs("best_lr_mup")));
}

/// With the recipe of docs/probes.md, facts that were never asked about in training are known, and so are those of teachers.
#[test]
fn hops_about_people_are_above_guessing() {
    let scores = by_seed("deep_vs_wide/figures/subjects_by_depth.csv");
    for (subject, expected) in [("one_hop", [42.1, 47.0, 48.1, 56.8]), ("two_hop", [38.1, 35.2, 35.0, 36.8])]
    {
        for ((layers, seeds), expected) in scores[subject].iter().zip(expected) {
            let mean = mean(seeds);
            let variance = seeds.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / 4.0;
            // The 97.5 % quantile of Student's t with four degrees of freedom.
            let half = 2.776 * (variance / 5.0).sqrt();
            assert!(seeds.len() == 5 && (mean - expected).abs() < 0.05, "{subject}, {layers} layers: {mean}");
            assert!(mean - half > 25.0, "{subject}, {layers} layers: {mean} ± {half}");
        }
    }
}

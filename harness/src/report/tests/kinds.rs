//! What each kind of figure draws from made-up trials.

use super::*;
use crate::records::Routing;
use crate::report::analysis::compare::compare;
use crate::report::figure::{Content, Figure, Mark, Series};
use crate::report::kind::{KINDS, draw};
use serde_json::Value;

/// The first figure of an experiment with these lines, drawn from some trials.
fn figure(lines: &str, trials: &[TrialRecord]) -> Figure {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, format!("sweeps = ['s']\n[[figure]]\n{lines}\n")).unwrap();
    let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
    let questions = answers(trials);
    let results = Results::new(trials, &questions);
    let compared = compare(&experiment.comparisons, &results);
    draw(&experiment.figures[0], &results, &compared)
}

fn series(figure: &Figure) -> &[Series] {
    match &figure.content {
        Content::Series(series) => series,
        Content::Cells { .. } => &[],
    }
}

fn marked(figure: &Figure, mark: Mark) -> Vec<&Series> {
    series(figure).iter().filter(|s| s.mark == mark).collect()
}

fn places(series: &Series) -> Vec<(f64, f64)> {
    series.points.iter().map(|p| (p.x, p.y)).collect()
}

/// A trial whose swept keys have these values.
fn varied(id: u64, seed: u64, keys: &[(&str, Value)]) -> TrialRecord {
    let keys = keys.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
    let (trial_id, setting) = (Uuid::from_u128(u128::from(id * 100 + seed)), Uuid::from_u128(u128::from(id)));
    TrialRecord { trial: trial_id, setting, keys, ..trial(seed, 2, 40, Status::Done) }
}

/// Depths 2 and 4 with two seeds each, which get 24 and 26, and 60 and 64 of 100 questions right.
fn depths() -> Vec<TrialRecord> {
    let of = |seed, n_layers, correct| trial(seed, n_layers, correct, Status::Done);
    vec![of(1, 2, 24), of(2, 2, 26), of(1, 4, 60), of(2, 4, 64)]
}

#[test]
fn means_over_a_swept_key_say_so() {
    let of = |id, n_layers: u64, lr: f64| {
        varied(id, 1, &[("model.n_layers", n_layers.into()), ("pretrain.lr", lr.into())])
    };
    let trials = [of(1, 2, 0.5), of(2, 2, 0.25), of(3, 4, 0.5)];
    let notes = |lines: &str| {
        let found = figure(&format!("{lines}\ny = 'exam.accuracy'\nx = 'model.n_layers'"), &trials);
        found.notes.join("; ")
    };
    assert_eq!(notes("kind = 'line'"), "1 seed: no interval; means are also over learning rate");
    assert_eq!(notes("kind = 'bar'\ngroup = 'pretrain.lr'"), "1 seed: no interval");
    assert_eq!(notes("kind = 'line'\nwhere = 'model.n_layers == 4'"), "1 seed: no interval");
    let of_cells = "kind = 'heatmap'\nvalue = 'params'";
    assert_eq!(notes(of_cells), "1 seed; means are also over learning rate");
}

#[test]
fn a_line_has_the_mean_its_interval_and_each_seed() {
    let found = figure("kind = 'line'\nx = 'model.n_layers'\ny = 'exam.accuracy'", &depths());
    let [mean] = marked(&found, Mark::Joined)[..] else { panic!("{found:?}") };
    assert_eq!(places(mean), [(2.0, 25.0), (4.0, 62.0)]);
    // Half-width: 12.706 standard deviations of 1.414, divided by the square root of 2.
    let (low, high) = mean.points[0].interval.unwrap();
    assert!((low - 12.293_795).abs() < 1e-5 && (high - 37.706_205).abs() < 1e-5, "{low} {high}");
    let seeds: Vec<_> = marked(&found, Mark::SeedLine).iter().map(|s| (s.seed, places(s))).collect();
    assert_eq!(seeds, [(Some(1), vec![(2.0, 24.0), (4.0, 60.0)]), (Some(2), vec![(2.0, 26.0), (4.0, 64.0)])]);
    assert_eq!(found.level, Some((25.0, "guessing")));
    assert_eq!(found.notes, ["band: 95 % t, 2 seeds", "pale lines: single seeds"]);
}

#[test]
fn dots_stand_in_rows_and_bars_of_a_loss_are_dots() {
    let found = figure("kind = 'dots'\nx = 'exam.accuracy'\ny = 'model.n_layers'", &depths());
    assert!(found.is_sideways);
    assert_eq!(found.y.categories, ["2", "4"]);
    assert_eq!(places(&series(&found)[0]), [(25.0, 0.0), (62.0, 1.0)]);
    assert_eq!((found.x.label.as_str(), found.y.label.as_str()), ("exam accuracy (%)", "layers"));
    let bars = figure("kind = 'bar'\nx = 'model.n_layers'\ny = 'exam.accuracy'", &depths());
    assert_eq!(
        (series(&bars)[0].mark, bars.y.must_include, bars.is_sideways),
        (Mark::Bars, Some(0.0), false)
    );
    let bpb = figure("kind = 'bar'\nx = 'model.n_layers'\ny = 'val.bpb'", &depths());
    assert!(bpb.is_sideways && bpb.x.must_include.is_none());
    assert_eq!(places(&series(&bpb)[0]), [(1.25, 0.0), (1.25, 1.0)]);
    assert!(bpb.notes.iter().any(|note| note.contains("0 is not a meaningful baseline")), "{:?}", bpb.notes);
}

#[test]
fn columns_of_one_label_name_their_stage() {
    let found = figure("kind = 'scatter'\nx = 'pretrain.val_loss'\ny = 'val.loss'", &[]);
    assert_eq!(
        (found.x.label.as_str(), found.y.label.as_str()),
        ("pretraining validation loss (nats per token)", "validation loss (nats per token)")
    );
}

#[test]
fn sensitivity_marks_the_best_and_tells_an_edge() {
    let mut trials = vec![];
    for (width, losses) in [(64, [3.0, 2.5, 2.75]), (128, [3.0, 2.75, 2.5])] {
        for (i, (lr, loss)) in [1e-3, 3e-3, 1e-2].into_iter().zip(losses).enumerate() {
            let keys = [("model.d_model", Value::from(width)), ("pretrain.lr", Value::from(lr))];
            trials.push(TrialRecord { val_loss: Some(loss), ..varied(width * 10 + i as u64, 1, &keys) });
        }
    }
    let lines = "kind = 'sensitivity'\nx = 'pretrain.lr'\ny = 'val.loss'\ngroup = 'model.d_model'";
    let found = figure(lines, &trials);
    assert_eq!(found.x.log, Some(true));
    assert_eq!(figure(lines, &[]).x.log, None);
    assert_eq!(marked(&found, Mark::Joined).len(), 2);
    let best: Vec<_> = marked(&found, Mark::Best).iter().map(|s| (s.colour, places(s))).collect();
    assert_eq!(best, [(0, vec![(3e-3, 2.5)])]);
    let edge: Vec<_> = marked(&found, Mark::Edge).iter().map(|s| (s.colour, places(s))).collect();
    assert_eq!(edge, [(1, vec![(1e-2, 2.5)])]);
    assert_eq!(
        found.notes[1..],
        ["width 64: best at 0.003", "width 128: best at 0.01, at the edge of the tried range"]
    );
}

#[test]
fn iso_flop_curves_find_the_best_size_of_each_budget() {
    let mut trials = vec![];
    for (i, budget) in [1e12, 1e13, 1e14].into_iter().enumerate() {
        for (j, factor) in [0.25, 0.5, 1.0, 2.0, 4.0f64].into_iter().enumerate() {
            // The best size grows with the square root of the budget; runs miss the budget slightly, as they take whole steps.
            let (params, off) = (0.1 * f64::sqrt(budget) * factor, 1.0 + 0.01 * j as f64);
            trials.push(TrialRecord {
                params: params.round() as u64,
                train_flops: budget * off,
                val_loss: Some(4.0 - 0.05 * budget.ln() + 0.03 * factor.ln().powi(2)),
                ..varied(10 * i as u64 + j as u64, 1, &[("model.d_model", Value::from(10 * i + j))])
            });
        }
    }
    let found = figure("kind = 'isoflop'", &trials);
    assert_eq!(marked(&found, Mark::Points).iter().map(|s| s.points.len()).collect::<Vec<_>>(), [5; 3]);
    assert_eq!(marked(&found, Mark::Line).len(), 3);
    let [best] = marked(&found, Mark::Joined)[..] else { panic!("{found:?}") };
    for (point, budget) in best.points.iter().zip([1e12, 1e13, 1e14]) {
        assert!((point.x / (0.1 * f64::sqrt(budget)) - 1.0).abs() < 1e-3, "{point:?}");
        assert!((point.y - (4.0 - 0.05 * f64::ln(budget))).abs() < 1e-3, "{point:?}");
    }
    let law = found.notes.last().unwrap();
    assert!(law.starts_with("best size grows as C^0.500 ± "), "{law}");
    assert_eq!(found.legend_title, "training FLOPs");
}

#[test]
fn reliability_pools_the_bins_of_seeds() {
    // Every answer has probabilities (0.5, 0.25, 0.125, 0): the chosen option has a share of 4/7, 2/7 or 1/7.
    let found = figure("kind = 'reliability'\nwhere = 'model.n_layers == 2'", &depths());
    let [answers] = marked(&found, Mark::Joined)[..] else { panic!("{found:?}") };
    let n: u64 = answers.points.iter().filter_map(|p| p.n).sum();
    assert_eq!(n, 200);
    let right: f64 = answers.points.iter().map(|p| p.y / 100.0 * p.n.unwrap() as f64).sum();
    assert!((right - 50.0).abs() < 1e-9, "{right}");
    let last = answers.points.last().unwrap();
    assert!((last.x - 400.0 / 7.0).abs() < 1e-9, "{last:?}");
    let (low, high) = last.interval.unwrap();
    assert!(low < last.y && last.y < high);
    assert_eq!(places(marked(&found, Mark::Dashed)[0]), [(0.0, 0.0), (100.0, 100.0)]);
    assert!(found.notes[1].starts_with("200 answers, calibration error 0."), "{:?}", found.notes);
    // Both depths answer the same 100 questions: of 101 answers A, 44 are right, which are worth 25 questions.
    let found = figure("kind = 'reliability'", &depths());
    let last = marked(&found, Mark::Joined)[0].points.last().unwrap();
    assert_eq!(last.n, Some(101));
    let (low, high) = last.interval.unwrap();
    assert!((low - 26.305_274).abs() < 1e-5 && (high - 62.537_795).abs() < 1e-5, "{low} {high}");
}

#[test]
fn a_forest_shows_each_claim_with_its_verdict_and_margin() {
    let claim = |name: &str, a: u64, b: u64, more: &str| {
        format!(
            "[[compare]]\nclaim = '{name}'\nmetric = 'exam.accuracy'\na = 'model.n_layers == {a}'\n\
             b = 'model.n_layers == {b}'\npaired_by = ['seed']\n{more}\n"
        )
    };
    let text = format!(
        "kind = 'forest'\n{}{}",
        claim("deep beats wide", 4, 2, "margin = 0.02"),
        claim("wide beats deep", 2, 4, "")
    );
    let found = figure(&text, &depths());
    assert_eq!(found.y.categories, ["deep beats wide", "wide beats deep"]);
    // Differences of 36 and 38 percentage points: 37 ± 12.706.
    let of = |label: &str| series(&found).iter().find(|s| s.label == label).unwrap();
    assert_eq!(
        (places(of("supported")), places(of("contradicted"))),
        (vec![(37.0, 0.0)], vec![(-37.0, 1.0)])
    );
    let (low, high) = of("supported").points[0].interval.unwrap();
    assert!((low - 24.293_795).abs() < 1e-5 && (high - 49.706_205).abs() < 1e-5, "{low} {high}");
    assert_eq!(of("margin").points[0].interval, Some((-2.0, 2.0)));
    assert_eq!(
        (found.x.label.as_str(), found.level),
        ("effect (right: as claimed), exam accuracy (%)", Some((0.0, "no difference")))
    );
    // What is claimed to be lower stands to the right as well: seeds of 1.20 and 1.30, and of 1.00 and 1.05.
    let mut lower = depths();
    for (trial, bpb) in lower.iter_mut().zip([1.2, 1.3, 1.0, 1.05]) {
        trial.val_bpb = Some(bpb);
    }
    let found = figure(
        &format!("kind = 'forest'\n{}", claim("deep", 4, 2, "").replace("exam.accuracy", "val.bpb")),
        &lower,
    );
    let point = series(&found)[0].points[0];
    let (low, high) = point.interval.unwrap();
    // Differences of -0.20 and -0.25: their mean and 12.706 standard errors of 0.025.
    assert!(
        (point.x - 0.225).abs() < 1e-12 && (low + 0.092_655).abs() < 1e-6 && (high - 0.542_655).abs() < 1e-6
    );
    // Effects in standard deviations have no margin, and two pairs are too few for an effect.
    let in_deviations = text.replace("'forest'", "'forest'\neffect = 'g'");
    assert!(series(&figure(&in_deviations, &depths())).is_empty());
    let mut three = depths();
    three.extend([trial(3, 2, 25, Status::Done), trial(3, 4, 61, Status::Done)]);
    let g = figure(&in_deviations, &three);
    assert!(marked(&g, Mark::IntervalArea).is_empty() && series(&g)[0].points[0].x > 1.0, "{g:?}");
}

/// Trials with the given metrics of pretraining.
fn trained(rows: &[&str]) -> (tempfile::TempDir, Vec<TrialRecord>) {
    let dir = tempfile::tempdir().unwrap();
    let mut trials = vec![];
    for (seed, rows) in (1..).zip(rows) {
        let stage = dir.path().join(seed.to_string());
        std::fs::create_dir(&stage).unwrap();
        let head = "step,tokens,split,loss,elapsed_seconds,expert_load_0,expert_load_1";
        std::fs::write(stage.join("metrics.csv"), format!("{head}\n{rows}")).unwrap();
        let mut trial = trial(seed, 2, 40, Status::Done);
        trial.stages =
            vec![StageRecord { stage: "pretrain".into(), record: stage, ..StageRecord::default() }];
        trials.push(trial);
    }
    (dir, trials)
}

#[test]
fn losses_of_seeds_are_a_mean_with_a_band_and_faint_curves() {
    let (_dir, trials) = trained(&[
        "1,10,train,4,1,0.5,0.5\n2,20,train,3,2,0.75,0.25\n2,20,val,3.5,2,,\n",
        "1,10,train,6,1,0.5,0.5\n2,20,train,5,2,0.5,0.5\n2,20,val,4.5,2,,\n",
    ]);
    let found = figure("kind = 'loss'", &trials);
    let [mean] = marked(&found, Mark::Line)[..] else { panic!("{found:?}") };
    assert_eq!(places(mean), [(10.0, 5.0), (20.0, 4.0)]);
    assert_eq!((mean.label.as_str(), mean.points[0].seeds), ("n_layers=2", 2));
    let (low, high) = mean.points[0].interval.unwrap();
    assert!((high - low - 2.0 * 12.706_204_7).abs() < 1e-5, "{low} {high}");
    let seeds: Vec<_> = marked(&found, Mark::SeedLine).iter().map(|s| s.seed).collect();
    assert_eq!(seeds, [Some(1), Some(2)]);
    assert_eq!(places(marked(&found, Mark::Points)[0]), [(20.0, 4.0)]);
    // A single seed has a curve without a band.
    let alone = figure("kind = 'loss'\nsplit = 'train'", &trials[..1]);
    assert_eq!((series(&alone).len(), series(&alone)[0].points[0].interval), (1, None));
}

#[test]
fn the_load_of_experts_is_in_even_shares() {
    let rows = "1,10,train,4,1,0.5,0.5\n2,20,train,3,2,0.75,0.25\n2,20,val,3.5,2,,\n";
    let (_dir, trials) = trained(&[rows, rows]);
    let one = figure("kind = 'experts'\nx = 'step'\nwhere = 'seed == 1'", &trials);
    let found: Vec<_> = series(&one).iter().map(|s| (s.label.as_str(), places(s))).collect();
    assert_eq!(
        found,
        [("expert 0", vec![(1.0, 1.0), (2.0, 1.5)]), ("expert 1", vec![(1.0, 1.0), (2.0, 0.5)])]
    );
    let both = figure("kind = 'experts'", &trials);
    assert_eq!(
        series(&both).iter().map(|s| (s.label.as_str(), s.colour, s.seed)).collect::<Vec<_>>(),
        [("n_layers=2", 0, Some(1)), ("", 0, Some(1)), ("", 0, Some(2)), ("", 0, Some(2))]
    );
}

#[test]
fn routes_are_shown_by_subject_expert_and_seed() {
    let routed = |mut trial: TrialRecord, of_law: [u64; 2]| {
        let of = |subject: &str, load: [u64; 2]| Routing {
            subject: subject.into(),
            tokens: load.iter().sum(),
            entropy: 0.25,
            load: vec![load.to_vec(), vec![5, 5]],
        };
        trial.exams[0].routing = vec![of("law", of_law), of("art", [10, 0])];
        trial
    };
    let trials =
        [(1, [6, 4]), (2, [8, 2])].map(|(seed, load)| routed(trial(seed, 2, 40, Status::Done), load));
    let lines = "kind = 'heatmap'\nx = 'exam.expert'\ny = 'exam.subject'\nvalue = 'exam.expert_load'";
    let drawn = figure(lines, &trials);
    let Content::Cells { cells, .. } = &drawn.content else { panic!("{drawn:?}") };
    assert_eq!(
        (drawn.x.categories.join(" "), drawn.y.categories.join(" ")),
        ("0.0 0.1 1.0 1.1".into(), "law".into())
    );
    for (cell, mean) in cells[0].iter().zip([1.4, 0.6, 1.0, 1.0]) {
        assert!((cell.as_ref().unwrap().0 - mean).abs() < 1e-12, "{cells:?}");
    }
    // Without subjects, the exam as a whole: 16 and 18 of 20 tokens went to expert 0 of layer 0.
    let drawn = figure(&lines.replace("exam.subject", "model.n_layers"), &trials);
    let Content::Cells { cells, .. } = &drawn.content else { panic!("{drawn:?}") };
    assert!((cells[0][0].as_ref().unwrap().0 - 1.7).abs() < 1e-12, "{cells:?}");
    let drawn = figure("kind = 'dots'\nx = 'exam.specialization'\ny = 'exam.subject'", &trials);
    // Law differs from the exam as a whole by 0.2 and 0.1 in layer 0, and not in layer 1.
    assert!((series(&drawn)[0].points[0].x - 0.075).abs() < 1e-12, "{drawn:?}");
}

#[test]
fn a_file_says_how_large_a_figure_is_and_what_its_axes_show() {
    let lines = "kind = 'line'\nx = 'model.n_layers'\ny = 'val.bpb'\nx_label = 'depth'\ny_limits = [1, 2]\n\
                 log_x = false\nsize = 'column'\nheight = 2\nlegend = 'none'";
    let found = figure(lines, &depths());
    assert_eq!(
        (found.x.label.as_str(), found.x.log, found.y.explicit_range),
        ("depth", Some(false), Some((1.0, 2.0)))
    );
    let dir = tempfile::tempdir().unwrap();
    let drawn = found.write(&mut Output::open(dir.path(), &["figures"]).unwrap()).unwrap();
    // 20 units per point, 72 points per inch.
    assert!(
        drawn.svg.starts_with("<svg width=\"3.250in\" height=\"2.000in\" viewBox=\"0 0 4680 2880\""),
        "{}",
        &drawn.svg[..100]
    );
    let png = std::fs::read(dir.path().join("figures/line_val_bpb_by_model_n_layers.png")).unwrap();
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), (975, 600));
    // 300 dots per inch are 11,811 per metre.
    assert_eq!((&png[37..41], number(41), number(45), png[49]), (b"pHYs".as_slice(), 11_811, 11_811, 1));
    // The plotted data, including the curves of seeds; all seeds have the value 1.25, without spread.
    let csv = std::fs::read_to_string(dir.path().join("figures/line_val_bpb_by_model_n_layers.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[1..3], [",2,1.25,,,1,1,", ",4,1.25,,,1,1,"]);
    assert_eq!(lines[5], ",2,1.25,1.25,1.25,2,,");
}

/// The table of kinds as docs/experiments.md has it.
fn manual() -> String {
    let mut table = String::from("| `kind` | what it shows | keys |\n|---|---|---|\n");
    for kind in KINDS {
        let key = |name: &str, is_needed: bool| {
            if is_needed { format!("**`{name}`**") } else { format!("`{name}`") }
        };
        let keys: Vec<String> = kind.keys.iter().map(|k| key(k.name, k.is_needed)).collect();
        table += &format!("| `{}` | {} | {} |\n", kind.name, kind.shows, keys.join(", "));
    }
    table
}

#[test]
fn the_reference_of_kinds_is_in_the_manual() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/experiments.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("| `kind` | what it shows").unwrap();
    let after = rest.split_once("\n\n").unwrap().1;
    let wanted = format!("{before}{}\n{after}", manual());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert!(page == wanted, "docs/experiments.md is old; regenerate it with UPDATE_DOCS=1");
    }
}

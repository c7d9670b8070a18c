//! Tables and figures of an experiment, from made-up trials to files.

use super::*;
use crate::report::figure::{Content, Figure, Mark};
use crate::report::kind::{KINDS, draw};

const EXPERIMENT: &str = r#"
title = "Depth & width"
sweeps = ["s.toml"]
[[figure]]
kind = "line"
name = "line"
x = "model.n_layers"
y = "exam.accuracy"
group = "exam.subject"
[[figure]]
kind = "scatter"
name = "scatter"
x = "params"
y = "val.loss"
fit = "power"
log_x = true
log_y = true
[[figure]]
kind = "bar"
name = "bar"
x = "sweep"
y = "exam.accuracy"
group = "model.n_layers"
error = "wilson"
[[figure]]
kind = "heatmap"
name = "heatmap"
x = "model.n_layers"
y = "exam.subject"
value = "exam.accuracy"
[[figure]]
kind = "pareto"
name = "pareto"
x = "params"
y = "exam.accuracy"
[[figure]]
kind = "loss"
name = "loss"
[[figure]]
kind = "dots"
name = "dots"
x = "exam.accuracy"
y = "exam.subject"
group = "model.n_layers"
size = "column"
[[figure]]
kind = "sensitivity"
name = "sensitivity"
x = "model.n_layers"
y = "val.loss"
[[figure]]
kind = "isoflop"
name = "isoflop"
[[figure]]
kind = "experts"
name = "experts"
[[figure]]
kind = "reliability"
name = "reliability"
[[figure]]
kind = "forest"
name = "forest"
[[table]]
name = "depth"
title = "Depth_1 & 100 %"
rows = ["model.n_layers"]
columns = ["params", "val.bpb", "exam.accuracy"]
[[table]]
name = "subjects"
rows = ["exam.subject"]
columns = ["exam.accuracy"]
where = "model.n_layers == 8"
[[compare]]
claim = "8 layers beat 2"
metric = "exam.accuracy"
a = "model.n_layers == 8"
b = "model.n_layers == 2"
paired_by = ["seed"]
"#;

/// Three depths with two seeds each; 100 questions in two subjects.
fn made_up() -> (Vec<TrialRecord>, Vec<TrialQuestion>) {
    let mut trials = vec![];
    for (n_layers, correct) in [(2, [24, 26]), (4, [41, 41]), (8, [60, 64])] {
        for seed in [1, 2] {
            let mut trial = trial(seed, n_layers, correct[seed as usize - 1], Status::Done);
            trial.val_loss = Some(3.0 * (trial.params as f64).powf(-0.25));
            trials.push(trial);
        }
    }
    let mut questions = vec![];
    for trial in &trials {
        for id in 0..trial.exams[0].tally.questions {
            let is_right = id < trial.exams[0].tally.correct;
            let record = QuestionRecord {
                subject: if id < 50 { "数学".into() } else { "law".into() },
                id: id.to_string(),
                probabilities: vec![0.25; 4],
                prediction: if is_right { 'A' } else { 'B' },
                answer: 'A',
                contaminated: None,
                options: vec![],
            };
            questions.push(TrialQuestion {
                trial: trial.trial,
                stage: "sft".into(),
                taken: ExaminedWeights::default(),
                record,
            });
        }
    }
    (trials, questions)
}

fn experiment() -> Experiment {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, EXPERIMENT).unwrap();
    Experiment::read_if_experiment(&path).unwrap().unwrap()
}

#[test]
fn everything_asked_for_is_written() {
    let (trials, questions) = made_up();
    let dir = tempfile::tempdir().unwrap();
    write(&experiment(), &trials, &questions, &[], dir.path()).unwrap();
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    for name in KINDS.map(|kind| kind.name) {
        assert!(read(&format!("figures/{name}.svg")).starts_with("<svg"), "{name}");
        let starts = |extension: &str, with: &[u8]| {
            std::fs::read(dir.path().join(format!("figures/{name}.{extension}"))).unwrap().starts_with(with)
        };
        assert!(starts("png", b"\x89PNG") && starts("pdf", b"%PDF-1.7"), "{name}");
        assert!(
            read(&format!("figures/{name}.csv")).starts_with("series,x,y,low,high,seeds,seed,n\n"),
            "{name}"
        );
    }
    assert!(!dir.path().join("figures/accuracy_params.svg").exists());
    // The mean of 24 and 26 is 25 ± 12.706 * 1 percent; 41 and 41 do not vary.
    assert_eq!(
        read("tables/depth.md"),
        "**Depth_1 & 100 %**\n\n\
         | layers | parameters | validation bits per byte | exam accuracy (%) |\n\
         | --- | ---: | ---: | ---: |\n\
         | 2 | 2,000 | 1.250 ± 0.000 | 25.0 ± 12.7 |\n\
         | 4 | 4,000 | 1.250 ± 0.000 | 41.0 ± 0.0 |\n\
         | 8 | 8,000 | 1.250 ± 0.000 | **62.0 ± 25.4** |\n\
         \nMeans over 2 seeds ± 95 % interval (Student's t). 100 questions. Best of each column in bold, not tested: \
         a test needs 3 seeds with some variation.\n"
    );
    let tex = read("tables/depth.tex");
    assert!(
        tex.contains("\\caption{Depth\\_1 \\& 100 \\%. Means over 2 seeds")
            && tex.contains("\\label{tab:depth}"),
        "{tex}"
    );
    assert!(
        tex.contains("8 & 8,000 & 1.250 $\\pm$ 0.000 & \\textbf{62.0 $\\pm$ 25.4} \\\\\n\\bottomrule"),
        "{tex}"
    );
    // The first 50 questions are all right, and 10 or 14 of the others.
    assert!(read("tables/subjects.md").contains("| law | 24.0 ± 50.8 |\n| 数学 | **100.0 ± 0.0** |"));
    assert!(read("figures/line.csv").contains("law,8,24.00"), "{}", read("figures/line.csv"));
    // Differences of 36 and 38 percentage points.
    let comparisons = read("comparisons.csv");
    let row = comparisons.lines().nth(1).unwrap();
    assert!(row.starts_with("8 layers beat 2,exam_accuracy,model.n_layers == 8,model.n_layers == 2,seed,paired t,2,2,0,0.62,0.25,0.37,"), "{row}");
    assert!(row.contains(",supported,supported,0.1633"), "{row}");
    let md = read("tables/comparisons.md");
    assert!(
        md.contains("| supported | exam accuracy (%) | 62.0 | 25.0 | 37.0 | 24.3 to 49.7 | 2 seeds | paired t | 0.017 | 0.017 |"),
        "{md}"
    );
    let page = read("report.html");
    let best = "<b><span>62.0</span> <span>± 25.4</span></b>";
    for part in ["<h2 id=\"claims\">", "<caption>Depth_1 &amp; 100 %</caption>", best, "数学"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_fit_is_drawn_with_its_equation_and_the_front_is_marked() {
    let (trials, questions) = made_up();
    let results = Results::new(&trials, &questions);
    let experiment = experiment();
    let figure = |name: &str| -> Figure {
        draw(experiment.figures.iter().find(|f| f.name == name).unwrap(), &results, &[])
    };
    let series = |figure: &Figure| match &figure.content {
        Content::Series(series) => series.clone(),
        Content::Cells { .. } => vec![],
    };
    let scatter = figure("scatter");
    let [points, curve] = &series(&scatter)[..] else { panic!("{scatter:?}") };
    assert_eq!((points.points.len(), curve.mark), (3, Mark::Dashed));
    let note = &scatter.notes[1];
    assert!(note.starts_with("y = 3.00 x^−0.250 (exponent ± ") && note.ends_with("R²=1.000, n=3)"), "{note}");
    // The curve has the band of its mean, which is narrow here because the points lie on the curve.
    let (low, high) = curve.points[0].interval.unwrap();
    assert!(low <= curve.points[0].y && curve.points[0].y <= high && high - low < 1e-6, "{low} {high}");
    // More layers cost more and score higher, so every setting is on the front.
    let pareto = series(&figure("pareto"));
    let numbered: Vec<&str> =
        pareto.iter().filter(|s| s.mark == Mark::Numbered).map(|s| s.label.as_str()).collect();
    assert_eq!(numbered, ["n_layers=2", "n_layers=4", "n_layers=8"]);
}

/// Two shapes with and without experts, two seeds each: the groups have the same values of x.
fn grouped_points() -> Vec<TrialRecord> {
    let mut trials = vec![];
    for (experts, n_layers, correct) in [(0, 2, 30), (4, 2, 40), (0, 4, 50), (4, 4, 60)] {
        for seed in [1, 2] {
            let mut trial = trial(seed, n_layers, correct + 4 * seed, Status::Done);
            trial.keys.push(("model.n_experts".into(), u64::into(experts)));
            trial.setting = Uuid::from_u128(u128::from(1000 * experts + n_layers));
            trial.trial = Uuid::from_u128(u128::from(10_000 * experts + 100 * seed + n_layers));
            trials.push(trial);
        }
    }
    trials
}

#[test]
fn grouped_points_stand_at_their_true_x() {
    let trials = grouped_points();
    let questions = answers(&trials);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let figure = |kind: &str| {
        let part = format!(
            "kind = '{kind}'\nname = '{kind}'\nx = 'params'\ny = 'exam.accuracy'\ngroup = 'model.n_experts'"
        );
        std::fs::write(&path, format!("sweeps = ['s']\n[[figure]]\n{part}\n")).unwrap();
        let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
        write(&experiment, &trials, &questions, &[], dir.path()).unwrap();
        std::fs::read_to_string(dir.path().join(format!("figures/{kind}.svg"))).unwrap()
    };
    // Horizontal positions, in twentieths of a point, of the vertical lines of intervals; ticks are shorter.
    let places = |svg: &str| -> Vec<i32> {
        let lines = svg.lines().filter(|l| l.starts_with("<polyline") && l.contains("stroke-width=\"14\""));
        let ends = |line: &str| -> Vec<Vec<i32>> {
            let points = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            let place = |p: &str| p.split(',').map(|n| n.parse().unwrap()).collect();
            points.split_whitespace().map(place).collect()
        };
        let is_upright =
            |p: &Vec<Vec<i32>>| p.len() == 2 && p[0][0] == p[1][0] && (p[0][1] - p[1][1]).abs() > 160;
        let mut found: Vec<i32> = lines.map(ends).filter(is_upright).map(|p| p[0][0]).collect();
        found.sort_unstable();
        found
    };
    for kind in ["scatter", "pareto"] {
        let found = places(&figure(kind));
        assert_eq!(found.len(), 4, "{kind}: {found:?}");
        assert!(found[0] == found[1] && found[2] == found[3] && found[1] < found[2], "{kind}: {found:?}");
        let csv = std::fs::read_to_string(dir.path().join(format!("figures/{kind}.csv"))).unwrap();
        assert!(csv.contains("experts 0,2000,36,") && csv.contains("experts 4,2000,46,"), "{csv}");
    }
    // Lines have bands instead of error bars, and are not shifted either.
    let line = figure("line");
    assert_eq!(places(&line), Vec::<i32>::new());
    assert_eq!(line.matches("<polygon opacity=\"0.17\"").count(), 2, "{line}");
    // Figures of an earlier version of the experiment are removed.
    let left: Vec<bool> =
        ["scatter.svg", "pareto.png", "line.svg"].map(|f| dir.path().join("figures").join(f).exists()).into();
    assert_eq!(left, [false, false, true]);
}

#[test]
fn wilson_intervals_do_not_shrink_with_seeds_that_answer_the_same_questions() {
    let mut trials = vec![trial(1, 2, 36, Status::Done), trial(2, 2, 44, Status::Done)];
    let interval = |trials: &[TrialRecord]| {
        let questions = answers(trials);
        let results = Results::new(trials, &questions);
        let spec = "[[figure]]\nkind = 'bar'\nname = 'b'\nx = 'model.n_layers'\ny = 'exam.accuracy'\nerror = 'wilson'";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, format!("sweeps = ['s']\n{spec}\n")).unwrap();
        let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
        match draw(&experiment.figures[0], &results, &[]).content {
            Content::Series(series) => series[0].points[0],
            Content::Cells { .. } => panic!("a bar"),
        }
    };
    let two = interval(&trials);
    trials.truncate(1);
    trials[0].exams[0].tally.correct = 40;
    let one = interval(&trials);
    assert_eq!((two.y, two.interval, two.seeds), (40.0, one.interval, 2));
}

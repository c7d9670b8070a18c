//! Experiment files: parsing, and the message of every mistake.

use super::*;
use crate::report::columns::Better;
use std::path::Path;

fn read(text: &str) -> Result<Experiment, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, text).unwrap();
    let place = format!("{}/", dir.path().display());
    match Experiment::read_if_experiment(&path) {
        Ok(experiment) => Ok(experiment.unwrap()),
        Err(error) => Err(error.to_string().replace(&place, "")),
    }
}

fn problems(part: &str) -> String {
    read(&format!("sweeps = [\"s.toml\"]\n{part}")).unwrap_err()
}

#[test]
fn a_whole_file_is_read() {
    let experiment = read(
        "title = 'Deep'\nquestion = 'Is it?'\nsweeps = ['../s.toml']\n\
         [[figure]]\nkind = 'line'\nx = 'model.n_layers'\ny = 'exam.accuracy'\ngroup = 'exam.subject'\n\
         [[table]]\nrows = ['model.n_layers', 'params']\ncolumns = ['val.bpb', 'exam_accuracy']\n\
         [[compare]]\nclaim = 'c'\nmetric = 'val.bpb'\na = 'model.n_layers >= 8'\nb = 'model.n_layers <= 4'\n\
         paired_by = ['seed']\n",
    )
    .unwrap();
    assert_eq!((experiment.title.as_str(), experiment.question.as_str()), ("Deep", "Is it?"));
    assert!(experiment.sweeps[0].ends_with("../s.toml") && experiment.sweeps[0] != Path::new("../s.toml"));
    let figure = &experiment.figures[0];
    assert_eq!(figure.name, "line_exam_accuracy_by_model_n_layers_per_subject");
    assert_eq!(figure.title, "Exam accuracy by layers and subject");
    assert_eq!(experiment.tables[0].name, "table_1");
    // Lower bits per byte are better.
    assert_eq!(experiment.comparisons[0].better, Better::Lower);
}

#[test]
fn labels_serve_tables_and_figures_wherever_they_stand() {
    let (trials, questions) = (vec![trial(1, 2, 24, Status::Done)], vec![]);
    let written = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        write(&read(text).unwrap(), &trials, &questions, &[], dir.path()).unwrap();
        ["figures/a.svg", "tables/table_1.md"].map(|f| std::fs::read_to_string(dir.path().join(f)).unwrap())
    };
    let parts = "[[table]]\nrows = ['model.n_layers']\ncolumns = ['exam.accuracy']\n\
                 [[figure]]\nkind = 'line'\nname = 'a'\nx = 'params'\ny = 'exam_accuracy'\ngroup = 'model.n_layers'\n";
    let labels = "[labels]\nmodel.n_layers = 'Layers'\n\"exam.accuracy\" = 'C-Eval (%)'\n";
    let [svg, md] = written(&format!("sweeps = ['s']\n{parts}{labels}"));
    assert!(md.starts_with("| Layers | C-Eval (%) |"), "{md}");
    assert!(svg.contains("C-Eval (%)") && svg.contains("C-Eval by parameters and Layers"), "{svg}");
    let [svg, md] = written(&format!("sweeps = ['s']\n{parts}"));
    assert!(md.starts_with("| layers | exam accuracy (%) |"), "{md}");
    assert!(svg.contains("Exam accuracy by parameters and layers"), "{svg}");
}

#[test]
fn names_of_default_figures_are_free_once_these_are_replaced() {
    let curves = "[[figure]]\nkind = 'loss'\nname = 'loss_sft'\n";
    let bars = "[[figure]]\nkind = 'bar'\nx = 'seed'\ny = 'val.bpb'\nname = 'subjects'\n";
    let isoflop = "[[figure]]\nkind = 'loss'\nname = 'fit_x'\n[[fit]]\nkind = 'isoflop'\nname = 'x'\n";
    for figures in [curves, bars, isoflop] {
        read(&format!("sweeps = ['s']\n{figures}")).unwrap();
    }
}

#[test]
fn a_sweep_is_no_experiment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.toml");
    std::fs::write(&path, "name = 's'\n[axes]\nseed = [1]\n").unwrap();
    assert!(Experiment::read_if_experiment(&path).unwrap().is_none());
}

#[test]
fn every_mistake_has_its_line_and_the_nearest_name() {
    let cases = [
        (
            "[[figure]]\nkynd = 'line'",
            "x.toml:2: figure.kind: is missing, expected kind = \"line\", or scatter, pareto, sensitivity, isoflop, dots, bar, heatmap, loss, experts, reliability, forest\n\
             x.toml:3: figure.kynd: unknown key; did you mean kind?",
        ),
        (
            "[[figure]]\nkind = 'lien'",
            "x.toml:3: figure.kind: is \"lien\", expected line, scatter, pareto, sensitivity, isoflop, dots, bar, heatmap, loss, experts, reliability, forest; did you mean line?",
        ),
        (
            "[[figure]]\nkind = 'line'\nx = 'model.n_layer'\ny = 'exam.acuracy'",
            "x.toml:4: figure.x: there is no \"model.n_layer\"; did you mean model.n_layers?\n\
             x.toml:5: figure.y: there is no \"exam.acuracy\"; did you mean exam.accuracy?",
        ),
        (
            "[[figure]]\nkind = 'line'\nx = 3\ny = 'sweep'",
            "x.toml:4: figure.x: is 3, expected text in quotes\n\
             x.toml:5: figure.y: is \"sweep\", which holds text, expected numbers as in \"exam.accuracy\"",
        ),
        (
            "[[figure]]\nkind = 'bar'\nx = 'seed'\ny = 'val.bpb'\nfit = 'power'",
            "x.toml:6: figure.fit: has no meaning for kind = \"bar\", expected kind, x, y, group, error, y_limits, name, title, where, size, width, height, legend, x_label, y_label",
        ),
        (
            "[[figure]]\nkind = 'bar'\nx = 'seed'\ny = 'val.bpb'\nerror = 'wilson'",
            "x.toml:6: figure.error: is \"wilson\", expected it with \"exam.accuracy\" only; use t95 or sd",
        ),
        (
            "[[figure]]\nkind = 'heatmap'\nx = 'seed'\ny = 'seed'",
            "x.toml:2: figure.value: is missing, expected value = \"val.bpb\"",
        ),
        (
            "[[figure]]\nkind = 'pareto'\nx = 'model.n_layers'\ny = 'val.bpb'",
            "x.toml:4: figure.x: is \"model.n_layers\", for which neither higher nor lower is better, expected a cost such as params or a metric",
        ),
        (
            "[[figure]]\nkind = 'line'\nx = 'seed'\ny = 'val.bpb'\nsize = 'wide'\nwidth = 0\nx_limits = [3, 1]\nlegend = 'left'",
            "x.toml:6: figure.size: is \"wide\", expected column, page\n\
             x.toml:7: figure.width: is 0, expected 1 to 20 inches\n\
             x.toml:8: figure.x_limits: is [3, 1], expected two numbers such as [0, 1], the smaller first\n\
             x.toml:9: figure.legend: is \"left\", expected auto, none, right",
        ),
        (
            "[[figure]]\nkind = 'line'\nx = 'sweep'\ny = 'val.bpb'\nlog_x = true\ny_limits = [0, 1]\nlog_y = true",
            "x.toml:6: figure.log_x: is true, but sweep holds text\n\
             x.toml:7: figure.y_limits: begins at or below 0, expected numbers above 0 with log_y = true",
        ),
        (
            "[[figure]]\nkind = 'sensitivity'\nx = 'pretrain.lr'\ny = 'seed'",
            "x.toml:5: figure.y: is \"seed\", for which neither higher nor lower is better, expected a metric",
        ),
        (
            "[[figure]]\nkind = 'forest'\nmetric = 'val.bbp'",
            "x.toml:3: figure.kind: is \"forest\", which shows claims, expected a [[compare]] in this file\n\
             x.toml:4: figure.metric: there is no \"val.bbp\"; did you mean val.bpb?",
        ),
        (
            "[[table]]\nrows = 'seed'\ncolumns = ['sweep']",
            "x.toml:3: table.rows: is 'seed', expected a list such as [\"seed\"]\n\
             x.toml:4: table.columns: names \"sweep\", which holds text, expected it among rows",
        ),
        (
            "[[table]]\nrows = ['sweep']\nacross = 'sweep'\nbest = 'rows'\ncolumns = ['val.bpb']\nwidth = 3",
            "x.toml:4: table.across: names \"sweep\", as rows do, expected another\n\
             x.toml:5: table.best: is \"rows\", expected column, row; did you mean row?\n\
             x.toml:7: table.width: is 3, expected text in quotes",
        ),
        (
            "[[table]]\nlayout = 'minimind'\nrows = ['seed']\ncolumns = ['val.bpb']",
            "x.toml:4: table.rows: names \"seed\", but tables are means over seeds; remove it\n\
             x.toml:5: table.columns: has no meaning for a layout by name, expected layout, rows, width, name, title, where",
        ),
        (
            "[[table]]\nrows = ['sweep']\nbest = 'row'\ncolumns = ['val.bpb']\nlayuot = 'minimind'",
            "x.toml:4: table.best: is \"row\", which needs across: it compares the values of a row\n\
             x.toml:6: table.layuot: unknown key; did you mean layout?",
        ),
        (
            "[[table]]\nname = 'summary'\nrows = ['sweep']\ncolumns = ['val.bpb']",
            "x.toml:3: table.name: is \"summary\", a name that the report uses itself, expected another",
        ),
        (
            "[[table]]\nname = 'a_subjects'\nrows = ['sweep']\ncolumns = ['val.bpb']\n[[table]]\nlayout = 'minimind'\nname = 'a'",
            "x.toml:8: table.name: is \"a\", whose second file \"a_subjects\" is the name of another table, expected another",
        ),
        (
            "[[figure]]\nkind = 'loss'\nname = 'fit_law'\n[[fit]]\nkind = 'chinchilla'\nname = 'law'",
            "x.toml:4: figure.name: is \"fit_law\", the name of a figure that the report draws itself, expected another",
        ),
        (
            "[[figure]]\nkind = 'loss'\nname = 'accuracy_params'\n[[figure]]\nkind = 'loss'\nname = 'tuning_lr'",
            "x.toml:4: figure.name: is \"accuracy_params\", the name of a figure that the report draws itself, expected another\n\
             x.toml:7: figure.name: is \"tuning_lr\", the name of a figure that the report draws itself, expected another",
        ),
        (
            "[[figure]]\nkind = 'line'\nx = 'params'\ny = 'val.bpbb'\nname = 'bpb_params'",
            "x.toml:5: figure.y: there is no \"val.bpbb\"; did you mean val.bpb?",
        ),
        (
            "[[figure]]\nkind = 'bar'\nx = 'seed'\ny = 'val.bpb'\nname = 'loss_sft'",
            "x.toml:6: figure.name: is \"loss_sft\", the name of a figure that the report draws itself, expected another",
        ),
        (
            "[[compare]]\nclaim = 'c'\nmetric = 'val.bpb'\na = 'params => 3'",
            "x.toml:2: compare.b: is missing, expected b = \"model.n_layers <= 4\"\n\
             x.toml:5: compare.a: has \"=\" at character 8, expected ==, !=, <, <=, > or >=",
        ),
        (
            "[[compare]]\nclaim = 'c'\nmetric = 'model.n_layers'\na = 'seed == 1'\nb = 'seed == 2'",
            "x.toml:2: compare.better: is missing, expected \"higher\" or \"lower\": for model.n_layers neither is better by default",
        ),
        (
            "[labels]\n\"model.n_layer\" = \"Layers\"\nparams = 3\nval.bpb = \"B\"\nval_bpb = \"C\"\nseed = \"\"",
            "x.toml:3: labels.model.n_layer: there is no \"model.n_layer\"; did you mean model.n_layers?\n\
             x.toml:4: labels.params: is 3, expected text in quotes\n\
             x.toml:6: labels.val_bpb: labels val_bpb a second time\n\
             x.toml:7: labels.seed: is \"\", expected text in quotes",
        ),
        (
            "labels = ['a']",
            "x.toml:2: labels: is ['a'], expected a table of labels by name, such as \"model.n_layers\" = \"Layers\"",
        ),
        ("figure = 3", "x.toml:2: figure: is 3, expected tables, each under [[figure]]"),
        ("[[figures]]\nkind = 'line'", "x.toml:2: figures: unknown key; did you mean figure?"),
    ];
    for (part, expected) in cases {
        let mut lines: Vec<String> = problems(part).lines().map(String::from).collect();
        lines.sort();
        assert_eq!(lines.join("\n"), expected, "{part}");
    }
    assert_eq!(
        read("title = 'x'").unwrap_err(),
        "x.toml: sweeps: is missing, expected a list of sweep files, such as [\"../sweeps/smoke.toml\"]"
    );
    assert_eq!(read("sweeps = []").unwrap_err(), "x.toml:1: sweeps: is [], expected a list of sweep files");
}

#[test]
fn a_condition_that_no_trial_can_meet_is_a_mistake() {
    let text = |condition: &str| {
        format!("sweeps = ['s']\n[[table]]\nrows = ['sweep']\ncolumns = ['val.bpb']\nwhere = '{condition}'\n")
    };
    let trials = [trial(1, 2, 24, Status::Pending), trial(1, 4, 24, Status::Pending)];
    let check = |condition: &str| read(&text(condition)).unwrap().check(&trials).map_err(|e| e.to_string());
    assert_eq!(check("model.n_layers == 4 and exam.accuracy > 0.9"), Ok(()));
    let error = check("model.n_layers == 3").unwrap_err();
    assert!(
        error.ends_with("x.toml:5: table.where: \"model.n_layers == 3\" holds for none of the 2 trials: model.n_layers is 2, 4"),
        "{error}"
    );
}

#[test]
fn a_column_of_a_stage_that_no_trial_trains_is_a_mistake() {
    let text = "sweeps = ['s']\n[[table]]\nrows = ['sweep']\ncolumns = ['lora.val_loss', 'sft.val_loss']\n\
                [[compare]]\nclaim = 'c'\nmetric = 'lora.perplexity'\na = 'seed == 1'\nb = 'sft.dead_experts == 0'\n";
    let mut trials = [trial(1, 2, 24, Status::Pending), trial(1, 4, 24, Status::Pending)];
    let config = crate::config::TrialConfig::default();
    trials.iter_mut().for_each(|trial| trial.config = toml::to_string(&config).unwrap());
    let errors = read(text).unwrap().check(&trials).unwrap_err().to_string();
    let errors: Vec<&str> = errors.lines().map(|line| line.rsplit_once('/').unwrap().1).collect();
    assert_eq!(
        errors,
        [
            "x.toml:4: table.columns: names lora.val_loss, which no trial will have: lora is not part of the recipe; set lora.enabled = true",
            "x.toml:9: compare.b: \"sft.dead_experts == 0\" names sft.dead_experts, which no trial will have: the models have no experts; set model.n_experts",
        ]
    );
    // One trial that trains the stage is enough.
    let mut with = config.clone();
    (with.lora.training.enabled, with.model.n_experts) = (true, 4);
    trials[1].config = toml::to_string(&with).unwrap();
    assert!(read(text).unwrap().check(&trials).is_ok());
}

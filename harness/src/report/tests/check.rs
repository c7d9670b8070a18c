//! Requests that no trial of a sweep can satisfy, reported before any training.

use super::*;
use crate::config::Overrides;
use crate::sweep::Sweep;

/// The trials of a sweep, none of which has run.
fn planned(text: &str) -> Vec<TrialRecord> {
    let sweep = Sweep::read_str("s.toml", &format!("name = 's'\n{text}"), &Overrides::default()).unwrap();
    let record = |(i, planned): (usize, crate::sweep::Trial)| {
        let config = &planned.config;
        let setting = crate::config::TrialConfig { seed: 0, ..(**config).clone() };
        TrialRecord {
            trial: Uuid::from_u128(i as u128),
            setting: Uuid::new_v5(&Uuid::nil(), crate::config::setting_key(&setting).as_bytes()),
            seed: config.seed,
            keys: planned.keys.clone(),
            exams: vec![],
            val_loss: None,
            val_bpb: None,
            config: toml::to_string(&**config).unwrap(),
            ..trial(config.seed, config.model.n_layers as u64, 0, Status::Pending)
        }
    };
    sweep.expand().unwrap().into_iter().enumerate().map(record).collect()
}

const DEPTHS: &str = "[axes]\nseed = [1, 2]\n'model.n_layers' = [2, 4, 8]\n";

/// The problems of a part of an experiment over the trials of a sweep.
fn problems(sweep: &str, part: &str) -> Vec<String> {
    let path = Path::new("x.toml");
    let experiment = Experiment::read_text(path, &format!("sweeps = ['s']\n{part}")).unwrap().unwrap();
    match experiment.check(&planned(sweep)) {
        Ok(()) => vec![],
        Err(errors) => errors.errors.iter().map(ToString::to_string).collect(),
    }
}

/// A claim that compares these sides.
fn claim(a: &str, b: &str, rest: &str) -> String {
    format!("[[compare]]\nclaim = 'c'\nmetric = 'val.bpb'\na = \"{a}\"\nb = \"{b}\"\n{rest}")
}

#[test]
fn a_protocol_is_there_before_anything_runs() {
    let expected =
        "x.toml:2: protocol: nowhere.md is not a file, expected the text file of the study's protocol";
    assert_eq!(problems(DEPTHS, "protocol = 'nowhere.md'\n"), [expected]);
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(problems(DEPTHS, &format!("protocol = '{}'\n", file.path().display())), [""; 0]);
}

#[test]
fn what_can_be_given_is_no_mistake() {
    let whole = "[[figure]]\nkind = 'line'\nx = 'model.n_layers'\ny = 'exam.accuracy'\ngroup = 'exam.subject'\n\
                 [[figure]]\nkind = 'loss'\nstage = 'sft'\n[[figure]]\nkind = 'line'\nx = 'at'\ny = 'exam.accuracy'\n\
                 [[table]]\nrows = ['exam.stage', 'averaged']\ncolumns = ['val.bpb', 'exam.log_prob']\nwhere = 'exam.accuracy > 0.3'\n";
    let sweep = format!(
        "[base.exam]\nat = [0.5, 1.0]\naverage_last = 2\nafter = ['pretrain', 'sft']\n[base.dpo]\nenabled = false\n{DEPTHS}"
    );
    assert_eq!(problems(&sweep, whole), [""; 0]);
    for claim in [
        claim("model.n_layers == 8", "model.n_layers <= 4", "paired_by = ['seed']"),
        claim("seed == 1", "seed == 2", "paired_by = []"),
        claim("exam.stage == 'sft'", "exam.stage == 'pretrain'", "paired_by = ['seed', 'model.n_layers']"),
        // Conditions on outcomes cannot be checked before the trials have run.
        claim("exam.accuracy > 0.5", "exam.accuracy > 0.4", "paired_by = ['exam.subject']"),
    ] {
        let claim = claim.replace("paired_by = []", "");
        assert_eq!(problems(&sweep, &claim), [""; 0], "{claim}");
    }
}

#[test]
fn exams_that_are_off_have_no_scores() {
    let sweep = format!("[base.exam]\nenabled = false\n{DEPTHS}");
    let found = problems(
        &sweep,
        "[[figure]]\nkind = 'line'\nx = 'exam.stage'\ny = 'exam.accuracy'\n\
         [[table]]\nrows = ['model.n_layers']\ncolumns = ['val.bpb', 'exam.ece']\nwhere = 'exam.accuracy > 0.5'\n\
         [[compare]]\nclaim = 'c'\nmetric = 'exam.accuracy'\na = 'model.n_layers == 2'\nb = 'model.n_layers == 4'\n",
    );
    assert_eq!(
        found,
        [
            "x.toml:4: figure.x: names exam.stage, which no trial will have: exam is not part of the recipe; set exam.enabled = true",
            "x.toml:5: figure.y: names exam.accuracy, which no trial will have: exam is not part of the recipe; set exam.enabled = true",
            "x.toml:9: table.where: \"exam.accuracy > 0.5\" names exam.accuracy, which no trial will have: exam is not part of the recipe; set exam.enabled = true",
            "x.toml:12: compare.metric: names exam.accuracy, which no trial of a will have: exam is not part of the recipe; set exam.enabled = true",
        ]
    );
    // If only some trials take the exam, a figure is valid, and each side of a claim is checked by itself.
    let some = "[[zip]]\n'model.n_layers' = [2, 4]\n'exam.enabled' = [true, false]\n";
    let figure = "[[figure]]\nkind = 'bar'\nx = 'model.n_layers'\ny = 'exam.accuracy'\n";
    assert_eq!(problems(some, figure), [""; 0]);
    let claim = "[[compare]]\nclaim = 'c'\nmetric = 'exam.accuracy'\na = 'model.n_layers == 2'\nb = 'model.n_layers == 4'\n";
    assert_eq!(
        problems(some, claim),
        [
            "x.toml:4: compare.metric: names exam.accuracy, which no trial of b will have: exam is not part of the recipe; set exam.enabled = true"
        ]
    );
}

#[test]
fn measures_that_no_trial_will_have_are_mistakes() {
    let table =
        |name: &str| format!("[[table]]\nrows = ['seed.']\ncolumns = ['{name}']\n").replace("seed.", "sweep");
    let one = |sweep: &str, name: &str| {
        let found = problems(&format!("{sweep}\n{DEPTHS}"), &table(name));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].replace("x.toml:4: table.columns: names ", "")
    };
    let without = "[base.pretrain]\nenabled = false";
    assert_eq!(
        one(without, "val.bpb"),
        "val.bpb, which no trial will have: pretrain is not part of the recipe; set pretrain.enabled = true"
    );
    let nothing = "[base.data]\nval_share = 0.0";
    assert_eq!(
        one(nothing, "val.loss"),
        "val.loss, which no trial will have: nothing is held out: data.val_share = 0"
    );
    assert_eq!(
        one("", "capacity_bits"),
        "capacity_bits, which no trial will have: data.source = \"world\", expected \"capacity\""
    );
    assert_eq!(
        one("", "val.bpb.wiki"),
        "val.bpb.wiki, which no trial will have: data.source = \"world\" has no named validation sets"
    );
    let files = "[base.data]\nsource = 'files'\npretrain = ['a']\nsft = ['b']\ndpo = ['c']\npretrain_val = { wiki = ['w'], books = ['b'] }\n[base.exam]\nsheets = 'x'";
    assert_eq!(
        one(files, "val.bpb.wikis"),
        "val.bpb.wikis, which no trial will have: the sets of data.pretrain_val are books, wiki; did you mean wiki?"
    );
    assert_eq!(problems(&format!("{files}\n{DEPTHS}"), &table("val.bpb.wiki")), [""; 0]);
    let unnamed = files.replace("pretrain_val = { wiki = ['w'], books = ['b'] }\n", "");
    assert_eq!(
        one(&unnamed, "val.bpb.wiki"),
        "val.bpb.wiki, which no trial will have: no validation set is named, as in data.pretrain_val = { wiki = [\"FILE\"] }"
    );
    assert_eq!(
        one("", "exam.accuracy_clean"),
        "exam.accuracy_clean, which no trial will have: exam.sheets is unset; only questions of sheets are searched for in training text"
    );
    assert_eq!(
        one("", "at"),
        "at, which no trial will have: exam.at = [1.0]; expected further shares of a stage, as in exam.at = [0.25, 0.5, 1.0]"
    );
    assert_eq!(
        one("", "averaged"),
        "averaged, which no trial will have: exam.average_last = 0, expected 2 or more"
    );
    assert_eq!(one("", "pretrain.steps"), "pretrain.steps, which is unset in every trial");
    // Tokens derived from a FLOP budget are known once the data is prepared.
    let solved = format!("[solve]\n'pretrain.tokens' = {{ flops = 1e12 }}\n{DEPTHS}");
    assert_eq!(problems(&solved, &table("pretrain.tokens")), [""; 0]);
    let hops = "[base.data]\nsource = 'hops'\n[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n";
    assert_eq!(problems(hops, &table("val.loss.hop_1")), [""; 0]);
}

#[test]
fn curves_are_of_stages_that_are_trained() {
    let figure = |rest: &str| {
        problems(
            &format!("[base.dpo]\nenabled = false\n{DEPTHS}"),
            &format!("[[figure]]\nkind = 'loss'\n{rest}"),
        )
    };
    assert_eq!(figure("split = 'both'"), [""; 0]);
    assert_eq!(
        figure("stage = 'dpo'"),
        [
            "x.toml:4: figure.stage: requests curves of dpo, which no trial will have: dpo is not part of the recipe; set dpo.enabled = true"
        ]
    );
    let files = "[base.data]\nsource = 'files'\npretrain = ['a']\n[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n[base.exam]\nenabled = false\n";
    let split = |split: &str| problems(files, &format!("[[figure]]\nkind = 'loss'\nsplit = '{split}'\n"));
    assert_eq!(
        split("sets"),
        [
            "x.toml:2: figure.stage: requests curves of pretrain, which no trial will have: no validation sets are named, as in data.pretrain_val = { wiki = [\"FILE\"] }"
        ]
    );
    assert!(
        split("sources")[0].ends_with("no sources are named, as in data.pretrain = { web = [\"FILE\"] }")
    );
}

#[test]
fn the_sides_of_a_claim_have_no_trial_in_common() {
    let same = claim("model.n_layers >= 4", "model.n_layers != 2", "");
    assert_eq!(
        problems(DEPTHS, &same),
        [
            "x.toml:6: compare.b: \"model.n_layers != 2\" selects the same 4 trials as a; expected different ones"
        ]
    );
    let some = claim("model.n_layers >= 4", "model.n_layers <= 4", "");
    assert_eq!(
        problems(DEPTHS, &some),
        [
            "x.toml:6: compare.b: \"model.n_layers <= 4\" also selects 2 trials of a, such as n_layers=4, seed 1; expected disjoint sides"
        ]
    );
    let none = claim("model.n_layers == 3", "model.n_layers == 5", "paired_by = ['exam.at']");
    assert_eq!(problems(DEPTHS, &none).len(), 2);
}

#[test]
fn what_pairs_nothing_is_a_mistake() {
    let by = |a: &str, b: &str, paired_by: &str| {
        problems(DEPTHS, &claim(a, b, &format!("paired_by = [{paired_by}]")))
    };
    assert_eq!(
        by("model.n_layers == 8", "model.n_layers <= 4", "'seed', 'model.n_layers'"),
        [
            "x.toml:7: compare.paired_by: names model.n_layers, which forms no pairs: it is 8 in a and 2, 4 in b; remove it"
        ]
    );
    assert_eq!(
        by("seed == 1", "seed == 2", "'seed'"),
        [
            "x.toml:7: compare.paired_by: pairs results of one seed, and no seed is on both sides: a has 1, b has 2"
        ]
    );
    let crossed = by(
        "model.n_layers == 2 and seed == 1 or model.n_layers == 4 and seed == 2",
        "model.n_layers == 2 and seed == 2 or model.n_layers == 4 and seed == 1",
        "'seed', 'model.n_layers'",
    );
    assert_eq!(
        crossed,
        [
            "x.toml:7: compare.paired_by: pairs nothing: no result of a has a partner of the same seed and equal values in b"
        ]
    );
}

#[test]
fn trials_are_chosen_by_what_is_known_of_them() {
    let trials = planned(DEPTHS);
    let chosen = |condition: &str| choose(condition, &trials).map(|found| found.len());
    assert_eq!(chosen("model.n_layers == 4"), Ok(2));
    assert_eq!(chosen("model.n_layers > 2 and seed == 1 or sweep == 'other'"), Ok(2));
    assert_eq!(
        chosen("model.n_layers == 5 and seed < 9"),
        Err("\"model.n_layers == 5 and seed < 9\" holds for none of the 6 trials: model.n_layers is 2, 4, 8; seed is 1, 2".into())
    );
    assert_eq!(
        chosen("val.bpb < 2"),
        Err("names val.bpb, which is known only after a trial has run; expected a key such as model.n_layers, or params, active_params, sweep, trial".into())
    );
    assert_eq!(
        chosen("model.n_layer == 4"),
        Err("there is no \"model.n_layer\"; did you mean model.n_layers?".into())
    );
}

//! Tables of experiments: `across`, marks for the best values and for those not distinguishable from them, MiniMind's layout.

use super::*;
use crate::report::tables::requested;

/// The tables of a `[[table]]` with these keys, in Markdown.
fn tables(keys: &str, trials: &[TrialRecord]) -> Vec<String> {
    let text = format!("sweeps = ['s']\n[[table]]\n{keys}\n");
    let experiment = Experiment::read_text(Path::new("x.toml"), &text).unwrap().unwrap();
    let answers = answers(trials);
    let results = Results::new(trials, &answers);
    requested::tables(&experiment.tables[0], &results).iter().map(Grid::markdown).collect()
}

/// Trials with these depths and numbers of right answers, for seeds 1, 2 and so on.
fn trials(of: &[(u64, &[u64])]) -> Vec<TrialRecord> {
    let seeds = |&(n_layers, correct): &(u64, &[u64])| {
        let of = |(i, correct): (usize, &u64)| trial(i as u64 + 1, n_layers, *correct, Status::Done);
        correct.iter().enumerate().map(of).collect::<Vec<_>>()
    };
    of.iter().flat_map(seeds).collect()
}

#[test]
fn what_is_not_told_from_the_best_is_marked() {
    let keys = "rows = ['model.n_layers']\ncolumns = ['exam.accuracy', 'val.bpb', 'params']";
    let all = trials(&[(2, &[20, 25, 22]), (4, &[59, 63, 61]), (8, &[60, 62, 64])]);
    // Differences of 1, -1 and 3: t = 0.87, p = 0.48; of 40, 37 and 42: t = 27.3, p = 0.0013, corrected 0.0027.
    // Bits per byte are all equal, and the number of parameters is not a score.
    assert_eq!(
        tables(keys, &all),
        ["| layers | exam accuracy (%) | validation bits per byte | parameters |\n\
          | --- | ---: | ---: | ---: |\n\
          | 2 | 22.3 ± 6.3 | 1.250 ± 0.000 | 2,000 |\n\
          | 4 | 61.0 ± 5.0 † | 1.250 ± 0.000 | 4,000 |\n\
          | 8 | **62.0 ± 5.0** | 1.250 ± 0.000 | 8,000 |\n\
          \nMeans over 3 seeds ± 95 % interval (Student's t). 100 questions. Best of each column in bold; † marks values \
          that are not significantly worse: paired t-test over seeds against the best, p ≥ 0.05 after Holm's correction within \
          the column.\n"]
    );
    // Two seeds are too few for a test.
    let two = trials(&[(2, &[20, 25]), (8, &[60, 62])]);
    let table = tables(keys, &two).remove(0);
    assert!(
        !table.contains('†')
            && table.ends_with("in bold, not tested: a test needs 3 seeds with some variation.\n"),
        "{table}"
    );
    // The same number of right answers for each seed is not worse.
    let equal = trials(&[(2, &[60, 62, 64]), (4, &[60, 62, 64]), (8, &[60, 62, 65])]);
    let table = tables(keys, &equal).remove(0);
    assert_eq!(table.matches(" † |").count(), 2, "{table}");
    // If the number of seeds differs, it gets a column.
    let unequal = trials(&[(2, &[20, 25, 22]), (8, &[60, 62])]);
    let table = tables(keys, &unequal).remove(0);
    assert!(
        table.starts_with("| layers | seeds | exam accuracy (%) |") && table.contains("| 8 | 2 | **61.0"),
        "{table}"
    );
}

#[test]
fn values_across_stand_side_by_side_and_are_compared_in_rows() {
    let mut all = trials(&[(2, &[20, 25, 22]), (4, &[40, 41, 44])]);
    let mut more = trials(&[(2, &[30, 33, 32]), (4, &[41, 40, 44])]);
    for (experts, trials) in [(0u64, &mut all), (4, &mut more)] {
        for trial in trials {
            trial.keys.push(("model.n_experts".into(), experts.into()));
            trial.setting = Uuid::from_u128(trial.setting.as_u128() + u128::from(1000 * experts));
            trial.trial = Uuid::from_u128(trial.trial.as_u128() + u128::from(1000 * experts));
        }
    }
    all.append(&mut more);
    // One trial is missing.
    all.retain(|trial| (trial.seed, trial.params, trial.setting.as_u128()) != (3, 4000, 4004));
    let table = |more: &str| {
        let keys = format!("rows = ['model.n_layers']\ncolumns = ['exam.accuracy', 'params']\n{more}");
        let experiment = format!("sweeps = ['s']\n[[table]]\n{keys}\n");
        let experiment = Experiment::read_text(Path::new("x.toml"), &experiment).unwrap().unwrap();
        let answers = answers(&all);
        requested::tables(&experiment.tables[0], &Results::new(&all, &answers)).remove(0)
    };
    let across = "across = 'model.n_experts'";
    let grid = table(across);
    assert!(!grid.note.contains("also over"), "{}", grid.note);
    assert_eq!(grid.spans, [(String::new(), 1), ("exam accuracy (%)".into(), 2), ("parameters".into(), 2)]);
    assert_eq!(grid.heads, ["layers", "experts 0", "experts 4", "experts 0", "experts 4"]);
    let texts: Vec<Vec<String>> =
        grid.rows.iter().map(|row| row.iter().map(|cell| cell.text.clone()).collect()).collect();
    assert_eq!(
        texts,
        [
            ["2", "22.3 ± 6.3", "31.7 ± 3.8", "2,000", "2,000"],
            ["4", "41.7 ± 5.2", "40.5 ± 6.4 (n=2)", "4,000", "4,000 (n=2)"],
        ]
    );
    let marks: Vec<Vec<(bool, bool)>> = grid
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| (cell.is_best, cell.is_not_worse)).collect())
        .collect();
    let (no, best) = ((false, false), (true, false));
    // Differences of 10, 8 and 10 in the first row; in the second, two common seeds are too few for a test.
    assert_eq!(marks, [[no, no, best, no, no], [no, best, no, no, no]]);
    let grid = table(&format!("{across}\nbest = 'column'"));
    let bold: Vec<Vec<bool>> =
        grid.rows.iter().map(|row| row[1..3].iter().map(|cell| cell.is_best).collect()).collect();
    assert_eq!(bold, [[false, false], [true, true]]);
    assert!(grid.note.contains("Best of each column"), "{}", grid.note);
    // Without the experts, a row holds the means over both values.
    let note = table("").note;
    assert!(note.contains("The means are also over experts."), "{note}");
}

#[test]
fn minimind_counts_right_answers_of_models_and_subjects() {
    let all = trials(&[(2, &[24, 26]), (8, &[60, 64])]);
    assert_eq!(
        tables("layout = 'minimind'\ntitle = 'C-Eval'", &all),
        [
            "**C-Eval**\n\n| model | correct | questions | accuracy |\n| --- | ---: | ---: | ---: |\n\
             | n_layers=2 | 50 | 200 | 25.00% |\n| n_layers=8 | 124 | 200 | 62.00% |\n\
             \nAnswers of 2 seeds together. Significantly different from guessing (p < 0.05 by Fisher's randomisation test, corrected by Holm \
             over the models): n_layers=8.\n",
            "**C-Eval: n_layers=2**\n\n| category | correct/total | accuracy |\n| --- | ---: | ---: |\n\
             | law | 50/200 | 25.00% |\n| total | 50/200 | 25.00% |\n\nAnswers of 2 seeds together.\n",
            "**C-Eval: n_layers=8**\n\n| category | correct/total | accuracy |\n| --- | ---: | ---: |\n\
             | law | 124/200 | 62.00% |\n| total | 124/200 | 62.00% |\n\nAnswers of 2 seeds together.\n",
        ]
    );
    let by_rows = tables("layout = 'minimind'\nrows = ['model.n_layers']\nwhere = 'seed == 1'", &all);
    assert!(by_rows[0].contains("| layers 2 | 24 | 100 | 24.00% |"), "{}", by_rows[0]);
    assert!(by_rows[1].starts_with("**layers 2**"), "{}", by_rows[1]);
}

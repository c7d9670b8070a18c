//! The tables of every report, for reading: its settings, and the verdicts on its claims.

use super::grid::{Grid, GridCell};
use crate::report::analysis::compare::Comparison;
use crate::report::number::{Digits, NOTHING, difference, p_text, scaled_with_error, shuffled_p};
use crate::report::results::summary::Setting;
use stats::Spread;

/// Builds the table of settings over their seeds, for reading; with exam columns only if any exam was taken.
pub fn summary(settings: &[Setting]) -> Grid {
    let has_exams = settings.iter().any(|s| s.answers.is_some());
    let mut heads = vec!["setting", "seeds", "parameters", "active", "validation loss", "bits per byte"];
    if has_exams {
        heads.extend(["questions", "accuracy (%)", "p of guessing (Holm)"]);
    }
    // Accuracy without the questions that appear in training text, if there are any.
    let is_contaminated = settings.iter().any(Setting::is_contaminated);
    if is_contaminated {
        heads.push("accuracy, clean (%)");
    }
    let digits = |decimals: usize, scale: f64, of: fn(&Setting) -> Option<Spread>| {
        Digits::of(decimals, settings.iter().filter_map(|s| Some(scale * of(s)?.mean)))
    };
    let (loss, bpb) = (digits(3, 1.0, |s| s.val_loss), digits(3, 1.0, |s| s.bpb));
    let (accuracy, clean) = (digits(1, 100.0, |s| s.accuracy), digits(1, 100.0, |s| s.clean));
    let row = |s: &Setting| -> Vec<GridCell> {
        let mut cells = vec![
            s.label.to_string(),
            s.trials.len().to_string(),
            crate::track::number(s.trials[0].params),
            crate::track::number(s.trials[0].active_params),
            scaled_with_error(s.val_loss, 1.0, loss, s.trials.len()),
            scaled_with_error(s.bpb, 1.0, bpb, s.trials.len()),
        ];
        if has_exams {
            let p = s.guessing.map(|g| shuffled_p(g.p_holm, g.test.is_bound));
            cells.extend([
                s.answers.map_or(NOTHING.into(), |answers| crate::track::number(answers.questions)),
                scaled_with_error(s.accuracy, 100.0, accuracy, s.trials.len()),
                p.unwrap_or_else(|| NOTHING.into()),
            ]);
        }
        if is_contaminated {
            cells.push(scaled_with_error(s.clean, 100.0, clean, s.trials.len()));
        }
        cells.into_iter().map(GridCell::from).collect()
    };
    let mut note = "± 95 % interval over seeds (Student's t).".to_string();
    if has_exams {
        note += " p of guessing: Fisher's randomisation test, corrected by Holm over the settings.";
    }
    Grid {
        title: "Settings, means over seeds".into(),
        note,
        heads: heads.into_iter().map(String::from).collect(),
        text_columns: 1,
        rows: settings.iter().map(row).collect(),
        ..Grid::default()
    }
}

/// Builds the table of comparisons, for reading.
pub fn comparisons(compared: &[Comparison]) -> Grid {
    let heads =
        ["claim", "verdict", "metric", "a", "b", "a − b", "95 % interval", "n", "test", "p", "p (Holm)"];
    let row = |c: &Comparison| -> Vec<GridCell> {
        let metric = &c.spec.metric;
        let value = |value: f64| difference(value, metric);
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.into());
        let n = match (c.n, c.spec.paired_by.is_empty()) {
            ((0, 0), _) => NOTHING.into(),
            ((seeds, _), false) => crate::track::counted(seeds, "seed"),
            ((a, b), true) => format!("{a} and {}", crate::track::counted(b, "seed")),
        };
        let cells = [
            c.spec.claim.clone(),
            c.sentence(),
            metric.label().into(),
            or_nothing(c.means.map(|m| value(m.0))),
            or_nothing(c.means.map(|m| value(m.1))),
            or_nothing(c.effect().map(value)),
            or_nothing(c.tested.map(|t| format!("{} to {}", value(t.interval.0), value(t.interval.1)))),
            n,
            c.test.into(),
            or_nothing(c.tested.map(|t| p_text(t.p))),
            or_nothing(c.tested.map(|t| p_text(t.p_holm))),
        ];
        cells.map(GridCell::from).to_vec()
    };
    Grid {
        title: "Claims".into(),
        note: "p is two-sided, and corrected by Holm over the claims of one family.".into(),
        heads: heads.map(String::from).to_vec(),
        text_columns: 3,
        rows: compared.iter().map(row).collect(),
        ..Grid::default()
    }
}

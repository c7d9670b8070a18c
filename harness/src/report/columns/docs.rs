//! docs/columns.md: every column of trials.csv, generated from the declarations.

use super::key_label::unit_apart;
use super::quantity::{QUANTITIES, dotted};
use super::stage_column::{MEASURES, StageColumn};
use super::{Better, Format};
use crate::config::TrainStage;

const HEAD: &str = "# Columns of `trials.csv`

<!-- Generated from the declarations in the program by `UPDATE_DOCS=1 cargo test -p mindscale reference`. -->

`results/<name>/trials.csv` has a row for each trial and exam, in UTF-8 with a header. Figures, tables, conditions and claims of
[experiment files](experiments.md) name its columns. Later versions may add columns but do not rename any; their order is not fixed. Values that are unknown, not
finite, or not recorded by an older version are empty. Shares are numbers from 0 to 1 here, and percentages in tables and figures.

";

/// Columns of trials.csv without a declaration.
const FURTHER: [(&str, &str); 6] = [
    ("seed", "the trial's seed"),
    ("`model.n_layers`, ...", "every key that is swept, solved or distinguishes settings"),
    ("status", "`done`, `running`, `failed`, `stopped` or `pending`"),
    ("reason", "why the trial failed"),
    ("`run.pretrain`, ...", "name of the stage run's folder; for `run.exam`, the folder of the row's exam"),
    ("`val_loss.NAME`, `val_bpb.NAME`", "`val_loss` and `val_bpb` on the validation set of that name"),
];

/// Renders the page in Markdown.
pub fn columns_markdown() -> String {
    let code = |name: &str| if name.contains('`') { name.to_string() } else { format!("`{name}`") };
    let of = |better: Option<Better>| match better {
        Some(Better::Higher) => "higher",
        Some(Better::Lower) => "lower",
        None => "",
    };
    let unit = |label: &str, format: Format| match (format, unit_apart(label).1) {
        (Format::Percent, _) => "share".to_string(),
        (_, unit) => unit.unwrap_or_default().to_string(),
    };
    let mut page = HEAD.to_string()
        + "| column | what it is | unit | better | in experiment files also |\n| --- | --- | --- | --- | --- |\n";
    for q in &QUANTITIES {
        let also =
            Some(dotted(q.name)).filter(|name| name != q.name).map_or(String::new(), |name| code(&name));
        let (unit, better) = (unit(q.label, q.format), of(q.better));
        page += &format!("| {} | {} | {unit} | {better} | {also} |\n", code(q.name), q.about);
    }
    for (name, about) in FURTHER {
        page += &format!("| {} | {about} | | | |\n", code(name));
    }
    page += "\n`subject`, `group`, `expert`, `exam_expert_load`, `exam_router_entropy` and `exam_specialization` are not columns of `trials.csv`;\n\
             experiment files may use them. Their values are those of a subject (`questions.csv`) or of experts (`experts.csv`).\n\n\
             ## Of every stage that trains\n\nPrefixed with the stage's name, as in `sft.val_loss`. A stage that no trial trains has no columns, \
             and naming one in an\nexperiment file is an error before anything is trained.\n\n\
             | column | what it is | unit | better | stages |\n| --- | --- | --- | --- | --- |\n";
    for measure in &MEASURES {
        let stages: Vec<&StageColumn> =
            StageColumn::all().iter().filter(|c| c.measure.name == measure.name).collect();
        let all = TrainStage::all().count();
        let names: Vec<&str> = stages.iter().map(|column| column.stage.name()).collect();
        let names = if names.len() == all { "all".into() } else { names.join(", ") };
        let unit = unit(&stages[0].label, measure.format);
        let better = of(measure.better);
        page += &format!("| `{}` | {} | {unit} | {better} | {names} |\n", measure.name, measure.about);
    }
    page
}

/// Whether the page describes a column.
#[cfg(test)]
pub fn tells_of(column: &str) -> bool {
    let page = columns_markdown();
    let is_row = |name: &str| page.contains(&format!("\n| `{name}` | "));
    let is_of_set = ["val_loss.", "val_bpb."].iter().any(|start| column.starts_with(start));
    let is_of_stage = StageColumn::all().iter().any(|of| of.name == column && is_row(of.measure.name));
    is_row(column)
        || is_of_set
        || is_of_stage
        || column.starts_with("run.")
        || crate::config::find(column).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::columns::ValidationSetColumn;
    use std::path::Path;

    #[test]
    fn the_committed_reference_of_columns_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/columns.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, columns_markdown()).ok();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == columns_markdown(),
            "docs/columns.md is out of date; regenerate it with UPDATE_DOCS=1"
        );
    }

    #[test]
    fn validation_sets_have_the_columns_that_the_page_tells_of() {
        assert_eq!(ValidationSetColumn::names("NAME").collect::<Vec<_>>(), ["val_loss.NAME", "val_bpb.NAME"]);
        assert!(FURTHER.iter().any(|(name, _)| *name == "`val_loss.NAME`, `val_bpb.NAME`"));
    }
}

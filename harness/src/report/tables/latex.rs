//! Tables for papers, in LaTeX with `booktabs`: they fit the requested width, and long ones continue over several pages.

use super::glyphs::{escape_tex, is_chinese, width};
use super::grid::{Grid, GridCell};
use super::typeset::{FitColumn, Parts, TableLayout, Width, layout, wrapped};

/// Maximum length of a float in lines of ten points; longer tables continue over several pages.
const PAGE: f64 = 44.0;

/// Renders tables as one file: floats with captions, labelled `tab:name`, `tab:name-2` and so on.
pub fn latex(grids: &[Grid], name: &str, width: Width) -> String {
    let tables: Vec<String> = grids
        .iter()
        .enumerate()
        .map(|(i, grid)| {
            let label = if i == 0 { name.to_string() } else { format!("{name}-{}", i + 1) };
            float(grid, &label, width)
        })
        .collect();
    let tables = tables.join("\n");
    let packages: Vec<&str> = ["booktabs", "array", "longtable"]
        .into_iter()
        .filter(|package| match *package {
            "array" => tables.contains("\\arraybackslash"),
            "longtable" => tables.contains("{longtable}"),
            _ => true,
        })
        .collect();
    let mut head = format!(
        "% \\usepackage{{{}}}; made for {} cm of a document of 10 points.\n",
        packages.join(","),
        width.centimetres()
    );
    if tables.contains("{longtable}") {
        head += "% It goes over several pages, for which LaTeX asks for a page of one column.\n";
    }
    if tables.contains(is_chinese) {
        head += "% Chinese: needs xelatex and \\usepackage[UTF8]{ctex}.\n";
    }
    head + &tables
}

fn float(grid: &Grid, name: &str, width: Width) -> String {
    let fits = layout(grid, width);
    let lines =
        |fit: &TableLayout| grid.rows.iter().map(|row| lines(row, fit)).sum::<f64>() * fit.size.points / 10.0;
    let is_long = fits.iter().map(lines).sum::<f64>() > PAGE;
    let caption = format!("\\caption{{{}}}\\label{{tab:{}}}", caption(grid), name.replace('_', "-"));
    let mut parts = vec![];
    for (i, fit) in fits.iter().enumerate() {
        let letters = format!(
            "\\fontsize{{{}}}{{{:.1}}}\\selectfont\\setlength{{\\tabcolsep}}{{{}pt}}%\n",
            fit.size.points,
            1.2 * fit.size.points,
            fit.size.side
        );
        let (columns, heads, rows) = (columns(fit), heads(grid, fit), rows(grid, fit));
        parts.push(match is_long {
            false => format!(
                "{letters}\\begin{{tabular}}{{{columns}}}\n\\toprule\n{heads}\\midrule\n{rows}\\bottomrule\n\\end{{tabular}}\n"
            ),
            true => {
                let caption = if i == 0 { format!("{caption}\\\\\n") } else { String::new() };
                format!(
                    "{{{letters}\\setlength{{\\LTcapwidth}}{{\\linewidth}}%\n\\begin{{longtable}}{{{columns}}}\n\
                     {caption}\\toprule\n{heads}\\midrule\n\\endfirsthead\n\\toprule\n{heads}\\midrule\n\\endhead\n\
                     \\bottomrule\n\\endfoot\n{rows}\\end{{longtable}}}}\n"
                )
            }
        });
    }
    if is_long {
        return parts.concat();
    }
    let parts = parts.join("\\par\\medskip\n");
    format!("\\begin{{table}}[htbp]\n\\centering\n{caption}\n\\par\\smallskip\n{parts}\\end{{table}}\n")
}

/// The caption: the title, if there is one, followed by the note.
fn caption(grid: &Grid) -> String {
    let mut title = grid.title.clone();
    if !title.is_empty() && !title.ends_with(['.', '?', '!', '。', '？']) {
        title.push('.');
    }
    escape_tex(format!("{title} {}", grid.note).trim())
}

fn columns(fit: &TableLayout) -> String {
    let column = |column: &FitColumn, is_text: bool| match (column.wraps, is_text) {
        (true, _) => format!(">{{\\raggedright\\arraybackslash}}p{{{:.1}pt}}", fit.points(column.width)),
        (_, true) => "l".into(),
        _ => "r".into(),
    };
    let of: String = fit.columns.iter().map(|of| column(of, of.is_text)).collect();
    format!("@{{}}{of}@{{}}")
}

/// Number of lines that a row takes.
fn lines(row: &[GridCell], fit: &TableLayout) -> f64 {
    let of = |column: &FitColumn| match (column.wraps, row.get(column.index)) {
        (true, Some(cell)) => wrapped(&cell.text, column.width).len(),
        _ => 1,
    };
    fit.columns.iter().map(of).max().unwrap_or(1) as f64
}

fn line(cells: &[String]) -> String {
    cells.join(" & ") + " \\\\\n"
}

fn heads(grid: &Grid, fit: &TableLayout) -> String {
    let mut heads = String::new();
    // Spanning headings, each over those of its columns that are in this part.
    let mut above: Vec<(usize, Vec<&FitColumn>)> = vec![];
    for column in &fit.columns {
        let mut ends = grid.spans.iter().scan(0, |end, (_, columns)| {
            *end += columns;
            Some(*end)
        });
        let Some(span) = ends.position(|end| column.index < end) else { continue };
        match above.last_mut() {
            Some((last, columns)) if *last == span => columns.push(column),
            _ => above.push((span, vec![column])),
        }
    }
    if !above.is_empty() {
        let (mut cells, mut rules, mut place) = (vec![], String::new(), 1);
        for (span, columns) in above {
            let (text, n) = (&grid.spans[span].0, columns.len());
            let gaps = 2.0 * fit.size.side * (n - 1) as f64;
            let room = columns.iter().map(|column| column.width).sum::<f64>() + gaps / fit.points(1.0);
            let text: Vec<String> = wrapped(text, room).iter().map(|line| escape_tex(line)).collect();
            let text =
                if text.len() > 1 { format!("\\shortstack{{{}}}", text.join("\\\\")) } else { text.concat() };
            if text.is_empty() {
                cells.extend(std::iter::repeat_n(String::new(), n));
            } else {
                cells.push(format!("\\multicolumn{{{n}}}{{c}}{{{text}}}"));
                rules += &format!("\\cmidrule(lr){{{place}-{}}}", place + n - 1);
            }
            place += n;
        }
        heads += &line(&cells);
        heads += &format!("{rules}\n");
    }
    // Headings with fewer lines than others are aligned at the bottom.
    let most = fit.columns.iter().map(|column| column.head.len()).max().unwrap_or(1);
    for at in 0..most {
        let cell = |column: &FitColumn| {
            let before = most - column.head.len();
            at.checked_sub(before).map_or(String::new(), |at| escape_tex(&column.head[at]))
        };
        heads += &line(&fit.columns.iter().map(cell).collect::<Vec<_>>());
    }
    heads
}

fn rows(grid: &Grid, fit: &TableLayout) -> String {
    let widest: Vec<Widest> = fit.columns.iter().map(|column| Widest::of(grid, column.index)).collect();
    let row = |row: &Vec<GridCell>| {
        let cells = fit.columns.iter().zip(&widest).map(|(column, widest)| match row.get(column.index) {
            Some(cell) if column.is_text => bold(escape_tex(&cell.text), cell.is_best),
            Some(cell) => widest.cell(cell),
            None => String::new(),
        });
        line(&cells.collect::<Vec<_>>())
    };
    grid.rows.iter().map(row).collect()
}

fn bold(text: String, is_best: bool) -> String {
    if is_best { format!("\\textbf{{{text}}}") } else { text }
}

/// The widest parts of a column's numbers, to which the others are padded, so that decimal points align.
struct Widest<'a> {
    half: &'a str,
    rest: &'a str,
    has_marks: bool,
}

impl<'a> Widest<'a> {
    fn of(grid: &'a Grid, column: usize) -> Self {
        let cells: Vec<&GridCell> = grid.rows.iter().filter_map(|row| row.get(column)).collect();
        let widest = |of: fn(Parts<'a>) -> &'a str| {
            let texts = cells.iter().map(|cell| of(Parts::of(&cell.text)));
            texts.max_by(|a, b| width(a).total_cmp(&width(b))).unwrap_or_default()
        };
        Self {
            half: widest(|parts| parts.half.unwrap_or_default()),
            rest: widest(|parts| parts.rest),
            has_marks: cells.iter().any(|cell| cell.is_not_worse),
        }
    }

    fn cell(&self, cell: &GridCell) -> String {
        let Parts { mean, half, rest } = Parts::of(&cell.text);
        let phantom = |text: &str| match text {
            "" => String::new(),
            text => format!("\\phantom{{{}}}", escape_tex(text)),
        };
        // The first characters of the widest, as many as this one lacks: aligns the digits.
        let lacking = |own: &str, widest: &'a str| -> &'a str {
            let lacking = widest.chars().count().saturating_sub(own.chars().count());
            widest.char_indices().nth(lacking).map_or(widest, |(end, _)| &widest[..end])
        };
        let mut text = escape_tex(mean);
        match half {
            Some(half) => {
                text += &format!(" $\\pm$ {}{}", phantom(lacking(half, self.half)), escape_tex(half))
            }
            None if !self.half.is_empty() && mean.contains(|c: char| c.is_ascii_digit()) => {
                text += &phantom(&format!(" ± {}", self.half));
            }
            None => {}
        }
        text = bold(text, cell.is_best);
        if !rest.is_empty() || !self.rest.is_empty() {
            text += &if rest.is_empty() { phantom(self.rest) } else { escape_tex(rest) };
        }
        match (self.has_marks, cell.is_not_worse) {
            (_, true) => text + "$^\\dagger$",
            (true, false) => text + "\\phantom{$^\\dagger$}",
            (false, false) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> GridCell {
        GridCell { text: text.into(), ..GridCell::default() }
    }

    #[test]
    fn a_table_is_a_float_with_caption_label_and_aligned_numbers() {
        let grid = Grid {
            title: "Depth_1 & 100 %".into(),
            note: "Means over 3 seeds.".into(),
            spans: vec![(String::new(), 1), ("accuracy (%)".into(), 2)],
            heads: ["layers", "a", "b"].map(String::from).into(),
            text_columns: 1,
            rows: vec![
                vec![cell("2"), cell("9.8 ± 12.7"), GridCell { is_not_worse: true, ..cell("1 ± 2 (n=2)") }],
                vec![cell("4"), GridCell { is_best: true, ..cell("41.2 ± 1.3") }, cell("–")],
                vec![cell("8"), cell("50.0"), cell("–")],
            ],
        };
        assert_eq!(
            latex(&[grid], "by_depth", Width::Page),
            "% \\usepackage{booktabs}; made for 16 cm of a document of 10 points.\n\
             \\begin{table}[htbp]\n\\centering\n\
             \\caption{Depth\\_1 \\& 100 \\%. Means over 3 seeds.}\\label{tab:by-depth}\n\\par\\smallskip\n\
             \\fontsize{10}{12.0}\\selectfont\\setlength{\\tabcolsep}{6pt}%\n\
             \\begin{tabular}{@{}lrr@{}}\n\\toprule\n \
             & \\multicolumn{2}{c}{accuracy (\\%)} \\\\\n\\cmidrule(lr){2-3}\n\
             layers & a & b \\\\\n\\midrule\n\
             2 & 9.8 $\\pm$ 12.7 & 1 $\\pm$ 2 (n=2)$^\\dagger$ \\\\\n\
             4 & \\textbf{41.2 $\\pm$ \\phantom{1}1.3} & --\\phantom{ (n=2)}\\phantom{$^\\dagger$} \\\\\n\
             8 & 50.0\\phantom{ $\\pm$ 12.7} & --\\phantom{ (n=2)}\\phantom{$^\\dagger$} \\\\\n\
             \\bottomrule\n\\end{tabular}\n\\end{table}\n"
        );
    }

    #[test]
    fn long_tables_go_over_pages_and_chinese_says_what_it_needs() {
        let rows = (0..52).map(|i| vec![cell(&format!("科目 {i}")), cell("1/4")]).collect();
        let grid = Grid {
            heads: ["subject", "correct"].map(String::from).into(),
            text_columns: 1,
            rows,
            ..Grid::default()
        };
        let tex =
            latex(&[grid.clone(), Grid { rows: grid.rows[..3].to_vec(), ..grid }], "ceval", Width::Page);
        for part in [
            "% \\usepackage{booktabs,longtable}; made",
            "xelatex and \\usepackage[UTF8]{ctex}",
            "\\begin{longtable}{@{}lr@{}}\n\\caption{}\\label{tab:ceval}\\\\\n\\toprule\nsubject & correct \\\\\n\\midrule\n\\endfirsthead",
            "\\label{tab:ceval-2}\n",
        ] {
            assert!(tex.contains(part), "{part} in {tex}");
        }
        assert_eq!(tex.matches("\\begin{tabular}").count(), 1);
    }
}

//! A table of text, and its Markdown; `latex.rs` writes it for papers, `page/` for browsers.

/// The mark after a value that is not significantly worse than the best.
pub const CLOSE: &str = "†";

/// A table of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grid {
    /// Title above; may be empty.
    pub title: String,
    /// Note on its numbers: seeds, intervals, marks; may be empty.
    pub note: String,
    /// Spanning headings from the left, each with its number of columns; they cover all columns, or there are none.
    pub spans: Vec<(String, usize)>,
    /// Column headings.
    pub heads: Vec<String>,
    /// Number of columns, from the left, that hold text and are left-aligned; the others are right-aligned.
    pub text_columns: usize,
    /// Rows of cells.
    pub rows: Vec<Vec<GridCell>>,
}

/// A cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GridCell {
    /// Text of the cell.
    pub text: String,
    /// Whether it is the best of those it is compared with.
    pub is_best: bool,
    /// Whether it is not significantly worse than the best.
    pub is_not_worse: bool,
}

impl From<String> for GridCell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl Grid {
    /// Renders the table in Markdown, with spanning headings joined to the headings below them.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escape = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
        let mut table =
            if self.title.is_empty() { String::new() } else { format!("**{}**\n\n", escape(&self.title)) };
        let above =
            self.spans.iter().flat_map(|(text, columns)| std::iter::repeat_n(text.as_str(), *columns));
        let above = above.chain(std::iter::repeat(""));
        let head = |(head, above): (&String, &str)| match above {
            "" => escape(head),
            above => format!("{}, {}", escape(above), escape(head)),
        };
        table += &line(self.heads.iter().zip(above).map(head).collect());
        let side = |column| if column < self.text_columns { "---" } else { "---:" };
        table += &line((0..self.heads.len()).map(|column| side(column).to_string()).collect());
        for row in &self.rows {
            let text = |cell: &GridCell| match (cell.is_best, cell.is_not_worse) {
                (true, _) => format!("**{}**", escape(&cell.text)),
                (_, true) => format!("{} {CLOSE}", escape(&cell.text)),
                _ => escape(&cell.text),
            };
            table += &line(row.iter().map(text).collect());
        }
        if !self.note.is_empty() {
            table += &format!("\n{}\n", self.note);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_above_heads_join_them_in_markdown() {
        let cell = |text: &str, is_best, is_not_worse| GridCell { text: text.into(), is_best, is_not_worse };
        let grid = Grid {
            title: "T|".into(),
            note: "Two <seeds>.".into(),
            spans: vec![(String::new(), 1), ("score".into(), 2)],
            heads: ["a", "x", "y"].map(String::from).into(),
            text_columns: 1,
            rows: vec![vec![cell("<r>", false, false), cell("1", false, true), cell("2", true, false)]],
        };
        assert_eq!(
            grid.markdown(),
            "**T\\|**\n\n| a | score, x | score, y |\n| --- | ---: | ---: |\n| <r> | 1 † | **2** |\n\nTwo <seeds>.\n"
        );
    }
}

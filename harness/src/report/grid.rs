//! A table of text, in Markdown; `latex.rs` writes it for papers, `page/` for browsers.

/// What follows a value that is not told from the best.
pub const CLOSE: &str = "†";

/// A table of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grid {
    /// Title above; may be empty.
    pub title: String,
    /// What is to be known of its numbers: seeds, intervals, marks; may be empty.
    pub note: String,
    /// Heads above the heads, each over so many columns, from the left over all of them; may be none at all.
    pub spans: Vec<(String, usize)>,
    /// Heads of columns.
    pub heads: Vec<String>,
    /// Columns, from the left, that hold text and stand to the left; the others stand to the right.
    pub text_columns: usize,
    /// Rows of cells.
    pub rows: Vec<Vec<GridCell>>,
}

/// A cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GridCell {
    /// What it says.
    pub text: String,
    /// Whether it is the best of those that it is compared with.
    pub is_best: bool,
    /// Whether it is not told from the best.
    pub is_close: bool,
}

impl From<String> for GridCell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl Grid {
    /// In Markdown, where heads stand in one line.
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
            let text = |cell: &GridCell| match (cell.is_best, cell.is_close) {
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
        let cell = |text: &str, is_best, is_close| GridCell { text: text.into(), is_best, is_close };
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

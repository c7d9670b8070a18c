//! Tables for a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// Formats a table: columns two spaces apart, numbers right-aligned, text left-aligned. An East Asian glyph is two columns wide.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |cell: &str| {
        cell.is_empty() || cell == "?" || cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    };
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header).add_rows(rows);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        // The first column holds row names, even if they are digits.
        if i > 0 && rows.iter().all(|row| is_number(&row[i])) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_right_and_wide_glyphs_count_twice() {
        let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
        let rows = [row(["语文", "7", "a"]), row(["law", "12.5", "bc"])];
        assert_eq!(
            table(&["subject", "%", "note"], &rows),
            "subject     %  note\n语文        7  a\nlaw      12.5  bc"
        );
    }
}

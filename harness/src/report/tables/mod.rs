//! Tables: CSV files for programs, and grids of text, which are written as Markdown and LaTeX.
//! `standard.rs` holds those of every report, `requested.rs` and `minimind.rs` the layouts that an experiment can request.

pub mod csv_files;
pub mod experts_csv;
pub mod glyphs;
pub mod grid;
pub mod latex;
pub mod minimind;
pub mod requested;
pub mod standard;
pub mod typeset;

//! Tables for people.

use std::io::Write as _;

use anyhow::Result;

/// Rows below a heading. Columns are as wide as their widest cell: the first ones, of names, are aligned to
/// the left, those of numbers to the right.
pub struct Table<const N: usize> {
    names: usize,
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table whose first `names` columns are names.
    pub fn new(names: usize, heading: [&str; N]) -> Self {
        let rows = vec![heading.map(str::to_owned)];
        Self { names, rows }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(str::to_owned));
    }

    /// Prints it, and what its columns mean.
    pub fn print(&self, legend: &str) -> Result<()> {
        writeln!(std::io::stdout().lock(), "{}{legend}", self.text())?;
        Ok(())
    }

    fn text(&self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                line += &if column < self.names {
                    format!("{cell:<width$}  ")
                } else {
                    format!("{cell:>width$}  ")
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let mut table = Table::new(1, ["what", "m", "links"]);
        table.row(["a long name", "3", "12.5"]);
        table.row(["b", "100", ""]);
        let text = "what           m  links\na long name    3   12.5\nb            100\n";
        assert_eq!(table.text(), text);
    }
}

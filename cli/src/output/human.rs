//! Tables for people: columns as wide as their longest cell, two blanks apart; on a terminal, states
//! have colours.

use super::style::{self, Stream};

/// The column whose words have colours.
const STATE: &str = "STATE";

/// A table with a head.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|cell| cell.to_uppercase()).collect()] }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count().max(1)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let is_state = |column: usize| {
            self.rows.first().and_then(|head| head.get(column)).is_some_and(|it| it == STATE)
        };
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let cell = if cell.is_empty() { "-" } else { cell };
                let blanks = width.saturating_sub(cell.chars().count());
                // The blanks stay outside of the colour: it must not make a cell wider.
                let cell = match is_state(column) {
                    true => Stream::Output.paint(style::state(cell), cell),
                    false => cell.to_owned(),
                };
                format!("{cell}{}", " ".repeat(blanks))
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["tier", "pid"]);
        table.row(vec!["master".into(), "12".into()]);
        table.row(vec!["worker".into(), String::new()]);
        assert_eq!(table.render(), "TIER    PID\nmaster  12\nworker  -\n");
    }
}

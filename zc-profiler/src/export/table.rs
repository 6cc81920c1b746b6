//! Tables as text: numbers to the right, words to the left, columns of one kind under one head.

use std::{
    fmt::{self, Write},
    ops::Range,
};

/// A column's head, and how its cells stand.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    group: &'static str,
    head: &'static str,
    words: bool,
}

impl Column {
    /// A column of words.
    #[must_use]
    pub const fn words(head: &'static str) -> Self {
        Self {
            group: "",
            head,
            words: true,
        }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn numbers(head: &'static str) -> Self {
        Self::of("", head)
    }

    /// A column of numbers that shares the head `group` with neighbours of the same group.
    #[must_use]
    pub const fn of(group: &'static str, head: &'static str) -> Self {
        Self {
            group,
            head,
            words: false,
        }
    }
}

/// A table of text; its `Display` ends every line, and begins none with more than it needs.
#[derive(Debug)]
pub struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub const fn new(columns: &'static [Column]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row: one cell for each column; missing ones stay empty, further ones are not shown.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Neighbours under one head, as ranges of column numbers.
    fn groups(&self) -> Vec<Range<usize>> {
        let mut groups = Vec::new();
        let mut start = 0;
        for run in self
            .columns
            .chunk_by(|left, right| left.group == right.group && !left.group.is_empty())
        {
            groups.push(start..start + run.len());
            start += run.len();
        }
        groups
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<_> = self
            .columns
            .iter()
            .map(|column| column.head.chars().count())
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for group in self.groups() {
            let need = self.columns[group.start].group.chars().count();
            let have = span(&widths[group.clone()]);
            widths[group.start] += need.saturating_sub(have);
        }
        widths
    }

    fn line<'a>(
        &self,
        f: &mut fmt::Formatter<'_>,
        widths: &[usize],
        groups: &[Range<usize>],
        cells: impl Iterator<Item = &'a str>,
    ) -> fmt::Result {
        let mut line = String::new();
        for (index, (cell, width)) in cells.zip(widths).enumerate() {
            if groups.iter().any(|group| group.start == index && index > 0) {
                line.push(' ');
            }
            if self.columns[index].words {
                write!(line, "{cell:width$} ")?;
            } else {
                write!(line, "{cell:>width$} ")?;
            }
        }
        writeln!(f, "{}", line.trim_end())
    }
}

/// The width of neighbours with the single spaces between them.
fn span(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + widths.len() - 1
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (widths, groups) = (self.widths(), self.groups());
        if self.columns.iter().any(|column| !column.group.is_empty()) {
            let mut line = String::new();
            for group in &groups {
                let width = span(&widths[group.clone()]);
                match self.columns[group.start].group {
                    "" => write!(line, "{:width$}  ", "")?,
                    head => write!(line, "{:-^width$}  ", framed(head, width))?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        let heads = self.columns.iter().map(|column| column.head);
        self.line(f, &widths, &groups, heads)?;
        for row in &self.rows {
            self.line(f, &widths, &groups, row.iter().map(String::as_str))?;
        }
        Ok(())
    }
}

/// A head with spaces around it where there is room for them.
fn framed(head: &str, width: usize) -> String {
    if width >= head.chars().count() + 4 {
        format!(" {head} ")
    } else {
        format!("{head:^width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column::words("method"),
        Column::of("mode switches", "syscall"),
        Column::of("mode switches", "fault"),
        Column::of("a long head", "a"),
        Column::numbers("bytes"),
        Column::words("result"),
    ];

    #[test]
    fn columns_align() {
        let mut table = Table::new(COLUMNS);
        table.row(["read+write", "4.00", "0.00", "1", "16,777,216", "OK"].map(String::from));
        table.row(["x", "4.00", "110.00", "2", "1"].map(String::from));
        assert_eq!(
            table.to_string(),
            "            mode switches   a long head\n\
             method      syscall  fault            a       bytes  result\n\
             read+write     4.00   0.00            1  16,777,216  OK\n\
             x              4.00 110.00            2           1\n"
        );
    }

    #[test]
    fn a_plain_table_has_one_line_of_heads() {
        const PLAIN: &[Column] = &[Column::words("name"), Column::numbers("n")];
        let mut table = Table::new(PLAIN);
        table.row(["a".into(), "10".into()]);
        assert_eq!(table.to_string(), "name   n\na     10\n");
    }
}

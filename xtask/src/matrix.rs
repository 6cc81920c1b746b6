//! The table that ends `cargo xtask test`: how exactly each path of the bytes is counted on each kernel. The tests
//! write a line for each path that they have proven, and this module reads these lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The environment variable that names the file to which the tests of one kernel add lines.
pub const VARIABLE: &str = "ZC_PATHS";

const TITLE: &str = "path by kernel";

/// How exactly the bytes of a path are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// Counted at the copy, to the byte.
    Exact,
    /// Inferred from the results of system calls.
    Derived,
    /// No test of the path has passed on this kernel.
    Absent,
}

impl Word {
    const ALL: [Self; 3] = [Self::Exact, Self::Derived, Self::Absent];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Derived => "derived",
            Self::Absent => "absent",
        }
    }
}

/// The paths of one kernel.
pub type Column = BTreeMap<String, Word>;

/// Reads the lines that the tests of one kernel have written. Without the file, no path is proven.
pub fn read(file: &Path) -> Result<Column> {
    match fs::read_to_string(file) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Column::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Adds what another machine has proven on the same kernel; of two words on one path the weaker holds.
pub fn merge(into: &mut Column, other: Column) {
    for (path, word) in other {
        let known = into.entry(path).or_insert(word);
        *known = word.max(*known);
    }
}

/// Parses lines of a path's name and a word as the last part. If two lines name the same path, the weaker word
/// counts.
fn parse(text: &str) -> Result<Column> {
    let mut column = Column::new();
    for line in text.lines() {
        let parts = line.rsplit_once(' ');
        let Some((path, word)) = parts.and_then(|(path, name)| Some((path, Word::named(name)?)))
        else {
            bail!("a test wrote `{line}`, which is not a path and a word");
        };
        merge(&mut column, Column::from([(path.to_owned(), word)]));
    }
    Ok(column)
}

/// A table with a row for each path and a column for each kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Matrix(pub Vec<(String, Column)>);

impl Matrix {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, column)| column.is_empty())
    }

    /// The table in a document, in the format that [`Display`](fmt::Display) writes. The first line of another
    /// format ends the table.
    pub fn documented(text: &str) -> Result<Self> {
        let cells = |line: &'_ str| -> Vec<String> {
            let cells = line.split("  ").map(str::trim);
            let cells = cells.filter(|cell| !cell.is_empty());
            cells.map(str::to_owned).collect()
        };
        let mut lines = text.lines().skip_while(|line| !line.starts_with(TITLE));
        let Some(head) = lines.next() else {
            bail!("the document holds no line `{TITLE}`");
        };
        let mut columns: Vec<_> = cells(head)
            .into_iter()
            .skip(1)
            .map(|kernel| (kernel, Column::new()))
            .collect();
        for line in lines {
            let row = cells(line);
            let words: Option<Vec<Word>> =
                row.iter().skip(1).map(|name| Word::named(name)).collect();
            let Some(words) = words.filter(|words| words.len() == columns.len()) else {
                break;
            };
            for ((_, column), word) in columns.iter_mut().zip(words) {
                column.insert(row[0].clone(), word);
            }
        }
        Ok(Self(columns))
    }

    /// A line for each path of this table's kernels for which the two tables differ.
    pub fn differences(&self, documented: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let nothing = Column::new();
        for (kernel, column) in &self.0 {
            let other = documented.0.iter().find(|(name, _)| name == kernel);
            let other = other.map_or(&nothing, |(_, column)| column);
            let paths: BTreeSet<&String> = column.keys().chain(other.keys()).collect();
            for path in paths {
                let word =
                    |column: &Column| column.get(path).copied().unwrap_or(Word::Absent).name();
                let (here, there) = (word(column), word(other));
                if here != there {
                    lines.push(format!("{path} on {kernel}: {here}, not {there}"));
                }
            }
        }
        lines
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: BTreeSet<&String> = self
            .0
            .iter()
            .flat_map(|(_, column)| column.keys())
            .collect();
        let names = paths.iter().map(|path| path.chars().count());
        let width = names.chain([TITLE.len()]).max().unwrap_or_default();
        let line =
            |f: &mut fmt::Formatter<'_>, name: &str, cells: &mut dyn Iterator<Item = &str>| {
                let cells: Vec<_> = cells.map(|cell| format!("  {cell:<7}")).collect();
                writeln!(
                    f,
                    "{}",
                    format!("{name:width$}{}", cells.concat()).trim_end()
                )
            };
        line(f, TITLE, &mut self.0.iter().map(|(kernel, _)| &**kernel))?;
        for path in paths {
            let word = |column: &Column| column.get(path).copied().unwrap_or(Word::Absent).name();
            line(f, path, &mut self.0.iter().map(|(_, column)| word(column)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_kernel_lacks_is_absent_there() {
        let column = |text| parse(text).unwrap();
        let matrix = Matrix(vec![
            ("5.10".into(), column("read ext4 exact\n")),
            ("6.1".into(), column("read ext4 derived\nsend_zc exact\n")),
        ]);
        assert_eq!(
            matrix.to_string(),
            "path by kernel  5.10     6.1\n\
             read ext4       exact    derived\n\
             send_zc         absent   exact\n"
        );
    }

    #[test]
    fn a_document_that_shows_it_is_held_to_it() {
        let column = |text| parse(text).unwrap();
        let matrix = Matrix(vec![
            ("5.10".into(), column("read ext4 exact\n")),
            (
                "7".into(),
                column("read ext4 exact\nsend_zc, or so exact\n"),
            ),
        ]);
        let text = format!("# Paths\n\n```\n{matrix}```\n\nmore  exact  exact\n");
        let documented = Matrix::documented(&text).unwrap();
        assert_eq!(matrix.differences(&documented), Vec::<String>::new());
        let less = Matrix(vec![("7".into(), column("read ext4 derived\n"))]);
        assert_eq!(
            less.differences(&documented),
            [
                "read ext4 on 7: derived, not exact",
                "send_zc, or so on 7: absent, not exact"
            ]
        );
        assert!(Matrix::documented("nothing").is_err());
    }

    #[test]
    fn the_weaker_word_holds() {
        for text in ["a b exact\na b derived\n", "a b derived\na b exact\n"] {
            assert_eq!(parse(text).unwrap()["a b"], Word::Derived);
        }
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["a nearly\n", "exact\n", "\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(read(Path::new("/no/such/file")).unwrap().is_empty());
    }
}

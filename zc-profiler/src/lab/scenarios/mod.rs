//! Every scenario, a table for each kind.

mod classic;
mod files;
mod memory;
mod methods;
mod network;
mod rings;
mod shares;

use super::Scenario;

/// Scenarios of a kind.
#[derive(Debug)]
pub struct Table {
    /// What the command line calls them together.
    pub name: &'static str,
    /// What they are, for the command line's help.
    pub about: &'static str,
    /// Whether they are driven when nothing is named.
    pub usual: bool,
    /// In the order of the lab's table.
    pub rows: &'static [Scenario],
}

/// In the order of the lab's table.
pub static TABLES: &[Table] = &[
    Table {
        name: "classic",
        about: "what the classic articles compare",
        usual: true,
        rows: classic::ROWS,
    },
    Table {
        name: "methods",
        about: "other ways in and out of the kernel",
        usual: true,
        rows: methods::ROWS,
    },
    Table {
        name: "files",
        about: "more kinds of files, pipes and devices",
        usual: false,
        rows: files::ROWS,
    },
    Table {
        name: "memory",
        about: "mappings, and copies from memory to memory",
        usual: false,
        rows: memory::ROWS,
    },
    Table {
        name: "network",
        about: "sockets of every family, spliced too, and veth devices",
        usual: false,
        rows: network::ROWS,
    },
    Table {
        name: "rings",
        about: "requests of an io_uring",
        usual: false,
        rows: rings::ROWS,
    },
];

/// Every scenario, in the order of the lab's table.
pub fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    TABLES.iter().flat_map(|table| table.rows)
}

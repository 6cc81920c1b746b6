//! One kernel's end-to-end tests, shared among several lab machines.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::host::command;

/// Runs for each machine: with one each, a machine waits minutes for another that has the longer tests.
const RUNS: usize = 3;

/// Arguments for some runs of a test program on each machine, each test in one of them.
pub fn of(program: &Path, machines: usize) -> Result<Vec<Vec<String>>> {
    let list = command::text(Command::new(program).args(["--list", "--format", "terse"]))?;
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    if names.is_empty() {
        bail!("{} lists no test", program.display());
    }
    Ok(dealt(&names, machines * RUNS))
}

/// In turns, since the tests of one module take about as long.
fn dealt(names: &[&str], runs: usize) -> Vec<Vec<String>> {
    let share = |first| {
        let names = names.iter().skip(first).step_by(runs);
        std::iter::once("--exact")
            .chain(names.copied())
            .map(str::to_owned)
            .collect()
    };
    (0..runs.min(names.len())).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_is_in_one_share() {
        assert_eq!(
            dealt(&["a::b", "a::c", "d"], 2),
            [vec!["--exact", "a::b", "d"], vec!["--exact", "a::c"]]
        );
        assert_eq!(dealt(&["a"], 2), [["--exact", "a"]]);
    }

    #[test]
    fn the_tests_of_a_program_are_listed() {
        let own = std::env::current_exe().unwrap();
        let shares = of(&own, 2).unwrap();
        let name = "gate::shares::tests::the_tests_of_a_program_are_listed".to_owned();
        assert_eq!(
            shares.iter().filter(|share| share.contains(&name)).count(),
            1
        );
    }
}

//! How many instructions the verifier processes for each eBPF program on each kernel. A kernel refuses a
//! program for which they are more than a million; growth is seen here long before.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Names the file that the end-to-end test of one kernel writes lines of a program's name and its number to.
pub const VARIABLE: &str = "ZC_COMPLEXITY";

/// The recorded numbers, by kernel and program. 5.10 does not tell any.
pub const RECORD: &str = "zc-profiler/verifier.json";

/// How many more instructions than recorded are no growth: so many percent, since a kernel's update changes some,
/// or so many instructions, which matter to no small program.
const SLACK_PERCENT: u64 = 10;
const SLACK: u64 = 100;

/// The numbers of one kernel's programs.
pub type Programs = BTreeMap<String, u64>;

/// The numbers of the programs of all kernels.
pub type Kernels = BTreeMap<String, Programs>;

/// What the end-to-end test of one kernel has written; nothing if it did not run or the kernel does not tell.
pub fn read(file: &Path) -> Result<Programs> {
    match fs::read_to_string(file) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Programs::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn parse(text: &str) -> Result<Programs> {
    let line = |line: &str| {
        let (program, number) = line.split_once(' ')?;
        Some((program.to_owned(), number.parse().ok()?))
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("`{text}` is no program and number")))
        .collect()
}

/// Writes the measured kernels' numbers over those that `root` has recorded.
pub fn record(root: &Path, measured: &Kernels) -> Result<()> {
    let file = root.join(RECORD);
    let mut kernels = recorded(&file)?;
    for (kernel, programs) in measured.iter().filter(|(_, programs)| !programs.is_empty()) {
        kernels.insert(kernel.clone(), programs.clone());
    }
    let text = serde_json::to_string_pretty(&kernels).context("cannot write JSON")?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write {RECORD}"))
}

/// Fails where a measured kernel's numbers have grown, or programs have come or gone unrecorded.
pub fn compare(root: &Path, measured: &Kernels) -> Result<()> {
    let recorded = recorded(&root.join(RECORD))?;
    let nothing = Programs::new();
    let mut complaints = Vec::new();
    for (kernel, programs) in measured {
        let before = recorded.get(kernel).unwrap_or(&nothing);
        complaints.extend(differences(kernel, before, programs));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "the verifier's work is not as {RECORD} has it:\n  {}\nif that is intended: cargo xtask test --record-complexity",
        complaints.join("\n  ")
    );
}

fn recorded(file: &Path) -> Result<Kernels> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| RECORD.to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Kernels::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {RECORD}")),
    }
}

fn differences(kernel: &str, before: &Programs, now: &Programs) -> Vec<String> {
    let grown = now.iter().filter_map(|(program, number)| {
        let Some(old) = before.get(program) else {
            return Some(format!("{program} on {kernel}: {number}, not recorded"));
        };
        (*number > old + SLACK.max(old * SLACK_PERCENT / 100))
            .then(|| format!("{program} on {kernel}: {number}, recorded were {old}"))
    });
    let gone = before.keys().filter(|program| !now.contains_key(*program));
    let gone = gone.map(|program| format!("{program} on {kernel}: not loaded any more"));
    grown.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(programs: &str) -> Kernels {
        Kernels::from([("6.1".to_owned(), parse(programs).unwrap())])
    }

    #[test]
    fn growth_beyond_the_slack_is_seen() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("zc-profiler")).unwrap();
        record(root.path(), &kernels("a 2000\nb 50\nc 1000\n")).unwrap();
        compare(root.path(), &kernels("a 2200\nb 150\nc 999\n")).unwrap();
        let error = compare(root.path(), &kernels("a 2201\nb 151\nd 7\n")).unwrap_err();
        let error = error.to_string();
        let lines: Vec<_> = error.lines().map(str::trim).collect();
        assert_eq!(
            lines[1..5],
            [
                "a on 6.1: 2201, recorded were 2000",
                "b on 6.1: 151, recorded were 50",
                "d on 6.1: 7, not recorded",
                "c on 6.1: not loaded any more",
            ]
        );
        assert!(lines[5].ends_with("cargo xtask test --record-complexity"));
    }

    #[test]
    fn recording_keeps_what_was_not_measured() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("zc-profiler")).unwrap();
        record(root.path(), &kernels("a 1\n")).unwrap();
        let other = Kernels::from([
            ("7".to_owned(), parse("a 2\n").unwrap()),
            ("5.10".to_owned(), Programs::new()),
        ]);
        record(root.path(), &other).unwrap();
        compare(root.path(), &kernels("a 1\n")).unwrap();
        compare(root.path(), &other).unwrap();
        let text = fs::read_to_string(root.path().join(RECORD)).unwrap();
        assert!(!text.contains("5.10"), "{text}");
    }

    #[test]
    fn other_lines_are_refused() {
        for text in ["a\n", "a b\n", "\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(read(Path::new("/no/such/file")).unwrap().is_empty());
    }
}

//! The configuration file of `serve`, and `zc-profiler config`.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
};

use anyhow::Context;
use clap::ValueEnum;
use toml::de::{DeTable, DeValue};

use super::serve;
use crate::agent::GroupBy;

/// What is read if nothing else is named.
pub const DEFAULT_FILE: &str = "/etc/zc-profiler/config.toml";

/// What a file says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub listen: Option<String>,
    pub web_config: Option<PathBuf>,
    pub group_by: Option<GroupBy>,
    pub max_groups: Option<u32>,
    pub grace_seconds: Option<u64>,
    pub max_processes: Option<u32>,
    pub probe_statistics: Option<bool>,
    pub pid: Option<Vec<u32>>,
    pub comm: Option<Vec<String>>,
    pub unit: Option<Vec<String>>,
    pub cgroup: Option<Vec<PathBuf>>,
}

/// A key, and how its value is taken; an error says what the value must be.
struct Key {
    name: &'static str,
    take: fn(&mut File, &DeValue<'_>) -> Result<(), String>,
}

const KEYS: &[Key] = &[
    Key {
        name: "listen",
        take: |file, value| {
            let text = value.as_str().filter(|text| text.contains(':'));
            file.listen = Some(text.ok_or("must be \"ADDRESS:PORT\"")?.into());
            Ok(())
        },
    },
    Key {
        name: "web_config",
        take: |file, value| {
            file.web_config = Some(value.as_str().ok_or("must be a path")?.into());
            Ok(())
        },
    },
    Key {
        name: "group_by",
        take: |file, value| {
            let text = value.as_str().unwrap_or_default();
            let by = GroupBy::from_str(text, false).map_err(|_| {
                let names: Vec<_> = names_of::<GroupBy>()
                    .map(|name| format!("\"{name}\""))
                    .collect();
                format!("must be one of {}", names.join(", "))
            })?;
            file.group_by = Some(by);
            Ok(())
        },
    },
    Key {
        name: "max_groups",
        take: |file, value| {
            let number = integer(value).filter(|number| *number > 0);
            file.max_groups = Some(number.ok_or("must be a number from 1 on")?);
            Ok(())
        },
    },
    Key {
        name: "grace_seconds",
        take: |file, value| {
            file.grace_seconds = Some(integer(value).ok_or("must be a number of seconds")?);
            Ok(())
        },
    },
    Key {
        name: "max_processes",
        take: |file, value| {
            let number = integer(value).filter(|number| *number > 0);
            file.max_processes = Some(number.ok_or("must be a number from 1 on")?);
            Ok(())
        },
    },
    Key {
        name: "probe_statistics",
        take: |file, value| {
            file.probe_statistics = Some(value.as_bool().ok_or("must be true or false")?);
            Ok(())
        },
    },
    Key {
        name: "pid",
        take: |file, value| {
            let pids = list(value, |pid| integer(pid).filter(|pid| *pid > 0));
            file.pid = Some(pids.ok_or("must be a list of process ids, such as [1, 42]")?);
            Ok(())
        },
    },
    Key {
        name: "comm",
        take: |file, value| {
            let names = list(value, text);
            file.comm = Some(names.ok_or("must be a list of names, such as [\"nginx\"]")?);
            Ok(())
        },
    },
    Key {
        name: "unit",
        take: |file, value| {
            let names =
                list(value, text).ok_or("must be a list of units, such as [\"nginx.service\"]")?;
            let names = names.iter().map(|name| serve::unit_name(name));
            let names: Result<_, _> = names.collect();
            file.unit = Some(names.map_err(|complaint| format!("is wrong: {complaint}"))?);
            Ok(())
        },
    },
    Key {
        name: "cgroup",
        take: |file, value| {
            let paths = list(value, |path| text(path).map(PathBuf::from));
            file.cgroup =
                Some(paths.ok_or("must be a list of paths, such as [\"/system.slice\"]")?);
            Ok(())
        },
    },
];

fn list<T>(value: &DeValue<'_>, item: impl Fn(&DeValue<'_>) -> Option<T>) -> Option<Vec<T>> {
    let items = value.as_array()?.iter();
    items.map(|value| item(value.get_ref())).collect()
}

fn text(value: &DeValue<'_>) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(Into::into)
}

fn integer<T: FromStr>(value: &DeValue<'_>) -> Option<T> {
    let integer = value.as_integer().filter(|integer| integer.radix() == 10)?;
    integer.as_str().parse().ok()
}

/// The words for an option's values.
pub fn names_of<T: ValueEnum + 'static>() -> impl Iterator<Item = String> {
    let values = T::value_variants().iter();
    values.filter_map(|value| Some(value.to_possible_value()?.get_name().to_owned()))
}

impl File {
    /// Reads the named file, or the default one, which need not be there.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong, with the file's name and the line's number.
    pub fn read(named: Option<&Path>) -> anyhow::Result<Self> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &path.display().to_string())
                .map_err(|complaints| anyhow::anyhow!(complaints.join("\n"))),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// `name` is what complaints call the text.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, Vec<String>> {
        let place = |offset: usize| {
            let line = text
                .bytes()
                .take(offset)
                .filter(|byte| *byte == b'\n')
                .count()
                + 1;
            format!("{name}:{line}")
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        let syntax = errors.iter().map(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            format!("{}: {}", place(offset), error.message())
        });
        let mut complaints: Vec<_> = syntax.collect();
        let mut file = Self::default();
        for (key, value) in table.get_ref() {
            let (line, written) = (place(key.span().start), key.get_ref());
            match KEYS.iter().find(|known| known.name == written.as_ref()) {
                Some(known) => {
                    if let Err(must) = (known.take)(&mut file, value.get_ref()) {
                        complaints.push(format!("{line}: {} {must}", known.name));
                    }
                }
                None => complaints.push(format!(
                    "{line}: unknown key {written:?}; did you mean {}?",
                    nearest(written)
                )),
            }
        }
        if complaints.is_empty() {
            Ok(file)
        } else {
            Err(complaints)
        }
    }
}

fn nearest(written: &str) -> &'static str {
    let distance = |key: &&Key| strsim::damerau_levenshtein(key.name, written);
    let key = KEYS.iter().min_by_key(distance);
    key.map_or("", |key| key.name)
}

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what is wrong with the configuration of `serve`, or what holds: options before the
    /// environment, before the file, before what is built in
    Check(serve::Args),
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Check(args) = &args.command;
    let settings = args.settings()?;
    settings.check_web_config()?;
    let mut text = String::new();
    for (key, value) in settings.shown() {
        writeln!(text, "{key} = {value}")?;
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_key_is_taken() {
        let text = "listen = \"[::1]:9000\"\nweb_config = \"/web.yml\"\ngroup_by = \"process\"\nmax_groups = 7\ngrace_seconds = 0\n\
             max_processes = 500\npid = [7, 8]\ncomm = [\"redis-server\"]\nunit = [\"nginx\", \"a.scope\"]\ncgroup = []\nprobe_statistics = true\n";
        let file = File {
            listen: Some("[::1]:9000".into()),
            web_config: Some("/web.yml".into()),
            group_by: Some(GroupBy::Process),
            max_groups: Some(7),
            grace_seconds: Some(0),
            max_processes: Some(500),
            probe_statistics: Some(true),
            pid: Some(vec![7, 8]),
            comm: Some(vec!["redis-server".into()]),
            unit: Some(vec!["nginx.service".into(), "a.scope".into()]),
            cgroup: Some(Vec::new()),
        };
        assert_eq!(File::parse(text, "f"), Ok(file));
        assert_eq!(File::parse("# nothing\n", "f"), Ok(File::default()));
    }

    #[test]
    fn the_packages_file_shows_every_key_and_what_holds_without_it() {
        let shipped = include_str!("../../deploy/systemd/config.toml");
        assert_eq!(File::parse(shipped, "f"), Ok(File::default()));
        let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
        let keys: Vec<_> = shipped
            .lines()
            .filter(is_key)
            .map(|line| &line[1..])
            .collect();
        let file = File::parse(&keys.join("\n"), "f").expect("valid without the signs of comment");
        for key in KEYS {
            let name = format!("{} = ", key.name);
            assert!(
                keys.iter().any(|line| line.starts_with(&name)),
                "{}",
                key.name
            );
        }
        let shown = |file| serve::Args::default().over(file).shown();
        for (shown, built_in) in shown(file).into_iter().zip(shown(File::default())) {
            // That one goes by the machine.
            if shown.0 != "max_processes" {
                assert_eq!(shown, built_in);
            }
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_line_and_what_would_do() {
        let text = "# one\nmax_group = 7\ngroup_by = \"services\"\n\nmax_groups = 0\ngrace_seconds = -1\nlisten = 9464\n\
            pid = 7\ncomm = [\"\"]\nunit = [\"a b\"]\ncgroup = [1]\nunits = []\nmax_processes = 0\nprobe_statistics = 1\n";
        let expected = [
            "f:10: unit is wrong: \"a b\" is not the name of a unit that has processes",
            "f:11: cgroup must be a list of paths, such as [\"/system.slice\"]",
            "f:12: unknown key \"units\"; did you mean unit?",
            "f:13: max_processes must be a number from 1 on",
            "f:14: probe_statistics must be true or false",
            "f:2: unknown key \"max_group\"; did you mean max_groups?",
            "f:3: group_by must be one of \"service\", \"process\", \"comm\"",
            "f:5: max_groups must be a number from 1 on",
            "f:6: grace_seconds must be a number of seconds",
            "f:7: listen must be \"ADDRESS:PORT\"",
            "f:8: pid must be a list of process ids, such as [1, 42]",
            "f:9: comm must be a list of names, such as [\"nginx\"]",
        ];
        let mut complaints = File::parse(text, "f").expect_err("mistakes");
        complaints.sort();
        assert_eq!(complaints, expected);
        let complaints = File::parse("listen = \"a:1\"\nmax_groups = \n", "f").expect_err("syntax");
        assert!(
            complaints.iter().all(|line| line.starts_with("f:2: ")),
            "{complaints:?}"
        );
        let complaints = File::parse("[limits]\nmax_groups = 7\n", "f").expect_err("a table");
        assert!(
            complaints[0].starts_with("f:1: unknown key \"limits\""),
            "{complaints:?}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_with_a_line(text in "(\\PC|\n|[a-z_]{1,12} = |\"|\\[|=){0,60}") {
            if let Err(complaints) = File::parse(&text, "f") {
                prop_assert!(!complaints.is_empty());
                prop_assert!(complaints.iter().all(|line| line.starts_with("f:")));
            }
        }
    }
}

//! Writes what goes with the program, from the definition of its command line: manual pages and
//! completions for shells. `cargo xtask dist` runs it with the directory to write to.

use std::{env, fs, path::PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use zc_profiler::cli::Cli;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> anyhow::Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.context("usage: documents DIRECTORY")?;
    let pages = directory.join("man");
    fs::create_dir_all(&pages).with_context(|| format!("cannot create {}", pages.display()))?;
    let command = visible(&Cli::command());
    for shell in SHELLS {
        let file = generate_to(shell, &mut command.clone(), command.get_name(), &directory)?;
        // For bash, the generator spells the hyphen of a program's name in two ways, so that no subcommand's
        // options are ever found.
        let text = fs::read_to_string(&file)?.replace("zc__subcmd__profiler", "zc__profiler");
        fs::write(file, text)?;
    }
    clap_mangen::generate_to(command, &pages)?;
    Ok(())
}

/// Without the subcommands that it starts itself by: completions would offer them.
fn visible(full: &Command) -> Command {
    let subcommands = full
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let command = Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .args(full.get_arguments())
        .subcommands(subcommands)
        .subcommand_required(true);
    match (full.get_about(), full.get_long_about()) {
        (Some(about), Some(long)) => command.about(about.clone()).long_about(long.clone()),
        (Some(about), None) => command.about(about.clone()),
        _ => command,
    }
}

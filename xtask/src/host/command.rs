//! Running other programs, with errors that name the failing call.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The program and its arguments, as a person would type them.
pub fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs with this process's own streams; any other end than success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs with nothing on standard input and returns standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = capture(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}): {}",
            shown(command),
            output.status,
            last_line(&output)
        );
    }
    Ok(output.stdout)
}

/// As [`output`], for programs that print text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Whether the program starts and succeeds; what it prints is thrown away.
pub fn succeeds(command: &mut Command) -> bool {
    capture(command).is_ok_and(|output| output.status.success())
}

fn capture(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))
}

/// The line that says most about a failure: apt's and dpkg's `E:`, else the last one.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines()
        .find(|line| line.starts_with("E:"))
        .or_else(|| text.lines().rfind(|line| !line.trim().is_empty()))
        .unwrap_or("it printed no reason")
        .trim()
        .to_owned()
}

/// The file that `name` would run, looking also where only root's PATH looks.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// A command for a program that setup has seen to, wherever it is.
pub fn tool(name: &str) -> Command {
    Command::new(find(name).map_or_else(|| OsStr::new(name).to_owned(), Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted() {
        let mut command = Command::new("prog");
        command.args(["plain", "two words", "it's", ""]);
        assert_eq!(shown(&command), r"prog plain 'two words' 'it'\''s' ''");
    }

    #[test]
    fn failures_name_the_call_and_the_reason() {
        let error = output(Command::new("sh").args(["-c", "echo a >&2; echo b >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sh -c") && error.ends_with("(exit status: 3): b"),
            "{error}"
        );
        let error = output(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }

    #[test]
    fn tools_are_found_by_name() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}

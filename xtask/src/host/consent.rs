//! Whether packages may be installed on this machine.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

/// The flag that says yes beforehand, as people type it.
pub const FLAG: &str = "--yes";

/// Whether the flag was given, or a question answered with yes.
static AGREED: AtomicBool = AtomicBool::new(false);

/// Keeps whether the flag was given.
pub fn set(yes: bool) {
    AGREED.store(yes, Ordering::Relaxed);
}

/// Says what is going to be done as root, and asks a person at a terminal who has not agreed yet.
pub fn obtain(what: &str) -> Result<()> {
    eprintln!("setup: {what}");
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    if is_given(
        AGREED.load(Ordering::Relaxed),
        ci,
        io::stdin().is_terminal(),
    ) {
        return Ok(());
    }
    eprint!("setup: go on? [y/N] ");
    io::stderr()
        .flush()
        .context("cannot write to the terminal")?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    if !is_yes(&answer) {
        bail!("not agreed to; `{FLAG}` agrees beforehand");
    }
    set(true);
    Ok(())
}

/// Without a terminal nothing can be asked; the command itself is then the consent.
fn is_given(yes: bool, ci: bool, terminal: bool) -> bool {
    yes || ci || !terminal
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&&*answer.trim().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_person_who_has_not_agreed_is_asked() {
        for (yes, ci, terminal) in [
            (true, false, true),
            (false, true, true),
            (false, false, false),
        ] {
            assert!(is_given(yes, ci, terminal), "{yes} {ci} {terminal}");
        }
        assert!(!is_given(false, false, true));
    }

    #[test]
    fn anything_but_yes_is_no() {
        for answer in ["y\n", "Y\n", " yes \n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "yep\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}

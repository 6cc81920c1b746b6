//! The choice between KVM and software emulation.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::cache::{self, Cache};
use crate::kernels::BootFiles;
use crate::output::Output;
use crate::vm::hardware::{Accel, Hardware};
use crate::vm::machine::{self, Ending, Input, Limits};
use crate::vm::qemu;
use crate::vm::request::Request;

/// How long the trial boot may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

pub struct Choice {
    pub accel: Accel,
    /// Shown when the machine starts.
    pub reason: &'static str,
}

/// Chooses KVM if a trial boot succeeds with it: some machines have a `/dev/kvm` that opens but does not run a
/// kernel. The cache keeps the answer until this machine reboots or QEMU's version changes.
pub fn choose(cache: &Cache, kernel: &BootFiles) -> Result<Choice> {
    let emulation = |reason| Choice {
        accel: Accel::Emulation,
        reason,
    };
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(emulation("software emulation: /dev/kvm cannot be opened"));
    }
    let boot =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let key = format!("{} qemu-{}", boot.trim(), qemu::version()?);
    let file = cache.path("kvm");
    let known = fs::read_to_string(&file).ok();
    let works = if let Some(works) = known.and_then(|text| parse(&text, &key)) {
        works
    } else {
        eprintln!(
            "vm: testing whether /dev/kvm boots the guest (up to {} s)…",
            PROBE_LIMIT.as_secs()
        );
        let works = boots(kernel)?;
        cache::write_if_changed(&file, format!("{key} {works}\n").as_bytes())?;
        works
    };
    Ok(if works {
        Choice {
            accel: Accel::Kvm,
            reason: "KVM",
        }
    } else {
        emulation("software emulation: /dev/kvm does not boot the guest")
    })
}

fn parse(text: &str, key: &str) -> Option<bool> {
    text.trim().strip_prefix(key)?.trim().parse().ok()
}

fn boots(kernel: &BootFiles) -> Result<bool> {
    let hardware = Hardware {
        kernel,
        accel: Accel::Kvm,
        cpus: None,
        disk: None,
        share: None,
        forward: None,
    };
    let request = Request {
        command: vec!["true".into()],
        directory: "/".into(),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        terminal: None,
        systemd: false,
    };
    let limits = Limits {
        boot: PROBE_LIMIT,
        total: Some(PROBE_LIMIT),
    };
    let ending = machine::run(
        &hardware,
        &request,
        (Input::Nothing, Output::ours()),
        limits,
    )?;
    if let Ending::Interrupted(signal) = ending {
        anyhow::bail!("interrupted by signal {signal}");
    }
    Ok(matches!(ending, Ending::Exited(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_its_key_only() {
        assert_eq!(parse("id qemu-7.2 true\n", "id qemu-7.2"), Some(true));
        assert_eq!(parse("id qemu-7.2 false\n", "id qemu-7.2"), Some(false));
        assert_eq!(parse("id qemu-7.2.1 true\n", "id qemu-7.2"), None);
        assert_eq!(parse("", "id qemu-7.2"), None);
    }
}

//! KVM where it really runs the guest, software emulation otherwise.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::cache::{self, Cache};
use crate::kernels::BootFiles;
use crate::output::Output;
use crate::vm::machine::{self, Ending, Input, Limits};
use crate::vm::qemu::{self, Hardware};
use crate::vm::request::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Emulation,
    /// Emulation whose clock counts instructions: a nanosecond each.
    Counting,
}

const PROBE_LIMIT: Duration = Duration::from_secs(10);

impl Accel {
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            // Named, since QEMU's own default differs by version.
            Self::Emulation | Self::Counting => "tcg,thread=single",
        }
    }
}

/// The choice, and why, in words.
pub struct Choice {
    pub accel: Accel,
    pub reason: &'static str,
}

/// Decides by booting, since a /dev/kvm that opens may still run no kernel; the answer is kept
/// until this machine or QEMU changes.
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
            "vm: trying whether /dev/kvm boots the guest (up to {} s)…",
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
        emulation("software emulation: /dev/kvm does not boot it")
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

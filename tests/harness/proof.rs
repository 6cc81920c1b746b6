//! Real services, and what is counted of them under their own labels.

use std::{
    collections::BTreeMap,
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use crate::services::units::Cgroup;

/// A program of Debian's packages, which the lab keeps unpacked and not installed.
pub fn program(place: &str) -> PathBuf {
    let root = env::var_os("ZC_SERVICES").expect("ZC_SERVICES is set by `cargo xtask test`");
    Path::new(&root).join(place)
}

/// A program in a unit of its own, until this goes.
pub struct Service {
    child: Child,
    _cgroup: Cgroup,
}

impl Service {
    pub fn start(unit: &str, place: &str, arrange: impl FnOnce(&mut Command)) -> Self {
        let cgroup = Cgroup::new(&format!("system.slice/{unit}"));
        let mut command = cgroup.command(program(place));
        arrange(command.stdout(Stdio::null()));
        let child = command.spawn();
        Self {
            child: child.unwrap_or_else(|error| panic!("{place}: {error}")),
            _cgroup: cgroup,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(self.child.id().cast_signed(), libc::SIGTERM) };
        self.child.wait().expect("wait");
    }
}

pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    // All at once, so that they differ.
    let listeners = [(); N].map(|()| listen());
    listeners.map(|listener| listener.local_addr().expect("address"))
}

/// Connects as soon as somebody listens there.
pub fn connect(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(_) => thread::yield_now(),
        }
    }
}

/// What a unit did in between two scrapes.
pub struct Counted(BTreeMap<String, u64>);

impl Counted {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts far below 2^53"
    )]
    pub fn between(
        before: &BTreeMap<String, f64>,
        after: &BTreeMap<String, f64>,
        unit: &str,
    ) -> Self {
        let label = format!(r#"unit="{unit}""#);
        let of_unit = after.iter().filter(|(series, _)| series.contains(&label));
        let counts = of_unit.map(|(series, value)| {
            let count = value - before.get(series).copied().unwrap_or(0.0);
            assert!(count >= 0.0, "{series} fell");
            (series.clone(), count as u64)
        });
        let counts: BTreeMap<_, _> = counts.filter(|(_, count)| *count > 0).collect();
        assert!(!counts.is_empty(), "nothing of {unit}");
        Self(counts)
    }

    fn sum(&self, family: &str, labels: &[String]) -> u64 {
        let wanted = self.0.iter().filter(|(series, _)| {
            series.starts_with(&format!("{family}{{"))
                && labels.iter().all(|label| series.contains(label))
        });
        wanted.map(|(_, count)| count).sum()
    }

    /// Bytes copied by a method in a direction.
    pub fn copied(&self, method: &str, direction: &str) -> u64 {
        let labels = [
            format!(r#"method="{method}""#),
            format!(r#"direction="{direction}""#),
        ];
        self.sum("zc_copied_bytes_total", &labels)
    }

    /// Bytes that devices of a kind moved in or out.
    pub fn dma(&self, device: &str, direction: &str) -> u64 {
        let labels = [
            format!(r#"device="{device}""#),
            format!(r#"direction="{direction}""#),
        ];
        self.sum("zc_dma_bytes_total", &labels)
    }

    /// Bytes that a method passed by reference.
    pub fn zero_copy(&self, method: &str) -> u64 {
        self.sum(
            "zc_zero_copy_bytes_total",
            &[format!(r#"method="{method}""#)],
        )
    }

    /// These bytes were copied by I/O methods, and no others: faults of a program's own memory and
    /// what system calls without a method copy are not part of a service's payload.
    pub fn expect(&self, copies: &[(&str, &str, u64)]) {
        for (method, direction, bytes) in copies {
            let found = self.copied(method, direction);
            assert_eq!(found, *bytes, "{method} {direction}: {:#?}", self.0);
        }
        let all: u64 = ["read", "write", "send", "recv", "sendfile", "splice"]
            .iter()
            .map(|method| self.sum("zc_copied_bytes_total", &[format!(r#"method="{method}""#)]))
            .sum();
        let expected: u64 = copies.iter().map(|(_, _, bytes)| bytes).sum();
        assert_eq!(all, expected, "{:#?}", self.0);
    }
}

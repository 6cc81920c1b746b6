//! The same bytes from a disk by PIO and by DMA: who moves them is counted, to the byte.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::fd::AsRawFd,
    process::Command,
    sync::OnceLock,
};

use zc_profiler::ledger::{Direction::ToUser, DmaBytes, Flows, Method};

use crate::harness::{
    expect::{Expect, check},
    support::{measure, ok, path, snapshot},
};

/// The disks of the lab machine, both holding the lab's pattern.
struct Disks {
    pio: String,
    dma: String,
}

/// Has the disks brought up. To be called before the probes are attached, for they look for libata
/// and for disks in PIO mode only then.
pub fn bring_up() {
    disks();
}

fn disks() -> &'static Disks {
    static DISKS: OnceLock<Disks> = OnceLock::new();
    DISKS.get_or_init(|| {
        let output = Command::new("zc-hardware")
            .arg("disks")
            .output()
            .unwrap_or_else(|error| panic!("zc-hardware: {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} of zc-hardware: {output:?}"))
                .to_owned()
        };
        Disks {
            pio: value("PIO_DISK="),
            dma: value("DMA_DISK="),
        }
    })
}

/// Pages, since a disk is read in pages.
const PAYLOAD: usize = 1 << 20;
const CHUNK: usize = 65_536;

/// The first bytes of a disk, and the disk with none of them in the page cache.
fn cold(disk: &str) -> (Vec<u8>, File) {
    let mut file = File::open(disk).unwrap_or_else(|error| panic!("{disk}: {error}"));
    // No read-ahead: it is no payload, and that of this read would still come in under measurement.
    advise(&file, libc::POSIX_FADV_RANDOM);
    let mut bytes = vec![0; PAYLOAD];
    file.read_exact(&mut bytes).expect("read the disk");
    file.rewind().expect("rewind");
    advise(&file, libc::POSIX_FADV_DONTNEED);
    (bytes, file)
}

fn advise(file: &File, advice: i32) {
    // SAFETY: an open descriptor.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
    assert_eq!(result, 0, "posix_fadvise");
}

/// What the CPU moved to and from disks, which happens in interrupts and is the kernel's.
fn pio() -> Flows {
    let snapshot = snapshot();
    let kernel = snapshot.process(0);
    kernel
        .map(|kernel| kernel.counters.pio_bytes)
        .unwrap_or_default()
}

/// Reads a disk cold; the bytes that came in by PIO, and those by DMA.
fn read_cold(disk: &str) -> (u64, u64) {
    let (truth, file) = cold(disk);
    let mut buffer = vec![1u8; PAYLOAD];
    let before = pio();
    let measured = measure(|| {
        for chunk in buffer.chunks_mut(CHUNK) {
            // SAFETY: the chunk is writable for its length.
            let read = unsafe { libc::read(file.as_raw_fd(), chunk.as_mut_ptr().cast(), CHUNK) };
            assert_eq!(ok("read", read), CHUNK);
        }
        assert!(buffer == truth, "the payload is intact");
    });
    let after = pio();
    let read = Expect::of(Method::Read, PAYLOAD as u64).copied(ToUser);
    check(
        disk,
        &measured.counters,
        &[read.calls((PAYLOAD / CHUNK) as u64)],
    );
    let DmaBytes { block, net } = measured.counters.dma_bytes;
    assert_eq!(
        (block.out, net),
        (0, Flows::default()),
        "nothing else moved"
    );
    assert_eq!(after.out, before.out, "nothing was written");
    (after.into - before.into, block.into)
}

#[test]
fn a_pio_disk_is_read_by_the_cpu_alone() {
    assert_eq!(read_cold(&disks().pio), (PAYLOAD as u64, 0));
    path("cold read, PIO");
}

#[test]
fn a_dma_disk_is_read_without_the_cpu() {
    assert_eq!(read_cold(&disks().dma), (0, PAYLOAD as u64));
    path("cold read, DMA");
}

#[test]
fn the_lab_shows_disks_and_nics_too() {
    let dir = tempfile::TempDir::new_in("/lab").expect("directory");
    let json = dir.path().join("lab.json");
    let output = Command::new("zc-hardware")
        .args(["lab", "zc-profiler", "lab", "--payload", "1M", "--dir"])
        .arg(dir.path())
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap_or_else(|error| panic!("zc-hardware: {error}"));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}\n{output:?}");
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(&json).expect("JSON")).expect("JSON");
    assert_eq!(document["left_out"], serde_json::json!([]));
    let rows = document["rows"].as_array().expect("rows");
    let bytes = |method: &str, target: &str, path: &str| {
        let row = rows
            .iter()
            .find(|row| row["method"] == method && row["target"] == target);
        let value = row.and_then(|row| row["measured"].pointer(path)?.as_u64());
        value.unwrap_or_else(|| panic!("no {path} of {method} to {target} in {document}"))
    };
    let payload = 1 << 20;
    assert_eq!(bytes("pio-read", "memory", "/pio_bytes/in"), payload);
    assert_eq!(bytes("dma-read", "memory", "/dma_bytes/block/in"), payload);
    for target in ["nic-sg", "nic+sg"] {
        assert_eq!(bytes("sendfile", target, "/dma_bytes/block/in"), payload);
        assert!(
            bytes("sendfile", target, "/dma_bytes/net/out") > payload,
            "{document}"
        );
    }
    path("sendfile from disk to NIC, SG on");
    path("sendfile from disk to NIC, SG off");
}

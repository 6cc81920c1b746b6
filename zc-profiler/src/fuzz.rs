//! What the fuzz targets (`zc-profiler/fuzz`) call: the readers of bytes that this program did not write.

use std::{collections::HashSet, path::Path};

use crate::{
    cli::config::File,
    export::http::web_config::WebConfig,
    kernel,
    kernel::btf::{Btf, BtfError, MAGIC},
    ledger,
};

/// Reads BTF, once as it stands and once with a valid header before it, so that mutations reach the types.
pub fn btf(bytes: &[u8]) {
    ask(Btf::parse(bytes.to_vec()));
    ask(Btf::parse(with_header(bytes)));
}

/// BTF of which the bytes are the types.
fn with_header(types: &[u8]) -> Vec<u8> {
    const STRINGS: &[u8] = b"\0a\0b\0c\0btf_trace_a\0";
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let header = [
        u32::from(MAGIC) | 1 << 16,
        24,
        0,
        length(types),
        length(types),
        length(STRINGS),
    ];
    let header = header.iter().flat_map(|word| word.to_ne_bytes());
    header
        .chain(types.iter().copied())
        .chain(STRINGS.iter().copied())
        .collect()
}

/// Asks everything that the profiler asks of the running kernel's BTF.
fn ask(btf: Result<Btf, BtfError>) {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let Ok(btf) = btf else { return };
    for name in NAMES {
        let _ = btf.function_arguments(name);
        let _ = btf.tracepoint_arguments(name);
        let _ = btf.size(name);
        for part in NAMES {
            let _ = btf.member(name, part);
            let _ = btf.bit(name, part);
            let _ = btf.enumerator(name, part);
        }
    }
    let _ = btf.for_aya(NAMES.into_iter(), NAMES.into_iter());
}

/// Reads the configuration of `serve`.
///
/// # Panics
///
/// If a refused text gets no complaint that names a line.
pub fn config(text: &str) {
    if let Err(complaints) = File::parse(text, "f") {
        check_complaints(&complaints, "f:");
    }
}

/// Reads the configuration of the web server.
///
/// # Panics
///
/// If a refused text gets no complaint that names a line.
pub fn web_config(text: &str) {
    if let Err(complaints) = WebConfig::parse(text, Path::new("/f")) {
        check_complaints(&complaints, "/f:");
    }
}

fn check_complaints(complaints: &[String], begin: &str) {
    assert!(!complaints.is_empty(), "refused without a reason");
    for complaint in complaints {
        assert!(complaint.starts_with(begin), "no line named: {complaint}");
    }
}

/// Reads the bytes as each file of /proc that the profiler reads.
pub fn proc_files(bytes: &[u8]) {
    let wanted = HashSet::from(["a", "_stext", "__per_cpu_offset"]);
    let _ = kernel::Symbols::parse(bytes, &wanted);
    let _ = kernel::Service::of_process(bytes);
    let _ = kernel::Service::of_path(bytes);
    let _ = kernel::mounted(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = ledger::key_of_stat(1, text);
    }
}

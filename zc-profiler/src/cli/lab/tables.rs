//! The lab's tables: per chunk beside theory, then in total.

use std::fmt::Write;

use super::{
    note::{cpu_bytes, ratio},
    row::{Document, Row},
    size,
};
use crate::{
    export::{
        report::grouped,
        table::{Column, Table},
    },
    ledger::Flows,
};

const PER_CHUNK: &[Column] = &[
    Column::words("method"),
    Column::words("target"),
    Column::of("mode switches", "theory"),
    Column::of("mode switches", "syscall"),
    Column::of("mode switches", "fault"),
    Column::of("CPU copies", "theory"),
    Column::of("CPU copies", "all"),
    Column::of("CPU copies", "to_user"),
    Column::of("CPU copies", "from_user"),
    Column::of("CPU copies", "in_kernel"),
    Column::of("CPU copies", "PIO"),
    Column::numbers("zero-copy"),
    Column::of("DMA copies", "theory"),
    Column::of("DMA copies", "meas."),
    Column::of("context sw.", "vol."),
    Column::of("context sw.", "invol."),
    Column::words("result"),
];

const TOTAL: &[Column] = &[
    Column::words("method"),
    Column::words("target"),
    Column::of("mode switches", "syscall"),
    Column::of("mode switches", "fault"),
    Column::of("bytes copied by the CPU", "to_user"),
    Column::of("bytes copied by the CPU", "from_user"),
    Column::of("bytes copied by the CPU", "in_kernel"),
    Column::of("other bytes", "zero-copy"),
    Column::of("other bytes", "PIO"),
    Column::of("DMA bytes", "disks"),
    Column::of("DMA bytes", "NICs"),
    Column::of("page faults", "minor"),
    Column::of("page faults", "major"),
    Column::of("context sw.", "vol."),
    Column::of("context sw.", "invol."),
];

const FOOTNOTES: &str = "\
Copies and zero-copy per chunk: bytes moved so, as a share of the payload. Mode switches: two for a system call of a
method, two for a page fault in user mode. DMA copies: what disks and NICs moved for the sender, headers of packets
included; a source in the page cache and loopback need none, and a written file goes to disk later.
";

/// Everything that goes under the eyes of people.
pub fn report(document: &Document) -> String {
    let (payload, chunk) = (document.payload_bytes, document.chunk_bytes);
    let chunks = payload.div_ceil(chunk.max(1));
    let mut text = format!(
        "\nkernel {}, payload {}, chunk {}: {} chunks; copies {}\n",
        document.kernel,
        size::show(payload),
        size::show(chunk),
        grouped(chunks),
        document.evidence
    );
    let (mut per_chunk, mut total) = (Table::new(PER_CHUNK), Table::new(TOTAL));
    for row in document.rows {
        per_chunk.row(per_chunk_cells(row, payload, chunks, document.evidence));
        total.row(total_cells(row, document.evidence));
    }
    let _ = write!(
        text,
        "\nPer chunk\n\n{per_chunk}\nIn total\n\n{total}\n{FOOTNOTES}"
    );
    for row in document.rows.iter().filter(|row| !row.notes.is_empty()) {
        let _ = writeln!(text, "\n{} to {}", row.method, row.target);
        for note in &row.notes {
            let _ = writeln!(text, "  {note}");
        }
    }
    if !document.left_out.is_empty() {
        text.push('\n');
    }
    for line in document.left_out {
        let _ = writeln!(text, "left out: {line}");
    }
    text
}

const fn both(flows: Flows) -> u64 {
    flows.into + flows.out
}

/// A number that nothing a system call returns tells, so that only a measurement has it.
fn known(cell: String, evidence: &str) -> String {
    match evidence {
        "derived" => "-".to_owned(),
        _ => cell,
    }
}

fn per_chunk_cells(
    row: &Row,
    payload: u64,
    chunks: u64,
    evidence: &str,
) -> [String; PER_CHUNK.len()] {
    let known = |cell| known(cell, evidence);
    let all = row.measured.all_methods();
    let each = |count| format!("{:.2}", ratio(count, chunks));
    let share = |bytes| format!("{:.2}", ratio(bytes, payload));
    [
        row.method.into(),
        row.target.into(),
        row.theory.mode_switches.to_string(),
        each(row.measured.mode_switches.syscall),
        known(each(row.measured.mode_switches.fault)),
        row.theory.cpu_copies.to_string(),
        known(share(cpu_bytes(&row.measured))),
        share(all.to_user.bytes),
        share(all.from_user.bytes),
        known(share(all.in_kernel.bytes)),
        share(both(row.measured.pio_bytes)),
        known(share(all.zero_copy_bytes)),
        row.theory.dma_copies.to_string(),
        share(both(row.measured.dma_bytes.block) + both(row.measured.dma_bytes.net)),
        each(row.measured.context_switches.voluntary),
        each(row.measured.context_switches.involuntary),
        verdict(row, evidence).into(),
    ]
}

/// Where copies are only derived, calls and payload are right, and the rest proves nothing.
fn verdict(row: &Row, evidence: &str) -> &'static str {
    match (row.ok, evidence) {
        (false, _) => "FAIL",
        (true, "derived") => "derived",
        (true, _) => "OK",
    }
}

fn total_cells(row: &Row, evidence: &str) -> [String; TOTAL.len()] {
    // More than nothing was counted where it was made.
    let known = |count| match count {
        0 => known(grouped(0), evidence),
        _ => grouped(count),
    };
    let (measured, all) = (&row.measured, row.measured.all_methods());
    [
        row.method.into(),
        row.target.into(),
        grouped(measured.mode_switches.syscall),
        known(measured.mode_switches.fault),
        grouped(all.to_user.bytes),
        grouped(all.from_user.bytes),
        known(all.in_kernel.bytes),
        known(all.zero_copy_bytes),
        grouped(both(measured.pio_bytes)),
        grouped(both(measured.dma_bytes.block)),
        grouped(both(measured.dma_bytes.net)),
        known(measured.page_faults.minor),
        known(measured.page_faults.major),
        grouped(measured.context_switches.voluntary),
        grouped(measured.context_switches.involuntary),
    ]
}

//! What the ledger must show of a sender, to the byte, and whether it does.

use std::fmt;

use super::Calls;
use crate::ledger::{Counters, Method, MethodTotals};

/// What one method must show, its bytes in units of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The method.
    pub method: Method,
    /// Calls for each chunk, if none moves less than it was asked to.
    pub calls_each_chunk: u64,
    /// Calls for all chunks together.
    pub calls_once: u64,
    /// What its calls return.
    pub payload: u64,
    /// What of that nothing copied.
    pub zero_copy: u64,
    /// Copied kernel to user.
    pub to_user: u64,
    /// Copied user to kernel.
    pub from_user: u64,
    /// Copied kernel to kernel.
    pub in_kernel: u64,
    /// Whether it moves whole pages, so that its unit is the payload rounded up to them.
    pub whole_pages: bool,
}

impl Share {
    /// The bytes that are 1 in its numbers.
    #[must_use]
    pub const fn unit(&self, payload: u64) -> u64 {
        if self.whole_pages {
            payload.next_multiple_of(PAGE)
        } else {
            payload
        }
    }

    /// A method that no call is made of and that moves nothing, for struct update.
    pub const NOTHING: Self = Self {
        method: Method::Other,
        calls_each_chunk: 0,
        calls_once: 0,
        payload: 0,
        zero_copy: 0,
        to_user: 0,
        from_user: 0,
        in_kernel: 0,
        whole_pages: false,
    };
}

/// What devices must move for the sender, in units of the payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From a disk, by the CPU.
    pub pio_in: u64,
    /// From a disk, by DMA.
    pub dma_in: u64,
    /// To a disk, by DMA.
    pub dma_out: u64,
    /// To a NIC, by DMA; the headers of packets come on top.
    pub sent: u64,
    /// What a call passed by reference and the kernel copied all the same, for a NIC that cannot
    /// gather or for a receiver on this machine.
    pub lost: u64,
}

/// What disks are read and written in, and memory is mapped in.
const PAGE: u64 = 4096;

/// One possible truth about a scenario: these methods with these bytes, and no others.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    /// What it is the truth about, where it depends on the file system.
    pub because: Option<&'static str>,
    /// A method that is not listed must not appear.
    pub shares: &'static [Share],
    /// `None` where that is the file system's choice.
    pub moved: Option<Moved>,
}

/// A number that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The method concerned, if it is one.
    pub method: Option<Method>,
    /// Which of its numbers, as JSON names it.
    pub field: &'static str,
    /// The truth.
    pub expected: u64,
    /// The ledger.
    pub got: u64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            field,
            expected,
            got,
        } = self;
        if let Some(method) = method {
            write!(f, "{}.", method.name())?;
        }
        write!(f, "{field}: expected {expected}, got {got}")
    }
}

impl Truth {
    /// Where a measurement parts from the truth; empty if nowhere. What TCP sent again was copied
    /// again, if it was copied after the call: between the kernel's own buffers.
    #[must_use]
    pub fn differences(
        &self,
        payload: u64,
        resent: u64,
        calls: &Calls,
        measured: &Counters,
    ) -> Vec<Difference> {
        Method::ALL
            .into_iter()
            .flat_map(|method| {
                let share = self
                    .shares
                    .iter()
                    .find(|share| share.method == method)
                    .unwrap_or(&Share::NOTHING);
                fields(
                    share,
                    payload,
                    resent,
                    calls.of(method),
                    &measured.method(method),
                )
                .map(move |(field, expected, got)| Difference {
                    method: Some(method),
                    field,
                    expected,
                    got,
                })
            })
            .chain(
                self.moved
                    .iter()
                    .flat_map(|moved| moved.against(payload, resent, measured)),
            )
            .filter(|difference| difference.expected != difference.got)
            .collect()
    }

    /// How many calls move `chunks` chunks if none moves less than it was asked to.
    #[must_use]
    pub fn calls(&self, chunks: u64) -> u64 {
        let calls = |share: &Share| share.calls_each_chunk * chunks + share.calls_once;
        self.shares.iter().map(calls).sum()
    }
}

impl Moved {
    fn against(self, payload: u64, resent: u64, measured: &Counters) -> [Difference; 5] {
        let pages = payload.next_multiple_of(PAGE);
        let (dma, pio) = (measured.dma_bytes, measured.pio_bytes);
        let sent = self.sent * payload;
        let lost: u64 = measured.zero_copy_fallback_bytes.values().sum();
        [
            ("pio_bytes.in", self.pio_in * pages, pio.into),
            ("dma_bytes.block.in", self.dma_in * pages, dma.block.into),
            ("dma_bytes.block.out", self.dma_out * pages, dma.block.out),
            // How many headers there are is TCP's choice.
            ("dma_bytes.net.out", sent, dma.net.out.min(sent)),
            (
                "zero_copy_fallback_bytes",
                self.lost * (payload + resent),
                lost,
            ),
        ]
        .map(|(field, expected, got)| Difference {
            method: None,
            field,
            expected,
            got,
        })
    }
}

fn fields(
    share: &Share,
    payload: u64,
    resent: u64,
    calls: u64,
    got: &MethodTotals,
) -> [(&'static str, u64, u64); 6] {
    let payload = share.unit(payload);
    let later = share.in_kernel * resent;
    [
        ("calls", calls, got.calls),
        ("payload_bytes", share.payload * payload, got.payload_bytes),
        (
            "zero_copy_bytes",
            share.zero_copy * payload,
            got.zero_copy_bytes,
        ),
        ("to_user.bytes", share.to_user * payload, got.to_user.bytes),
        (
            "from_user.bytes",
            share.from_user * payload,
            got.from_user.bytes,
        ),
        (
            "in_kernel.bytes",
            share.in_kernel * payload + later,
            got.in_kernel.bytes,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Copies;

    const PAYLOAD: u64 = 1000;
    const TRUTH: Truth = Truth {
        because: None,
        shares: &[Share {
            method: Method::Sendfile,
            calls_each_chunk: 1,
            payload: 1,
            in_kernel: 1,
            ..Share::NOTHING
        }],
        moved: None,
    };

    fn calls() -> Calls {
        let mut calls = Calls::default();
        calls.add(Method::Sendfile, 3);
        calls
    }

    fn measured() -> Counters {
        let mut counters = Counters::default();
        counters.methods.insert(
            Method::Sendfile,
            MethodTotals {
                calls: 3,
                payload_bytes: PAYLOAD,
                in_kernel: Copies {
                    copies: 3,
                    bytes: PAYLOAD,
                },
                ..MethodTotals::default()
            },
        );
        counters
    }

    fn differences(measured: &Counters) -> Vec<String> {
        let differences = TRUTH.differences(PAYLOAD, 0, &calls(), measured);
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_truth_passes() {
        assert_eq!(differences(&measured()), Vec::<String>::new());
    }

    type Change = fn(&mut MethodTotals);

    #[test]
    fn one_byte_is_a_difference() {
        let changes: [(Change, &str); 6] = [
            (
                |totals| totals.payload_bytes -= 1,
                "payload_bytes: expected 1000, got 999",
            ),
            (
                |totals| totals.zero_copy_bytes += 1,
                "zero_copy_bytes: expected 0, got 1",
            ),
            (
                |totals| totals.to_user.bytes += 1,
                "to_user.bytes: expected 0, got 1",
            ),
            (
                |totals| totals.from_user.bytes += 1,
                "from_user.bytes: expected 0, got 1",
            ),
            (
                |totals| totals.in_kernel.bytes += 1,
                "in_kernel.bytes: expected 1000, got 1001",
            ),
            (|totals| totals.calls += 1, "calls: expected 3, got 4"),
        ];
        for (change, sentence) in changes {
            let mut measured = measured();
            change(measured.methods.get_mut(&Method::Sendfile).unwrap());
            assert_eq!(differences(&measured), [format!("sendfile.{sentence}")]);
        }
    }

    #[test]
    fn nothing_extra() {
        let mut measured = measured();
        let extra = MethodTotals {
            calls: 1,
            ..MethodTotals::default()
        };
        measured.methods.insert(Method::Read, extra);
        assert_eq!(differences(&measured), ["read.calls: expected 0, got 1"]);
    }

    #[test]
    fn disks_move_whole_pages_and_nics_headers_too() {
        let truth = Truth {
            moved: Some(Moved {
                dma_in: 1,
                sent: 1,
                ..Moved::default()
            }),
            ..TRUTH
        };
        let found = |change: fn(&mut Counters)| {
            let mut measured = measured();
            measured.dma_bytes.block.into = PAGE;
            measured.dma_bytes.net.out = PAYLOAD + 66;
            change(&mut measured);
            let differences = truth.differences(PAYLOAD, 0, &calls(), &measured);
            let texts: Vec<_> = differences.iter().map(ToString::to_string).collect();
            texts.join("; ")
        };
        assert_eq!(found(|_| {}), "");
        assert_eq!(
            found(|measured| measured.dma_bytes.block.into -= 1),
            "dma_bytes.block.in: expected 4096, got 4095"
        );
        assert_eq!(
            found(|measured| measured.dma_bytes.net.out = 999),
            "dma_bytes.net.out: expected 1000, got 999"
        );
        assert_eq!(
            found(|measured| measured.pio_bytes.into += 512),
            "pio_bytes.in: expected 0, got 512"
        );
    }

    #[test]
    fn whole_pages_are_the_unit_of_what_moves_them() {
        let truth = Truth {
            shares: &[Share {
                method: Method::Mmap,
                in_kernel: 1,
                whole_pages: true,
                ..Share::NOTHING
            }],
            moved: Some(Moved {
                dma_out: 1,
                ..Moved::default()
            }),
            ..TRUTH
        };
        let found = |bytes| {
            let mut measured = Counters::default();
            measured.dma_bytes.block.out = bytes;
            let mmap = measured.methods.entry(Method::Mmap).or_default();
            mmap.in_kernel.bytes = bytes;
            let differences = truth.differences(PAYLOAD, 0, &Calls::default(), &measured);
            differences
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(found(PAGE), Vec::<String>::new());
        assert_eq!(
            found(PAYLOAD),
            [
                "mmap.in_kernel.bytes: expected 4096, got 1000",
                "dma_bytes.block.out: expected 4096, got 1000"
            ]
        );
    }

    #[test]
    fn nothing_measured_is_no_pass() {
        assert_eq!(differences(&Counters::default()).len(), 3);
    }
}

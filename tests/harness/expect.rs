//! What the ledger must show, to the byte.

use zc_profiler::ledger::{Counters, Direction, Method, MethodTotals};

/// What one method must show. Everything not named must be zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expect {
    pub method: Option<Method>,
    /// `None` where the number of calls is the kernel's choice, as with short splices.
    pub calls: Option<u64>,
    pub payload: u64,
    pub zero_copy: u64,
    pub to_user: u64,
    pub from_user: u64,
    pub in_kernel: u64,
}

impl Expect {
    pub fn of(method: Method, payload: u64) -> Self {
        Self {
            method: Some(method),
            payload,
            ..Self::default()
        }
    }

    pub fn calls(self, calls: u64) -> Self {
        Self {
            calls: Some(calls),
            ..self
        }
    }

    /// The whole payload is copied once, in this direction.
    pub fn copied(mut self, direction: Direction) -> Self {
        *match direction {
            Direction::ToUser => &mut self.to_user,
            Direction::FromUser => &mut self.from_user,
            Direction::InKernel => &mut self.in_kernel,
        } = self.payload;
        self
    }

    pub fn zero_copy(self, bytes: u64) -> Self {
        Self {
            zero_copy: bytes,
            ..self
        }
    }

    fn differences(&self, name: &str, totals: &MethodTotals) -> Vec<String> {
        let calls = (self.calls.unwrap_or(totals.calls), totals.calls);
        [
            ("calls", calls),
            ("payload", (self.payload, totals.payload_bytes)),
            ("zero-copy", (self.zero_copy, totals.zero_copy_bytes)),
            ("to_user", (self.to_user, totals.to_user.bytes)),
            ("from_user", (self.from_user, totals.from_user.bytes)),
            ("in_kernel", (self.in_kernel, totals.in_kernel.bytes)),
        ]
        .into_iter()
        .filter(|(_, (expected, got))| expected != got)
        .map(|(field, (expected, got))| format!("{name}.{field}: expected {expected}, got {got}"))
        .collect()
    }
}

/// Panics with every difference if the methods did anything else.
pub fn check(case: &str, counters: &Counters, expected: &[Expect]) {
    let differences: Vec<_> = Method::ALL
        .into_iter()
        .flat_map(|method| {
            let found = expected.iter().find(|expect| expect.method == Some(method));
            let none = Expect::default().calls(0);
            found
                .unwrap_or(&none)
                .differences(method.name(), &counters.method(method))
        })
        .collect();
    assert!(differences.is_empty(), "{case}: {}", differences.join("; "));
}

#[test]
fn a_single_byte_makes_the_check_fail() {
    let counters = |bytes| {
        let mut counters = Counters::default();
        let totals = counters.methods.entry(Method::Read).or_default();
        (totals.calls, totals.payload_bytes, totals.to_user.bytes) = (1, 10, bytes);
        counters
    };
    let expected = [Expect::of(Method::Read, 10)
        .calls(1)
        .copied(Direction::ToUser)];
    check("exact", &counters(10), &expected);
    for wrong in [9, 11] {
        let result = std::panic::catch_unwind(|| check("off by one", &counters(wrong), &expected));
        assert!(result.is_err(), "{wrong} bytes passed for 10");
    }
    let result = std::panic::catch_unwind(|| check("a method too many", &counters(10), &[]));
    assert!(result.is_err(), "an unexpected method passed");
}

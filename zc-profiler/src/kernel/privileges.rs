//! Giving up what is not needed any more.

use std::io;

/// Of each the bit and what it is for, once all programs are attached; the first one that is held is
/// kept.
const KEPT: [(u32, &str); 2] = [
    (39, "CAP_BPF, to read the counters"),
    // Where the one above was not given, this one stands in for it.
    (
        21,
        "CAP_SYS_ADMIN, to read the counters, for want of CAP_BPF",
    ),
];

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 capabilities.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One word of each set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops, for good, every capability of this thread and of those it will start, but what reading the
/// counters takes. Says what is kept. The kernel knows capabilities of threads only: each that is there
/// already calls this for itself.
///
/// # Errors
///
/// If the kernel refuses.
pub fn give_up() -> io::Result<&'static str> {
    // SAFETY: takes no pointer. From here on no program that is executed can gain anything, not even
    // as root.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut held = [Sets::default(); 2];
    // SAFETY: valid for the call; this version has two words.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, held.as_mut_ptr()) })?;
    let (sets, kept) = reduced(held);
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })?;
    Ok(kept)
}

fn reduced(held: [Sets; 2]) -> ([Sets; 2], &'static str) {
    let place = |bit: u32| ((bit / 32) as usize, 1u32 << (bit % 32));
    let kept = KEPT.into_iter().find(|(bit, _)| {
        let (word, mask) = place(*bit);
        held[word].permitted & mask != 0
    });
    let mut sets = [Sets::default(); 2];
    let Some((bit, name)) = kept else {
        return (sets, "nothing");
    };
    let (word, mask) = place(bit);
    sets[word] = Sets {
        effective: mask,
        permitted: mask,
        inheritable: 0,
    };
    (sets, name)
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(words: [u32; 2]) -> [Sets; 2] {
        words.map(|permitted| Sets {
            effective: permitted,
            permitted,
            inheritable: permitted,
        })
    }

    #[test]
    fn one_capability_at_most_is_kept() {
        let bpf = Sets {
            effective: 1 << 7,
            permitted: 1 << 7,
            inheritable: 0,
        };
        let admin = Sets {
            effective: 1 << 21,
            permitted: 1 << 21,
            inheritable: 0,
        };
        let none = Sets::default();
        assert_eq!(reduced(permitted([u32::MAX; 2])), ([none, bpf], KEPT[0].1));
        assert_eq!(
            reduced(permitted([u32::MAX, 1 << 6])),
            ([admin, none], KEPT[1].1)
        );
        assert_eq!(reduced(permitted([0, 1 << 6])), ([none, none], "nothing"));
    }
}

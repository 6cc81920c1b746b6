//! Bytes that tell their own position, so that a lost, repeated or displaced byte is found.

use std::io::{ErrorKind, Read, Write};

use super::Error;

const BUFFER: usize = 64 * 1024;
const WORD: usize = 8;

fn word(index: u64) -> [u8; WORD] {
    // Odd, so that no two positions share a word.
    (index + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .to_le_bytes()
}

/// Fills a buffer with the bytes from `position` on, a multiple of eight.
fn fill(position: u64, buffer: &mut [u8]) {
    for (index, bytes) in (position / WORD as u64..).zip(buffer.chunks_mut(WORD)) {
        bytes.copy_from_slice(&word(index)[..bytes.len()]);
    }
}

/// The bytes from `position` on. `room` holds eight bytes more than they.
pub(super) fn bytes(position: u64, len: usize, room: &mut [u8]) -> &mut [u8] {
    #[allow(clippy::cast_possible_truncation, reason = "less than WORD")]
    let inside = (position % WORD as u64) as usize;
    fill(position - inside as u64, &mut room[..inside + len]);
    &mut room[inside..inside + len]
}

/// Where `bytes`, found at `position`, are wrong first. `room` holds eight bytes more than they.
pub(super) fn damage(position: u64, bytes: &[u8], room: &mut [u8]) -> Option<u64> {
    let expected = self::bytes(position, bytes.len(), room);
    (bytes != expected).then(|| {
        let same = bytes.iter().zip(expected).take_while(|(a, b)| **a == **b);
        position + same.count() as u64
    })
}

/// How much room [`damage`] needs for so many bytes.
pub(super) const fn room(bytes: usize) -> usize {
    bytes + WORD
}

/// Writes the first `payload` bytes.
pub(super) fn write(to: &mut impl Write, payload: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    while position < payload {
        let len = (payload - position).min(BUFFER as u64);
        #[allow(clippy::cast_possible_truncation, reason = "at most BUFFER")]
        let part = &mut buffer[..len as usize];
        fill(position, part);
        to.write_all(part)?;
        position += len;
    }
    Ok(())
}

/// Reads to the end and checks every byte and their number.
pub(super) fn check(from: &mut impl Read, payload: u64) -> Result<(), Error> {
    let (mut buffer, mut expected) = (vec![0; BUFFER], vec![0; room(BUFFER)]);
    let mut position = 0;
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::call("read")(error)),
        };
        if let Some(at) = damage(position, &buffer[..got], &mut expected) {
            return Err(Error::Changed(at));
        }
        position += got as u64;
    }
    if position == payload {
        Ok(())
    } else {
        Err(Error::Length {
            expected: payload,
            got: position,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most seven bytes a call, so that reads begin at every offset in a word.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = buffer.len().min(7);
            self.0.read(&mut buffer[..len])
        }
    }

    fn pattern(payload: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, payload).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_checks() {
        for payload in [1, 7, 8, 4096, 100_003] {
            let bytes = pattern(payload);
            assert_eq!(bytes.len() as u64, payload);
            check(&mut &bytes[..], payload).unwrap();
            check(&mut Dribble(&bytes), payload).unwrap();
        }
    }

    #[test]
    fn every_damage_is_found() {
        let bytes = pattern(100_000);
        let mut flipped = bytes.clone();
        flipped[70_001] ^= 1;
        assert!(matches!(
            check(&mut &flipped[..], 100_000),
            Err(Error::Changed(70_001))
        ));
        let mut swapped = bytes.clone();
        swapped.swap(4096, 8192);
        assert!(matches!(
            check(&mut &swapped[..], 100_000),
            Err(Error::Changed(_))
        ));
        assert!(matches!(
            check(&mut &bytes[..99_999], 100_000),
            Err(Error::Length {
                expected: 100_000,
                got: 99_999
            })
        ));
    }
}

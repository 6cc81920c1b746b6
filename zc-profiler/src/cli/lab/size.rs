//! Numbers of bytes as people write and read them.

const UNITS: [(&str, u32); 4] = [("G", 30), ("M", 20), ("K", 10), ("", 0)];

/// Reads `65536`, `64K` or `64KiB`.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = text[digits.len()..].to_ascii_uppercase();
    let unit = UNITS.iter().find(|(name, _)| {
        suffix
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest == "IB" && !name.is_empty())
    });
    let (Ok(number), Some((_, shift))) = (digits.parse::<u64>(), unit) else {
        return Err(
            "not a number of bytes, which may end in K, M or G (1024, 1024^2, 1024^3)".into(),
        );
    };
    match number.checked_mul(1 << shift) {
        Some(0) => Err("nothing to move".into()),
        Some(bytes) => Ok(bytes),
        None => Err("too large".into()),
    }
}

/// In the largest unit that divides it.
pub fn show(bytes: u64) -> String {
    UNITS
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(
            || format!("{bytes} bytes"),
            |(name, shift)| format!("{} {name}iB", bytes >> shift),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("1", 1),
            ("4096", 4096),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("16M", 16 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", "K", "-1", "+", "1.5M", "12x", "64KB", "1 K", "0", "0M", "1iB", "é", "1é",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("99999999999G"), Err("too large".into()));
        assert!(parse("99999999999999999999").is_err());
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (65536, "64 KiB"),
            (16 << 20, "16 MiB"),
            (10007, "10007 bytes"),
            (3 << 30, "3 GiB"),
        ] {
            assert_eq!(show(bytes), text);
        }
    }
}

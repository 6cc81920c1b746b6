//! Symbols of the kernel, from /proc/kallsyms.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader},
};

/// What the kernel has of the symbols that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    addresses: HashMap<String, u64>,
    in_modules: HashSet<String>,
}

impl Symbols {
    /// Looks for these, once for all: the kernel takes a second to print the file on slow machines.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn read(wanted: &HashSet<&str>) -> io::Result<Self> {
        Ok(Self::parse(
            BufReader::new(File::open("/proc/kallsyms")?),
            wanted,
        ))
    }

    /// Where the kernel itself has it; `None` too if it hides its addresses.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied()
    }

    /// Whether a loaded module has it.
    #[must_use]
    pub fn in_module(&self, name: &str) -> bool {
        self.in_modules.contains(name)
    }

    pub(crate) fn parse(lines: impl BufRead, wanted: &HashSet<&str>) -> Self {
        let mut found = Self::default();
        for line in lines.split(b'\n').map_while(Result::ok) {
            let Ok(line) = std::str::from_utf8(&line) else {
                continue;
            };
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if !wanted.contains(name) {
                continue;
            }
            if words.next().is_some() {
                found.in_modules.insert(name.to_owned());
            } else if let Ok(address @ 1..) = u64::from_str_radix(address, 16) {
                // Without CAP_SYSLOG every address reads as 0. A per-CPU offset may truly be 0, which no
                // symbol that is asked for here has.
                found.addresses.insert(name.to_owned(), address);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_visible_symbols_are_found_and_modules_apart() {
        let text = "ffffffff81000000 T _stext\n0000000000000000 D hidden\n\
                    ffffffff82000010 D __per_cpu_offset\nffffffffc0000000 d __per_cpu_offset\t[mod]\n\
                    ffffffffc0000010 t ata_sff_data_xfer\t[libata]\nffffffffc0000020 t other\t[libata]\n\
                    garbage\n";
        let wanted = HashSet::from(["__per_cpu_offset", "hidden", "absent", "ata_sff_data_xfer"]);
        let found = Symbols::parse(text.as_bytes(), &wanted);
        assert_eq!(
            found.address("__per_cpu_offset"),
            Some(0xffff_ffff_8200_0010)
        );
        assert_eq!(found.addresses.len(), 1);
        assert!(found.in_module("ata_sff_data_xfer"));
        assert!(!found.in_module("other") && !found.in_module("hidden"));
    }
}

//! Addresses of kernel symbols, from /proc/kallsyms.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
};

/// Finds the wanted symbols; those that the kernel lacks or hides are left out.
///
/// # Errors
///
/// If the file cannot be read.
pub fn addresses(wanted: &[&str]) -> io::Result<HashMap<String, u64>> {
    Ok(parse(BufReader::new(File::open("/proc/kallsyms")?), wanted))
}

/// Whether a loaded module has a function of that name.
#[must_use]
pub fn in_module(function: &str) -> bool {
    let Ok(file) = File::open("/proc/kallsyms") else {
        return false;
    };
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    lines.into_iter().any(|line| {
        let mut words = line.split(u8::is_ascii_whitespace).skip(2);
        words.next() == Some(function.as_bytes()) && words.next().is_some()
    })
}

fn parse(lines: impl BufRead, wanted: &[&str]) -> HashMap<String, u64> {
    let mut found = HashMap::new();
    for line in lines.split(b'\n').map_while(Result::ok) {
        let Ok(line) = std::str::from_utf8(&line) else {
            continue;
        };
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if wanted.contains(&name)
            // Without CAP_SYSLOG every address reads as 0. A per-CPU offset may truly be 0, which no
            // symbol that is asked for here has.
            && let Ok(address @ 1..) = u64::from_str_radix(address, 16)
        {
            found.insert(name.to_owned(), address);
            if found.len() == wanted.len() {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_visible_symbols_of_the_kernel_itself_are_found() {
        let text = "ffffffff81000000 T _stext\n0000000000000000 D hidden\n\
                    ffffffff82000010 D __per_cpu_offset\nffffffffc0000000 d __per_cpu_offset\t[mod]\n\
                    garbage\n";
        let found = parse(text.as_bytes(), &["__per_cpu_offset", "hidden", "absent"]);
        assert_eq!(
            found,
            HashMap::from([("__per_cpu_offset".into(), 0xffff_ffff_8200_0010)])
        );
    }
}

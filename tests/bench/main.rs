//! The bench of `cargo xtask bench`: measures work with and without something attached. What it
//! measures goes to standard output, a JSON document a line; what it is about, to standard error.

mod agent;
mod bpf;
mod candidates;
mod guest;
mod idle;
mod native;
mod scrape;
mod variants;
mod work;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["guest", variants @ ..] => guest::run(variants),
        ["work", repetitions] => guest::work(repetitions.parse()?),
        ["hold", variant] => variants::hold(variant),
        ["candidates"] => candidates::run(),
        ["idle"] => idle::run(),
        ["native"] => native::run(),
        ["scrape"] => scrape::run(),
        ["crowd"] => scrape::crowd(),
        // As cargo starts it.
        [] | ["--bench"] => bail!("`cargo xtask bench` runs this"),
        _ => bail!("unknown: {words:?}"),
    }
}

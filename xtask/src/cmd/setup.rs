//! `cargo xtask setup`: installs and builds what the lab needs and this machine lacks.

use anyhow::Result;

use crate::kernels;
use crate::setup::{self, KernelChoices};

pub fn run(choices: &KernelChoices) -> Result<i32> {
    let lab = setup::prepare(&choices.or(kernels::DEFAULT)?, &[])?;
    let titles: Vec<&str> = lab.kernels.iter().map(|kernel| &*kernel.title).collect();
    eprintln!(
        "setup: ready ({}; eBPF compiler: {})",
        titles.join(", "),
        lab.compiler.name
    );
    Ok(0)
}

//! What the verifier's acceptance of each program costs: it refuses a program for which it processes more than a
//! million instructions.

use std::{collections::BTreeMap, env, fs};

use zc_profiler::{Options, Profiler, Scope, probes::AttachClass};

use crate::harness::support::{kernel_is, profiler};

/// What the verifier of Linux 5.2 and later processes at most for one program.
const LIMIT: u32 = 1_000_000;

/// `cargo xtask test` compares the numbers written here with the recorded ones.
#[test]
fn every_program_is_far_from_the_verifier_s_limit() {
    let mut programs = BTreeMap::new();
    let mut add = |profiler: &Profiler| {
        for (name, number) in profiler.processed_instructions() {
            let most = programs.entry(name.to_owned()).or_insert(number);
            *most = number.max(*most);
        }
    };
    add(profiler());
    // Attached without fentry, other programs are loaded.
    for best in [AttachClass::Kprobe, AttachClass::Tracepoint] {
        let options = Options {
            best,
            ..Options::default()
        };
        let profiler = Profiler::attach(Scope::Tree, options)
            .unwrap_or_else(|error| panic!("attaching by {}: {error}", best.name()));
        add(&profiler);
    }
    // Linux before 5.16 does not tell.
    assert_eq!(programs.is_empty(), kernel_is("5.10."), "{programs:?}");
    for (name, number) in &programs {
        assert!(*number < LIMIT / 2, "{name}: {number} instructions");
    }
    let Some(file) = env::var_os("ZC_COMPLEXITY") else {
        return;
    };
    let line = |(name, number): (&String, &u32)| format!("{name} {number}\n");
    let lines: Vec<String> = programs.iter().map(line).collect();
    fs::write(&file, lines.concat()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zc_profiler::fuzz::btf(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| zc_profiler::fuzz::web_config(text));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pymesh_fuzz::target("propagated")(data));

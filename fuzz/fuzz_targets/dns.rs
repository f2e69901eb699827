//! Questions about names as a container sends them, and lists of names.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_spawn::fuzz::dns(bytes));

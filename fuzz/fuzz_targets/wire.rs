//! Plans, requests, answers, reports and records, as the supervisor and its owner read them.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coracle_spawn::fuzz::wire(bytes));

//! Files of a container that its first process reads: passwd(5), group(5), the beginning of a program; and `--user`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    coracle_spawn::fuzz::passwd(bytes);
    coracle_spawn::fuzz::interpreter(bytes);
});

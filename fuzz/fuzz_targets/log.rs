//! A container's log, as whoever reads it finds it on disk: head, ring, records, lines.
#![no_main]
use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("coracle-fuzz-log-{}", std::process::id()));
    let mut file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file can be made");
    let _ = std::fs::remove_file(&path);
    // A fuzzer doesn't guess a check over four numbers: the second half of all inputs gets a good head, and the ring from the input.
    match bytes.split_first() {
        Some((0..128, bytes)) => file.write_all(bytes).expect("it can be written"),
        Some((_, ring)) => file.write_all(&coracle_spawn::fuzz::log_with(ring)).expect("it can be written"),
        None => {}
    }
    coracle_spawn::fuzz::log(file);
});

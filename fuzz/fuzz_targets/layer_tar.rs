//! Layers: the archive as the strict reader sees it. No size that it tells is larger than its limits.
#![no_main]
use coracle_layers::{Limits, tar::Reader};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes, "fuzz", Limits::default());
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(entry.mode <= 0o7777 && entry.uid != u32::MAX && entry.gid != u32::MAX);
        loop {
            match reader.data() {
                Ok(Some(piece)) => assert!(piece.offset + piece.bytes.len() as u64 <= entry.size),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});

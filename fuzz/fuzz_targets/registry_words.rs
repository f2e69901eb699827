//! What registries and their proxies put into headers and answers, and what files say of registries.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        coracle_image::fuzz_registry(text);
    }
});

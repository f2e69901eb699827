//! Names of images, manifests, indexes and configs, as a registry sends them; and cgroup files.
#![no_main]
use coracle_cgroups::{Hierarchies, parse_memory};
use coracle_image::{Digest, Document, ImageConfig, Platform, Reference};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Document::parse(bytes);
    let _ = ImageConfig::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(reference) = text.parse::<Reference>() {
            assert_eq!(reference.to_string().parse(), Ok(reference));
        }
        if let Ok(digest) = text.parse::<Digest>() {
            assert!(!digest.hex().contains(['/', '.']));
        }
        let _ = text.parse::<Platform>();
        let _ = parse_memory(text);
        let _ = Hierarchies::detect_from(text, text);
    }
});

//! Archives of images, as somebody hands them over: whatever is in one, the store stays sound, and nothing stays of what is refused.
#![no_main]
use coracle_image::{Archive, Change, NoSink, Store};
use std::sync::LazyLock;

static STORE: LazyLock<Store> = LazyLock::new(|| {
    Store::open(std::env::temp_dir().join(format!("coracle-fuzz-{}", std::process::id()))).expect("a store opens")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<Change>();
    }
    match Archive::read(bytes, "fuzz", &STORE).and_then(|archive| archive.import(&STORE, &NoSink)) {
        Ok(images) => {
            for image in &images {
                assert_eq!(STORE.find(&image.reference, &image.platform).expect("it is read").as_ref(), Some(image));
            }
            STORE.prune(true, &NoSink).expect("it is pruned");
            STORE.empty_trash().expect("it is emptied");
        }
        Err(_) => {}
    }
    for part in ["ingest", "leases", "images", "blobs/sha256"] {
        let left = std::fs::read_dir(STORE.path().join(part)).expect("it is there").count();
        assert_eq!(left, 0, "{part}");
    }
});

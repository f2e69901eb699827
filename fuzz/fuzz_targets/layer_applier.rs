//! Layers: unpacked into a directory beside one that nothing may touch, whatever the archive says.
#![no_main]
use coracle_layers::{Options, Ownership, remove_tree, unpack};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A directory, in memory if `cargo xtask` runs this, and what is in the sentinel's.
static PLACE: LazyLock<(PathBuf, BTreeMap<PathBuf, String>)> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("coracle-fuzz-applier-{}", std::process::id()));
    let sentinel = place.join("sentinel");
    std::fs::create_dir_all(sentinel.join("dir")).expect("it can be made");
    std::fs::write(sentinel.join("file"), "untouched").expect("it can be written");
    std::fs::write(sentinel.join("dir/file"), "untouched").expect("it can be written");
    std::os::unix::fs::symlink("file", sentinel.join("link")).expect("it can be made");
    let seen = look(&sentinel);
    (place, seen)
});

fn look(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut next = vec![directory.to_owned()];
    while let Some(path) = next.pop() {
        let found = std::fs::symlink_metadata(&path).expect("it is there");
        let contents = if found.is_file() { std::fs::read(&path).expect("it is ours") } else { Vec::new() };
        let about = [found.mode().into(), found.uid().into(), found.nlink(), found.size(), found.ino()];
        seen.insert(path.clone(), format!("{about:?} {} {contents:?}", found.mtime()));
        if found.is_dir() {
            next.extend(std::fs::read_dir(&path).expect("it is ours").flatten().map(|entry| entry.path()));
        }
    }
    seen
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (place, before) = &*PLACE;
    let layer = place.join("layer");
    // As a plain user's: fuzzing makes no devices.
    let mut options = Options::user(Ownership::Defer);
    options.limits.entries = 1000;
    options.limits.total_bytes = 1 << 20;
    options.limits.file_bytes = 1 << 30;
    let unpacked = unpack(bytes, &layer, &options);
    assert_eq!(unpacked.is_ok(), layer.exists(), "{unpacked:?}");
    if unpacked.is_ok() {
        remove_tree(&layer).expect("it can be removed");
    }
    let _ = std::fs::remove_file(place.join("ownership"));
    assert_eq!(look(&place.join("sentinel")), *before, "something reached outside");
    let mut left: Vec<_> = std::fs::read_dir(place).expect("it is ours").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["sentinel"], "something is left");
});

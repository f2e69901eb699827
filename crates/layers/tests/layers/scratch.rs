//! A place for tests, and a look at what is in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A temporary directory in memory where there is one: the disk of the test machine has no journal and is slow after deletions.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Prints why a test is passed over.
pub(crate) fn skip(need: &str) {
    eprintln!("SKIP: {need}");
}

/// All that can be seen of a tree, by path: type, mode, owner, size, time, contents, target, device, attributes, and which names are
/// the same file.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, at: &Path, out: &mut BTreeMap<String, String>, inodes: &mut BTreeMap<u64, String>) {
        let meta = fs::symlink_metadata(at).unwrap();
        let name = at.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(at).unwrap().display())
        } else if kind.is_file() {
            let bytes = fs::read(at).unwrap_or_default();
            let first = if meta.nlink() > 1 { inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone() } else { String::new() };
            format!("file {} {} ={first}", bytes.len(), coracle_image::Digest::sha256(&bytes))
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {} {:x}", kind.is_char_device(), meta.rdev())
        };
        let mut attributes = attributes(at);
        attributes.sort();
        out.insert(
            name,
            format!("{what} {:o} {}:{} {}.{:09} {attributes:?}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec()),
        );
        if kind.is_dir() {
            let mut names: Vec<OsString> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for name in names {
                walk(root, &at.join(name), out, inodes);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out, &mut BTreeMap::new());
    out
}

pub(crate) fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..length].to_vec())
        })
        .collect()
}

/// The first difference of two listings, for people.
pub(crate) fn difference(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> Option<String> {
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    names
        .into_iter()
        .find(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name}:\n  ours   {:?}\n  theirs {:?}", ours.get(name), theirs.get(name)))
}

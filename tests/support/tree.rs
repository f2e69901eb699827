//! A look at a tree of files: everything about it that one program's unpacking could make different from another's.

use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// What is known of one file, by the field's name: `kind`, `mode`, `uid`, `gid`, `size`, `sha`, `mtime`, `target`, `device`,
/// `xattrs`, `links`.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// A tree, by path. The root is `.`.
pub(crate) type Tree = BTreeMap<String, Fields>;

/// One field of one file that two trees don't share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) path: String,
    /// A field, or `presence`.
    pub(crate) field: &'static str,
    pub(crate) one: String,
    pub(crate) other: String,
}

/// Everything below a directory, and the directory itself.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut out = Tree::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    walk(root, root, &mut out, &mut inodes);
    for names in inodes.values().filter(|names| names.len() > 1) {
        for name in names {
            out.get_mut(name).expect("it was walked").insert("links", names.join(" = "));
        }
    }
    out
}

/// What differs. Fields that only one side knows are none of it.
pub(crate) fn differences(one: &Tree, other: &Tree) -> Vec<Difference> {
    let mut found = Vec::new();
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for path in names {
        let mut differs = |field, one: &str, other: &str| {
            found.push(Difference { path: path.clone(), field, one: one.to_owned(), other: other.to_owned() });
        };
        match (one.get(path), other.get(path)) {
            // What is a directory here and a link there differs in everything else, too.
            (Some(one), Some(other)) if one.get("kind") != other.get("kind") => differs("kind", &one["kind"], &other["kind"]),
            (Some(one), Some(other)) => {
                for (field, value) in one {
                    if let Some(theirs) = other.get(field).filter(|theirs| *theirs != value) {
                        differs(field, value, theirs);
                    }
                }
            }
            (Some(one), None) => differs("presence", &one["kind"], "absent"),
            (None, Some(other)) => differs("presence", "absent", &other["kind"]),
            (None, None) => {}
        }
    }
    found
}

/// A name as text that any line can hold.
pub(crate) fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

fn walk(root: &Path, at: &Path, out: &mut Tree, inodes: &mut BTreeMap<(u64, u64), Vec<String>>) {
    let below = at.strip_prefix(root).expect("it is below").as_os_str().as_bytes();
    let name = if below.is_empty() { String::from(".") } else { shown(below) };
    let found = match fs::symlink_metadata(at) {
        Ok(found) => found,
        // Overlay lists a whiteout in a directory that it merges with none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            out.insert(name, Fields::from([("kind", "listed, and not there".to_owned())]));
            return;
        }
        Err(error) => panic!("{}: {error}", at.display()),
    };
    let kind = found.file_type();
    let mut fields = Fields::new();
    let word = if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        fields.insert("target", shown(fs::read_link(at).expect("a link can be read").as_os_str().as_bytes()));
        "link"
    } else if kind.is_file() {
        fields.insert("size", found.len().to_string());
        fields.insert("sha", hash(at, found.len(), u64::MAX));
        "file"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        fields.insert("device", format!("{}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())));
        if kind.is_char_device() { "character device" } else { "block device" }
    };
    fields.insert("kind", word.to_owned());
    if !kind.is_symlink() {
        fields.insert("mode", format!("{:o}", found.mode() & 0o7777));
    }
    fields.insert("uid", found.uid().to_string());
    fields.insert("gid", found.gid().to_string());
    fields.insert("mtime", format!("{}.{:09}", found.mtime(), found.mtime_nsec()));
    fields.insert("xattrs", xattrs(at));
    fields.insert("links", String::new());
    out.insert(name.clone(), fields);
    if kind.is_dir() {
        let mut names: Vec<OsString> =
            fs::read_dir(at).expect("a directory can be read").flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            walk(root, &at.join(name), out, inodes);
        }
    } else {
        inodes.entry((found.dev(), found.ino())).or_default().push(name);
    }
}

/// sha256 of what is in a file up to a limit: each block of 4 KiB that isn't all zeros, with its place. So holes cost nothing, and
/// a hole is what a block of zeros is.
pub(crate) fn hash(path: &Path, size: u64, limit: u64) -> String {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hash = Sha256::new();
    let mut block = [0; 4096];
    let mut at = 0;
    let end = size.min(limit);
    while at < end {
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => at = data / 4096 * 4096,
            // Nothing but a hole is left.
            Err(_) => break,
        }
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(at)).unwrap_or(end).max(at + 1);
        while at < hole.min(end) {
            block.fill(0);
            let mut filled = 0;
            while filled < block.len() {
                match file.read_at(&mut block[filled..], at + filled as u64).expect("a file can be read") {
                    0 => break,
                    n => filled += n,
                }
            }
            if block.iter().any(|byte| *byte != 0) {
                hash.update(at.to_le_bytes());
                hash.update(block);
            }
            at += 4096;
        }
    }
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

fn xattrs(path: &Path) -> String {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    let mut all: Vec<String> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
            format!("{}={}", shown(name), shown(&value[..length]))
        })
        .collect();
    all.sort();
    all.join(" ")
}

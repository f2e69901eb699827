//! Whose the files of a layer are, and what a plain user can't give away now but a user namespace can later.
//!
//! A plain user writes every file as itself. With sub-ids the owners are applied afterwards, by steps inside the user namespace that
//! maps them; until then they stand in the file `ownership` beside the layer's `fs`:
//!
//! ```text
//! magic     11 bytes  "coracle-own"
//! version    1 byte   1
//! record    repeated to the end of the file, numbers little-endian:
//!   tag        1 byte   'o' owner, 'c' capability, 'd' device
//!   length     4 bytes  of the path
//!   path       length bytes, relative to `fs`, without `.`, `..` or a slash at either end; empty for `fs` itself
//!   owner:       uid 4, gid 4, mode 4 bytes (permission bits; chown clears set-user-id, so set it again)
//!   capability:  length 4 bytes, then the value of the attribute security.capability
//!   device:      mode with its type 4, uid 4, gid 4, major 4, minor 4 bytes
//! ```
//!
//! Changing this changes the format on disk; raise the version.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whose the unpacked files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Ownership {
    /// As the layer says: root only (CAP_CHOWN, CAP_FOWNER, CAP_MKNOD).
    Keep,
    /// All the caller's: for a user namespace with a single id.
    Squash,
    /// All the caller's for now; [`read_ownership`] tells a later step inside a user namespace what to change. Files of 0:0 need
    /// nothing, when the caller is the namespace's root.
    Defer,
}

/// What was left to be done inside a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deferred {
    /// Files that aren't root's, a directory before what is in it. Apply from the last to the first, without following symbolic
    /// links: chown, then (unless it's a link) chmod.
    pub owners: Vec<Owner>,
    /// Files with capabilities: path, and value of `security.capability`. Apply after the owners; chown removes them.
    pub capabilities: Vec<(PathBuf, Vec<u8>)>,
    /// Devices, which a user namespace can't make either. They can be bind-mounted.
    pub devices: Vec<Device>,
}

/// The owner that a file should have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// Relative to the layer's directory.
    pub path: PathBuf,
    /// The owner, as numbered inside the container.
    pub uid: u32,
    /// The group, as numbered inside the container.
    pub gid: u32,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
}

/// A device that wasn't made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// Relative to the layer's directory.
    pub path: PathBuf,
    /// Type and permission bits, as `mknod(2)` takes them.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

const MAGIC: &[u8; 12] = b"coracle-own\x01";

/// Records by path as they are gathered: what replaces a file replaces its records.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    pub(crate) owners: BTreeMap<Vec<u8>, (u32, u32, u32)>,
    pub(crate) capabilities: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) devices: BTreeMap<Vec<u8>, [u32; 5]>,
}

impl Ledger {
    pub(crate) fn forget(&mut self, path: &[u8]) {
        self.owners.remove(path);
        self.capabilities.remove(path);
        self.devices.remove(path);
    }

    /// Forgets what is below a directory, too.
    pub(crate) fn forget_tree(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        self.forget(path);
        self.owners.retain(|other, _| !other.starts_with(&below));
        self.capabilities.retain(|other, _| !other.starts_with(&below));
        self.devices.retain(|other, _| !other.starts_with(&below));
    }

    /// A second name of a file: it keeps the records when the first name goes away.
    pub(crate) fn link(&mut self, from: &[u8], to: &[u8]) {
        if let Some(owner) = self.owners.get(from).copied() {
            self.owners.insert(to.to_vec(), owner);
        }
        if let Some(capability) = self.capabilities.get(from).cloned() {
            self.capabilities.insert(to.to_vec(), capability);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.capabilities.is_empty() && self.devices.is_empty()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        fn record(out: &mut Vec<u8>, tag: u8, path: &[u8], numbers: &[u32]) {
            out.push(tag);
            out.extend_from_slice(&(path.len() as u32).to_le_bytes());
            out.extend_from_slice(path);
            for number in numbers {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let mut out = MAGIC.to_vec();
        for (path, (uid, gid, mode)) in &self.owners {
            record(&mut out, b'o', path, &[*uid, *gid, *mode]);
        }
        for (path, value) in &self.capabilities {
            record(&mut out, b'c', path, &[value.len() as u32]);
            out.extend_from_slice(value);
        }
        for (path, numbers) in &self.devices {
            record(&mut out, b'd', path, numbers);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Ledger, &'static str> {
        struct Rest<'a>(&'a [u8]);
        impl<'a> Rest<'a> {
            fn bytes(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
                let (head, tail) = self.0.split_at_checked(count).ok_or("its list of owners is cut off")?;
                self.0 = tail;
                Ok(head)
            }
            fn number(&mut self) -> Result<u32, &'static str> {
                let bytes = self.bytes(4)?;
                Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
        }
        let mut rest = Rest(bytes.strip_prefix(MAGIC).ok_or("its list of owners is of another version")?);
        let mut ledger = Ledger::default();
        while !rest.0.is_empty() {
            let tag = rest.bytes(1)?[0];
            let length = rest.number()? as usize;
            let path = rest.bytes(length)?.to_vec();
            match tag {
                b'o' => {
                    ledger.owners.insert(path, (rest.number()?, rest.number()?, rest.number()?));
                }
                b'c' => {
                    let length = rest.number()? as usize;
                    ledger.capabilities.insert(path, rest.bytes(length)?.to_vec());
                }
                b'd' => {
                    let mut numbers = [0; 5];
                    for number in &mut numbers {
                        *number = rest.number()?;
                    }
                    ledger.devices.insert(path, numbers);
                }
                _ => return Err("its list of owners has a record that isn't known"),
            }
        }
        Ok(ledger)
    }

    pub(crate) fn load(layer: &Path) -> Result<Option<Ledger>> {
        let path = layer.join("ownership");
        match fs::read(&path) {
            Ok(bytes) => match Ledger::decode(&bytes) {
                Ok(ledger) => Ok(Some(ledger)),
                Err(what) => Err(Error::Store { store: layer.to_owned(), what: what.into() }),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }
}

/// What is left to be done for an unpacked layer: `None` when there is nothing.
///
/// `layer` is the directory that *contains* `fs`, as in `layers/sha256/<hex>`: the parent of what
/// [`LayerStore::paths`](crate::LayerStore::paths) returns.
///
/// # Errors
/// [`Error::Io`] when the record can't be read, [`Error::Store`] when it's damaged or of another version.
pub fn read_ownership(layer: &Path) -> Result<Option<Deferred>> {
    let Some(ledger) = Ledger::load(layer)? else {
        return Ok(None);
    };
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    Ok(Some(Deferred {
        owners: ledger
            .owners
            .iter()
            .map(|(name, (uid, gid, mode))| Owner { path: path(name), uid: *uid, gid: *gid, mode: *mode })
            .collect(),
        capabilities: ledger.capabilities.iter().map(|(name, value)| (path(name), value.clone())).collect(),
        devices: ledger
            .devices
            .iter()
            .map(|(name, [mode, uid, gid, major, minor])| Device {
                path: path(name),
                mode: *mode,
                uid: *uid,
                gid: *gid,
                major: *major,
                minor: *minor,
            })
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.owners.insert(b"".to_vec(), (1, 2, 0o755));
        ledger.owners.insert(b"a/\xff\n".to_vec(), (100_000, 4, 0o4755));
        ledger.capabilities.insert(b"bin/ping".to_vec(), vec![1, 0, 0, 2]);
        ledger.devices.insert(b"dev/null".to_vec(), [0o20666, 0, 0, 1, 3]);
        ledger
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_ownership(dir.path()).unwrap(), None);
        fs::write(dir.path().join("ownership"), ledger().encode()).unwrap();
        let deferred = read_ownership(dir.path()).unwrap().unwrap();
        assert_eq!(deferred.owners[1].path.as_os_str().as_bytes(), b"a/\xff\n");
        assert_eq!((deferred.owners[1].uid, deferred.owners[1].gid, deferred.owners[1].mode), (100_000, 4, 0o4755));
        assert_eq!(deferred.capabilities, [(PathBuf::from("bin/ping"), vec![1, 0, 0, 2])]);
        assert_eq!((deferred.devices[0].major, deferred.devices[0].minor), (1, 3));
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_fewer_owners() {
        let bytes = ledger().encode();
        let ends: Vec<usize> = (0..bytes.len()).filter(|end| Ledger::decode(&bytes[..*end]).is_ok()).collect();
        // Only where a record ends; the marker `complete` guards those.
        assert_eq!(ends.len(), 4);
        assert!(Ledger::decode(b"coracle-own\x02").is_err());
    }

    #[test]
    fn what_replaces_a_tree_replaces_its_records() {
        let mut ledger = ledger();
        ledger.forget_tree(b"a");
        ledger.forget_tree(b"bin");
        ledger.forget(b"dev/null");
        ledger.forget(b"");
        assert!(ledger.is_empty());
    }
}

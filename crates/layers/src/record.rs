//! What is in an unpacked layer, written down when it's published, so that it can be checked later.
//!
//! ```text
//! files      "coracle-files 2", then a line for each path below `fs`, sorted, and "end <count>"
//!   f 644 0 0 1234 1700000000.0 1a2b3c4d - etc/passwd
//!   │ │   │ │ │    │            │        │ └ the path: `%` and what isn't printable ASCII as %XX; empty for `fs` itself
//!   │ │   │ │ │    │            │        └ CRC-32 of the extended attributes, or - where there are none; version 1 hasn't got it
//!   │ │   │ │ │    │            └ CRC-32 of a file's contents, a link's target, a directory's attributes for overlay; or -
//!   │ │   │ │ │    └ mtime, seconds and nanoseconds
//!   │ │   │ │ └ bytes of a file; the number of a device; else 0
//!   │ mode, owner, group as they are on disk
//!   └ f file, d directory, l symbolic link, c and b devices (c 0 is a whiteout), p FIFO
//! ```
//!
//! The unpacker knows what it makes and writes most lines without a look at the disk; where a file system or an entry is unusual (modes with
//! set-user-id, attributes, fractions of seconds), it looks. A walk through what was unpacked would take a tenth of a pull.
//!
//! The checksum finds what disks, cut power and careless hands do, and costs nothing while a layer is unpacked. It's no protection
//! from who may write to the store: that is the owner alone. Of attributes those count that an image brings: not overlay's own, not those
//! that belong to this machine (`security.*`), and capabilities only where they are set while a layer is unpacked.
//!
//! Changing this changes the format on disk; raise the version.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CStr;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::Crc;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result, show};
use crate::ownership::Ownership;
use crate::unpack::Options;
use crate::whiteout::{Flavour, is_overlay_attribute};

/// The file's name, beside `fs`.
pub(crate) const NAME: &str = "files";
const FIRST: &str = "coracle-files 2";
/// Without attributes.
const BEFORE: &str = "coracle-files 1";

/// A file as it was, or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: (i64, u64),
    sum: Option<u32>,
    /// Of the extended attributes, 0 without any; none where nobody knows.
    attributes: Option<u32>,
}

impl Line {
    /// What is on disk; `sum` is what the head of this file says of its kind.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    pub(crate) fn of(stat: &Stat, sum: Option<u32>) -> Line {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (kind, size) = match kind {
            FileType::RegularFile => ('f', stat.st_size as u64),
            FileType::Directory => ('d', 0),
            FileType::Symlink => ('l', 0),
            FileType::CharacterDevice => ('c', stat.st_rdev as u64),
            FileType::BlockDevice => ('b', stat.st_rdev as u64),
            FileType::Fifo => ('p', 0),
            _ => ('s', 0),
        };
        Line {
            kind,
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            size,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            sum,
            attributes: Some(0),
        }
    }

    /// The same, of a file with extended attributes.
    pub(crate) fn with_attributes(self, attributes: Option<u32>) -> Line {
        Line { attributes, ..self }
    }

    /// A regular file that is known without a look.
    pub(crate) fn file(mode: u32, owner: (u32, u32), size: u64, seconds: i64, sum: Option<u32>) -> Line {
        Line { kind: 'f', mode, owner, size, mtime: (seconds, 0), sum, attributes: Some(0) }
    }
}

/// What is in a directory, by path. What replaces a file replaces its line.
#[derive(Debug, Default)]
pub(crate) struct Record(BTreeMap<Vec<u8>, Line>);

impl Record {
    /// By a walk through the directory, in which every file is read.
    pub(crate) fn read(fs: &Path, kinds: Kinds) -> Result<Record> {
        Record::walked(fs, kinds, true)
    }

    /// The same without a look into the files.
    pub(crate) fn outline(fs: &Path, kinds: Kinds) -> Result<Record> {
        Record::walked(fs, kinds, false)
    }

    fn walked(fs: &Path, kinds: Kinds, contents: bool) -> Result<Record> {
        let mut record = Record::default();
        walk(fs, kinds, &mut |path, mut line, file| {
            if contents && line.kind == 'f' {
                line.sum = file.sum().map_err(|errno| Error::io("read", show(path), errno))?;
            }
            record.set(path.to_vec(), line);
            Ok(())
        })?;
        Ok(record)
    }

    pub(crate) fn set(&mut self, path: Vec<u8>, line: Line) {
        self.0.insert(path, line);
    }

    /// What was at a path is gone, with all below it.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        self.0.remove(path);
        let below = [path, b"/"].concat();
        let gone: Vec<Vec<u8>> =
            self.0.range(below.clone()..).map(|(path, _)| path).take_while(|path| path.starts_with(&below)).cloned().collect();
        for path in gone {
            self.0.remove(&path);
        }
    }

    /// A second name of a file; false where the first isn't known.
    pub(crate) fn link(&mut self, from: &[u8], to: &[u8]) -> bool {
        match self.0.get(from).cloned() {
            Some(line) => {
                self.set(to.to_vec(), line);
                true
            }
            None => false,
        }
    }

    pub(crate) fn write(&self, mut to: impl io::Write) -> io::Result<()> {
        writeln!(to, "{FIRST}")?;
        let mut text = Vec::new();
        for (path, Line { kind, mode, owner: (uid, gid), size, mtime: (seconds, nanoseconds), sum, attributes }) in &self.0 {
            text.clear();
            write!(text, "{kind} {mode:o} {uid} {gid} {size} {seconds}.{nanoseconds} ")?;
            match sum {
                Some(sum) => write!(text, "{sum:08x} ")?,
                None => write!(text, "- ")?,
            }
            match attributes {
                Some(0) => write!(text, "- ")?,
                Some(attributes) => write!(text, "{attributes:08x} ")?,
                None => write!(text, "? ")?,
            }
            encode(path, &mut text);
            text.push(b'\n');
            to.write_all(&text)?;
        }
        writeln!(to, "end {}", self.0.len())?;
        to.flush()
    }
}

/// What comparing a layer with its record brought.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// How many paths were compared.
    pub(crate) files: u64,
    /// How many of them this user may not read.
    pub(crate) unread: u64,
    /// Paths relative to `fs`, and what is wrong with each.
    pub(crate) faults: Vec<(Vec<u8>, String)>,
}

/// Compares a directory with its record. Owners aren't looked at unless `owners`, nor are the modes of paths in `given`: those were
/// given away after they were recorded.
pub(crate) fn compare(fs: &Path, record: &[u8], kinds: Kinds, owners: bool, given: &HashSet<Vec<u8>>) -> Result<Compared> {
    let Some(mut expected) = parse(record) else {
        return Ok(Compared { faults: vec![(Vec::new(), "has a damaged record".into())], ..Compared::default() });
    };
    let mut compared = Compared::default();
    // What is below a directory that can't be read isn't missing.
    let mut closed: Vec<Vec<u8>> = Vec::new();
    walk(fs, kinds, &mut |path, found, file| {
        compared.files += 1;
        let mut fault = |what: String| compared.faults.push((path.to_vec(), what));
        let Some(line) = expected.remove(path) else {
            fault("doesn't belong to the layer".into());
            return Ok(());
        };
        if found.kind != line.kind {
            fault(format!("is {} and was {}", word(found.kind), word(line.kind)));
            return Ok(());
        }
        if found.size != line.size {
            fault(match line.kind {
                'f' => format!("has {} bytes and had {}", found.size, line.size),
                _ => "is another device".into(),
            });
            return Ok(());
        }
        if found.mode != line.mode && !given.contains(path) {
            fault(format!("has mode {:o} and had {:o}", found.mode, line.mode));
        }
        if owners && found.owner != line.owner {
            fault(format!("belongs to {}:{} and belonged to {}:{}", found.owner.0, found.owner.1, line.owner.0, line.owner.1));
        }
        if found.mtime != line.mtime {
            fault("was changed since".into());
        }
        if found.attributes.is_some() && line.attributes.is_some() && found.attributes != line.attributes {
            fault("has other extended attributes".into());
        }
        match line.kind {
            'f' if line.sum.is_some() => match file.sum() {
                Ok(sum) if sum == line.sum => {}
                Ok(_) => fault("has other contents".into()),
                Err(Errno::ACCESS | Errno::PERM) => compared.unread += 1,
                Err(errno) => fault(format!("can't be read: {}", io::Error::from(errno))),
            },
            'l' if found.sum != line.sum => fault("leads somewhere else".into()),
            'd' if file.closed => {
                compared.unread += 1;
                closed.push([path, b"/"].concat());
            }
            'd' if found.sum != line.sum => fault("has other attributes for overlay".into()),
            _ => {}
        }
        Ok(())
    })?;
    let hidden = |path: &[u8]| closed.iter().any(|directory| path.starts_with(directory));
    compared.faults.extend(expected.into_keys().filter(|path| !hidden(path)).map(|path| (path, "is missing".to_owned())));
    Ok(compared)
}

fn word(kind: char) -> &'static str {
    match kind {
        'f' => "a file",
        'd' => "a directory",
        'l' => "a symbolic link",
        'p' => "a FIFO",
        _ => "a device",
    }
}

fn parse(record: &[u8]) -> Option<BTreeMap<Vec<u8>, Line>> {
    let text = std::str::from_utf8(record).ok()?;
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let counted = match lines.next()? {
        FIRST => true,
        BEFORE => false,
        _ => return None,
    };
    let mut expected = BTreeMap::new();
    for line in lines.by_ref() {
        if let Some(count) = line.strip_prefix("end ") {
            return (count.parse() == Ok(expected.len()) && lines.next().is_none()).then_some(expected);
        }
        let mut words = line.splitn(if counted { 9 } else { 8 }, ' ');
        let kind = words.next()?.chars().next()?;
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let owner = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let size = words.next()?.parse().ok()?;
        let (seconds, nanoseconds) = words.next()?.split_once('.')?;
        let mtime = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
        let sum = match words.next()? {
            "-" => None,
            sum => Some(u32::from_str_radix(sum, 16).ok()?),
        };
        let attributes = match if counted { words.next()? } else { "?" } {
            "?" => None,
            "-" => Some(0),
            sum => Some(u32::from_str_radix(sum, 16).ok()?),
        };
        let path = crate::store::decoded(words.next()?)?;
        let path = path.as_os_str().as_bytes().to_vec();
        expected.insert(path, Line { kind, mode, owner, size, mtime, sum, attributes });
    }
    None
}

/// A file that the walk came to.
struct Visited<'a> {
    parent: &'a OwnedFd,
    name: &'a CStr,
    /// A directory that can't be read.
    closed: bool,
}

impl Visited<'_> {
    /// The checksum of a regular file's contents.
    fn sum(&self) -> rustix::io::Result<Option<u32>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOATIME;
        let opened = match rustix::fs::openat(self.parent, self.name, flags, Mode::empty()) {
            // Only the owner may leave the time of access alone.
            Err(Errno::PERM) => rustix::fs::openat(self.parent, self.name, flags.difference(OFlags::NOATIME), Mode::empty()),
            opened => opened,
        };
        let mut file = std::fs::File::from(opened?);
        let mut crc = Crc::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Some(crc.sum())),
                Ok(n) => crc.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
    }
}

/// Appends a path as text: `%` and bytes that aren't printable ASCII become `%XX`.
fn encode(path: &[u8], text: &mut Vec<u8>) {
    for byte in path {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(*byte),
            _ => drop(write!(text, "%{byte:02x}")),
        }
    }
}

type Visit<'a> = dyn FnMut(&[u8], Line, &Visited<'_>) -> Result<()> + 'a;

/// Visits a directory and all in it, each directory before what is in it, names sorted.
fn walk(fs: &Path, kinds: Kinds, visit: &mut Visit<'_>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fail = |errno| Error::io("read", fs, errno);
    let root = rustix::fs::open(fs, flags, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&root).map_err(fail)?;
    let line = Line::of(&stat, Some(attributes(&root, kinds.flavour))).with_attributes(kinds.sum(&root, b""));
    visit(b"", line, &Visited { parent: &root, name: c".", closed: false })?;
    let listing = Dir::read_from(&root).map_err(fail)?;
    directory(&root, listing, &mut Vec::new(), kinds, visit)
}

fn directory(at: &OwnedFd, listing: Dir, path: &mut Vec<u8>, kinds: Kinds, visit: &mut Visit<'_>) -> Result<()> {
    let fail = |path: &[u8], errno: Errno| Error::io("read", show(path), errno);
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|errno| fail(path, errno))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    let length = path.len();
    for name in names {
        path.truncate(length);
        if length > 0 {
            path.push(b'/');
        }
        path.extend(name.to_bytes());
        let stat = rustix::fs::statat(at, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| fail(path, errno))?;
        let mut visited = Visited { parent: at, name: &name, closed: false };
        let sum = kinds.sum(at, name.to_bytes());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                // One may be opened and not listed: for a listing it's entered.
                let opened = rustix::fs::openat(at, &*name, flags, Mode::empty());
                match opened.and_then(|child| Ok((Dir::read_from(&child)?, child))) {
                    Ok((listing, child)) => {
                        visit(path, Line::of(&stat, Some(attributes(&child, kinds.flavour))).with_attributes(sum), &visited)?;
                        directory(&child, listing, path, kinds, visit)?;
                    }
                    Err(Errno::ACCESS) => {
                        visited.closed = true;
                        visit(path, Line::of(&stat, None).with_attributes(sum), &visited)?;
                    }
                    Err(errno) => return Err(fail(path, errno)),
                }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(at, &*name, Vec::new()).map_err(|errno| fail(path, errno))?;
                visit(path, Line::of(&stat, Some(crc(target.as_bytes()))).with_attributes(sum), &visited)?;
            }
            _ => visit(path, Line::of(&stat, None).with_attributes(sum), &visited)?,
        }
    }
    path.truncate(length);
    Ok(())
}

/// Which extended attributes are an image's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kinds {
    pub(crate) flavour: Flavour,
    /// Whether capabilities are set while a layer is unpacked, and not later.
    pub(crate) capabilities: bool,
}

impl Kinds {
    pub(crate) fn of(options: &Options) -> Kinds {
        Kinds { flavour: options.flavour, capabilities: options.ownership == Ownership::Keep }
    }

    fn count(self, name: &[u8]) -> bool {
        match name {
            b"security.capability" => self.capabilities,
            name => !name.starts_with(b"security.") && !is_overlay_attribute(name),
        }
    }

    /// The checksum of the attributes of a name in a directory, or of the directory itself where there is no name; 0 where there are none.
    /// None where they can't be read.
    pub(crate) fn sum(self, at: &OwnedFd, name: &[u8]) -> Option<u32> {
        let path = [format!("/proc/self/fd/{}/", at.as_fd().as_raw_fd()).as_bytes(), if name.is_empty() { b"." } else { name }].concat();
        // Most files have none, and few more than fits here.
        let mut small = [0; 256];
        let mut large = Vec::new();
        let listed = match rustix::fs::llistxattr(path.as_slice(), &mut small) {
            Ok(length) => &small[..length],
            Err(Errno::RANGE) => {
                large.resize(65_536, 0);
                let length = rustix::fs::llistxattr(path.as_slice(), &mut large).ok()?;
                &large[..length]
            }
            Err(Errno::OPNOTSUPP) => return Some(0),
            Err(_) => return None,
        };
        let mut names: Vec<&[u8]> = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty() && self.count(name)).collect();
        if names.is_empty() {
            return Some(0);
        }
        names.sort_unstable();
        let (mut crc, mut value) = (Crc::new(), vec![0; 65_536]);
        for name in names {
            let length = rustix::fs::lgetxattr(path.as_slice(), name, &mut value).ok()?;
            for part in [name, b"\0", &(length as u64).to_le_bytes(), &value[..length]] {
                crc.update(part);
            }
        }
        // 0 means none.
        Some(crc.sum().max(1))
    }
}

/// What overlay would see of a directory beside its entries.
fn attributes(directory: &OwnedFd, flavour: Flavour) -> u32 {
    let mut value = [0; 8];
    let direct = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    match rustix::fs::getxattr(direct, flavour.opaque(), &mut value) {
        Ok(length) => crc(&value[..length]),
        Err(_) => 0,
    }
}

/// The checksum of a link's target, or of the attribute that makes a directory opaque.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

//! Writes an archive: tar as POSIX has it (pax), byte for byte determined by what goes into it.
//!
//! A header of ustar says all that fits in it; what doesn't (long names, large numbers, fractions of seconds, attributes) stands in an
//! extended header before it, whose records are sorted. Holes are what is zero, not what the file system left out: where a run of at
//! least [`HOLE`] zero bytes lies in a file, the file is written as GNU tar writes sparse ones (version 1.0), so the same contents make
//! the same bytes on every file system.

use std::io::{self, Write};

/// Zeros in a row, from and to a multiple of [`GRAIN`], that count as a hole. Changing it changes the bytes of layers with such files.
pub(crate) const HOLE: u64 = 1 << 20;
/// Where holes begin and end.
pub(crate) const GRAIN: u64 = 4096;

const BLOCK: u64 = 512;

/// What is in the archive, without its contents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds upwards of that.
    pub(crate) mtime: (i64, u32),
    /// Attributes by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file of so many bytes. With segments (offset, length) only they are in the archive; the rest is holes.
    File {
        size: u64,
        segments: Option<Vec<(u64, u64)>>,
    },
    #[default]
    Directory,
    Symlink(Vec<u8>),
    /// Another name of an entry before.
    Link(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// An archive that grows.
pub(crate) struct Archive<W> {
    to: W,
    /// Bytes of contents that the last header announced and that weren't written yet.
    owed: u64,
    padding: u64,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Archive<W> {
        Archive { to, owed: 0, padding: 0 }
    }

    /// Begins an entry. A file's contents follow by [`contents`](Archive::contents): of a sparse one its segments alone.
    pub(crate) fn entry(&mut self, header: &Header) -> io::Result<()> {
        self.settle()?;
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut name = header.path.clone();
        let (mut flag, mut size, mut target, mut device) = (b'0', 0, &[][..], (0, 0));
        let mut map = Vec::new();
        match &header.kind {
            Kind::File { size: whole, segments: None } => size = *whole,
            Kind::File { size: whole, segments: Some(segments) } => {
                map = sparse_map(segments, *whole);
                size = map.len() as u64 + segments.iter().map(|(_, length)| length).sum::<u64>();
                records.push((b"GNU.sparse.major".to_vec(), b"1".to_vec()));
                records.push((b"GNU.sparse.minor".to_vec(), b"0".to_vec()));
                records.push((b"GNU.sparse.name".to_vec(), name.clone()));
                records.push((b"GNU.sparse.realsize".to_vec(), whole.to_string().into_bytes()));
                // Readers that don't know sparse files show them under a name that tells.
                let cut = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                name = [&name[..cut], b"GNUSparseFile.0/", &name[cut..]].concat();
            }
            Kind::Directory => {
                flag = b'5';
                name.push(b'/');
            }
            Kind::Symlink(to) => (flag, target) = (b'2', to.as_slice()),
            Kind::Link(to) => (flag, target) = (b'1', to.as_slice()),
            Kind::CharacterDevice(major, minor) => (flag, device) = (b'3', (*major, *minor)),
            Kind::BlockDevice(major, minor) => (flag, device) = (b'4', (*major, *minor)),
            Kind::Fifo => flag = b'6',
        }
        if name.is_empty() || name == b"/" {
            name = b"./".to_vec();
        }
        let (seconds, nanoseconds) = header.mtime;
        if nanoseconds != 0 || !(0..0o777_7777_7777).contains(&seconds) {
            records.push((b"mtime".to_vec(), time(seconds, nanoseconds).into_bytes()));
        }
        let number = |records: &mut Vec<_>, key: &str, value: u64, digits: u32| {
            if value >> (3 * digits) == 0 {
                return value;
            }
            records.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
            0
        };
        let uid = number(&mut records, "uid", header.uid.into(), 7);
        let gid = number(&mut records, "gid", header.gid.into(), 7);
        let length = number(&mut records, "size", size, 11);
        if name.len() > 100 {
            records.push((b"path".to_vec(), name.clone()));
        }
        if target.len() > 100 {
            records.push((b"linkpath".to_vec(), target.to_vec()));
        }
        for (key, value) in &header.xattrs {
            records.push(([b"SCHILY.xattr.", key.as_slice()].concat(), value.clone()));
        }
        if !records.is_empty() {
            records.sort();
            let text: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            let mut extended = Fields::new(b"./PaxHeaders", b'x');
            extended.octal(100, 8, 0o644).octal(108, 8, 0).octal(116, 8, 0).octal(124, 12, text.len() as u64).octal(136, 12, 0);
            self.to.write_all(&extended.finish())?;
            self.to.write_all(&text)?;
            self.zeros(padding(text.len() as u64))?;
        }
        let mut fields = Fields::new(&name[..name.len().min(100)], flag);
        fields.octal(100, 8, u64::from(header.mode & 0o7777)).octal(108, 8, uid).octal(116, 8, gid).octal(124, 12, length);
        fields.octal(136, 12, u64::try_from(seconds).unwrap_or(0).min(0o777_7777_7777));
        fields.bytes(157, &target[..target.len().min(100)]);
        fields.octal(329, 8, u64::from(device.0) & 0o777_7777).octal(337, 8, u64::from(device.1) & 0o777_7777);
        self.to.write_all(&fields.finish())?;
        self.to.write_all(&map)?;
        self.owed = size - map.len() as u64;
        self.padding = padding(size);
        Ok(())
    }

    /// The next bytes of the entry's contents, never more than were announced.
    pub(crate) fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        let taken = usize::try_from(self.owed).unwrap_or(usize::MAX).min(bytes.len());
        self.to.write_all(&bytes[..taken])?;
        self.owed -= taken as u64;
        Ok(())
    }

    /// Fills up what an entry promised: a file that somebody shortened while it was read stays as long as it was announced.
    fn settle(&mut self) -> io::Result<()> {
        let owed = std::mem::take(&mut self.owed) + std::mem::take(&mut self.padding);
        self.zeros(owed)
    }

    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        static ZEROS: [u8; 8192] = [0; 8192];
        while count > 0 {
            let now = count.min(ZEROS.len() as u64);
            self.to.write_all(&ZEROS[..usize::try_from(now).unwrap_or(0)])?;
            count -= now;
        }
        Ok(())
    }

    /// The archive's end.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.settle()?;
        self.zeros(2 * BLOCK)?;
        Ok(self.to)
    }
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(BLOCK) - length
}

/// The map of a sparse file, which begins its contents.
fn sparse_map(segments: &[(u64, u64)], size: u64) -> Vec<u8> {
    // One of no length says where the file ends, for those that end in a hole.
    let last = segments.last().is_none_or(|(offset, length)| offset + length < size);
    let end = last.then_some((size, 0));
    let mut map = format!("{}\n", segments.len() + usize::from(last)).into_bytes();
    for (offset, length) in segments.iter().copied().chain(end) {
        map.extend(format!("{offset}\n{length}\n").into_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    map
}

fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    // Before 1970 the fraction counts away from zero, and a file's counts upwards.
    let (sign, whole, fraction) = match seconds {
        0.. => ("", seconds.unsigned_abs(), nanoseconds),
        _ => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

/// A record of an extended header: its own length counts into itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// A header of ustar being filled in.
struct Fields([u8; 512]);

impl Fields {
    fn new(name: &[u8], flag: u8) -> Fields {
        let mut fields = Fields([0; 512]);
        fields.bytes(0, name).bytes(257, b"ustar\x0000").bytes(148, b"        ");
        fields.0[156] = flag;
        fields
    }

    fn bytes(&mut self, at: usize, bytes: &[u8]) -> &mut Fields {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn octal(&mut self, at: usize, width: usize, value: u64) -> &mut Fields {
        self.bytes(at, format!("{value:0digits$o}\0", digits = width - 1).as_bytes())
    }

    fn finish(mut self) -> [u8; 512] {
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.bytes(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// Finds out which parts of a file aren't holes: `None` where it has none. `data` are the parts that may hold something, in order.
pub(crate) struct Holes {
    /// The part that is being built, and those before it.
    segments: Vec<(u64, u64)>,
    end: u64,
    longest: u64,
}

impl Holes {
    pub(crate) fn new() -> Holes {
        Holes { segments: Vec::new(), end: 0, longest: 0 }
    }

    /// Bytes at an offset that is a multiple of [`GRAIN`]; offsets only grow.
    pub(crate) fn look(&mut self, mut offset: u64, bytes: &[u8]) {
        for grain in bytes.chunks(GRAIN as usize) {
            if grain.iter().any(|byte| *byte != 0) {
                self.data(offset, grain.len() as u64);
            }
            offset += grain.len() as u64;
        }
    }

    fn data(&mut self, offset: u64, length: u64) {
        let gap = offset - self.end;
        match self.segments.last_mut() {
            Some((_, last)) if gap < HOLE => *last += gap + length,
            None if gap < HOLE => self.segments.push((0, offset + length)),
            _ => {
                self.longest = self.longest.max(gap);
                self.segments.push((offset, length));
            }
        }
        self.end = offset + length;
    }

    /// The segments of a file of so many bytes.
    pub(crate) fn finish(mut self, size: u64) -> Option<Vec<(u64, u64)>> {
        let tail = size.saturating_sub(self.end);
        if tail < HOLE {
            match self.segments.last_mut() {
                Some((_, last)) => *last += tail,
                None if size > 0 => self.segments.push((0, size)),
                None => {}
            }
        } else {
            self.longest = self.longest.max(tail);
        }
        (self.longest >= HOLE).then_some(self.segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_pax_has_them() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (12, 34, "12.000000034"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 250_000_000, "-1.75"),
        ] {
            assert_eq!(time(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn holes_are_zeros_and_not_what_a_file_system_left_out() {
        let mib = 1 << 20;
        let at = |parts: &[(u64, u64)], size: u64| {
            let mut holes = Holes::new();
            for (offset, length) in parts {
                holes.look(*offset, &vec![1; *length as usize]);
            }
            holes.finish(size)
        };
        assert_eq!(at(&[], 0), None);
        assert_eq!(at(&[], mib - 1), None);
        assert_eq!(at(&[], mib), Some(vec![]));
        assert_eq!(at(&[(0, 10)], mib), None);
        assert_eq!(at(&[(0, 4096)], mib + 4096), Some(vec![(0, 4096)]));
        assert_eq!(at(&[(8192, 4096)], 3 * mib), Some(vec![(0, 12_288)]));
        assert_eq!(at(&[(2 * mib, 5)], 2 * mib + 5), Some(vec![(2 * mib, 5)]));
        assert_eq!(at(&[(0, 4096), (mib, 4096), (4 * mib, 4096)], 4 * mib + 4096), Some(vec![(0, mib + 4096), (4 * mib, 4096)]));
    }
}

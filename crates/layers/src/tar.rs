//! A strict, streaming reader of tar archives: v7, ustar, star, PAX and GNU, sparse files included.
//!
//! It's ours, because what a layer says must be read in one way only: a reader that guesses differently from the one that scanned the
//! image lets entries be smuggled in (CVE-2025-62518, CVE-2026-33055). What isn't understood is an error that names the layer, the
//! entry and the offset; nothing is skipped silently. Where readers disagree, Go's `archive/tar` (which Docker and containerd use) is
//! followed, or the archive is refused:
//!
//! - a PAX `size` always wins over the header's, and belongs to the next file, not to a GNU long name between them;
//! - a link, directory, device or FIFO has no data, whatever its size field says;
//! - of two extended headers or two long names before one entry the last one alone counts, and one that is followed by the end of the
//!   archive doesn't count;
//! - a PAX `path` and a different GNU long name for one entry are refused;
//! - a directory of GNU's incremental archives (`D`) is a directory, and its list of names is passed over;
//! - an owner of 4294967295, which `chown(2)` takes for "leave it", is uid 0, and is named in [`Entry::unread`];
//! - `path`, `linkpath`, `size` and sparse maps in a *global* header are refused;
//! - after the first two zero blocks nothing counts (but it's still hashed).

use std::borrow::Cow;
use std::io::BufRead;

use crate::error::{Error, Result, show};
use crate::limits::Limits;

const BLOCK: usize = 512;

/// A file system object that an archive describes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The name as written: not yet checked for `..` and the like.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky: at most `0o7777`.
    pub mode: u32,
    /// The owner. Never 4294967295, which `chown(2)` takes for "leave it": that is 0, and is named in `unread`.
    pub uid: u32,
    /// The group. Never 4294967295: that is 0, as for the owner.
    pub gid: u32,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last access, where the archive has it.
    pub atime: Option<Timestamp>,
    /// The length of a file in bytes, holes included; 0 for everything else.
    pub size: u64,
    /// Extended attributes, by full name (`user.mime_type`); each name once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Metadata that this reader doesn't carry: keys of extended header records (ACLs as text, file flags), and owners that can't be.
    pub unread: Vec<String>,
    /// Where its header begins in the (inflated) archive, in bytes.
    pub offset: u64,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file; [`Reader::data`] has its contents.
    File,
    /// Another name of the file at this path of the archive.
    Hardlink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A character device, major and minor number.
    CharDevice(u32, u32),
    /// A block device, major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// GNU's name for the whole archive; not a file system object.
    VolumeLabel,
}

/// A point in time: seconds since 1970 (negative before), and nanoseconds (0 to 999,999,999) after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds to add.
    pub nanoseconds: u32,
}

/// A piece of a file's contents.
#[derive(Debug)]
#[non_exhaustive]
pub struct Data<'a> {
    /// Where in the file it belongs, in bytes. What no piece covers is a hole.
    pub offset: u64,
    /// The bytes; never empty.
    pub bytes: &'a [u8],
}

/// Reads an archive front to back in bounded memory.
///
/// ```
/// use coracle_layers::{Limits, tar};
///
/// let mut builder = ::tar::Builder::new(Vec::new());
/// let mut header = ::tar::Header::new_gnu();
/// header.set_size(5);
/// builder.append_data(&mut header, "greeting", &b"hello"[..]).unwrap();
/// let archive = builder.into_inner().unwrap();
///
/// let mut reader = tar::Reader::new(&archive[..], "example", Limits::default());
/// let entry = reader.next_entry()?.unwrap();
/// assert_eq!((entry.path.as_slice(), entry.size), (&b"greeting"[..], 5));
/// assert_eq!(reader.data()?.unwrap().bytes, b"hello");
/// assert!(reader.next_entry()?.is_none());
/// # Ok::<(), coracle_layers::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Reader<R> {
    source: R,
    /// Bytes of `source`'s buffer that the last piece of data lent out.
    lent: usize,
    name: String,
    limits: Limits,
    offset: u64,
    entries: u64,
    total: u64,
    globals: Records,
    current: Option<Vec<u8>>,
    /// Bytes of the current entry's data that weren't read yet, and of the padding after it.
    remaining: u64,
    padding: u64,
    position: u64,
    sparse: Option<Sparse>,
    ended: bool,
}

#[derive(Debug)]
struct Sparse {
    segments: Vec<(u64, u64)>,
    next: usize,
    left: u64,
}

impl<R: BufRead> Reader<R> {
    /// A reader of `source`. `name` says in errors which layer it is.
    pub fn new(source: R, name: impl Into<String>, limits: Limits) -> Reader<R> {
        Reader {
            source,
            lent: 0,
            name: name.into(),
            limits,
            offset: 0,
            entries: 0,
            total: 0,
            globals: Records::default(),
            current: None,
            remaining: 0,
            padding: 0,
            position: 0,
            sparse: None,
            ended: false,
        }
    }

    /// The next entry; `None` at the end. Contents of the entry before that weren't read are passed over.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Limit`], and [`Error::Io`] of the source. After an error the reader is of no use.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        self.current = None;
        if self.ended {
            return Ok(None);
        }
        let mut local: Option<Records> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            let start = self.offset;
            let Some(block) = self.header_block()? else {
                self.ended = true;
                return Ok(None);
            };
            let header = Header(&block);
            header.checksum().map_err(|what| self.malformed_at(start, what))?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.limit("entries", self.limits.entries));
            }
            let size = self.field(header.number(124, 12), "size")?;
            let size = u64::try_from(size).map_err(|_| self.malformed("its size is negative"))?;
            match header.kind() {
                b'x' | b'X' => {
                    let bytes = self.extension(size)?;
                    let mut records = Records::default();
                    records.read(&bytes).map_err(|what| self.malformed_at(start, what))?;
                    local = Some(records);
                }
                b'g' => {
                    let bytes = self.extension(size)?;
                    let mut globals = std::mem::take(&mut self.globals);
                    globals.read(&bytes).map_err(|what| self.malformed_at(start, what))?;
                    if globals.describes_one_entry() {
                        return Err(self.malformed_at(start, "a global header sets a path, a size or a sparse map"));
                    }
                    self.globals = globals;
                }
                b'L' => long_name = Some(self.long_name(size)?),
                b'K' => long_link = Some(self.long_name(size)?),
                _ => {
                    let records = match &local {
                        Some(local) => Cow::Owned(self.globals.overridden_by(local)),
                        None => Cow::Owned(self.globals.clone()),
                    };
                    return self.entry(header, start, size, &records, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// The next piece of the current entry's contents; `None` at its end, and for what isn't a file.
    ///
    /// # Errors
    /// As [`next_entry`](Reader::next_entry); an archive that ends within a file is malformed.
    pub fn data(&mut self) -> Result<Option<Data<'_>>> {
        self.return_lent();
        if self.remaining == 0 {
            return Ok(None);
        }
        let mut room = self.remaining;
        if let Some(sparse) = &mut self.sparse {
            while sparse.left == 0 {
                // The sum of the segments was checked to be what remains, so there is one more.
                let Some(&(offset, length)) = sparse.segments.get(sparse.next) else {
                    return Ok(None);
                };
                sparse.next += 1;
                sparse.left = length;
                self.position = offset;
            }
            room = room.min(sparse.left);
        }
        let available = self.filled()?;
        if available == 0 {
            return Err(self.malformed("the archive ends within a file"));
        }
        let take = available.min(usize::try_from(room).unwrap_or(usize::MAX));
        let offset = self.position;
        self.lent = take;
        self.position += take as u64;
        self.remaining -= take as u64;
        self.offset += take as u64;
        if let Some(sparse) = &mut self.sparse {
            sparse.left -= take as u64;
        }
        match self.source.fill_buf() {
            Ok(buffer) => Ok(Some(Data { offset, bytes: &buffer[..take] })),
            Err(source) => Err(Error::read(&self.name, source)),
        }
    }

    /// Reads the source to its end: what follows the archive doesn't count, but belongs to the layer's digest.
    ///
    /// # Errors
    /// [`Error::Io`] of the source.
    pub fn drain(&mut self) -> Result<()> {
        self.return_lent();
        loop {
            match self.filled()? {
                0 => return Ok(()),
                n => self.consume(n),
            }
        }
    }

    /// How many bytes of the archive were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn into_source(self) -> R {
        self.source
    }

    pub(crate) fn malformed(&self, what: impl Into<Cow<'static, str>>) -> Error {
        self.malformed_at(self.offset, what)
    }

    fn malformed_at(&self, offset: u64, what: impl Into<Cow<'static, str>>) -> Error {
        Error::Malformed { layer: self.name.clone(), entry: self.current.as_deref().map(show), offset, what: what.into() }
    }

    fn limit(&self, what: &'static str, limit: u64) -> Error {
        Error::Limit { layer: self.name.clone(), entry: self.current.as_deref().map(show), offset: self.offset, what, limit }
    }

    fn field<T>(&self, value: std::result::Result<T, &'static str>, name: &str) -> Result<T> {
        value.map_err(|why| self.malformed(format!("its {name} {why}")))
    }

    fn entry(
        &mut self,
        header: Header<'_>,
        start: u64,
        header_size: u64,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let short = header.path();
        self.current = Some(long_name.clone().or_else(|| records.path.clone()).unwrap_or_else(|| short.clone()));
        let path = self.one_name(records.path.clone(), long_name, "names")?;
        let link = self.one_name(records.linkpath.clone(), long_link, "link targets")?;
        let mut path = path.unwrap_or(short);
        let link = link.unwrap_or_else(|| header.text(157, 100));

        let size = records.size.unwrap_or(header_size);
        let flag = header.kind();
        let mut kind = match flag {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink(link),
            b'2' => Kind::Symlink(link),
            b'3' | b'4' => {
                let major = self.device(header, 329, "major device number")?;
                let minor = self.device(header, 337, "minor device number")?;
                if flag == b'3' { Kind::CharDevice(major, minor) } else { Kind::BlockDevice(major, minor) }
            }
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'V' => Kind::VolumeLabel,
            other => {
                return Err(self.malformed_at(start, format!("its type {:?} isn't known", char::from(other).to_string())));
            }
        };
        // Before ustar there was no type for directories: a slash at the end said it.
        if kind == Kind::File && path.ends_with(b"/") {
            if size != 0 {
                return Err(self.malformed_at(start, "it's a directory by its name and a file by its contents"));
            }
            kind = Kind::Directory;
        }
        if flag == b'D' {
            self.remaining = size;
            self.padding = padding(size);
            self.skip_data()?;
        }

        let sparse = self.sparse_map(header, flag, records, size, &kind)?;
        if let Some(name) = &records.sparse_name {
            path.clone_from(name);
            self.current = Some(path.clone());
        }
        let mut logical = 0;
        if kind == Kind::File {
            let (packed, real, segments) = match sparse {
                Some((map_bytes, real, segments)) => (size - map_bytes, real, Some(segments)),
                None => (size, size, None),
            };
            self.total = self.total.saturating_add(packed);
            if self.total > self.limits.total_bytes {
                return Err(self.limit("bytes of contents", self.limits.total_bytes));
            }
            self.remaining = packed;
            // The map of a sparse file is padded by itself, so the padding of the data is that of what remains.
            self.padding = padding(packed);
            self.position = 0;
            self.sparse = segments.map(|segments| Sparse { segments, next: 0, left: 0 });
            logical = real;
            if logical > self.limits.file_bytes {
                return Err(self.limit("bytes in one file", self.limits.file_bytes));
            }
        }
        let mtime = match records.mtime {
            Some(mtime) => mtime,
            None => Timestamp { seconds: self.field(header.number(136, 12), "time")?, nanoseconds: 0 },
        };
        let mode = self.field(header.number(100, 8), "mode")?;
        let uid = match records.uid {
            Some(uid) => uid,
            None => self.field(header.number(108, 8), "owner")?,
        };
        let gid = match records.gid {
            Some(gid) => gid,
            None => self.field(header.number(116, 8), "group")?,
        };
        let mut unread = records.unread.clone();
        Ok(Entry {
            path,
            kind,
            mode: (mode & 0o7777) as u32,
            uid: self.id(uid, "owner", &mut unread)?,
            gid: self.id(gid, "group", &mut unread)?,
            mtime,
            atime: records.atime,
            size: logical,
            xattrs: records.xattrs.clone(),
            unread,
            offset: start,
        })
    }

    fn one_name(&self, pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, what: &str) -> Result<Option<Vec<u8>>> {
        match (pax, gnu) {
            (Some(pax), Some(gnu)) if pax != gnu => Err(self.malformed(format!("its PAX and its GNU header give two different {what}"))),
            (pax, gnu) => Ok(pax.or(gnu)),
        }
    }

    fn id(&self, id: i64, what: &str, unread: &mut Vec<String>) -> Result<u32> {
        match u32::try_from(id) {
            // "Don't change" to chown(2), so the file stays root's. GNU tar and Docker do the same, silently.
            Ok(u32::MAX) => {
                unread.push(format!("{what} {id}"));
                Ok(0)
            }
            Ok(id) => Ok(id),
            Err(_) => Err(self.malformed(format!("its {what} {id} is outside 0 to 4294967295"))),
        }
    }

    fn device(&self, header: Header<'_>, at: usize, what: &str) -> Result<u32> {
        let number = self.field(header.number(at, 8), what)?;
        u32::try_from(number).map_err(|_| self.malformed(format!("its {what} {number} is out of range")))
    }

    /// A sparse file's bytes of map before the data, its full length, and its segments of data.
    #[allow(clippy::type_complexity)]
    fn sparse_map(
        &mut self,
        header: Header<'_>,
        flag: u8,
        records: &Records,
        size: u64,
        kind: &Kind,
    ) -> Result<Option<(u64, u64, Vec<(u64, u64)>)>> {
        let map = if flag == b'S' {
            if !header.is_gnu() {
                return Err(self.malformed("it's a GNU sparse file in an archive that isn't GNU's"));
            }
            let real = self.field(header.number(483, 12), "full length")?;
            let mut numbers = Vec::new();
            self.old_sparse(&header.0[386..482], &mut numbers)?;
            let mut more = header.0[482] != 0;
            while more {
                let block = self.block()?.ok_or_else(|| self.malformed("the archive ends within a sparse map"))?;
                self.old_sparse(&block[..504], &mut numbers)?;
                more = block[504] != 0;
            }
            Some((0, real, numbers))
        } else {
            match (records.sparse_major, records.sparse_minor) {
                (Some(1), Some(0)) => {
                    let real = records.sparse_realsize.ok_or_else(|| self.malformed("a sparse file without GNU.sparse.realsize"))?;
                    let (bytes, numbers) = self.inline_map(size)?;
                    Some((bytes, real, numbers))
                }
                (None, None) | (Some(0), Some(0 | 1)) => match &records.sparse_map {
                    Some(numbers) => {
                        let real = records
                            .sparse_size
                            .or(records.sparse_realsize)
                            .ok_or_else(|| self.malformed("a sparse file without GNU.sparse.size"))?;
                        if records.sparse_count.is_some_and(|count| count as usize * 2 != numbers.len()) {
                            return Err(self.malformed("its sparse map has another length than it says"));
                        }
                        Some((0, real, numbers.clone()))
                    }
                    None => None,
                },
                _ => return Err(self.malformed("its version of sparse files isn't known")),
            }
        };
        let Some((bytes, real, numbers)) = map else {
            return Ok(None);
        };
        if *kind != Kind::File {
            return Err(self.malformed("a sparse map on what isn't a file"));
        }
        let bad = |what: &'static str| self.malformed(what);
        let real = u64::try_from(real).map_err(|_| bad("its full length is negative"))?;
        if numbers.len() % 2 != 0 {
            return Err(bad("its sparse map has an odd number of values"));
        }
        let mut segments = Vec::with_capacity(numbers.len() / 2);
        let mut end = 0u64;
        let mut sum = 0u64;
        for pair in numbers.chunks_exact(2) {
            let offset = u64::try_from(pair[0]).map_err(|_| bad("its sparse map has a negative offset"))?;
            let length = u64::try_from(pair[1]).map_err(|_| bad("its sparse map has a negative length"))?;
            if offset < end {
                return Err(bad("the pieces in its sparse map overlap"));
            }
            end = offset.checked_add(length).filter(|end| *end <= real).ok_or_else(|| bad("its sparse map reaches beyond its length"))?;
            sum += length;
            segments.push((offset, length));
        }
        if size.checked_sub(bytes) != Some(sum) {
            return Err(bad("its sparse map and its size disagree"));
        }
        Ok(Some((bytes, real, segments)))
    }

    fn old_sparse(&self, bytes: &[u8], numbers: &mut Vec<i64>) -> Result<()> {
        for pair in bytes.chunks_exact(24) {
            if pair[0] == 0 {
                break;
            }
            numbers.push(self.field(number(&pair[..12]), "sparse map")?);
            numbers.push(self.field(number(&pair[12..]), "sparse map")?);
        }
        self.check_segments(numbers.len())
    }

    fn check_segments(&self, numbers: usize) -> Result<()> {
        if numbers / 2 > self.limits.sparse_segments {
            return Err(self.limit("pieces of a sparse file", self.limits.sparse_segments as u64));
        }
        Ok(())
    }

    /// PAX sparse format 1.0: decimal lines at the start of the data, padded to a block.
    fn inline_map(&mut self, size: u64) -> Result<(u64, Vec<i64>)> {
        let mut bytes = 0u64;
        let mut numbers = Vec::new();
        let mut count = None;
        let mut line = Vec::new();
        loop {
            if bytes + BLOCK as u64 > size {
                return Err(self.malformed("its sparse map is longer than its data"));
            }
            let block = self.block()?.ok_or_else(|| self.malformed("the archive ends within a sparse map"))?;
            bytes += BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(self.malformed("its sparse map isn't made of numbers"));
                    }
                    continue;
                }
                let value = self.field(decimal(&line), "sparse map")?;
                line.clear();
                match count {
                    None => {
                        self.check_segments(usize::try_from(value).unwrap_or(usize::MAX).saturating_mul(2))?;
                        count = Some(usize::try_from(value).map_err(|_| self.malformed("its sparse map is negative"))? * 2);
                    }
                    Some(_) => numbers.push(value),
                }
                if count == Some(numbers.len()) {
                    return Ok((bytes, numbers));
                }
            }
        }
    }

    /// The data of an extended header, whole.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > self.limits.extended_header_bytes {
            return Err(self.limit("bytes of an extended header", self.limits.extended_header_bytes));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let wanted = size as usize - bytes.len();
            let available = self.filled()?.min(wanted);
            if available == 0 {
                return Err(self.malformed("the archive ends within an extended header"));
            }
            let buffer = self.source.fill_buf().map_err(|source| Error::read(&self.name, source))?;
            bytes.extend_from_slice(&buffer[..available]);
            self.consume(available);
        }
        self.skip(padding(size), "the archive ends within an extended header")?;
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.extension(size)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn skip_data(&mut self) -> Result<()> {
        self.return_lent();
        let count = self.remaining;
        self.remaining = 0;
        self.skip(count, "the archive ends within a file")?;
        let count = std::mem::take(&mut self.padding);
        self.skip(count, "the archive ends within the padding of a file")?;
        self.sparse = None;
        Ok(())
    }

    fn skip(&mut self, mut count: u64, what: &'static str) -> Result<()> {
        while count > 0 {
            let available = self.filled()?;
            if available == 0 {
                return Err(self.malformed(what));
            }
            let take = available.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.consume(take);
            count -= take as u64;
        }
        Ok(())
    }

    /// The next header; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let start = self.offset;
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        // Two zero blocks end an archive; some writers leave off the second, and with it everything.
        match self.block()? {
            Some(second) if second.iter().any(|byte| *byte != 0) => {
                Err(self.malformed_at(start, "a single block of zeros stands between two entries"))
            }
            _ => Ok(None),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.filled()?.min(BLOCK - filled);
            if available == 0 {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(self.malformed("the archive ends within a block"));
            }
            let buffer = self.source.fill_buf().map_err(|source| Error::read(&self.name, source))?;
            block[filled..filled + available].copy_from_slice(&buffer[..available]);
            filled += available;
            self.consume(available);
        }
        Ok(Some(block))
    }

    fn filled(&mut self) -> Result<usize> {
        loop {
            match self.source.fill_buf() {
                Ok(buffer) => return Ok(buffer.len()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::read(&self.name, source)),
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.offset += count as u64;
    }

    fn return_lent(&mut self) {
        self.source.consume(std::mem::take(&mut self.lent));
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

#[derive(Clone, Copy)]
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn kind(self) -> u8 {
        self.0[156]
    }

    fn is_gnu(self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    fn text(self, at: usize, length: usize) -> Vec<u8> {
        let field = &self.0[at..at + length];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
        field[..end].to_vec()
    }

    fn path(self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if self.is_gnu() || &self.0[257..262] != b"ustar" {
            // GNU keeps other things there, and v7 nothing.
            return name;
        } else if &self.0[508..512] == b"tar\0" {
            self.text(345, 131)
        } else {
            self.text(345, 155)
        };
        if prefix.is_empty() {
            return name;
        }
        [prefix.as_slice(), b"/", &name].concat()
    }

    fn number(self, at: usize, length: usize) -> std::result::Result<i64, &'static str> {
        number(&self.0[at..at + length])
    }

    fn checksum(self) -> std::result::Result<(), &'static str> {
        let stored = number(&self.0[148..156]).map_err(|_| "its checksum isn't a number: this is no tar header")?;
        let mut unsigned = 8 * i64::from(b' ');
        let mut signed = unsigned;
        for (index, byte) in self.0.iter().enumerate() {
            if !(148..156).contains(&index) {
                unsigned += i64::from(*byte);
                // Old writers summed signed characters.
                signed += i64::from(byte.cast_signed());
            }
        }
        if stored == unsigned || stored == signed { Ok(()) } else { Err("the checksum of its header is wrong") }
    }
}

/// An octal number, or GNU's base 256 for what doesn't fit.
fn number(field: &[u8]) -> std::result::Result<i64, &'static str> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let bits = if index == 0 && !negative { byte & 0x7f } else { *byte };
            // At most 12 bytes: 96 bits fit.
            value = (value << 8) | i128::from(bits);
        }
        return i64::try_from(value).map_err(|_| "doesn't fit into 63 bits");
    }
    let end = field.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(end);
    let mut value = 0i64;
    for byte in &field[start..end] {
        match byte {
            b'0'..=b'7' => value = value * 8 + i64::from(byte - b'0'),
            0 => break,
            _ => return Err("isn't an octal number"),
        }
    }
    Ok(value)
}

fn decimal(text: &[u8]) -> std::result::Result<i64, &'static str> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err("isn't a decimal number");
    }
    text.iter().try_fold(0i64, |value, digit| value.checked_mul(10)?.checked_add(i64::from(digit - b'0'))).ok_or("doesn't fit into 63 bits")
}

fn signed_decimal(text: &[u8]) -> std::result::Result<i64, &'static str> {
    match text.strip_prefix(b"-") {
        Some(digits) => decimal(digits).map(|value| -value),
        None => decimal(text),
    }
}

/// Seconds with an optional fraction, perhaps negative.
fn timestamp(text: &[u8]) -> std::result::Result<Timestamp, &'static str> {
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let negative = whole.starts_with(b"-");
    let mut seconds = signed_decimal(whole)?;
    let mut nanoseconds = 0u32;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("isn't a decimal number");
    }
    for place in 0..9 {
        nanoseconds = nanoseconds * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    }
    if negative && nanoseconds > 0 {
        seconds -= 1;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok(Timestamp { seconds, nanoseconds })
}

/// What PAX records say; fields that no record set are `None`.
#[derive(Debug, Default, Clone)]
struct Records {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime: Option<Timestamp>,
    atime: Option<Timestamp>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    unread: Vec<String>,
    sparse_major: Option<i64>,
    sparse_minor: Option<i64>,
    sparse_name: Option<Vec<u8>>,
    sparse_realsize: Option<i64>,
    sparse_size: Option<i64>,
    sparse_count: Option<i64>,
    sparse_map: Option<Vec<i64>>,
}

impl Records {
    /// Takes the records `"%d key=value\n"` of an extended header.
    fn read(&mut self, mut bytes: &[u8]) -> std::result::Result<(), Cow<'static, str>> {
        // Format 0.0 repeats offset and numbytes, which may not add to what a global header said.
        let mut pairs: Vec<i64> = Vec::new();
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or("an extended header record has no length")?;
            let length = decimal(&bytes[..space]).map_err(|why| format!("the length of an extended header record {why}"))?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > bytes.len() || length < space + 2 {
                return Err("the length of an extended header record is wrong".into());
            }
            let (record, rest) = bytes.split_at(length);
            bytes = rest;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or("an extended header record has no newline at its end")?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or("an extended header record has no `=`")?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.is_empty() || key.contains(&0) {
                return Err("the key of an extended header record is empty or has a NUL".into());
            }
            self.take(key, value, &mut pairs).map_err(|why| format!("the extended header record {} {why}", show(key)))?;
        }
        if !pairs.is_empty() {
            self.sparse_map = Some(pairs);
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8], pairs: &mut Vec<i64>) -> std::result::Result<(), &'static str> {
        // An empty value takes back what a header before it said.
        fn some<T>(
            value: &[u8],
            parse: impl FnOnce(&[u8]) -> std::result::Result<T, &'static str>,
        ) -> std::result::Result<Option<T>, &'static str> {
            if value.is_empty() { Ok(None) } else { parse(value).map(Some) }
        }
        fn name(value: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
            if value.contains(&0) { Err("has a NUL") } else { Ok(value.to_vec()) }
        }
        match key {
            b"path" => self.path = some(value, name)?,
            b"linkpath" => self.linkpath = some(value, name)?,
            b"size" => self.size = some(value, decimal)?.map(i64::cast_unsigned),
            b"uid" => self.uid = some(value, signed_decimal)?,
            b"gid" => self.gid = some(value, signed_decimal)?,
            b"mtime" => self.mtime = some(value, timestamp)?,
            b"atime" => self.atime = some(value, timestamp)?,
            b"GNU.sparse.major" => self.sparse_major = some(value, decimal)?,
            b"GNU.sparse.minor" => self.sparse_minor = some(value, decimal)?,
            b"GNU.sparse.name" => self.sparse_name = some(value, name)?,
            b"GNU.sparse.realsize" => self.sparse_realsize = some(value, decimal)?,
            b"GNU.sparse.size" => self.sparse_size = some(value, decimal)?,
            b"GNU.sparse.numblocks" => self.sparse_count = some(value, decimal)?,
            b"GNU.sparse.offset" => {
                if !pairs.len().is_multiple_of(2) {
                    return Err("doesn't alternate with GNU.sparse.numbytes");
                }
                pairs.push(decimal(value)?);
            }
            b"GNU.sparse.numbytes" => {
                if pairs.len() % 2 != 1 {
                    return Err("doesn't alternate with GNU.sparse.offset");
                }
                pairs.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse_map = some(value, |value| value.split(|byte| *byte == b',').map(decimal).collect())?;
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attribute(attribute.to_vec(), value.to_vec())?;
                } else if let Some(attribute) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    self.attribute(percent_decoded(attribute)?, base64_decoded(value)?)?;
                } else if [&b"SCHILY.acl."[..], b"SCHILY.fflags", b"RHT.security.", b"LIBARCHIVE.symlinktype"]
                    .iter()
                    .any(|prefix| key.starts_with(prefix))
                {
                    self.unread.push(show(key));
                }
                // Anything else (comment, uname, ctime, charset …) is no metadata of a layer, or known by another key too.
            }
        }
        Ok(())
    }

    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) -> std::result::Result<(), &'static str> {
        if name.is_empty() || name.contains(&0) {
            return Err("names an attribute that can't exist");
        }
        // libarchive writes each attribute in both forms.
        self.xattrs.retain(|(other, _)| *other != name);
        self.xattrs.push((name, value));
        Ok(())
    }

    fn describes_one_entry(&self) -> bool {
        self.path.is_some()
            || self.linkpath.is_some()
            || self.size.is_some()
            || self.sparse_major.is_some()
            || self.sparse_minor.is_some()
            || self.sparse_name.is_some()
            || self.sparse_realsize.is_some()
            || self.sparse_size.is_some()
            || self.sparse_count.is_some()
            || self.sparse_map.is_some()
    }

    fn overridden_by(&self, local: &Records) -> Records {
        let mut records = local.clone();
        records.uid = local.uid.or(self.uid);
        records.gid = local.gid.or(self.gid);
        records.mtime = local.mtime.or(self.mtime);
        records.atime = local.atime.or(self.atime);
        for attribute in &self.xattrs {
            if !records.xattrs.iter().any(|(name, _)| *name == attribute.0) {
                records.xattrs.push(attribute.clone());
            }
        }
        records.unread.extend(self.unread.iter().cloned());
        records
    }
}

fn percent_decoded(text: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or("isn't percent-encoded")?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err("isn't percent-encoded");
        }
        out.push(u8::from_str_radix(digits, 16).map_err(|_| "isn't percent-encoded")?);
        rest = &tail[2..];
    }
    Ok(out)
}

fn base64_decoded(text: &[u8]) -> std::result::Result<Vec<u8>, &'static str> {
    let end = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
    if text.len() - end > 2 || text[end..].iter().any(|byte| *byte != b'=') || end % 4 == 1 {
        return Err("isn't base64");
    }
    let mut out = Vec::with_capacity(end / 4 * 3 + 2);
    let mut bits = 0u32;
    let mut have = 0;
    for byte in &text[..end] {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("isn't base64"),
        };
        bits = (bits << 6) | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    Ok(out)
}

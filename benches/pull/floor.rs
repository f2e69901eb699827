//! The floor: what a pull costs a program that does nothing but the work.
//!
//! One connection a layer, HTTP/1.1 by hand; both digests, inflating, the same files with the same metadata, the blob beside them, and
//! one `syncfs(2)`. Two threads: of one layer one receives, hashes and inflates, the other hashes and writes; of several each thread does
//! a whole layer at a time, the largest first. It trusts the archive (GNU tar's, of our own making), resolves no path, takes no lock,
//! and records nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::{Decompress, FlushDecompress, Status};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use sha2::{Digest as _, Sha256};

use crate::bench::Result;

const PIECE: usize = 256 << 10;

/// Pulls layers, `DIGEST=DIFFID` each, into numbered directories: `ADDRESS DIRECTORY keep|drop LAYER…`.
pub(crate) fn main(arguments: &[String]) -> Result {
    let [address, directory, keep, layers @ ..] = arguments else { return Err("ADDRESS DIRECTORY keep|drop LAYER…".into()) };
    rustix::process::umask(Mode::empty());
    let directory = Path::new(directory);
    fs::create_dir(directory)?;
    let pull = |number: usize, layer: &str, alone: bool| {
        let (digest, diff_id) = layer.split_once('=').ok_or("DIGEST=DIFFID")?;
        let blob = (keep == "keep").then(|| directory.join(format!("blob-{number}")));
        one(address, &directory.join(number.to_string()), digest, diff_id, blob, alone)
    };
    match layers {
        [layer] => pull(0, layer, true)?,
        layers => {
            let next = Mutex::new(layers.iter().enumerate());
            let worker = || -> Result {
                loop {
                    let taken = next.lock().map_err(|_| "a thread panicked")?.next();
                    let Some((number, layer)) = taken else { return Ok(()) };
                    pull(number, layer, false)?;
                }
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| worker().map_err(|error| error.to_string()));
                worker()?;
                other.join().map_err(|_| "a thread panicked")??;
                Ok::<(), Box<dyn std::error::Error>>(())
            })?;
        }
    }
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}

/// A layer: received, hashed and inflated here, written by a second thread or, of several layers, here too.
fn one(address: &str, directory: &Path, digest: &str, diff_id: &str, blob: Option<PathBuf>, alone: bool) -> Result {
    let mut blob = blob.map(File::create).transpose()?;
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /v2/debian/blobs/{digest} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut stream = BufReader::with_capacity(PIECE, stream);
    let (mut line, mut length) = (String::new(), 0_u64);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
            _ if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut unpacker = Unpacker::new(directory)?;
    if !alone {
        receive(&mut stream, length, digest, &mut blob, &mut |piece| {
            unpacker.take(&piece)?;
            Ok(piece)
        })?;
        return unpacker.finish(diff_id);
    }
    let (pieces, incoming): (SyncSender<Vec<u8>>, Receiver<Vec<u8>>) = sync_channel(4);
    let (outgoing, empties) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || -> std::result::Result<(), String> {
            for piece in incoming {
                unpacker.take(&piece).map_err(|error| error.to_string())?;
                let _ = outgoing.send(piece);
            }
            unpacker.finish(diff_id).map_err(|error| error.to_string())
        });
        receive(&mut stream, length, digest, &mut blob, &mut |piece| {
            pieces.send(piece).map_err(|_| "the writer ended")?;
            Ok(empties.try_recv().unwrap_or_else(|_| vec![0; PIECE]))
        })?;
        drop(pieces);
        Ok(writer.join().map_err(|_| "a thread panicked")??)
    })
}

fn receive(
    stream: &mut impl BufRead,
    mut length: u64,
    digest: &str,
    blob: &mut Option<File>,
    emit: &mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>>,
) -> Result {
    let mut hash = Sha256::new();
    let mut inflate = Decompress::new_gzip(15);
    let (mut piece, mut filled, mut ended) = (vec![0; PIECE], 0, false);
    while length > 0 {
        let bytes = stream.fill_buf()?;
        if bytes.is_empty() {
            return Err("it ended early".into());
        }
        let count = bytes.len();
        hash.update(bytes);
        if let Some(blob) = blob {
            blob.write_all(bytes)?;
        }
        let mut input = bytes;
        while !ended && (!input.is_empty() || filled == piece.len()) {
            if filled == piece.len() {
                piece = emit(piece)?;
                piece.resize(PIECE, 0);
                filled = 0;
            }
            let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
            ended = inflate.decompress(input, &mut piece[filled..], FlushDecompress::None)? == Status::StreamEnd;
            input = &input[(inflate.total_in() - before_in) as usize..];
            filled += (inflate.total_out() - before_out) as usize;
        }
        stream.consume(count);
        length -= count as u64;
    }
    piece.truncate(filled);
    emit(piece)?;
    check(hash, digest)
}

fn check(hash: Sha256, wanted: &str) -> Result {
    let got: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if wanted.strip_prefix("sha256:") == Some(&got) { Ok(()) } else { Err(format!("{got} isn't {wanted}").into()) }
}

/// What an archive says of a file, until its bytes are there.
#[derive(Default)]
struct Header {
    name: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
}

struct Unpacker {
    hash: Sha256,
    root: OwnedFd,
    /// Descriptors of directories; those of a sorted archive are few at a time.
    open: HashMap<Vec<u8>, OwnedFd>,
    /// Set at the end, the deepest first.
    directories: Vec<Header>,
    /// A header that isn't whole yet, or a long name.
    gathered: Vec<u8>,
    header: Header,
    file: Option<OwnedFd>,
    rest: u64,
    padding: u64,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Unpacker {
    fn new(directory: &Path) -> Result<Unpacker> {
        fs::create_dir(directory)?;
        let root = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Unpacker {
            hash: Sha256::new(),
            root,
            open: HashMap::new(),
            directories: Vec::new(),
            gathered: Vec::with_capacity(512),
            header: Header::default(),
            file: None,
            rest: 0,
            padding: 0,
            long_name: None,
            long_link: None,
        })
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result {
        self.hash.update(bytes);
        while !bytes.is_empty() {
            if self.rest > 0 {
                let now = bytes.len().min(self.rest as usize);
                match &self.file {
                    Some(file) => {
                        let mut left = &bytes[..now];
                        while !left.is_empty() {
                            left = &left[rustix::io::write(file, left)?..];
                        }
                    }
                    None => self.gathered.extend_from_slice(&bytes[..now]),
                }
                bytes = &bytes[now..];
                self.rest -= now as u64;
                if self.rest == 0 {
                    self.end_of_data()?;
                }
                continue;
            }
            if self.padding > 0 {
                let now = bytes.len().min(self.padding as usize);
                bytes = &bytes[now..];
                self.padding -= now as u64;
                continue;
            }
            let now = bytes.len().min(512 - self.gathered.len());
            self.gathered.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.gathered.len() == 512 {
                let block = std::mem::take(&mut self.gathered);
                self.entry(&block)?;
                self.gathered = block;
                self.gathered.clear();
            }
        }
        Ok(())
    }

    fn end_of_data(&mut self) -> Result {
        match self.header.kind {
            kind @ (b'L' | b'K') => {
                let mut name = std::mem::take(&mut self.gathered);
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                *(if kind == b'L' { &mut self.long_name } else { &mut self.long_link }) = Some(name);
            }
            _ => {
                if let Some(file) = self.file.take() {
                    describe(&file, &self.header, true)?;
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, block: &[u8]) -> Result {
        let text = |at: usize, length: usize| {
            let field = &block[at..at + length];
            field[..field.iter().position(|byte| *byte == 0).unwrap_or(length)].to_vec()
        };
        let number = |at: usize, length: usize| {
            block[at..at + length].iter().filter(|b| b.is_ascii_digit()).fold(0_u64, |n, b| n * 8 + u64::from(b - b'0'))
        };
        if block[0] == 0 {
            return Ok(());
        }
        let size = number(124, 12);
        self.header = Header { kind: block[156], ..Header::default() };
        self.rest = size;
        self.padding = size.wrapping_neg() % 512;
        if matches!(block[156], b'L' | b'K') {
            return Ok(());
        }
        let mut name = self.long_name.take().unwrap_or_else(|| text(0, 100));
        if name.last() == Some(&b'/') {
            name.pop();
        }
        self.header = Header {
            name,
            link: self.long_link.take().unwrap_or_else(|| text(157, 100)),
            kind: block[156],
            mode: number(100, 8) as u32,
            owner: (number(108, 8) as u32, number(116, 8) as u32),
            mtime: number(136, 12) as i64,
        };
        let header = std::mem::take(&mut self.header);
        let (parent, base) = match header.name.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&header.name[..slash], &header.name[slash + 1..]),
            None => (&b""[..], &header.name[..]),
        };
        let times = times(&header);
        let owned = header.owner != (0, 0);
        let (uid, gid) = (Some(Uid::from_raw(header.owner.0)), Some(Gid::from_raw(header.owner.1)));
        match header.kind {
            b'5' => {
                rustix::fs::mkdirat(self.directory(parent)?, base, Mode::RWXU)?;
                self.directories.push(header);
                return Ok(());
            }
            b'0' => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(self.directory(parent)?, base, flags, Mode::from_raw_mode(header.mode & 0o777))?;
                if size == 0 {
                    describe(&file, &header, true)?;
                } else {
                    self.file = Some(file);
                }
            }
            b'1' => {
                let (from, name) = match header.link.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) => (&header.link[..slash], &header.link[slash + 1..]),
                    None => (&b""[..], &header.link[..]),
                };
                let from = self.directory(from)?.try_clone()?;
                rustix::fs::linkat(from, name, self.directory(parent)?, base, AtFlags::empty())?;
            }
            b'2' => {
                let directory = self.directory(parent)?;
                rustix::fs::symlinkat(header.link.as_slice(), directory, base)?;
                if owned {
                    rustix::fs::chownat(directory, base, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                rustix::fs::utimensat(directory, base, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            other => return Err(format!("an entry of type {}", char::from(other)).into()),
        }
        self.header = header;
        Ok(())
    }

    fn directory(&mut self, path: &[u8]) -> Result<&OwnedFd> {
        if path.is_empty() {
            return Ok(&self.root);
        }
        if !self.open.contains_key(path) {
            if self.open.len() > 64 {
                self.open.clear();
            }
            let fd = rustix::fs::openat(&self.root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            self.open.insert(path.to_vec(), fd);
        }
        Ok(&self.open[path])
    }

    fn finish(self, diff_id: &str) -> Result {
        for header in self.directories.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(&self.root, header.name.as_slice(), flags, Mode::empty())?;
            describe(&directory, header, false)?;
        }
        check(self.hash, diff_id)
    }
}

fn times(header: &Header) -> Timestamps {
    let time = Timespec { tv_sec: header.mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner, mode and times, as far as they aren't right by birth.
fn describe(file: &OwnedFd, header: &Header, mode_is_right: bool) -> io::Result<()> {
    if header.owner != (0, 0) {
        rustix::fs::fchown(file, Some(Uid::from_raw(header.owner.0)), Some(Gid::from_raw(header.owner.1)))?;
    }
    if !mode_is_right || header.owner != (0, 0) || header.mode & !0o777 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(header.mode & 0o7777))?;
    }
    Ok(rustix::fs::futimens(file, &times(header))?)
}

/// What a tree holds: path, mode, owner, length and time of each file, sorted.
pub(crate) fn listing(directory: &Path) -> Result<Vec<String>> {
    let line = "%P %M %U:%G %l %T@";
    let (directories, others) = (format!("{line}\\n"), format!("{line} %s\\n"));
    let arguments = ["-mindepth", "1", "-type", "d", "-printf", &directories, "-o", "-printf", &others];
    let mut lines: Vec<String> = Vec::new();
    let found = std::process::Command::new("find").arg(directory).args(arguments).output()?;
    for line in BufReader::new(&found.stdout[..]).lines() {
        lines.push(line?);
    }
    lines.sort();
    Ok(lines)
}

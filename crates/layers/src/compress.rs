//! Compresses an archive on many processors, into bytes that don't depend on how many there are.
//!
//! ```text
//! write() ─blocks of a fixed length─▶ threads ─▶ put in order ─▶ the writer below
//! ```
//!
//! Each block is compressed alone. For gzip the blocks are parts of one deflate stream, each ended by a flush to a byte's border, so
//! the result is one member, which every reader takes. For zstd each block is a frame of its own; a file of several frames is a zstd file
//! (RFC 8878, 3.1). The price is a percent or so of length.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Crc, FlushCompress};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), level 6: what every registry and every engine takes.
    #[default]
    Gzip,
    /// zstd (RFC 8878), level 3: smaller, and several times faster; engines since about 2020 take it.
    Zstd,
}

impl Compression {
    /// The media type of a layer that is compressed so (OCI image-spec, layer.md).
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Bytes of a block. Changing one changes the bytes of every layer from then on.
    fn block(self) -> usize {
        match self {
            Compression::None | Compression::Gzip => 1 << 20,
            Compression::Zstd => 4 << 20,
        }
    }
}

/// The level of gzip; changing it changes the bytes of every layer from then on.
const GZIP_LEVEL: u32 = 6;
/// The level of zstd; likewise.
const ZSTD_LEVEL: i32 = 3;

/// Compresses what is written to it, on as many threads as there are processors. The bytes that come out are the same whatever their
/// number. Call [`finish`](Compressor::finish), or the end is missing.
///
/// ```
/// use coracle_layers::{Compression, Compressor};
/// use std::io::Write;
///
/// let mut compressor = Compressor::new(Vec::new(), Compression::Gzip)?;
/// compressor.write_all(b"an archive")?;
/// let bytes = compressor.finish()?;
/// assert_eq!(bytes[..2], [0x1f, 0x8b]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "without finish() the end is missing"]
pub struct Compressor<W: Write> {
    to: W,
    kind: Compression,
    block: Vec<u8>,
    crc: Crc,
    threads: Vec<JoinHandle<()>>,
    jobs: Option<Sender<(u64, Vec<u8>)>>,
    done: Receiver<(u64, io::Result<Vec<u8>>)>,
    /// Blocks that were handed out, and those that were written.
    begun: u64,
    written: u64,
    waiting: BTreeMap<u64, io::Result<Vec<u8>>>,
}

impl<W: Write> Compressor<W> {
    /// A compressor with a thread for each processor.
    ///
    /// # Errors
    /// No thread can be started, or the writer's.
    pub fn new(to: W, kind: Compression) -> io::Result<Compressor<W>> {
        Self::with_threads(to, kind, std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// A compressor with so many threads, at least one. The bytes are the same.
    ///
    /// # Errors
    /// As [`new`](Compressor::new).
    pub fn with_threads(mut to: W, kind: Compression, threads: usize) -> io::Result<Compressor<W>> {
        let (jobs, incoming) = channel::<(u64, Vec<u8>)>();
        let (outgoing, done) = channel();
        let incoming = Arc::new(Mutex::new(incoming));
        let mut handles = Vec::new();
        if kind != Compression::None {
            for _ in 0..threads.max(1) {
                let (incoming, outgoing) = (incoming.clone(), outgoing.clone());
                let work = move || work(kind, &incoming, &outgoing);
                handles.push(std::thread::Builder::new().name("coracle-compress".into()).spawn(work)?);
            }
        }
        if kind == Compression::Gzip {
            // No name, no time, and no word about the system that it was made on.
            to.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        }
        Ok(Compressor {
            to,
            kind,
            block: Vec::with_capacity(kind.block()),
            crc: Crc::new(),
            threads: handles,
            jobs: Some(jobs),
            done,
            begun: 0,
            written: 0,
            waiting: BTreeMap::new(),
        })
    }

    /// Writes what is left and the end; gives back the writer.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> io::Result<W> {
        // Nothing at all is a frame too.
        if !self.block.is_empty() || (self.kind == Compression::Zstd && self.begun == 0) {
            self.hand_out()?;
        }
        self.jobs = None;
        while self.written < self.begun {
            self.take_one()?;
        }
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        if self.kind == Compression::Gzip {
            // An empty last block, then the checksum and the length of what is inside.
            self.to.write_all(&[3, 0])?;
            self.to.write_all(&self.crc.sum().to_le_bytes())?;
            self.to.write_all(&self.crc.amount().to_le_bytes())?;
        }
        self.to.flush()?;
        Ok(self.to)
    }

    fn hand_out(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(self.kind.block()));
        if self.kind == Compression::None {
            return self.to.write_all(&block);
        }
        if self.kind == Compression::Gzip {
            self.crc.update(&block);
        }
        // Memory is bounded by what is under way.
        while self.begun - self.written >= 2 * self.threads.len() as u64 {
            self.take_one()?;
        }
        let lost = || io::Error::other("the threads that compress have gone");
        self.jobs.as_ref().ok_or_else(lost)?.send((self.begun, block)).map_err(|_| lost())?;
        self.begun += 1;
        Ok(())
    }

    /// Waits for one block, and writes those whose turn it is.
    fn take_one(&mut self) -> io::Result<()> {
        let (number, block) = self.done.recv().map_err(|_| io::Error::other("the threads that compress have gone"))?;
        self.waiting.insert(number, block);
        while let Some(block) = self.waiting.remove(&self.written) {
            self.to.write_all(&block?)?;
            self.written += 1;
        }
        Ok(())
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.kind.block() - self.block.len();
        let taken = bytes.len().min(room);
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == self.kind.block() {
            self.hand_out()?;
        }
        Ok(taken)
    }

    /// Does nothing: where blocks end must not depend on it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(kind: Compression, incoming: &Mutex<Receiver<(u64, Vec<u8>)>>, outgoing: &Sender<(u64, io::Result<Vec<u8>>)>) {
    loop {
        let job = incoming.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, block)) = job else { return };
        let packed = match kind {
            Compression::Zstd => zstd::bulk::compress(&block, ZSTD_LEVEL),
            _ => deflate(&block),
        };
        if outgoing.send((number, packed)).is_err() {
            return;
        }
    }
}

/// One part of a deflate stream, ended at a byte's border.
fn deflate(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut compress = Compress::new(flate2::Compression::new(GZIP_LEVEL), false);
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let at = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        compress.compress_vec(&block[at..], &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        // Room that is left says that all of it was flushed.
        if compress.total_in() == block.len() as u64 && out.len() < out.capacity() {
            return Ok(out);
        }
        out.reserve(block.len() / 4 + 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Bytes that compress neither too well nor not at all.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 12_345_u32;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (state >> 24) as u8;
            bytes.extend(std::iter::repeat_n(byte, usize::from(byte & 7) + 1));
        }
        bytes.truncate(length);
        bytes
    }

    fn compressed(bytes: &[u8], kind: Compression, threads: usize, piece: usize) -> Vec<u8> {
        let mut compressor = Compressor::with_threads(Vec::new(), kind, threads).unwrap();
        for piece in bytes.chunks(piece) {
            compressor.write_all(piece).unwrap();
            compressor.flush().unwrap();
        }
        compressor.finish().unwrap()
    }

    #[test]
    fn any_number_of_threads_makes_the_same_bytes_and_readers_take_them() {
        for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9 << 20] {
            let bytes = sample(length);
            for kind in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let one = compressed(&bytes, kind, 1, usize::MAX);
                for (threads, piece) in [(1, 700), (2, 10_000), (8, 1 << 20), (8, 3_000_000)] {
                    assert!(compressed(&bytes, kind, threads, piece) == one, "{length} {kind:?} {threads}");
                }
                let mut again = Vec::new();
                match kind {
                    Compression::None => again = one.clone(),
                    // One member alone: a reader that knows of no second sees all of it.
                    Compression::Gzip => drop(flate2::read::GzDecoder::new(&one[..]).read_to_end(&mut again).unwrap()),
                    _ => drop(zstd::Decoder::new(&one[..]).unwrap().read_to_end(&mut again).unwrap()),
                }
                assert!(again == bytes, "{length} {kind:?}");
                assert!(kind == Compression::None || length < 1 << 20 || one.len() < length * 3 / 4, "{length} {kind:?}: {}", one.len());
            }
        }
    }

    #[test]
    fn a_writer_that_fails_is_told_of() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if bytes.len() > 10 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut compressor = Compressor::with_threads(Full, Compression::Gzip, 2).unwrap();
        let written = compressor.write_all(&sample(20 << 20)).and_then(|()| compressor.finish().map(drop));
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}

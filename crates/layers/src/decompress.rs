//! Inflates a layer as its bytes arrive: gzip, zstd or plain, told apart by the bytes themselves.
//!
//! Media types lie (Docker and Buildah have shipped plain and zstd layers as gzip); the diffID then says whether the result is right.
//! Several gzip members or zstd frames after one another are one layer (pigz, eStargz, zstd:chunked), and so are skippable frames.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::error::{Error, Result};

/// Bytes of a piece of inflated data: it stays in the second-level cache between being inflated, hashed and written.
pub(crate) const PIECE: usize = 256 * 1024;

/// The log2 of the largest zstd window that is taken: 128 MiB, what `zstd` itself takes without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Takes compressed bytes and gives full pieces of inflated ones to a closure, which returns an empty buffer for the next.
pub(crate) struct Inflater {
    layer: String,
    engine: Engine,
    out: Vec<u8>,
    taken: u64,
}

enum Engine {
    /// The first bytes, until there are enough to tell.
    Unknown(Vec<u8>),
    Plain,
    Gzip {
        inflate: Box<Decompress>,
        state: Gzip,
    },
    Zstd {
        decoder: Decoder<'static>,
        within_frame: bool,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Gzip {
    Member,
    Between,
    /// Zeros after the last member, as tapes have them; nothing else may follow.
    Zeros,
}

impl Inflater {
    pub(crate) fn new(layer: &str) -> Inflater {
        Inflater { layer: layer.to_owned(), engine: Engine::Unknown(Vec::new()), out: Vec::with_capacity(PIECE), taken: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8], emit: &mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>>) -> Result<()> {
        if let Engine::Unknown(head) = &mut self.engine {
            head.extend_from_slice(bytes);
            if head.len() < 4 {
                return Ok(());
            }
            let head = std::mem::take(head);
            self.engine = self.recognise(&head)?;
            return self.inflate(&head, emit);
        }
        self.inflate(bytes, emit)
    }

    /// All bytes were given: hands out what is left and checks that nothing is missing.
    pub(crate) fn finish(&mut self, emit: &mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>>) -> Result<()> {
        if let Engine::Unknown(head) = &mut self.engine {
            let head = std::mem::take(head);
            self.engine = Engine::Plain;
            self.inflate(&head, emit)?;
        }
        match &self.engine {
            Engine::Gzip { state: Gzip::Member, .. } => return Err(self.broken("the gzip stream is cut off")),
            Engine::Zstd { within_frame: true, .. } => return Err(self.broken("the zstd stream is cut off")),
            _ => {}
        }
        if !self.out.is_empty() {
            emit(std::mem::take(&mut self.out))?;
        }
        Ok(())
    }

    fn recognise(&self, head: &[u8]) -> Result<Engine> {
        Ok(match head {
            [0x1f, 0x8b, ..] => Engine::Gzip { inflate: Box::new(Decompress::new_gzip(15)), state: Gzip::Member },
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = Decoder::new().map_err(|error| self.broken(error))?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(|error| self.broken(error))?;
                Engine::Zstd { decoder, within_frame: false }
            }
            [b'B', b'Z', b'h', ..] => {
                return Err(self.broken("it's compressed by bzip2; layers are plain, gzip or zstd"));
            }
            [0xfd, b'7', b'z', b'X', ..] => {
                return Err(self.broken("it's compressed by xz; layers are plain, gzip or zstd"));
            }
            _ => Engine::Plain,
        })
    }

    fn broken(&self, what: impl ToString) -> Error {
        Error::Compression { layer: self.layer.clone(), offset: self.taken, what: what.to_string() }
    }

    fn inflate(&mut self, mut input: &[u8], emit: &mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>>) -> Result<()> {
        loop {
            if self.out.len() == self.out.capacity() {
                self.out = emit(std::mem::take(&mut self.out))?;
                debug_assert!(self.out.is_empty() && self.out.capacity() > 0);
            }
            let produced = self.out.len();
            let (consumed, ended) = match &mut self.engine {
                Engine::Unknown(_) | Engine::Plain => {
                    let take = input.len().min(self.out.capacity() - self.out.len());
                    self.out.extend_from_slice(&input[..take]);
                    (take, false)
                }
                Engine::Gzip { inflate, state } => match *state {
                    Gzip::Member => {
                        let before = inflate.total_in();
                        let status = inflate.decompress_vec(input, &mut self.out, FlushDecompress::None);
                        let consumed = (inflate.total_in() - before) as usize;
                        match status {
                            Ok(Status::StreamEnd) => {
                                *state = Gzip::Between;
                                (consumed, true)
                            }
                            Ok(_) => (consumed, false),
                            Err(error) => {
                                let what = error.message().unwrap_or("bad data").to_owned();
                                return Err(self.broken(format!("the gzip stream is damaged: {what}")));
                            }
                        }
                    }
                    Gzip::Between => match input.first() {
                        None => return Ok(()),
                        Some(0) => {
                            *state = Gzip::Zeros;
                            (0, true)
                        }
                        Some(0x1f) => {
                            inflate.reset(true);
                            *state = Gzip::Member;
                            (0, true)
                        }
                        Some(_) => {
                            return Err(self.broken("something else follows the gzip stream"));
                        }
                    },
                    Gzip::Zeros => {
                        if input.iter().any(|byte| *byte != 0) {
                            return Err(self.broken("something else follows the gzip stream"));
                        }
                        (input.len(), false)
                    }
                },
                Engine::Zstd { decoder, within_frame } => {
                    if input.is_empty() && !*within_frame {
                        return Ok(());
                    }
                    let mut source = InBuffer::around(input);
                    let filled = self.out.len();
                    let mut target = OutBuffer::around_pos(&mut self.out, filled);
                    match decoder.run(&mut source, &mut target) {
                        Ok(hint) => *within_frame = hint != 0,
                        Err(error) => {
                            return Err(self.broken(format!("the zstd stream is damaged: {error}")));
                        }
                    }
                    (source.pos(), false)
                }
            };
            self.taken += consumed as u64;
            input = &input[consumed..];
            let full = self.out.len() == self.out.capacity();
            if consumed == 0 && self.out.len() == produced && !ended && !full {
                if input.is_empty() {
                    return Ok(());
                }
                return Err(self.broken("the compressed stream makes no progress"));
            }
            if input.is_empty() && !full && !ended {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn inflate(bytes: &[u8], step: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut inflater = Inflater::new("test");
        let mut emit = |piece: Vec<u8>| {
            all.extend_from_slice(&piece);
            Ok(Vec::with_capacity(1000))
        };
        for part in bytes.chunks(step) {
            inflater.push(part, &mut emit)?;
        }
        inflater.finish(&mut emit)?;
        Ok(all)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder =
            flate2::GzBuilder::new().filename("name").comment("c").extra(vec![1, 2, 3]).write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    fn content() -> Vec<u8> {
        (0..700_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn skippable(bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x52, 0x2a, 0x4d, 0x18];
        frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        frame.extend_from_slice(bytes);
        frame
    }

    #[test]
    fn every_form_inflates_to_the_same_bytes_however_they_are_cut() {
        let content = content();
        let (a, b) = content.split_at(1_234_567);
        let forms = [
            ("plain", content.clone()),
            ("gzip", gzip(&content)),
            ("gzip members", [gzip(a), gzip(b""), gzip(b)].concat()),
            ("gzip and zeros", [gzip(&content), vec![0; 5000]].concat()),
            ("zstd", zstd(&content)),
            ("zstd frames", [zstd(a), zstd(b)].concat()),
            ("zstd and skippable frames", [skippable(b"first"), zstd(a), skippable(b""), zstd(b), skippable(b"last")].concat()),
        ];
        for (name, bytes) in forms {
            for step in [1 << 20, 65_536, 4097, 13] {
                let out = inflate(&bytes, step).unwrap_or_else(|error| panic!("{name} by {step}: {error}"));
                assert!(out == content, "{name} by {step}: {} bytes", out.len());
            }
        }
        for (name, bytes) in [("nothing", vec![]), ("gzip of nothing", gzip(b"")), ("zstd of nothing", zstd(b""))] {
            assert_eq!(inflate(&bytes, 1).unwrap(), b"", "{name}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_anywhere_is_an_error() {
        let content = content();
        for whole in [gzip(&content), zstd(&content), [gzip(b"one"), gzip(b"two")].concat()] {
            let member = gzip(b"one").len();
            let length = whole.len();
            for cut in (4..60.min(length)).chain(length.saturating_sub(40)..length) {
                if cut == member && length < 100 {
                    continue;
                }
                assert!(matches!(inflate(&whole[..cut], 4096), Err(Error::Compression { .. })), "{cut} of {length}");
            }
        }
    }

    #[test]
    fn damage_is_an_error() {
        let content = content();
        let mut crc = gzip(&content);
        let at = crc.len() - 6;
        crc[at] ^= 1;
        let mut length = gzip(&content);
        let at = length.len() - 1;
        length[at] ^= 1;
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(&content).unwrap();
        let mut checked = encoder.finish().unwrap();
        let at = checked.len() - 1;
        checked[at] ^= 1;
        for (name, bytes) in [
            ("gzip CRC", crc),
            ("gzip length", length),
            ("zstd checksum", checked),
            ("garbage after gzip", [gzip(b"x"), b"garbage".to_vec()].concat()),
            ("garbage after zeros", [gzip(b"x"), b"\0\0g".to_vec()].concat()),
            ("garbage after zstd", [zstd(b"x"), b"garbage".to_vec()].concat()),
            ("bzip2", b"BZh91AY".to_vec()),
            ("xz", b"\xfd7zXZ\0".to_vec()),
        ] {
            assert!(matches!(inflate(&bytes, 4096), Err(Error::Compression { .. })), "{name}");
        }
    }

    #[test]
    fn a_zstd_window_beyond_128_mib_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.long_distance_matching(false).unwrap();
        encoder.write_all(b"x").unwrap();
        let bytes = encoder.finish().unwrap();
        assert!(matches!(inflate(&bytes, 4096), Err(Error::Compression { .. })));
    }
}

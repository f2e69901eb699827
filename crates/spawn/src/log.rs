//! What a process said, as its supervisor keeps it: read by its owner, by others, while it runs and afterwards.

use crate::log_file::{self, MAX_PIECE, RECORD, Record, State, flag, kind, places};
use crate::reactor::{FileWatch, Reactor};
use rustix::fs::{FlockOperation, flock};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One of the two streams that a command speaks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// When its first byte came to the supervisor, by the clock of the machine.
    pub time: SystemTime,
    /// What it was said on.
    pub stream: OutputStream,
    /// The line without its newline; at most [`LogLine::MOST`] bytes.
    pub bytes: Vec<u8>,
    /// Whether a newline ended it. Without one it is the last that was said on this stream, or a piece of a longer line, or was cut off
    /// where bytes are missing.
    pub complete: bool,
    /// How many bytes of the log are missing before it: overwritten by newer ones before they were read, or not taken by the disk.
    pub skipped: u64,
    /// Whether bytes may be missing right before it on its stream, so that it may be the rest of a line: the first of each stream where
    /// something was skipped, or where older lines have been overwritten.
    pub cut: bool,
}

impl LogLine {
    /// Bytes of the longest line. A longer one comes in pieces.
    pub const MOST: usize = 64 << 10;

    /// The line as text, with what isn't UTF-8 replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// A log. Holding it keeps it readable, also when its file has been removed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log {
    file: Arc<File>,
    capacity: u64,
}

/// A head is written in one piece, and sometimes read in two.
const TRIES: usize = 1000;

impl Log {
    /// Opens the file of a log, whose directory may go afterwards.
    ///
    /// # Errors
    /// As std's for files; `InvalidData` for what is no log of this version.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?)
    }

    pub(crate) fn of_descriptor(fd: OwnedFd) -> io::Result<Self> {
        Self::of(fd.into())
    }

    fn of(file: File) -> io::Result<Self> {
        let mut head = [0; 24];
        file.read_exact_at(&mut head, 0).or_else(|e| if e.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(e) })?;
        let capacity = log_file::capacity(&head).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no log of version 1"))?;
        Ok(Self { file: Arc::new(file), capacity })
    }

    fn state(&self) -> io::Result<State> {
        let mut bytes = [0; 32];
        for _ in 0..TRIES {
            self.file.read_exact_at(&mut bytes, log_file::STATE_AT)?;
            if let Some(state) = State::from_bytes(&bytes, self.capacity) {
                return Ok(state);
            }
            std::thread::yield_now();
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the log's head is damaged"))
    }

    /// Whether nothing more will come: its supervisor said so, or is gone.
    fn has_ended(&self, state: &State) -> bool {
        // Its supervisor has it locked. Asking takes the lock for a moment.
        state.flags & flag::ENDED != 0
            || (flock(&*self.file, FlockOperation::NonBlockingLockShared).is_ok() && flock(&*self.file, FlockOperation::Unlock).is_ok())
    }

    /// Reads lines from the oldest that is kept.
    pub fn lines(&self) -> LogReader {
        LogReader {
            log: self.clone(),
            position: None,
            last: 0,
            skipped: 0,
            fresh: true,
            cut: [false; 2],
            partial: [None, None],
            ready: VecDeque::new(),
            over: false,
            watch: None,
        }
    }

    /// The last lines, oldest first; what isn't ended by a newline yet counts as a line.
    ///
    /// # Errors
    /// As std's for files.
    pub fn tail(&self, most: usize) -> io::Result<Vec<LogLine>> {
        let mut lines = VecDeque::new();
        let mut reader = self.lines();
        let mut add = |line| {
            lines.push_back(line);
            if lines.len() > most {
                lines.pop_front();
            }
        };
        while let Some(line) = reader.next_now()? {
            add(line);
        }
        reader.take_partial().into_iter().for_each(add);
        Ok(lines.into())
    }

    /// Bytes at a position of the ring, as they lie there now.
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        let mut rest = into;
        for (at, length) in places(position, rest.len(), self.capacity) {
            let (piece, others) = rest.split_at_mut(length);
            self.file.read_exact_at(piece, at)?;
            rest = others;
        }
        Ok(())
    }
}

/// Reads the lines of a [`Log`], in the order in which its supervisor heard them. Belongs to no runtime.
///
/// Lines of the two streams come in the order of their ends.
#[derive(Debug)]
pub struct LogReader {
    log: Log,
    /// Where the next record begins; at first that is the oldest.
    position: Option<u64>,
    /// How far the log is known to reach.
    last: u64,
    skipped: u64,
    /// Whether nothing was read yet.
    fresh: bool,
    /// Of each stream, whether its next line may have lost its beginning.
    cut: [bool; 2],
    partial: [Option<Partial>; 2],
    ready: VecDeque<LogLine>,
    over: bool,
    watch: Option<FileWatch>,
}

#[derive(Debug)]
struct Partial {
    time: SystemTime,
    bytes: Vec<u8>,
    skipped: u64,
    cut: bool,
}

impl LogReader {
    /// The next line that is there whole, without waiting.
    ///
    /// # Errors
    /// As std's for files.
    pub fn next_now(&mut self) -> io::Result<Option<LogLine>> {
        while self.ready.is_empty() {
            if !self.read_record()? {
                return Ok(None);
            }
        }
        Ok(self.ready.pop_front())
    }

    /// What has come of lines that no newline has ended yet, standard output first. A reader that goes on afterwards takes what follows
    /// for a new line.
    pub fn take_partial(&mut self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if let Some(Partial { time, bytes, skipped, cut }) = self.partial[stream as usize].take() {
                lines.push(LogLine { time, stream, bytes, complete: false, skipped, cut });
            }
        }
        if let (None, true) = (lines.first(), self.skipped > 0) {
            let skipped = std::mem::take(&mut self.skipped);
            lines.push(LogLine {
                time: SystemTime::now(),
                stream: OutputStream::Stderr,
                bytes: Vec::new(),
                complete: false,
                skipped,
                cut: true,
            });
        }
        lines
    }

    /// The next line, waited for; `None` when nothing more will come. Cancel-safe: what wasn't returned is returned by the next call.
    ///
    /// # Errors
    /// As std's for files.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<LogLine>>> {
        if let Some(line) = self.next_now()? {
            return Poll::Ready(Ok(Some(line)));
        }
        if !self.over {
            // Asked to be woken first, looked after: so nothing falls between.
            if self.watch.is_none() {
                self.watch = Some(Reactor::get()?.watch_file(&self.log.file)?);
            }
            if let Some(watch) = &self.watch {
                watch.wake_when_changed(cx.waker());
            }
            // The end before the lines: what was said before the end is there when the end is.
            let ended = self.log.has_ended(&self.log.state()?);
            if let Some(line) = self.next_now()? {
                return Poll::Ready(Ok(Some(line)));
            }
            if !ended {
                return Poll::Pending;
            }
            self.over = true;
            self.watch = None;
            let rest = self.take_partial();
            self.ready.extend(rest);
        }
        Poll::Ready(Ok(self.ready.pop_front()))
    }

    /// Takes one record in; false where there is none yet.
    fn read_record(&mut self) -> io::Result<bool> {
        let mut position = match self.position {
            Some(position) if position < self.last => position,
            known => {
                let state = self.log.state()?;
                self.last = state.end;
                let position = known.unwrap_or(state.first);
                if known.is_none() {
                    self.cut = [position > 0; 2];
                }
                self.position = Some(position);
                if position >= state.end {
                    return Ok(false);
                }
                position
            }
        };
        let mut bytes = vec![0; RECORD];
        self.log.read_at(position, &mut bytes)?;
        let record = Record::from_bytes(&bytes, position);
        let mut said = vec![0; record.map_or(0, |record| (record.length as usize).min(MAX_PIECE))];
        self.log.read_at(position + RECORD as u64, &mut said)?;
        // Whether it was still there when it was read.
        let state = self.log.state()?;
        self.last = state.end;
        if state.first > position {
            // Nothing is missing before what is read first.
            if self.fresh {
                self.cut = [true; 2];
            } else {
                self.skip(state.first - position);
            }
            position = state.first;
            self.position = Some(position);
            return Ok(true);
        }
        let Some(record) = record.filter(|record| position + record.whole() <= state.end) else {
            // Damaged: nobody knows where the next one begins.
            self.skip(state.end - position);
            self.position = Some(state.end);
            return Ok(true);
        };
        self.position = Some(position + record.whole());
        self.fresh = false;
        match record.kind {
            kind::STDOUT => self.hear(OutputStream::Stdout, record.time, &said),
            kind::STDERR => self.hear(OutputStream::Stderr, record.time, &said),
            kind::LOST => self.skip(said.first_chunk().map_or(0, |n| u64::from_le_bytes(*n))),
            // A later version's.
            _ => {}
        }
        Ok(true)
    }

    /// Bytes are missing here: what has begun on either stream can't be gone on with.
    fn skip(&mut self, bytes: u64) {
        let partial = std::mem::take(&mut self.partial);
        for (stream, partial) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().zip(partial) {
            if let Some(Partial { time, bytes, skipped, cut }) = partial {
                self.ready.push_back(LogLine { time, stream, bytes, complete: false, skipped, cut });
            }
        }
        self.cut = [true; 2];
        self.skipped = self.skipped.saturating_add(bytes);
    }

    fn hear(&mut self, stream: OutputStream, time: u64, mut said: &[u8]) {
        let time = UNIX_EPOCH + Duration::from_nanos(time);
        while !said.is_empty() {
            let partial = self.partial[stream as usize].get_or_insert_with(|| Partial {
                time,
                bytes: Vec::new(),
                skipped: std::mem::take(&mut self.skipped),
                cut: std::mem::take(&mut self.cut[stream as usize]),
            });
            let room = LogLine::MOST - partial.bytes.len();
            let newline = said.iter().take(room + 1).position(|&b| b == b'\n');
            let taken = newline.unwrap_or(room.min(said.len()));
            partial.bytes.extend_from_slice(&said[..taken]);
            said = &said[taken + usize::from(newline.is_some())..];
            // One that is just full may be ended by the next byte, and isn't a piece then.
            if (newline.is_some() || !said.is_empty())
                && let Some(Partial { time, bytes, skipped, cut }) = self.partial[stream as usize].take()
            {
                self.ready.push_back(LogLine { time, stream, bytes, complete: newline.is_some(), skipped, cut });
            }
        }
    }
}

/// Lines of a log that lies in memory, for fuzzers: reads whatever the bytes are.
pub(crate) fn read_any(file: File) -> Option<usize> {
    let log = Log::of(file).ok()?;
    let mut reader = log.lines();
    let mut count = 0;
    while let Ok(Some(line)) = reader.next_now() {
        assert!(line.bytes.len() <= LogLine::MOST);
        count += 1;
    }
    Some(count + reader.take_partial().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_file::LEAST;
    use std::io::Write as _;

    /// Writes a log as a supervisor does.
    struct Writer {
        file: File,
        state: State,
        capacity: u64,
    }

    impl Writer {
        fn new(directory: &tempfile::TempDir, capacity: u64) -> (Self, Log) {
            let path = directory.path().join("log");
            let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.write_all(&log_file::head(capacity)).unwrap();
            (Self { file, state: State { first: 0, end: 0, flags: 0 }, capacity }, Log::open(&path).unwrap())
        }

        fn write(&mut self, kind: u8, time: u64, said: &[u8]) {
            let record = Record { length: said.len() as u32, kind, time };
            let mut bytes = record.to_bytes(self.state.end).to_vec();
            bytes.extend_from_slice(said);
            while self.state.end + bytes.len() as u64 - self.state.first > self.capacity {
                let mut head = [0; RECORD];
                Log { file: Arc::new(self.file.try_clone().unwrap()), capacity: self.capacity }
                    .read_at(self.state.first, &mut head)
                    .unwrap();
                self.state.first += Record::from_bytes(&head, self.state.first).unwrap().whole();
            }
            // Before it is overwritten: what readers go by.
            self.tell();
            let mut rest = &bytes[..];
            for (at, length) in places(self.state.end, bytes.len(), self.capacity) {
                self.file.write_all_at(&rest[..length], at).unwrap();
                rest = &rest[length..];
            }
            self.state.end += bytes.len() as u64;
            self.tell();
        }

        fn tell(&self) {
            self.file.write_all_at(&self.state.to_bytes(), log_file::STATE_AT).unwrap();
        }
    }

    fn texts(lines: &[LogLine]) -> Vec<(OutputStream, String, bool)> {
        lines.iter().map(|line| (line.stream, line.text().into_owned(), line.complete)).collect()
    }

    const OUT: OutputStream = OutputStream::Stdout;
    const ERR: OutputStream = OutputStream::Stderr;

    #[test]
    fn lines_are_put_together_from_pieces_by_stream() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log) = Writer::new(&directory, LEAST);
        writer.write(kind::STDOUT, 1_000_000_000, b"one\ntw");
        writer.write(kind::STDERR, 2_000_000_000, b"err");
        writer.write(kind::STDOUT, 3_000_000_000, b"o\n\nlast");
        let lines = log.tail(100).unwrap();
        let line = |stream, text: &str, complete| (stream, text.to_owned(), complete);
        assert_eq!(
            texts(&lines),
            [line(OUT, "one", true), line(OUT, "two", true), line(OUT, "", true), line(OUT, "last", false), line(ERR, "err", false)]
        );
        let seconds = |line: &LogLine| line.time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(lines.iter().map(seconds).collect::<Vec<_>>(), [1, 1, 3, 3, 2]);
        assert_eq!(texts(&log.tail(2).unwrap()), [line(OUT, "last", false), line(ERR, "err", false)]);
        assert!(log.tail(0).unwrap().is_empty());
    }

    #[test]
    fn a_line_without_end_comes_in_pieces_and_one_that_just_fits_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log) = Writer::new(&directory, 1 << 20);
        for _ in 0..LogLine::MOST / MAX_PIECE {
            writer.write(kind::STDOUT, 0, &[b'x'; MAX_PIECE]);
        }
        writer.write(kind::STDOUT, 0, b"\nafter\n");
        for _ in 0..LogLine::MOST / MAX_PIECE {
            writer.write(kind::STDOUT, 0, &[b'y'; MAX_PIECE]);
        }
        writer.write(kind::STDOUT, 0, b"z\n");
        let lines: Vec<_> = log.tail(9).unwrap().iter().map(|line| (line.bytes.len(), line.complete)).collect();
        assert_eq!(lines, [(LogLine::MOST, true), (5, true), (LogLine::MOST, false), (1, true)]);
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_says_how_much() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log) = Writer::new(&directory, LEAST);
        let mut slow = log.lines();
        writer.write(kind::STDOUT, 0, b"first\n");
        assert_eq!(slow.next_now().unwrap().unwrap().bytes, b"first");
        for n in 0..10_000 {
            writer.write(kind::STDOUT, 0, format!("line {n}\n").as_bytes());
        }
        let kept = log.tail(usize::MAX).unwrap();
        assert!((1000..3000).contains(&kept.len()), "{}", kept.len());
        assert_eq!((kept.last().unwrap().text().as_ref(), kept[0].skipped), ("line 9999", 0));
        assert!(kept[0].cut && !kept[1].cut);
        let next = slow.next_now().unwrap().unwrap();
        assert_eq!(next.text(), kept[0].text());
        assert_eq!(next.skipped, writer.state.first - 22, "it began behind its first line");
        assert!(std::fs::metadata(directory.path().join("log")).unwrap().len() <= log_file::RING_AT + LEAST);
    }

    #[test]
    fn what_the_disk_did_not_take_is_told_and_cuts_lines() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log) = Writer::new(&directory, LEAST);
        writer.write(kind::STDOUT, 0, b"half");
        writer.write(kind::LOST, 0, &77u64.to_le_bytes());
        writer.write(kind::STDOUT, 0, b"way\n");
        writer.write(kind::STDERR, 0, b"rest of another\nwhole\n");
        let lines = log.tail(9).unwrap();
        let expected =
            [(OUT, "half".into(), false), (OUT, "way".into(), true), (ERR, "rest of another".into(), true), (ERR, "whole".into(), true)];
        assert_eq!(texts(&lines), expected);
        assert_eq!(lines.iter().map(|line| (line.skipped, line.cut)).collect::<Vec<_>>(), [(0, false), (77, true), (0, true), (0, false)]);
    }

    #[test]
    fn what_is_no_log_is_an_error_and_damage_ends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        std::fs::write(&path, b"coracle-log 2\n").unwrap();
        assert_eq!(Log::open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut writer, log) = Writer::new(&directory, LEAST);
        writer.write(kind::STDOUT, 0, b"good\nbad\n");
        writer.write(kind::STDOUT, 0, b"gone\n");
        let second = RECORD + 9;
        writer.file.write_all_at(b"xxxx", log_file::RING_AT + second as u64).unwrap();
        writer.write(kind::STDERR, 0, b"behind it\n");
        let mut reader = log.lines();
        let mut lines = Vec::new();
        while let Some(line) = reader.next_now().unwrap() {
            lines.push(line);
        }
        assert_eq!(texts(&lines), [(OUT, "good".into(), true), (OUT, "bad".into(), true)]);
        writer.write(kind::STDERR, 0, b"and on\n");
        let line = reader.next_now().unwrap().unwrap();
        assert_eq!((line.text().as_ref(), line.skipped), ("and on", 21 + 26));
    }

    #[test]
    fn no_ring_makes_a_reader_panic_or_go_on_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        for seed in 0..300u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut byte = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            };
            let noise: Vec<u8> = (0..3000).map(|_| byte()).collect();
            for bytes in [crate::fuzz::log_with(&noise), noise] {
                let path = directory.path().join("log");
                std::fs::write(&path, bytes).unwrap();
                read_any(File::open(&path).unwrap());
            }
        }
    }

    #[test]
    fn a_reader_beside_a_fast_writer_sees_only_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, log) = Writer::new(&directory, LEAST);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut reader = log.lines();
                let (mut seen, mut last) = (0, None);
                loop {
                    let over = done.load(std::sync::atomic::Ordering::Acquire);
                    while let Some(line) = reader.next_now().unwrap() {
                        if line.complete && line.skipped == 0 {
                            let number: u32 = line.text().trim_end_matches('.').parse().unwrap_or_else(|_| panic!("{line:?}"));
                            assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                            last = Some(number);
                        }
                        seen += 1;
                    }
                    if over {
                        break;
                    }
                }
                assert!(seen > 0);
                assert_eq!(last, Some(19_999));
            });
            for n in 0..20_000u32 {
                writer.write(kind::STDOUT, 0, format!("{n}{}\n", ".".repeat(n as usize % 300)).as_bytes());
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
    }
}

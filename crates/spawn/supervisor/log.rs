//! Keeps what a container says: two pipes that end here, and a file that goes round.
//!
//! Nothing here waits. A pipe is read when there is something in it, so much at a time that requests have their turn between; what the
//! disk doesn't take is counted and forgotten, and the container doesn't notice. The order of the two streams is that in which poll(2)
//! finds them: what comes on both between two looks is taken output first.

use crate::log_file::{self, MAX_PIECE, RECORD, Record, State, capacity, flag, kind, places};
use crate::prepare::lock_new;
use crate::system_call::{AT_FDCWD, Errno, Fd, Pages, Result, close, open, openat2, pipe, pread, pwrite, read, real_time, set_nonblocking};
use crate::wire;

/// Pieces that are taken of one stream before anybody else has a turn.
const TURN: usize = 4;

/// Pieces that are taken at the end: as much as two pipes can hold. Somebody outside may hold one open, and write.
const LAST: usize = 160;

pub struct Log {
    pipes: [Option<Fd>; 2],
    file: Fd,
    capacity: u64,
    first: u64,
    end: u64,
    /// Bytes that the disk didn't take, and that no record tells of yet.
    lost: u64,
    /// All that was said.
    pub said: u64,
}

/// What a log begins with: itself, the streams' other ends, and a descriptor of the file for reading.
pub struct Begun {
    pub log: Log,
    pub streams: [Option<Fd>; 2],
    pub reader: Fd,
}

impl Log {
    pub fn begin(plan: &wire::Log<'_>) -> Result<Begun> {
        let file = openat2(AT_FDCWD, plan.path, open::CREATE | open::READ_WRITE, 0o600, 0)?;
        // Free again when this process is gone, by which readers know that nothing more comes.
        lock_new(file)?;
        let mut log = Self { pipes: [None; 2], file, capacity: plan.capacity, first: 0, end: 0, lost: 0, said: 0 };
        if !log.take_over() {
            write_whole(file, &log_file::head(log.capacity), 0)?;
        }
        let reader = openat2(AT_FDCWD, plan.path, open::READ, 0, 0)?;
        let mut streams = [None; 2];
        for (i, stream) in streams.iter_mut().enumerate() {
            if plan.streams >> (i + 1) & 1 == 1 {
                let (ours, theirs) = pipe()?;
                // The container may open its own end for reading and take away what poll(2) has promised.
                set_nonblocking(ours)?;
                log.pipes[i] = Some(ours);
                *stream = Some(theirs);
            }
        }
        Ok(Begun { log, streams, reader })
    }

    /// Goes on with a log that is there; whether there was one.
    fn take_over(&mut self) -> bool {
        let mut head = [0; 56];
        let Ok(56) = pread(self.file, &mut head, 0) else { return false };
        let Some(capacity) = capacity(&head) else { return false };
        let Some(state) = State::from_bytes(&head[24..], capacity) else { return false };
        (self.capacity, self.first, self.end) = (capacity, state.first, state.end);
        self.tell(0);
        true
    }

    /// What to poll.
    pub fn pipes(&self) -> [Option<Fd>; 2] {
        self.pipes
    }

    /// Takes what has come on a stream.
    pub fn take(&mut self, stream: usize) {
        self.take_pieces(stream, TURN);
    }

    /// Takes what is left, says that nothing more comes, and lets go of everything.
    pub fn finish(&mut self) {
        for stream in 0..2 {
            self.take_pieces(stream, LAST);
            self.hang_up(stream);
        }
        if self.lost > 0 {
            self.keep(&mut [0; RECORD + 8], 0, 0);
        }
        self.tell(flag::ENDED);
        close(self.file);
    }

    fn hang_up(&mut self, stream: usize) {
        if let Some(f) = self.pipes[stream].take() {
            close(f);
        }
    }

    #[inline(never)]
    fn take_pieces(&mut self, stream: usize, most: usize) {
        // There only while it is needed: a container that says nothing costs nothing.
        let Ok(mut buffer) = Pages::new(RECORD + MAX_PIECE) else { return };
        for _ in 0..most {
            let Some(f) = self.pipes[stream] else { return };
            match read(f, &mut buffer[RECORD..]) {
                Ok(n @ 1..) => {
                    self.said = self.said.saturating_add(n as u64);
                    self.keep(&mut buffer, n, if stream == 0 { kind::STDOUT } else { kind::STDERR });
                    if n < MAX_PIECE {
                        return;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Ok(_) | Err(_) => return self.hang_up(stream),
            }
        }
    }

    /// Appends what lies in the buffer behind the place for a record; before it, what is known to be lost.
    fn keep(&mut self, buffer: &mut [u8], length: usize, kind: u8) {
        if self.lost > 0 {
            let mut lost = [0; RECORD + 8];
            lost[RECORD..].copy_from_slice(&self.lost.to_le_bytes());
            if self.append(&mut lost, kind::LOST).is_ok() {
                self.lost = 0;
            }
        }
        if length > 0 && (self.lost > 0 || self.append(&mut buffer[..RECORD + length], kind).is_err()) {
            self.lost = self.lost.saturating_add(length as u64);
        }
    }

    fn append(&mut self, bytes: &mut [u8], kind: u8) -> Result<()> {
        let record = Record { length: (bytes.len() - RECORD) as u32, kind, time: real_time() };
        bytes[..RECORD].copy_from_slice(&record.to_bytes(self.end));
        self.make_room(bytes.len() as u64);
        let mut rest: &[u8] = bytes;
        for (at, length) in places(self.end, bytes.len(), self.capacity) {
            let (piece, others) = rest.split_at(length);
            write_whole(self.file, piece, at)?;
            rest = others;
        }
        self.end += bytes.len() as u64;
        self.tell(0);
        Ok(())
    }

    /// Gives up the oldest records, some more than are in the way, so that this isn't done for each.
    fn make_room(&mut self, length: u64) {
        if self.end + length - self.first <= self.capacity {
            return;
        }
        let least = self.end + length + self.capacity / 16 - self.capacity;
        while self.first < least.min(self.end) {
            self.first = match self.record_at(self.first) {
                Some(record) => self.first + record.whole(),
                None => self.end,
            };
        }
        self.first = self.first.min(self.end);
        self.tell(0);
    }

    fn record_at(&self, position: u64) -> Option<Record> {
        let mut bytes = [0; RECORD];
        let mut have = 0;
        for (at, length) in places(position, RECORD, self.capacity) {
            if length > 0 && pread(self.file, &mut bytes[have..have + length], at) != Ok(length) {
                return None;
            }
            have += length;
        }
        Record::from_bytes(&bytes, position)
    }

    fn tell(&self, flags: u64) {
        let state = State { first: self.first, end: self.end, flags };
        let _ = write_whole(self.file, &state.to_bytes(), log_file::STATE_AT);
    }
}

fn write_whole(f: Fd, mut bytes: &[u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match pwrite(f, bytes, at)? {
            0 => return Err(Errno(28)),
            n => (bytes, at) = (&bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

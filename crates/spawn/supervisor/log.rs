//! A file that goes round, in which is kept what a container says.
//!
//! Nothing here waits: what the disk doesn't take is counted and forgotten.

use crate::log_file::{self, RECORD, Record, State, capacity, flag, kind, places};
use crate::prepare::lock_new;
use crate::system_call::{AT_FDCWD, Errno, Fd, Result, close, open, openat2, pread, pwrite, real_time};
use crate::wire;

pub struct Log {
    file: Fd,
    capacity: u64,
    first: u64,
    end: u64,
    /// Bytes that the disk didn't take, and that no record tells of yet.
    lost: u64,
}

impl Log {
    /// Makes it, or goes on with it where it is there; beside it comes a descriptor for reading.
    pub fn begin(plan: &wire::Log<'_>) -> Result<(Self, Fd)> {
        let file = openat2(AT_FDCWD, plan.path, open::CREATE | open::READ_WRITE, 0o600, 0)?;
        // Free again when this process is gone, by which readers know that nothing more comes.
        lock_new(file)?;
        let mut log = Self { file, capacity: plan.capacity, first: 0, end: 0, lost: 0 };
        if !log.take_over() {
            write_whole(file, &log_file::head(log.capacity), 0)?;
        }
        Ok((log, openat2(AT_FDCWD, plan.path, open::READ, 0, 0)?))
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

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        if self.lost > 0 {
            self.keep(&mut [0; RECORD + 8], 0, 0);
        }
        self.tell(flag::ENDED);
        close(self.file);
    }

    /// Appends what lies in the buffer behind the place for a record; before it, what is known to be lost.
    pub fn keep(&mut self, buffer: &mut [u8], length: usize, kind: u8) {
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

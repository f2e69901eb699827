//! How a log lies on disk: a ring of records behind a small head.
//!
//! This file is compiled twice: into the supervisor, which writes, and into the crate, which reads, tests and fuzzes it. So it holds safe
//! code only. Numbers are little-endian. Changing any of it changes the format on disk: then [`MAGIC`] gets another number.
//!
//! ```text
//!  0    "coracle-log 1\n", and NULs up to 16 bytes
//!  16   capacity: bytes of the ring, a u64
//!  24   the state: first, end, flags, and a check over these three, a u64 each
//!  4096 the ring: the byte at position p of the log lies at 4096 + p % capacity
//! ```
//!
//! `first` is the position of the oldest record that is there, `end` that behind the newest. Both only grow. Who writes moves `first` on
//! before a record is overwritten, and `end` when the new one is whole; so who dies in between leaves a log that is whole. Who reads asks
//! for the state again afterwards, and throws away what has been overwritten meanwhile.

/// The first bytes of a log.
pub const MAGIC: [u8; 16] = *b"coracle-log 1\n\0\0";

/// Where the state lies.
pub const STATE_AT: u64 = 24;

/// Where the ring begins. A page, so that the head is read and written in one piece.
pub const RING_AT: u64 = 4096;

/// Bytes of a record without what was said.
pub const RECORD: usize = 16;

/// The most that one record holds.
pub const MAX_PIECE: usize = 16 << 10;

/// The smallest ring.
pub const LEAST: u64 = 64 << 10;

/// What a record holds.
pub mod kind {
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    /// A u64: how many bytes couldn't be kept here.
    pub const LOST: u8 = 3;
}

/// Flags of the state.
pub mod flag {
    /// Nothing more will be written, unless the container is started again.
    pub const ENDED: u64 = 1;
}

/// What a log says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub first: u64,
    pub end: u64,
    pub flags: u64,
}

fn mix(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl State {
    fn check(&self) -> u64 {
        mix(mix(mix(0x636f_7261, self.first), self.end), self.flags)
    }

    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (place, value) in bytes.chunks_exact_mut(8).zip([self.first, self.end, self.flags, self.check()]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The state of a ring of this capacity; none if it isn't one, or was read while it was written.
    pub fn from_bytes(bytes: &[u8], capacity: u64) -> Option<Self> {
        let state = Self { first: number(bytes, 0)?, end: number(bytes, 8)?, flags: number(bytes, 16)? };
        let length = state.end.checked_sub(state.first)?;
        (number(bytes, 24)? == state.check() && length <= capacity).then_some(state)
    }
}

/// The head of a new log.
pub fn head(capacity: u64) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes[..16].copy_from_slice(&MAGIC);
    bytes[16..24].copy_from_slice(&capacity.to_le_bytes());
    bytes[24..].copy_from_slice(&State { first: 0, end: 0, flags: 0 }.to_bytes());
    bytes
}

/// The capacity that a head tells; none if it is no head of this version.
pub fn capacity(head: &[u8]) -> Option<u64> {
    if head.get(..16)? != MAGIC {
        return None;
    }
    number(head, 16).filter(|capacity| (LEAST..=1 << 40).contains(capacity))
}

/// What stands in front of what was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Bytes that follow.
    pub length: u32,
    pub kind: u8,
    /// Nanoseconds since 1970.
    pub time: u64,
}

impl Record {
    /// Tells a record that begins at this position from anything else.
    fn check(&self, at: u64) -> u16 {
        (mix(mix(mix(at, self.time), u64::from(self.length)), u64::from(self.kind)) >> 48) as u16
    }

    pub fn to_bytes(self, at: u64) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind;
        bytes[6..8].copy_from_slice(&self.check(at).to_le_bytes());
        bytes[8..].copy_from_slice(&self.time.to_le_bytes());
        bytes
    }

    /// The record that begins at this position, if one does.
    pub fn from_bytes(bytes: &[u8], at: u64) -> Option<Self> {
        let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let record = Self { length, kind: *bytes.get(4)?, time: number(bytes, 8)? };
        let check = u16::from_le_bytes(bytes.get(6..8)?.try_into().ok()?);
        (length as usize <= MAX_PIECE && check == record.check(at)).then_some(record)
    }

    /// Bytes of it with what follows.
    pub fn whole(&self) -> u64 {
        RECORD as u64 + u64::from(self.length)
    }
}

/// Where bytes of the ring lie in the file: a piece at a place, and the second piece where it goes round.
pub fn places(position: u64, length: usize, capacity: u64) -> [(u64, usize); 2] {
    let at = position % capacity;
    let first = usize::try_from(capacity - at).map_or(length, |room| room.min(length));
    [(RING_AT + at, first), (RING_AT, length - first)]
}

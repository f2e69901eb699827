//! Questions about names and their answers, as bytes: RFC 1035. And a network's list of names, as it lies in its file.
//!
//! This file is compiled twice: into the attendant, which has no allocator, and into the crate, which tests and fuzzes it. Safe code only, and
//! every byte that is read here is a stranger's.

/// Bytes of a header.
pub const HEADER: usize = 12;
/// The longest name, with its dots and without the one at its end.
pub const MAX_NAME: usize = 253;
/// What fits in a datagram where nobody says otherwise.
pub const DATAGRAM: usize = 512;

/// Kinds of records that are looked at.
pub mod kind {
    pub const A: u16 = 1;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
    pub const ANY: u16 = 255;
}

/// Codes of answers.
pub mod code {
    pub const FINE: u8 = 0;
    pub const MALFORMED: u8 = 1;
    pub const FAILED: u8 = 2;
    pub const NO_SUCH_NAME: u8 = 3;
    pub const NOT_DONE: u8 = 4;
}

const INTERNET: u16 = 1;

/// A name in lower case, with dots between its labels.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    length: usize,
}

impl Name {
    pub const fn empty() -> Self {
        Self { bytes: [0; MAX_NAME], length: 0 }
    }

    /// The same in lower case, without a dot at its end; None where it is too long.
    pub fn new(words: &[u8]) -> Option<Self> {
        let mut name = Self::empty();
        name.push(words.strip_suffix(b".").unwrap_or(words)).then_some(name)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, more: &[u8]) -> bool {
        let Some(place) = self.bytes.get_mut(self.length..self.length + more.len()) else { return false };
        for (to, from) in place.iter_mut().zip(more) {
            *to = from.to_ascii_lowercase();
        }
        self.length += more.len();
        true
    }

    /// The name before `.domain`, where it ends so.
    pub fn within(&self, domain: &[u8]) -> Option<&[u8]> {
        let rest = self.as_bytes();
        let at = rest.len().checked_sub(domain.len() + 1).filter(|&at| at > 0)?;
        let (head, tail) = rest.split_at(at);
        let tail = tail.strip_prefix(b".")?;
        (!domain.is_empty() && tail.eq_ignore_ascii_case(domain)).then_some(head)
    }

    /// The address that a name below in-addr.arpa or ip6.arpa asks about.
    pub fn address(&self) -> Option<Address> {
        let name = self.as_bytes();
        if let Some(labels) = name.strip_suffix(b".in-addr.arpa") {
            let mut octets = [0; 4];
            let mut labels = labels.split(|&b| b == b'.');
            for octet in octets.iter_mut().rev() {
                *octet = number(labels.next()?)?;
            }
            return labels.next().is_none().then_some(Address::V4(octets));
        }
        let mut octets = [0; 16];
        let mut labels = name.strip_suffix(b".ip6.arpa")?.split(|&b| b == b'.');
        for octet in octets.iter_mut().rev() {
            let (low, high) = (digit(labels.next()?)?, digit(labels.next()?)?);
            *octet = high << 4 | low;
        }
        labels.next().is_none().then_some(Address::V6(octets))
    }
}

fn number(digits: &[u8]) -> Option<u8> {
    let good = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    good.then(|| digits.iter().fold(0u16, |n, b| n * 10 + u16::from(b - b'0'))).and_then(|n| u8::try_from(n).ok())
}

fn digit(label: &[u8]) -> Option<u8> {
    match label {
        [b @ b'0'..=b'9'] => Some(b - b'0'),
        [b @ b'a'..=b'f'] => Some(b - b'a' + 10),
        _ => None,
    }
}

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    fn kind(&self) -> u16 {
        match self {
            Self::V4(_) => kind::A,
            Self::V6(_) => kind::AAAA,
        }
    }

    fn octets(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
        }
    }
}

/// What is asked.
pub struct Question {
    pub name: Name,
    pub kind: u16,
    /// Bytes of the message up to the question's end.
    pub end: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl Question {
    /// Reads a question; the error is the code of the answer, and none where there is nothing to answer.
    pub fn read(message: &[u8]) -> Result<Self, Option<u8>> {
        let header = message.get(..HEADER).ok_or(None)?;
        if header[2] & 0x80 != 0 {
            // An answer. Two servers could keep each other busy for ever.
            return Err(None);
        }
        if header[2] & 0x78 != 0 {
            return Err(Some(code::NOT_DONE));
        }
        if word(header, 4) != Some(1) || word(header, 6) != Some(0) {
            return Err(Some(code::MALFORMED));
        }
        let (name, at) = read_name(message, HEADER).ok_or(Some(code::MALFORMED))?;
        let (Some(kind), Some(class)) = (word(message, at), word(message, at + 2)) else { return Err(Some(code::MALFORMED)) };
        if class != INTERNET && class != kind::ANY {
            return Err(Some(code::NOT_DONE));
        }
        Ok(Self { name, kind, end: at + 4 })
    }
}

/// A name without pointers, as questions have it, and where it ends.
fn read_name(message: &[u8], mut at: usize) -> Option<(Name, usize)> {
    let mut name = Name::empty();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => return Some((name, at)),
            1..=63 => {
                let label = message.get(at..at + length)?;
                // A dot inside a label would be another name in our words.
                if label.contains(&b'.') || (name.length > 0 && !name.push(b".")) || !name.push(label) {
                    return None;
                }
                at += length;
            }
            _ => return None,
        }
    }
}

/// An answer, being written over the question's place.
pub struct Reply<'a> {
    bytes: &'a mut [u8],
    length: usize,
    records: u16,
}

/// Where the question's name begins, as later names point to it.
const QUESTION: [u8; 2] = [0xc0, HEADER as u8];

impl<'a> Reply<'a> {
    /// Begins an answer to a message whose question ends at `end`. `bytes` is as long as the answer may be.
    pub fn begin(bytes: &'a mut [u8], message: &[u8], end: usize) -> Option<Self> {
        let question = message.get(..end)?;
        bytes.get_mut(..end)?.copy_from_slice(question);
        let header = bytes.get_mut(..HEADER)?;
        // An answer, by one that knows and that asks others, too; "recursion desired" stays.
        header[2] = 0x84 | header[2] & 0x79;
        header[3] = 0x80;
        let questions = u8::from(end > HEADER);
        header[4..].copy_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
        Some(Self { bytes, length: end, records: 0 })
    }

    fn record(&mut self, kind: u16, data: &[u8]) {
        let length = 12 + data.len();
        let Some(place) = self.bytes.get_mut(self.length..self.length + length) else {
            // Cut short: who wants more asks by TCP.
            self.bytes[2] |= 2;
            return;
        };
        place[..2].copy_from_slice(&QUESTION);
        place[2..4].copy_from_slice(&kind.to_be_bytes());
        place[4..6].copy_from_slice(&INTERNET.to_be_bytes());
        // Containers come and go: nobody keeps it.
        place[6..10].fill(0);
        place[10..12].copy_from_slice(&(data.len() as u16).to_be_bytes());
        place[12..].copy_from_slice(data);
        self.length += length;
        self.records += 1;
    }

    pub fn address(&mut self, address: &Address) {
        self.record(address.kind(), address.octets());
    }

    /// The name of an address.
    pub fn name(&mut self, name: &[u8]) {
        let mut data = [0; 255];
        let mut at = 0;
        for label in name.split(|&b| b == b'.') {
            let Some(place) = data.get_mut(at..at + 1 + label.len() + 1).filter(|_| (1..=63).contains(&label.len())) else { return };
            place[0] = label.len() as u8;
            place[1..=label.len()].copy_from_slice(label);
            at += 1 + label.len();
        }
        self.record(kind::PTR, data.get(..at + 1).unwrap_or_default());
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Ends it with a code; its length.
    pub fn end(self, code: u8) -> usize {
        self.bytes[3] |= code & 0xf;
        self.bytes[6..8].copy_from_slice(&self.records.to_be_bytes());
        self.length
    }
}

/// An answer without records, in place; its length.
pub fn refuse(message: &mut [u8], received: usize, code: u8) -> usize {
    let end = Question::read(message.get(..received).unwrap_or_default()).map_or(HEADER, |question| question.end);
    let mut copy = [0; HEADER + MAX_NAME + 2 + 4];
    let Some((kept, head)) = copy.get_mut(..end).zip(message.get(..end)) else { return 0 };
    kept.copy_from_slice(head);
    Reply::begin(message, kept, end).map_or(0, |reply| reply.end(code))
}

/// Whether an answer of another server is one to this question of ours, which has its id.
pub fn answers(answer: &[u8], question: &[u8], end: usize) -> bool {
    let same = |range: core::ops::Range<usize>| answer.get(range.clone()).is_some_and(|bytes| question.get(range) == Some(bytes));
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    // Some refuse without repeating the question.
    let bare = answer.len() == HEADER && answer.get(3).is_some_and(|flags| flags & 0xf != 0);
    is_answer && same(0..2) && (bare || same(HEADER..end))
}

/// A message's id.
pub fn id(message: &[u8]) -> u16 {
    word(message, 0).unwrap_or(0)
}

pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// A place in a network's list of names. Changing it changes the format on disk: see docs/state-on-disk.md.
///
/// ```text
///  0  checksum of what follows, 4 bytes
///  4  what it is: 0 nothing, 1 names that are answered, 2 names that will be
///  5  1 where there is an IPv6 address
///  6  the IPv4 address     10  the IPv6 address
///  26 names: a length, and so many bytes in lower case; 0 ends them
/// ```
pub const SLOT: usize = 256;
const NAMES: usize = 26;
/// How many slots are read: others aren't answered.
pub const MAX_SLOTS: usize = 16384;

pub mod state {
    pub const FREE: u8 = 0;
    pub const ANSWERED: u8 = 1;
    /// Somebody's, who isn't there yet.
    pub const TAKEN: u8 = 2;
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, &b| (sum ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// A slot with as many of these names as have room, and how many those are.
pub fn write_slot<'n>(state: u8, v4: [u8; 4], v6: Option<[u8; 16]>, names: impl Iterator<Item = &'n [u8]>) -> ([u8; SLOT], usize) {
    let mut slot = [0; SLOT];
    slot[4] = state;
    slot[5] = u8::from(v6.is_some());
    slot[6..10].copy_from_slice(&v4);
    slot[10..NAMES].copy_from_slice(&v6.unwrap_or_default());
    let (mut at, mut count) = (NAMES, 0);
    for name in names {
        let Some(place) = slot.get_mut(at..at + 1 + name.len()).filter(|_| name.len() < 255) else { break };
        place[0] = name.len() as u8;
        for (to, from) in place[1..].iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        at += 1 + name.len();
        count += 1;
    }
    let sum = checksum(&slot[4..]);
    slot[..4].copy_from_slice(&sum.to_le_bytes());
    (slot, count)
}

/// A slot that was read.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    bytes: &'a [u8],
    pub state: u8,
    pub v4: [u8; 4],
    pub v6: Option<[u8; 16]>,
}

impl<'a> Slot<'a> {
    /// None where nothing is, or somebody is writing.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let bytes = bytes.get(..SLOT)?;
        let state = bytes[4];
        if state == state::FREE || bytes[..4] != checksum(&bytes[4..]).to_le_bytes() {
            return None;
        }
        let v4 = bytes[6..10].try_into().ok()?;
        let v6 = if bytes[5] == 1 { bytes[10..NAMES].try_into().ok() } else { None };
        Some(Self { bytes, state, v4, v6 })
    }

    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.bytes.get(NAMES..).unwrap_or_default();
        core::iter::from_fn(move || {
            let (&length, after) = rest.split_first().filter(|(length, _)| **length > 0)?;
            let (name, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(name)
        })
    }

    /// Its addresses of a kind.
    pub fn addresses(&self, wanted: u16) -> impl Iterator<Item = Address> + use<> {
        let v4 = (wanted == kind::A || wanted == kind::ANY).then_some(Address::V4(self.v4));
        let v6 = self.v6.filter(|_| wanted == kind::AAAA || wanted == kind::ANY).map(Address::V6);
        v4.into_iter().chain(v6)
    }

    pub fn has(&self, address: &Address) -> bool {
        match address {
            Address::V4(octets) => *octets == self.v4,
            Address::V6(octets) => Some(*octets) == self.v6,
        }
    }
}

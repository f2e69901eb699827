//! Netlink messages as bytes: a header, a fixed part, and attributes that may hold attributes. See netlink(7).

/// NLMSG_ALIGNTO and NLA_ALIGNTO.
pub(crate) const ALIGN: usize = 4;
/// struct nlmsghdr
pub(crate) const HEADER: usize = 16;
/// NLA_F_NESTED
const NESTED: u16 = 1 << 15;

/// One request, being written.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this type; `flags` beside `NLM_F_REQUEST`.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | 1).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut message = Message { bytes };
        message.pad();
        message
    }

    /// Adds an attribute, and answers where its value begins.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> usize {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.pad();
        at
    }

    pub(crate) fn word(&mut self, kind: u16, value: u32) -> usize {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Numbers of nf_tables are big-endian.
    pub(crate) fn big(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A string with its NUL.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// Adds an attribute that holds what `inside` adds, and answers what that answers.
    pub(crate) fn nest<T>(&mut self, kind: u16, inside: impl FnOnce(&mut Message) -> T) -> T {
        self.nest_plain(kind | NESTED, inside)
    }

    /// As [`nest`](Self::nest), without the flag, which rtnetlink's older attributes don't have.
    pub(crate) fn nest_plain<T>(&mut self, kind: u16, inside: impl FnOnce(&mut Message) -> T) -> T {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let result = inside(self);
        // Everything that nests here is shorter than 64 KiB: the longest is a batch of a few hundred elements, which is cut before.
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        result
    }

    /// Bytes that are no attribute, such as the fixed part of a message in an attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// The whole message with its length and this sequence number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

/// Attributes of an answer: kind without flags, and value. Stops where the bytes make no sense.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Messages of a datagram: type and what follows the header.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let message = rest.get(..length)?;
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        let body = message.get(HEADER..)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, body))
    })
}

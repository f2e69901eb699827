//! Who the supervisor talks to: requests that come in pieces, answers that nobody waits for.

use crate::system_call::{Errno, Fd, Pages, Received, close, receive_message, send_message};
use crate::wire::{self, Answer, Field, HEADER, Kind, Out, Reader, Request, parse_header};

/// The largest request: one descriptor, three numbers. A longer one is another version's.
const REQUEST: usize = 64;

/// One end that requests come from and answers go to.
pub struct Peer {
    pub socket: Fd,
    /// A request that hasn't come whole.
    input: [u8; REQUEST],
    used: usize,
    /// Bytes of a request that is too long to be understood, which are still to come.
    skip: usize,
    /// What came beside a request that hasn't come whole.
    beside: Option<Fd>,
    /// Whether the container lives no longer than the last of its like.
    pub holds: bool,
}

/// What a peer wants.
pub enum Next {
    /// Nothing for now.
    Nothing,
    Request(Request<'static>),
    /// One more command; its conversation is here.
    Exec(Fd),
    /// An opener; its conversation is here.
    Open(Fd),
    /// Something that this version doesn't know.
    Unknown(u8),
    /// It has gone, or talks nonsense.
    Gone,
}

impl Peer {
    pub const fn new(socket: Fd) -> Self {
        Self { socket, input: [0; REQUEST], used: 0, skip: 0, beside: None, holds: false }
    }

    /// Reads what has come, without waiting; whether the peer is still there. Ask [`next`](Self::next) until there is nothing.
    pub fn hear(&mut self) -> bool {
        let mut fds = Received::new();
        let result = receive_message(self.socket, &mut self.input[self.used..], &mut fds, false);
        match (fds.as_slice(), self.beside) {
            (&[one], None) => self.beside = Some(one),
            _ => fds.close(),
        }
        match result {
            Err(Errno::EAGAIN) => true,
            Ok(n @ 1..) => {
                self.used += n;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// The next request that came whole.
    pub fn next(&mut self) -> Next {
        let skipped = self.skip.min(self.used);
        self.forget(skipped);
        self.skip -= skipped;
        let Some(header) = self.input[..self.used].first_chunk::<HEADER>() else {
            return Next::Nothing;
        };
        let (length, kind, fds) = parse_header(header);
        let length = length as usize;
        if kind != Kind::Request as u16 || length == 0 {
            return Next::Gone;
        }
        let whole = HEADER + length;
        if whole > REQUEST {
            if self.used == HEADER {
                return Next::Nothing;
            }
            let unknown = self.input[HEADER];
            self.skip = whole;
            if let Some(f) = self.beside.take() {
                close(f);
            }
            return Next::Unknown(unknown);
        }
        if self.used < whole {
            return Next::Nothing;
        }
        let bytes = &self.input[HEADER..whole];
        let next = match Request::take(&mut Reader::new(bytes)) {
            Ok(Request::Signal { number }) => Next::Request(Request::Signal { number }),
            Ok(Request::Stop { number, grace }) => Next::Request(Request::Stop { number, grace }),
            Ok(Request::Kill {}) => Next::Request(Request::Kill {}),
            Ok(Request::Detach {}) => Next::Request(Request::Detach {}),
            Ok(Request::Hold {}) => Next::Request(Request::Hold {}),
            Ok(Request::Execute {}) => Next::Request(Request::Execute {}),
            Ok(Request::Terminal {}) => Next::Request(Request::Terminal {}),
            Ok(Request::Execs { token }) => Next::Request(Request::Execs { token }),
            Ok(Request::SignalExec { token, id, number }) => Next::Request(Request::SignalExec { token, id, number }),
            Ok(Request::Exec {}) => match self.beside.take() {
                Some(socket) => Next::Exec(socket),
                None => Next::Gone,
            },
            Ok(Request::Open {}) => match self.beside.take() {
                Some(socket) => Next::Open(socket),
                None => Next::Gone,
            },
            Ok(Request::Never(..)) | Err(_) => Next::Unknown(bytes[0]),
        };
        self.forget(whole);
        // One read may bring a request without a descriptor and the next one with its own.
        if fds > 0
            && let Some(f) = self.beside.take()
        {
            close(f);
        }
        next
    }

    fn forget(&mut self, n: usize) {
        self.input.copy_within(n..self.used, 0);
        self.used -= n;
    }

    pub fn close(&mut self) {
        close(self.socket);
        if let Some(f) = self.beside.take() {
            close(f);
        }
    }

    /// Answers, without waiting: a peer that doesn't read loses it.
    pub fn answer(&self, answer: &Answer<'_>) {
        answer_to(self.socket, answer);
    }
}

/// One answer to one peer.
pub fn answer_to(socket: Fd, answer: &Answer<'_>) {
    answers_to(socket, &[answer]);
}

/// An answer with a descriptor beside it.
pub fn answer_with(socket: Fd, answer: &Answer<'_>, beside: Fd) {
    let mut bytes = [0; 64];
    let mut writer = Writer { into: &mut bytes[HEADER..], at: 0 };
    answer.put(&mut writer);
    let used = HEADER + writer.at;
    bytes[..HEADER].copy_from_slice(&wire::header(Kind::Answer, (used - HEADER) as u32, 1));
    let _ = send_message(socket, &bytes[..used], &[], &[beside], false);
}

/// Answers to one peer in one piece, without waiting: a peer that doesn't read loses them.
pub fn answers_to(socket: Fd, answers: &[&Answer<'_>]) {
    let length = |answer: &Answer<'_>| {
        let mut count = Counter(0);
        answer.put(&mut count);
        count.0
    };
    let write = |into: &mut [u8]| {
        let mut writer = Writer { into, at: 0 };
        for answer in answers {
            writer.put(&wire::header(Kind::Answer, length(answer), 0));
            answer.put(&mut writer);
        }
    };
    let all = answers.iter().map(|a| HEADER + length(a) as usize).sum();
    // Most are short.
    let mut few = [0; 2048];
    let mut many;
    let bytes = match few.get_mut(..all) {
        Some(bytes) => bytes,
        None => match Pages::new(all) {
            Ok(pages) => {
                many = pages;
                &mut many[..]
            }
            Err(_) => return,
        },
    };
    write(bytes);
    let _ = send_message(socket, bytes, &[], &[], false);
}

/// A value as the bytes in which it travels.
pub fn encode<'a>(value: &impl Field<'a>) -> Result<Pages, Errno> {
    let mut count = Counter(0);
    value.put(&mut count);
    let mut bytes = Pages::new(count.0 as usize)?;
    value.put(&mut Writer { into: &mut bytes, at: 0 });
    Ok(bytes)
}

struct Counter(u32);

impl Out for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u32;
    }
}

struct Writer<'a> {
    into: &'a mut [u8],
    at: usize,
}

impl Out for Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.into[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

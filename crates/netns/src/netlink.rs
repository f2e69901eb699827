//! Netlink as data and one small socket: a batch of requests goes out by one send(2), and every answer is told by the
//! name of its request. See netlink(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Error, StepError};
use crate::message::{ALIGN, HEADER, Message};

/// Which part of the kernel a batch is for; the numbers are those of socket(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// NETLINK_ROUTE: interfaces, addresses, routes. Each request is performed by itself.
    #[default]
    Route = 0,
    /// NETLINK_NETFILTER: rules and sets. All of a batch, or nothing.
    Netfilter = 12,
}

/// Requests for the kernel, encoded and numbered from 1; each asks for an answer.
///
/// It is data: whoever stands in the right namespace sends [`bytes`](Batch::bytes) by one send(2) on a socket
/// `(AF_NETLINK, SOCK_RAW, protocol)`, and reads until [`len`](Batch::len) answers have come. The kernel has answered
/// all of them when send returns, and goes on after a request that fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Batch {
    protocol: Protocol,
    bytes: Vec<u8>,
    steps: Vec<String>,
    namespace: Option<usize>,
}

impl Batch {
    /// No requests.
    pub fn new() -> Batch {
        Batch::default()
    }

    pub(crate) fn netfilter() -> Batch {
        Batch { protocol: Protocol::Netfilter, ..Batch::default() }
    }

    /// The kind of socket that it is for.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where in [`bytes`](Batch::bytes) whoever sends it has to write the number, in its own table, of the descriptor of a network
    /// namespace, as four bytes of the machine's order; [`Batch::veth`] leaves such a place.
    pub fn namespace_at(&self) -> Option<usize> {
        self.namespace
    }

    /// The same with a namespace's descriptor in its place, for whoever sends it from this process. The namespace must outlive that.
    pub fn with_namespace(mut self, namespace: &impl AsFd) -> Batch {
        if let Some(place) = self.namespace.take().and_then(|at| self.bytes.get_mut(at..at + 4)) {
            place.copy_from_slice(&namespace.as_fd().as_raw_fd().to_ne_bytes());
        }
        self
    }

    /// The encoded requests, in the byte order of this machine.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of requests, and so of answers.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are no requests.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What each request does, for errors: `set lo up`. The nth has the sequence number n, from 1.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(String::as_str)
    }

    /// Reads the kernel's answers to this batch, one datagram or several after each other. Takes any bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Steps`] with every request that failed; [`Error::Unanswered`] where answers are missing.
    ///
    /// ```
    /// let batch = coracle_netns::Batch::loopback_up();
    /// assert_eq!(batch.check(&[]).unwrap_err().to_string(), "talk to the kernel by netlink: 0 of 1 requests were answered");
    /// ```
    pub fn check(&self, answers: &[u8]) -> Result<(), Error> {
        let mut seen = vec![false; self.len()];
        let mut failed = Vec::new();
        for (sequence, errno) in acks(answers) {
            let Some(index) = (sequence as usize).checked_sub(1).filter(|&index| index < self.len()) else {
                // The frame of a transaction, which is refused whole.
                if sequence == 0 && errno != 0 {
                    let step = "change the firewall".into();
                    failed.push(StepError { step, source: io::Error::from_raw_os_error(errno) });
                }
                continue;
            };
            if !std::mem::replace(&mut seen[index], true) && errno != 0 {
                failed.push(StepError { step: self.steps[index].clone(), source: io::Error::from_raw_os_error(errno) });
            }
        }
        let answered = seen.iter().filter(|&&seen| seen).count();
        match (failed.is_empty(), answered == self.len()) {
            (false, _) => Err(Error::Steps(failed)),
            (true, false) => Err(Error::Unanswered { sent: self.len(), answered }),
            (true, true) => Ok(()),
        }
    }

    /// Adds a request; `namespace` is where in it a descriptor belongs.
    pub(crate) fn push(&mut self, step: impl Into<String>, message: Message, namespace: Option<usize>) {
        self.steps.push(step.into());
        if let Some(at) = namespace {
            self.namespace = Some(self.bytes.len() + at);
        }
        self.bytes.extend(message.finish(self.steps.len() as u32));
    }

    /// Adds what asks for no answer.
    pub(crate) fn push_quietly(&mut self, message: Message) {
        self.bytes.extend(message.finish(0));
    }
}

/// NLM_F_ACK
pub(crate) const ACK: u16 = 4;
/// NLM_F_EXCL
pub(crate) const EXCL: u16 = 0x200;
/// NLM_F_CREATE
pub(crate) const CREATE: u16 = 0x400;
/// NLM_F_DUMP
pub(crate) const DUMP: u16 = 0x300;

/// NLMSG_ERROR, which is also how a success is told, with the number 0.
const ERROR: u16 = 2;

/// The sequence number and errno of each answer. Stops where the bytes make no sense.
fn acks(mut rest: &[u8]) -> impl Iterator<Item = (u32, i32)> + '_ {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    std::iter::from_fn(move || {
        loop {
            let message = rest.get(..word(rest, 0)? as usize)?;
            if message.len() < HEADER {
                return None;
            }
            rest = rest.get(message.len().next_multiple_of(ALIGN)..).unwrap_or_default();
            let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
            if kind == ERROR {
                // The kernel tells errors as negative numbers.
                let code = word(message, HEADER)? as i32;
                return Some((word(message, 8)?, code.checked_neg().unwrap_or(i32::MAX)));
            }
        }
    })
}

/// A netlink socket. It speaks to the network namespace that it was opened in, for as long as it lives, whichever
/// thread uses it.
#[derive(Debug)]
pub struct Socket(OwnedFd, Protocol);

impl Socket {
    /// Opens one for interfaces, addresses and routes in the calling thread's network namespace; inside another by [`NetNs::run`](crate::NetNs::run).
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn open() -> Result<Socket, Error> {
        Socket::open_for(Protocol::Route)
    }

    /// Opens one for this part of the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; EPROTONOSUPPORT without nf_tables in the kernel.
    pub fn open_for(protocol: Protocol) -> Result<Socket, Error> {
        let failed = |call| move |errno: Errno| Error::Socket { call, source: errno.into() };
        // NETLINK_ROUTE is protocol 0, which rustix spells None.
        let number = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(NETFILTER),
        };
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, number).map_err(failed("socket"))?;
        // A connected netlink socket takes messages from the kernel alone; others could forge answers.
        rustix::net::connect(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed("connect"))?;
        Ok(Socket(fd, protocol))
    }

    /// Sends a batch and reads all answers. Does not block: the kernel answers within send(2).
    ///
    /// Needs CAP_NET_ADMIN over the socket's namespace. Requests that succeeded beside failed ones stay done.
    ///
    /// # Errors
    ///
    /// [`Error::Steps`], [`Error::Unanswered`], [`Error::Socket`].
    pub fn perform(&self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let failed = |call| move |errno: Errno| Error::Socket { call, source: errno.into() };
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, batch.bytes(), SendFlags::empty())).map_err(failed("send"))?;
        let mut answers = Vec::new();
        debug_assert_eq!(self.1, batch.protocol());
        // An answer to a failed request repeats the request.
        let mut buffer = vec![0; batch.bytes().len() + 4096];
        while acks(&answers).count() < batch.len() {
            match rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT)) {
                Ok((length, _)) => {
                    answers.extend_from_slice(&buffer[..length]);
                    answers.resize(answers.len().next_multiple_of(ALIGN), 0);
                }
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(failed("recv")(errno)),
            }
        }
        batch.check(&answers)
    }

    /// Sends one question and answers with all datagrams of the answer, after each other.
    pub(crate) fn ask(&self, question: Message) -> Result<Vec<u8>, Error> {
        let failed = |call| move |errno: Errno| Error::Socket { call, source: errno.into() };
        let question = question.finish(1);
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &question, SendFlags::empty())).map_err(failed("send"))?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; 32 << 10]);
        loop {
            match rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT)) {
                Ok((length, _)) => {
                    answers.extend_from_slice(&buffer[..length]);
                    answers.resize(answers.len().next_multiple_of(ALIGN), 0);
                }
                // The kernel makes the next part of a dump when this one is read: there is nothing left when there is nothing there.
                Err(Errno::AGAIN) => return Ok(answers),
                Err(errno) => return Err(failed("recv")(errno)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(36u32.to_ne_bytes());
        bytes.extend(ERROR.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    #[test]
    fn every_failed_request_is_told_by_its_name() {
        let batch = Batch::loopback_up().link_up("a", 2).link_up("b", 3);
        let text = |answers: &[Vec<u8>]| batch.check(&answers.concat()).map_err(|error| error.to_string());
        assert_eq!(text(&[answer(1, 0), answer(2, 0), answer(3, 0)]), Ok(()));
        assert_eq!(
            text(&[answer(1, 0), answer(2, -19), answer(3, -1)]).unwrap_err(),
            "set a up: No such device (os error 19); set b up: Operation not permitted (os error 1)"
        );
        assert_eq!(
            text(&[answer(1, 0), answer(1, 0), answer(9, -1), answer(3, 0)]).unwrap_err(),
            "talk to the kernel by netlink: 2 of 3 requests were answered"
        );
        assert_eq!(text(&[answer(2, -19)]).unwrap_err(), "set a up: No such device (os error 19)", "a failure outweighs a silence");
    }

    #[test]
    fn no_answer_makes_the_reader_panic() {
        let batch = Batch::loopback_up().link_up("a", 2);
        let mut state = 7u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..50_000 {
            let mut bytes = [answer(next() as u32 % 4, -(next() as i32 % 200)), answer(2, i32::MIN)].concat();
            for _ in 0..next() % 6 {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(next() as usize % (bytes.len() + 1));
            let _ = batch.check(&bytes);
        }
    }
}

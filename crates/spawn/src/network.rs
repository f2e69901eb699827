//! What a network namespace gets beyond loopback: requests to the kernel as data, relayed ports, and what is taken back.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::seccomp::{Action, ArgCond, Filter, FilterBuilder, Op};

/// Netlink requests that the supervisor sends when the process's network namespace is made. Each asks for an answer, and one that is
/// refused ends the start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Exchange {
    pub(crate) inside: bool,
    pub(crate) protocol: u32,
    pub(crate) messages: Vec<u8>,
    pub(crate) steps: Vec<String>,
    pub(crate) namespace_at: Option<usize>,
    pub(crate) lenient: bool,
}

impl Exchange {
    /// rtnetlink(7) requests from inside the new namespace. `steps` says what each does, as a fragment that fits behind "can't"; the nth
    /// has the sequence number n, from 1.
    pub fn inside(messages: Vec<u8>, steps: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let steps = steps.into_iter().map(Into::into).collect();
        Self { inside: true, protocol: 0, messages, steps, namespace_at: None, lenient: false }
    }

    /// Requests from the supervisor's own namespace, on a netlink socket of this protocol.
    pub fn outside(protocol: u32, messages: Vec<u8>, steps: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { inside: false, protocol, ..Self::inside(messages, steps) }
    }

    /// Where in the messages the supervisor writes its descriptor of the new namespace: four bytes.
    pub fn namespace_at(mut self, at: Option<usize>) -> Self {
        self.namespace_at = at;
        self
    }

    /// It is fine when they are refused.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }
}

/// What the living supervisor takes back, before everything else, and nobody in its place: another may have the same thing since. Whoever
/// holds such a thing by a lock finds out by that lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// Sends netlink requests from the supervisor's namespace; that they are refused is fine.
    Netlink {
        /// Of the socket.
        protocol: u32,
        /// The requests, each of which asks for an answer.
        messages: Vec<u8>,
        /// How many they are.
        count: u32,
    },
    /// Removes a file.
    RemoveFile(PathBuf),
}

/// A socket of this host that the container answers at: a process of the supervisor's, without privileges, accepts there, and connects
/// inside the container's network namespace.
#[derive(Debug)]
#[must_use]
pub struct Relay {
    pub(crate) socket: OwnedFd,
    pub(crate) protocol: u8,
    pub(crate) to: SocketAddr,
}

impl Relay {
    /// Connections to a listening TCP socket. It must not block.
    pub fn stream(socket: OwnedFd, to: SocketAddr) -> Self {
        Self { socket, protocol: 6, to }
    }

    /// Datagrams to a bound UDP socket, and the answers to each sender. It must not block.
    pub fn datagrams(socket: OwnedFd, to: SocketAddr) -> Self {
        Self { socket, protocol: 17, to }
    }
}

/// `struct sockaddr_in` or `sockaddr_in6`.
pub(crate) fn socket_address(address: SocketAddr) -> Vec<u8> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(AF_INET.to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(AF_INET6.to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// What an attendant may ask of the kernel: sockets of the internet, and nothing that has a name in a file system.
pub(crate) fn attendant_filter() -> &'static Filter {
    static FILTER: OnceLock<Filter> = OnceLock::new();
    FILTER.get_or_init(|| {
        let calls = [
            "accept4",
            "close",
            "connect",
            "shutdown",
            "getsockopt",
            "setsockopt",
            "recvfrom",
            "sendto",
            "splice",
            "pipe2",
            "ppoll",
            "clock_gettime",
            "mmap",
            "munmap",
            "madvise",
            "exit_group",
        ];
        let builder = calls.into_iter().fold(FilterBuilder::new(Action::KillProcess).native_only(), |b, call| b.rule(call, Action::Allow));
        let families =
            [2, 10].into_iter().fold(builder, |b, family| b.rule_if("socket", &[ArgCond::int(0, Op::Eq, family)], Action::Allow));
        // Its names are in the table: a test builds it.
        families.build().expect("the attendant's filter compiles")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attendants_filter_is_short() {
        assert!((10..120).contains(&attendant_filter().len()), "{}", attendant_filter().len());
    }

    #[test]
    fn socket_addresses_are_as_the_kernel_has_them() {
        let four = socket_address("10.1.2.3:80".parse().unwrap());
        assert_eq!((four.len(), &four[2..8]), (16, &[0, 80, 10, 1, 2, 3][..]));
        let six = socket_address("[fd00::3]:80".parse().unwrap());
        assert_eq!((six.len(), six[3], six[23]), (28, 80, 3));
    }
}

//! What a network namespace gets beyond loopback: requests to the kernel as data, relayed ports, names, and what is taken back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::dns;
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

    /// As [`inside`](Self::inside), on a netlink socket of another protocol, of which there is one kind at most.
    pub fn inside_by(protocol: u32, messages: Vec<u8>, steps: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { protocol, ..Self::inside(messages, steps) }
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

/// A server for names inside, at an address of the loopback interface: a process of the supervisor's, without privileges, answers with the names
/// of [lists](NameSlot), and asks others, in the supervisor's network namespace, for names that aren't there.
#[derive(Debug)]
#[must_use]
pub struct Resolver {
    pub(crate) listen: SocketAddr,
    pub(crate) lists: Vec<OwnedFd>,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) domains: Vec<String>,
}

impl Resolver {
    /// Listens at this IPv4 address inside, by UDP and TCP.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, lists: Vec::new(), servers: Vec::new(), domains: Vec::new() }
    }

    /// One more list of names, open for reading.
    pub fn list(mut self, list: OwnedFd) -> Self {
        self.lists.push(list);
        self
    }

    /// One more server that is asked for other names; three at most. Without one, there are no other names.
    pub fn server(mut self, server: SocketAddr) -> Self {
        self.servers.push(server);
        self
    }

    /// One more domain below which the lists' names are found, too: resolvers add those of `search` in resolv.conf(5).
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domains.push(domain.into());
        self
    }
}

/// A place in a list of names: a file that resolvers read, of such places one behind the other, each somebody's or free.
///
/// ```
/// use coracle_spawn::NameSlot;
/// let (slot, more) = NameSlot::new("/tmp/names", 0, [10, 1, 2, 3].into(), None, &["db", "primary"]);
/// assert!(more.is_empty());
/// assert_eq!(NameSlot::read(&slot.taken()).unwrap().1, ["db", "primary"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct NameSlot {
    pub(crate) list: PathBuf,
    pub(crate) at: u64,
    pub(crate) contents: Vec<u8>,
}

impl NameSlot {
    /// Bytes of one.
    pub const SIZE: usize = dns::SLOT;
    /// How many of a list are read.
    pub const MOST: usize = dns::MAX_SLOTS;

    /// The place that begins at byte `at` of a list, for the names of an address; the answer is also which of them found no room in it: they
    /// need one more. A name is at most 200 bytes.
    pub fn new(
        list: impl Into<PathBuf>,
        at: u64,
        v4: Ipv4Addr,
        v6: Option<Ipv6Addr>,
        names: &[impl AsRef<str>],
    ) -> (Self, &[impl AsRef<str>]) {
        let words = names.iter().map(|name| name.as_ref().as_bytes()).take_while(|name| name.len() <= 200);
        let (contents, count) = dns::write_slot(dns::state::ANSWERED, v4.octets(), v6.map(|v6| v6.octets()), words);
        (Self { list: list.into(), at, contents: contents.to_vec() }, names.get(count..).unwrap_or_default())
    }

    /// What is written there before it is answered: that the place is somebody's.
    pub fn taken(&self) -> Vec<u8> {
        let Some(slot) = dns::Slot::read(&self.contents) else { return Vec::new() };
        dns::write_slot(dns::state::TAKEN, slot.v4, slot.v6, slot.names()).0.to_vec()
    }

    /// Whose a place is, and the names; none where it is free, or wasn't written whole. Takes any bytes.
    pub fn read(bytes: &[u8]) -> Option<(Ipv4Addr, Vec<String>)> {
        let slot = dns::Slot::read(bytes)?;
        Some((slot.v4.into(), slot.names().map(|name| String::from_utf8_lossy(name).into_owned()).collect()))
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

/// What a resolver may ask of the kernel: its sockets, and to read what it holds.
pub(crate) fn resolver_filter() -> &'static Filter {
    static FILTER: OnceLock<Filter> = OnceLock::new();
    FILTER.get_or_init(|| {
        let calls = [
            "accept4",
            "close",
            "connect",
            "getsockopt",
            "recvfrom",
            "sendto",
            "pread64",
            "getrandom",
            "ppoll",
            "clock_gettime",
            "mmap",
            "munmap",
            "madvise",
            "exit_group",
        ];
        let builder = calls.into_iter().fold(FilterBuilder::new(Action::KillProcess).native_only(), |b, call| b.rule(call, Action::Allow));
        // Its names are in the table: a test builds it.
        builder.build().expect("the resolver's filter compiles")
    })
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
        assert!((10..120).contains(&resolver_filter().len()), "{}", resolver_filter().len());
    }

    #[test]
    fn socket_addresses_are_as_the_kernel_has_them() {
        let four = socket_address("10.1.2.3:80".parse().unwrap());
        assert_eq!((four.len(), &four[2..8]), (16, &[0, 80, 10, 1, 2, 3][..]));
        let six = socket_address("[fd00::3]:80".parse().unwrap());
        assert_eq!((six.len(), six[3], six[23]), (28, 80, 3));
    }

    fn question(name: &str, kind: u8) -> Vec<u8> {
        let labels = name.split('.').filter(|l| !l.is_empty()).flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
        [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0].into_iter().chain(labels).chain([0, 0, kind, 0, 1]).collect()
    }

    #[test]
    fn questions_are_read_strictly_and_in_lower_case() {
        let read = |bytes: &[u8]| dns::Question::read(bytes).map(|q| String::from_utf8_lossy(q.name.as_bytes()).into_owned());
        assert_eq!(read(&question("Db.Example.ORG", 1)), Ok("db.example.org".into()));
        assert_eq!(read(&question("", 2)), Ok(String::new()));
        let mut answer = question("db", 1);
        answer[2] |= 0x80;
        assert_eq!(read(&answer), Err(None), "two servers would talk for ever");
        assert_eq!(read(&answer[..11]), Err(None));
        let mut update = question("db", 1);
        update[2] |= 0x28;
        assert_eq!(read(&update), Err(Some(dns::code::NOT_DONE)));
        let mut pointer = question("db", 1);
        (pointer[12], pointer[13]) = (0xc0, 12);
        assert_eq!(read(&pointer), Err(Some(dns::code::MALFORMED)));
        let dotted = question("a", 1).iter().map(|&b| if b == b'a' { b'.' } else { b }).collect::<Vec<_>>();
        assert_eq!(read(&dotted), Err(Some(dns::code::MALFORMED)), "a label isn't two");
        let whole = question("db", 1);
        for cut in 12..whole.len() {
            assert_eq!(read(&whole[..cut]), Err(Some(dns::code::MALFORMED)));
        }
        let long = question(&["x".repeat(63).as_str(); 4].join("."), 1);
        assert_eq!(read(&long), Err(Some(dns::code::MALFORMED)));
    }

    #[test]
    fn addresses_are_read_backwards() {
        let of = |name: &str| dns::Name::new(name.as_bytes()).and_then(|name| name.address());
        assert_eq!(of("3.2.1.10.IN-ADDR.arpa."), Some(dns::Address::V4([10, 1, 2, 3])));
        let six = format!("{}0.0.d.f.ip6.arpa", "1.".repeat(28));
        assert!(matches!(of(&six), Some(dns::Address::V6([0xfd, 0, 0x11, ..]))));
        for bad in
            ["2.1.10.in-addr.arpa", "3.2.1.1.10.in-addr.arpa", "256.2.1.10.in-addr.arpa", "x.2.1.10.in-addr.arpa", "1.ip6.arpa", "arpa"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
        let name = dns::Name::new(b"db.corp.example").unwrap();
        assert_eq!(name.within(b"Corp.example"), Some(&b"db"[..]));
        assert_eq!((name.within(b"example.org"), name.within(b""), name.within(b"db.corp.example")), (None, None, None));
    }

    #[test]
    fn answers_are_cut_short_and_told_from_others() {
        let question = question("db", 1);
        let mut into = [0; dns::DATAGRAM];
        let mut reply = dns::Reply::begin(&mut into, &question, question.len()).unwrap();
        (0..64).for_each(|n| reply.address(&dns::Address::V4([10, 0, 0, n])));
        let length = reply.end(dns::code::FINE);
        assert!(length <= dns::DATAGRAM && into[2] & 2 == 2, "cut short");
        assert_eq!(usize::from(u16::from_be_bytes([into[6], into[7]])), (dns::DATAGRAM - question.len()) / 16);
        assert!(dns::answers(&into[..length], &question, question.len()));
        let mut other = into;
        other[1] ^= 1;
        assert!(!dns::answers(&other[..length], &question, question.len()), "another id");
        other = into;
        other[13] ^= 1;
        assert!(!dns::answers(&other[..length], &question, question.len()), "another name");
        assert!(!dns::answers(&question, &question, question.len()), "a question");
    }

    #[test]
    fn a_place_that_is_being_written_is_nobodys() {
        let (slot, _) = NameSlot::new("/x", 0, Ipv4Addr::new(10, 0, 0, 2), None, &["db"]);
        assert!(NameSlot::read(&slot.contents).is_some());
        for at in 4..slot.contents.len() {
            let mut torn = slot.contents.clone();
            torn[at] ^= 1;
            assert!(NameSlot::read(&torn).is_none(), "{at}");
        }
        crate::fuzz::dns(&slot.contents);
        crate::fuzz::dns(&question("db", 12));
    }
}

//! One nf_tables table of our own: constant rules over maps and sets, one element a port or network.
//!
//! ```text
//!  table inet coracle
//!    prerouting, output (nat)   a published port of this host → a container: by the maps ports4, ports6 (a fixed address), any4, any6
//!    postrouting (nat)          what leaves a network gets this host's address
//!    forward (filter)           into a network comes what belongs to a connection from inside or to a published port; nothing else
//!    input (filter)             from an internal network comes nothing but neighbour discovery and answers
//!  table bridge coracle
//!    prerouting (filter)        a port of a bridge sends from its own addresses, and no router advertisements; nothing between who is cut apart
//! ```
//!
//! Other tables are never changed, and read only by who diagnoses: what is accepted here can still be dropped there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::Error;
use crate::message::{Message, attributes, messages};
use crate::netlink::{ACK, Batch, CREATE, DUMP, EXCL, Protocol, Socket};
use crate::port::Transport;
use crate::subnet::Mac;

/// The tables' name. Another name is another firewall: two programs of different versions would each keep their own.
const TABLE: &str = "coracle";

/// An empty set that says which rules and sets the table has: another name makes it anew, with all that is in it. To be changed with them.
const FORMAT: &str = "format3";

const INET: u8 = 1;
const BRIDGE: u8 = 7;

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

/// NLM_F_APPEND
const APPEND: u16 = 0x800;

/// The first of the 32-bit registers that rules compute in.
pub(crate) const R0: u32 = 8;

/// NFTA_SET_ELEM_TIMEOUT: milliseconds.
const TIMEOUT: u16 = 4;
/// How often the kernel frees what has expired, in milliseconds. What has expired is gone before that.
const SWEEP: u32 = 10_000;

/// What a key or a value is made of: the number by which nft(8) shows it, and its bytes, each a multiple of four.
const IPV4: (u32, u32) = (7, 4);
const IPV6: (u32, u32) = (8, 16);
const ETHER: (u32, u32) = (9, 8);
const PROTO: (u32, u32) = (12, 4);
const SERVICE: (u32, u32) = (13, 4);
const IFNAME: (u32, u32) = (41, 16);

/// Something that can be put into the firewall and taken out again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// A private network.
    Network {
        /// Its bridge's name.
        bridge: String,
        /// Whether nothing leaves it: neither to other networks nor, but for answers, to this host.
        internal: bool,
    },
    /// A port of this host that is a container's.
    Port {
        /// TCP or UDP.
        transport: Transport,
        /// On this host. The unspecified address is all of them but the loopback ones.
        host: SocketAddr,
        /// In the container.
        container: SocketAddr,
    },
    /// A port of a bridge, and who is behind it.
    Plug {
        /// The interface's name.
        interface: String,
        /// The hardware address behind it.
        mac: Mac,
        /// The addresses behind it.
        addresses: Vec<IpAddr>,
        /// Whether it is held to these addresses, which takes a kernel with nf_tables for bridges: [`Firewall::guards_plugs`].
        guarded: bool,
    },
    /// Two addresses of one bridge that don't hear each other. Takes a kernel with nf_tables for bridges.
    Cut {
        /// One of them.
        one: IpAddr,
        /// The other, of the same family.
        other: IpAddr,
    },
    /// An interface that didn't forward before its network needed it to: it goes on forwarding nothing else.
    Guard {
        /// The interface's name.
        interface: String,
    },
}

/// The sets that an entry has an element in: set, family, key, value.
type Element = (&'static str, u8, Vec<u8>, Option<Vec<u8>>);

impl Entry {
    fn elements(&self) -> Vec<Element> {
        match self {
            Entry::Network { bridge, internal } => {
                let mut elements =
                    vec![("bridges", INET, name(bridge), None), ("within", INET, [name(bridge), name(bridge)].concat(), None)];
                elements.push((if *internal { "internal" } else { "outgoing" }, INET, name(bridge), None));
                elements
            }
            Entry::Port { transport, host, container } => {
                let mut key = vec![transport.number(), 0, 0, 0];
                let any = host.ip().is_unspecified();
                if !any {
                    key.extend(octets(host.ip()));
                }
                key.extend(port(host.port()));
                let mut value = octets(container.ip());
                value.extend(port(container.port()));
                let set = match (host.is_ipv4(), any) {
                    (true, true) => "any4",
                    (true, false) => "ports4",
                    (false, true) => "any6",
                    (false, false) => "ports6",
                };
                vec![(set, INET, key, Some(value))]
            }
            Entry::Plug { interface, mac, addresses, guarded } => {
                let mut mac_key = mac.0.to_vec();
                mac_key.resize(8, 0);
                let mut elements =
                    vec![("plugs", BRIDGE, name(interface), None), ("macs", BRIDGE, [name(interface), mac_key].concat(), None)];
                for address in addresses {
                    let (set, members) = if address.is_ipv4() { ("addresses4", "members4") } else { ("addresses6", "members6") };
                    elements.push((set, BRIDGE, [name(interface), octets(*address)].concat(), None));
                    elements.push((members, INET, octets(*address), None));
                }
                elements.retain(|(_, family, _, _)| *guarded || *family == INET);
                elements
            }
            Entry::Cut { one, other } => {
                let set = if one.is_ipv4() { "cuts4" } else { "cuts6" };
                let key = |a: IpAddr, b: IpAddr| [octets(a), octets(b)].concat();
                vec![(set, BRIDGE, key(*one, *other), None), (set, BRIDGE, key(*other, *one), None)]
            }
            Entry::Guard { interface } => vec![("guarded", INET, name(interface), None)],
        }
    }

    fn words(&self) -> String {
        match self {
            Entry::Network { bridge, .. } => format!("the network of {bridge}"),
            Entry::Port { transport, host, container } => format!("the port {host}/{transport} to {container}"),
            Entry::Plug { interface, .. } => format!("the addresses behind {interface}"),
            Entry::Cut { one, other } => format!("the cut between {one} and {other}"),
            Entry::Guard { interface } => format!("the guard of {interface}"),
        }
    }
}

/// An interface's name as nf_tables compares it.
fn name(interface: &str) -> Vec<u8> {
    let mut bytes = interface.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A port as it stands in a register: in network order, and two bytes of nothing.
fn port(number: u16) -> [u8; 4] {
    let [a, b] = number.to_be_bytes();
    [a, b, 0, 0]
}

/// The firewall of the network namespace that a socket was opened in.
#[derive(Debug)]
pub struct Firewall(Socket);

impl Firewall {
    /// Opens it. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; EPROTONOSUPPORT without nf_tables in the kernel.
    pub fn open() -> Result<Firewall, Error> {
        Ok(Firewall(Socket::open_for(Protocol::Netfilter)?))
    }

    /// Makes the tables with their rules if they aren't there; whether they had to be made, so that entries have to be put in anew: whoever
    /// reloads a firewall by `nft flush ruleset` throws ours away, too.
    ///
    /// Needs CAP_NET_ADMIN over the namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; [`Error::Steps`].
    pub fn ensure(&self) -> Result<bool, Error> {
        if self.is_whole()? {
            return Ok(false);
        }
        // Half of it may be there. Another process may be making it at this moment: then its tables are replaced by the same.
        self.0.perform(&rules(INET))?;
        match self.0.perform(&rules(BRIDGE)) {
            // A kernel without nf_tables for bridges: it goes without.
            Err(Error::Steps(_)) | Ok(()) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the tables are there, as this version makes them.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn is_whole(&self) -> Result<bool, Error> {
        let mut question = message(GETSET, INET, 0);
        question.text(1, TABLE);
        question.text(2, FORMAT);
        let answers = self.0.ask(question)?;
        Ok(messages(&answers).any(|(kind, _)| kind == subsystem(NEWSET)))
    }

    /// Whether ports of bridges are held to their own addresses: this kernel may not know nf_tables for bridges.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn guards_plugs(&self) -> Result<bool, Error> {
        self.has(BRIDGE)
    }

    fn has(&self, family: u8) -> Result<bool, Error> {
        let mut question = message(GETTABLE, family, 0);
        question.text(1, TABLE);
        let answers = self.0.ask(question)?;
        Ok(messages(&answers).any(|(kind, _)| kind == subsystem(NEWTABLE)))
    }

    /// Whether an entry is in, whatever its value.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn holds(&self, entry: &Entry) -> Result<bool, Error> {
        for element in entry.elements() {
            if self.look(&element)? != Place::Taken {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Performs a batch of [`Batch::firewall_add`] or [`Batch::firewall_remove`].
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; [`Error::Steps`], and then nothing was changed.
    pub fn perform(&self, batch: &Batch) -> Result<(), Error> {
        self.0.perform(batch)
    }

    /// Puts entries in, each instead of one with its key.
    ///
    /// # Errors
    ///
    /// As [`perform`](Self::perform).
    pub fn put(&self, entries: &[Entry]) -> Result<(), Error> {
        for entry in entries {
            self.make_room(entry)?;
        }
        for some in entries.chunks(100) {
            self.perform(&Batch::firewall_add(some))?;
        }
        Ok(())
    }

    /// Takes out what has an entry's place, whatever its value; nothing, as a rule. Asks first: the kernel answers a transaction that takes
    /// out what isn't there with a grace period, which is ten milliseconds. What is about to expire is waited for.
    ///
    /// # Errors
    ///
    /// As [`perform`](Self::perform).
    pub fn make_room(&self, entry: &Entry) -> Result<(), Error> {
        for element in entry.elements() {
            // One tick of the slowest clock is ten milliseconds.
            for _ in 0..100 {
                match self.look(&element)? {
                    Place::Free => break,
                    Place::Expiring => std::thread::sleep(Duration::from_millis(1)),
                    Place::Taken => {
                        let mut batch = begin();
                        push(&mut batch, &element, DELSETELEM, 0, None, format!("take {} out of the firewall", entry.words()));
                        self.perform(&end(batch))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn look(&self, (set, family, key, _): &Element) -> Result<Place, Error> {
        let mut question = message(GETSETELEM, *family, 0);
        question.text(1, TABLE);
        question.text(2, set);
        question.nest(3, |elements| elements.nest(1, |element| element.nest(1, |data| data.put(1, key))));
        let answers = self.0.ask(question)?;
        Ok(messages(&answers).find(|(kind, _)| *kind == subsystem(NEWSETELEM)).map_or(Place::Free, |(_, body)| read_element(body)))
    }

    /// Whether this kernel lets entries [expire](Batch::firewall_expire) that were put in to stay: Linux 6.12.
    pub fn lets_expire() -> bool {
        let name = rustix::system::uname();
        let release = name.release().to_string_lossy();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(12))
    }

    /// Chains of others that drop what is forwarded unless a rule accepts it: family, table, chain.
    pub(crate) fn foreign_drops(&self) -> Result<Vec<(&'static str, String, String)>, Error> {
        let answers = self.0.ask(message(GETCHAIN, 0, DUMP))?;
        Ok(messages(&answers).filter(|(kind, _)| *kind == subsystem(NEWCHAIN)).filter_map(|(_, body)| read_drop(body)).collect())
    }

    /// Takes entries out.
    ///
    /// # Errors
    ///
    /// As [`perform`](Self::perform); ENOENT where one isn't in.
    pub fn remove(&self, entries: &[Entry]) -> Result<(), Error> {
        self.perform(&Batch::firewall_remove(entries))
    }

    /// Removes the tables with all that is in them.
    ///
    /// # Errors
    ///
    /// As [`perform`](Self::perform).
    pub fn clear(&self) -> Result<(), Error> {
        for family in [INET, BRIDGE] {
            if self.has(family)? {
                let mut batch = begin();
                let mut table = message(DELTABLE, family, ACK);
                table.text(1, TABLE);
                batch.push("remove our table", table, None);
                self.0.perform(&end(batch))?;
            }
        }
        Ok(())
    }
}

impl Batch {
    /// Puts entries into the firewall: all or none. One that is in there with the same value is fine, with another an error (EEXIST).
    pub fn firewall_add(entries: &[Entry]) -> Batch {
        change(entries, NEWSETELEM, CREATE, None)
    }

    /// As [`firewall_add`](Self::firewall_add), for so many milliseconds. One that is in there gets this time from now on (Linux 6.12).
    pub fn firewall_add_for(entries: &[Entry], milliseconds: u64) -> Batch {
        change(entries, NEWSETELEM, CREATE, Some(milliseconds))
    }

    /// Takes entries out of the firewall: all, or none (ENOENT).
    pub fn firewall_remove(entries: &[Entry]) -> Batch {
        change(entries, DELSETELEM, 0, None)
    }

    /// As [`firewall_remove`](Self::firewall_remove), but they expire within some ten milliseconds: for taking elements out the kernel waits
    /// for a grace period, in the transaction of whoever comes next. One whose value has changed meanwhile is refused, and with it all (EEXIST).
    ///
    /// Needs Linux 6.12, before which they stay: ask [`Firewall::lets_expire`].
    pub fn firewall_expire(entries: &[Entry]) -> Batch {
        change(entries, NEWSETELEM, CREATE, Some(1))
    }
}

/// A chain that drops in the end what is forwarded. Takes any bytes.
fn read_drop(body: &[u8]) -> Option<(&'static str, String, String)> {
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
    let big = |value: &[u8]| Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?));
    let (mut table, mut chain, mut forwards, mut drops) = (String::new(), String::new(), false, false);
    // Behind struct nfgenmsg.
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            1 => table = text(value),
            3 => chain = text(value),
            4 => forwards = attributes(value).any(|(kind, hook)| kind == 1 && big(hook) == Some(hook::FORWARD)),
            5 => drops = big(value) == Some(0),
            _ => {}
        }
    }
    (forwards && drops && table != TABLE).then_some((family, table, chain))
}

/// What has an element's place.
#[derive(PartialEq, Eq)]
enum Place {
    Free,
    /// One that is gone in a moment.
    Expiring,
    Taken,
}

/// Takes any bytes.
fn read_element(body: &[u8]) -> Place {
    const ELEMENTS: u16 = 3;
    // Behind struct nfgenmsg.
    let mut lists = attributes(body.get(4..).unwrap_or_default()).filter(|(kind, _)| *kind == ELEMENTS);
    let mut element = lists.next().into_iter().flat_map(|(_, list)| attributes(list)).flat_map(|(_, element)| attributes(element));
    if element.any(|(kind, _)| kind == TIMEOUT) { Place::Expiring } else { Place::Taken }
}

fn change(entries: &[Entry], kind: u16, flags: u16, timeout: Option<u64>) -> Batch {
    let mut batch = begin();
    let (verb, direction) = if kind == NEWSETELEM && timeout != Some(1) { ("put", "into") } else { ("take", "out of") };
    for entry in entries {
        for element in entry.elements() {
            push(&mut batch, &element, kind, flags, timeout, format!("{verb} {} {direction} the firewall", entry.words()));
        }
    }
    end(batch)
}

fn push(batch: &mut Batch, (set, family, key, value): &Element, kind: u16, flags: u16, timeout: Option<u64>, step: String) {
    let mut message = message(kind, *family, ACK | flags);
    message.text(1, TABLE);
    message.text(2, set);
    message.nest(3, |elements| {
        elements.nest(1, |element| {
            element.nest(1, |data| data.put(1, key));
            if let Some(value) = value {
                element.nest(2, |data| data.put(1, value));
            }
            if let Some(timeout) = timeout {
                element.put(TIMEOUT, &timeout.to_be_bytes());
            }
        })
    });
    batch.push(step, message, None);
}

/// A message of nf_tables.
fn message(kind: u16, family: u8, flags: u16) -> Message {
    // struct nfgenmsg { u8 family; u8 version; be16 resource; }
    Message::new(subsystem(kind), flags, &[family, 0, 0, 0])
}

/// NFNL_SUBSYS_NFTABLES
const fn subsystem(kind: u16) -> u16 {
    10 << 8 | kind
}

/// NFNL_MSG_BATCH_BEGIN
fn begin() -> Batch {
    let mut batch = Batch::netfilter();
    batch.push_quietly(Message::new(0x10, 0, &[0, 0, 0, 10]));
    batch
}

/// NFNL_MSG_BATCH_END
fn end(mut batch: Batch) -> Batch {
    batch.push_quietly(Message::new(0x11, 0, &[0, 0, 0, 10]));
    batch
}

/// A table with its sets, chains and rules, in place of one that may be there.
fn rules(family: u8) -> Batch {
    let mut table = Table { batch: begin(), family, sets: 0 };
    // Made, removed and made in one transaction: whichever was there before, the last one is.
    [(NEWTABLE, CREATE), (DELTABLE, 0), (NEWTABLE, CREATE | EXCL)].into_iter().for_each(|(kind, flags)| table.message(kind, flags));
    if family == INET {
        inet(&mut table)
    } else {
        bridge(&mut table)
    }
    table.end()
}

fn inet(table: &mut Table) {
    table.set(FORMAT, &[SERVICE], None);
    table.set("bridges", &[IFNAME], None);
    table.set("outgoing", &[IFNAME], None);
    table.set("internal", &[IFNAME], None);
    table.set("guarded", &[IFNAME], None);
    table.set("within", &[IFNAME, IFNAME], None);
    table.set("members4", &[IPV4], None);
    table.set("members6", &[IPV6], None);
    table.set("ports4", &[PROTO, IPV4, SERVICE], Some(&[IPV4, SERVICE]));
    table.set("ports6", &[PROTO, IPV6, SERVICE], Some(&[IPV6, SERVICE]));
    table.set("any4", &[PROTO, SERVICE], Some(&[IPV4, SERVICE]));
    table.set("any6", &[PROTO, SERVICE], Some(&[IPV6, SERVICE]));

    const DSTNAT: i32 = -100;
    const SRCNAT: i32 = 100;
    // Before those of others, so that a drop of ours is final, and an accept of ours isn't.
    const FILTER: i32 = -5;
    table.chain("prerouting", "nat", hook::PREROUTING, DSTNAT);
    table.chain("output", "nat", hook::OUTPUT, DSTNAT);
    for chain in ["prerouting", "output"] {
        for (family, address, width) in [(hook::IPV4, 16, 4), (hook::IPV6, 24, 16)] {
            let (fixed, any) = if width == 4 { ("ports4", "any4") } else { ("ports6", "any6") };
            let only = |rule: Rule| rule.family(family);
            // The key begins with the protocol, so what isn't TCP or UDP is never found. Loopback addresses are never translated: that needs route_localnet, which lets neighbours in.
            let local = |rule: Rule| match width {
                4 => rule.local_destination().load(NETWORK, 16, 1, R0).compare(R0, false, &[127]),
                _ => rule.local_destination().load(NETWORK, 24, 16, R0).compare(R0, false, &Ipv6Addr::LOCALHOST.octets()),
            };
            let to = |rule: Rule| rule.destination_nat(family, R0, R0 + width / 4);
            let rule =
                local(only(Rule::new())).protocol(R0).load(NETWORK, address, width, R0 + 1).load(TRANSPORT, 2, 2, R0 + 1 + width / 4);
            table.rule(chain, to(rule.look_up(fixed, R0, Some(R0))));
            let rule = local(only(Rule::new())).protocol(R0).load(TRANSPORT, 2, 2, R0 + 1);
            table.rule(chain, to(rule.look_up(any, R0, Some(R0))));
        }
    }
    table.chain("postrouting", "nat", hook::POSTROUTING, SRCNAT);
    table.rule(
        "postrouting",
        Rule::new().interface(IN, R0).look_up("outgoing", R0, None).interface(OUT, R0).not_in("bridges", R0).masquerade(),
    );
    // A container that asks for its own or a neighbour's published port: the answer has to come back by this host. With br_netfilter such a
    // packet comes here without the interface that it came by, so it is known by its address.
    for (family, offset, length, members) in [(hook::IPV4, 12, 4, "members4"), (hook::IPV6, 8, 16, "members6")] {
        let rule = Rule::new().interface(OUT, R0).look_up("bridges", R0, None).translated().family(family);
        table.rule("postrouting", rule.load(NETWORK, offset, length, R0).look_up(members, R0, None).masquerade());
    }

    table.chain("forward", "filter", hook::FORWARD, FILTER);
    // With br_netfilter, frames within one bridge come by here.
    let within = Rule::new().interface(IN, R0).interface(OUT, R0 + 4).look_up("within", R0, None);
    table.rule("forward", within.accept());
    for side in [IN, OUT] {
        table.rule("forward", Rule::new().interface(side, R0).look_up("internal", R0, None).drop());
    }
    let into = || Rule::new().interface(OUT, R0).look_up("bridges", R0, None);
    table.rule("forward", into().established().accept());
    table.rule("forward", into().translated().accept());
    table.rule("forward", into().drop());
    table.rule("forward", Rule::new().interface(IN, R0).look_up("guarded", R0, None).drop());

    table.chain("input", "filter", hook::INPUT, FILTER);
    let internal = || Rule::new().interface(IN, R0).look_up("internal", R0, None);
    table.rule("input", internal().established().accept());
    // Neighbour solicitation and advertisement.
    for kind in [135, 136] {
        table.rule(
            "input",
            internal()
                .family(hook::IPV6)
                .protocol(R0)
                .compare(R0, true, &[58])
                .load(TRANSPORT, 0, 1, R0)
                .compare(R0, true, &[kind])
                .accept(),
        );
    }
    table.rule("input", internal().drop());
}

fn bridge(table: &mut Table) {
    table.set("plugs", &[IFNAME], None);
    table.set("macs", &[IFNAME, ETHER], None);
    table.set("addresses4", &[IFNAME, IPV4], None);
    table.set("addresses6", &[IFNAME, IPV6], None);
    table.set("cuts4", &[IPV4, IPV4], None);
    table.set("cuts6", &[IPV6, IPV6], None);
    const FILTER: i32 = -200;
    table.chain("prerouting", "filter", hook::PREROUTING, FILTER);
    let plug = || Rule::new().interface(IN, R0).look_up("plugs", R0, None);
    table.rule("prerouting", plug().load(LINK, 6, 6, R0 + 4).not_in("macs", R0).drop());
    let kind = |number: u16| plug().load(LINK, 12, 2, R0 + 4).compare(R0 + 4, true, &number.to_be_bytes());
    let (ip, arp, ip6) = (0x0800, 0x0806, 0x86dd);
    // Both addresses, one behind the other.
    table.rule("prerouting", kind(ip).load(NETWORK, 12, 8, R0 + 4).look_up("cuts4", R0 + 4, None).drop());
    table.rule("prerouting", kind(ip6).load(NETWORK, 8, 32, R0 + 4).look_up("cuts6", R0 + 4, None).drop());
    table.rule("prerouting", kind(ip).load(NETWORK, 12, 4, R0 + 4).not_in("addresses4", R0).drop());
    // The sender's hardware and protocol address.
    table.rule("prerouting", kind(arp).load(NETWORK, 8, 6, R0 + 4).not_in("macs", R0).drop());
    table.rule("prerouting", kind(arp).load(NETWORK, 14, 4, R0 + 4).not_in("addresses4", R0).drop());
    // Router advertisements (134) and redirects (137), also behind a hop-by-hop header, which neither needs.
    for number in [134, 137] {
        let icmp = kind(ip6).load(NETWORK, 6, 1, R0 + 4).compare(R0 + 4, true, &[58]);
        table.rule("prerouting", icmp.load(NETWORK, 40, 1, R0 + 4).compare(R0 + 4, true, &[number]).drop());
    }
    // Link-local addresses and none at all (the search for duplicates) are everybody's own.
    let from = || kind(ip6).load(NETWORK, 8, 16, R0 + 4);
    table.rule("prerouting", from().compare(R0 + 4, true, &Ipv6Addr::UNSPECIFIED.octets()).accept());
    table.rule(
        "prerouting",
        kind(ip6).load(NETWORK, 8, 2, R0 + 4).mask(R0 + 4, &[0xff, 0xc0]).compare(R0 + 4, true, &[0xfe, 0x80]).accept(),
    );
    table.rule("prerouting", from().not_in("addresses6", R0).drop());
    for number in [ip, arp, ip6] {
        table.rule("prerouting", kind(number).accept());
    }
    // Nothing else is spoken: tagged frames would hide what is in them.
    table.rule("prerouting", plug().drop());
}

pub(crate) use hook::OUTPUT;

mod hook {
    pub(super) const PREROUTING: u32 = 0;
    pub(super) const INPUT: u32 = 1;
    pub(super) const FORWARD: u32 = 2;
    pub(crate) const OUTPUT: u32 = 3;
    pub(super) const POSTROUTING: u32 = 4;
    /// NFPROTO_IPV4, NFPROTO_IPV6
    pub(super) const IPV4: u8 = 2;
    pub(super) const IPV6: u8 = 10;
}

/// A table, being written.
pub(crate) struct Table {
    batch: Batch,
    family: u8,
    sets: u32,
}

impl Table {
    /// One in a namespace that has none of ours.
    pub(crate) fn begin() -> Table {
        let mut table = Table { batch: begin(), family: INET, sets: 0 };
        table.message(NEWTABLE, CREATE | EXCL);
        table
    }

    pub(crate) fn end(self) -> Batch {
        end(self.batch)
    }

    fn message(&mut self, kind: u16, flags: u16) {
        let mut message = message(kind, self.family, ACK | flags);
        message.text(1, TABLE);
        self.batch.push("make our table", message, None);
    }

    fn set(&mut self, name: &str, key: &[(u32, u32)], value: Option<&[(u32, u32)]>) {
        const MAP: u32 = 8;
        // Elements may be given one, and stay without.
        const TIMEOUTS: u32 = 16;
        let kind = |parts: &[(u32, u32)]| parts.iter().fold(0, |kind, part| kind << 6 | part.0);
        let length = |parts: &[(u32, u32)]| parts.iter().map(|part| part.1).sum();
        self.sets += 1;
        let mut message = message(NEWSET, self.family, ACK | CREATE | EXCL);
        message.text(1, TABLE);
        message.text(2, name);
        message.big(3, TIMEOUTS | if value.is_some() { MAP } else { 0 });
        message.big(4, kind(key));
        message.big(5, length(key));
        if let Some(value) = value {
            message.big(6, kind(value));
            message.big(7, length(value));
        }
        // What rules of the same transaction name it by.
        message.big(10, self.sets);
        message.big(12, SWEEP);
        if key == [IFNAME] {
            // For nft(8) alone, which else shows a name backwards: NFTNL_UDATA_SET_KEYBYTEORDER, four bytes, the machine's order.
            let order = [&[0, 4][..], &1u32.to_ne_bytes()].concat();
            message.put(13, &order);
        }
        self.batch.push(format!("make our set {name}"), message, None);
    }

    pub(crate) fn chain(&mut self, name: &str, kind: &str, hook: u32, priority: i32) {
        let mut message = message(NEWCHAIN, self.family, ACK | CREATE | EXCL);
        message.text(1, TABLE);
        message.text(3, name);
        message.nest(4, |attributes| {
            attributes.big(1, hook);
            attributes.big(2, priority as u32);
        });
        const ACCEPT: u32 = 1;
        message.big(5, ACCEPT);
        message.text(7, kind);
        self.batch.push(format!("make our chain {name}"), message, None);
    }

    pub(crate) fn rule(&mut self, chain: &str, rule: Rule) {
        let mut message = message(NEWRULE, self.family, ACK | CREATE | APPEND);
        message.text(1, TABLE);
        message.text(2, chain);
        message.nest(4, |list| {
            for (name, expression) in &rule.0 {
                list.nest(1, |element| {
                    element.text(1, name);
                    element.nest(2, |data| data.raw(expression));
                });
            }
        });
        self.batch.push(format!("make a rule of our chain {chain}"), message, None);
    }
}

/// Bases of what is loaded of a packet.
const LINK: u32 = 0;
pub(crate) const NETWORK: u32 = 1;
pub(crate) const TRANSPORT: u32 = 2;
/// NFT_META_IIFNAME, NFT_META_OIFNAME
const IN: u32 = 6;
const OUT: u32 = 7;

/// Expressions, one after the other, each by its name and its attributes.
#[derive(Clone)]
pub(crate) struct Rule(Vec<(&'static str, Vec<u8>)>);

impl Rule {
    pub(crate) fn new() -> Rule {
        Rule(Vec::new())
    }

    fn with<T>(mut self, name: &'static str, attributes: impl FnOnce(&mut Message) -> T) -> Rule {
        let mut message = Message::new(0, 0, &[]);
        attributes(&mut message);
        self.0.push((name, message.finish(0).split_off(crate::message::HEADER)));
        self
    }

    fn meta(self, key: u32, register: u32) -> Rule {
        self.with("meta", |a| {
            a.big(2, key);
            a.big(1, register);
        })
    }

    fn interface(self, which: u32, register: u32) -> Rule {
        self.meta(which, register)
    }

    /// Goes on with packets of IPv4 or IPv6 only.
    fn family(self, family: u8) -> Rule {
        const NFPROTO: u32 = 15;
        self.meta(NFPROTO, R0).compare(R0, true, &[family])
    }

    pub(crate) fn protocol(self, register: u32) -> Rule {
        const L4PROTO: u32 = 16;
        self.meta(L4PROTO, register)
    }

    pub(crate) fn load(self, base: u32, offset: u32, length: u32, register: u32) -> Rule {
        self.with("payload", |a| {
            a.big(1, register);
            a.big(2, base);
            a.big(3, offset);
            a.big(4, length);
        })
    }

    /// Goes on where the register is (or isn't) this.
    pub(crate) fn compare(self, register: u32, equal: bool, value: &[u8]) -> Rule {
        self.with("cmp", |a| {
            a.big(1, register);
            a.big(2, u32::from(!equal));
            a.nest(3, |data| data.put(1, value));
        })
    }

    /// Puts this into a register.
    pub(crate) fn set(self, register: u32, value: &[u8]) -> Rule {
        self.with("immediate", |a| {
            a.big(1, register);
            a.nest(2, |data| data.put(1, value));
        })
    }

    /// Writes a register into the packet, and mends the checksum that is at this place of the same header.
    pub(crate) fn store(self, base: u32, offset: u32, length: u32, register: u32, checksum: u32) -> Rule {
        const OF_THE_INTERNET: u32 = 1;
        self.with("payload", |a| {
            a.big(5, register);
            a.big(2, base);
            a.big(3, offset);
            a.big(4, length);
            a.big(6, OF_THE_INTERNET);
            a.big(7, checksum);
        })
    }

    fn mask(self, register: u32, mask: &[u8]) -> Rule {
        self.with("bitwise", |a| {
            a.big(1, register);
            a.big(2, register);
            a.big(3, mask.len() as u32);
            a.nest(4, |data| data.put(1, mask));
            a.nest(5, |data| data.put(1, &vec![0; mask.len()]));
        })
    }

    /// Goes on where the key is in the set; its value comes to `value`.
    fn look_up(self, set: &str, key: u32, value: Option<u32>) -> Rule {
        self.with("lookup", |a| {
            a.text(1, set);
            a.big(2, key);
            if let Some(register) = value {
                a.big(3, register);
            }
        })
    }

    fn not_in(self, set: &str, key: u32) -> Rule {
        const INVERT: u32 = 1;
        self.with("lookup", |a| {
            a.text(1, set);
            a.big(2, key);
            a.big(5, INVERT);
        })
    }

    /// Goes on with what is for this host.
    fn local_destination(self) -> Rule {
        const DESTINATION: u32 = 2;
        const TYPE: u32 = 3;
        const RTN_LOCAL: u32 = 2;
        self.with("fib", |a| {
            a.big(1, R0);
            a.big(2, TYPE);
            a.big(3, DESTINATION);
        })
        .compare(R0, true, &RTN_LOCAL.to_ne_bytes())
    }

    fn connection(self, key: u32, bits: u32) -> Rule {
        let rule = self.with("ct", |a| {
            a.big(1, R0);
            a.big(2, key);
        });
        rule.mask(R0, &bits.to_ne_bytes()).compare(R0, false, &0u32.to_ne_bytes())
    }

    /// Goes on with what belongs to a connection that was let by before, or is about one.
    fn established(self) -> Rule {
        const STATE: u32 = 0;
        self.connection(STATE, 2 | 4)
    }

    /// Goes on with connections whose destination was translated.
    fn translated(self) -> Rule {
        const STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.connection(STATUS, IPS_DST_NAT)
    }

    fn destination_nat(self, family: u8, address: u32, port: u32) -> Rule {
        const DNAT: u32 = 1;
        self.with("nat", |a| {
            a.big(1, DNAT);
            a.big(2, family.into());
            a.big(3, address);
            a.big(5, port);
        })
    }

    fn masquerade(self) -> Rule {
        self.with("masq", |_| {})
    }

    fn verdict(self, code: u32) -> Rule {
        self.with("immediate", |a| {
            a.big(1, 0);
            a.nest(2, |data| data.nest(2, |verdict| verdict.big(1, code)));
        })
    }

    fn accept(self) -> Rule {
        self.verdict(1)
    }

    fn drop(self) -> Rule {
        self.verdict(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_entry_is_one_message_an_element_between_begin_and_end() {
        let host = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
        let container = SocketAddr::from((Ipv4Addr::new(10, 128, 1, 2), 80));
        let entry = Entry::Port { transport: Transport::Tcp, host, container };
        let batch = Batch::firewall_add(std::slice::from_ref(&entry));
        assert_eq!(batch.steps().collect::<Vec<_>>(), ["put the port 0.0.0.0:8080/tcp to 10.128.1.2:80 into the firewall"]);
        let kinds: Vec<u16> = messages(batch.bytes()).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [0x10, 0x0a0c, 0x11]);
        assert_eq!(batch.protocol(), Protocol::Netfilter);
        let elements = entry.elements();
        assert_eq!(elements, [("any4", INET, vec![6, 0, 0, 0, 0x1f, 0x90, 0, 0], Some(vec![10, 128, 1, 2, 0, 80, 0, 0]))]);
    }

    #[test]
    fn every_element_has_the_length_of_its_set() {
        let lengths = vec![
            ("bridges", 16),
            ("outgoing", 16),
            ("internal", 16),
            ("guarded", 16),
            ("members4", 4),
            ("members6", 16),
            ("within", 32),
            ("ports4", 12),
            ("ports6", 24),
            ("any4", 8),
        ];
        let lengths = lengths.into_iter().chain([("any6", 8), ("plugs", 16), ("macs", 24), ("addresses4", 20), ("addresses6", 32)]);
        let lengths = lengths.chain([("cuts4", 8), ("cuts6", 32)]);
        let lengths: std::collections::HashMap<&str, usize> = lengths.collect();
        let four = SocketAddr::from((Ipv4Addr::new(1, 2, 3, 4), 1));
        let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 1));
        let port = |host: SocketAddr| Entry::Port { transport: Transport::Udp, host, container: host };
        let entries = [
            Entry::Network { bridge: "b".into(), internal: true },
            Entry::Network { bridge: "b".into(), internal: false },
            Entry::Guard { interface: "e".into() },
            Entry::Cut { one: four.ip(), other: four.ip() },
            Entry::Cut { one: six.ip(), other: six.ip() },
            port(four),
            port(six),
            port(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1))),
            port(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 1))),
            Entry::Plug { interface: "v".into(), mac: Mac([2, 0, 0, 0, 0, 1]), addresses: vec![four.ip(), six.ip()], guarded: true },
        ];
        for (set, _, key, _) in entries.iter().flat_map(Entry::elements) {
            assert_eq!(Some(&key.len()), lengths.get(set), "{set}");
        }
    }
}

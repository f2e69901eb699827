//! Requests about interfaces, addresses and routes: rtnetlink(7).

use std::net::IpAddr;

use crate::Error;
use crate::message::{Message, attributes, messages};
use crate::netlink::{ACK, Batch, CREATE, DUMP, EXCL, Socket};
use crate::subnet::{Mac, Subnet};

/// The loopback interface is the first of every namespace; the kernel has it as `LOOPBACK_IFINDEX`.
pub(crate) const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
/// What a bridge is asked about its ports; RTM_NEWLINK would say yes and do nothing.
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// One end of a virtual cable, in the namespace that [`Batch::namespace_at`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Veth {
    /// The end in the sender's namespace: its name, at most 15 bytes, and its index, which must be free.
    pub name: String,
    /// Its index. The sender chooses it, so that nobody has to ask for it.
    pub index: u32,
    /// The bridge that it is plugged into, by index.
    pub bridge: u32,
    /// The name of the other end.
    pub peer: String,
    /// Its index.
    pub peer_index: u32,
    /// Its hardware address.
    pub peer_mac: Mac,
    /// Bytes of a packet, for both.
    pub mtu: u32,
}

impl Veth {
    /// A cable; the fields that aren't said here may be set after.
    pub fn new(name: impl Into<String>, index: u32, bridge: u32, peer: impl Into<String>, peer_index: u32, peer_mac: Mac) -> Veth {
        Veth { name: name.into(), index, bridge, peer: peer.into(), peer_index, peer_mac, mtu: 1500 }
    }
}

/// struct ifinfomsg
fn ifinfo(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

impl Batch {
    /// One request: set `lo` up. The kernel then gives it 127.0.0.1/8 and, unless IPv6 is disabled, ::1/128.
    ///
    /// ```
    /// let batch = coracle_netns::Batch::loopback_up();
    /// assert_eq!((batch.bytes().len(), batch.len()), (32, 1));
    /// ```
    pub fn loopback_up() -> Batch {
        Batch::new().link_up("lo", LOOPBACK)
    }

    /// Adds: set the interface with this index up. `name` is only told in errors.
    pub fn link_up(mut self, name: &str, index: u32) -> Batch {
        self.push(format!("set {name} up"), Message::new(RTM_NEWLINK, ACK, &ifinfo(0, index, IFF_UP)), None);
        self
    }

    /// Adds: make a bridge that forwards at once and speaks no spanning tree, down, and without a link-local address of its own making.
    pub fn bridge(mut self, name: &str, index: u32, mac: Mac, mtu: u32) -> Batch {
        const IFLA_BR_FORWARD_DELAY: u16 = 1;
        const IFLA_BR_STP_STATE: u16 = 5;
        const IFLA_BR_MCAST_SNOOPING: u16 = 23;
        let mut message = Message::new(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, index, 0));
        message.text(IFLA_IFNAME, name);
        message.put(IFLA_ADDRESS, &mac.0);
        message.word(IFLA_MTU, mtu);
        message.nest_plain(IFLA_LINKINFO, |info| {
            info.put(IFLA_INFO_KIND, b"bridge");
            info.nest_plain(IFLA_INFO_DATA, |data| {
                data.word(IFLA_BR_FORWARD_DELAY, 0);
                data.word(IFLA_BR_STP_STATE, 0);
                // Neighbour discovery is multicast: without a querier, snooping loses it.
                data.put(IFLA_BR_MCAST_SNOOPING, &[0]);
            });
        });
        self.push(format!("make the bridge {name}"), message, None);
        self
    }

    /// Adds, in one request: make a virtual cable, one end here and plugged into a bridge, the other in another namespace, both down.
    /// Two more set the end here up, without an address of its own.
    ///
    /// The other end is made where it belongs: moving it there would cost the kernel a grace period, which is milliseconds.
    pub fn veth(mut self, veth: &Veth) -> Batch {
        let mut message = Message::new(RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, veth.index, 0));
        message.text(IFLA_IFNAME, &veth.name);
        message.word(IFLA_MTU, veth.mtu);
        message.word(IFLA_MASTER, veth.bridge);
        let at = message.nest_plain(IFLA_LINKINFO, |info| {
            info.put(IFLA_INFO_KIND, b"veth");
            info.nest_plain(IFLA_INFO_DATA, |data| {
                data.nest_plain(VETH_INFO_PEER, |peer| {
                    peer.raw(&ifinfo(0, veth.peer_index, 0));
                    peer.text(IFLA_IFNAME, &veth.peer);
                    peer.put(IFLA_ADDRESS, &veth.peer_mac.0);
                    peer.word(IFLA_MTU, veth.mtu);
                    peer.word(IFLA_NET_NS_FD, u32::MAX)
                })
            })
        });
        self.push(format!("make the cable from {} to the container's {}", veth.name, veth.peer), message, Some(at));
        self.no_link_local(&veth.name, veth.index).link_up(&veth.name, veth.index)
    }

    /// Adds: the kernel makes no link-local IPv6 address for this interface; where IPv6 is off, nothing.
    fn no_link_local(mut self, name: &str, index: u32) -> Batch {
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        if !crate::host::has_ipv6() {
            return self;
        }
        let mut message = Message::new(RTM_NEWLINK, ACK, &ifinfo(0, index, 0));
        // Without a flag to change.
        message.nest_plain(IFLA_AF_SPEC, |spec| {
            spec.nest_plain(AF_INET6.into(), |inet6| inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]));
        });
        self.push(format!("leave {name} without a link-local address"), message, None);
        self
    }

    /// Adds: what comes from this port of a bridge may go back by it, as a published port does that its own container asks for.
    pub fn hairpin_port(mut self, name: &str, index: u32) -> Batch {
        const IFLA_BRPORT_MODE: u16 = 4;
        let mut message = Message::new(RTM_SETLINK, ACK, &ifinfo(AF_BRIDGE, index, 0));
        message.nest(IFLA_PROTINFO, |port| port.put(IFLA_BRPORT_MODE, &[1]));
        self.push(format!("let {name} send back"), message, None);
        self
    }

    /// Adds: frames from this port of a bridge go to no other port that says the same, only to the bridge itself.
    pub fn isolate_port(mut self, name: &str, index: u32) -> Batch {
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        let mut message = Message::new(RTM_SETLINK, ACK, &ifinfo(AF_BRIDGE, index, 0));
        message.nest(IFLA_PROTINFO, |port| port.put(IFLA_BRPORT_ISOLATED, &[1]));
        self.push(format!("isolate {name}"), message, None);
        self
    }

    /// Adds: give the interface this address, usable at once (an IPv6 address without asking around for a duplicate, which takes over a
    /// second). An address that is alone in its network has the longest prefix.
    pub fn address(mut self, name: &str, index: u32, address: IpAddr, prefix: u8) -> Batch {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_FLAGS: u16 = 8;
        const IFA_F_NODAD: u32 = 2;
        let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut fixed = [family, prefix, 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, ACK | CREATE | EXCL, &fixed);
        match address {
            IpAddr::V4(address) => {
                message.put(IFA_LOCAL, &address.octets());
                message.put(IFA_ADDRESS, &address.octets());
            }
            IpAddr::V6(address) => {
                message.put(IFA_ADDRESS, &address.octets());
                message.word(IFA_FLAGS, IFA_F_NODAD);
            }
        }
        self.push(format!("give {name} the address {address}/{prefix}"), message, None);
        self
    }

    /// Adds: what has no better route goes to this gateway.
    pub fn default_route(mut self, name: &str, index: u32, gateway: IpAddr) -> Batch {
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_STATIC: u8 = 4;
        const RTN_UNICAST: u8 = 1;
        let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
        let fixed = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
        let mut message = Message::new(RTM_NEWROUTE, ACK | CREATE | EXCL, &fixed);
        match gateway {
            IpAddr::V4(gateway) => message.put(RTA_GATEWAY, &gateway.octets()),
            IpAddr::V6(gateway) => message.put(RTA_GATEWAY, &gateway.octets()),
        };
        message.word(RTA_OIF, index);
        self.push(format!("route by {gateway} on {name}"), message, None);
        self
    }

    /// Adds: remove the interface with this index. A cable goes with one of its ends.
    pub fn remove_link(mut self, name: &str, index: u32) -> Batch {
        self.push(format!("remove {name}"), Message::new(RTM_DELLINK, ACK, &ifinfo(0, index, 0)), None);
        self
    }

    /// Adds what gives one end of a cable inside a namespace its addresses in a network, sets it up, and routes by the network's gateways.
    pub fn endpoint(self, name: &str, index: u32, subnets: &[(Subnet, IpAddr)], routes: &[IpAddr]) -> Batch {
        let batch = subnets.iter().fold(self, |batch, (subnet, address)| batch.address(name, index, *address, subnet.prefix()));
        routes.iter().fold(batch.link_up(name, index), |batch, gateway| batch.default_route(name, index, *gateway))
    }
}

/// An interface, as far as anybody here asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Bytes of a packet.
    pub mtu: u32,
    /// The bridge that it is plugged into.
    pub master: Option<u32>,
}

impl Socket {
    /// The interfaces of the socket's namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn links(&self) -> Result<Vec<Link>, Error> {
        let answers = self.ask(Message::new(RTM_GETLINK, DUMP, &ifinfo(0, 0, 0)))?;
        Ok(messages(&answers).filter(|(kind, _)| *kind == RTM_NEWLINK).filter_map(|(_, body)| read_link(body)).collect())
    }

    /// The interface of this name.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut question = Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0));
        question.text(IFLA_IFNAME, name);
        let answers = self.ask(question)?;
        Ok(messages(&answers).find(|(kind, _)| *kind == RTM_NEWLINK).and_then(|(_, body)| read_link(body)))
    }
}

/// Takes any bytes.
fn read_link(body: &[u8]) -> Option<Link> {
    let word = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    let mut link = Link { index: word(body.get(4..)?)?, name: String::new(), mtu: 0, master: None };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned(),
            IFLA_MTU => link.mtu = word(value)?,
            IFLA_MASTER => link.master = word(value),
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::address::{AddressAttribute, AddressFlags};
    use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo};
    use netlink_packet_route::route::{RouteAddress, RouteAttribute};

    /// What somebody else reads in a batch.
    fn read(batch: &Batch) -> Vec<RouteNetlinkMessage> {
        let mut rest = batch.bytes();
        let mut all = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).unwrap();
            rest = &rest[message.header.length as usize..];
            assert_eq!(message.header.sequence_number as usize, all.len() + 1);
            match message.payload {
                NetlinkPayload::InnerMessage(message) => all.push(message),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(all.len(), batch.len());
        all
    }

    #[test]
    fn setting_loopback_up_is_these_bytes() {
        let word = |n: u32| n.to_ne_bytes();
        let half = |n: u16| n.to_ne_bytes();
        let mut expected = Vec::new();
        expected.extend(word(32)); // nlmsg_len
        expected.extend(half(16)); // RTM_NEWLINK
        expected.extend(half(0x1 | 0x4)); // NLM_F_REQUEST | NLM_F_ACK
        expected.extend(word(1)); // sequence
        expected.extend(word(0)); // to the kernel
        expected.extend([0, 0, 0, 0]); // AF_UNSPEC, padding, any type
        expected.extend(word(1)); // LOOPBACK_IFINDEX
        expected.extend(word(1)); // IFF_UP
        expected.extend(word(1)); // change IFF_UP only
        assert_eq!(Batch::loopback_up().bytes(), expected);
    }

    #[test]
    fn requests_of_a_batch_are_numbered_and_named() {
        let batch = Batch::loopback_up().link_up("eth0", 7);
        assert_eq!(batch.bytes().len(), 64);
        assert_eq!(batch.bytes()[40..44], 2u32.to_ne_bytes());
        assert_eq!(batch.steps().collect::<Vec<_>>(), ["set lo up", "set eth0 up"]);
    }

    #[test]
    fn somebody_else_reads_the_same_cable() {
        let veth = Veth::new("co1", 11, 12, "eth0", 13, Mac([2, 0, 0, 0, 0, 9]));
        let namespace = std::fs::File::open("/dev/null").unwrap();
        let batch = Batch::new().veth(&veth);
        let at = batch.namespace_at().unwrap();
        assert_eq!(batch.bytes()[at..at + 4], u32::MAX.to_ne_bytes());
        let batch = batch.with_namespace(&namespace);
        let RouteNetlinkMessage::NewLink(link) = &read(&batch)[0] else { panic!() };
        assert_eq!(link.header.index, 11);
        assert!(link.attributes.contains(&LinkAttribute::IfName("co1".into())) && link.attributes.contains(&LinkAttribute::Controller(12)));
        let infos = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
        let infos = infos.unwrap();
        assert!(infos.contains(&LinkInfo::Kind(InfoKind::Veth)), "{infos:?}");
        let peer = infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) => Some(peer),
            _ => None,
        });
        let peer = peer.unwrap();
        assert_eq!(peer.header.index, 13);
        use std::os::fd::AsRawFd;
        for attribute in [
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
            LinkAttribute::Mtu(1500),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ] {
            assert!(peer.attributes.contains(&attribute), "{attribute:?}");
        }
    }

    #[test]
    fn somebody_else_reads_the_same_addresses_and_routes() {
        let batch = Batch::new().address("e", 7, "10.1.2.3".parse().unwrap(), 24).address("e", 7, "fd00::3".parse().unwrap(), 64);
        let messages = read(&batch.default_route("e", 7, "10.1.2.1".parse().unwrap()));
        let RouteNetlinkMessage::NewAddress(four) = &messages[0] else { panic!() };
        assert_eq!((four.header.index, four.header.prefix_len), (7, 24));
        assert!(four.attributes.contains(&AddressAttribute::Local("10.1.2.3".parse().unwrap())));
        let RouteNetlinkMessage::NewAddress(six) = &messages[1] else { panic!() };
        assert!(six.attributes.contains(&AddressAttribute::Address("fd00::3".parse().unwrap())));
        assert!(six.attributes.contains(&AddressAttribute::Flags(AddressFlags::Nodad)));
        let RouteNetlinkMessage::NewRoute(route) = &messages[2] else { panic!() };
        assert!(route.attributes.contains(&RouteAttribute::Gateway(RouteAddress::Inet("10.1.2.1".parse().unwrap()))));
        assert!(route.attributes.contains(&RouteAttribute::Oif(7)));
    }

    #[test]
    fn no_answer_makes_the_reader_panic() {
        let mut state = 7u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 33) & if state & 1 == 0 { 0xff } else { 0x1f }) as u8
                })
                .collect();
            let _ = read_link(&bytes);
            for (_, body) in messages(&bytes) {
                let _ = read_link(body);
            }
        }
    }
}

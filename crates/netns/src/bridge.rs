//! The switch of a private network on this host, with the network's first addresses as its own.

use std::net::IpAddr;

use crate::Error;
use crate::firewall::{Entry, Firewall};
use crate::host;
use crate::link::Veth;
use crate::netlink::{Batch, Socket};
use crate::subnet::{Mac, Subnet};

/// A private network's bridge: containers are plugged into it, and its own addresses are their gateways.
///
/// It stays until it is [removed](Bridge::remove), or its namespace ends: who makes one keeps a record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bridge {
    /// The interface's name, at most 15 bytes.
    pub name: String,
    /// The interface's index.
    pub index: u32,
    /// Bytes of a packet.
    pub mtu: u32,
    /// Its IPv4 subnet, and where IPv6 is on, its IPv6 subnet.
    pub subnets: Vec<Subnet>,
    /// Whether nothing leaves it.
    pub internal: bool,
    /// Interfaces that forward for private networks alone, because they forwarded for nobody before.
    pub guarded: Vec<String>,
}

impl Bridge {
    /// Makes a bridge in the calling thread's network namespace: up, with the first address of each subnet, its packets as large as those of
    /// the default route. Unless it is internal, what leaves it gets this host's address; for that IPv4 is forwarded between it and the
    /// interfaces of default routes, which go on forwarding nothing else if they didn't before. IPv6 leaves it where the host forwards IPv6
    /// already: turning that on would cost a host its own address that comes by router advertisements.
    ///
    /// Takes some milliseconds. Needs CAP_NET_ADMIN over the namespace, and its settings below /proc/sys writable. What was done is undone
    /// where a later part fails.
    ///
    /// # Errors
    ///
    /// [`Error::Steps`] (EEXIST: the name is taken), [`Error::Socket`], [`Error::File`].
    pub fn make(name: &str, subnets: &[Subnet], internal: bool) -> Result<Bridge, Error> {
        let route = Socket::open()?;
        let subnets: Vec<Subnet> = subnets.iter().copied().filter(|subnet| subnet.base().is_ipv4() || host::has_ipv6()).collect();
        let links = route.links()?;
        let ways_out = host::default_interfaces();
        let mtu = links.iter().filter(|link| ways_out.contains(&link.name)).map(|link| link.mtu).min().unwrap_or(1500).clamp(1280, 65535);
        let mac = match subnets.iter().find_map(|subnet| subnet.host(1)) {
            Some(IpAddr::V4(address)) => Mac::of(address),
            _ => Mac([0x02, 0xc0, 0, 0, 0, 1]),
        };
        let mut bridge = Bridge { name: name.to_owned(), index: random_index(), mtu, subnets, internal, guarded: Vec::new() };
        route.perform(&Batch::new().bridge(name, bridge.index, mac, mtu))?;
        match bridge.set_up(&route) {
            Ok(()) => Ok(bridge),
            Err(error) => {
                let _ = bridge.remove();
                Err(error)
            }
        }
    }

    fn set_up(&mut self, route: &Socket) -> Result<(), Error> {
        let name = &self.name;
        if host::has_ipv6() {
            // A container could tell this host its routes otherwise.
            host::write_setting(&format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0")?;
        }
        let firewall = Firewall::open()?;
        firewall.ensure()?;
        if !self.internal {
            let ours = |interface: &str| firewall.holds(&Entry::Guard { interface: interface.to_owned() });
            self.guarded = host::forward_ipv4(name, ours)?;
        }
        // First what keeps those interfaces from forwarding for anybody else.
        firewall.put(&self.entries())?;
        for interface in &self.guarded {
            host::forward_from(interface)?;
        }
        let addresses = self.subnets.iter().filter_map(|subnet| Some((subnet, subnet.host(1)?)));
        let batch = addresses.fold(Batch::new(), |batch, (subnet, address)| batch.address(name, self.index, address, subnet.prefix()));
        route.perform(&batch.link_up(name, self.index))
    }

    /// Finds one that was made before by its name; `None` where it is gone. The rest is as the caller remembers it.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn find(name: &str, subnets: &[Subnet], internal: bool, guarded: &[String]) -> Result<Option<Bridge>, Error> {
        let found = Socket::open()?.link(name)?;
        let subnets = subnets.iter().copied().filter(|subnet| subnet.base().is_ipv4() || host::has_ipv6()).collect();
        Ok(found.map(|link| Bridge { name: link.name, index: link.index, mtu: link.mtu, subnets, internal, guarded: guarded.to_vec() }))
    }

    /// What it has in the firewall: to be [put](Firewall::put) there anew where somebody threw it away.
    pub fn entries(&self) -> Vec<Entry> {
        let guards = self.guarded.iter().map(|interface| Entry::Guard { interface: interface.clone() });
        std::iter::once(self.network()).chain(guards).collect()
    }

    fn network(&self) -> Entry {
        Entry::Network { bridge: self.name.clone(), internal: self.internal }
    }

    /// Whom containers ask for the way: the bridge's own addresses of the families that lead out.
    pub fn gateways(&self) -> Vec<IpAddr> {
        let leads_out = |subnet: &&Subnet| !self.internal && (subnet.base().is_ipv4() || host::forwards_ipv6());
        self.subnets.iter().filter(leads_out).filter_map(|subnet| subnet.host(1)).collect()
    }

    /// A cable between it and the `n`th interface (from 0) of a namespace, whose names and indices are its own to choose.
    pub fn cable(&self, n: u32, mac: Mac) -> Veth {
        let index = random_index();
        let mut veth = Veth::new(format!("co{index:08x}"), index, self.index, format!("eth{n}"), FIRST_INSIDE + n, mac);
        veth.mtu = self.mtu;
        veth
    }

    /// Removes it; cables that are plugged in stay without it. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`]; [`Error::Steps`].
    pub fn remove(&self) -> Result<(), Error> {
        if let Ok(firewall) = Firewall::open() {
            // It may have been thrown away. Guards stay: what they keep from forwarding goes on being able to.
            let _ = firewall.remove(&[self.network()]);
        }
        let route = Socket::open()?;
        // The index may be another's by now, the name is not.
        match route.link(&self.name)? {
            Some(link) => route.perform(&Batch::new().remove_link(&self.name, link.index)),
            None => Ok(()),
        }
    }
}

/// The index of a namespace's first cable. Small ones may be taken: the kernel makes devices of its own for some tunnels in each namespace.
const FIRST_INSIDE: u32 = 1000;

/// An index that nobody has: the kernel counts from 1, and hasn't come this far.
fn random_index() -> u32 {
    0x1000_0000 | (random() as u32 & 0x6fff_ffff)
}

/// 64 random bits.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Never fails for so few, once the machine has booted.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

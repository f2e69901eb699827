//! Which networks a container is in.

use crate::container::Container;
use crate::networks::Ephemeral;
use coracle_netns::{Mac, Subnet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// A network, and how a container stands in it. Cheap to clone.
///
/// ```no_run
/// # async fn f() -> Result<(), coracle_container::Error> {
/// use coracle_container::{Container, Network};
///
/// let network = Network::bridge();
/// let server = Container::from_image("nginx").network(network.clone().address("10.77.0.5").mac("02:00:00:00:00:05"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub struct Network {
    pub(crate) kind: Kind,
    pub(crate) address: Option<String>,
    pub(crate) address6: Option<String>,
    pub(crate) mac: Option<String>,
    pub(crate) aliases: Vec<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Host,
    /// Another container's, by the beginning of its id.
    Container(String),
    /// Another container's, by its first process, and whether it is in a private network.
    Shared(u32, bool),
    Named(String),
    Private(Private),
}

/// A network that has no name, and is made when the first container is started in it.
#[derive(Clone)]
pub(crate) struct Private {
    pub(crate) internal: bool,
    pub(crate) subnets: Vec<String>,
    pub(crate) made: Arc<Ephemeral>,
}

impl PartialEq for Private {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.made, &other.made)
    }
}

impl Eq for Private {}

impl Network {
    fn new(kind: Kind) -> Self {
        Self { kind, address: None, address6: None, mac: None, aliases: Vec::new() }
    }

    /// A network namespace with nothing but loopback. Ports can be [published](crate::ContainerBuilder::publish) all the same.
    pub fn none() -> Self {
        Self::new(Kind::None)
    }

    /// This process's network: ports, interfaces and abstract sockets are the host's. No isolation by network.
    pub fn host() -> Self {
        Self::new(Kind::Host)
    }

    /// A private network: containers that are given clones of this value reach each other by their addresses, IPv4 and IPv6, and the world by
    /// this host's address; nobody reaches them but this host, and others by [published](crate::ContainerBuilder::publish) ports.
    ///
    /// It is made with the first container, and is gone when the last clone of this value and the last container are. Needs root.
    pub fn bridge() -> Self {
        Self::new(Kind::Private(Private { internal: false, subnets: Vec::new(), made: Arc::default() }))
    }

    /// As [`bridge`](Self::bridge), but nothing leaves it: containers reach each other, and this host reaches them.
    pub fn internal() -> Self {
        Self::new(Kind::Private(Private { internal: true, subnets: Vec::new(), made: Arc::default() }))
    }

    /// The network of this name, which [`Engine::create_network`](crate::Engine::create_network) made.
    pub fn named(name: impl Into<String>) -> Self {
        Self::new(Kind::Named(name.into()))
    }

    /// That of another container, which must be detached, by its name, its id or the beginning of it: the same addresses, ports and loopback.
    /// Needs root. One that doesn't run is [`Error::NotRunning`](crate::Error::NotRunning) when this is started.
    pub fn container(id: impl Into<String>) -> Self {
        Self::new(Kind::Container(id.into()))
    }

    /// That of a container of this process, as with [`container`](Self::container).
    pub fn of(container: &Container) -> Self {
        match container.pid() {
            // It may be started again meanwhile.
            0 => Self::new(Kind::Container(container.id().to_owned())),
            pid => Self::new(Kind::Shared(pid, !container.addresses().is_empty())),
        }
    }

    /// The addresses of a private network, `10.9.0.0/24`, once for IPv4 and once for IPv6; without, free ones are found that this host's
    /// routes and name servers don't have. Only before a container is in it.
    pub fn subnet(mut self, subnet: impl Into<String>) -> Self {
        if let Kind::Private(private) = &mut self.kind {
            private.subnets.push(subnet.into());
        }
        self
    }

    /// The container's IPv4 address in a private network, instead of one that is free, or its IPv6 address, instead of the one that has the same
    /// number as the IPv4 address; or one after the other.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        let address = address.into();
        let place = if address.contains(':') { &mut self.address6 } else { &mut self.address };
        *place = Some(address);
        self
    }

    /// The container's hardware address in a private network, `02:00:00:00:00:01`, instead of one that belongs to its address.
    pub fn mac(mut self, mac: impl Into<String>) -> Self {
        self.mac = Some(mac.into());
        self
    }

    /// One more name by which others in this network find the container, beside its own name and the first 12 digits of its id. Several
    /// containers may have the same: their addresses are answered in turn.
    pub fn alias(mut self, name: impl Into<String>) -> Self {
        self.aliases.push(name.into());
        self
    }

    /// Whether it is a network of virtual cables.
    pub(crate) fn is_bridge(&self) -> bool {
        matches!(self.kind, Kind::Private(_) | Kind::Named(_))
    }

    /// All that is wrong with the words.
    pub(crate) fn check(&self) -> Result<Wanted, Vec<String>> {
        let mut wrong = Vec::new();
        let mut wanted = Wanted { address: None, address6: None, mac: None, subnets: Vec::new() };
        match self.address.as_deref().map(str::parse::<IpAddr>) {
            Some(Ok(address)) if address.is_ipv4() => wanted.address = Some(address),
            Some(_) => wrong.push(format!("{:?} is no address for a container", self.address.as_deref().unwrap_or_default())),
            None => {}
        }
        match self.address6.as_deref().map(str::parse::<Ipv6Addr>) {
            Some(Ok(address)) => wanted.address6 = Some(address),
            Some(Err(_)) => wrong.push(format!("{:?} is no address for a container", self.address6.as_deref().unwrap_or_default())),
            None => {}
        }
        match self.mac.as_deref().map(str::parse::<Mac>) {
            Some(Ok(mac)) => wanted.mac = Some(mac),
            Some(Err(error)) => wrong.push(error.to_string()),
            None => {}
        }
        if !self.is_bridge() && (self.address.is_some() || self.address6.is_some() || self.mac.is_some() || !self.aliases.is_empty()) {
            wrong.push("an address or a name of one's own is for private networks".into());
        }
        wrong.extend(self.aliases.iter().filter(|name| !is_name(name)).map(|name| format!("{name:?} can't be a name in a network")));
        if let Kind::Private(private) = &self.kind {
            match subnets(&private.subnets) {
                Ok(subnets) => wanted.subnets = subnets,
                Err(why) => wrong.push(why),
            }
        }
        if wrong.is_empty() { Ok(wanted) } else { Err(wrong) }
    }
}

/// Whether it can be asked for: labels of 1 to 63 letters, digits, hyphens and underscores, 200 bytes at most.
pub(crate) fn is_name(name: &str) -> bool {
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    name.len() <= 200 && name.split('.').all(label)
}

/// What was read of a network's words.
pub(crate) struct Wanted {
    pub(crate) address: Option<IpAddr>,
    pub(crate) address6: Option<Ipv6Addr>,
    pub(crate) mac: Option<Mac>,
    pub(crate) subnets: Vec<Subnet>,
}

/// Subnets of a network: at most one of each family, with room.
pub(crate) fn subnets(words: &[String]) -> Result<Vec<Subnet>, String> {
    let subnets = words.iter().map(|word| word.parse::<Subnet>()).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    for subnet in &subnets {
        let (four, prefix) = (subnet.base().is_ipv4(), subnet.prefix());
        if !(if four { 8..=29 } else { 48..=112 }).contains(&prefix) {
            let range = if four { "8 to 29" } else { "48 to 112" };
            return Err(format!("the subnet {subnet}: a network's prefix has {range} bits"));
        }
        if subnets.iter().filter(|other| other.base().is_ipv4() == four).count() > 1 {
            return Err("a network has one subnet of each family".into());
        }
    }
    Ok(subnets)
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::None => f.write_str("Network(None)"),
            Kind::Host => f.write_str("Network(Host)"),
            Kind::Container(id) => write!(f, "Network(Container({id:?}))"),
            Kind::Shared(pid, _) => write!(f, "Network(Shared({pid}))"),
            Kind::Named(name) => {
                let Network { address, address6, mac, aliases, .. } = self;
                write!(f, "Network(Named({name:?}), address: {address:?}, address6: {address6:?}, mac: {mac:?}, aliases: {aliases:?})")
            }
            Kind::Private(private) => write!(f, "Network(Private, internal: {}, subnets: {:?})", private.internal, private.subnets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_the_same_network_and_another_isnt() {
        let network = Network::bridge();
        assert_eq!(network.clone(), network);
        assert_ne!(Network::bridge(), network);
        assert_eq!(Network::named("a"), Network::named("a"));
    }

    #[test]
    fn words_are_checked() {
        let wrong = |network: Network| network.check().err().unwrap_or_default().len();
        assert_eq!(wrong(Network::bridge().address("10.1.2.3").mac("02:00:00:00:00:01").subnet("10.1.2.0/24").subnet("fd00::/64")), 0);
        assert_eq!(wrong(Network::bridge().address("10.1.2").mac("x").subnet("10.1.2.1/24")), 3);
        assert_eq!(wrong(Network::bridge().address("fd00::1").address("10.1.2.3")), 0);
        assert_eq!(wrong(Network::bridge().address("fd00::x").address("10.1")), 2);
        assert_eq!(wrong(Network::host().address("10.1.2.3")), 1);
        assert_eq!(wrong(Network::bridge().alias("db").alias("a_b.c-d")), 0);
        assert_eq!(wrong(Network::bridge().alias("").alias("a..b").alias("a b").alias("x".repeat(64))), 4);
        for bad in
            [["10.0.0.0/30", "fd00::/64"], ["10.0.0.0/24", "10.1.0.0/24"], ["10.0.0.0/24", "fd00::/16"], ["10.0.0.0/24", "fd00::/120"]]
        {
            assert!(subnets(&bad.map(String::from)).is_err(), "{bad:?}");
        }
    }
}

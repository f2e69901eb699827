//! What this host's network is like, as the kernel's files and resolv.conf(5) tell: routes, servers for names, forwarding.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use crate::Error;
use crate::subnet::Subnet;

/// Whether the kernel speaks IPv6 here.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf/all").exists()
}

/// What a new subnet must keep away from: the routes of the calling thread's network namespace, and the servers for names, which may be
/// behind a default route.
pub fn subnets_in_use() -> Vec<Subnet> {
    let mut all = routes(&fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default());
    all.retain(|(_, subnet)| subnet.prefix() > 0);
    let mut all: Vec<Subnet> = all.into_iter().map(|(_, subnet)| subnet).collect();
    all.extend(resolvers().servers.iter().filter_map(|server| Subnet::new(*server, if server.is_ipv4() { 32 } else { 128 }).ok()));
    all
}

/// The interfaces that default routes go by.
pub(crate) fn default_interfaces() -> Vec<String> {
    let routes = routes(&fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default());
    let mut names: Vec<String> = routes.into_iter().filter(|(_, subnet)| subnet.prefix() == 0).map(|(name, _)| name).collect();
    names.dedup();
    names
}

/// Interface and destination of each line of proc_net_route; what isn't a route is passed over.
fn routes(text: &str) -> Vec<(String, Subnet)> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |field: usize| u32::from_str_radix(fields.get(field)?, 16).ok().map(u32::to_ne_bytes);
        let mask = u32::from_be_bytes(word(7)?);
        let prefix = mask.leading_ones();
        let subnet = Subnet::new(Ipv4Addr::from(word(1)?).into(), prefix as u8).ok()?;
        (mask.count_ones() == prefix).then(|| (fields[0].to_owned(), subnet))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// Whom this host asks for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolvers {
    /// Servers that can be reached from elsewhere than this host: no loopback addresses, none that belong to an interface.
    pub servers: Vec<IpAddr>,
    /// The same, and those that only this host reaches, as it asks them.
    pub here: Vec<SocketAddr>,
    /// Domains that short names are looked for in.
    pub search: Vec<String>,
    /// Options for the resolver, as `ndots:2`.
    pub options: Vec<String>,
}

/// Reads resolv.conf(5); where it names systemd-resolved's local stub, the file with what that asks itself.
pub fn resolvers() -> Resolvers {
    let stub = "/run/systemd/resolve/resolv.conf";
    let found = read_resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    match fs::read_to_string(stub) {
        Ok(text) if found.servers.is_empty() => read_resolvers(&text),
        _ => found,
    }
}

fn read_resolvers(text: &str) -> Resolvers {
    let mut found = Resolvers::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            // A scope names an interface of this host, which a container doesn't have.
            Some("nameserver") => {
                let word = words.next().unwrap_or_default();
                found.here.extend(read_server(word));
                found.servers.extend(word.parse().ok().filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified()));
            }
            Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
            Some("options") => found.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    // As resolv.conf(5) says: three.
    found.servers.truncate(3);
    found.here.truncate(3);
    found
}

/// `192.0.2.1`, `fe80::1%eth0`, `fe80::1%2`; none of an interface that isn't there.
fn read_server(word: &str) -> Option<SocketAddr> {
    let (address, scope) = word.split_once('%').unwrap_or((word, ""));
    let index = || fs::read_to_string(format!("/sys/class/net/{scope}/ifindex")).ok()?.trim().parse().ok();
    match address.parse().ok()? {
        IpAddr::V6(ip) if !scope.is_empty() && !scope.contains('/') => {
            Some(SocketAddrV6::new(ip, 53, 0, scope.parse().ok().or_else(index)?).into())
        }
        ip => Some(SocketAddr::new(ip, 53)),
    }
}

/// Whether the host forwards IPv6 at all; turning it on would take its own addresses away where they come by router advertisements.
pub(crate) fn forwards_ipv6() -> bool {
    read_setting("/proc/sys/net/ipv6/conf/all/forwarding").as_deref() == Some("1")
}

/// Lets what comes from a bridge be forwarded; answers with the interfaces of default routes which don't forward yet, or do so for us alone.
pub(crate) fn forward_ipv4(bridge: &str, ours: impl Fn(&str) -> Result<bool, Error>) -> Result<Vec<String>, Error> {
    if forwards_ipv4() {
        return Ok(Vec::new());
    }
    let mut guarded = Vec::new();
    let setting = |interface: &str| format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    for interface in default_interfaces() {
        let forwards = read_setting(&setting(&interface)).as_deref() == Some("1");
        if interface != bridge && (!forwards || ours(&interface)?) {
            guarded.push(interface);
        }
    }
    write_setting(&setting(bridge), "1")?;
    Ok(guarded)
}

/// Turns forwarding on for an interface, when what keeps it from forwarding anything else stands.
pub(crate) fn forward_from(interface: &str) -> Result<(), Error> {
    write_setting(&format!("/proc/sys/net/ipv4/conf/{interface}/forwarding"), "1")
}

/// Whether this host forwards IPv4 for everybody.
pub fn forwards_ipv4() -> bool {
    read_setting("/proc/sys/net/ipv4/ip_forward").as_deref() == Some("1")
}

/// Whether frames within a bridge come by the firewall of packets: br_netfilter.
pub(crate) fn frames_are_filtered() -> bool {
    read_setting("/proc/sys/net/bridge/bridge-nf-call-iptables").as_deref() == Some("1")
}

/// A setting of IPv4 of an interface.
pub(crate) fn setting(interface: &str, name: &str) -> Option<String> {
    read_setting(&format!("/proc/sys/net/ipv4/conf/{interface}/{name}"))
}

fn read_setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Writes a setting below /proc/sys/net, which is that of the calling thread's namespace.
pub(crate) fn write_setting(path: &str, value: &str) -> Result<(), Error> {
    if read_setting(path).as_deref() == Some(value) {
        return Ok(());
    }
    fs::write(path, value).map_err(|source| Error::File { attempted: "write", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nnonsense\n\tx\ty\n";
        if cfg!(target_endian = "little") {
            assert_eq!(
                routes(text),
                [("eth0".to_owned(), "0.0.0.0/0".parse().unwrap()), ("eth0".to_owned(), "192.168.1.0/24".parse().unwrap())]
            );
        }
    }

    #[test]
    fn servers_that_only_this_host_reaches_are_none() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1 # y\nnameserver fe80::1%nowhere0\nnameserver 2001:db8::1\nnameserver\nnameserver x\nsearch a.example b.example\noptions ndots:2 edns0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found = read_resolvers(text);
        assert_eq!(found.servers, ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(found.here, ["127.0.0.53:53", "192.0.2.1:53", "[2001:db8::1]:53"].map(|at| at.parse::<SocketAddr>().unwrap()));
        assert_eq!(read_server("fe80::1%7"), Some("[fe80::1%7]:53".parse().unwrap()));
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!(found.options, ["ndots:2", "edns0"]);
    }
}

//! What a container's programs look names up in: /etc/hosts, /etc/hostname and /etc/resolv.conf.

use crate::builder::ContainerBuilder;
use crate::error::Problem;
use crate::network::Kind;
use crate::networks::Attached;
use coracle_spawn::{Mount, Resolver};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// What was said about servers for names; what wasn't is this host's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dns {
    pub(crate) servers: Vec<String>,
    pub(crate) search: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// Where a container of private networks asks for names. No other address: who asks is known by it.
const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// Where that is answered: port 53 is the container's own. One that IANA has reserved.
pub(crate) const BEHIND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 1011);

/// This host, as a private network reaches it.
const HOST_GATEWAY: &str = "host-gateway";

/// All that is wrong with names and servers.
pub(crate) fn check(builder: &ContainerBuilder) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |what: String, remedy: &str| problems.push(Problem { what, remedy: Some(remedy.into()) });
    for (name, address) in &builder.hosts {
        if !is_word(name) {
            problem(format!("{name:?} can't be a name in /etc/hosts"), "letters, digits, hyphens and dots");
        }
        let gateway = address == HOST_GATEWAY;
        if !gateway && address.parse::<IpAddr>().is_err() {
            problem(format!("{address:?} is no address for {name:?}"), "an IPv4 or IPv6 address, or host-gateway");
        }
        if gateway && !builder.networks.iter().any(|network| network.is_bridge() || network.kind == Kind::Host) {
            problem(
                format!("{name:?} is to be this host, and the container has no way to it"),
                "give it a private network: Network::bridge()",
            );
        }
    }
    for server in &builder.dns.servers {
        if server.parse::<IpAddr>().is_err() {
            problem(format!("{server:?} is no address of a server for names"), "an IPv4 or IPv6 address");
        }
    }
    if builder.dns.servers.len() > 3 {
        problem("a container asks three servers for names at most".into(), "leave some out: see resolv.conf(5)");
    }
    for word in builder.dns.search.iter().chain(&builder.dns.options) {
        if !word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) || word.is_empty() {
            problem(format!("{word:?} can't stand in resolv.conf(5)"), "a domain, or an option as ndots:1");
        }
    }
    problems
}

fn is_word(name: &str) -> bool {
    (1..=253).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// The three files of a container.
pub(crate) fn files(builder: &ContainerBuilder, hostname: &str, attached: &Attached) -> [Mount; 3] {
    let of_host = |path: &str| std::fs::read(path).unwrap_or_default();
    let host_network = builder.networks.iter().any(|network| network.kind == Kind::Host);
    let said = !builder.dns.servers.is_empty() || !builder.dns.search.is_empty() || !builder.dns.options.is_empty();
    let shared = builder.networks.iter().any(|n| matches!(n.kind, Kind::Container(_) | Kind::Shared(..)));
    let resolv = match (host_network, shared || said) {
        (false, _) if attached.resolver => resolv_conf(&builder.dns, Some(RESOLVER)).into_bytes(),
        (true, _) if !said => of_host("/etc/resolv.conf"),
        (false, false) => b"# This container has no network beyond itself.\n".to_vec(),
        _ => resolv_conf(&builder.dns, None).into_bytes(),
    };
    let mut hosts = if host_network { of_host("/etc/hosts") } else { own_hosts(hostname, attached).into_bytes() };
    for (name, address) in &builder.hosts {
        let own = IpAddr::from([127, 0, 0, 1]);
        let address = if address == HOST_GATEWAY { attached.gateway.unwrap_or(own).to_string() } else { address.clone() };
        hosts.extend(format!("{address}\t{name}\n").into_bytes());
    }
    [
        Mount::file("/etc/hosts", hosts, 0o644),
        Mount::file("/etc/hostname", format!("{hostname}\n"), 0o644),
        Mount::file("/etc/resolv.conf", resolv, 0o644),
    ]
}

fn own_hosts(hostname: &str, attached: &Attached) -> String {
    let mut hosts = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let own = attached.addresses.iter().flatten();
    for address in own {
        let _ = writeln!(hosts, "{address}\t{hostname}");
    }
    if attached.addresses.is_empty() {
        let _ = writeln!(hosts, "127.0.1.1\t{hostname}");
    }
    hosts
}

/// `host` unless something else was said.
fn or(said: &[String], host: Vec<String>) -> Vec<String> {
    if said.is_empty() { host } else { said.to_vec() }
}

/// A server for names in a container of private networks: these networks' names, and others where one of them leads out.
pub(crate) fn resolver(dns: &Dns, leads_out: bool) -> Resolver {
    let host = coracle_netns::resolvers();
    let said = dns.servers.iter().filter_map(|server| server.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53));
    let servers: Vec<SocketAddr> = if dns.servers.is_empty() { host.here } else { said.collect() };
    let resolver = Resolver::new(BEHIND.into());
    let resolver = or(&dns.search, host.search).into_iter().fold(resolver, Resolver::domain);
    servers.into_iter().filter(|_| leads_out).fold(resolver, Resolver::server)
}

fn resolv_conf(dns: &Dns, resolver: Option<IpAddr>) -> String {
    let host = coracle_netns::resolvers();
    let servers = match resolver {
        Some(resolver) => vec![resolver.to_string()],
        None => or(&dns.servers, host.servers.iter().map(IpAddr::to_string).collect()),
    };
    let mut text = String::new();
    if servers.is_empty() {
        text.push_str("# This host asks for names at a loopback address, which is another one in here.\n");
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (keyword, words) in [("search", or(&dns.search, host.search)), ("options", or(&dns.options, host.options))] {
        if !words.is_empty() {
            let _ = writeln!(text, "{keyword} {}", words.join(" "));
        }
    }
    text
}

pub(crate) fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6/conf/all").exists()
}

//! What of this host stands in the way of private networks' traffic: settings, other firewalls, routes. Looks, and changes nothing.

use std::fmt;

use crate::bridge::Bridge;
use crate::firewall::{Entry, Firewall};
use crate::host;
use crate::netlink::Socket;
use crate::{Error, link::Link};

/// Something that drops packets of private networks, or of others on their account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The kernel has no nf_tables, or not what the rules are made of: there are no private networks.
    NoNfTables {
        /// What it said.
        why: String,
    },
    /// Our table isn't in the firewall, though there are networks: nothing is translated, and nothing kept apart.
    Thrown,
    /// There is no default route: nothing leaves but to this host's own networks.
    NoRoute,
    /// An interface doesn't forward IPv4: what enters by it doesn't go on.
    NotForwarding {
        /// The interface.
        interface: String,
    },
    /// Somebody else's chain drops what is forwarded unless a rule of its own accepts it.
    ForeignDrop {
        /// `ip`, `ip6` or `inet`.
        family: &'static str,
        /// The table.
        table: String,
        /// Its chain.
        chain: String,
        /// Whether packets within one bridge come by it, too: net.bridge.bridge-nf-call-iptables is on.
        within: bool,
    },
    /// An interface drops what the answer to would go another way (strict rp_filter): containers of several networks, hosts of several uplinks.
    ReversePath {
        /// The interface.
        interface: String,
    },
    /// A bridge's packets are larger than the way out has room for: what may not be cut is lost where nobody is told.
    Mtu {
        /// The bridge.
        bridge: String,
        /// Its bytes.
        has: u32,
        /// The interface of the way out.
        out: String,
        /// Its bytes.
        allows: u32,
    },
    /// This host forwards for everybody by now, and our guard of an interface, from before that, still drops what isn't a private network's.
    OldGuard {
        /// The interface.
        interface: String,
    },
}

impl Obstacle {
    /// What doesn't work for it.
    pub fn lost(&self) -> &'static str {
        match self {
            Obstacle::NoNfTables { .. } => "private networks",
            Obstacle::Thrown => "ways out, published ports on other than loopback addresses, isolation",
            Obstacle::NoRoute => "ways out to the world",
            Obstacle::NotForwarding { .. } => "ways out, and published ports for others than this host",
            Obstacle::ForeignDrop { within: false, .. } => "ways out, and published ports for others than this host",
            Obstacle::ForeignDrop { within: true, .. } => "containers of one network among each other; ways out, published ports",
            Obstacle::ReversePath { .. } => "answers that come by another network than the question went",
            Obstacle::Mtu { .. } => "large packets to the world: connections that stand still after their beginning",
            Obstacle::OldGuard { .. } => "what other programs forward by that interface, as other engines' containers",
        }
    }

    /// What mends it, a command a line.
    pub fn remedy(&self) -> String {
        match self {
            Obstacle::NoNfTables { .. } => {
                "boot a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_FIB_INET".into()
            }
            Obstacle::Thrown | Obstacle::OldGuard { .. } => "coracle network repair".into(),
            Obstacle::NoRoute => "ip route add default via GATEWAY".into(),
            Obstacle::NotForwarding { interface } => format!("sysctl -w net.ipv4.conf.{interface}.forwarding=1"),
            Obstacle::ForeignDrop { table, chain, family, .. } if table == "filter" && chain == "FORWARD" => {
                let program = if *family == "ip6" { "ip6tables" } else { "iptables" };
                format!("{program} -I FORWARD -i cobr+ -j ACCEPT\n{program} -I FORWARD -o cobr+ -j ACCEPT")
            }
            Obstacle::ForeignDrop { family, table, chain, .. } => {
                let rule = |side: &str| format!("nft insert rule {family} {table} {chain} {side} \"cobr*\" accept");
                format!("{}\n{}", rule("iifname"), rule("oifname"))
            }
            Obstacle::ReversePath { interface } => format!("sysctl -w net.ipv4.conf.{interface}.rp_filter=2"),
            Obstacle::Mtu { bridge, allows, .. } => format!("ip link set {bridge} mtu {allows}\nstart the containers of that network anew"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoNfTables { why } => write!(f, "the kernel's firewall can't be used: {why}"),
            Obstacle::Thrown => f.write_str("our table is gone from the firewall"),
            Obstacle::NoRoute => f.write_str("this host has no default route"),
            Obstacle::NotForwarding { interface } => write!(f, "{interface} forwards no IPv4"),
            Obstacle::ForeignDrop { family, table, chain, within } => {
                let within = if *within { ", frames within a bridge, too (br_netfilter)" } else { "" };
                write!(f, "the chain {chain} of the table {family} {table} drops what it doesn't accept by a rule{within}")
            }
            Obstacle::ReversePath { interface } => write!(f, "rp_filter of {interface} is strict"),
            Obstacle::Mtu { bridge, has, out, allows } => write!(f, "packets of {bridge} have up to {has} bytes, and {out} takes {allows}"),
            Obstacle::OldGuard { interface } => write!(f, "this host forwards, and what we guard {interface} with drops what isn't ours"),
        }
    }
}

/// What stands in the way of these networks in the calling thread's network namespace; of any, where there are none yet. Nothing found is no
/// promise: rules of others that drop this or that aren't looked at, only what their chains do in the end.
///
/// Needs CAP_NET_ADMIN over the namespace.
///
/// # Errors
///
/// [`Error::Socket`].
pub fn obstacles(bridges: &[Bridge]) -> Result<Vec<Obstacle>, Error> {
    let firewall = match Firewall::open() {
        Ok(firewall) => firewall,
        Err(error) => return Ok(vec![Obstacle::NoNfTables { why: error.to_string() }]),
    };
    let mut found = Vec::new();
    if !bridges.is_empty() && !firewall.is_whole()? {
        found.push(Obstacle::Thrown);
    }
    let links = Socket::open()?.links()?;
    let ways_out: Vec<&Link> = {
        let names = host::default_interfaces();
        links.iter().filter(|link| names.contains(&link.name)).collect()
    };
    let leading: Vec<&Bridge> = bridges.iter().filter(|bridge| !bridge.internal).collect();
    if ways_out.is_empty() && (bridges.is_empty() || !leading.is_empty()) {
        found.push(Obstacle::NoRoute);
    }
    let forwarded: Vec<String> = match leading.is_empty() {
        true => Vec::new(),
        false => leading.iter().map(|bridge| bridge.name.clone()).chain(ways_out.iter().map(|link| link.name.clone())).collect(),
    };
    for interface in &forwarded {
        if host::setting(interface, "forwarding").as_deref() == Some("0") {
            found.push(Obstacle::NotForwarding { interface: interface.clone() });
        }
        let strict = |of: &str| host::setting(of, "rp_filter").and_then(|value| value.parse::<u8>().ok()).unwrap_or(0);
        if strict("all").max(strict(interface)) == 1 {
            found.push(Obstacle::ReversePath { interface: interface.clone() });
        }
    }
    let within = host::frames_are_filtered();
    found.extend(firewall.foreign_drops()?.into_iter().map(|(family, table, chain)| Obstacle::ForeignDrop {
        family,
        table,
        chain,
        within,
    }));
    for bridge in &leading {
        for out in ways_out.iter().filter(|out| out.mtu < bridge.mtu) {
            found.push(Obstacle::Mtu { bridge: bridge.name.clone(), has: bridge.mtu, out: out.name.clone(), allows: out.mtu });
        }
    }
    for link in &ways_out {
        let guard = Entry::Guard { interface: link.name.clone() };
        if host::forwards_ipv4() && firewall.holds(&guard)? {
            found.push(Obstacle::OldGuard { interface: link.name.clone() });
        }
    }
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_obstacle_says_what_is_lost_and_what_mends_it() {
        let interface = || "eth0".to_owned();
        let all = [
            Obstacle::NoNfTables { why: "no".into() },
            Obstacle::Thrown,
            Obstacle::NoRoute,
            Obstacle::NotForwarding { interface: interface() },
            Obstacle::ForeignDrop { family: "ip", table: "filter".into(), chain: "FORWARD".into(), within: true },
            Obstacle::ForeignDrop { family: "inet", table: "firewalld".into(), chain: "filter_FORWARD".into(), within: false },
            Obstacle::ReversePath { interface: interface() },
            Obstacle::Mtu { bridge: "cobr1".into(), has: 1500, out: interface(), allows: 1400 },
            Obstacle::OldGuard { interface: interface() },
        ];
        for obstacle in all {
            assert!(!obstacle.to_string().is_empty() && !obstacle.lost().is_empty() && !obstacle.remedy().is_empty(), "{obstacle:?}");
        }
    }
}

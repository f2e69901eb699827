//! What can go wrong, as sentences, with the remedy apart.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::port::{self, Transport};
use crate::subnet::Subnet;

/// What can go wrong; variants by what a caller may decide.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The kernel made no namespace.
    Create(io::Error),
    /// The namespace could not be entered.
    Enter(io::Error),
    /// A file could not be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no namespace.
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// No thread could be started to enter the namespace in.
    Thread(io::Error),
    /// The netlink socket failed.
    Socket {
        /// The call: "socket", "connect", "send", "recv".
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused requests of a batch. It doesn't stop at the first, so these are all.
    Steps(Vec<StepError>),
    /// Answers of the kernel are missing.
    Unanswered {
        /// How many requests were sent.
        sent: usize,
        /// How many were answered.
        answered: usize,
    },
    /// A port of this host is not to be had.
    Port {
        /// TCP or UDP.
        transport: Transport,
        /// The port and its address.
        address: SocketAddr,
        /// Who has it, where that can be seen: `nginx (process 4711)`.
        owner: Option<String>,
        /// Why.
        source: io::Error,
    },
    /// An address of a network isn't free.
    AddressTaken {
        /// The address.
        address: std::net::IpAddr,
    },
    /// An address isn't one that a network gives out.
    AddressOutside {
        /// The address.
        address: std::net::IpAddr,
        /// The network's.
        subnet: Subnet,
    },
    /// All addresses of a network are in use.
    Full {
        /// The network's.
        subnet: Subnet,
    },
    /// No subnet is left that this host's routes don't have.
    NoSubnet,
    /// A subnet that was asked for is on this host already.
    SubnetTaken {
        /// The one that was asked for.
        subnet: Subnet,
        /// What is there: a route, or a server for names.
        by: Subnet,
    },
    /// A file couldn't be written or read.
    File {
        /// What was tried: `write`, `lock`.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// One request that the kernel refused.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepError {
    /// What was attempted: `set lo up`.
    pub step: String,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// What a person can do about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        let errno = |source: &io::Error| rustix::io::Errno::from_io_error(source);
        Some(match self {
            Error::Create(source) | Error::Enter(source) if errno(source) == Some(rustix::io::Errno::PERM) => {
                "run as root or with CAP_SYS_ADMIN; a plain user needs a user namespace, which only a process of its own can make".into()
            }
            Error::Create(source) if errno(source) == Some(rustix::io::Errno::NOSPC) => {
                "raise /proc/sys/user/max_net_namespaces, or end programs that hold namespaces".into()
            }
            Error::Create(source) if errno(source) == Some(rustix::io::Errno::INVAL) => "use a kernel with CONFIG_NET_NS".into(),
            Error::Enter(source) if errno(source) == Some(rustix::io::Errno::INVAL) => {
                "give the file of a network namespace, such as /proc/PID/ns/net".into()
            }
            Error::NotANamespace { .. } => "give the file of a network namespace, such as /proc/PID/ns/net or /run/netns/NAME".into(),
            Error::Steps(steps) if steps.iter().any(|step| errno(&step.source) == Some(rustix::io::Errno::PERM)) => {
                "send it with CAP_NET_ADMIN in the user namespace that owns the network namespace".into()
            }
            // How the kernel says that it lacks a kind of device, chain or expression.
            Error::Steps(steps)
                if steps.iter().any(|step| {
                    let lacks = errno(&step.source) == Some(rustix::io::Errno::NOENT) && step.step.starts_with("make ");
                    lacks || errno(&step.source) == Some(rustix::io::Errno::OPNOTSUPP)
                }) =>
            {
                "use a kernel with virtual cables, bridges and nf_tables (CONFIG_VETH, CONFIG_BRIDGE, CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_FIB_INET)".into()
            }
            Error::Port { source, .. } => match errno(source) {
                Some(rustix::io::Errno::ADDRINUSE) => "end that program, or publish another port of this host; port 0 is any that is free".into(),
                Some(rustix::io::Errno::ADDRNOTAVAIL) => "name an address that `ip address` shows, or 0.0.0.0 for all".into(),
                Some(rustix::io::Errno::ACCESS) => "choose a port from 1024 on, or lower net.ipv4.ip_unprivileged_port_start".into(),
                _ => return None,
            },
            Error::AddressTaken { .. } => "choose another address, or none: then a free one is found".into(),
            Error::Full { .. } => "end a container of that network, or make it with a wider subnet".into(),
            Error::NoSubnet => "name a subnet for the network that this host doesn't need".into(),
            Error::SubnetTaken { .. } => "choose another subnet, or none: then a free one is found".into(),
            Error::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => "run as root".into(),
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Create(source) => write!(f, "make a network namespace: unshare(CLONE_NEWNET): {source}"),
            Error::Enter(source) => write!(f, "enter a network namespace: setns(CLONE_NEWNET): {source}"),
            Error::Open { path, source } => write!(f, "open {}: {source}", path.display()),
            Error::NotANamespace { path } => write!(f, "{} is not a namespace", path.display()),
            Error::Thread(source) => write!(f, "start a thread to enter a network namespace in: {source}"),
            Error::Socket { call, source } => {
                write!(f, "talk to the kernel by netlink: {call}: {source}")
            }
            Error::Steps(steps) => {
                for (n, step) in steps.iter().enumerate() {
                    write!(f, "{}{}: {}", if n > 0 { "; " } else { "" }, step.step, step.source)?;
                }
                Ok(())
            }
            Error::Port { transport, address, owner, source } => {
                write!(f, "the port {address}/{transport} {}", port::reason(source, owner.as_deref()))
            }
            Error::AddressTaken { address } => write!(f, "the address {address} is a container's already"),
            Error::AddressOutside { address, subnet } => write!(f, "{address} isn't an address for a container of the network {subnet}"),
            Error::Full { subnet } => write!(f, "all addresses of the network {subnet} are in use"),
            Error::NoSubnet => f.write_str(
                "no subnet is left that this host doesn't use: its routes have all of 10.128.0.0/9, 172.16.0.0/12 and 192.168.0.0/16",
            ),
            Error::SubnetTaken { subnet, by } => write!(f, "the subnet {subnet} is used by this host already: {by}"),
            Error::File { attempted, path, source } => write!(f, "{attempted} {}: {source}", path.display()),
            Error::Unanswered { sent, answered } => write!(f, "talk to the kernel by netlink: {answered} of {sent} requests were answered"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Create(source) | Error::Enter(source) | Error::Thread(source) => Some(source),
            Error::Open { source, .. } | Error::Socket { source, .. } | Error::Port { source, .. } | Error::File { source, .. } => {
                Some(source)
            }
            Error::Steps(steps) => steps.first().map(|step| &step.source as _),
            _ => None,
        }
    }
}

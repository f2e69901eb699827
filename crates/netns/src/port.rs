//! Ports of this host: taken by a socket that is bound to them, so that nobody else gets them, and nobody is told a port is free that isn't.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::Error;

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Transport {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
}

impl Transport {
    /// The number of the protocol: 6 or 17.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

impl FromStr for Transport {
    type Err = ();

    /// `tcp` or `udp`.
    fn from_str(word: &str) -> Result<Transport, ()> {
        match word {
            "tcp" => Ok(Transport::Tcp),
            "udp" => Ok(Transport::Udp),
            _ => Err(()),
        }
    }
}

/// A port of this host that is taken as long as this lives: a socket that listens (TCP) or is bound (UDP).
#[derive(Debug)]
pub struct Reservation {
    socket: OwnedFd,
    transport: Transport,
    address: SocketAddr,
}

impl Reservation {
    /// Takes a port in the calling thread's network namespace; port 0 is one that is free.
    ///
    /// # Errors
    ///
    /// [`Error::Port`]: taken, and by whom if that can be seen; or not an address of this host; or below 1024 without the privilege.
    ///
    /// ```
    /// use coracle_netns::{Reservation, Transport};
    /// # fn main() -> Result<(), coracle_netns::Error> {
    /// let first = Reservation::take(Transport::Tcp, "127.0.0.1:0".parse().unwrap())?;
    /// let second = Reservation::take(Transport::Tcp, first.address());
    /// assert!(second.unwrap_err().to_string().contains("is taken by "));
    /// # Ok(()) }
    /// ```
    pub fn take(transport: Transport, address: SocketAddr) -> Result<Reservation, Error> {
        let failed = |errno: Errno| {
            let owner = (errno == Errno::ADDRINUSE).then(|| owner(transport, address)).flatten();
            Error::Port { transport, address, owner, source: errno.into() }
        };
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let (kind, protocol) = match transport {
            Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
            Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, Some(protocol)).map_err(failed)?;
        if address.is_ipv6() {
            // The other family's port may be somebody else's.
            sockopt::set_ipv6_v6only(&socket, true).map_err(failed)?;
        }
        if transport == Transport::Tcp {
            // Connections of one before us that wait for their end are no reason.
            sockopt::set_socket_reuseaddr(&socket, true).map_err(failed)?;
        }
        rustix::net::bind(&socket, &address).map_err(failed)?;
        if transport == Transport::Tcp {
            rustix::net::listen(&socket, 4096).map_err(failed)?;
        }
        let address = rustix::net::getsockname(&socket).and_then(SocketAddr::try_from).map_err(failed)?;
        Ok(Reservation { socket, transport, address })
    }

    /// What is taken: the number where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// TCP or UDP.
    pub fn transport(&self) -> Transport {
        self.transport
    }
}

impl AsFd for Reservation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Reservation> for OwnedFd {
    fn from(reservation: Reservation) -> OwnedFd {
        reservation.socket
    }
}

/// Who has a port, by name and process id, as far as this process may see: `nginx (process 4711)`.
fn owner(transport: Transport, address: SocketAddr) -> Option<String> {
    let inodes: Vec<u64> =
        ["", "6"].iter().flat_map(|six| sockets(&format!("/proc/thread-self/net/{transport}{six}"), transport, address)).collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    for process in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        for link in files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok()) {
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            if inode.is_some_and(|inode| inodes.contains(&inode)) {
                let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
                return Some(format!("{} (process {process})", name.trim_end()));
            }
        }
    }
    None
}

/// Inodes of the sockets that stand in the way of an address, of a table as proc_net(5) has them.
fn sockets(table: &str, transport: Transport, address: SocketAddr) -> Vec<u64> {
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let lines = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let listens = transport == Transport::Udp || fields.get(3) == Some(&"0A");
        let same_port = u16::from_str_radix(port, 16).ok()? == address.port();
        let ip = hexadecimal(ip)?;
        let in_the_way = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
        (listens && same_port && in_the_way).then(|| fields.get(9)?.parse().ok()).flatten()
    });
    lines.collect()
}

/// An address as the kernel writes it there: words of the machine's byte order.
fn hexadecimal(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(digits.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match digits.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

/// Why a port isn't to be had.
pub(crate) fn reason(source: &io::Error, owner: Option<&str>) -> String {
    match (rustix::io::Errno::from_io_error(source), owner) {
        (Some(Errno::ADDRINUSE), Some(owner)) => format!("is taken by {owner}"),
        (Some(Errno::ADDRINUSE), None) => "is taken".into(),
        (Some(Errno::ADDRNOTAVAIL), _) => "isn't this host's: no interface has that address".into(),
        (Some(Errno::ACCESS), _) => "is privileged, and this process isn't".into(),
        _ => format!("can't be taken: {source}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_who_has_it() {
        for (transport, address) in [(Transport::Tcp, "127.0.0.1:0"), (Transport::Udp, "127.0.0.1:0"), (Transport::Tcp, "0.0.0.0:0")] {
            let first = Reservation::take(transport, address.parse().unwrap()).unwrap();
            assert_ne!(first.address().port(), 0);
            let error = Reservation::take(transport, first.address()).unwrap_err().to_string();
            assert!(error.contains("is taken by ") && error.contains(&format!("(process {})", std::process::id())), "{error}");
            let loopback = SocketAddr::from(([127, 0, 0, 1], first.address().port()));
            assert!(Reservation::take(transport, loopback).unwrap_err().to_string().contains("is taken by "));
            let address = first.address();
            drop(first);
            drop(Reservation::take(transport, address).unwrap());
        }
    }

    #[test]
    fn an_address_of_somebody_else_is_told() {
        let error = Reservation::take(Transport::Tcp, "192.0.2.1:80".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("isn't this host's"), "{error}");
        assert!(error.remedy().is_some());
    }

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        assert_eq!(hexadecimal("0100007F"), Some(IpAddr::from([127, 0, 0, 1])).filter(|_| cfg!(target_endian = "little")));
        assert_eq!(hexadecimal("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        for bad in ["", "0100007", "0100007G", "é00007F"] {
            assert_eq!(hexadecimal(bad), None);
        }
    }
}

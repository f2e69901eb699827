//! Ports of a container that are answered on this host.

use crate::error::{Error, Problem};
use coracle_netns::{Reservation, Transport};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A port of a container, and where on this host it is answered.
///
/// From a number it is that TCP port, on a port of 127.0.0.1 that is free. From words it is as docker-run(1) writes it,
/// `[ADDRESS:][PORT[-PORT]:]PORT[-PORT][/tcp|/udp]`, where 127.0.0.1 is the address if none is named: `"8080:80"`, `"0.0.0.0:53:53/udp"`,
/// `"[::1]:9000-9010:9000-9010"`, `"192.168.1.5::80"`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Publish {
    words: Result<Words, String>,
    everywhere: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Words {
    host: Option<IpAddr>,
    /// 0 is any that is free.
    host_port: u16,
    container_port: u16,
    count: u16,
    transport: Transport,
}

/// A port of a container that is answered on this host, at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PublishedPort {
    /// On this host; the unspecified address is all of its addresses.
    pub host: SocketAddr,
    /// In the container.
    pub container_port: u16,
    /// Whether it is for datagrams (UDP), and not for TCP.
    pub udp: bool,
}

impl fmt::Display for PublishedPort {
    /// As docker-ps(1) shows it: `127.0.0.1:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}/{}", self.host, self.container_port, if self.udp { "udp" } else { "tcp" })
    }
}

impl From<u16> for Publish {
    fn from(container_port: u16) -> Self {
        let words = Words { host: None, host_port: 0, container_port, count: 1, transport: Transport::Tcp };
        Self { words: if container_port == 0 { Err("0 is no port of a container".into()) } else { Ok(words) }, everywhere: false }
    }
}

impl From<&str> for Publish {
    fn from(words: &str) -> Self {
        Self { words: read(words).ok_or_else(|| format!("{words:?} is no port to publish")), everywhere: false }
    }
}

impl From<String> for Publish {
    fn from(words: String) -> Self {
        words.as_str().into()
    }
}

impl Publish {
    /// Where no address is named: on all addresses of this host, IPv4 and IPv6, as `docker run -p` does, instead of 127.0.0.1.
    pub fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// As words that [`from_kept`](Self::from_kept) reads.
    pub(crate) fn kept(&self) -> (String, bool) {
        let words = match &self.words {
            Err(_) => String::new(),
            Ok(Words { host, host_port, container_port, count, transport }) => {
                let range = |from: u16| if *count > 1 { format!("{from}-{}", from + (count - 1)) } else { from.to_string() };
                let host = match host {
                    None => String::new(),
                    Some(IpAddr::V6(host)) => format!("[{host}]:"),
                    Some(host) => format!("{host}:"),
                };
                let host_port = match (*host_port, host.is_empty()) {
                    (0, true) => String::new(),
                    (0, false) => ":".into(),
                    (port, _) => range(port) + ":",
                };
                format!("{host}{host_port}{}/{transport}", range(*container_port))
            }
        };
        (words, self.everywhere)
    }

    pub(crate) fn from_kept((words, everywhere): &(String, bool)) -> Self {
        Self { everywhere: *everywhere, ..words.as_str().into() }
    }

    /// The very port that one had.
    pub(crate) fn again(port: &PublishedPort) -> Self {
        let transport = if port.udp { Transport::Udp } else { Transport::Tcp };
        let words =
            Words { host: Some(port.host.ip()), host_port: port.host.port(), container_port: port.container_port, count: 1, transport };
        Self { words: Ok(words), everywhere: false }
    }

    pub(crate) fn problem(&self) -> Option<Problem> {
        let remedy = Some("[ADDRESS:][PORT:]PORT[/udp], for example 8080:80 or 127.0.0.1:5300-5310:5300-5310/udp".into());
        self.words.as_ref().err().map(|what| Problem { what: what.clone(), remedy })
    }

    /// Takes the ports: all, or none.
    pub(crate) fn reserve(&self) -> Result<Vec<(Reservation, u16)>, Error> {
        let Ok(words) = &self.words else { return Ok(Vec::new()) };
        let hosts: &[IpAddr] = match words.host {
            Some(host) => &[host],
            None if self.everywhere && has_ipv6() => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            None if self.everywhere => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            None => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        };
        let mut all = Vec::new();
        for n in 0..words.count {
            let port = if words.host_port == 0 { 0 } else { words.host_port + n };
            all.extend(same_port(words.transport, hosts, port)?.into_iter().map(|reservation| (reservation, words.container_port + n)));
        }
        Ok(all)
    }
}

/// The same port at several addresses; 0 is one that is free at all of them.
fn same_port(transport: Transport, hosts: &[IpAddr], port: u16) -> Result<Vec<Reservation>, Error> {
    let mut tries = 0;
    loop {
        let mut taken: Vec<Reservation> = Vec::new();
        let done = hosts.iter().try_for_each(|host| {
            let port = taken.first().map_or(port, |first| first.address().port());
            Reservation::take(transport, SocketAddr::new(*host, port)).map(|reservation| taken.push(reservation))
        });
        tries += 1;
        match done {
            Ok(()) => return Ok(taken),
            // One that is free at the first address may be somebody's at the second.
            Err(coracle_netns::Error::Port { owner: _, source, .. })
                if port == 0 && !taken.is_empty() && tries < 64 && source.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

fn read(words: &str) -> Option<Words> {
    let (words, transport) = match words.rsplit_once('/') {
        Some((words, transport)) => (words, transport.parse().ok()?),
        None => (words, Transport::Tcp),
    };
    let (host, ports) = match words.strip_prefix('[') {
        Some(rest) => {
            let (host, ports) = rest.split_once("]:")?;
            (Some(host.parse::<Ipv6Addr>().ok()?.into()), ports)
        }
        None => match words.split(':').count() {
            3 => {
                let (host, ports) = words.split_once(':')?;
                (Some(host.parse::<Ipv4Addr>().ok()?.into()), ports)
            }
            1 | 2 => (None, words),
            _ => return None,
        },
    };
    let (host_ports, container_ports) = match ports.split_once(':') {
        Some((host, container)) => (host, container),
        None => ("", ports),
    };
    let (container_port, count) = range(container_ports)?;
    let host_port = match host_ports {
        "" | "0" => 0,
        ports => {
            let (first, host_count) = range(ports)?;
            (host_count == count).then_some(first)?
        }
    };
    Some(Words { host, host_port, container_port, count, transport })
}

/// `80` or `80-89`: the first and how many.
fn range(words: &str) -> Option<(u16, u16)> {
    let number = |word: &str| word.parse::<u16>().ok().filter(|n| *n != 0 && word.bytes().all(|b| b.is_ascii_digit()));
    let (first, last) = match words.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(words)?, number(words)?),
    };
    // All 65535 are a range too, but nobody can take them.
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_docker_reads_them() {
        let check = |words: &str, expected: Option<(&str, u16, u16, u16, Transport)>| {
            let found =
                read(words).map(|w| (w.host.map_or(String::new(), |h| h.to_string()), w.host_port, w.container_port, w.count, w.transport));
            assert_eq!(found, expected.map(|(h, a, b, c, t)| (h.to_owned(), a, b, c, t)), "{words}");
        };
        check("80", Some(("", 0, 80, 1, Transport::Tcp)));
        check("8080:80", Some(("", 8080, 80, 1, Transport::Tcp)));
        check("8080:80/udp", Some(("", 8080, 80, 1, Transport::Udp)));
        check("127.0.0.1:8080:80/tcp", Some(("127.0.0.1", 8080, 80, 1, Transport::Tcp)));
        check("127.0.0.1::80", Some(("127.0.0.1", 0, 80, 1, Transport::Tcp)));
        check("[::1]:8080:80", Some(("::1", 8080, 80, 1, Transport::Tcp)));
        check("[::1]::80", Some(("::1", 0, 80, 1, Transport::Tcp)));
        check("9000-9002:80-82", Some(("", 9000, 80, 3, Transport::Tcp)));
        check("80-82", Some(("", 0, 80, 3, Transport::Tcp)));
        check("0:80", Some(("", 0, 80, 1, Transport::Tcp)));
        for bad in [
            "",
            "x",
            "0",
            "65536",
            "80/sctp",
            "80/",
            ":80:",
            "8080:",
            "80-79",
            "9000-9001:80-82",
            "1.2.3:80:80",
            "::1:80:80",
            "[::1]80",
            "a:b:c:d",
            "+80",
            "8080:80:90",
            "[127.0.0.1]:80:80",
            "-80",
            "80-",
            "80 ",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_range_is_taken_whole_or_not_at_all() {
        let first = Reservation::take(Transport::Tcp, "127.0.0.1:0".parse().unwrap()).unwrap();
        let port = first.address().port();
        let range = format!("{}-{port}:80-82", port - 2);
        let error = Publish::from(range.as_str()).reserve().unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}/tcp is taken by")), "{error}");
        drop(first);
        assert_eq!(Publish::from(range).reserve().unwrap().len(), 3);
    }

    #[test]
    fn a_random_port_is_the_same_at_every_address() {
        let all = Publish::from(80).everywhere().reserve().unwrap();
        assert!(all.iter().all(|(reservation, to)| reservation.address().port() == all[0].0.address().port() && *to == 80));
        assert_eq!(all.len(), if has_ipv6() { 2 } else { 1 });
    }
}

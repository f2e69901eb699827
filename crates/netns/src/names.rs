//! Where a container asks for names: an address of its own loopback interface, behind which a server listens at another port.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::firewall::{NETWORK, OUTPUT, R0, Rule, TRANSPORT, Table};
use crate::netlink::Batch;

impl Batch {
    /// What comes for port 53 of the server's address goes to its own port, and its answers seem to come from 53: so who wants to listen at port
    /// 53 of all addresses in that namespace can. Packets are rewritten as they leave, without following connections, which would cost all
    /// others.
    ///
    /// For the namespace that it is about: [`Protocol::Netfilter`](crate::Protocol::Netfilter), inside.
    pub fn names_at(server: SocketAddrV4) -> Batch {
        const MANGLE: i32 = -150;
        let mut table = Table::begin();
        table.chain("output", "filter", OUTPUT, MANGLE);
        let port = |number: u16| number.to_be_bytes();
        // The protocol, and where its checksum is.
        for (protocol, checksum) in [(17, 6), (6, 16)] {
            for (address_at, port_at, from, to) in [(16, 2, 53, server.port()), (12, 0, server.port(), 53)] {
                let rule = Rule::new().protocol(R0).compare(R0, true, &[protocol]);
                let rule = rule.load(NETWORK, address_at, 4, R0).compare(R0, true, &Ipv4Addr::octets(server.ip()));
                let rule = rule.load(TRANSPORT, port_at, 2, R0).compare(R0, true, &port(from));
                table.rule("output", rule.set(R0, &port(to)).store(TRANSPORT, port_at, 2, R0, checksum));
            }
        }
        table.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn questions_reach_the_server_and_port_53_stays_free() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: root");
            return;
        }
        let inside = crate::NetNs::new().unwrap();
        let server = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 1011);
        let work = || {
            crate::Socket::open_for(crate::Protocol::Netfilter).unwrap().perform(&Batch::names_at(server)).unwrap();
            let resolver = std::net::UdpSocket::bind(server).unwrap();
            let streams = std::net::TcpListener::bind(server).unwrap();
            let _others = (std::net::UdpSocket::bind("0.0.0.0:53").unwrap(), std::net::TcpListener::bind("0.0.0.0:53").unwrap());
            let client = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            client.connect("127.0.0.11:53").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client.send(b"who").unwrap();
            let mut bytes = [0; 8];
            let (n, from) = resolver.recv_from(&mut bytes).unwrap();
            resolver.send_to(&bytes[..n], from).unwrap();
            assert_eq!(client.recv(&mut bytes).unwrap(), 3, "from the address that was asked");
            let mut stream = std::net::TcpStream::connect("127.0.0.11:53").unwrap();
            let (mut accepted, _) = streams.accept().unwrap();
            std::io::Write::write_all(&mut stream, b"who").unwrap();
            std::io::Read::read_exact(&mut accepted, &mut bytes[..3]).unwrap();
        };
        inside.run(work).unwrap();
    }
}

//! Published ports of containers without a network: for root and for a plain user.

use crate::support::need;
use crate::support::place::{Place, block_on, fails, within};
use coracle::{Container, ContainerBuilder, Network, Publish};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A web server of busybox's, with one page.
fn web(place: &Place) -> ContainerBuilder {
    place.sh("mkdir /www; echo it works > /www/index.html; exec httpd -f -p 8000 -h /www")
}

/// The page, as soon as there is a server.
fn page(address: SocketAddr) -> String {
    let mut text = String::new();
    let got = within(PATIENCE, || page_now(address).is_some());
    assert!(got, "nobody answers at {address}");
    text.push_str(&page_now(address).unwrap_or_default());
    text
}

fn page_now(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.rsplit_once("\r\n\r\n")?.1.trim().to_owned()).filter(|page| !page.is_empty())
}

#[test]
fn a_port_is_answered_at_loopback_and_free_when_the_container_is_gone() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(web(&place).publish(8000).run()).expect("it starts");
    let address = container.port(8000).expect("it is published");
    assert_eq!((address.ip().to_string().as_str(), container.host_port(8000)), ("127.0.0.1", Some(address.port())));
    assert_eq!((container.port(80), container.ports().len()), (None, 1));
    assert_eq!(page(address), "it works");
    let listed = place.engine().containers().expect("they are listed");
    assert_eq!(listed[0].ports, container.ports());
    assert_eq!(listed[0].ports[0].to_string(), format!("{address}->8000/tcp"));
    block_on(container.remove()).expect("it is removed");
    assert_eq!(TcpStream::connect(address).map(|_| ()).map_err(|e| e.kind()), Err(ErrorKind::ConnectionRefused));
    drop(TcpListener::bind(address).expect("the port is free"));
    place.assert_clean();
}

#[test]
fn a_detached_container_keeps_its_port_and_tells_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(web(&place).publish(8000).run()).expect("it starts");
    let address = container.port(8000).expect("it is published");
    let id = block_on(container.detach()).expect("it is detached");
    let again = place.engine().attach(&id).expect("it is there");
    assert_eq!(again.port(8000), Some(address));
    assert_eq!(page(address), "it works");
    block_on(again.remove()).expect("it is removed");
}

#[test]
fn a_container_that_stays_has_its_port_again_when_it_is_started_again() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let script = "mkdir -p /www; echo it works > /www/index.html; exec httpd -f -p 8000 -h /www";
    let container = block_on(place.sh(script).publish(8000).host("other", "10.9.9.9").create()).expect("it is made");
    assert_eq!(container.port(8000), None, "no port is taken before the start");
    block_on(container.start()).expect("it starts");
    let address = container.port(8000).expect("it is published");
    assert_eq!(page(address), "it works");
    block_on(container.restart(Duration::ZERO)).expect("it starts again");
    assert_eq!(container.port(8000), Some(address));
    assert_eq!(page(address), "it works");
    block_on(container.stop(Duration::ZERO)).expect("it ends");
    assert!(within(PATIENCE, || TcpStream::connect(address).is_err()));
    // Whoever has the port meanwhile is named, and the container stays as it is.
    let taken = TcpListener::bind(address).expect("the port is free");
    let error = block_on(container.start()).expect_err("the port is taken").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    drop(taken);
    // By another handle, as another process has it.
    let again = place.engine().attach(container.id()).expect("it is there");
    // A program that another test begins at this moment has the listener, too, until it is executed.
    assert!(within(PATIENCE, || block_on(again.start()).is_ok()), "it starts");
    assert_eq!((again.port(8000), page(address).as_str()), (Some(address), "it works"));
    assert!(block_on(again.exec(["grep", "10.9.9.9", "/etc/hosts"]).output()).expect("it runs").status.success());
    block_on(again.remove()).expect("it is removed");
    let refused = block_on(place.sh("true").network(Network::bridge()).create()).expect_err("it can't be kept").to_string();
    assert!(refused.contains("goes with its handle"), "{refused}");
    place.assert_clean();
}

#[test]
fn words_say_where() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // Somewhere that is free, or was a moment ago.
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let port = free();
    let container = block_on(web(&place).publish(format!("127.0.0.1:{port}:8000")).run()).expect("it starts");
    assert_eq!(container.host_port(8000), Some(port));
    assert_eq!(page(SocketAddr::from(([127, 0, 0, 1], port))), "it works");
    let everywhere = block_on(web(&place).publish(Publish::from(8000).everywhere()).run()).expect("it starts");
    assert!(everywhere.ports()[0].host.ip().is_unspecified());
    assert_eq!(page(everywhere.port(8000).expect("it is published")), "it works");
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        let six = block_on(web(&place).publish("[::1]::8000").run()).expect("it starts");
        assert_eq!(page(six.port(8000).expect("it is published")), "it works");
        let both = everywhere.ports();
        assert_eq!((both.len(), both[0].host.port()), (2, both[1].host.port()));
        assert_eq!(page(SocketAddr::new("::1".parse().expect("an address"), both[1].host.port())), "it works");
    }
}

#[test]
fn datagrams_are_answered_too() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // Busybox has no server of datagrams; perl is on every Debian.
    let script = "use IO::Socket::INET; $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 9000); while ($s->recv($b, 100)) { chomp $b; $s->send(\"<$b>\\n\") }";
    let server = Container::from_rootfs("/").engine(place.engine()).cmd(["perl", "-e", script]).publish("9000/udp");
    let container = block_on(server.run()).expect("it starts");
    let address = container.port(9000).expect("it is published");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(address).expect("an address");
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let mut answer = [0; 64];
    let answered = within(PATIENCE, || {
        let mut answer = [0; 64];
        client.send(b"hello\n").is_ok() && client.recv(&mut answer).is_ok_and(|n| &answer[..n] == b"<hello>\n")
    });
    assert!(answered);
    let _ = client.recv(&mut answer);
}

#[test]
fn who_asks_is_no_loopback_address() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let server = place
        .sh("printf '#!/bin/sh\\ncat /proc/net/tcp /proc/net/tcp6\\n' > /bin/show; chmod +x /bin/show; exec nc -ll -p 9000 -e /bin/show")
        .publish(9000);
    let container = block_on(server.run()).expect("it starts");
    let address = container.port(9000).expect("it is published");
    let read = || {
        let mut text = String::new();
        TcpStream::connect(address).ok()?.read_to_string(&mut text).ok()?;
        Some(text).filter(|text| text.contains("sl"))
    };
    assert!(within(PATIENCE, || read().is_some()));
    // 192.0.0.8 on both sides, as the kernel writes it; never 127.0.0.1, whom servers trust.
    let text = read().unwrap_or_default();
    assert!(text.contains("080000C0:2328 ") && !text.contains("0100007F:"), "{text}");
}

#[test]
fn a_port_that_is_taken_is_told_with_who_has_it_and_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let (text, remedy, code) = fails(web(&place).publish(format!("{port}:8000")));
    assert!(text.starts_with(&format!("the port 127.0.0.1:{port}/tcp is taken by ")), "{text}");
    assert!(text.ends_with(&format!("(process {})", std::process::id())), "{text}");
    assert!(remedy.is_some_and(|remedy| remedy.contains("port 0")));
    assert_eq!(code, 125);
    place.assert_clean();
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    need!(Busybox);
    let place = Place::new();
    let builder = place
        .sh("true")
        .publish("x")
        .publish(0)
        .host("a b", "1.2.3.4")
        .host("c", "x")
        .host("gw", "host-gateway")
        .dns("x")
        .dns_option("a\nb");
    let (text, remedy, _) = fails(builder.network(Network::host()).network(Network::none()));
    for part in
        ["\"x\" is no port", "0 is no port", "\"a b\"", "\"x\" is no address for \"c\"", "server for names", "resolv.conf", "one network"]
    {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(remedy.is_some());
    assert!(fails(place.sh("true").publish(80).network(Network::host())).0.contains("network of its own"));
}

#[test]
fn extra_hosts_and_servers_stand_in_the_files() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let builder = place.sh("cat /etc/hosts /etc/resolv.conf").host("db", "10.1.2.3").host("db6", "fd00::1");
    let out = block_on(builder.dns("192.0.2.53").dns_search("example.org").dns_option("ndots:2").output()).expect("it runs");
    let text = out.stdout_lossy();
    for line in ["10.1.2.3\tdb\n", "fd00::1\tdb6\n", "nameserver 192.0.2.53\n", "search example.org\n", "options ndots:2\n"] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
}

#[test]
fn a_plain_user_is_told_what_a_private_network_needs() {
    need!(PlainUser, Busybox);
    let place = Place::new();
    let (text, remedy, _) = fails(place.sh("true").network(Network::bridge()));
    assert!(text.contains("needs root") && remedy.is_some_and(|remedy| remedy.contains("publish")), "{text}");
}

#[test]
fn a_container_that_publishes_runs_to_its_end_like_any_other() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for _ in 0..10 {
        let out = block_on(place.sh("echo done; exit 3").publish(8000).publish("8001/udp").output()).expect("it runs");
        assert_eq!((out.stdout_lossy().as_ref(), out.status.code()), ("done\n", Some(3)));
    }
    place.assert_clean();
}

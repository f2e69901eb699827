//! Private networks, each test on a host of its own: a network namespace with another one as the world outside. Needs root, which a user
//! namespace gives, too (`unshare -Urn`); without it each test says SKIP.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use coracle_netns::{Batch, Bridge, Entry, Error, Firewall, Mac, NetNs, Socket, Subnet, Transport, Veth};

/// A host with one interface, `out`, at 192.0.2.2, and its default route by the world at 192.0.2.1.
struct Host {
    host: NetNs,
    world: NetNs,
}

const HOST: &str = "192.0.2.2";
const WORLD: &str = "192.0.2.1";

fn ip(word: &str) -> IpAddr {
    word.parse().unwrap()
}

impl Host {
    /// None without root.
    fn new() -> Option<Host> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: root");
            return None;
        }
        let (host, world) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let cable = Batch::new().bridge("sw", 50, Mac([2, 0, 0, 0, 0, 9]), 1400);
        let veth = Veth::new("up", 51, 50, "out", 52, Mac([2, 0, 0, 0, 0, 2]));
        world
            .run(|| {
                let socket = Socket::open()?;
                socket.perform(&cable.address("sw", 50, ip(WORLD), 24).link_up("sw", 50))?;
                socket.perform(&Batch::new().veth(&veth).with_namespace(&host))
            })
            .unwrap()
            .unwrap();
        host.run(|| {
            let batch = Batch::new().address("out", 52, ip(HOST), 24).link_up("out", 52).default_route("out", 52, ip(WORLD));
            Socket::open()?.perform(&batch)
        })
        .unwrap()
        .unwrap();
        Some(Host { host, world })
    }

    fn bridge(&self, name: &str, subnet: &str, internal: bool) -> Bridge {
        let subnets: Vec<Subnet> = [subnet.to_owned(), format!("fd00:{}::/64", name.len())].iter().map(|s| s.parse().unwrap()).collect();
        self.host.run(|| Bridge::make(name, &subnets, internal)).unwrap().unwrap()
    }

    /// A namespace with this number in a network.
    fn plug(&self, bridge: &Bridge, number: u32) -> (NetNs, Entry) {
        let inside = NetNs::new().unwrap();
        let addresses: Vec<(Subnet, IpAddr)> = bridge.subnets.iter().map(|s| (*s, s.host(number).unwrap())).collect();
        let mac = Mac([2, 0xc0, 0, 0, 0, number as u8]);
        let cable = bridge.cable(0, mac);
        let plug = Entry::Plug {
            interface: cable.name.clone(),
            mac,
            addresses: addresses.iter().map(|(_, a)| *a).collect(),
            guarded: self.firewall(Firewall::guards_plugs),
        };
        let plugged = Batch::new().veth(&cable).hairpin_port(&cable.name, cable.index);
        self.host.run(|| Socket::open()?.perform(&plugged.with_namespace(&inside))).unwrap().unwrap();
        self.firewall(|firewall| firewall.put(std::slice::from_ref(&plug)));
        let batch = Batch::new().endpoint("eth0", cable.peer_index, &addresses, &bridge.gateways());
        inside.run(|| Socket::open()?.perform(&batch)).unwrap().unwrap();
        (inside, plug)
    }

    fn firewall<T: Send>(&self, work: impl FnOnce(&Firewall) -> Result<T, Error> + Send) -> T {
        self.host.run(|| work(&Firewall::open()?)).unwrap().unwrap()
    }
}

/// Serves what it is told: the address of who asks.
fn serve(at: &NetNs, address: &str) -> SocketAddr {
    let listener = at.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = write!(stream, "{}", stream.peer_addr().unwrap().ip());
        }
    });
    address
}

/// How soon silence counts as an answer.
const PATIENCE: Duration = Duration::from_millis(700);

/// What a server says; an error of the kind that the kernel gives, TimedOut for silence.
fn ask(from: &NetNs, address: SocketAddr) -> Result<String, ErrorKind> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| e.kind())?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| e.kind())?;
        Ok(text)
    })
    .unwrap()
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Patient: what has to come comes, on a busy machine too.
fn ask_surely(from: &NetNs, address: SocketAddr) -> String {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match ask(from, address) {
            Ok(text) => return text,
            Err(kind) if Instant::now() > until => panic!("{address}: {kind:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[test]
fn neighbours_reach_each_other_at_once_and_the_world_sees_the_host() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    assert_eq!(net.mtu, 1500.min(net.mtu));
    let (a, _) = host.plug(&net, 2);
    let (b, _) = host.plug(&net, 3);
    let on_b = serve(&b, "0.0.0.0:0");
    assert_eq!(ask_surely(&a, at("10.9.0.3", on_b.port())), "10.9.0.2");
    // Its own addresses of IPv6 are usable at once.
    let on_b6 = serve(&b, "[fd00:3::3]:0");
    assert_eq!(ask_surely(&a, on_b6), "fd00:3::2");
    let outside = serve(&host.world, "0.0.0.0:0");
    assert_eq!(ask_surely(&a, at(WORLD, outside.port())), HOST);
    // The host is there, too, and sees who asks.
    let on_host = serve(&host.host, "0.0.0.0:0");
    assert_eq!(ask_surely(&a, at("10.9.0.1", on_host.port())), "10.9.0.2");
    assert_eq!(ask_surely(&host.host, at("10.9.0.3", on_b.port())), "10.9.0.1");
}

#[test]
fn what_was_not_published_is_not_reached_from_outside_or_from_other_networks() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let other = host.bridge("bryy", "10.9.1.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let (b, _) = host.plug(&other, 2);
    let on_a = serve(&a, "0.0.0.0:0");
    assert_eq!(ask_surely(&host.host, at("10.9.0.2", on_a.port())), "10.9.0.1");
    assert_eq!(ask(&b, at("10.9.0.2", on_a.port())), Err(ErrorKind::TimedOut), "another network");
    // Somebody outside who routes to the network by the host.
    let route = Batch::new().default_route("sw", 50, ip(HOST));
    host.world.run(|| Socket::open()?.perform(&route)).unwrap().unwrap();
    assert_eq!(ask(&host.world, at("10.9.0.2", on_a.port())), Err(ErrorKind::TimedOut), "direct routing");
}

#[test]
fn a_published_port_is_reached_from_everywhere_but_loopback_and_gone_with_its_entry() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let other = host.bridge("bryy", "10.9.1.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let (neighbour, _) = host.plug(&net, 3);
    let (stranger, _) = host.plug(&other, 2);
    let on_a = serve(&a, "0.0.0.0:0").port();
    let port = |host: &str, number| Entry::Port { transport: Transport::Tcp, host: at(host, number), container: at("10.9.0.2", on_a) };
    let entries = [port("0.0.0.0", 8080), port(HOST, 9090)];
    host.firewall(|firewall| firewall.put(&entries));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD, "who asks is seen");
    assert_eq!(ask_surely(&host.world, at(HOST, 9090)), WORLD);
    assert_eq!(ask_surely(&host.host, at(HOST, 8080)), HOST);
    for (who, from) in [("itself", &a), ("a neighbour", &neighbour), ("another network", &stranger)] {
        assert_eq!(ask_surely(from, at(HOST, 8080)), "10.9.0.1", "{who}");
    }
    assert_eq!(ask(&host.host, at("127.0.0.1", 8080)), Err(ErrorKind::ConnectionRefused), "never by loopback");
    assert_eq!(ask(&host.host, at("10.9.0.1", 9090)), Err(ErrorKind::ConnectionRefused), "another address of the host");
    host.firewall(|firewall| firewall.remove(&entries));
    assert_eq!(ask(&host.world, at(HOST, 8080)), Err(ErrorKind::ConnectionRefused));
    // No loopback address is ever routed from outside.
    let setting = host.host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/route_localnet").unwrap()).unwrap();
    assert_eq!(setting.trim(), "0");
}

#[test]
fn frames_within_a_bridge_pass_with_and_without_br_netfilter() {
    let Some(host) = Host::new() else { return };
    for setting in ["0", "1"] {
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let written = host.host.run(|| std::fs::write(path, setting)).unwrap();
        if written.is_err() {
            return eprintln!("SKIP: br_netfilter");
        }
        let (name, subnet) = (format!("br{setting}"), format!("10.9.{setting}.0/24"));
        let net = host.bridge(&name, &subnet, false);
        let (a, _) = host.plug(&net, 2);
        let (b, _) = host.plug(&net, 3);
        let on_a = serve(&a, "0.0.0.0:0").port();
        let (address, gateway) = (format!("10.9.{setting}.2"), format!("10.9.{setting}.1"));
        assert_eq!(ask_surely(&b, at(&address, on_a)), format!("10.9.{setting}.3"), "{setting}");
        let entry = Entry::Port { transport: Transport::Tcp, host: at("0.0.0.0", 8080), container: at(&address, on_a) };
        host.firewall(|firewall| firewall.put(&[entry]));
        assert_eq!(ask_surely(&a, at(HOST, 8080)), gateway, "itself, {setting}");
        assert_eq!(ask_surely(&b, at(HOST, 8080)), gateway, "a neighbour, {setting}");
        assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD, "{setting}");
    }
}

#[test]
fn isolated_ports_reach_the_bridge_and_not_each_other() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let (b, _) = host.plug(&net, 3);
    let on_a = serve(&a, "0.0.0.0:0").port();
    assert_eq!(ask_surely(&b, at("10.9.0.2", on_a)), "10.9.0.3");
    host.host
        .run(|| {
            let socket = Socket::open()?;
            let ports = socket.links()?.into_iter().filter(|link| link.master == Some(net.index));
            ports.map(|link| socket.perform(&Batch::new().isolate_port(&link.name, link.index))).collect::<Result<Vec<()>, Error>>()
        })
        .unwrap()
        .unwrap();
    assert!(ask(&b, at("10.9.0.2", on_a)).is_err());
    assert_eq!(ask_surely(&host.host, at("10.9.0.2", on_a)), "10.9.0.1");
}

#[test]
fn datagrams_come_through_a_published_port() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let server = a.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    let entry = Entry::Port {
        transport: Transport::Udp,
        host: at("0.0.0.0", 5353),
        container: at("10.9.0.2", server.local_addr().unwrap().port()),
    };
    host.firewall(|firewall| firewall.put(&[entry]));
    let client = host.world.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    client.connect(at(HOST, 5353)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = [0; 16];
    client.send(b"ping").unwrap();
    let (n, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..n], from.ip()), (&b"ping"[..], ip(WORLD)));
    server.send_to(b"pong", from).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(client.recv(&mut bytes).unwrap(), 4);
}

#[test]
fn an_internal_network_leads_nowhere() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", true);
    let open = host.bridge("bryy", "10.9.1.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let (b, _) = host.plug(&net, 3);
    let (other, _) = host.plug(&open, 2);
    let on_b = serve(&b, "0.0.0.0:0").port();
    assert_eq!(ask_surely(&a, at("10.9.0.3", on_b)), "10.9.0.2", "but to its neighbours");
    let outside = serve(&host.world, "0.0.0.0:0").port();
    let on_host = serve(&host.host, "0.0.0.0:0").port();
    let on_other = serve(&other, "0.0.0.0:0").port();
    assert_eq!(ask(&a, at(WORLD, outside)), Err(ErrorKind::NetworkUnreachable));
    // Root inside may route by whom it likes.
    let route = Batch::new().default_route("eth0", 1000, ip("10.9.0.1"));
    a.run(|| Socket::open()?.perform(&route)).unwrap().unwrap();
    assert_eq!(ask(&a, at(WORLD, outside)), Err(ErrorKind::TimedOut), "the world");
    assert_eq!(ask(&a, at("10.9.0.1", on_host)), Err(ErrorKind::TimedOut), "the host");
    assert_eq!(ask(&a, at(HOST, on_host)), Err(ErrorKind::TimedOut), "the host by its other address");
    assert_eq!(ask(&a, at("10.9.1.2", on_other)), Err(ErrorKind::TimedOut), "another network");
    assert_eq!(ask_surely(&host.host, at("10.9.0.3", on_b)), "10.9.0.1", "the host may come in");
}

#[test]
fn a_flushed_firewall_is_made_again_and_others_are_left_alone() {
    let Some(host) = Host::new() else { return };
    let nft = |script: &str| {
        host.host
            .run(|| {
                std::process::Command::new("nft")
                    .arg(script)
                    .output()
                    .map(|out| (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned()))
            })
            .unwrap()
    };
    if nft("list ruleset").is_err() {
        return eprintln!("SKIP: nft");
    }
    assert!(nft("add table ip theirs; add chain ip theirs c; add rule ip theirs c accept").unwrap().0);
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let (a, plug) = host.plug(&net, 2);
    let outside = serve(&host.world, "0.0.0.0:0").port();
    assert_eq!(ask_surely(&a, at(WORLD, outside)), HOST);
    let before = nft("list ruleset").unwrap().1;
    assert!(before.contains("table inet coracle") && before.contains("table ip theirs"), "{before}");
    assert!(nft("flush ruleset").unwrap().0);
    let made = host.firewall(|firewall| firewall.ensure());
    assert!(made, "it was gone");
    host.firewall(|firewall| firewall.put(&[net.entries(), vec![plug]].concat()));
    assert_eq!(ask_surely(&a, at(WORLD, outside)), HOST);
    let after = nft("list ruleset").unwrap().1;
    let ours = |text: &str| {
        text.split("table ")
            .filter(|t| t.starts_with("inet coracle") || t.starts_with("bridge coracle"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let sorted = |mut text: Vec<String>| {
        text.sort();
        text
    };
    assert_eq!(sorted(ours(&after)), sorted(ours(&before)));
    assert!(!host.firewall(|firewall| firewall.ensure()), "it is there");
    assert!(nft("add table ip theirs").unwrap().0);
    host.firewall(|firewall| firewall.clear());
    assert_eq!(nft("list ruleset").unwrap().1.trim(), "table ip theirs {\n}");
}

#[test]
fn a_neighbour_cannot_pass_itself_off_as_another() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    if !host.firewall(|firewall| firewall.guards_plugs()) {
        return eprintln!("SKIP: nf_tables for bridges");
    }
    let (honest, _) = host.plug(&net, 2);
    let (liar, _) = host.plug(&net, 3);
    let on_honest = serve(&honest, "0.0.0.0:0").port();
    assert_eq!(ask_surely(&liar, at("10.9.0.2", on_honest)), "10.9.0.3");
    // Another address of the same network: its packets and its answers to ARP are dropped.
    liar.run(|| Socket::open()?.perform(&Batch::new().address("eth0", 1000, ip("10.9.0.77"), 24))).unwrap().unwrap();
    let on_liar = serve(&liar, "0.0.0.0:0").port();
    assert!(ask(&honest, at("10.9.0.77", on_liar)).is_err(), "it answers for an address that isn't its own");
    let from = liar.run(|| UdpSocket::bind("10.9.0.77:0")).unwrap().unwrap();
    let to = honest.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.send_to(b"lie", at("10.9.0.2", to.local_addr().unwrap().port())).unwrap();
    assert!(to.recv(&mut [0; 8]).is_err());
    // Its true one still works.
    let from = liar.run(|| UdpSocket::bind("10.9.0.3:0")).unwrap().unwrap();
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    from.send_to(b"truth", at("10.9.0.2", to.local_addr().unwrap().port())).unwrap();
    assert_eq!(to.recv(&mut [0; 8]).unwrap(), 5);
}

#[test]
fn an_interface_that_did_not_forward_forwards_for_the_network_alone() {
    let Some(host) = Host::new() else { return };
    let other = NetNs::new().unwrap();
    // A second network of the host's own, nothing of ours.
    host.host
        .run(|| {
            let socket = Socket::open()?;
            socket.perform(
                &Batch::new().bridge("lan", 60, Mac([2, 0, 0, 0, 1, 1]), 1500).address("lan", 60, ip("10.8.0.1"), 24).link_up("lan", 60),
            )?;
            socket.perform(&Batch::new().veth(&Veth::new("p", 61, 60, "eth0", 62, Mac([2, 0, 0, 0, 1, 2]))).with_namespace(&other))
        })
        .unwrap()
        .unwrap();
    other
        .run(|| {
            Socket::open()?.perform(&Batch::new().address("eth0", 62, ip("10.8.0.2"), 24).link_up("eth0", 62).default_route(
                "eth0",
                62,
                ip("10.8.0.1"),
            ))
        })
        .unwrap()
        .unwrap();
    let on_other = serve(&other, "0.0.0.0:0").port();
    let route = Batch::new().default_route("sw", 50, ip(HOST));
    host.world.run(|| Socket::open()?.perform(&route)).unwrap().unwrap();
    assert_eq!(ask_surely(&host.host, at("10.8.0.2", on_other)), "10.8.0.1");
    assert!(ask(&host.world, at("10.8.0.2", on_other)).is_err(), "it didn't forward before");
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let outside = serve(&host.world, "0.0.0.0:0").port();
    assert_eq!(ask_surely(&a, at(WORLD, outside)), HOST);
    assert_eq!(ask(&host.world, at("10.8.0.2", on_other)), Err(ErrorKind::TimedOut), "it doesn't now");
    let global = host.host.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()).unwrap();
    assert_eq!(global.trim(), "0", "the host as a whole is no router");
}

#[test]
fn a_cable_goes_with_its_namespace_and_a_bridge_when_it_is_removed() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.9.0.0/24", false);
    let (a, _) = host.plug(&net, 2);
    let links = || host.host.run(|| Socket::open()?.links()).unwrap().unwrap();
    assert_eq!(links().iter().filter(|link| link.master == Some(net.index)).count(), 1);
    drop(a);
    let until = Instant::now() + Duration::from_secs(30);
    while links().iter().any(|link| link.master == Some(net.index)) {
        assert!(Instant::now() < until, "the cable is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
    let found = host.host.run(|| Bridge::find("brx", &net.subnets, false, &net.guarded)).unwrap().unwrap();
    assert_eq!(found, Some(net.clone()));
    host.host.run(|| net.remove()).unwrap().unwrap();
    host.host.run(|| net.remove()).unwrap().unwrap();
    assert_eq!(host.host.run(|| Bridge::find("brx", &net.subnets, false, &net.guarded)).unwrap().unwrap(), None);
}

#[test]
fn requests_that_fail_are_told_by_what_they_were() {
    let Some(host) = Host::new() else { return };
    let inside = NetNs::new().unwrap();
    let veth = Veth::new("v", 70, 4711, "eth0", 71, Mac([2, 0, 0, 0, 0, 1]));
    let error = host.host.run(|| Socket::open()?.perform(&Batch::new().veth(&veth).with_namespace(&inside))).unwrap().unwrap_err();
    assert!(error.to_string().contains("make the cable from v to the container's eth0: "), "{error}");
    host.bridge("brx", "10.9.0.0/24", false);
    let error = host.host.run(|| Bridge::make("brx", &["10.9.3.0/24".parse().unwrap()], false)).unwrap().unwrap_err();
    assert!(error.to_string().contains("make the bridge brx: File exists"), "{error}");
    let missing = Entry::Guard { interface: "none".into() };
    let error = host.firewall(|firewall| Ok(firewall.remove(&[missing]))).unwrap_err();
    assert!(error.to_string().contains("take the guard of none out of the firewall: No such file"), "{error}");
}

#[test]
fn the_hosts_routes_are_not_given_away() {
    let Some(host) = Host::new() else { return };
    let net = host.bridge("brx", "10.200.0.0/16", false);
    let used = host.host.run(coracle_netns::subnets_in_use).unwrap();
    assert!(used.contains(&net.subnets[0]) && used.contains(&"192.0.2.0/24".parse().unwrap()), "{used:?}");
    assert!(!used.iter().any(|subnet| subnet.prefix() == 0), "{used:?}");
}

#[test]
fn a_plain_user_does_the_same_in_a_user_namespace() {
    if !rustix::process::geteuid().is_root() || std::env::var_os("CORACLE_IN_USER_NAMESPACE").is_some() {
        return;
    }
    // A copy that another user may execute.
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("test");
    // By cp(1): while a thread of ours wrote it, another's child might hold it open for writing.
    assert!(std::process::Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap().success());
    for path in [place.path(), &copy] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let words = ["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urnm"];
    let tests = ["neighbours_reach", "what_was_not_published", "a_published_port_is", "an_internal_network", "a_neighbour_cannot"];
    let run = std::process::Command::new("setpriv")
        .args(words)
        .arg(&copy)
        .arg("--test-threads=2")
        .args(tests)
        .env("CORACLE_IN_USER_NAMESPACE", "1")
        .output();
    let Ok(run) = run else { return eprintln!("SKIP: setpriv and unshare of util-linux") };
    let said = String::from_utf8_lossy(&run.stdout);
    if said.is_empty() {
        return eprintln!("SKIP: user namespaces: {}", String::from_utf8_lossy(&run.stderr));
    }
    assert!(run.status.success() && said.contains(&format!("{} passed", tests.len())) && !said.contains("SKIP"), "{said}");
}

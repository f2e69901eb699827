//! Names in private networks: who is answered, by whom, and who isn't.

use crate::support::host::{Host, WORLD};
use crate::support::need;
use crate::support::place::{Place, block_on, within};
use coracle::netns::NetNs;
use coracle::{Container, ContainerBuilder, Network};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A container over this machine's own programs: its resolver is glibc's, and dig(1) is here.
fn machine(place: &Place, line: &str) -> ContainerBuilder {
    Container::from_rootfs("/").engine(place.engine()).cmd(["sh", "-c", line]).env("MARK", place.path())
}

fn run(host: &Host, builder: ContainerBuilder) -> Container {
    host.at(|| block_on(builder.run())).unwrap_or_else(|error| panic!("{error}; {:?}", error.remedy()))
}

/// What a command in a container says, without the newline at its end.
fn says(host: &Host, container: &Container, line: &str) -> String {
    let output = host.at(|| block_on(container.exec(["sh", "-c", line]).output())).expect("it is executed");
    output.stdout_lossy().trim_end().to_owned()
}

/// A server in the world: what it was asked, and how often by TCP. `big.example` doesn't fit in a datagram, and `never.example` isn't answered.
struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    by_tcp: Arc<AtomicUsize>,
}

fn words(message: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (Vec::new(), 12);
    while message[at] > 0 {
        let end = at + 1 + usize::from(message[at]);
        name.push(String::from_utf8_lossy(&message[at + 1..end]).into_owned());
        at = end;
    }
    (name.join("."), at + 5)
}

fn answer(message: &[u8], tcp: bool) -> Option<(String, Vec<u8>)> {
    let (name, end) = words(message);
    let mut reply = message[..end].to_vec();
    (reply[2], reply[3]) = (0x81, 0x80);
    reply[6..12].fill(0);
    let record =
        |kind: u8, data: &[u8]| [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, (data.len() >> 8) as u8, data.len() as u8][..], data].concat();
    match name.to_ascii_lowercase().as_str() {
        "never.example" => return None,
        "world.example" if message[end - 3] == 1 => {
            reply[7] = 1;
            reply.extend(record(1, &[203, 0, 113, 7]));
        }
        "world.example" => {}
        "big.example" if !tcp => reply[2] |= 2,
        "big.example" => {
            reply[7] = 200;
            (0..200).for_each(|n| reply.extend(record(1, &[203, 0, 113, n])));
        }
        _ => reply[3] |= 3,
    }
    Some((name, reply))
}

fn serve_names(at: &NetNs, address: &str) -> Server {
    let bind = || (UdpSocket::bind((address, 53)).expect("it binds"), TcpListener::bind((address, 53)).expect("it listens"));
    let (datagrams, streams) = at.run(bind).expect("a thread");
    let server = Server { asked: Arc::default(), by_tcp: Arc::default() };
    let (asked, by_tcp) = (server.asked.clone(), server.by_tcp.clone());
    let also = asked.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((n, from)) = datagrams.recv_from(&mut bytes) {
            asked.lock().expect("whole").push(words(&bytes[..n]).0);
            if let Some((_, reply)) = answer(&bytes[..n], false) {
                let _ = datagrams.send_to(&reply, from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in streams.incoming().flatten() {
            let (mut length, mut bytes) = ([0; 2], [0; 4096]);
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let n = usize::from(u16::from_be_bytes(length));
            if stream.read_exact(&mut bytes[..n]).is_ok()
                && let Some((name, reply)) = answer(&bytes[..n], true)
            {
                also.lock().expect("whole").push(name);
                by_tcp.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat());
            }
        }
    });
    server
}

#[test]
fn containers_find_each_other_by_name_on_their_networks_only() {
    need!(Root, Busybox, Dig);
    let (host, place) = (Host::new(), Place::new());
    let (front, back) = (Network::bridge(), Network::internal());
    let _server = serve_names(&host.world, WORLD);
    let machine = |place: &Place, line: &str| machine(place, line).dns(WORLD);
    let db = run(&host, place.sh("sleep 1000").name("db").network(back.clone().alias("primary").alias("Postgres.Service")));
    let web = run(&host, machine(&place, "sleep 1000").name("web").network(front.clone()).network(back.clone()));
    let out = run(&host, machine(&place, "sleep 1000").name("out").network(front));
    let address = db.addresses()[0][0];
    // glibc's resolver; its answer has the address first.
    let getent =
        |from: &Container, name: &str| says(&host, from, &format!("getent ahostsv4 {name} | head -1")).split(' ').next().map(str::to_owned);
    for name in ["db", "DB", "primary", "postgres.service", "db.", &db.id()[..12]] {
        assert_eq!(getent(&web, name), Some(address.to_string()), "{name}");
        assert_eq!(getent(&out, name), Some(String::new()), "{name}: another network");
    }
    assert_eq!(getent(&out, "web"), Some(web.addresses()[0][0].to_string()), "not by the network that they don't share");
    if let Some(six) = db.addresses()[0].get(1) {
        assert_eq!(says(&host, &web, "getent ahostsv6 db | head -1").split(' ').next(), Some(&*six.to_string()));
        assert_eq!(says(&host, &web, &format!("getent hosts {six}")).split_whitespace().last(), Some("db"));
    }
    assert_eq!(says(&host, &web, &format!("getent hosts {address}")).split_whitespace().last(), Some("db"), "the other way");
    // busybox has a resolver of its own.
    let other = run(&host, place.sh("sleep 1000").network(back));
    assert!(says(&host, &other, "nslookup db").contains(&address.to_string()));
    // Nothing for a kind of record that isn't there, and yet the name is: musl believes the first "no such name".
    let status = says(&host, &web, "dig db MX | grep -o 'status: [A-Z]*, '; dig +short localhost; dig +tcp +short primary");
    assert_eq!(status, format!("status: NOERROR, \n127.0.0.1\n{address}"));
    block_on(db.remove()).expect("it is removed");
    assert!(says(&host, &web, "dig db").contains("status: NXDOMAIN"), "it is gone");
}

#[test]
fn a_name_of_several_is_answered_with_each_first_in_turn() {
    need!(Root, Busybox, Dig);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::internal();
    let all: Vec<Container> = (0..3).map(|_| run(&host, place.sh("sleep 1000").network(network.clone().alias("service")))).collect();
    let client = run(&host, machine(&place, "sleep 1000").network(network));
    let said = says(&host, &client, "for i in 1 2 3; do dig +short service | head -1; done");
    let mut firsts: Vec<IpAddr> = said.lines().map(|line| line.parse().expect("an address")).collect();
    let mut own: Vec<IpAddr> = all.iter().map(|container| container.addresses()[0][0]).collect();
    firsts.sort();
    own.sort();
    assert_eq!(firsts, own);
}

#[test]
fn other_names_are_the_hosts_servers_and_an_internal_network_asks_nobody() {
    need!(Root, Busybox, Dig);
    let (host, place) = (Host::new(), Place::new());
    let server = serve_names(&host.world, WORLD);
    let ask = |builder: ContainerBuilder| run(&host, builder.dns(WORLD).dns_search("corp.example"));
    let network = Network::bridge();
    let db = ask(place.sh("sleep 1000").name("db").network(network.clone()));
    let client = ask(machine(&place, "sleep 1000").network(network));
    assert_eq!(says(&host, &client, "getent ahostsv4 world.example | head -1 | cut -d' ' -f1"), "203.0.113.7");
    assert_eq!(says(&host, &client, "dig +short AAAA world.example"), "");
    assert!(says(&host, &client, "dig none.example").contains("status: NXDOMAIN"));
    // As a resolver asks that adds its domains first.
    assert_eq!(says(&host, &client, "dig +short db.corp.example"), db.addresses()[0][0].to_string());
    // Cut short by datagram, whole by TCP.
    assert_eq!(says(&host, &client, "dig +short big.example | wc -l"), "200");
    assert_eq!(server.by_tcp.load(Ordering::SeqCst), 1);
    assert!(says(&host, &client, "dig +tries=1 +time=9 never.example").contains("status: SERVFAIL"), "not left waiting");
    let asked = server.asked.lock().expect("whole").clone();
    assert!(!asked.iter().any(|name| name.starts_with("db")), "a name of the network stays in it: {asked:?}");
    // Many at once, more than there are sockets.
    let many = says(&host, &client, "for i in $(seq 60); do dig +short +tries=5 world.example & done; wait");
    assert_eq!(many.lines().filter(|line| *line == "203.0.113.7").count(), 60, "{many}");

    let internal = ask(machine(&place, "sleep 1000").network(Network::internal()));
    assert!(says(&host, &internal, "dig +tries=1 secret.example").contains("status: NXDOMAIN"));
    let asked = server.asked.lock().expect("whole").clone();
    assert!(!asked.iter().any(|name| name.contains("secret")), "{asked:?}");
}

#[test]
fn port_53_is_the_containers_own() {
    need!(Root, Busybox, Dig);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::internal();
    let named = run(&host, place.sh("sleep 1000").name("named").network(network.clone()));
    let client = run(&host, machine(&place, "sleep 1000").network(network));
    let inside = NetNs::open(format!("/proc/{}/ns/net", client.pid())).expect("it runs");
    let own = inside.run(|| (UdpSocket::bind("0.0.0.0:53"), TcpListener::bind("0.0.0.0:53"))).expect("a thread");
    assert!(own.0.is_ok() && own.1.is_ok(), "{own:?}");
    assert_eq!(says(&host, &client, "dig +short named"), named.addresses()[0][0].to_string());
}

#[test]
fn names_go_with_whoever_has_them_also_when_everybody_is_killed() {
    need!(Root, Busybox, Program, Dig);
    let (host, place) = (Host::new(), Place::new());
    host.at(|| place.engine().create_network("n", &Network::internal())).expect("it is made");
    let named = |name: &str| place.sh("sleep 1000").name(name).network(Network::named("n"));
    let client = run(&host, machine(&place, "sleep 1000").network(Network::named("n")));
    let detached = run(&host, named("stays"));
    let address = detached.addresses()[0][0].to_string();
    let id = host.at(|| block_on(detached.detach())).expect("it is detached");
    assert_eq!(says(&host, &client, "dig +short stays"), address, "it answers and is answered for without an owner");
    let back = host.at(|| place.engine().attach(&id)).expect("it is there");
    assert_eq!(
        host.at(|| block_on(back.exec(["nslookup", "stays"]).output())).expect("it is executed").stdout_lossy().matches(&address).count(),
        1
    );
    // The supervisor, which would have freed the name.
    let status = std::fs::read_to_string(format!("/proc/{}/status", back.pid())).expect("it runs");
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok()).expect("a parent");
    rustix::process::kill_process(rustix::process::Pid::from_raw(supervisor).expect("a process"), rustix::process::Signal::KILL)
        .expect("ours");
    assert!(within(PATIENCE, || host.at(|| coracle::Engine::builder().root(place.engine().root()).open()).is_ok()
        && says(&host, &client, "dig +short +tries=1 +time=1 stays").is_empty()));
    drop((back, client));
    assert!(within(PATIENCE, || host.at(|| place.engine().remove_network("n")).is_ok()), "nobody is in it");
}

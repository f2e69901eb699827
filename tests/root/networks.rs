//! Private networks, each test on a host of its own.

use crate::support::host::{HOST, Host, WORLD, ask, ask_surely, serve};
use crate::support::need;
use crate::support::place::{Place, block_on, fails, within};
use coracle::netns::NetNs;
use coracle::{Container, ContainerBuilder, Network};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A container with a server at port 8000 that says to each who asks from where; [`run`] starts the server in its network.
fn server(place: &Place) -> ContainerBuilder {
    place.sh("sleep 1000").env("SERVER", "8000")
}

/// Starts it on this host.
fn run(host: &Host, builder: ContainerBuilder) -> Container {
    let serves = format!("{builder:?}").contains("SERVER");
    let container = host.at(|| block_on(builder.run())).unwrap_or_else(|error| panic!("{error}; {:?}", error.remedy()));
    if serves {
        serve(&inside(&container), "0.0.0.0:8000");
    }
    container
}

fn four(container: &Container) -> IpAddr {
    container.addresses()[0][0]
}

fn inside(container: &Container) -> NetNs {
    NetNs::open(format!("/proc/{}/ns/net", container.pid())).expect("it runs")
}

fn at(ip: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_string().parse().expect("an address"), port)
}

#[test]
fn containers_of_a_network_reach_each_other_and_the_world() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    let a = run(&host, server(&place).network(network.clone()));
    let b = run(&host, server(&place).network(network.clone()).network(Network::bridge()));
    assert_eq!((a.addresses().len(), b.addresses().len()), (1, 2));
    assert_eq!(ask_surely(&inside(&b), at(four(&a), 8000)), four(&b).to_string());
    let own: Vec<String> = a.addresses()[0].iter().map(IpAddr::to_string).collect();
    let hosts = host.at(|| block_on(a.exec(["cat", "/etc/hosts"]).output())).expect("it runs");
    for address in &own {
        assert!(hosts.stdout_lossy().contains(&format!("{address}\t{}\n", &a.id()[..12])), "{}", hosts.stdout_lossy());
    }
    // IPv6 at once, without a search for duplicates.
    if let Some(six) = a.addresses()[0].get(1) {
        let port = serve(&inside(&a), "[::]:0");
        assert_eq!(ask_surely(&inside(&b), SocketAddr::new(*six, port)), b.addresses()[0][1].to_string());
        let ra = host.at(|| block_on(a.exec(["cat", "/proc/sys/net/ipv6/conf/eth0/accept_ra"]).output())).expect("it runs");
        assert_eq!(ra.stdout_lossy(), "0\n");
    }
    let world = serve(&host.world, "0.0.0.0:0");
    assert_eq!(ask_surely(&inside(&a), at(WORLD, world)), HOST);
    assert_eq!(ask_surely(&inside(&b), at(WORLD, world)), HOST);
    drop((a, b, network));
    host.assert_no_bridges();
    assert!(within(PATIENCE, || std::fs::read_dir(place.engine().root().join("networks"))
        .is_ok_and(|d| d.flatten().all(|e| e.file_name() == "lock"))));
}

#[test]
fn a_published_port_is_reached_from_everywhere_it_says() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    let a = run(
        &host,
        server(&place).network(network.clone()).publish("0.0.0.0:8080:8000").publish(8000).publish(format!("{HOST}:9090:8000").as_str()),
    );
    let stranger = run(&host, place.sh("sleep 1000").network(Network::bridge()));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD, "who asks is seen");
    assert_eq!(ask_surely(&host.world, at(HOST, 9090)), WORLD);
    assert_eq!(ask_surely(&host.host, at(HOST, 8080)), HOST);
    // By the attendant: loopback addresses are never translated.
    assert_eq!(ask_surely(&host.host, at("127.0.0.1", 8080)), four(&a).to_string());
    let random = a.ports()[1].host;
    assert_eq!(ask_surely(&host.host, random), four(&a).to_string());
    assert_eq!(ask(&host.world, at(HOST, random.port())), None, "only at loopback");
    assert!(!ask_surely(&inside(&a), at(HOST, 8080)).is_empty(), "itself");
    assert!(!ask_surely(&inside(&stranger), at(HOST, 8080)).is_empty(), "another network");
    assert_eq!(ask(&inside(&stranger), at(four(&a), 8000)), None, "not published there");
    assert_eq!(ask(&host.world, at(four(&a), 8000)), None, "by direct routing");
    assert_eq!(host.sh("cat /proc/sys/net/ipv4/conf/all/route_localnet /proc/sys/net/ipv4/conf/*/route_localnet").replace("0\n", ""), "");
    let (address, error) = (four(&a), fails_at(&host, server(&place).publish("8080:80")));
    assert!(error.contains("127.0.0.1:8080/tcp is taken by coracle"), "{error}");
    block_on(a.remove()).expect("it is removed");
    // What leaves the firewall expires, in a tick of the clock; this test's own server would answer meanwhile.
    assert!(within(PATIENCE, || ask(&host.world, at(HOST, 8080)).is_none()), "{address}");
    let again = run(&host, server(&place).network(network).publish("0.0.0.0:8080:8000"));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD);
    drop(again);
}

fn fails_at(host: &Host, builder: ContainerBuilder) -> String {
    host.at(|| fails(builder).0)
}

#[test]
fn an_internal_network_leads_nowhere_and_asks_nobody() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::internal();
    let a = run(&host, server(&place).network(network.clone()));
    let b = run(&host, place.sh("cat /etc/resolv.conf > /tmp/x; sleep 1000").network(network));
    assert_eq!(ask_surely(&inside(&b), at(four(&a), 8000)), four(&b).to_string());
    let world = serve(&host.world, "0.0.0.0:0");
    assert_eq!(ask(&inside(&b), at(WORLD, world)), None);
    let resolv = host.at(|| block_on(b.exec(["cat", "/etc/resolv.conf"]).output())).expect("it runs");
    assert!(resolv.stdout_lossy().starts_with("nameserver 127.0.0.11\n"), "itself: {}", resolv.stdout_lossy());
}

#[test]
fn a_container_shares_anothers_network() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let a = run(&host, server(&place).network(Network::bridge()));
    let shared = host.at(|| block_on(place.sh("nc 127.0.0.1 8000; readlink /proc/self/ns/net").network(Network::of(&a)).output()));
    let own = std::fs::read_link(format!("/proc/{}/ns/net", a.pid())).expect("it runs");
    assert_eq!(shared.expect("it runs").stdout_lossy(), format!("127.0.0.1\n{}\n", own.display()));
    let id = host.at(|| block_on(a.detach())).expect("it is detached");
    let by_id =
        host.at(|| block_on(place.sh("readlink /proc/self/ns/net").network(Network::container(&id[..8])).output())).expect("it runs");
    assert_eq!(by_id.stdout_lossy().trim(), own.to_string_lossy());
    host.at(|| block_on(place.engine().attach(&id).expect("it is there").remove())).expect("it is removed");
    assert!(fails_at(&host, place.sh("true").network(Network::container(id))).contains("no container"));
}

#[test]
fn addresses_can_be_chosen_and_are_refused_when_taken() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge().subnet("10.77.0.0/24").subnet("fd77::/64");
    let a = run(&host, server(&place).network(network.clone().address("10.77.0.5").mac("02:00:00:00:00:05")));
    assert_eq!(four(&a).to_string(), "10.77.0.5");
    let mac = host.at(|| block_on(a.exec(["cat", "/sys/class/net/eth0/address"]).output())).expect("it runs");
    assert_eq!(mac.stdout_lossy(), "02:00:00:00:00:05\n");
    let second = || place.sh("true").network(network.clone().address("10.77.0.5"));
    assert!(fails_at(&host, second()).contains("10.77.0.5 is a container's already"));
    assert!(fails_at(&host, place.sh("true").network(network.clone().address("10.77.0.1"))).contains("isn't an address for a container"));
    assert!(
        fails_at(&host, place.sh("true").network(Network::bridge().subnet("10.77.0.0/16")))
            .contains("used by this host already: 10.77.0.0/24")
    );
    block_on(a.remove()).expect("it is removed");
    assert!(host.at(|| block_on(second().output())).expect("it is free again").status.success());
}

#[test]
fn a_named_network_is_kept_and_made_again_after_a_reboot() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let engine = place.engine();
    let made = host.at(|| engine.create_network("web", &Network::bridge())).expect("it is made");
    assert_eq!((made.name.as_str(), made.internal, !made.subnets.is_empty()), ("web", false, true));
    assert!(host.at(|| engine.create_network("web", &Network::bridge())).unwrap_err().to_string().contains("already"));
    for bad in ["", "host", "a/b", ".."] {
        assert!(host.at(|| engine.create_network(bad, &Network::bridge())).is_err(), "{bad}");
    }
    let a = run(&host, server(&place).network(Network::named("web")));
    assert_eq!(engine.networks().expect("they are listed")[0].addresses, [four(&a)]);
    let error = host.at(|| engine.remove_network("web")).unwrap_err();
    assert!(error.to_string().contains(&four(&a).to_string()), "{error}");
    let subnets = made.subnets;
    drop(a);
    assert!(within(PATIENCE, || engine.networks().is_ok_and(|all| all[0].addresses.is_empty())));
    // As after a reboot: the interfaces are gone.
    let other = Host::new();
    let b = run(&other, server(&place).network(Network::named("web")));
    assert_eq!(engine.networks().expect("they are listed")[0].subnets, subnets);
    assert_eq!(ask_surely(&other.host, at(four(&b), 8000)).rsplit_once('.').map(|(_, n)| n.to_owned()), Some("1".into()));
    block_on(b.remove()).expect("it is removed");
    other.at(|| engine.remove_network("web")).expect("it is removed");
    other.assert_no_bridges();
    assert!(host.at(|| engine.remove_network("web")).unwrap_err().to_string().contains("no network web"));
    assert!(fails_at(&host, server(&place).network(Network::named("web"))).contains("no network web"));
}

#[test]
fn a_flushed_firewall_is_put_back_with_what_runs() {
    need!(Root, Busybox);
    if std::process::Command::new("nft").arg("--version").output().is_err() {
        return println!("SKIP: nft");
    }
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    let a = run(&host, server(&place).network(network.clone()).publish("0.0.0.0:8080:8000"));
    let other = run(&host, server(&place).network(Network::bridge()));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD);
    host.sh("nft add table ip theirs; nft flush ruleset; nft add table ip theirs");
    assert!(host.at(|| place.engine().repair_networks()).expect("it is repaired"));
    assert!(!host.at(|| place.engine().repair_networks()).expect("it is whole"));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD);
    assert_eq!(ask(&inside(&other), at(four(&a), 8000)), None, "isolation stands again");
    host.sh("nft delete table inet coracle");
    let b = run(&host, place.sh("sleep 1000").network(network));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD, "each start does it");
    assert!(host.sh("nft list ruleset").contains("table ip theirs"));
    drop((a, b, other));
}

#[test]
fn what_was_killed_leaves_nothing_that_matters_and_is_swept() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge().subnet("10.78.0.0/29");
    let elements = |host: &Host| host.sh("nft list ruleset 2>/dev/null").matches("10.78.0.").count();
    for round in 0..3 {
        // All five addresses, and a port, each round: nothing of the last is in the way, once the attendant has followed its supervisor.
        assert!(within(PATIENCE, || host.at(|| std::net::TcpListener::bind("0.0.0.0:8080")).is_ok()), "{round}");
        let all: Vec<Container> = (0..5)
            .map(|n| {
                let builder = place.sh("sleep 1000").network(network.clone());
                run(&host, if n == 0 { builder.publish("0.0.0.0:8080:8000") } else { builder })
            })
            .collect();
        assert!(
            fails_at(&host, place.sh("true").network(network.clone())).contains("all addresses of the network 10.78.0.0/29 are in use"),
            "{round}"
        );
        for container in &all {
            let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("it runs");
            let supervisor =
                status.lines().find_map(|line| line.strip_prefix("PPid:\t")).and_then(|pid| pid.parse().ok()).expect("a supervisor");
            let pid = rustix::process::Pid::from_raw(supervisor).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
        }
        for container in &all {
            assert!(host.at(|| block_on(container.wait())).is_err());
        }
    }
    drop(network);
    let _swept = host.at(|| coracle::Engine::builder().root(place.engine().root()).open()).expect("it sweeps");
    assert!(within(PATIENCE, || elements(&host) == 0), "{}", host.sh("nft list ruleset"));
    host.assert_no_interfaces();
}

#[test]
fn eight_at_once_get_each_their_own() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    let all: Vec<Container> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| run(&host, server(&place).network(network.clone()).publish(8000)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it starts")).collect()
    });
    let addresses: std::collections::HashSet<IpAddr> = all.iter().map(four).collect();
    assert_eq!(addresses.len(), 8);
    for container in &all {
        assert_eq!(ask_surely(&host.host, container.port(8000).expect("it is published")), four(container).to_string());
    }
}

#[test]
#[ignore = "soak: 1000 attached and detached, 8 at once"]
fn a_thousand_come_and_go() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..125 {
                    let out = host.at(|| block_on(place.sh("true").network(network.clone()).publish("0.0.0.0::80").output()));
                    assert!(out.expect("it runs").status.success());
                }
            });
        }
    });
    let held = std::fs::read_dir(place.engine().root().join("networks")).expect("it is there").flatten();
    for entry in held.filter(|entry| entry.path().is_dir()) {
        assert_eq!(std::fs::read_dir(entry.path().join("leases")).expect("it is there").count(), 0);
    }
    assert!(!host.sh("nft list ruleset").contains("co1") && !host.sh("nft list map inet coracle any4").contains("elements"));
    drop(network);
    host.assert_no_interfaces();
    println!("RESULT: 1000 containers attached and detached, 8 at once: nothing left");
}

#[test]
#[ignore = "soak: what a network adds to a start"]
fn what_a_network_costs() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    let base = || place.container().cmd(["true"]);
    let kinds: [(&str, &(dyn Fn() -> ContainerBuilder + Sync)); 4] = [
        ("an empty namespace", &base),
        ("a published port without a network", &|| base().publish(80)),
        ("a private network", &|| base().network(network.clone())),
        ("a private network with a port", &|| base().network(network.clone()).publish("0.0.0.0::80")),
    ];
    let mut times = vec![Vec::new(); kinds.len()];
    for round in 0..110 {
        for n in 0..kinds.len() {
            // In turn, each time from another on.
            let n = (n + round) % kinds.len();
            let begun = std::time::Instant::now();
            let out = host.at(|| block_on(kinds[n].1().output())).expect("it runs");
            assert!(out.status.success());
            if round >= 10 {
                times[n].push(begun.elapsed());
            }
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let medians: Vec<f64> = times.iter_mut().map(median).collect();
    for ((name, _), p50) in kinds.iter().zip(&medians) {
        println!("RESULT: a whole life of true in {name}: p50 {p50:.2} ms, {:+.2} ms", p50 - medians[0]);
    }
}

#[test]
#[ignore = "soak: 300 networks"]
fn three_hundred_networks_stand_beside_each_other() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let engine = place.engine();
    let made: Vec<_> =
        (0..300).map(|n| host.at(|| engine.create_network(&format!("n{n}"), &Network::bridge())).expect("it is made")).collect();
    let subnets: std::collections::HashSet<&String> = made.iter().map(|network| &network.subnets[0]).collect();
    assert_eq!(subnets.len(), 300);
    let a = run(&host, server(&place).network(Network::named("n299")).publish("0.0.0.0:8080:8000"));
    assert_eq!(ask_surely(&host.world, at(HOST, 8080)), WORLD);
    drop(a);
    assert!(within(PATIENCE, || engine.networks().is_ok_and(|all| all.iter().all(|n| n.addresses.is_empty()))));
    for n in 0..300 {
        host.at(|| engine.remove_network(&format!("n{n}"))).expect("it is removed");
    }
    host.assert_no_bridges();
    println!("RESULT: 300 networks made, used and removed");
}

#[test]
fn an_ipv6_address_can_be_chosen_and_nobody_gets_it_by_its_number() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    if !std::path::Path::new("/proc/sys/net/ipv6/conf/all").exists() {
        return eprintln!("no IPv6 here");
    }
    let network = Network::bridge().subnet("10.77.0.0/29").subnet("fd77::/64");
    let own = |network: &Network, address: &str| place.sh("sleep 1000").network(network.clone().address(address));
    let a = run(&host, own(&network.clone().address("10.77.0.6"), "fd77::abcd"));
    assert_eq!(a.addresses()[0][1].to_string(), "fd77::abcd");
    let b = run(&host, own(&network.clone().address("10.77.0.2"), "fd77::4"));
    assert_eq!(b.addresses()[0], ["10.77.0.2", "fd77::4"].map(|ip| ip.parse::<IpAddr>().expect("an address")));
    assert!(fails_at(&host, own(&network.clone().address("10.77.0.3"), "fd77::abcd")).contains("fd77::abcd is a container's already"));
    assert!(fails_at(&host, own(&network, "10.77.0.4")).contains("10.77.0.4 is a container's already"), "its number is");
    assert!(fails_at(&host, own(&network.clone().address("10.77.0.3"), "fd78::2")).contains("isn't an address for a container"));
    assert_eq!(ask_surely(&inside(&b), SocketAddr::new(a.addresses()[0][1], serve(&inside(&a), "[::]:0"))), "fd77::4");
    drop(b);
    assert!(within(PATIENCE, || host.at(|| block_on(own(&network, "10.77.0.4").cmd(["true"]).status())).is_ok()), "free again");
}

#[test]
fn networks_are_told_and_those_of_nobody_removed() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let engine = place.engine();
    host.at(|| engine.create_network("front", &Network::bridge().subnet("10.77.0.0/24"))).expect("it is made");
    host.at(|| engine.create_network("back", &Network::internal())).expect("it is made");
    let a = run(&host, place.sh("sleep 1000").name("a").network(Network::named("front").alias("Web").address("10.77.0.9")));
    let told = host.at(|| engine.network("front")).expect("it is there");
    assert_eq!((told.internal, told.members.len(), told.subnets[0].as_str()), (false, 1, "10.77.0.0/24"));
    assert_eq!(told.gateways[0].to_string(), "10.77.0.1");
    let member = &told.members[0];
    assert_eq!((&member.names[..], member.addresses[0]), (&["a".to_owned(), a.id()[..12].to_owned(), "web".to_owned()][..], four(&a)));
    assert_eq!(host.at(|| engine.prune_networks()).expect("they go"), ["back"]);
    block_on(a.remove()).expect("it is removed");
    assert!(host.at(|| engine.network("front")).expect("it stays").members.is_empty());
    assert_eq!(host.at(|| engine.prune_networks()).expect("it goes"), ["front"]);
    assert!(matches!(host.at(|| engine.network("front")), Err(coracle::Error::NoSuchNetwork { .. })));
}

#[test]
fn what_stands_in_the_way_is_told_and_what_mends_it_does() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let engine = place.engine();
    let found = || host.at(|| engine.diagnose_networks()).expect("it looks");
    let words = || found().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    host.at(|| engine.create_network("n", &Network::bridge())).expect("it is made");
    let bridge = host.at(|| engine.network("n")).expect("it is there").interface;
    // Whatever a namespace begins with; strictness is this test's own.
    host.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
    assert_eq!(found(), [], "{}", words());
    let mend = |which: &str| {
        let obstacle =
            found().into_iter().find(|obstacle| obstacle.to_string().contains(which)).unwrap_or_else(|| panic!("{which}: {}", words()));
        assert!(!obstacle.lost().is_empty());
        obstacle.remedy()
    };
    // sysctl(8) isn't everywhere.
    let set = |name: &str, value: &str| host.sh(&format!("echo {value} > /proc/sys/{}", name.replace('.', "/")));
    let undo = |remedy: String| {
        let (name, value) =
            remedy.trim_start_matches("sysctl -w ").split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).expect("a setting");
        set(&name, &value);
    };

    set(&format!("net.ipv4.conf.{bridge}.forwarding"), "0");
    undo(mend("forwards no IPv4"));
    set(&format!("net.ipv4.conf.{bridge}.rp_filter"), "1");
    undo(mend("rp_filter"));
    host.sh("ip link set out mtu 1300");
    assert_eq!(mend("1300").lines().next(), Some(format!("ip link set {bridge} mtu 1300").as_str()));
    host.sh(&format!("ip link set {bridge} mtu 1300"));
    assert_eq!(found(), [], "{}", words());
    // This host begins to forward for everybody.
    set("net.ipv4.ip_forward", "1");
    assert_eq!(mend("guard"), "coracle network repair");
    assert!(host.at(|| engine.repair_networks()).expect("it repairs"));
    assert_eq!(found(), [], "{}", words());
    assert!(!host.at(|| engine.repair_networks()).expect("it looks"), "once");

    if host.sh("nft --version").contains("nftables") {
        host.sh("nft add table ip other; nft 'add chain ip other through { type filter hook forward priority 0; policy drop; }'");
        let remedy = mend("drops what it doesn't accept");
        assert!(remedy.contains("nft insert rule ip other through iifname \"cobr*\" accept"), "{remedy}");
        assert_eq!(host.sh(&remedy), "", "the remedy is a command");
        host.sh("nft delete table ip other; nft flush ruleset");
        assert_eq!(mend("gone"), "coracle network repair");
        assert!(host.at(|| engine.repair_networks()).expect("it repairs"));
    }
    host.sh("ip route del default");
    assert!(mend("default route").contains("ip route add default"));
}

#[test]
fn two_who_are_cut_apart_dont_hear_each_other_until_they_are_healed() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let network = Network::bridge();
    let [a, b, c] = [(); 3].map(|()| run(&host, server(&place).network(network.clone())));
    let hears = |from: &Container, to: &Container| ask(&inside(from), at(four(to), 8000)).is_some();
    assert!(hears(&a, &b) && hears(&b, &a));
    // A connection that stands.
    let listener = inside(&b).run(|| std::net::TcpListener::bind("0.0.0.0:0")).expect("a thread").expect("it listens");
    let to = at(four(&b), listener.local_addr().expect("an address").port());
    let mut stream = inside(&a).run(|| std::net::TcpStream::connect(to)).expect("a thread").expect("it connects");
    let (accepted, _) = listener.accept().expect("it is accepted");
    accepted.set_nonblocking(true).expect("a socket");
    let mut says = |word: &[u8]| std::io::Write::write_all(&mut stream, word).expect("it is sent");
    let heard = || std::io::Read::read(&mut &accepted, &mut [0; 16]).unwrap_or(0);

    let cut = host.at(|| a.cut_from(&b, PATIENCE)).expect("they are cut");
    assert!(!hears(&a, &b) && !hears(&b, &a), "neither way");
    assert!(hears(&a, &c) && hears(&c, &b), "others hear both");
    if let (Some(six), Some(_)) = (b.addresses()[0].get(1), a.addresses()[0].get(1)) {
        let port = serve(&inside(&b), "[::]:0");
        assert_eq!(ask(&inside(&a), SocketAddr::new(*six, port)), None, "nor by IPv6");
    }
    says(b"one");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(heard(), 0);
    cut.heal().expect("they are healed");
    assert!(within(PATIENCE, || hears(&a, &b) && hears(&b, &a)));
    // TCP says again what was lost.
    assert!(within(PATIENCE, || heard() == 3));
    // Who is killed heals nothing, and needn't.
    std::mem::forget(host.at(|| a.cut_from(&b, Duration::from_secs(2))).expect("they are cut"));
    assert!(within(PATIENCE, || hears(&a, &b)), "its time is up");
    let alone = run(&host, place.sh("sleep 1000"));
    assert!(host.at(|| a.cut_from(&alone, PATIENCE)).unwrap_err().to_string().contains("share no private network"));
}

//! `cargo xtask bench network`: what a network adds to a container's start and end, and what goes through it, beside the field's.
//!
//! All of it happens on a host of this run's own: a network namespace with another one behind it as the world, so that neither the machine's
//! interfaces nor its firewall are touched. Contenders have their turns in random order, and what is kept is differences and ratios of one run.
//! This is no test: nothing fails because a machine is slow.

mod bench;
#[path = "../tests/support/host.rs"]
#[allow(dead_code)] // A test asks more of it.
mod host;
mod rootfs;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use coracle::netns::NetNs;
use coracle::{Container, Engine, Network};

use bench::{Chance, Result, Scratch, Words, heading, percentile, play};
use host::{HOST, Host};
use rootfs::make_rootfs;

const HELP: &str = "\
Usage: cargo xtask bench network [--lives N] [--quick] [--only NAME,NAME] [--no-streams] [--print]

  --lives N     lives of each contender (200; slow ones have fewer)
  --quick       40 lives
  --only A,B    only contenders whose name begins with one of these; writes no file
  --no-streams  nothing about throughput
  --print       writes no file
";

/// Before each life: what the one before left to the kernel is not this one's to wait for.
const PAUSE: Duration = Duration::from_millis(60);

/// For what [`host`] keeps in files.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

fn main() -> ExitCode {
    play(HELP, &[], measure)
}

/// How long both take.
type Life<'a> = Box<dyn FnMut() -> Result<(Duration, Duration)> + 'a>;

/// Somebody who puts something into a network and takes it out again.
struct Contender<'a> {
    name: &'static str,
    what: String,
    /// Of ten rounds it has so many.
    turns: usize,
    life: Life<'a>,
    attach: Vec<u64>,
    detach: Vec<u64>,
}

fn measure(words: &Words) -> Result {
    let lives = words.count("--lives", 200, 40)?;
    let scratch = Scratch::new()?;
    let host = Host::new();
    // Forwarding from the start, as podman wants it: what we turn on ourselves forwards for our networks alone.
    host.sh("ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward");
    let engine = Engine::builder().root(scratch.join("engine")).open()?;
    let rootfs = scratch.join("rootfs");
    make_rootfs(Path::new(&rootfs))?;
    let network = Network::bridge();
    // One that stays, so that the network does.
    let first = run(&host, described(&engine, &rootfs).network(network.clone()).publish("0.0.0.0:9000:9000").publish(9000))?;

    let mut report = heading("Networks", "`cargo xtask bench network` (benches/network.rs says how)")?;
    let (mut all, absent) = contenders(&host, &scratch, &engine, &rootfs, &network, &words.only());
    rounds(&mut all, lives)?;
    table(&mut report, &all)?;
    verdicts(&mut report, &all)?;
    if !words.has("--no-streams") {
        streams(&mut report, &host, &scratch, &engine, &rootfs, &network, &first)?;
    }
    writeln!(report, "## Who took part\n")?;
    for c in &all {
        writeln!(report, "- {}: {}", c.name, c.what)?;
    }
    for a in &absent {
        writeln!(report, "- absent: {a}")?;
    }
    drop(all);
    host.at(|| pollster::block_on(first.remove()))?;
    words.keep("network", &report)
}

fn described(engine: &Engine, rootfs: &str) -> coracle::ContainerBuilder {
    let null = coracle::Stdio::null;
    Container::from_rootfs(rootfs).engine(engine).cmd(["/bin/sleep", "1000"]).stdin(null()).stdout(null()).stderr(null())
}

fn run(host: &Host, builder: coracle::ContainerBuilder) -> Result<Container> {
    Ok(host.at(|| pollster::block_on(builder.run()))?)
}

// Attaching and detaching.

fn contenders<'a>(
    host: &'a Host,
    scratch: &'a Scratch,
    engine: &'a Engine,
    rootfs: &'a str,
    network: &'a Network,
    only: &[String],
) -> (Vec<Contender<'a>>, Vec<String>) {
    let (mut all, mut absent): (Vec<Contender<'a>>, Vec<String>) = (Vec::new(), Vec::new());
    let mut add = |name: &'static str, what: &str, turns, life: Result<Life<'a>>| {
        if !only.is_empty() && !only.iter().any(|begin| name.starts_with(begin.as_str())) {
            return;
        }
        eprintln!("warming up: {name}");
        let warm = life.and_then(|mut life| {
            for _ in 0..2 {
                life()?;
            }
            Ok(life)
        });
        match warm {
            Ok(life) => all.push(Contender { name, what: what.into(), turns, life, attach: Vec::new(), detach: Vec::new() }),
            Err(error) => {
                eprintln!("  absent: {error}");
                absent.push(format!("{name}: {error}"));
            }
        }
    };
    let ours = |more: fn(coracle::ContainerBuilder, &Network) -> coracle::ContainerBuilder| {
        let life = move || -> Result<(Duration, Duration)> {
            let builder = more(described(engine, rootfs), network);
            host.at(|| {
                let start = Instant::now();
                // Until the command is executed: `run()` waits a moment longer, to see whether it stays.
                let container = pollster::block_on(builder.spawn())?;
                let attach = start.elapsed();
                let start = Instant::now();
                pollster::block_on(container.remove())?;
                Ok::<_, coracle::Error>((attach, start.elapsed()))
            })
            .map_err(Into::into)
        };
        Ok(Box::new(life) as Life<'a>)
    };
    add("none", "`spawn()` and `remove()` with an empty network namespace", 10, ours(|b, _| b));
    add("bridge", "the same in a private network", 10, ours(|b, n| b.network(n.clone())));
    add("bridge-port", "and with a port on every address of this host", 10, ours(|b, n| b.network(n.clone()).publish("0.0.0.0::80")));
    add("bridge-loopback", "and with a port of 127.0.0.1", 10, ours(|b, n| b.network(n.clone()).publish(80)));
    add("none-loopback", "no network, and a port of 127.0.0.1", 10, ours(|b, _| b.publish(80)));
    add(
        "netavark",
        "`netavark setup` and `teardown` alone, a bridge and one port, of a namespace that is there",
        2,
        netavark(host, scratch),
    );

    let program = |words: Vec<String>| -> Result<Life<'a>> {
        Ok(Box::new(move || {
            let start = Instant::now();
            let output = host.at(|| Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).output())?;
            let time = start.elapsed();
            match output.status.success() {
                true => Ok((time, Duration::ZERO)),
                false => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed").to_owned().into()),
            }
        }))
    };
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let coracle = std::env::var("CORACLE_PROGRAM").unwrap_or_else(|_| "coracle".into());
    let root = scratch.join("engine-program");
    let made = host.at(|| Command::new(&coracle).args(["--root", &root, "network", "create", "n"]).output());
    let life = words(&[&coracle, "--root", &root, "run", "--rm", "--network", "n", "-p", "0.0.0.0::80", "--rootfs", rootfs, "/bin/true"]);
    add("program", "a whole `coracle run --network n -p`", 10, made.map_err(Into::into).and_then(|_| program(life)));
    let podman = || -> Result<Vec<String>> {
        import("podman", rootfs)?;
        let more = ["--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let run = ["podman", "run", "--rm", "--network", "podman", "-p", "18080:80"];
        Ok(words(&[&run[..], &more, &[IMAGE, "/bin/true"]].concat()))
    };
    add("podman", "a whole `podman run --rm --network podman -p`", 1, podman().and_then(&program));
    let docker = || -> Result<Vec<String>> {
        import("docker", rootfs)?;
        Ok(words(&["docker", "run", "--rm", "-p", "18081:80", IMAGE, "/bin/true"]))
    };
    add("docker", "a whole `docker run --rm -p`", 1, docker().and_then(&program));
    (all, absent)
}

const IMAGE: &str = "localhost/coracle-bench:1";

fn import(program: &str, rootfs: &str) -> Result {
    let mut tar = Command::new("tar").args(["-C", rootfs, "-c", "."]).stdout(Stdio::piped()).spawn()?;
    let archive = tar.stdout.take().ok_or("no tar")?;
    let import = Command::new(program).args(["import", "-", IMAGE]).stdin(archive).output();
    tar.wait()?;
    let import = import?;
    match import.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&import.stderr).lines().next().unwrap_or("import failed").to_owned().into()),
    }
}

/// netavark by itself, as podman calls it.
fn netavark<'a>(host: &'a Host, scratch: &'a Scratch) -> Result<Life<'a>> {
    let places = ["/usr/libexec/podman/netavark", "/usr/lib/podman/netavark", "/usr/bin/netavark"];
    let program = *places.iter().find(|p| Path::new(p).exists()).ok_or("it isn't installed; apt-get install netavark")?;
    let (id, config) = ("f".repeat(64), scratch.join("netavark"));
    fs::create_dir_all(&config)?;
    Ok(Box::new(move || {
        let options = format!(
            r#"{{"container_id":"{id}","container_name":"bench","networks":{{"bench":{{"interface_name":"eth0","static_ips":["10.66.0.5"]}}}},
            "network_info":{{"bench":{{"name":"bench","id":"{id}","driver":"bridge","network_interface":"bench0","subnets":[{{"subnet":"10.66.0.0/24",
            "gateway":"10.66.0.1"}}],"ipv6_enabled":false,"internal":false,"dns_enabled":false,"ipam_options":{{"driver":"host-local"}}}}}},
            "port_mappings":[{{"container_port":80,"host_ip":"","host_port":18082,"protocol":"tcp","range":1}}]}}"#
        );
        let inside = NetNs::new()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&inside)));
        let call = |verb: &str| -> Result<Duration> {
            let start = Instant::now();
            let output = host.at(|| {
                let mut child = Command::new(program)
                    .args(["--config", &config, verb, &path])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()?;
                child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(options.as_bytes()))?;
                child.wait_with_output()
            })?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
            Ok(start.elapsed())
        };
        Ok((call("setup")?, call("teardown")?))
    }))
}

fn rounds(all: &mut [Contender<'_>], lives: usize) -> Result {
    let mut chance = Chance::new()?;
    let mut order: Vec<usize> = (0..all.len()).collect();
    for round in 0..lives {
        eprint!("\rround {} of {lives} ", round + 1);
        chance.shuffle(&mut order);
        for &i in &order {
            let contender = &mut all[i];
            if round % 10 >= contender.turns {
                continue;
            }
            std::thread::sleep(PAUSE);
            let (attach, detach) = (contender.life)().map_err(|error| format!("{}: {error}", contender.name))?;
            contender.attach.push(attach.as_nanos() as u64);
            contender.detach.push(detach.as_nanos() as u64);
        }
    }
    eprintln!();
    Ok(())
}

fn table(report: &mut String, all: &[Contender<'_>]) -> Result {
    writeln!(report, "## In and out\n\nMilliseconds, {} ms before each.\n", PAUSE.as_millis())?;
    writeln!(report, "| | lives | in: min | p50 | p90 | p99 | out: p50 | p90 |\n|---|--:|--:|--:|--:|--:|--:|--:|")?;
    for c in all {
        let (i, o) = (|percent| percentile(&c.attach, percent), |percent| percentile(&c.detach, percent));
        let numbers = format!("{:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2}", i(0), i(50), i(90), i(99), o(50), o(90));
        writeln!(report, "| {} | {} | {numbers} |", c.name, c.attach.len())?;
    }
    Ok(writeln!(report)?)
}

fn verdicts(report: &mut String, all: &[Contender<'_>]) -> Result {
    writeln!(report, "## What it must reach\n\n| | goal | came to |\n|---|--:|--:|")?;
    let attach = |name: &str| all.iter().find(|c| c.name == name).map_or(f64::NAN, |c| percentile(&c.attach, 50));
    let detach = |name: &str| all.iter().find(|c| c.name == name).map_or(f64::NAN, |c| percentile(&c.detach, 50));
    let mut row = |what: &str, goal: String, value: f64, good: bool, unit: &str| {
        let verdict = if value.is_nan() {
            ""
        } else if good {
            " ✓"
        } else {
            " ✗"
        };
        writeln!(report, "| {what} | {goal} | {value:.2} {unit}{verdict} |")
    };
    let added = attach("bridge-port") - attach("none");
    row("a private network with a port adds to a start, p50", "≤ 1.2 ms".into(), added, added <= 1.2, "ms")?;
    let alone = attach("bridge") - attach("none");
    row("a private network alone", "".into(), alone, true, "ms")?;
    let loopback = attach("bridge-loopback") - attach("none");
    row("with a port of 127.0.0.1", "".into(), loopback, true, "ms")?;
    let taken = detach("bridge-port") - detach("none");
    row("and to an end, p50", "≤ 0.2 ms".into(), taken, taken <= 0.2, "ms")?;
    let ratio = attach("netavark") / added.max(0.01);
    row("netavark's setup alone to that", "≥ 20".into(), ratio, ratio >= 20.0, "×")?;
    for peer in ["podman", "docker"] {
        let ratio = attach(peer) / attach("program");
        row(&format!("a whole life with a bridge, {peer} to us"), "≥ 30".into(), ratio, ratio >= 30.0, "×")?;
    }
    Ok(writeln!(report)?)
}

// What goes through.

/// How long one stream runs.
const STREAM: Duration = Duration::from_millis(700);
const TURNS: usize = 5;

/// Gigabits a second of one TCP stream from a namespace to a server in another, by an address.
fn stream(from: &NetNs, to: &NetNs, listen: SocketAddr, address: SocketAddr) -> Result<f64> {
    let listener = to.run(|| TcpListener::bind(listen))??;
    let server = std::thread::spawn(move || -> std::io::Result<(u64, Duration)> {
        let (mut stream, _) = listener.accept()?;
        let (mut bytes, mut buffer, start) = (0, vec![0; 256 << 10], Instant::now());
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok((bytes, start.elapsed())),
                n => bytes += n as u64,
            }
        }
    });
    let mut client = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))??;
    let (buffer, start) = (vec![7; 256 << 10], Instant::now());
    while start.elapsed() < STREAM {
        client.write_all(&buffer)?;
    }
    client.shutdown(std::net::Shutdown::Write)?;
    let (bytes, time) = server.join().map_err(|_| "the server panicked")??;
    Ok(bytes as f64 * 8.0 / 1e9 / time.as_secs_f64())
}

/// A way from one namespace into another.
struct Way<'a> {
    name: &'static str,
    from: &'a NetNs,
    to: NetNs,
    listen: SocketAddr,
    address: SocketAddr,
    rates: Vec<f64>,
}

fn streams(
    report: &mut String,
    host: &Host,
    scratch: &Scratch,
    engine: &Engine,
    rootfs: &str,
    network: &Network,
    first: &Container,
) -> Result {
    let inside = |pid: u32| NetNs::open(format!("/proc/{pid}/ns/net"));
    let any = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
    let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port);
    let second = run(host, described(engine, rootfs).network(network.clone()))?;
    let (own, outside): (IpAddr, IpAddr) = (first.addresses()[0][0], HOST.parse()?);
    let from = inside(second.pid())?;
    let loopback = first.ports().iter().map(|port| port.host).find(|host| host.ip().is_loopback()).ok_or("no port")?;
    let way = |name, from, pid: u32, listen, address| -> Result<Way<'_>> {
        Ok(Way { name, from, to: inside(pid)?, listen, address, rates: Vec::new() })
    };
    let mut ways = vec![
        way("ours: container to container", &from, first.pid(), any(9001), at(own, 9001))?,
        way("ours: the world to a published port", &host.world, first.pid(), any(9000), at(outside, 9000))?,
        way("ours: this host to a port of 127.0.0.1", &host.host, first.pid(), any(9000), loopback)?,
    ];
    // docker-proxy, to the same container.
    let proxy =
        ["/usr/sbin/docker-proxy", "/usr/bin/docker-proxy", "/usr/local/bin/docker-proxy"].into_iter().find(|p| Path::new(p).exists());
    let mut proxied = proxy.and_then(|program| {
        let target = own.to_string();
        // It says on descriptor 3 that it is ready.
        let line = format!(
            "exec {program} -proto tcp -host-ip 127.0.0.1 -host-port 19002 -container-ip {target} -container-port 9002 3>/dev/null"
        );
        host.at(|| Command::new("sh").args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()).ok()
    });
    if proxied.is_some() {
        std::thread::sleep(Duration::from_millis(500));
        ways.push(way("docker-proxy: this host to a port of 127.0.0.1", &host.host, first.pid(), any(9002), "127.0.0.1:19002".parse()?)?);
    }
    let podman = podman_pair(host);
    let mut podman_from = None;
    if let Ok(pair) = &podman {
        podman_from = Some(inside(pair.pids[1])?);
    }
    if let (Ok(pair), Some(from)) = (&podman, &podman_from) {
        ways.push(way("podman: container to container", from, pair.pids[0], any(9001), at(pair.address, 9001))?);
        ways.push(way("podman: the world to a published port", &host.world, pair.pids[0], any(9000), at(outside, 19000))?);
    }
    let mut chance = Chance::new()?;
    let mut order: Vec<usize> = (0..ways.len()).collect();
    for turn in 0..TURNS {
        eprint!("\rstreams, turn {} of {TURNS} ", turn + 1);
        chance.shuffle(&mut order);
        for &i in &order {
            let way = &mut ways[i];
            // A peer's firewall may not let it through on a host like this.
            match stream(way.from, &way.to, way.listen, way.address) {
                Ok(rate) => way.rates.push(rate),
                Err(error) if turn == 0 => eprintln!("{}: {error}", way.name),
                Err(_) => {}
            }
        }
    }
    eprintln!();
    writeln!(report, "## What goes through\n\nGigabits a second of one TCP stream, {TURNS} turns of {} ms.\n", STREAM.as_millis())?;
    writeln!(report, "| | min | median | max |\n|---|--:|--:|--:|")?;
    let mut median = Vec::new();
    for way in &mut ways {
        way.rates.sort_by(f64::total_cmp);
        let at = |n: usize| way.rates.get(n).copied().unwrap_or(f64::NAN);
        let (all, middle) = (way.rates.len(), at(way.rates.len() / 2));
        median.push((way.name, middle));
        writeln!(report, "| {} | {:.1} | {middle:.1} | {:.1} |", way.name, at(0), at(all.saturating_sub(1)))?;
    }
    let of = |name: &str| median.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, rate)| *rate);
    writeln!(report, "\n| | goal | came to |\n|---|--:|--:|")?;
    for (ours, theirs, goal) in [
        ("ours: container to container", "podman: container to container", 0.9),
        ("ours: the world to a published port", "podman: the world to a published port", 0.9),
        ("ours: this host to a port of 127.0.0.1", "docker-proxy: this host to a port of 127.0.0.1", 1.0),
    ] {
        let ratio = of(ours) / of(theirs);
        let verdict = if ratio.is_nan() {
            ""
        } else if ratio >= goal {
            " ✓"
        } else {
            " ✗"
        };
        writeln!(report, "| {ours}, to {theirs} | ≥ {goal} | {ratio:.2}{verdict} |")?;
    }
    writeln!(report)?;
    if let Err(error) = &podman {
        writeln!(report, "podman's are absent: {error}\n")?;
    }
    if let Some(proxied) = &mut proxied {
        proxied.kill()?;
        proxied.wait()?;
    }
    let _ = scratch;
    host.at(|| pollster::block_on(second.remove()))?;
    Ok(())
}

/// Two containers of podman's in its own bridge.
struct Pair<'a> {
    host: &'a Host,
    names: [String; 2],
    pids: [u32; 2],
    address: IpAddr,
}

fn podman_pair(host: &Host) -> Result<Pair<'_>> {
    let names = ["a", "b"].map(|n| format!("coracle-bench-{}-{n}", std::process::id()));
    let said = |words: &[&str]| -> Result<String> {
        let output = host.at(|| Command::new("podman").args(words).stdin(Stdio::null()).output())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed").to_owned().into()),
        }
    };
    let mut pair = Pair { host, names: names.clone(), pids: [0; 2], address: IpAddr::from([0, 0, 0, 0]) };
    for (n, name) in names.iter().enumerate() {
        let more = ["--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "podman"];
        let port: &[&str] = if n == 0 { &["-p", "19000:9000"] } else { &[] };
        said(&[&["run", "-d", "--name", name][..], &more, port, &[IMAGE, "/bin/sleep", "1000"]].concat())?;
        pair.pids[n] = said(&["inspect", "-f", "{{.State.Pid}}", name])?.parse()?;
    }
    pair.address = said(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", &names[0]]).and_then(|ip| Ok(ip.parse()?)).or_else(|_| {
        Ok::<_, Box<dyn std::error::Error>>(said(&["inspect", "-f", "{{.NetworkSettings.Networks.podman.IPAddress}}", &names[0]])?.parse()?)
    })?;
    Ok(pair)
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = self.host.at(|| Command::new("podman").args(["rm", "-f", "-t", "0", name]).output());
        }
    }
}

//! Ports and Unix sockets inside a container, from outside: without a network, without a port on the host.

use crate::support::need;
use crate::support::place::{Place, block_on, waker, within};
use coracle::{ConnectFault, Container, ContainerBuilder, ContainerStream, Error, Network};
use std::future::Future as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A container whose server gives back what it gets.
fn echo(place: &Place, port: u16) -> Container {
    block_on(place.sh(&format!("exec nc -ll -p {port} -e cat")).run()).expect("it runs")
}

/// This machine's own python3, with its libraries.
fn python(place: &Place, script: &str) -> ContainerBuilder {
    let script = format!("import socket\n{script}");
    let described = place.container().cmd(["/usr/bin/python3", "-c", &script]).env("MARK", place.path());
    let directories = ["/usr", "/lib", "/lib64"].into_iter().filter(|path| std::fs::exists(path).unwrap_or(false));
    directories.fold(described, |described, directory| described.mount(coracle::Mount::bind(directory, directory).read_only()))
}

/// Connects as soon as somebody listens.
#[track_caller]
fn connected(container: &Container, port: u16) -> ContainerStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match block_on(container.connect(port)) {
            Ok(stream) => return stream,
            Err(Error::Connect { fault: ConnectFault::Refused, .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Says something and hears it again, and the end.
fn converse(mut stream: ContainerStream, words: &[u8]) {
    block_on(async {
        stream.write_all(words).await.expect("it is written");
        let mut heard = vec![0; words.len()];
        stream.read_exact(&mut heard).await.expect("it is read");
        assert!(heard == words);
        stream.shutdown().await.expect("the end is told");
        assert_eq!(stream.read(&mut [0; 1]).await.expect("the end is read"), 0);
    });
}

#[track_caller]
fn refused(result: Result<ContainerStream, Error>) -> ConnectFault {
    match result {
        Err(Error::Connect { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

fn remove(place: &Place, container: Container) {
    let id = container.id().to_owned();
    block_on(container.remove()).expect("all is taken back");
    assert_eq!(place.left_of(&id, Duration::from_secs(10)), Vec::<String>::new());
}

#[test]
fn a_port_is_reached_without_any_network_or_port_of_the_host() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = echo(&place, 5432);
    converse(connected(&container, 5432), b"hello");
    // Again, and more than a socket holds, in both directions at a time.
    let stream = connected(&container, 5432);
    let bytes: Vec<u8> = (0..4u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        block_on(async {
            writer.write_all(&sent).await.expect("it is written");
            writer.shutdown().await.expect("the end is told");
        });
    });
    let mut heard = Vec::new();
    block_on(reader.read_to_end(&mut heard)).expect("it is read");
    writing.join().expect("all is written");
    assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    // Who blocks gets std's own type, which blocks.
    let mut stream = container.connect_blocking(5432).expect("it connects");
    assert!(!stream.peer_addr().expect("a peer").ip().is_unspecified());
    stream.write_all(b"blocking").expect("it is written");
    let mut heard = [0; 8];
    stream.read_exact(&mut heard).expect("it is read, however long that takes");
    assert_eq!(&heard, b"blocking");
    // It is the container's loopback, and not this machine's.
    assert!(std::net::TcpListener::bind("127.0.0.1:5432").is_ok() || std::net::TcpStream::connect("127.0.0.1:5432").is_ok());
    remove(&place, container);
}

#[test]
fn who_listens_on_ipv6_alone_is_reached() {
    need!(Busybox, UserNamespaces, Python3);
    let place = Place::new();
    if place.says("cat /proc/sys/net/ipv6/conf/lo/disable_ipv6 2>/dev/null || echo 1").trim() != "0" {
        println!("SKIP: no IPv6 here");
        return;
    }
    let script = "s = socket.create_server(('::1', 80), family=socket.AF_INET6)\nwhile True:\n  c, _ = s.accept()\n  \
                  while b := c.recv(99): c.send(b)\n  c.close()";
    let container = block_on(python(&place, script).run()).expect("it runs");
    converse(connected(&container, 80), b"six");
    remove(&place, container);
}

#[test]
fn a_stream_outlives_its_handle_and_ends_with_the_container() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // It hangs up at once.
    let container = block_on(place.sh("while :; do nc -l -p 7 -e true; done").run()).expect("it runs");
    let mut stream = connected(&container, 7);
    assert_eq!(block_on(stream.read(&mut [0; 1])).unwrap_or(0), 0);
    remove(&place, container);
    let container = echo(&place, 7);
    let mut stream = connected(&container, 7);
    block_on(stream.write_all(b"x")).expect("it is written");
    remove(&place, container);
    // The end, or a reset: never silence.
    let mut rest = Vec::new();
    let _ = block_on(stream.read_to_end(&mut rest));
    assert!(rest.is_empty() || rest == b"x");
}

#[test]
fn refusals_say_what_is_wrong() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("while :; do sleep 1; done").run()).expect("it runs");
    assert_eq!(refused(block_on(container.connect(9))), ConnectFault::Refused);
    assert_eq!(refused(block_on(container.connect_unix("/nowhere"))), ConnectFault::NoSuchPath);
    assert_eq!(refused(block_on(container.connect_unix("/etc/passwd/x"))), ConnectFault::NoSuchPath);
    assert_eq!(refused(block_on(container.connect_unix("/etc/passwd"))), ConnectFault::NotASocket);
    assert_eq!(refused(block_on(container.connect_unix("/dev/null"))), ConnectFault::NotASocket);
    assert!(matches!(block_on(container.connect_unix("")), Err(Error::Description { .. })));
    assert!(matches!(block_on(container.connect_unix("/a\0b")), Err(Error::Description { .. })));
    block_on(container.kill()).expect("it is killed");
    block_on(container.wait()).expect("it ends");
    let ended = block_on(container.connect(9)).expect_err("it has ended");
    assert!(matches!(ended, Error::Start(_)) && ended.to_string().contains("has ended"), "{ended}");
    let of_host = block_on(place.sh("while :; do sleep 1; done").network(Network::host()).run()).expect("it runs");
    let error = block_on(of_host.connect(9)).expect_err("its ports are the host's");
    assert!(matches!(&error, Error::Connect { fault: ConnectFault::HostNetwork, .. }), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("127.0.0.1")));
    // Its files are its own all the same.
    assert_eq!(refused(block_on(of_host.connect_unix("/etc/passwd"))), ConnectFault::NotASocket);
}

#[test]
fn a_unix_socket_is_reached_by_its_path_inside_and_no_symlink_leads_out() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let run = place.path().join("run");
    std::fs::create_dir(&run).expect("a directory");
    let listener = UnixListener::bind(run.join("s")).expect("a socket");
    let outside = UnixListener::bind(place.path().join("secret")).expect("a socket");
    outside.set_nonblocking(true).expect("it is set");
    let secret = place.path().join("secret");
    place.look_again();
    let line = format!(
        "mkdir -p /d; ln -s /run/s /d/link; ln -s {0} /d/out; ln -s ../../../../../..{0} /d/up; ln -s /proc/1/root/run/s /d/magic; \
         touch /made; while :; do sleep 1; done",
        secret.display()
    );
    let container = block_on(place.sh(&line).mount(coracle::Mount::bind(&run, "/run")).run()).expect("it runs");
    assert!(within(Duration::from_secs(60), || refused(block_on(container.connect_unix("/made"))) == ConnectFault::NotASocket));
    for path in ["/run/s", "/d/link", "run/s", "/../run/s"] {
        let mut stream = block_on(container.connect_unix(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (mut other, _) = listener.accept().expect("somebody connects");
        block_on(stream.write_all(b"hi")).expect("it is written");
        let mut heard = [0; 2];
        other.read_exact(&mut heard).expect("it is read");
        assert_eq!(&heard, b"hi", "{path}");
    }
    for path in ["/d/out", "/d/up"] {
        assert_eq!(refused(block_on(container.connect_unix(path))), ConnectFault::NoSuchPath, "{path}");
    }
    // A magic link isn't followed, wherever it leads.
    assert!(matches!(refused(block_on(container.connect_unix("/d/magic"))), ConnectFault::Other { .. }));
    assert!(outside.accept().is_err(), "somebody came out");
    let mut blocking = container.connect_unix_blocking("/run/s").expect("it connects");
    let (mut other, _) = listener.accept().expect("somebody connects");
    other.write_all(b"yo").expect("it is written");
    blocking.read_exact(&mut [0; 2]).expect("it is read");
    remove(&place, container);
}

#[test]
fn whoever_attaches_may_connect_too() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = echo(&place, 5432);
    let id = block_on(container.detach()).expect("it is detached");
    let container = place.engine().attach(&id).expect("it is there");
    converse(connected(&container, 5432), b"attached");
    remove(&place, container);
}

#[test]
fn many_containers_listen_at_one_port_and_many_connect_at_once() {
    need!(Busybox, UserNamespaces, Python3);
    let place = Place::new();
    // With room for all who come at once.
    let server = |n: usize| {
        let script = format!(
            "s = socket.create_server(('127.0.0.1', 80), backlog=100)\nwhile True:\n  c, _ = s.accept()\n  c.send(b'{n}\\n')\n  c.close()"
        );
        block_on(python(&place, &script).run()).expect("it runs")
    };
    let containers: Vec<_> = (0..6).map(server).collect();
    containers.iter().for_each(|container| drop(connected(container, 80)));
    std::thread::scope(|scope| {
        for (n, container) in containers.iter().enumerate() {
            for _ in 0..10 {
                scope.spawn(move || {
                    for _ in 0..5 {
                        let mut said = String::new();
                        container.connect_blocking(80).expect("it connects").read_to_string(&mut said).expect("it is read");
                        assert_eq!(said, format!("{n}\n"));
                    }
                });
            }
        }
    });
    containers.iter().for_each(|container| block_on(container.remove()).expect("all is taken back"));
    place.assert_clean();
}

/// The supervisor of a container: the parent of its first process.
fn supervisor(container: &Container) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", container.pid())).expect("it runs");
    let behind_name = stat.rsplit_once(") ").expect("a name").1;
    behind_name.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a parent")
}

#[test]
fn a_connection_that_is_given_up_at_any_moment_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = echo(&place, 5432);
    drop(connected(&container, 5432));
    let supervisor = supervisor(&container);
    let children = || std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    // A plain user's supervisor shows nobody its descriptors.
    let descriptors = || std::fs::read_dir(format!("/proc/{supervisor}/fd")).map_or(0, Iterator::count);
    let alone = || children().split_whitespace().count() == 1;
    assert!(within(Duration::from_secs(60), alone), "{}", children());
    let before = descriptors();
    let waker = waker();
    let mut completed = 0;
    for n in 0..200 {
        let mut future = pin!(container.connect(5432));
        for _ in 0..n % 5 {
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                completed += 1;
                break;
            }
            std::thread::park_timeout(Duration::from_micros(n * 20));
        }
    }
    println!("{completed} of 200 were connected before they were given up");
    assert!(
        within(Duration::from_secs(60), || alone() && descriptors() == before),
        "{}; {} of {before} descriptors",
        children(),
        descriptors()
    );
    converse(connected(&container, 5432), b"still");
    remove(&place, container);
}

#[test]
#[ignore = "soak: a thousand containers"]
fn a_thousand_containers_at_one_port_are_all_connected_at_once() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    const COUNT: usize = 1000;
    // Pipes, a socket and a pidfd each, and the stream.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(16384);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: Some(wanted), maximum: limit.maximum },
    )
    .expect("descriptors");
    let begun = Instant::now();
    let containers: Vec<_> = (0..COUNT).map(|_| echo(&place, 5432)).collect();
    let started = begun.elapsed();
    containers.iter().for_each(|container| drop(connected(container, 5432)));
    let begun = Instant::now();
    let streams: Vec<_> = containers.iter().map(|container| connected(container, 5432)).collect();
    let connecting = begun.elapsed();
    streams.into_iter().enumerate().for_each(|(n, stream)| converse(stream, format!("{n}").as_bytes()));
    println!(
        "RESULT: {COUNT} containers at one port: started in {started:?}, all connected at once, one after the other in {connecting:?}"
    );
    drop(containers);
}

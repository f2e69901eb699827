//! The attendant: ports of this host that are answered inside a network namespace. As root and as a plain user.

mod own_directories;

use coracle_spawn::{CapabilitySet, Child, Exchange, Relay, Release, Spawn, Stdio};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// `set lo up`.
fn loopback() -> Vec<u8> {
    let words = [32u32, 0x0005_0010, 1, 0, 0, 1, 1, 1];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A perl(1) program in namespaces of its own.
fn perl(script: &str) -> Spawn {
    own_directories::program("perl", ["-MIO::Socket::INET", "-MSocket", "-e", script])
        .netlink(loopback(), 1)
        .capabilities(CapabilitySet::docker_default())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
}

/// Answers each connection with who asks and all that it sent.
const ECHO: &str = r#"$s = IO::Socket::INET->new(Listen => 64, LocalAddr => "127.0.0.1", LocalPort => 7000, ReuseAddr => 1) or die;
    $| = 1; print "ready\n";
    while ($c = $s->accept) { unless (fork) { print $c $c->peerhost . ":"; while (sysread $c, $b, 65536) { syswrite $c, $b } exit } close $c }"#;

fn ready(child: &mut Child) {
    let mut byte = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
}

fn echo() -> (Child, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let relay = Relay::stream(listener.into(), "127.0.0.1:7000".parse().unwrap());
    let mut child = perl(ECHO).relay(relay).stdout(Stdio::piped()).spawn().unwrap();
    ready(&mut child);
    (child, address)
}

fn ask(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    reader.join().unwrap()
}

#[test]
fn a_connection_is_relayed_whole_both_ways_until_both_have_ended() {
    let (child, address) = echo();
    assert_eq!(ask(address, b"hello"), b"127.0.0.1:hello");
    let much: Vec<u8> = (0..3_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let back = ask(address, &much);
    assert!(back[10..] == much[..], "{} of {} bytes came back", back.len(), much.len());
    let many: Vec<_> = (0..40).map(|n| std::thread::spawn(move || ask(address, format!("{n}").as_bytes()))).collect();
    for (n, thread) in many.into_iter().enumerate() {
        assert_eq!(thread.join().unwrap(), format!("127.0.0.1:{n}").into_bytes());
    }
    child.kill().unwrap();
    assert_eq!(child.wait_gone().unwrap(), []);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "the port is free");
}

#[test]
fn a_port_where_nobody_listens_inside_resets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let relay = Relay::stream(listener.into(), "127.0.0.1:7000".parse().unwrap());
    let child = perl("sleep 1000").relay(relay).spawn().unwrap();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    drop(child);
}

#[test]
fn datagrams_go_to_the_container_and_answers_to_whoever_asked() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let relay = Relay::datagrams(socket.into(), "127.0.0.1:7000".parse().unwrap());
    let script = r#"$s = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1", LocalPort => 7000) or die;
        $| = 1; print "ready\n"; while ($s->recv($b, 65536)) { $s->send("<$b>") }"#;
    let mut child = perl(script).relay(relay).stdout(Stdio::piped()).spawn().unwrap();
    ready(&mut child);
    let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for round in 0..3 {
        for (n, client) in clients.iter().enumerate() {
            client.connect(address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send(format!("{n}.{round}").as_bytes()).unwrap();
        }
        for (n, client) in clients.iter().enumerate() {
            let mut bytes = [0; 16];
            let length = client.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..length], *format!("<{n}.{round}>").as_bytes());
        }
    }
}

/// The attendants below this process's supervisors: pid and status file.
fn attendant_of(child: &Child) -> (u32, String) {
    let status = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = |text: &str| text.lines().find_map(|line| line.strip_prefix("PPid:\t").map(str::to_owned));
    let supervisor = parent(&status(&child.id().to_string())).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let text = status(&name);
            if text.starts_with("Name:\tcoracle-attend\n") && parent(&text).as_deref() == Some(&supervisor) && text.contains("Seccomp:\t2")
            {
                return (name.parse().unwrap(), text);
            }
        }
        assert!(Instant::now() < until, "there is no attendant");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_attendant_has_no_privileges_and_dies_with_the_container_and_with_its_supervisor() {
    for by_supervisor in [false, true] {
        let (child, address) = echo();
        let (pid, status) = attendant_of(&child);
        for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "no {line} in {status}");
        }
        if rustix::process::geteuid().is_root() {
            assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
            // Nothing of the supervisor's: a listening socket, and no more.
            let files: Vec<_> =
                std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|f| std::fs::read_link(f.path()).unwrap()).collect();
            assert!(files.len() == 1 && files[0].to_string_lossy().starts_with("socket:"), "{files:?}");
        }
        if by_supervisor {
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().parse().unwrap();
            let parent = rustix::process::Pid::from_raw(parent).unwrap();
            rustix::process::kill_process(parent, rustix::process::Signal::KILL).unwrap();
        } else {
            child.kill().unwrap();
        }
        let until = Instant::now() + PATIENCE;
        while std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| !s.contains("State:\tZ")) {
            assert!(Instant::now() < until, "the attendant is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn an_attendant_that_is_killed_takes_nothing_with_it() {
    let (child, address) = echo();
    let (pid, _) = attendant_of(&child);
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_err() {
        // Another user's, as it should be.
        return;
    }
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait_gone().unwrap(), []);
}

#[test]
fn a_request_that_the_kernel_refuses_is_told_by_what_it_was_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        let error = perl("1").exchange(Exchange::inside(loopback(), ["set lo up"])).plan().unwrap_err();
        assert!(error.to_string().contains("without an id map"), "{error}");
        return;
    }
    let mut down = loopback();
    // An index that nobody has.
    down[20..24].copy_from_slice(&4711u32.to_ne_bytes());
    let error = perl("1").exchange(Exchange::inside(down.clone(), ["set the moon up"])).spawn().unwrap_err();
    assert_eq!(error.to_string(), "can't set the moon up: No such device (ENODEV)");
    let fine = perl("exit 3").exchange(Exchange::inside(down, ["set the moon up"]).lenient()).spawn().unwrap();
    assert_eq!(fine.wait().unwrap().status.code(), Some(3));
}

#[test]
fn what_is_released_is_gone_before_the_container_counts_as_gone() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("lease");
    std::fs::write(&file, "").unwrap();
    let child = perl("1").release(Release::RemoveFile(file.clone())).release(Release::RemoveFile(file.clone())).spawn().unwrap();
    child.wait_gone().unwrap();
    assert!(!file.exists());
}

#[test]
fn more_than_can_be_held_is_refused_before_anything_happens() {
    let relay = || Relay::stream(TcpListener::bind("127.0.0.1:0").unwrap().into(), "127.0.0.1:1".parse().unwrap());
    let most = (0..64).fold(perl("1"), |spawn, _| spawn.relay(relay()));
    let child = most.spawn().unwrap();
    child.wait_gone().unwrap();
    let error = (0..65).fold(perl("1"), |spawn, _| spawn.relay(relay())).plan().unwrap_err();
    assert!(error.to_string().contains("at most 64"), "{error}");
}

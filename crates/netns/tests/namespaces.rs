//! Real network namespaces. Needs root; as a plain user each test says SKIP.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_netns::{Batch, Error, NetNs, Socket};

/// Namespaces are counted by this process's threads and descriptors, so one test at a time; None without root.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: root");
        return None;
    }
    Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn link(path: impl AsRef<Path>) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

/// The namespaces of all threads of this process.
fn of_threads() -> BTreeSet<PathBuf> {
    std::fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(|task| link(task.path().join("ns/net"))).collect()
}

fn descriptors_of(ns: &Path) -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|fd| link(fd.path()).as_deref() == Some(ns)).count()
}

#[test]
fn what_listens_inside_is_reached_inside_and_not_from_the_host() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = match inside.run(|| TcpListener::bind(address)).unwrap() {
            Err(error) if address.starts_with('[') && error.kind() == ErrorKind::AddrNotAvailable => {
                continue;
            }
            listener => listener.unwrap(),
        };
        let at = listener.local_addr().unwrap();
        assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let mut client = inside.run(|| TcpStream::connect(at)).unwrap().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}

#[test]
fn what_listens_on_the_host_is_not_reached_from_inside() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    assert!(TcpStream::connect(at).is_ok());
    let error = inside.run(|| TcpStream::connect(at)).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn nothing_leads_out_of_a_new_namespace() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    let error = inside.run(|| UdpSocket::bind("0.0.0.0:0")?.connect("192.0.2.1:9")).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    let interfaces = inside.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
    let names: Vec<&str> = interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(names, ["lo"]);
}

#[test]
fn two_namespaces_have_each_their_own_ports() {
    let Some(_alone) = alone() else { return };
    let (a, b) = (NetNs::new().unwrap(), NetNs::new().unwrap());
    assert!(!a.is(&b) && a.is(&a));
    let bind = || TcpListener::bind("127.0.0.1:7777");
    let _both = (a.run(bind).unwrap().unwrap(), b.run(bind).unwrap().unwrap());
    assert_eq!(a.run(bind).unwrap().unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn no_thread_of_this_process_stays_in_a_namespace() {
    let Some(_alone) = alone() else { return };
    let host = link("/proc/thread-self/ns/net").unwrap();
    let inside = NetNs::new().unwrap();
    let seen = inside.run(|| link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_ne!(seen, host);
    assert_eq!(link("/proc/thread-self/ns/net").unwrap(), host);
    let _ = std::panic::catch_unwind(|| inside.run(|| panic!("a panic inside")));
    // A thread that was joined may be listed for a moment while it exits.
    let start = Instant::now();
    while of_threads() != [host.clone()].into() {
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", of_threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_panic_inside_is_the_callers() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    let panic = std::panic::catch_unwind(|| inside.run(|| panic!("a panic inside"))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a panic inside"));
}

#[test]
fn dropping_it_closes_its_only_descriptor() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    let ns = inside.run(|| link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(descriptors_of(&ns), 1);
    drop(inside);
    assert_eq!(descriptors_of(&ns), 0);
}

#[test]
fn a_namespace_is_opened_again_by_its_file() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    use std::os::fd::{AsFd, AsRawFd};
    let path = format!("/proc/self/fd/{}", inside.as_fd().as_raw_fd());
    let again = NetNs::open(&path).unwrap();
    assert!(again.is(&inside) && !again.is(&NetNs::current().unwrap()));
    assert!(matches!(NetNs::open("/dev/null"), Err(Error::NotANamespace { .. })));
    assert!(matches!(NetNs::open("/nowhere"), Err(Error::Open { .. })));
    let mounts = NetNs::open("/proc/self/ns/mnt").unwrap();
    let error = mounts.run(|| ()).unwrap_err();
    assert!(matches!(error, Error::Enter(_)), "{error}");
    assert!(error.remedy().unwrap().contains("network namespace"));
}

#[test]
fn a_batch_that_fails_in_part_names_the_part_and_does_the_rest() {
    let Some(_alone) = alone() else { return };
    let inside = NetNs::new().unwrap();
    // The socket is opened inside and used here.
    let socket = inside.run(Socket::open).unwrap().unwrap();
    socket.perform(&Batch::new()).unwrap();
    let error = socket.perform(&Batch::new().link_up("eth7", 777).link_up("lo", 1).link_up("eth8", 778)).unwrap_err();
    assert_eq!(error.to_string(), "set eth7 up: No such device (os error 19); set eth8 up: No such device (os error 19)");
    socket.perform(&Batch::loopback_up()).unwrap();
}

#[test]
fn a_plain_user_is_refused_with_the_remedy() {
    let Some(_alone) = alone() else { return };
    // The binary may lie where only root goes.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("test");
    copy_of_this_program(&copy);
    let mut command = Command::new(&copy);
    command.args(["--exact", "as_somebody_else", "--nocapture"]).env("CORACLE_TEST_UID", "65534").current_dir("/");
    let output = command.uid(65534).gid(65534).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// Run by the test above as user 65534.
#[test]
fn as_somebody_else() {
    if std::env::var_os("CORACLE_TEST_UID").is_none() {
        return;
    }
    let error = NetNs::new().unwrap_err();
    assert_eq!(error.to_string(), "make a network namespace: unshare(CLONE_NEWNET): Operation not permitted (os error 1)");
    assert!(error.remedy().unwrap().starts_with("run as root or with CAP_SYS_ADMIN"));
    let error = Socket::open().unwrap().perform(&Batch::loopback_up()).unwrap_err();
    assert_eq!(error.to_string(), "set lo up: Operation not permitted (os error 1)");
    assert!(error.remedy().unwrap().contains("CAP_NET_ADMIN"));
}

/// Copies this program by cp(1): while a thread of ours wrote it, others might start programs, which would hold it open for writing
/// until they execute, and nobody can execute a file that is open for writing.
fn copy_of_this_program(to: &std::path::Path) {
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(to).status().unwrap().success());
}

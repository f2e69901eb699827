//! A host of a test's own: a network namespace with an interface, and another namespace behind that as the world.

use coracle::netns::{Batch, Mac, NetNs, Socket, Veth};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The host's address, and that of who it sends everything to.
pub(crate) const HOST: &str = "192.0.2.2";
pub(crate) const WORLD: &str = "192.0.2.1";

/// Needs root. What runs `at` it finds no interface of this machine.
pub(crate) struct Host {
    pub(crate) host: NetNs,
    pub(crate) world: NetNs,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (host, world) = (NetNs::new().expect("a namespace is made"), NetNs::new().expect("a namespace is made"));
        let ip = |word: &str| word.parse::<IpAddr>().expect("an address");
        let switch = Batch::new().bridge("sw", 50, Mac([2, 0, 0, 0, 0, 9]), 1400).address("sw", 50, ip(WORLD), 24).link_up("sw", 50);
        let cable = Batch::new().veth(&Veth::new("up", 51, 50, "out", 52, Mac([2, 0, 0, 0, 0, 2]))).with_namespace(&host);
        let back = Batch::new().default_route("sw", 50, ip(HOST));
        let outside =
            world.run(|| Socket::open().and_then(|s| s.perform(&switch).and_then(|()| s.perform(&cable)).and_then(|()| s.perform(&back))));
        outside.expect("a thread").expect("the world is made");
        let batch = Batch::new().address("out", 52, ip(HOST), 24).link_up("out", 52).default_route("out", 52, ip(WORLD));
        host.run(|| Socket::open().and_then(|socket| socket.perform(&batch))).expect("a thread").expect("the host is made");
        Self { host, world }
    }

    /// Runs on this host: an engine in there starts its containers there.
    pub(crate) fn at<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.host.run(work).expect("a thread")
    }

    /// What the commands of a shell say on this host.
    pub(crate) fn sh(&self, script: &str) -> String {
        let out = self.at(|| std::process::Command::new("sh").args(["-c", script]).output().expect("sh runs"));
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
    }

    /// Names of interfaces of this host that are ours.
    pub(crate) fn ours(&self) -> Vec<String> {
        let links = self.at(|| Socket::open().and_then(|socket| socket.links())).expect("interfaces are listed");
        links.into_iter().map(|link| link.name).filter(|name| name.starts_with("co")).collect()
    }

    /// Waits until none is left: the kernel takes namespaces down in the background. A server of [`serve`] holds the namespace that it is
    /// in, and so its cable.
    pub(crate) fn assert_no_interfaces(&self) {
        self.assert_none("co");
    }

    /// Waits until no bridge is left.
    pub(crate) fn assert_no_bridges(&self) {
        self.assert_none("cobr");
    }

    fn assert_none(&self, prefix: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.ours().iter().any(|name| name.starts_with(prefix)) {
            assert!(Instant::now() < until, "left: {:?}", self.ours());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A server in a namespace that says to each who asks who it is.
pub(crate) fn serve(at: &NetNs, address: &str) -> u16 {
    let listener = at.run(|| TcpListener::bind(address)).expect("a thread").expect("it listens");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::Write;
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = writeln!(stream, "{peer}");
        }
    });
    port
}

/// What a server says; a short silence counts as no answer.
pub(crate) fn ask(from: &NetNs, address: SocketAddr) -> Option<String> {
    use std::io::Read;
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok().map(|_| text.trim().to_owned())
    })
    .expect("a thread")
}

/// The same until there is one.
pub(crate) fn ask_surely(from: &NetNs, address: SocketAddr) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match ask(from, address) {
            Some(text) if !text.is_empty() => return text,
            _ => assert!(Instant::now() < until, "{address} doesn't answer"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A shell's line at a directory `DIR` that is an ext4 with project quotas, in a mount namespace of its own.
pub(crate) fn with_project_quotas(scratch: &std::path::Path, line: &str) -> std::process::Output {
    let script = format!(
        "set -e; DIR=$1/quotas; mkdir -p $DIR; truncate -s 64m $1/disk; \
         mkfs.ext4 -q -F -O quota,project -E quotatype=prjquota $1/disk; mount -o loop,prjquota $1/disk $DIR; {line}"
    );
    let words = ["--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
    std::process::Command::new("unshare").args(words).arg(scratch).output().expect("unshare runs")
}

/// Whether this machine has such a thing.
pub(crate) fn has_project_quotas() -> bool {
    let scratch = super::directory();
    with_project_quotas(scratch.path(), "true").status.success()
}

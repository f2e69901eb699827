//! A registry on a loopback port: Debian's `docker-registry`, filled by `skopeo`. It ends with the value.

use super::image::{Compressed, Layout};
use super::{Directory, directory, program, rootfs};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The user of a registry that asks for one.
pub(crate) const USER: &str = "tester";
/// The user's password.
pub(crate) const PASSWORD: &str = "secret";
/// `htpasswd -Bbn tester secret`: the registry knows bcrypt alone.
const HTPASSWD: &str = "tester:$2y$05$1VAhgW9euEtUCkVyzIxqSugGZB7KXr5wLhzBPWfgKGigTrB.T.Y56\n";

/// Whether the programs are here.
pub(crate) fn is_possible() -> bool {
    ["docker-registry", "skopeo", "setpriv"].iter().all(|name| program::find(name).is_some())
}

/// Whom a registry lets in, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Login,
    TlsAndLogin,
}

/// A running registry.
///
/// It dies with the thread that started it (by PDEATHSIG), so that a killed test leaves none: start it from the test's own
/// thread, not from a runtime's worker.
pub(crate) struct Registry {
    port: u16,
    child: Child,
    storage: Directory,
    door: Door,
}

impl Registry {
    /// An empty one that lets everybody in.
    pub(crate) fn start() -> Self {
        Self::with(Door::Open)
    }

    /// An empty one that lets only [`USER`] in.
    pub(crate) fn start_with_login() -> Self {
        Self::with(Door::Login)
    }

    /// An empty one with TLS that lets only [`USER`] in: the test needs `OpenSsl`. [`Registry::authority`] is who signed its
    /// certificate, and `trust/ca.crt` in [`Registry::storage`].
    pub(crate) fn start_with_tls_and_login() -> Self {
        Self::with(Door::TlsAndLogin)
    }

    /// The certificate of the authority, as PEM.
    pub(crate) fn authority(&self) -> Vec<u8> {
        std::fs::read(self.storage.path().join("trust/ca.crt")).expect("a registry with TLS has one")
    }

    /// One that holds `busybox:latest`.
    pub(crate) fn with_busybox() -> Self {
        let registry = Self::start();
        registry.push_busybox();
        registry
    }

    fn with(door: Door) -> Self {
        let storage = directory();
        // Between our look at a free port and the registry's bind somebody else may take it.
        for _ in 0..5 {
            let port = free_port();
            let mut child = serve(storage.path(), port, door);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && child.try_wait().expect("a child can be asked").is_none() {
                if answers(port) {
                    return Self { port, child, storage, door };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = std::fs::read_to_string(storage.path().join("log")).unwrap_or_default();
        panic!("docker-registry doesn't answer; it said:\n{log}");
    }

    /// `127.0.0.1:PORT`, which every client takes for an insecure registry that speaks HTTP.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT/NAME`, for `busybox:latest` and the like.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// The directory in which it keeps blobs; a test may spoil one.
    pub(crate) fn storage(&self) -> &Path {
        self.storage.path()
    }

    /// What it logged so far: one line a request.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.storage.path().join("log")).unwrap_or_default()
    }

    /// Pushes the image that a layout knows as `tag` under a name with a tag.
    pub(crate) fn push(&self, layout: &Layout, tag: &str, name: &str) {
        // Only what is asked for: an index stays an index, with all its platforms.
        let mut arguments = vec![String::from("--insecure-policy"), String::from("copy"), String::from("--all")];
        arguments.push(String::from("--dest-tls-verify=false"));
        if self.door != Door::Open {
            arguments.push(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        arguments.push(format!("oci:{}:{tag}", layout.path().display()));
        arguments.push(format!("docker://{}", self.reference(name)));
        program::run("skopeo", arguments);
    }

    /// `busybox:latest`: one layer, `Cmd` `sh`.
    pub(crate) fn push_busybox(&self) {
        let place = directory();
        let root = place.path().join("root");
        rootfs::busybox(&root);
        let mut layout = Layout::new(&place.path().join("layout"));
        let layer = layout.layer_of(&root, Compressed::Gzip);
        layout.image("latest", &[layer], json!({ "Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"] }));
        self.push(&layout, "latest", "busybox:latest");
    }

    /// `debian:12`: the root file system of debootstrap, `Cmd` `bash`.
    pub(crate) fn push_debian(&self) {
        let place = directory();
        let mut layout = Layout::new(&place.path().join("layout"));
        let archive = std::fs::File::open(rootfs::debian()).expect("the archive can be read");
        let layer = layout.layer(archive, Compressed::Gzip);
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        layout.image("12", &[layer], json!({ "Cmd": ["bash"], "Env": [path] }));
        self.push(&layout, "12", "debian:12");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(storage: &Path, port: u16, door: Door) -> Child {
    let mut tls = String::new();
    if door == Door::TlsAndLogin {
        certificates(storage);
        tls = format!(", tls: {{ certificate: {:?}, key: {:?} }}", storage.join("server.pem"), storage.join("server.key"));
    }
    let mut config = format!(
        "version: 0.1\nlog: {{ level: info, accesslog: {{ disabled: false }} }}\n\
         storage: {{ filesystem: {{ rootdirectory: {:?} }}, delete: {{ enabled: true }} }}\n\
         http: {{ addr: \"127.0.0.1:{port}\"{tls} }}\n",
        storage.join("data")
    );
    if door != Door::Open {
        std::fs::write(storage.join("htpasswd"), HTPASSWD).expect("it can be written");
        config.push_str(&format!("auth: {{ htpasswd: {{ realm: tests, path: {:?} }} }}\n", storage.join("htpasswd")));
    }
    std::fs::write(storage.join("config.yml"), config).expect("it can be written");
    let log = std::fs::File::create(storage.join("log")).expect("it can be made");
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
        .arg(storage.join("config.yml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("docker-registry runs")
}

/// Makes an authority, `trust/ca.crt`, and the certificate and key of a server that it signed.
fn certificates(directory: &Path) {
    let at = |name: &str| directory.join(name).display().to_string();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::create_dir_all(at("trust")).expect("it can be made");
    std::fs::write(at("extensions"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("it can be written");
    for line in [
        format!("req -x509 {key} -keyout {} -out {} -subj /CN=tests", at("ca.key"), at("trust/ca.crt")),
        format!("req {key} -keyout {} -out {} -subj /CN=127.0.0.1", at("server.key"), at("server.csr")),
        format!(
            "x509 -req -in {} -CA {} -CAkey {} -CAcreateserial -out {} -extfile {}",
            at("server.csr"),
            at("trust/ca.crt"),
            at("ca.key"),
            at("server.pem"),
            at("extensions")
        ),
    ] {
        program::run("openssl", line.split(' '));
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a listener has an address").port()
}

/// Whether something speaks HTTP there.
fn answers(port: u16) -> bool {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let Ok(mut stream) = TcpStream::connect_timeout(&address.into(), Duration::from_secs(1)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut head = [0; 5];
    stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: localhost\r\n\r\n").is_ok() && stream.read_exact(&mut head).is_ok() && &head == b"HTTP/"
}

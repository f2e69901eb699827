//! A real registry: Debian's `docker-registry`, filled by `skopeo`. It ends with the value.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::TinyImage;

/// Whether the programs are there; names the missing one.
pub fn have(programs: &[&str]) -> bool {
    for program in programs {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain(["/usr/sbin".into(), "/usr/bin".into()])
            .any(|dir| dir.join(program).is_file());
        if !found {
            println!("SKIP: {program}");
            return false;
        }
    }
    true
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Makes an authority, `ca.pem`, and what it signed: `cert.pem` and `client.pem`, with their keys `cert.key` and `client.key`.
pub fn certificates(dir: &Path) {
    let shown = dir.display().to_string();
    let (ca_key, ca, extensions) = (format!("{shown}/ca.key"), format!("{shown}/ca.pem"), format!("{shown}/ext"));
    fs::write(&extensions, "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let args = [&["req", "-x509"], &new_key[..], &["-keyout", &ca_key, "-out", &ca, "-subj", "/CN=tests"]];
    run("openssl", &args.concat());
    for name in ["cert", "client"] {
        let (key, cert, csr) = (format!("{shown}/{name}.key"), format!("{shown}/{name}.pem"), format!("{shown}/{name}.csr"));
        let args = [&["req"], &new_key[..], &["-keyout", &key, "-out", &csr, "-subj", "/CN=localhost"]];
        run("openssl", &args.concat());
        let args = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-out", &cert];
        run("openssl", &[&args[..], &["-extfile", &extensions]].concat());
    }
}

/// A `docker-registry` of our own, gone with this value.
pub struct Registry {
    child: Child,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Open,
    Password,
    Tls,
    /// TLS and a password.
    TlsPassword,
    /// TLS for those who have a certificate of the same authority: `client.pem` and `client.key`.
    Mutual,
}

impl Registry {
    pub fn start(kind: &Kind) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().display().to_string();
        let (mut http, mut auth) = (String::new(), String::new());
        if matches!(kind, Kind::Password | Kind::TlsPassword) {
            fs::write(dir.path().join("htpasswd"), run("htpasswd", &["-nbB", "bob", "right"])).unwrap();
            auth = format!("auth:\n  htpasswd:\n    realm: tests\n    path: {shown}/htpasswd\n");
        }
        if matches!(kind, Kind::Tls | Kind::TlsPassword | Kind::Mutual) {
            certificates(dir.path());
            http = format!("  tls:\n    certificate: {shown}/cert.pem\n    key: {shown}/cert.key\n");
            if *kind == Kind::Mutual {
                http.push_str(&format!("    clientcas:\n      - {shown}/ca.pem\n"));
            }
        }
        // Another process may take the port between our look and the registry's bind: then try another one.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {shown}/data\n  delete:\n    enabled: true\n{auth}http:\n  addr: 127.0.0.1:{port}\n{http}"
            );
            fs::write(dir.path().join("config.yml"), config).unwrap();
            let mut child = Command::new("docker-registry")
                .args(["serve", &format!("{shown}/config.yml")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Registry { child, port, dir };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry doesn't start");
    }

    /// The certificate of the authority that signed its own.
    pub fn authority(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("ca.pem")).unwrap()
    }

    pub fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes a layout's image, byte for byte.
    pub fn push(&self, layout: &Path, name: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--all", "--preserve-digests", "--dest-tls-verify=false"])
            .args(["--dest-creds", "bob:right"])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.host()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn push_image(&self, image: &TinyImage, name: &str) {
        let layout = tempfile::tempdir().unwrap();
        super::write_image(layout.path(), image, "x");
        self.push(layout.path(), name);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

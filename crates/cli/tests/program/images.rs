//! Images: from an OCI layout, and from a registry on loopback.

use crate::scratch::{Said, Scratch, as_each_user};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The root file system as an image in an OCI layout.
fn layout(s: &Scratch) -> Option<PathBuf> {
    let (tar, layout) = (s.path("image.tar"), s.path("layout"));
    let made =
        Command::new("tar").arg("-C").arg(s.path("rootfs")).arg("-cf").arg(&tar).args(["--owner=0", "--group=0", "."]).status().ok()?;
    assert!(made.success());
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", &format!("tarball:{}", tar.display()), &format!("oci:{}:latest", layout.display())])
        .stdout(Stdio::null())
        .status();
    match copied {
        Ok(status) if status.success() => Some(layout),
        _ => {
            println!("SKIP: skopeo (apt-get install skopeo)");
            None
        }
    }
}

/// Debian's docker-registry on a port of its own.
struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    fn start(s: &Scratch) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (data, config) = (s.path("registry"), s.path("registry.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        let process = match command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(process) => process,
            Err(_) => {
                println!("SKIP: docker-registry (apt-get install docker-registry)");
                return None;
            }
        };
        let registry = Self { process, port };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the registry never listened");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_oci_layout_runs() {
    as_each_user(|s| {
        let Some(layout) = layout(s) else { return };
        let layout = layout.display().to_string();
        let run = |words: &[&str]| Said::from(s.coracle(["run", "--oci-layout", &layout].iter().chain(words)).output());
        run(&["echo", "hello"]).is(0, "hello\n");
        run(&["no-such"]).fails(127, &["error: command not found: no-such"]);
    });
}

#[test]
fn an_image_is_pulled_listed_and_run() {
    as_each_user(|s| {
        let Some(layout) = layout(s) else { return };
        let Some(registry) = Registry::start(s) else { return };
        let name = format!("localhost:{}/team/bb:1", registry.port);
        let pushed = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args([format!("oci:{}:latest", layout.display()), format!("docker://{name}")])
            .status()
            .unwrap();
        assert!(pushed.success());

        Said::from(s.coracle(["images", "-q"]).output()).is(0, "");
        let pull = Said::from(s.coracle(["pull", &name]).output());
        assert_eq!(pull.code, Some(0), "{}", pull.stderr);
        let digest = pull.stdout.strip_prefix(&format!("{name}@")).expect("the name, and the digest behind it").trim_end().to_owned();
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
        let lines: Vec<_> = pull.stderr.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, &format!("pulling {name}")[..]));
        assert!(lines[1].starts_with(&format!("pulled {name}: fetched 1 layer, ")), "{}", lines[1]);
        let again = Said::from(s.coracle(["pull", "-q", &name]).output());
        again.is(0, &pull.stdout);

        let table = Said::from(s.coracle(["images"]).output());
        let row = table.stdout.lines().nth(1).expect("a row").to_owned();
        assert!(row.starts_with(&format!("localhost:{}/team/bb   1     {}", registry.port, &digest[7..19])), "{}", table.stdout);
        let json = Said::from(s.coracle(["images", "--format", "json"]).output()).stdout;
        assert!(json.contains(&format!("\"reference\":\"{name}\",\"digest\":\"{digest}\",\"platform\":\"linux/")), "{json}");

        // Sent to another repository, where it is the same.
        let copy = format!("localhost:{}/copy:2", registry.port);
        let push = Said::from(s.coracle(["push", &name, &copy]).output());
        assert_eq!((push.code, &push.stdout[..]), (Some(0), &format!("{copy}@{digest}\n")[..]), "{}", push.stderr);
        assert!(push.stderr.starts_with(&format!("pushing {copy}\npushed {copy}: sent 0 blobs, ")), "{}", push.stderr);
        Said::from(s.coracle(["pull", "-q", &copy]).output()).is(0, &push.stdout);
        Said::from(s.coracle(["push", "nowhere.example/none"]).output()).fails(1, &["can't push nowhere.example/none", "pull it"]);
        // All that the name means, which here is one image; another platform's isn't there.
        Said::from(s.coracle(["pull", "-q", "--all-platforms", &name]).output()).is(0, &pull.stdout);
        let all = format!("localhost:{}/all:1", registry.port);
        Said::from(s.coracle(["push", "-q", "--all-platforms", &name, &all]).output()).is(0, &format!("{all}@{digest}\n"));
        Said::from(s.coracle(["pull", "--platform", "linux/s390x", &name]).output()).fails(1, &["has no image for linux/s390x"]);

        // A name without a registry means what registries.conf says, also where it is looked for here.
        let conf = s.path("registries.conf");
        let aliases = format!("[aliases]\n\"bb\" = \"localhost:{}/team/bb\"", registry.port);
        fs::write(&conf, format!("unqualified-search-registries = [\"a.example\", \"b.example\"]\n{aliases}\n")).unwrap();
        let short = |words: &[&str]| Said::from(s.coracle(words).env("CONTAINERS_REGISTRIES_CONF", &conf).output());
        short(&["pull", "-q", "bb:1"]).is(0, &pull.stdout);
        short(&["inspect", "--format", "{{.Digest}}", "bb:1"]).is(0, &format!("{digest}\n"));
        short(&["pull", "-q", "other"]).fails(1, &["the name other has no registry, and may mean a.example/other:latest or b.example"]);
        short(&["run", "other"]).fails(125, &["may mean a.example/other:latest", "write the one that is meant"]);

        // It is here now: no word of a pull, and no registry needed.
        drop(registry);
        Said::from(s.coracle(["run", &name, "sh", "-c", "echo hello; exit 4"]).output()).is(4, "hello\n");
        Said::from(s.coracle(["pull", &name]).output()).fails(1, &["error: "]);
    });
}

#[test]
fn an_image_that_cannot_be_had_is_125() {
    as_each_user(|s| {
        // A port that nobody listens on.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let said = Said::from(s.coracle(["run", "-q", &format!("localhost:{port}/none"), "true"]).output());
        said.fails(125, &["error: ", &port.to_string()]);
    });
}

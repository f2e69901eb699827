//! Images go back and forth between us and skopeo, podman, buildah and Docker: over a registry with TLS and a password, and in
//! archives. The config's digest and the layers' are the same wherever they end.
//!
//! Everybody has roots of their own below a directory of the test's, in a mount namespace that goes with it. Docker's server is started
//! without a network of its own, and ended.

use crate::support::image::{Compressed, Layout};
use crate::support::importer::open;
use crate::support::registry::{PASSWORD, Registry, USER};
use crate::support::{Directory, directory, need, program};
use coracle::RegistryClient;
use coracle::image::{Archive, Image, LayerSink, OciLayout, Puller, Pusher, Reference, Store};
use coracle::layers::LayerStore;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INSIDE: &str = "CORACLE_TEST_INTEROP";

/// A tool, with roots of its own.
struct Tool {
    name: &'static str,
    program: PathBuf,
    flags: Vec<String>,
    home: PathBuf,
}

impl Tool {
    fn new(name: &'static str, place: &Path, flags: &[&str]) -> Self {
        let home = place.join(name);
        std::fs::create_dir(&home).expect("it can be made");
        std::fs::write(home.join("auth.json"), "{}").expect("it can be written");
        let below = |name: &str| home.join(name).display().to_string();
        let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        if matches!(name, "podman" | "buildah") {
            all.extend([
                "--root".to_owned(),
                below("root"),
                "--runroot".to_owned(),
                below("run"),
                "--storage-driver".to_owned(),
                "vfs".to_owned(),
            ]);
        }
        // A program of the same name that is none of Docker's may stand before it.
        let debian = PathBuf::from("/usr/bin").join(name);
        let program = if debian.is_file() { debian } else { program::find(name).expect("that is the need") };
        Self { name, program, flags: all, home }
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        let out = Command::new(&self.program)
            .args(&self.flags)
            .args(words)
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", &self.home)
            .env("REGISTRY_AUTH_FILE", self.home.join("auth.json"))
            .env("DOCKER_CONFIG", &self.home)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        assert!(out.status.success(), "{} {words:?}: {}", self.name, String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.run(words)).expect("it speaks JSON")
    }

    /// The id and the layers of what it knows by a name.
    fn inspect(&self, name: &str) -> (String, Vec<String>) {
        let list = |value: &Value| value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        if self.name == "buildah" {
            let found = self.json(&["inspect", "--type", "image", name]);
            return (format!("sha256:{}", found["FromImageID"].as_str().unwrap_or_default()), list(&found["OCIv1"]["rootfs"]["diff_ids"]));
        }
        let found = self.json(&["image", "inspect", name]);
        let id = found[0]["Id"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
        (format!("sha256:{id}"), list(&found[0]["RootFS"]["Layers"]))
    }
}

/// Docker's server, with its client's flags; it ends with the value.
struct Docker {
    server: Child,
    tool: Tool,
}

impl Docker {
    fn start(place: &Path) -> Self {
        let at = |name: &str| place.join("docker-server").join(name).display().to_string();
        std::fs::create_dir(place.join("docker-server")).expect("it can be made");
        let host = format!("unix://{}", at("socket"));
        let log = std::fs::File::create(at("log")).expect("it can be made");
        let server = Command::new(program::find("dockerd").expect("that is the need"))
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "-p", &at("pid"), "-H", &host])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"])
            .args(["--storage-driver", "vfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("dockerd runs");
        let docker = Self { server, tool: Tool::new("docker", place, &["-H", &host]) };
        let deadline = Instant::now() + Duration::from_secs(120);
        while Command::new(&docker.tool.program).args(["-H", &host, "version"]).output().is_ok_and(|out| !out.status.success()) {
            let said = std::fs::read_to_string(at("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "dockerd doesn't answer:\n{said}");
            std::thread::sleep(Duration::from_millis(100));
        }
        docker
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends the containerd that it started, if it is asked to.
        let pid = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && matches!(self.server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A store of ours, empty.
struct Ours {
    store: Store,
    layers: Arc<LayerStore>,
    client: RegistryClient,
    _place: Directory,
}

impl Ours {
    fn new(registry: &Registry) -> Self {
        let place = directory();
        let (store, layers) = open(place.path());
        let host = registry.address();
        let client = RegistryClient::new().secure(&host).trust(registry.authority()).credentials(&host, USER, PASSWORD);
        Self { store, layers: Arc::new(layers), client, _place: place }
    }

    fn pull(&self, name: &str) -> Image {
        let sink = Arc::clone(&self.layers) as Arc<dyn LayerSink>;
        let reference: Reference = name.parse().expect("it is a name");
        Puller::new().client(self.client.clone()).pull_blocking(&self.store, &reference, sink).unwrap_or_else(|error| panic!("{error}"))
    }

    fn load(&self, archive: &Path) -> Image {
        let loaded = Archive::open(archive, &self.store).and_then(|archive| archive.import(&self.store, &*self.layers));
        loaded.unwrap_or_else(|error| panic!("{}: {error}", archive.display())).remove(0)
    }
}

/// The id and the layers, and that they are unpacked, whole.
fn seen(ours: &Ours, image: &Image) -> (String, Vec<String>) {
    ours.layers.paths(&image.config.diff_ids).expect("its layers are there");
    assert_eq!(ours.store.check(false, &*ours.layers).expect("it is read").faults, []);
    (image.id.to_string(), image.config.diff_ids.iter().map(ToString::to_string).collect())
}

fn back_and_forth(place: &Path) {
    let registry = Registry::start_with_tls_and_login();
    let host = registry.address();
    let credentials = format!("{USER}:{PASSWORD}");
    let certificates = registry.storage().join("trust").display().to_string();

    let mut layout = Layout::new(&place.join("layout"));
    let layers: Vec<_> = (0..3)
        .map(|number| {
            let root = place.join(format!("layer{number}"));
            std::fs::create_dir_all(root.join("etc/dir")).expect("it can be made");
            std::fs::write(root.join(format!("etc/{number}")), format!("{number}").repeat(50_000)).expect("it can be written");
            std::os::unix::fs::symlink("0", root.join("etc/dir/link")).expect("it can be made");
            layout.layer_of(&root, if number == 1 { Compressed::No } else { Compressed::Gzip })
        })
        .collect();
    layout.image("first", &layers, json!({ "Cmd": ["true"], "Env": ["A=1"], "Labels": { "who": "nobody" } }));
    let from = format!("oci:{}:first", place.join("layout").display());

    let skopeo = Tool::new("skopeo", place, &["--insecure-policy"]);
    let podman = Tool::new("podman", place, &["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
    let buildah = Tool::new("buildah", place, &[]);
    let docker = Docker::start(place);

    // What it is.
    let first = Ours::new(&registry);
    let image = OciLayout::open(place.join("layout"))
        .and_then(|layout| {
            layout.name("first").reference("localhost/first:1".parse().expect("it is a name")).import(&first.store, &*first.layers)
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let expected = seen(&first, &image);
    assert_eq!(expected.1, layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>());

    // Each brings it to the registry, and ours pulls it from there.
    let to = |who: &str| format!("{host}/{who}:1");
    let cert = ["--cert-dir", certificates.as_str()];
    skopeo.run(&["copy", "--dest-cert-dir", &certificates, "--dest-creds", &credentials, &from, &format!("docker://{}", to("skopeo"))]);
    for tool in [&podman, &buildah] {
        let id = tool.run(&["pull", "-q", &from]);
        let there = format!("docker://{}", to(tool.name));
        tool.run(&[&["push"], &cert[..], &["--creds", &credentials, &id, &there]].concat());
        tool.run(&["rmi", "-f", &id]);
    }
    let ours_saved = place.join("ours.tar");
    first
        .store
        .export(std::slice::from_ref(&image))
        .and_then(|export| export.archive(&mut std::fs::File::create(&ours_saved).expect("it can be made"), "ours.tar"))
        .unwrap_or_else(|error| panic!("{error}"));
    let saved = ours_saved.display().to_string();
    docker.tool.run(&["load", "-q", "-i", &saved]);
    assert_eq!(docker.tool.inspect("localhost/first:1"), expected, "docker load of ours");
    docker.tool.run(&["tag", "localhost/first:1", &to("docker")]);
    docker.tool.run(&["login", "-u", USER, "-p", PASSWORD, &host]);
    docker.tool.run(&["push", "-q", &to("docker")]);
    for who in ["skopeo", "podman", "buildah", "docker"] {
        let ours = Ours::new(&registry);
        let image = ours.pull(&to(who));
        assert_eq!(seen(&ours, &image), expected, "pushed by {who}");
    }

    // Ours brings it there, and each pulls it.
    let there: Reference = to("ours").parse().expect("it is a name");
    let pushed = Pusher::new().client(first.client.clone()).push_blocking(&first.store, &image.reference, &there);
    assert_eq!(pushed.unwrap_or_else(|error| panic!("{error}")), image.digest);
    let source = format!("docker://{there}");
    let config = skopeo.run(&["inspect", "--config", "--raw", "--cert-dir", &certificates, "--creds", &credentials, &source]);
    let config: Value = serde_json::from_str(&config).expect("a config is JSON");
    assert_eq!(config["rootfs"]["diff_ids"], json!(expected.1));
    for tool in [&podman, &buildah] {
        tool.run(&[&["pull", "-q"], &cert[..], &["--creds", &credentials, &source]].concat());
        assert_eq!(tool.inspect(&to("ours")), expected, "pulled by {}", tool.name);
        // What came as OCI goes out as OCI: another form would have another config.
        let path = place.join(format!("{}.oci.tar", tool.name)).display().to_string();
        match tool.name {
            "podman" => tool.run(&["save", "-q", "--format", "oci-archive", "-o", &path, &to("ours")]),
            _ => tool.run(&["push", "-q", &to("ours"), &format!("oci-archive:{path}:localhost/first:1")]),
        };
        let ours = Ours::new(&registry);
        let image = ours.load(Path::new(&path));
        assert_eq!(seen(&ours, &image), expected, "{}'s oci-archive", tool.name);
        tool.run(&["rmi", "-f", &to("ours")]);
    }
    docker.tool.run(&["rmi", "-f", "localhost/first:1", &to("docker")]);
    docker.tool.run(&["pull", "-q", &to("ours")]);
    assert_eq!(docker.tool.inspect(&to("ours")), expected, "pulled by docker");

    // What ours saved, each loads; what each saves, ours loads.
    podman.run(&["load", "-q", "-i", &saved]);
    assert_eq!(podman.inspect("localhost/first:1"), expected, "podman load of ours");
    buildah.run(&["pull", "-q", &format!("docker-archive:{saved}")]);
    assert_eq!(buildah.inspect("localhost/first:1"), expected, "buildah's pull of ours");
    for tool in [&podman, &buildah] {
        let path = place.join(format!("{}.tar", tool.name)).display().to_string();
        match tool.name {
            "podman" => tool.run(&["save", "-q", "-o", &path, "localhost/first:1"]),
            _ => tool.run(&["push", "-q", "localhost/first:1", &format!("docker-archive:{path}:localhost/first:1")]),
        };
        let ours = Ours::new(&registry);
        let image = ours.load(Path::new(&path));
        assert_eq!(seen(&ours, &image), expected, "{}'s docker-archive", tool.name);
    }
    let path = place.join("docker.tar");
    docker.tool.run(&["save", "-o", &path.display().to_string(), &to("ours")]);
    let ours = Ours::new(&registry);
    let image = ours.load(&path);
    assert_eq!(seen(&ours, &image), expected, "docker save");
}

#[test]
fn images_go_back_and_forth_between_us_and_the_fields_tools() {
    need!(Root, Registry, Podman, Buildah, Docker, OpenSsl);
    if let Some(place) = std::env::var_os(INSIDE) {
        return back_and_forth(Path::new(&place));
    }
    // Short: a socket's path has at most 107 bytes.
    let parent = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { Path::new("/tmp") };
    // And in lower case: podman makes the path of a layout a name.
    let name = format!("coracle-interop-{}", std::process::id());
    let place = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(parent).expect("a directory can be made");
    let status = Command::new(program::find("unshare").expect("util-linux is there"))
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("a test knows its program"))
        .args(["root::interop::images_go_back_and_forth_between_us_and_the_fields_tools", "--exact", "--nocapture"])
        .env(INSIDE, place.path())
        .status();
    assert!(status.expect("unshare runs").success());
}

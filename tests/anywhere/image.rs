//! Containers from images: pulled from a registry, read from an OCI layout, run with what their configuration says.

use crate::support::image::{Compressed, Layout};
use crate::support::needs::Need;
use crate::support::place::{Place, block_on, fails, ran, said};
use crate::support::registry::Registry;
use crate::support::{directory, met, need, rootfs};
use coracle::{Container, Control, Progress, Reason};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A layout with one image over a root of busybox.
pub(super) fn layout(place: &Path, config: Value) -> PathBuf {
    let (root, path) = (place.join("root-of-image"), place.join("layout"));
    rootfs::busybox(&root);
    let mut layout = Layout::new(&path);
    let layer = layout.layer_of(&root, Compressed::Gzip);
    layout.image("latest", &[layer], config);
    path
}

fn from_layout(place: &Place, path: &Path) -> coracle::ContainerBuilder {
    Container::from_oci_layout(path).engine(place.engine())
}

#[test]
fn the_example_of_the_readme_runs_debian() {
    need!(Registry, DebianRoot, UserNamespaces);
    let (place, registry) = (Place::empty(), Registry::start());
    registry.push_debian();
    let mut builder = Container::from_image(registry.reference("debian:12"))
        .engine(place.engine())
        .cmd(["sh", "-c", "id -u; cat /etc/debian_version; echo $GREETING"])
        .env("GREETING", "hello")
        .memory("256m")
        .cpus(1.0)
        .pids(64);
    if !met(Need::Delegation) {
        builder = builder.best_effort(Control::Memory).best_effort(Control::Cpu).best_effort(Control::Pids);
    }
    let out = block_on(builder.clone().output()).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
    assert!(out.status.success(), "{}", out.stderr_lossy());
    let text = out.stdout_lossy().into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "hello"));
    assert!(lines[1].starts_with("12."), "{text}");
    assert_eq!(out.status.reason(), Reason::Code(0));

    // A second one asks nobody: the registry is gone.
    drop(registry);
    let began = std::time::Instant::now();
    assert_eq!(said(builder.clone().cmd(["sh", "-c", "echo again"])), "again\n");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // Other programs of the image: a package database is there, and its files have their owners.
    let owners = said(builder.cmd(["sh", "-c", "stat -c '%u:%g %a %n' /etc/shadow /usr/bin/passwd /var/mail /tmp"]));
    if met(Need::NoSubIds) {
        // One id is mapped: everything is its.
        assert!(owners.lines().all(|line| line.starts_with("0:0 ")), "{owners}");
    } else {
        assert_eq!(owners, "0:42 640 /etc/shadow\n0:0 4755 /usr/bin/passwd\n0:8 2775 /var/mail\n0:0 1777 /tmp\n");
    }
}

#[test]
fn a_second_run_makes_no_request() {
    need!(Registry, Busybox, UserNamespaces);
    let (mut place, registry) = (Place::empty(), Registry::with_busybox());
    let requests = |registry: &Registry| registry.log().lines().filter(|line| line.contains("/v2/")).count();
    let container =
        |place: &Place| Container::from_image(registry.reference("busybox:latest")).engine(place.engine()).cmd(["echo", "runs"]);
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let told = Arc::clone(&seen);
    assert_eq!(said(container(&place).on_progress(move |event| told.lock().expect("no panic").push(event))), "runs\n");
    assert!(!seen.lock().expect("no panic").is_empty());
    let after_first = requests(&registry);
    assert!(after_first >= 3, "{}", registry.log());
    place.look_again();
    for _ in 0..3 {
        assert_eq!(said(container(&place)), "runs\n");
    }
    assert_eq!(requests(&registry), after_first);
    let images = place.engine().images().expect("they are read");
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].reference, registry.reference("busybox:latest"));
    // Another engine over the same directory knows it, too.
    let other = coracle::Engine::builder().root(place.engine().root()).open().expect("an engine opens");
    assert_eq!(said(container(&place).engine(&other)), "runs\n");
    assert_eq!(requests(&registry), after_first);
    place.assert_clean();
}

#[test]
fn ten_that_want_the_same_image_pull_it_once() {
    need!(Registry, Busybox, UserNamespaces);
    let (place, registry) = (Place::empty(), Registry::with_busybox());
    let threads: Vec<_> = (0..10)
        .map(|n: u32| {
            let builder =
                Container::from_image(registry.reference("busybox:latest")).engine(place.engine()).cmd(["echo".to_owned(), n.to_string()]);
            std::thread::spawn(move || said(builder))
        })
        .collect();
    for (n, thread) in threads.into_iter().enumerate() {
        assert_eq!(thread.join().expect("no panic"), format!("{n}\n"));
    }
    let log = registry.log();
    let blobs: Vec<&str> = log.lines().filter(|line| line.contains("\"GET /v2/busybox/blobs/")).collect();
    assert_eq!(blobs.len(), 2, "the config and the layer were asked for so often:\n{log}");
}

#[test]
fn a_pull_that_is_given_up_leaves_room_for_the_next() {
    need!(Registry, Busybox, UserNamespaces);
    let (place, registry) = (Place::empty(), Registry::with_busybox());
    let builder = || Container::from_image(registry.reference("busybox:latest")).engine(place.engine()).cmd(["echo", "runs"]);
    for after in [0, 1, 3, 10, 30] {
        let mut future = Box::pin(builder().output());
        let waker = crate::support::place::waker();
        if std::future::Future::poll(future.as_mut(), &mut std::task::Context::from_waker(&waker)).is_pending() {
            std::thread::sleep(Duration::from_millis(after));
        }
    }
    assert_eq!(said(builder()), "runs\n");
}

#[test]
fn the_configuration_of_an_image_is_what_runs() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let config = json!({
        "Entrypoint": ["echo", "from the entrypoint:"],
        "Cmd": ["and", "the command"],
        "Env": ["PATH=/bin", "GREETING=hello there", "=C:\\", "NOTHING"],
        "WorkingDir": "/var/work",
    });
    let path = layout(place.path(), config);
    assert_eq!(said(from_layout(&place, &path)), "from the entrypoint: and the command\n");
    assert_eq!(said(from_layout(&place, &path).cmd(["other words"])), "from the entrypoint: other words\n");
    assert_eq!(said(from_layout(&place, &path).arg("instead")), "from the entrypoint: instead\n");
    assert_eq!(said(from_layout(&place, &path).entrypoint(["pwd"])), "/var/work\n");
    let env = said(from_layout(&place, &path).entrypoint(Vec::<String>::new()).cmd(["env"]).hostname("box").env("GREETING", "bye"));
    let mut env: Vec<&str> = env.lines().collect();
    env.sort_unstable();
    assert_eq!(env, ["GREETING=bye", "HOME=/root", "HOSTNAME=box", "PATH=/bin"]);
    assert_eq!(said(from_layout(&place, &path).entrypoint(["/bin/env"]).env_clear()), "HOME=/root\n");
}

#[test]
fn an_image_names_its_user_and_its_stop_signal() {
    need!(Busybox, UserNamespaces);
    if met(Need::NoSubIds) {
        return; // a_user_that_isnt_mapped_is_an_error_with_the_line_that_maps_it
    }
    let place = Place::empty();
    let config = json!({ "User": "guest:wheel", "StopSignal": "SIGUSR1", "Cmd": ["sh", "-c", "id -u; id -g; echo $HOME"] });
    let path = layout(place.path(), config);
    assert_eq!(said(from_layout(&place, &path)), "1000\n10\n/home\n");
    assert_eq!(said(from_layout(&place, &path).user("0")), "0\n0\n/root\n");
    let obeying = from_layout(&place, &path).cmd(["sh", "-c", "trap 'exit 8' USR1; while :; do sleep 0.05; done"]);
    let container = block_on(obeying.run()).expect("it runs");
    assert_eq!(block_on(container.stop(Duration::from_secs(20))).expect("it ends").reason(), Reason::Code(8));
}

#[test]
fn layers_lie_on_each_other() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::empty();
    let (base, path) = (place.path().join("base"), place.path().join("layout"));
    rootfs::busybox(&base);
    std::fs::create_dir(base.join("data")).expect("it can be made");
    for name in ["kept", "changed", "deleted"] {
        std::fs::write(base.join("data").join(name), format!("{name} below\n")).expect("it can be written");
    }
    std::fs::create_dir_all(base.join("opaque/old")).expect("it can be made");
    let upper = place.path().join("upper");
    std::fs::create_dir_all(upper.join("data")).expect("it can be made");
    std::fs::create_dir_all(upper.join("opaque")).expect("it can be made");
    for (name, text) in [("data/changed", "changed above\n"), ("data/.wh.deleted", ""), ("opaque/.wh..wh..opq", ""), ("opaque/new", "")] {
        std::fs::write(upper.join(name), text).expect("it can be written");
    }
    let mut layout = Layout::new(&path);
    let layers = [layout.layer_of(&base, Compressed::Gzip), layout.layer_of(&upper, Compressed::No)];
    layout.image("latest", &layers, json!({ "Cmd": ["sh", "-c", "ls /data /opaque; cat /data/*"] }));
    assert_eq!(said(from_layout(&place, &path)), "/data:\nchanged\nkept\n\n/opaque:\nnew\nchanged above\nkept below\n");
    place.look_again();
    // What a container does to them is its own.
    assert_eq!(said(from_layout(&place, &path).cmd(["sh", "-c", "rm -r /data /opaque; echo x > /data; cat /data"])), "x\n");
    assert_eq!(said(from_layout(&place, &path).cmd(["ls", "/data"])), "changed\nkept\n");
    place.assert_clean();
}

#[test]
fn an_image_without_a_command_asks_for_one() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let path = layout(place.path(), json!({}));
    let (text, remedy, code) = fails(from_layout(&place, &path));
    assert_eq!(text, "neither the image nor the description names a command");
    assert_eq!((remedy.as_deref(), code), (Some("name one with cmd(..)"), 125));
    assert_eq!(said(from_layout(&place, &path).cmd(["echo", "one"])), "one\n");
}

#[test]
fn a_directory_that_is_no_layout_says_what_makes_one() {
    let (place, empty) = (Place::empty(), directory());
    let (text, remedy, code) = fails(Container::from_oci_layout(empty.path()).engine(place.engine()).cmd(["true"]));
    assert!(text.starts_with(&format!("{} isn't an OCI image layout: ", empty.path().display())), "{text}");
    assert_eq!((remedy.as_deref(), code), (Some("`skopeo copy docker://IMAGE oci:DIRECTORY:NAME` makes one"), 125));
}

#[test]
fn what_an_image_says_of_itself_changes_nothing_on_the_host() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::empty();
    let victim = place.path().join("victim");
    std::fs::write(&victim, "whole").expect("it can be written");
    let victim_path = victim.display().to_string();
    // Labels, volumes and health checks of a stranger's, as containerd and others have taken for orders.
    let config = json!({
        "Cmd": ["sh", "-c", "cat /proc/self/status"],
        "Labels": { "io.containerd.runtime": victim_path, "coracle.mount": "/:/host", "oci.hook": format!("rm {victim_path}") },
        "Volumes": { "/etc": {}, "/../../x": {} },
        "Healthcheck": { "Test": ["CMD-SHELL", format!("rm {victim_path}")] },
        "Shell": ["/bin/rm", victim_path],
        "ArgsEscaped": true,
        "Memory": 1,
        "HostConfig": { "Privileged": true, "CapAdd": ["SYS_ADMIN"], "Binds": ["/:/host"] },
    });
    let path = layout(place.path(), config);
    place.look_again();
    let status = said(from_layout(&place, &path));
    assert!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
    assert_eq!(std::fs::read_to_string(&victim).expect("it is there"), "whole");
    assert_eq!(said(from_layout(&place, &path).cmd(["sh", "-c", "ls -d /host /x 2>/dev/null; true"])), "");
}

#[test]
fn stores_are_private_to_their_user() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    // The directory itself was opened to be read by all.
    std::fs::set_permissions(place.engine().root(), std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    let path = layout(place.path(), json!({ "Cmd": ["true"] }));
    assert!(ran(from_layout(&place, &path)).status.success());
    for entry in std::fs::read_dir(place.engine().root()).expect("it is there").flatten() {
        let found = entry.metadata().expect("it is there");
        if found.is_dir() {
            assert_eq!(found.mode() & 0o077, 0, "{} has mode {:o}", entry.path().display(), found.mode() & 0o7777);
        }
    }
}

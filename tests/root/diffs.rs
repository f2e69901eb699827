//! What a container changed, by us and by podman and umoci: the same lists, and images that show the same trees.
//!
//! One script of changes is run in a container of ours, in a container that podman mounted, and in a directory that umoci unpacked. umoci's
//! directory after the changes is what each image has to show.

use crate::root::unpackers::Tools;
use crate::support::image::{Compressed, Layout};
use crate::support::mounts::inside;
use crate::support::place::{block_on, within};
use crate::support::registry::Registry;
use crate::support::tree::{Tree, differences, tree};
use crate::support::{need, program, rootfs};
use coracle::{ChangeKind, Container, Engine};
use serde_json::{Value, json};
use std::future::IntoFuture as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Relative to the root: files, modes, owners, links, kinds that change, what is removed and made anew. Times are set last.
const CHANGES: &str = "set -e; umask 022; \
    echo changed > data/changed; rm data/deleted; rm -r data/old; mkdir data/old; echo new > data/old/new; \
    mkdir -p srv/mine/deep; ln -s /data/kept srv/mine/link; echo twice > srv/mine/one; ln srv/mine/one srv/mine/two; \
    chmod 4711 data/mode; chown 3:4 data/owner; mkfifo srv/fifo; mv data/moved data/there; rm -r data/gone; touch data/touched; \
    truncate -s 100000 srv/sparse; echo end >> srv/sparse; chmod 750 srv/mine; ";
/// Names that become something else. `podman diff` gives up where a file became a directory.
const KINDS: &str = "rm -r data/becomes-file; echo f > data/becomes-file; rm data/becomes-dir; mkdir data/becomes-dir; \
    echo in > data/becomes-dir/in; ";
const TIMES: &str = "find data srv -exec touch -h -d @1600000000 {} +; touch -d @1600000001 .";

fn base(place: &Path) -> PathBuf {
    let base = place.join("base");
    rootfs::busybox(&base);
    for directory in ["data/old", "data/becomes-file/deep", "data/gone/deep"] {
        std::fs::create_dir_all(base.join(directory)).expect("it can be made");
        std::fs::write(base.join(directory).join("file"), directory).expect("it can be written");
    }
    for name in ["kept", "changed", "deleted", "becomes-dir", "mode", "owner", "moved", "touched"] {
        std::fs::write(base.join("data").join(name), format!("{name} below\n")).expect("it can be written");
    }
    base
}

/// Without what engines put into a root themselves.
fn without_mount_points(mut tree: Tree) -> Tree {
    tree.retain(|path, _| !["dev", "proc", "sys", "run", "etc"].iter().any(|top| path == top || path.starts_with(&format!("{top}/"))));
    tree
}

/// A container of ours that made the changes, and goes on.
fn changed(engine: &Engine, layout: &Path, changes: &str) -> Container {
    let line = format!("cd /; {changes}; echo done > /dev/shm/done; sleep 1000");
    let container = Container::from_oci_layout(layout).engine(engine).cmd(["sh", "-c", &line]);
    let container = block_on(container.create()).unwrap_or_else(|error| panic!("{error}"));
    block_on(container.start()).unwrap_or_else(|error| panic!("{error}"));
    let done = || block_on(container.exec(["cat", "/dev/shm/done"]).output()).is_ok_and(|out| out.status.success());
    assert!(within(Duration::from_secs(60), done), "it never was done");
    container
}

fn script(at: &Path, changes: &str) {
    let busybox = rootfs::busybox_program().expect("that is the need");
    let done = Command::new(busybox).args(["sh", "-c", changes]).current_dir(at).stdin(Stdio::null()).output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// All three do the same; podman only where it can list it.
fn compare(place: &Path, changes: &str, by_podman: bool) {
    let path = place.join("layout");
    let mut layout = Layout::new(&path);
    let layer = layout.layer_of(&base(place), Compressed::No);
    layout.image("base", &[layer], json!({ "Cmd": ["true"] }));
    let tools = Tools::new(place);
    let run = |program: &str, words: &[&str]| tools.run(program, words).unwrap_or_else(|error| panic!("{program} {words:?}: {error}"));
    let podman = |words: &[&str]| tools.podman(words).unwrap_or_else(|error| panic!("podman {words:?}: {error}"));

    // umoci: the directory is what is right, and its image shows it.
    let bundle = place.join("bundle");
    let at = |tag: &str| format!("{}:{tag}", path.display());
    run("umoci", &["unpack", "--image", &at("base"), &bundle.display().to_string()]);
    script(&bundle.join("rootfs"), changes);
    let expected = without_mount_points(tree(&bundle.join("rootfs")));
    run("umoci", &["repack", "--image", &at("umoci"), &bundle.display().to_string()]);
    // Where a file took a directory's place umoci puts whiteouts below the file, which is no layer that can be.
    if by_podman {
        let shown = without_mount_points(tools.by_us(&path, "umoci").unwrap_or_else(|error| panic!("{error}")));
        assert_eq!(differences(&shown, &expected), [], "the image of umoci");
    }

    let engine = Engine::builder().root(place.join("coracle")).open().unwrap_or_else(|error| panic!("{error}"));
    let container = changed(&engine, &path_of(place, &path), changes);
    if by_podman {
        let id = podman(&["pull", "-q", "oci:layout:base"]);
        let made = podman(&["create", &id]);
        script(Path::new(&podman(&["mount", &made])), changes);
        let theirs: Value = serde_json::from_str(&podman(&["diff", "--format", "json", &made])).expect("it speaks JSON");
        let mut listed: Vec<(char, String)> = Vec::new();
        for (kind, letter) in [("added", 'A'), ("changed", 'C'), ("deleted", 'D')] {
            let paths = theirs[kind].as_array().into_iter().flatten().filter_map(Value::as_str);
            listed.extend(paths.map(|path| (letter, path.to_owned())));
        }
        podman(&["umount", &made]);
        let committed = podman(&["commit", "-q", "--format", "oci", &made]);
        podman(&["push", "-q", &committed, "oci:layout:podman"]);
        let shown = without_mount_points(tools.by_us(&path, "podman").unwrap_or_else(|error| panic!("{error}")));
        let mut differs = differences(&shown, &expected);
        // Its root is 0555 always.
        differs.retain(|difference| difference.path != ".");
        assert_eq!(differs, [], "the image of podman");

        let letter = |kind: ChangeKind| match kind {
            ChangeKind::Added => 'A',
            ChangeKind::Changed => 'C',
            _ => 'D',
        };
        let changes = block_on(container.diff()).expect("it is listed");
        let mut ours: Vec<(char, String)> =
            changes.into_iter().map(|change| (letter(change.kind), change.path.display().to_string())).collect();
        let engines_own = |path: &str| ["/dev", "/proc", "/sys", "/run", "/etc"].iter().any(|top| path.starts_with(top));
        for list in [&mut ours, &mut listed] {
            list.retain(|(_, path)| !engines_own(path) && path != "/");
            list.sort_by(|a, b| a.1.cmp(&b.1));
        }
        // Of a directory that was removed and made anew podman says that it's gone, and we what is gone in it.
        let pair = |letter: char, path: &str| (letter, path.to_owned());
        assert!(ours.contains(&pair('C', "/data/old")) && ours.contains(&pair('D', "/data/old/file")), "{ours:?}");
        ours.retain(|(_, path)| path != "/data/old" && path != "/data/old/file");
        listed.retain(|one| *one != pair('D', "/data/old"));
        assert_eq!(ours, listed);
    }
    block_on(container.commit("localhost/ours:1").into_future()).unwrap_or_else(|error| panic!("{error}"));
    let archive = place.join("ours.tar");
    block_on(engine.save_images(&["localhost/ours:1"], &archive)).unwrap_or_else(|error| panic!("{error}"));
    block_on(container.remove()).unwrap_or_else(|error| panic!("{error}"));
    run("skopeo", &["copy", "-q", "--insecure-policy", &format!("oci-archive:{}", archive.display()), &format!("oci:{}", at("ours"))]);
    let shown = without_mount_points(tools.by_us(&path, "ours").unwrap_or_else(|error| panic!("{error}")));
    // As Docker's, a layer of ours says nothing of the root itself.
    let mut differs = differences(&shown, &expected);
    differs.retain(|difference| difference.path != ".");
    assert_eq!(differs, [], "our image, by our unpacker");
    // And by theirs.
    let unpacked = place.join("unpacked");
    run("umoci", &["raw", "unpack", "--image", &at("ours"), &unpacked.display().to_string()]);
    let mut theirs = differences(&without_mount_points(tree(&unpacked)), &expected);
    theirs.retain(|difference| difference.path != ".");
    assert_eq!(theirs, [], "our image, by umoci");
}

#[test]
fn a_containers_changes_are_those_that_podman_and_umoci_see() {
    need!(Root, Busybox, Podman, Umoci, Skopeo);
    inside("root::diffs::a_containers_changes_are_those_that_podman_and_umoci_see", |place| {
        for (name, changes, by_podman) in
            [("listed", format!("{CHANGES}{TIMES}"), true), ("kinds", format!("{CHANGES}{KINDS}{TIMES}"), false)]
        {
            let place = place.join(name);
            std::fs::create_dir(&place).expect("it can be made");
            compare(&place, &changes, by_podman);
        }
    });
}

/// A layout with the base alone: ours takes the one image of a layout.
fn path_of(place: &Path, from: &Path) -> PathBuf {
    let to = place.join("ours-base");
    program::run(
        "skopeo",
        ["copy", "-q", "--insecure-policy", &format!("oci:{}:base", from.display()), &format!("oci:{}:base", to.display())],
    );
    to
}

#[test]
fn a_commit_is_the_same_on_one_processor_and_goes_through_a_registry_to_others() {
    need!(Root, Busybox, Program, Podman, Registry);
    inside("root::diffs::a_commit_is_the_same_on_one_processor_and_goes_through_a_registry_to_others", |place| {
        let registry = Registry::start();
        let store = place.join("store");
        let base = base(place);
        let tar = place.join("base.tar").display().to_string();
        program::run("tar", ["-C", &base.display().to_string(), "--owner=0", "--group=0", "-cf", &tar, "."]);
        let coracle = |before: &[&str], words: &[&str]| {
            let coracle = program::coracle().expect("that is the need").display().to_string();
            let all: Vec<&str> = before.iter().copied().chain([coracle.as_str(), "--root"]).collect();
            let mut command = Command::new(program::find(all[0]).unwrap_or_else(|| all[0].into()));
            command.args(&all[1..]).arg(&store).args(words).env("SOURCE_DATE_EPOCH", "1600000000").env("HOME", place);
            let out = command.stdin(Stdio::null()).output().expect("it runs");
            assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        coracle(&[], &["import", &tar, "localhost/base:1"]);
        // Some megabytes that compress: work for several.
        let line = "i=0; while [ $i -lt 40 ]; do cat /bin/busybox; echo $i; i=$((i+1)); done > /big; echo done > /dev/shm/done; sleep 1000";
        coracle(&[], &["run", "-d", "--name", "work", "localhost/base:1", "sh", "-c", line]);
        assert!(within(Duration::from_secs(120), || {
            let mut exec = Command::new(program::coracle().expect("that is the need"));
            exec.arg("--root").arg(&store).args(["exec", "work", "cat", "/dev/shm/done"]).output().is_ok_and(|out| out.status.success())
        }));
        for compression in ["gzip", "zstd"] {
            let commit = |before: &[&str], name: &str| coracle(before, &["commit", "--compression", compression, "work", name]);
            let name = registry.reference(&format!("commit:{compression}"));
            let one = commit(&["taskset", "-c", "0"], "localhost/one:1");
            assert_eq!(commit(&[], &name), one, "{compression}: the same bytes by however many processors");
            let pushed = coracle(&[], &["push", "-q", &name]);
            let digest = pushed.split_once('@').expect("the digest is behind it").1.to_owned();

            let raw = program::run("skopeo", ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
            let manifest: Value = serde_json::from_str(&raw).expect("a manifest is JSON");
            assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(2), "{compression}");
            let whole = format!("dir:{}", place.join(compression).display());
            program::run("skopeo", ["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &format!("docker://{name}"), &whole]);

            let tools = Tools::new(place);
            let podman = |words: &[&str]| tools.podman(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            let id = podman(&["pull", "-q", "--tls-verify=false", &name]);
            assert_eq!(podman(&["image", "inspect", "--format", "{{.Digest}}", &id]), digest, "{compression}");
            let mounted = podman(&["image", "mount", &id]);
            let big = std::fs::read(Path::new(&mounted).join("big")).expect("it is there");
            assert!(big.ends_with(b"39\n") && big.len() > 10 << 20, "{compression}: {} bytes", big.len());
            podman(&["image", "umount", &id]);
            podman(&["rmi", "-f", &id]);
        }
        coracle(&[], &["rm", "-f", "work"]);
    });
}

//! What a container changed: as an image, as a list, as an archive, and as a snapshot that others start from.

use crate::support::image::{Compressed, Layout};
use crate::support::needs::Need;
use crate::support::place::{Place, block_on, said};
use crate::support::{met, need, rootfs};
use coracle::{ChangeKind, Compression, Container, ContainerBuilder, Mount};
use serde_json::json;
use std::future::{IntoFuture as _, poll_fn};
use std::io::Read as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead as _, ReadBuf};

/// A layout with an image of busybox, with a file below that a container can delete.
fn layout(place: &Place) -> PathBuf {
    let (base, path) = (place.path().join("base"), place.path().join("layout"));
    rootfs::busybox(&base);
    std::fs::create_dir_all(base.join("data/old")).expect("it can be made");
    for name in ["kept", "changed", "deleted", "old/file"] {
        std::fs::write(base.join("data").join(name), format!("{name} below\n")).expect("it can be written");
    }
    let mut layout = Layout::new(&path);
    let layer = layout.layer_of(&base, Compressed::Gzip);
    let config = json!({ "Cmd": ["sh", "-c", "cat /data/changed"], "Env": ["A=1"], "Labels": { "made": "by hand" } });
    layout.image("latest", &[layer], config);
    path
}

fn image(place: &Place, layout: &std::path::Path) -> ContainerBuilder {
    Container::from_oci_layout(layout).engine(place.engine())
}

/// A container that has changed its root, and goes on.
fn changed(builder: ContainerBuilder, line: &str) -> Container {
    let line = format!("set -e; {line}; echo done; while :; do sleep 1; done");
    let mut container = block_on(builder.cmd(["sh", "-c", &line]).spawn()).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
    // Until it says so.
    let stdout = container.stdout.as_mut().expect("its output is a pipe");
    let mut said = Vec::new();
    while !said.ends_with(b"done\n") {
        let mut bytes = [0; 64];
        let count = block_on(poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut bytes);
            Pin::new(&mut *stdout).poll_read(cx, &mut buffer).map(|done| done.map(|()| buffer.filled().len()))
        }));
        let count = count.expect("it can be read");
        assert!(count > 0, "it ended: {:?}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&bytes[..count]);
    }
    container
}

const CHANGES: &str = "echo above > /data/changed; rm /data/deleted; rm -r /data/old; mkdir /data/old; echo new > /data/old/new; \
    mkdir -p /srv/mine; ln -s /data/kept /srv/mine/link; echo twice > /srv/mine/one; ln /srv/mine/one /srv/mine/two; chmod 750 /srv/mine";
const LOOK: &str = "cat /data/changed; ls /data /data/old /srv/mine; readlink /srv/mine/link; stat -c '%a %u %h' /srv/mine /srv/mine/two";

#[test]
fn a_commit_is_an_image_that_shows_what_the_container_saw() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let layout = layout(&place);
    let container = changed(image(&place, &layout), CHANGES);
    let expected = {
        let out = block_on(container.exec(["sh", "-c", LOOK]).output()).expect("it runs");
        assert!(out.status.success(), "{}", out.stderr_lossy());
        out.stdout_lossy().into_owned()
    };
    for compression in [Compression::Gzip, Compression::Zstd] {
        let name = format!("localhost/{}:1", format!("{compression:?}").to_lowercase());
        let commit = container.commit(&name).compression(compression).change("ENV B=2").author("A. Nobody").message("for a test");
        let made = block_on(commit.into_future()).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
        let again = |line: &str| said(Container::from_image(&name).engine(place.engine()).cmd(["sh", "-c", line]));
        assert_eq!(again(LOOK), expected);
        // The config of the image below, and the change.
        assert_eq!(again("echo $A $B"), "1 2\n");
        assert_eq!(said(Container::from_image(&name).engine(place.engine())), "above\n");
        let inspection = place.engine().inspect_image(&name).expect("it is there");
        let config = place.engine().root().join("blobs/sha256").join(made.id.hex());
        let text = std::fs::read_to_string(config).expect("the config is there");
        for part in ["by hand", "A. Nobody", "for a test", "\"created_by\":\"sh -c set -e;"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // The layer below is the one that came, byte for byte.
        assert_eq!(inspection.layers.len(), 2);
        assert_eq!(made.reference, name);
    }
    block_on(container.remove()).expect("it goes");
}

#[test]
fn the_same_changes_with_an_epoch_are_the_same_image() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let layout = layout(&place);
    let epoch = UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let make = |name: &str| {
        let container = changed(image(&place, &layout), CHANGES);
        let made = block_on(container.commit(name).epoch(epoch).into_future()).expect("it is made");
        block_on(container.remove()).expect("it goes");
        made.digest
    };
    assert_eq!(make("localhost/one:1"), make("localhost/two:1"));
}

#[test]
fn a_container_that_changed_nothing_is_the_image_it_came_from() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let layout = layout(&place);
    let outside = place.path().join("outside");
    std::fs::create_dir(&outside).expect("it can be made");
    let container = changed(image(&place, &layout).mount(Mount::bind(&outside, "/mnt/in/here")), "true");
    assert_eq!(block_on(container.diff()).expect("it is listed"), []);
    block_on(container.commit("localhost/same:1").into_future()).expect("it is made");
    let layers = place.engine().inspect_image("localhost/same:1").expect("it is there").layers.len();
    assert_eq!(layers, 1);
    block_on(container.remove()).expect("it goes");
}

#[test]
fn a_diff_lists_paths_as_docker_does() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let layout = layout(&place);
    let container = changed(image(&place, &layout), CHANGES);
    let changes = block_on(container.diff()).expect("it is listed");
    let lines: Vec<String> = changes
        .iter()
        .map(|change| {
            let letter = match change.kind {
                ChangeKind::Added => 'A',
                ChangeKind::Changed => 'C',
                _ => 'D',
            };
            format!("{letter} {}", change.path.display())
        })
        .collect();
    let expected = [
        "C /data",
        "C /data/changed",
        "D /data/deleted",
        "C /data/old",
        "D /data/old/file",
        "A /data/old/new",
        "A /srv",
        "A /srv/mine",
        "A /srv/mine/link",
        "A /srv/mine/one",
        "A /srv/mine/two",
    ];
    assert_eq!(lines, expected);
    block_on(container.remove()).expect("it goes");
}

#[test]
fn an_export_is_all_that_the_container_sees() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let layout = layout(&place);
    let container = changed(image(&place, &layout), CHANGES);
    let mut archive = Vec::new();
    block_on(container.export()).expect("it begins").read_to_end(&mut archive).expect("it is read");
    let to = place.path().join("exported.tar");
    block_on(container.export_to(std::fs::File::create(&to).expect("it can be made"))).expect("it is written");
    assert!(std::fs::read(&to).expect("it is there") == archive);
    // Who stops reading stops the writing.
    let mut export = block_on(container.export()).expect("it begins");
    export.read_exact(&mut [0; 1000]).expect("it is read");
    drop(export);
    block_on(container.remove()).expect("it goes");
    let output = Command::new("tar").arg("-tf").arg(&to).output().expect("tar runs");
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && names.lines().any(|name| name == "data/kept"), "{names}");
    assert!(!names.contains("deleted") && !names.contains(".wh."), "{names}");
    // And a root file system again.
    let again = block_on(place.engine().import_image(std::io::Cursor::new(archive), "export", "localhost/again:1", &[] as &[&str], None));
    again.unwrap_or_else(|error| panic!("{error}"));
    let look = "cat /data/changed; ls /data; stat -c '%a %h' /srv/mine /srv/mine/two";
    let said = said(Container::from_image("localhost/again:1").engine(place.engine()).cmd(["sh", "-c", look]));
    assert_eq!(said, "above\nchanged\nkept\nold\n750 2\n644 2\n");
}

#[test]
fn files_of_a_containers_other_users_are_in_all_of_it() {
    need!(Busybox, UserNamespaces);
    if met(Need::NoSubIds) {
        println!("SKIP: sub-ids: there is nobody else in a container with one id");
        return;
    }
    let place = Place::empty();
    let layout = layout(&place);
    let line = "mkdir -p /private/deep; echo secret > /private/deep/file; chmod 600 /private/deep/file; chmod 700 /private /private/deep; \
        chown -R 7:8 /private";
    let container = changed(image(&place, &layout), line);
    let look = "stat -c '%u:%g %a %n' /private /private/deep /private/deep/file; cat /private/deep/file";
    let expected = "7:8 700 /private\n7:8 700 /private/deep\n7:8 600 /private/deep/file\nsecret\n";
    block_on(container.commit("localhost/private:1").into_future()).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
    assert_eq!(said(Container::from_image("localhost/private:1").engine(place.engine()).cmd(["sh", "-c", look])), expected);
    let snapshot = block_on(container.snapshot("private")).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
    assert_eq!(said(snapshot.fork().cmd(["sh", "-c", look])), expected);
    let mut archive = Vec::new();
    block_on(container.export()).expect("it begins").read_to_end(&mut archive).expect("it is read");
    let mut archive = tar::Archive::new(&archive[..]);
    let mut found = 0;
    for entry in archive.entries().expect("it is an archive") {
        let entry = entry.expect("it is an entry");
        if entry.path_bytes().starts_with(b"private") {
            assert_eq!((entry.header().uid().ok(), entry.header().gid().ok()), (Some(7), Some(8)));
            found += 1;
        }
    }
    assert_eq!(found, 3);
    block_on(container.remove()).expect("it goes");
    snapshot.remove().expect("it goes");
    // Its files belong to ids that only the engine can remove.
    place.engine().remove_image("localhost/private:1", false).expect("it goes");
    place.engine().empty_trash().expect("it is emptied");
}

#[test]
fn a_container_of_a_root_file_system_becomes_an_image_of_one_layer() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = changed(place.container(), "echo mine > /mine");
    block_on(container.commit("localhost/flat:1").change("CMD cat /mine").into_future()).expect("it is made");
    assert_eq!(said(Container::from_image("localhost/flat:1").engine(place.engine())), "mine\n");
    assert_eq!(place.engine().inspect_image("localhost/flat:1").expect("it is there").layers.len(), 1);
    let snapshot = block_on(container.snapshot("flat")).expect("it is made");
    assert_eq!(said(snapshot.fork().cmd(["cat", "/mine"])), "mine\n");
    block_on(container.remove()).expect("it goes");
}

#[test]
fn forks_of_a_snapshot_see_what_was_and_not_each_other() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::empty();
    let layout = layout(&place);
    let container = changed(image(&place, &layout), &format!("{CHANGES}; echo x > /data/.wh.named"));
    let expected = {
        let out = block_on(container.exec(["sh", "-c", LOOK]).output()).expect("it runs");
        out.stdout_lossy().into_owned()
    };
    let snapshot = block_on(container.snapshot("seeded")).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
    assert!(snapshot.summary().created <= SystemTime::now() && snapshot.summary().size > 0);
    // What goes on in the container is none of theirs.
    let out = block_on(container.exec(["sh", "-c", "echo later > /data/changed; rm -r /srv"]).output()).expect("it runs");
    assert!(out.status.success());
    let forks: Vec<Container> = (0..3).map(|n| changed(snapshot.fork(), &format!("echo {n} > /data/fork{n}; rm /data/kept"))).collect();
    for (n, fork) in forks.iter().enumerate() {
        let out = block_on(fork.exec(["sh", "-c", "ls /data"]).output()).expect("it runs");
        assert_eq!(out.stdout_lossy(), format!("changed\nfork{n}\nold\n"));
    }
    assert_eq!(said(snapshot.fork().cmd(["sh", "-c", LOOK])), expected);
    assert_eq!(said(snapshot.fork().cmd(["cat", "/data/.wh.named"])), "x\n");
    // The image's own command, by name.
    assert_eq!(said(Container::from_snapshot("seeded").engine(place.engine())), "above\n");

    // The name is taken, and it can't go while somebody uses it.
    let error = block_on(container.snapshot("seeded")).expect_err("the name is taken").to_string();
    assert!(error.contains("another snapshot has this name"), "{error}");
    let error = place.engine().remove_snapshot("seeded").expect_err("it is used");
    assert!(error.to_string().contains("a container that was started from it runs"), "{error}");
    // A snapshot of a fork lies on the first.
    let second = block_on(forks[1].snapshot("second")).unwrap_or_else(|error| panic!("{error}: {:?}", error.remedy()));
    assert_eq!(said(second.fork().cmd(["sh", "-c", "ls /data; cat /data/fork1"])), "changed\nfork1\nold\n1\n");
    // And an image of a fork has what the snapshot has.
    let error = block_on(forks[2].commit("localhost/fork:1").into_future()).expect_err("no layer can say it").to_string();
    assert!(error.starts_with("can't put /data/.wh.named into a layer"), "{error}");
    assert!(block_on(forks[2].exec(["rm", "/data/.wh.named"]).output()).expect("it runs").status.success());
    block_on(forks[2].commit("localhost/fork:1").into_future()).expect("it is made");
    let look = "ls /data; cat /data/changed; ls /srv/mine";
    let again = said(Container::from_image("localhost/fork:1").engine(place.engine()).cmd(["sh", "-c", look]));
    assert_eq!(again, "changed\nfork2\nold\nabove\nlink\none\ntwo\n");
    for fork in &forks {
        block_on(fork.remove()).expect("it goes");
    }
    block_on(container.remove()).expect("it goes");
    let error = place.engine().remove_snapshot("seeded").expect_err("another lies on it");
    assert!(error.to_string().contains("another snapshot lies on it"), "{error}");

    // Nobody runs, and nobody has a name for the image: the snapshots hold it.
    place.look_again();
    place.engine().prune_images(true).expect("it is pruned");
    assert_eq!(said(second.fork().cmd(["sh", "-c", "ls /data"])), "changed\nfork1\nold\n");
    let names: Vec<String> = place.engine().snapshots().expect("they are listed").into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["second", "seeded"]);
    second.remove().expect("it goes");
    snapshot.remove().expect("it goes");
    place.engine().prune_images(true).expect("it is pruned");
    place.engine().empty_trash().expect("it is emptied");
    let left: Vec<_> = std::fs::read_dir(place.engine().root().join("blobs/sha256")).expect("it is there").collect();
    assert_eq!(left.len(), 0);
    let error = block_on(Container::from_snapshot("seeded").engine(place.engine()).output()).expect_err("it is gone");
    assert_eq!(error.to_string(), "there is no snapshot \"seeded\"");
}

#[test]
fn what_dies_while_a_snapshot_is_made_leaves_what_prune_takes() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let layout = layout(&place);
    let container = changed(image(&place, &layout), CHANGES);
    let snapshot = block_on(container.snapshot("half")).expect("it is made");
    block_on(container.remove()).expect("it goes");
    // As one leaves it that was killed after the rename and before the pin, or while it was removed.
    let pins = place.engine().root().join("pins");
    for pin in std::fs::read_dir(&pins).expect("they are listed") {
        std::fs::remove_file(pin.expect("it is listed").path()).expect("it can be removed");
    }
    place.engine().prune_images(false).expect("it is pruned");
    assert!(place.engine().snapshots().expect("they are listed").is_empty());
    drop(snapshot);
    // And as one that was killed while it copied: without a lock it's rubbish for the next engine.
    let layers = ["layers", "single/layers"].map(|layers| place.engine().root().join(layers));
    let layers = layers.iter().find(|layers| layers.exists()).expect("there are layers");
    std::fs::create_dir_all(layers.join("tmp-1-left/fs/dir")).expect("it can be made");
    let engine = coracle::Engine::builder().root(place.engine().root()).open().expect("it opens");
    engine.snapshots().expect("they are listed");
    assert!(!layers.join("tmp-1-left").exists());
}

#[test]
fn a_running_container_stands_still_while_it_is_copied_and_goes_on() {
    need!(Root, Busybox, CgroupHybrid);
    let place = Place::empty();
    let layout = layout(&place);
    // Two files that are never equal for long but always written one after the other: the second never is ahead.
    let line = "dd if=/dev/zero of=/data/big bs=1000000 count=8 2> /dev/null; echo 0 > /data/first; echo 0 > /data/second; \
        { n=0; while :; do n=$((n+1)); echo $n > /data/first; echo $n > /data/second; done; } & true";
    let container = changed(image(&place, &layout), line);
    let count = |container: &Container| {
        let out = block_on(container.exec(["cat", "/data/first"]).output()).expect("it runs");
        out.stdout_lossy().trim().parse::<u64>().unwrap_or(0)
    };
    for n in 0..5 {
        let snapshot = block_on(container.snapshot(format!("moment{n}"))).expect("it is made");
        assert!(snapshot.summary().frozen);
        let said = said(snapshot.fork().cmd(["sh", "-c", "cat /data/first /data/second"]));
        let numbers: Vec<i64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        // A file that was just opened for writing is empty.
        if let [first, second] = numbers[..] {
            assert!((0..=1).contains(&(first - second)), "{said}");
        }
    }
    let before = count(&container);
    assert!(crate::support::place::within(Duration::from_secs(20), || count(&container) > before));
    block_on(container.remove()).expect("it goes");
}

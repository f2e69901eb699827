//! Layers, containers and snapshots on the file systems of the field: ext4, xfs, btrfs, tmpfs; and where an overlay can't lie, on another one.

use crate::support::image::{Compressed, Layout};
use crate::support::mounts::{Mounted, inside};
use crate::support::place::{block_on, said};
use crate::support::{need, program, rootfs};
use coracle::{Container, Engine};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Room for what xfs asks at least, and btrfs.
const SIZE: u64 = 320 << 20;

/// An image of two layers with all that a file system may have trouble with: attributes, whiteouts, links, times, a big file, modes.
fn layout(place: &Path) -> PathBuf {
    let (base, path) = (place.join("base"), place.join("layout"));
    rootfs::busybox(&base);
    std::fs::create_dir_all(base.join("data/old")).expect("it can be made");
    std::fs::write(base.join("data/big"), vec![7; 3 << 20]).expect("it can be written");
    std::fs::write(base.join("data/gone"), "below").expect("it can be written");
    let mut layout = Layout::new(&path);
    let first = layout.layer_of(&base, Compressed::Gzip);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, bytes: &[u8], attributes: &[(&str, &[u8])]| {
        if !attributes.is_empty() {
            archive.append_pax_extensions(attributes.iter().copied()).expect("it is written to memory");
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory { 0o2775 } else { 0o4755 });
        header.set_uid(1000);
        header.set_gid(7);
        header.set_mtime(1_600_000_000);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).expect("it is written to memory");
    };
    add("data/.wh.gone", tar::EntryType::Regular, b"", &[]);
    add("data/old", tar::EntryType::Directory, b"", &[]);
    add("data/old/.wh..wh..opq", tar::EntryType::Regular, b"", &[]);
    add("data/with", tar::EntryType::Regular, b"attributes", &[("SCHILY.xattr.user.note", b"v=1"), ("mtime", b"1600000000.123456789")]);
    let second = layout.layer(archive.into_inner().expect("it is written to memory").as_slice(), Compressed::No);
    layout.image("latest", &[first, second], json!({ "Cmd": ["true"] }));
    path
}

/// Whether a file shares what it is written in with another: filefrag(8) of e2fsprogs says so.
fn shares(file: &Path) -> bool {
    program::run("filefrag", ["-v", &file.display().to_string()]).contains("shared")
}

/// All of a life on this directory.
fn live(kind: &str, root: &Path, layout: &Path, reflinks: bool) {
    let engine = Engine::builder().root(root.join("coracle")).open().unwrap_or_else(|error| panic!("{kind}: {error}"));
    let image = || Container::from_oci_layout(layout).engine(&engine);
    let look = "cd /data; ls; stat -c '%a %u:%g %Y %n' old with; wc -c < big";
    let expected = "big\nold\nwith\n2775 1000:7 1600000000 old\n4755 1000:7 1600000000 with\n3145728\n";
    assert_eq!(said(image().cmd(["sh", "-c", look])), expected, "{kind}");
    let checked = block_on(engine.check_images(false)).unwrap_or_else(|error| panic!("{kind}: {error}"));
    assert_eq!((checked.store.faults, checked.layers.faults), (vec![], vec![]), "{kind}");

    let line = "cat /data/big /data/big > /mine; sync; echo done; sleep 1000";
    let container = block_on(image().cmd(["sh", "-c", line]).create()).unwrap_or_else(|error| panic!("{kind}: {error}"));
    block_on(container.start()).unwrap_or_else(|error| panic!("{kind}: {error}"));
    let written =
        || block_on(container.exec(["sh", "-c", "test $(wc -c < /mine) = 6291456"]).output()).is_ok_and(|out| out.status.success());
    assert!(crate::support::place::within(std::time::Duration::from_secs(60), written), "{kind}: it never wrote");
    let snapshot = block_on(container.snapshot("kept")).unwrap_or_else(|error| panic!("{kind}: {error}: {:?}", error.remedy()));
    assert_eq!(said(snapshot.fork().cmd(["sh", "-c", "wc -c < /mine; rm /mine"])), "6291456\n", "{kind}");
    if reflinks {
        let snapshots = engine.root().join("layers/snapshots");
        let found = std::fs::read_dir(&snapshots).expect("it is there").flatten().next().expect("there is one");
        assert!(shares(&found.path().join("fs/mine")), "{kind}: a snapshot is copied, and the file system could share");
    }
    block_on(container.remove()).unwrap_or_else(|error| panic!("{kind}: {error}"));
    snapshot.remove().unwrap_or_else(|error| panic!("{kind}: {error}"));
    engine.prune_images(true).unwrap_or_else(|error| panic!("{kind}: {error}"));
    engine.empty_trash().unwrap_or_else(|error| panic!("{kind}: {error}"));
    let left: Vec<_> = std::fs::read_dir(engine.root().join("layers/sha256")).expect("it is there").collect();
    assert!(left.is_empty(), "{kind}: {left:?}");
}

#[test]
fn images_containers_and_snapshots_live_on_the_file_systems_of_the_field() {
    need!(Root, Busybox, LoopDevices);
    inside("root::filesystems::images_containers_and_snapshots_live_on_the_file_systems_of_the_field", |place| {
        let layout = layout(place);
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let mut lived = Vec::new();
        for (kind, make, reflinks) in [
            ("ext4", &["mkfs.ext4", "-q", "-F"][..], false),
            ("xfs", &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"], true),
            ("btrfs", &["mkfs.btrfs", "-q", "-f"], true),
        ] {
            let (program, flags) = make.split_first().expect("it has a name");
            if !known.lines().any(|line| line.split_whitespace().last() == Some(kind)) || program::find(program).is_none() {
                println!("SKIP: {program}, or a kernel with {kind}");
                continue;
            }
            let file = place.join(format!("{kind}.img"));
            File::create(&file).and_then(|made| made.set_len(SIZE)).expect("it can be made");
            program::run(program, flags.iter().copied().chain([file.display().to_string().as_str()]));
            let mounted = Mounted::image(kind, &file, place.join(kind));
            live(kind, &mounted.0, &layout, reflinks);
            lived.push(kind);
        }
        let mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=200m,mode=700", "tmpfs"], place.join("tmpfs"));
        live("tmpfs", &mounted.0, &layout, false);
        lived.push("tmpfs");
        println!("RESULT: lived on {}", lived.join(", "));
        assert!(lived.contains(&"ext4"), "{lived:?}");
    });
}

/// As in a container of Docker's, whose root is an overlay.
#[test]
fn a_directory_on_an_overlay_is_refused_with_words_and_what_lies_on_one_is_run() {
    need!(Root, Busybox);
    inside("root::filesystems::a_directory_on_an_overlay_is_refused_with_words_and_what_lies_on_one_is_run", |place| {
        let layout = layout(place);
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir_all(place.join("below").join(name)).expect("it can be made");
        }
        let at = |name: &str| place.join("below").join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let mounted = Mounted::new(&["-t", "overlay", "-o", &options, "overlay"], place.join("overlay"));
        let engine = Engine::builder().root(mounted.0.join("coracle")).open().unwrap_or_else(|error| panic!("{error}"));
        let root = place.join("base");
        for container in [Container::from_oci_layout(&layout), Container::from_rootfs(&root)] {
            let error = block_on(container.engine(&engine).cmd(["true"]).output()).expect_err("an overlay can't write to another one");
            assert!(matches!(error, coracle::Error::Layers(coracle::layers::Error::OnOverlay { .. })), "{error}");
            assert!(error.to_string().contains("lies on an overlay, where no layers can be unpacked"), "{error}");
            assert!(error.remedy().is_some_and(|remedy| remedy.contains("/dev/shm")), "{:?}", error.remedy());
        }
        // What the error says helps: elsewhere it works, and what lies on the overlay may be what is run.
        let elsewhere = Engine::builder().root(place.join("elsewhere")).open().unwrap_or_else(|error| panic!("{error}"));
        let copied = mounted.0.join("base");
        program::run("cp", ["-a", &root.display().to_string(), &copied.display().to_string()]);
        assert_eq!(said(Container::from_rootfs(&copied).engine(&elsewhere).cmd(["sh", "-c", "echo x > /mine; cat /mine"])), "x\n");
    });
}

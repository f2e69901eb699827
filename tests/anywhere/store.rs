//! The store among many processes, and after their deaths.

use crate::support::image::{Compressed, Layout};
use crate::support::importer::{self, command, open};
use crate::support::place::{Place, block_on, said};
use crate::support::registry::Registry;
use crate::support::{directory, need, rootfs};
use coracle::image::{NoSink, OciLayout, Store};
use coracle::{Container, Engine};
use serde_json::json;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// A layout with an image of three layers that differ in size; one needs a thin layer above those below it.
fn layout(place: &Path) -> PathBuf {
    let path = place.join("layout");
    let mut layout = Layout::new(&path);
    let tree = |name: &str, files: usize, bytes: usize| {
        let root = place.join(name);
        for n in 0..files {
            let directory = root.join(format!("d{}", n % 5));
            std::fs::create_dir_all(&directory).expect("it can be made");
            // Little of it can be compressed.
            let noise: Vec<u8> = (0..bytes).map(|i| ((i * (i + n * 7919)) >> 3) as u8 ^ (i as u8)).collect();
            std::fs::write(directory.join(format!("{name}{n}")), noise).expect("it can be written");
        }
        root
    };
    let layers = [
        layout.layer_of(&tree("a", 20, 9000), Compressed::Gzip),
        layout.layer_of(&tree("b", 10, 30_000), Compressed::No),
        layout.layer_of(&tree("c", 3, 100), Compressed::Gzip),
    ];
    layout.image("latest", &layers, json!({ "Cmd": ["true"] }));
    path
}

/// The names in a directory of the store that stay when everybody is gone.
fn names(directory: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// That the store is as it should be: nothing damaged, and what has a name is whole.
#[track_caller]
fn assert_sound(place: &Path, images: usize) {
    let (store, layers) = open(place);
    let found = store.images().expect("they are read");
    assert_eq!(found.len(), images);
    assert_eq!(store.check(false, &layers).expect("it is read").faults, []);
    assert_eq!(layers.check(false, || store.in_use()).expect("it is read").faults, []);
    for image in found {
        layers.paths(&image.config.diff_ids).expect("its layers are there");
    }
}

/// That nothing stays of the dead but what has been brought in.
#[track_caller]
fn assert_nothing_else(place: &Path) {
    let (store, layers) = open(place);
    store.prune(false, &layers).expect("it is pruned");
    store.empty_trash().expect("it is emptied");
    layers.empty_own_trash().expect("it is emptied");
    let root = place.join("store");
    for part in ["ingest", "leases", "trash", "layers/trash"] {
        assert_eq!(names(root.join(part)), Vec::<String>::new(), "{part}");
    }
    let left: Vec<String> = names(root.join("layers")).into_iter().filter(|name| name.starts_with("tmp-")).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn eight_processes_fetch_and_unpack_each_blob_once() {
    need!(Registry);
    let (place, registry) = (directory(), Registry::start());
    layout(place.path());
    crate::support::program::run(
        "skopeo",
        [
            "--insecure-policy".to_owned(),
            "copy".to_owned(),
            "--dest-tls-verify=false".to_owned(),
            format!("oci:{}:latest", place.path().join("layout").display()),
            format!("docker://{}", registry.reference("eight:1")),
        ],
    );
    let before = registry.log().lines().count();
    let task = format!("pull {}", registry.reference("eight:1"));
    let children: Vec<Child> = (0..8).map(|_| command(place.path(), &task, None).spawn().expect("it starts")).collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    let log = registry.log();
    let fetched = |line: &&str| line.contains("\"GET /v2/eight/blobs/");
    let path = |line: &str| line.split("\"GET ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
    let mut blobs: Vec<String> = log.lines().skip(before).filter(fetched).filter_map(path).collect();
    blobs.sort();
    let all = blobs.len();
    blobs.dedup();
    assert_eq!((all, blobs.len()), (4, 4), "a config and three layers:\n{log}");
    let begun = std::fs::read_to_string(place.path().join("begun")).expect("somebody unpacked");
    assert_eq!(begun.lines().count(), 3, "{begun}");
    assert_sound(place.path(), 1);
    assert_nothing_else(place.path());
}

#[test]
fn an_import_that_is_killed_at_any_step_leaves_a_sound_store_and_a_rerun_ends_it() {
    let made = directory();
    let layout = layout(made.path());
    let task = format!("layout {}", layout.display());
    let mut killed = 0;
    for step in 0.. {
        let place = directory();
        let status = command(place.path(), &task, Some(step)).status().expect("it starts");
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(9), "step {step}: {status}");
        killed += 1;
        let (store, _) = open(place.path());
        assert_sound(place.path(), store.images().expect("they are read").len());
        importer::import(place.path(), &task, u64::MAX).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_sound(place.path(), 1);
        assert_nothing_else(place.path());
    }
    println!("RESULT: killed at {killed} steps");
    // Looking, resolving, and for each layer its beginning, its bytes, its end.
    assert!(killed > 20, "{killed}");
}

#[test]
fn a_load_that_is_killed_at_any_time_leaves_a_sound_store_and_a_rerun_ends_it() {
    let made = directory();
    let layout = layout(made.path());
    let archive = made.path().join("archive.tar");
    let store = Store::open(made.path().join("from")).expect("a store opens");
    let image = OciLayout::open(layout).expect("a layout opens").import(&store, &NoSink).expect("it is imported");
    let mut bytes = Vec::new();
    store.export(&[image]).expect("it is there").archive(&mut bytes, "memory").expect("it is written");
    std::fs::write(&archive, &bytes).expect("it can be written");
    let task = format!("archive {}", archive.display());

    let timed = directory();
    let began = Instant::now();
    assert!(command(timed.path(), &task, None).status().expect("it starts").success());
    let whole = began.elapsed();
    // One store over which one after the other dies, and one of its own for each.
    let (shared, mut killed) = (directory(), 0);
    for n in 0..30_u32 {
        let own = directory();
        for place in [shared.path(), own.path()] {
            let mut child = command(place, &task, None).spawn().expect("it starts");
            std::thread::sleep(whole * (n * 37 % 100) / 100);
            let _ = child.kill();
            killed += u32::from(child.wait().expect("it ends").signal() == Some(9));
            let (store, _) = open(place);
            assert_sound(place, store.images().expect("they are read").len());
        }
        importer::import(own.path(), &task, u64::MAX).unwrap_or_else(|error| panic!("{error}"));
        assert_sound(own.path(), 1);
        assert_nothing_else(own.path());
    }
    println!("RESULT: {killed} of 60 killed within {whole:?}");
    assert!(killed > 10, "{killed}");
}

/// Brings an image in three times at once, over and over, while we prune whatever nobody uses.
fn beside_a_pruner(task: &str) {
    let place = directory();
    let (store, layers) = open(place.path());
    let mut pruned = 0;
    for _ in 0..4 {
        let mut bringing: Vec<Child> = (0..3).map(|_| command(place.path(), task, None).spawn().expect("it starts")).collect();
        while bringing.iter_mut().any(|child| child.try_wait().expect("it can be asked").is_none()) {
            pruned += store.prune(true, &layers).expect("it is pruned").swept.len();
            std::thread::sleep(Duration::from_millis(2));
        }
        for mut child in bringing {
            assert!(child.wait().expect("it ends").success());
        }
        assert_sound(place.path(), store.images().expect("they are read").len());
    }
    assert!(pruned > 0, "nothing was ever pruned");
}

#[test]
fn processes_that_import_and_prune_do_each_other_no_harm() {
    let made = directory();
    beside_a_pruner(&format!("layout {}", layout(made.path()).display()));
}

#[test]
fn processes_that_pull_and_prune_do_each_other_no_harm() {
    need!(Registry);
    let registry = Registry::with_busybox();
    beside_a_pruner(&format!("pull {}", registry.reference("busybox:latest")));
}

/// A layout of busybox in an engine, under the name `bb`.
fn engine_with_busybox(place: &Place) -> String {
    let (root, path) = (place.path().join("root-of-image"), place.path().join("layout"));
    rootfs::busybox(&root);
    let mut layout = Layout::new(&path);
    let layer = layout.layer_of(&root, Compressed::Gzip);
    layout.image("localhost/bb:1", &[layer], json!({ "Cmd": ["echo", "runs"] }));
    let images = block_on(place.engine().load_images(&path, |_| {})).expect("it is loaded");
    assert_eq!(images[0].reference, "localhost/bb:1");
    images[0].reference.clone()
}

#[test]
fn an_image_that_a_container_runs_from_stays_until_it_ends() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let name = engine_with_busybox(&place);
    let engine = place.engine();
    let running = block_on(Container::from_image(&name).engine(engine).cmd(["sleep", "600"]).run()).expect("it runs");
    let error = engine.remove_image(&name, false).expect_err("it is in use");
    let id: String = running.id().chars().take(12).collect();
    assert_eq!(error.to_string(), format!("can't remove the image localhost/bb:1: it's used by container {id}"));
    assert!(error.remedy().is_some());
    // Another engine over the same directory, as another program has.
    let other = Engine::builder().root(engine.root()).open().expect("an engine opens");
    assert_eq!(other.prune_images(true).expect("it is pruned").deleted, []);
    let removed = engine.remove_image(&name, true).expect("by force");
    assert_eq!((removed.untagged.len(), removed.deleted.len(), removed.swept.len()), (1, 0, 0));
    assert_eq!(other.prune_images(true).expect("it is pruned").swept, []);
    engine.empty_trash().expect("it is emptied");
    // What the kernel shows of its root.
    assert!(std::fs::symlink_metadata(format!("/proc/{}/root/bin/sh", running.pid())).is_ok());
    block_on(running.stop(Duration::ZERO)).expect("it ends");
    block_on(running.remove()).expect("it is removed");
    drop(running);
    let swept = engine.prune_images(false).expect("it is pruned").swept;
    assert!(swept.len() >= 4, "a manifest, a config, a blob, a layer: {swept:?}");
}

#[test]
fn a_live_engine_removes_and_leaves_no_trash_behind() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let root = place.engine().root().to_owned();
    let mut times = Vec::new();
    for _ in 0..7 {
        let name = engine_with_busybox(&place);
        std::fs::remove_dir_all(place.path().join("layout")).expect("it is removed");
        // Assembled once, so that whatever a start makes is there, too.
        assert_eq!(said(Container::from_image(&name).engine(place.engine())), "runs\n");
        let began = Instant::now();
        let removed = place.engine().remove_image(&name, false).expect("it is removed");
        times.push(began.elapsed());
        assert!(removed.bytes() > 500_000, "{removed:?}");
        std::fs::remove_dir_all(place.path().join("root-of-image")).expect("it is removed");
    }
    times.sort();
    println!("RESULT: remove_image {:?} (median of 7)", times[3]);
    // How fast that is, `cargo xtask bench pull` measures; a machine under load isn't a fault.

    // Whoever exits empties the trash first.
    let name = engine_with_busybox(&place);
    let engine = Engine::builder().root(&root).open().expect("an engine opens");
    engine.remove_image(&name, false).expect("it is removed");
    drop(engine);
    place.engine().empty_trash().expect("it is emptied");
    for trash in trashes(&root) {
        assert_eq!(names(trash), Vec::<String>::new());
    }
    // What a killed one left, the next one empties.
    let trash = trashes(&root).into_iter().find(|trash| trash.starts_with(&root) && trash.parent().is_some_and(|p| p.ends_with("layers")));
    let left = trash.expect("the layers have one").join("left");
    std::fs::create_dir_all(left.join("fs/etc")).expect("it can be made");
    std::fs::write(left.join("fs/etc/passwd"), "").expect("it can be written");
    std::fs::write(root.join("trash/left"), "").expect("it can be written");
    let engine = Engine::builder().root(&root).open().expect("an engine opens");
    assert!(engine.images().expect("they are read").is_empty());
    drop(engine);
    assert!(!left.exists() && !root.join("trash/left").exists());
}

/// Wherever this user's engine keeps trash.
fn trashes(root: &Path) -> Vec<PathBuf> {
    let all = ["trash", "layers/trash", "single/layers/trash"];
    all.iter().map(|part| root.join(part)).filter(|trash| trash.is_dir()).collect()
}

#[test]
fn layers_that_containers_were_given_are_removed_checked_and_repaired() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let name = engine_with_busybox(&place);
    let engine = place.engine();
    assert_eq!(said(Container::from_image(&name).engine(engine)), "runs\n");
    let checked = block_on(engine.check_images(false)).expect("it is read");
    assert_eq!((checked.store.faults, checked.layers.faults, checked.layers.layers), (vec![], vec![], 1));
    let inspection = engine.inspect_image(&name).expect("it is there");
    assert!(inspection.layers[0].unpacked && inspection.layers[0].unpacked_size.is_some_and(|size| size > 500_000));

    let layers = trashes(engine.root()).into_iter().find_map(|trash| trash.parent().filter(|p| p.ends_with("layers")).map(Path::to_owned));
    let hex = inspection.layers[0].diff_id.split(':').nth(1).expect("it has an algorithm").to_owned();
    let victim = layers.expect("there are layers").join("sha256").join(hex).join("fs/bin/busybox");
    std::fs::remove_file(&victim).expect("it is there");
    let checked = block_on(engine.check_images(true)).expect("it is read");
    let shown: Vec<String> = checked.layers.faults.iter().map(|fault| format!("{} {}", fault.path.display(), fault.what)).collect();
    assert!(shown.contains(&format!("{} is missing", victim.display())), "{shown:?}");
    assert!(checked.layers.faults.iter().all(|fault| fault.repaired));
    // From the blob that is still here.
    assert_eq!(said(Container::from_image(&name).engine(engine)), "runs\n");
    assert!(victim.exists());
    assert_eq!(block_on(engine.check_images(false)).expect("it is read").layers.faults, []);
}

#[test]
fn files_of_a_containers_other_users_are_removed_too() {
    need!(Busybox, UserNamespaces);
    let place = Place::empty();
    let root = place.path().join("root-of-image");
    rootfs::busybox(&root);
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", &root).expect("it is archived");
    for (name, uid, mode) in [("srv/", 1000, 0o700), ("srv/theirs", 1000, 0o600), ("srv/set", 1001, 0o4755)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid);
        header.set_size(0);
        archive.append_data(&mut header, name, std::io::empty()).expect("it is archived");
    }
    let bytes = std::io::Cursor::new(archive.into_inner().expect("it is archived"));
    let engine = place.engine();
    let image = block_on(engine.import_image(bytes, "memory", "localhost/owners:1", &["CMD [\"ls\", \"/srv\"]"], None));
    let name = image.expect("it is imported").reference;
    assert_eq!(said(Container::from_image(&name).engine(engine)), "set\ntheirs\n");
    // What was given away after it was recorded is no fault, and what can't be read is counted.
    let checked = block_on(engine.check_images(false)).expect("it is read");
    assert_eq!(checked.layers.faults, []);
    engine.remove_image(&name, false).expect("it is removed");
    engine.empty_trash().expect("it is emptied");
    for trash in trashes(engine.root()) {
        assert_eq!(names(trash), Vec::<String>::new());
    }
}

#[test]
fn stores_of_root_and_of_users_are_apart() {
    // Each engine of its own user's; another user's directory is refused, whoever asks.
    need!(Root);
    let place = directory();
    let root = place.path().join("theirs");
    std::fs::DirBuilder::new().mode(0o700).create(&root).expect("it is made");
    std::os::unix::fs::chown(&root, Some(65534), Some(65534)).expect("it is given away");
    let error = Engine::builder().root(&root).open().expect_err("it is another's").to_string();
    assert!(error.contains("65534"), "{error}");
    let error = Store::open(&root).expect_err("it is another's").to_string();
    assert!(error.ends_with("belongs to uid 65534, and this process is uid 0"), "{error}");
    assert_eq!(names(root), Vec::<String>::new());
}

//! What is done with images that are in a store: found, tagged, inspected, removed, pruned, checked; beside whoever uses them.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use coracle_image::{Digest, Durability, Error, Image, Inspection, NoSink, OciLayout, Platform, Reference, Store, SweptKind};
use support::{Local, Memory, TinyImage, amd64, index, noise, write_image, write_layout};

impl Local {
    fn import(&self, tiny: &TinyImage, reference: &str) -> Image {
        let layout = self.dir.path().join(tiny.digest().hex());
        write_image(&layout, tiny, "x");
        let layout = OciLayout::open(layout).unwrap().platform(amd64()).reference(reference.parse().unwrap());
        layout.import(&self.store, &NoSink).unwrap()
    }

    /// The digests of all blobs that are here.
    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store.path().join("blobs/sha256")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn names(&self) -> Vec<String> {
        self.store.images().unwrap().iter().map(|image| image.reference.familiar()).collect()
    }
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn an_image_is_found_by_its_names_and_by_the_beginning_of_its_ids() {
    let place = Local::new();
    let (a, b) = (place.import(&TinyImage::new("linux/amd64", &[1]), "a:1"), place.import(&TinyImage::new("linux/amd64", &[2]), "b"));
    let find = |name: &str| place.store.lookup(name, &amd64()).map(|image| image.digest);
    for name in ["a:1", "docker.io/library/a:1", &a.id.hex()[..12], &a.id.to_string(), &a.digest.hex()[..20], &a.digest.to_string()] {
        assert_eq!(find(name).unwrap(), a.digest, "{name}");
    }
    assert_eq!(find("b").unwrap(), b.digest);
    for name in ["q", "a:2", "sha256:", "", "ffffffffffff", "sha512:00", "A B", "../a"] {
        let error = find(name).unwrap_err();
        assert!(matches!(error, Error::NoSuchImage { .. }) && error.remedy().is_some(), "{name:?}: {error}");
    }
    // With so many images, some first digit is that of two.
    for n in 3..40 {
        place.import(&TinyImage::new("linux/amd64", &[n]), &format!("many:{n}"));
    }
    let ambiguous = (0..16).map(|digit| find(&format!("{digit:x}"))).filter(|found| matches!(found, Err(Error::Ambiguous { .. })));
    assert!(ambiguous.count() > 0);
}

#[test]
fn a_tag_is_another_name_and_the_last_one_takes_the_image_along() {
    let place = Local::new();
    let old = place.import(&TinyImage::new("linux/amd64", &[10]), "app:1");
    let other: Reference = "localhost:5000/app:stable".parse().unwrap();
    assert_eq!(place.store.tag("app:1", &other, &amd64()).unwrap().reference, other);
    assert_eq!(place.names(), ["app:1", "localhost:5000/app:stable"]);
    assert!(matches!(place.store.tag("nothing", &other, &amd64()), Err(Error::NoSuchImage { .. })));

    // One by its id, of two names: not without force.
    let error = place.store.remove(&old.id.hex()[..12], false, &NoSink).unwrap_err();
    assert!(error.to_string().ends_with("it has several names: docker.io/library/app:1, localhost:5000/app:stable"), "{error}");
    let removed = place.store.remove("app:1", false, &NoSink).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len(), removed.swept.len(), removed.bytes()), (1, 0, 0, 0));
    assert_eq!(place.blobs().len(), 3);
    let removed = place.store.remove(&old.id.hex()[..12], false, &NoSink).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![other], vec![old.digest]));
    assert_eq!(removed.swept.len(), 3);
    assert_eq!(place.blobs(), Vec::<String>::new());
    // The bytes are unlinked when somebody has the time.
    assert!(place.store.has_trash());
    place.store.empty_trash().unwrap();
    assert!(!place.store.has_trash());
    assert!(matches!(place.store.remove("app:1", true, &NoSink), Err(Error::NoSuchImage { .. })));
}

#[test]
fn a_name_that_moves_on_leaves_an_image_for_prune() {
    let place = Local::new();
    // The first layer is the same.
    let (old, new) = (TinyImage::new("linux/amd64", &[100, 10]), TinyImage::new("linux/amd64", &[100, 20]));
    place.import(&old, "app");
    place.import(&new, "app");
    assert_eq!(place.blobs().len(), 7);
    let pruned = place.store.prune(false, &NoSink).unwrap();
    assert_eq!((pruned.untagged.len(), pruned.deleted.len(), pruned.swept.len()), (0, 0, 3));
    let gone: u64 = [&old.manifest, &old.config, &old.layers[1]].iter().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(pruned.bytes(), gone);
    assert_eq!(place.store.images().unwrap().len(), 1);
    assert_eq!(place.store.prune(false, &NoSink).unwrap().swept, []);

    let pruned = place.store.prune(true, &NoSink).unwrap();
    assert_eq!((pruned.untagged, pruned.deleted), (vec!["app".parse().unwrap()], vec![new.digest()]));
    assert_eq!(place.blobs(), Vec::<String>::new());
}

#[test]
fn what_a_lease_holds_is_neither_removed_nor_pruned() {
    let place = Local::new();
    let image = place.import(&TinyImage::new("linux/amd64", &[10]), "app");
    let lease = place.store.lease(&image).unwrap();
    let error = place.store.remove("app", false, &NoSink).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }));
    assert_eq!(error.to_string(), "can't remove the image app: a container, a snapshot or a pull holds it");
    assert!(error.remedy().is_some());
    // One of two names may go.
    place.store.tag("app", &"b".parse().unwrap(), &amd64()).unwrap();
    place.store.remove("app", false, &NoSink).unwrap();
    place.store.prune(true, &NoSink).unwrap();
    assert_eq!((place.names(), place.blobs().len()), (vec!["b:latest".to_owned()], 3));

    // By force the name goes now, and the rest when the lease does.
    let removed = place.store.remove("b", true, &NoSink).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len(), removed.swept.len()), (1, 0, 0));
    assert_eq!((place.names().len(), place.blobs().len()), (0, 3));
    assert_eq!(place.store.prune(true, &NoSink).unwrap().swept, []);
    // Handed on, as to a supervisor, and its file stays behind.
    let fd = lease.into_fd();
    assert_eq!(place.store.prune(true, &NoSink).unwrap().swept, []);
    drop(fd);
    assert_eq!(files(&place.store.path().join("leases")), 1);
    assert_eq!(place.store.prune(false, &NoSink).unwrap().swept.len(), 3);
    assert_eq!(files(&place.store.path().join("leases")), 0);
}

#[test]
fn a_session_holds_what_goes_through_it_and_only_that() {
    let place = Local::new();
    let (a, b) = (place.import(&TinyImage::new("linux/amd64", &[10]), "a"), place.import(&TinyImage::new("linux/amd64", &[20]), "b"));
    let session = place.store.session().unwrap();
    assert_eq!(session.find(&a.reference, &amd64()).unwrap().as_ref(), Some(&a));
    let pruned = place.store.prune(true, &NoSink).unwrap();
    assert_eq!(pruned.deleted, [b.digest]);
    // Whoever takes it up now finds it whole.
    session.unpack(&a, &Memory::default()).unwrap();
    drop(session);
    // Whoever looks one up, or lists, doesn't hold the others.
    let b = place.import(&TinyImage::new("linux/amd64", &[20]), "b");
    let session = place.store.session().unwrap();
    assert_eq!(session.images().unwrap().len(), 2);
    assert_eq!(session.lookup(&b.id.hex()[..12], &amd64()).unwrap(), b);
    place.store.remove("a", false, &NoSink).unwrap();
    assert!(matches!(place.store.remove("b", false, &NoSink), Err(Error::InUse { .. })));
    drop(session);
    assert_eq!(place.store.prune(true, &NoSink).unwrap().deleted, [b.digest]);
}

#[test]
fn many_import_while_others_prune_and_every_image_is_whole() {
    let place = Local::new();
    let images: Vec<TinyImage> = (0..6).map(|n| TinyImage::new("linux/amd64", &[70_000, 1000 + n])).collect();
    let layouts: Vec<_> = images
        .iter()
        .map(|tiny| {
            let layout = place.dir.path().join(tiny.digest().hex());
            write_image(&layout, tiny, "x");
            layout
        })
        .collect();
    let stop = AtomicBool::new(false);
    let store = &place.store;
    let (stop, mut pruned) = (&stop, 0);
    std::thread::scope(|scope| {
        let pruners: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut pruned = 0;
                    while !stop.load(Ordering::Relaxed) {
                        pruned += store.prune(true, &NoSink).unwrap().swept.len();
                        store.empty_trash().unwrap();
                        std::thread::sleep(Duration::from_micros(300));
                    }
                    pruned
                })
            })
            .collect();
        let importers: Vec<_> = layouts
            .iter()
            .enumerate()
            .map(|(n, layout)| {
                scope.spawn(move || {
                    for round in 0..25 {
                        let session = store.session().unwrap();
                        let reference = format!("r{n}:{round}").parse().unwrap();
                        let image = OciLayout::open(layout).unwrap().platform(amd64()).reference(reference);
                        let image = image.import(&session, &NoSink).unwrap();
                        // As long as the session lives, nobody takes it away.
                        session.unpack(&image, &Memory::default()).unwrap();
                    }
                })
            })
            .collect();
        let imported: Vec<_> = importers.into_iter().map(|importer| importer.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(imported.iter().all(Result::is_ok));
        pruned = pruners.into_iter().map(|pruner| pruner.join().unwrap()).sum();
    });
    assert!(pruned > 0, "nothing was ever pruned");
    assert_eq!(place.store.check(false, &NoSink).unwrap().faults, []);
    place.store.prune(true, &NoSink).unwrap();
    assert_eq!(place.blobs(), Vec::<String>::new());
    for dir in ["ingest", "leases", "images"] {
        assert_eq!(files(&place.store.path().join(dir)), 0, "{dir}");
    }
}

#[test]
fn a_check_names_what_is_wrong_and_repair_moves_it_away() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[1000, 2000]);
    let image = place.import(&tiny, "app");
    let checked = place.store.check(true, &NoSink).unwrap();
    assert_eq!((checked.images, checked.blobs, checked.faults.len()), (1, 4, 0));
    assert_eq!(checked.bytes, tiny.blobs().iter().map(|blob| blob.len() as u64).sum::<u64>());

    let blob = |digest: &Digest| place.store.path().join("blobs/sha256").join(digest.hex());
    let (layer, manifest) = (blob(&image.layers[1].digest), blob(&image.digest));
    let mut damaged = noise(2000);
    damaged[1999] ^= 1;
    fs::write(&layer, &damaged).unwrap();
    fs::write(place.store.path().join("blobs/sha256/README"), "hello").unwrap();
    let found = place.store.check(false, &NoSink).unwrap().faults;
    let found: Vec<(&Path, &str, bool)> = found.iter().map(|fault| (&*fault.path, &*fault.what, fault.repaired)).collect();
    let is = format!("is {}, and not what its name says", Digest::sha256(&damaged));
    assert!(found.contains(&(&layer, &is, false)), "{found:?}");
    assert!(found.contains(&(&place.store.path().join("blobs/sha256/README"), "isn't named by a digest", false)), "{found:?}");
    assert_eq!(found.len(), 2);
    // Looking changes nothing.
    assert_eq!(fs::read(&layer).unwrap(), damaged);

    fs::write(&manifest, "").unwrap();
    let found = place.store.check(false, &NoSink).unwrap().faults;
    assert!(found.iter().any(|fault| fault.what.ends_with("whose manifest or config isn't there")), "{found:?}");
    assert!(manifest.exists());
    let found = place.store.check(true, &NoSink).unwrap().faults;
    assert_eq!(found.iter().filter(|fault| fault.repaired).count(), 2, "{found:?}");
    assert!(!layer.exists() && !manifest.exists());
    // Once more from its source, and it's whole.
    place.import(&tiny, "app");
    fs::remove_file(place.store.path().join("blobs/sha256/README")).unwrap();
    assert_eq!(place.store.check(false, &NoSink).unwrap().faults, []);

    // A layer that is nowhere is told; one in the sink is not.
    fs::remove_file(&layer).unwrap();
    let found = place.store.check(false, &NoSink).unwrap().faults;
    assert_eq!(found.len(), 1);
    assert!(found[0].what.contains("whose layer 1 (sha256:") && found[0].what.ends_with(") isn't there"), "{}", found[0].what);
    let record = fs::read_dir(place.store.path().join("images")).unwrap().next().unwrap().unwrap().path();
    fs::write(&record, "{").unwrap();
    let found = place.store.check(true, &NoSink).unwrap().faults;
    assert_eq!((found.len(), &*found[0].what, found[0].repaired), (1, "isn't the record of an image", true));
    assert!(!record.exists());
}

#[test]
fn an_inspection_is_json_with_dockers_names_and_comes_back_from_it() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/arm/v6", &[10, 20]);
    let layout = place.dir.path().join("layout");
    write_image(&layout, &tiny, "x");
    let platform: Platform = "linux/arm/v6".parse().unwrap();
    let before = SystemTime::now() - Duration::from_secs(2);
    let layout = OciLayout::open(layout).unwrap().platform(platform.clone()).reference("app:1".parse().unwrap());
    let image = layout.import(&place.store, &NoSink).unwrap();
    place.store.tag("app:1", &"localhost:5000/b".parse().unwrap(), &platform).unwrap();
    let inspection = place.store.inspect("app:1", &amd64(), &NoSink).unwrap();
    assert!(inspection.added > before && inspection.added <= SystemTime::now());
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["Id"], image.id.to_string());
    assert_eq!(json["Digest"], image.digest.to_string());
    assert_eq!(json["RepoTags"], serde_json::json!(["app:1", "localhost:5000/b:latest"]));
    assert_eq!(json["RepoDigests"][1], format!("localhost:5000/b@{}", image.digest));
    assert_eq!((&json["Os"], &json["Architecture"], &json["Variant"]), (&"linux".into(), &"arm".into(), &"v6".into()));
    assert_eq!(json["Config"], serde_json::json!({ "Cmd": ["true"], "Env": ["PLATFORM=linux/arm/v6"] }));
    assert_eq!(json["Size"], 30);
    assert_eq!(json["RootFS"]["Layers"][0], image.layers[0].diff_id.to_string());
    assert_eq!((&json["Layers"][1]["Stored"], &json["Layers"][1]["Unpacked"]), (&true.into(), &false.into()));
    let back: Inspection = serde_json::from_value(json).unwrap();
    assert_eq!(back, inspection);
}

#[test]
fn blobs_that_arent_kept_go_once_the_sink_has_their_layers() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[1000, 2000]);
    let layout = place.dir.path().join("layout");
    write_image(&layout, &tiny, "x");
    let frugal = place.store.clone().keep_blobs(false);
    let sink = Memory::default();
    let image = OciLayout::open(&layout).unwrap().platform(amd64()).import(&frugal, &sink).unwrap();
    assert!(sink.holds(&tiny) && frugal.is_unpacked(&image, &sink));
    // The documents stay.
    assert_eq!(place.blobs().len(), 2);
    assert_eq!(files(&place.store.path().join("ingest")), 0);
    assert_eq!(place.store.check(false, &sink).unwrap().faults, []);
    assert_eq!(place.store.images().unwrap(), std::slice::from_ref(&image));
    // A sink that keeps nothing needs them.
    let image = OciLayout::open(&layout).unwrap().platform(amd64()).import(&frugal, &NoSink).unwrap();
    assert_eq!(place.blobs().len(), 4);
    assert!(!frugal.is_unpacked(&image, &NoSink));
}

#[test]
fn a_failed_import_takes_back_what_it_brought_and_nothing_else() {
    let place = Local::new();
    let good = TinyImage::new("linux/amd64", &[1000]);
    place.import(&good, "good");
    let before = place.blobs();
    // It shares the first layer; its last one is damaged.
    let bad = TinyImage::new("linux/amd64", &[1000, 50_000, 2000]);
    let layout = place.dir.path().join("bad");
    write_layout(&layout, &bad.blobs(), &index(&[bad.descriptor(None, Some("x"))]));
    fs::write(layout.join("blobs/sha256").join(Digest::sha256(&bad.layers[2]).hex()), noise(1999)).unwrap();
    let error = OciLayout::open(&layout).unwrap().platform(amd64()).import(&place.store, &NoSink).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!((place.blobs(), place.names()), (before, vec!["good:latest".to_owned()]));
    for dir in ["ingest", "leases", "trash"] {
        assert_eq!(files(&place.store.path().join(dir)), 0, "{dir}");
    }
}

#[test]
fn whatever_the_durability_an_image_is_published_whole() {
    for durability in [Durability::None, Durability::Image, Durability::Layer] {
        let place = Local::new();
        let tiny = TinyImage::new("linux/amd64", &[1000]);
        let layout = place.dir.path().join("layout");
        write_image(&layout, &tiny, "x");
        let store = place.store.clone().durability(durability);
        OciLayout::open(&layout).unwrap().platform(amd64()).import(&store, &NoSink).unwrap();
        assert_eq!(place.store.check(false, &NoSink).unwrap().faults, [], "{durability:?}");
    }
}

/// What each durability asks of the kernel, as strace sees it.
#[test]
fn an_image_costs_one_syncfs_and_none_without_durability() {
    const CHILD: &str = "CORACLE_TEST_DURABILITY";
    if let Ok(task) = std::env::var(CHILD) {
        let (durability, dir) = task.split_once(' ').unwrap();
        let durability = match durability {
            "None" => Durability::None,
            "Layer" => Durability::Layer,
            _ => Durability::Image,
        };
        let store = Store::open(Path::new(dir).join("store")).unwrap().durability(durability);
        let layout = OciLayout::open(Path::new(dir).join("layout")).unwrap().platform(amd64());
        layout.import(&store, &NoSink).unwrap();
        return;
    }
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("SKIP: strace");
        return;
    }
    for (durability, syncs, fsyncs) in [("None", 0, 0..=0), ("Image", 1, 2..=2), ("Layer", 1, 6..=7)] {
        let dir = support::scratch();
        // Making a store syncs its version.
        Store::open(dir.path().join("store")).unwrap();
        write_image(&dir.path().join("layout"), &TinyImage::new("linux/amd64", &[1000, 2000]), "x");
        let log = dir.path().join("log");
        let traced = Command::new("strace")
            .args(["-f", "-e", "trace=syncfs,fsync,fdatasync", "-o"])
            .arg(&log)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "an_image_costs_one_syncfs_and_none_without_durability", "--quiet"])
            .env(CHILD, format!("{durability} {}", dir.path().display()))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(traced.success());
        let log = fs::read_to_string(log).unwrap();
        let count = |call: &str| log.lines().filter(|line| line.contains(call)).count();
        assert_eq!(count(" syncfs("), syncs, "{durability}:\n{log}");
        assert!(fsyncs.contains(&count(" fsync(")), "{durability}:\n{log}");
    }
}

#[test]
fn removing_takes_milliseconds_however_big_the_image_is() {
    let place = Local::new();
    let layers: Vec<usize> = (0..40).map(|n| 200_000 + n).collect();
    let mut times = Vec::new();
    for n in 0..9 {
        let mut layers = layers.clone();
        layers.push(100 + n);
        place.import(&TinyImage::new("linux/amd64", &layers), "big");
        let began = Instant::now();
        place.store.remove("big", false, &NoSink).unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    println!("RESULT: remove of 40 layers: {:?} (median)", times[4]);
    assert!(times[4] < Duration::from_millis(10), "{times:?}");
    assert_eq!(place.blobs(), Vec::<String>::new());
}

#[test]
fn leftovers_of_killed_processes_are_pruned_and_those_of_live_ones_stay() {
    let place = Local::new();
    let ingest = place.store.path().join("ingest");
    let digest = Digest::sha256(b"x");
    let (dead, live) = (ingest.join(format!("sha256-{}.partial", digest.hex())), ingest.join("1-2-3.new"));
    fs::write(&dead, "beginning").unwrap();
    fs::write(&live, "somebody writes").unwrap();
    fs::write(place.store.path().join("images/a.1-2-3.new"), "{").unwrap();
    let held = fs::File::open(&live).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let pruned = place.store.prune(false, &NoSink).unwrap();
    assert_eq!(pruned.swept.iter().map(|swept| swept.kind).collect::<Vec<_>>(), [SweptKind::Leftover; 2]);
    assert!(!dead.exists() && live.exists());
    drop(held);
    assert_eq!(place.store.prune(false, &NoSink).unwrap().swept.len(), 1);
    assert_eq!(files(&ingest), 0);
}

#[test]
fn what_a_later_version_adds_hinders_nobody() {
    let place = Local::new();
    let image = place.import(&TinyImage::new("linux/amd64", &[10]), "app");
    let at = |name: &str| place.store.path().join(name);
    fs::write(at("version"), "coracle-store 1\nwritten by 9.9\n").unwrap();
    let record = fs::read_dir(at("images")).unwrap().next().unwrap().unwrap().path();
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json["signed_by"] = "somebody".into();
    fs::write(&record, json.to_string()).unwrap();
    fs::create_dir_all(at("snapshots/x")).unwrap();
    fs::write(at("blobs/notes"), "").unwrap();
    // A lease with lines of a kind that we don't know still holds what we do.
    let lease = at("leases/later");
    fs::write(&lease, format!("mount /x\n{}\n", image.digest)).unwrap();
    let held = fs::File::open(&lease).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared).unwrap();

    let store = Store::open(place.store.path()).unwrap();
    assert_eq!(store.images().unwrap(), std::slice::from_ref(&image));
    assert_eq!(store.prune(true, &NoSink).unwrap().swept, []);
    drop(held);
    assert_eq!(store.prune(true, &NoSink).unwrap().deleted, [image.digest]);
    assert!(at("snapshots/x").exists() && at("blobs/notes").exists());
    assert_eq!(fs::read_to_string(at("version")).unwrap(), "coracle-store 1\nwritten by 9.9\n");
}

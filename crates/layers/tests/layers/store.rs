//! The store: many at once, death on the way, wrong bytes, full disks.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coracle_image::{Algorithm, Digest, LayerInfo, LayerSink};
use coracle_layers::{Error, LayerStore, Options, Ownership};

use crate::archive::{Archive, gzip};
use crate::scratch::{is_root, scratch, skip};

fn options() -> Options {
    if is_root() { Options::root() } else { Options::user(Ownership::Squash) }
}

/// A layer of some megabytes.
fn layer(files: usize) -> (Vec<u8>, LayerInfo) {
    let mut archive = Archive::new();
    for n in 0..files {
        archive = archive.file(format!("d{}/f{n}", n % 10), format!("{n} ").repeat(2000));
    }
    let archive = archive.end();
    let blob = gzip(&archive);
    let info = LayerInfo::new(
        0,
        Digest::sha256(&blob),
        Digest::sha256(&archive),
        blob.len() as u64,
        "application/vnd.oci.image.layer.v1.tar+gzip",
    );
    (blob, info)
}

/// Everything in the store that isn't its frame.
fn contents(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let layers = dir.join("layers");
    for (part, prefix) in [("", "tmp-"), ("sha256", ""), ("sha512", ""), ("chains/sha256", ""), ("locks", "")] {
        for entry in fs::read_dir(layers.join(part)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(prefix) {
                found.push(format!("{part}/{name}"));
            }
        }
    }
    found
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} didn't happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_layer_is_there_when_it_is_whole_and_not_before() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (blob, info) = layer(50);
    assert!(!store.contains(&info));
    assert!(matches!(store.paths(std::slice::from_ref(&info.diff_id)), Err(Error::Missing { .. })));
    let mut writer = store.begin(&info).unwrap();
    for part in blob.chunks(1000) {
        assert!(!store.contains(&info));
        writer.write_all(part).unwrap();
    }
    writer.finish().unwrap();
    assert!(store.contains(&info));
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&info.diff_id));
    let report = store.report(&info.diff_id).unwrap();
    assert_eq!((report.entries, report.diff_id, report.implicit_parents.len()), (50, info.diff_id.clone(), 11));
    let path = &store.paths(std::slice::from_ref(&info.diff_id)).unwrap()[0];
    assert_eq!(fs::read_to_string(path.join("d3/f13")).unwrap(), "13 ".repeat(2000));
    // Once more costs nothing.
    let mut again = store.begin(&info).unwrap();
    again.write_all(b"whatever").unwrap();
    again.finish().unwrap();
    store.sync(std::slice::from_ref(&info.diff_id)).unwrap();
    assert!(store.contains(&info));
    let reopened = LayerStore::open(scratch.path(), options()).unwrap();
    assert!(reopened.contains(&info));
    reopened.remove(&info.diff_id).unwrap();
    assert_eq!(contents(scratch.path()), Vec::<String>::new());
    assert!(!store.contains(&info));
}

#[test]
fn the_store_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = scratch();
    fs::create_dir(scratch.path().join("layers")).unwrap();
    fs::set_permissions(scratch.path().join("layers"), fs::Permissions::from_mode(0o755)).unwrap();
    let _ = LayerStore::open(scratch.path(), options()).unwrap();
    assert_eq!(fs::metadata(scratch.path().join("layers")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn stores_of_different_users_and_flavours_are_not_mixed() {
    let scratch = scratch();
    let _ = LayerStore::open(scratch.path(), Options::user(Ownership::Squash)).unwrap();
    let _ = LayerStore::open(scratch.path(), Options::user(Ownership::Squash)).unwrap();
    for other in [Options::root(), Options::user(Ownership::Defer)] {
        let error = LayerStore::open(scratch.path(), other).unwrap_err();
        assert!(matches!(error, Error::Store { .. }) && error.remedy().is_some(), "{error}");
    }
    // Whatever a newer version writes there.
    for newer in [r#"{"version":99,"ownership":"squash","flavour":"user"}"#, r#"{"version":2,"flavours":["erofs"]}"#] {
        fs::write(scratch.path().join("layers/store.json"), newer).unwrap();
        let error = LayerStore::open(scratch.path(), Options::user(Ownership::Squash)).unwrap_err();
        assert!(matches!(error, Error::Version { known: 1, .. }) && error.remedy().is_some(), "{error}");
    }
    fs::write(scratch.path().join("layers/store.json"), "").unwrap();
    let error = LayerStore::open(scratch.path(), Options::user(Ownership::Squash)).unwrap_err();
    assert!(error.to_string().ends_with("their store.json is damaged"), "{error}");
    if is_root() {
        let other = crate::scratch::scratch();
        fs::create_dir(other.path().join("layers")).unwrap();
        std::os::unix::fs::chown(other.path().join("layers"), Some(65534), None).unwrap();
        let error = LayerStore::open(other.path(), Options::root()).unwrap_err();
        assert!(error.to_string().contains("user 65534's"), "{error}");
    }
}

#[test]
fn what_fails_leaves_nothing() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (blob, info) = layer(200);
    let nothing = Vec::<String>::new();

    let mut wrong = info.clone();
    wrong.diff_id = Digest::sha256(b"something else");
    let mut writer = store.begin(&wrong).unwrap();
    writer.write_all(&blob).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::WrongDiffId { .. })), "{error}");
    assert_eq!(contents(scratch.path()), nothing);

    let mut writer = store.begin(&info).unwrap();
    writer.write_all(&blob[..blob.len() - 3]).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Error::Compression { .. })), "{error}");
    assert_eq!(contents(scratch.path()), nothing);

    // Malformed in the middle: the next write, or the end, says so.
    let bad = gzip(&Archive::new().file("a", "x").file("../b", "x").end());
    let mut writer = store.begin(&info).unwrap();
    let result = writer.write_all(&bad).map_err(Into::into).and_then(|()| writer.finish());
    let error = result.unwrap_err().to_string();
    assert!(error.contains("../b"), "{error}");
    assert_eq!(contents(scratch.path()), nothing);

    // Dropped half-way: gone soon.
    let mut writer = store.begin(&info).unwrap();
    writer.write_all(&blob[..blob.len() / 2]).unwrap();
    drop(writer);
    wait_until("the removal of a dropped layer", || contents(scratch.path()) == nothing);

    // And it still works.
    let mut writer = store.begin(&info).unwrap();
    writer.write_all(&blob).unwrap();
    writer.finish().unwrap();
    assert!(store.contains(&info));
}

#[test]
fn an_error_ends_the_writing_at_once_and_stays_an_error() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (_, info) = layer(1);
    let mut bad = Archive::new().file("../b", "x").0;
    bad.resize(64 << 20, 0);
    let mut writer = store.begin(&info).unwrap();
    let error = bad.chunks(65_536).find_map(|part| writer.write_all(part).err()).expect("an error before the end");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(matches!(error.get_ref().and_then(|e| e.downcast_ref()), Some(Error::Malformed { .. })), "{error}");
    assert!(writer.write_all(b"more").is_err());
    assert!(writer.finish().is_err());
}

#[test]
fn a_sha512_diff_id_is_checked_and_kept_too() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let archive = Archive::new().file("f", "x").end();
    let id = Digest::of(Algorithm::Sha512, &archive);
    let info = LayerInfo::new(0, Digest::sha256(&archive), id.clone(), archive.len() as u64, "tar");
    let mut writer = store.begin(&info).unwrap();
    writer.write_all(&archive).unwrap();
    writer.finish().unwrap();
    assert!(store.paths(&[id]).unwrap()[0].join("f").exists());
}

#[test]
fn a_layer_without_its_marker_is_void_and_replaced() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (blob, info) = layer(20);
    let write = || {
        let mut writer = store.begin(&info).unwrap();
        writer.write_all(&blob).unwrap();
        writer.finish().unwrap();
    };
    write();
    let directory = scratch.path().join("layers/sha256").join(info.diff_id.hex());
    for damage in [None, Some(""), Some("coracle-layer 1 boot 0-of-another-boot\n")] {
        match damage {
            None => fs::remove_file(directory.join("complete")).unwrap(),
            Some(text) => fs::write(directory.join("complete"), text).unwrap(),
        }
        fs::write(directory.join("fs/d0/f0"), "zeros after a crash").unwrap();
        assert!(!store.contains(&info));
        assert!(matches!(store.paths(std::slice::from_ref(&info.diff_id)), Err(Error::Missing { .. })));
        write();
        assert!(store.contains(&info));
        assert_ne!(fs::read_to_string(directory.join("fs/d0/f0")).unwrap(), "zeros after a crash");
    }
}

#[test]
fn threads_that_want_the_same_layers_get_them_and_never_wait_for_each_other_forever() {
    let scratch = scratch();
    let layers: Vec<_> = (1..5).map(|n| layer(n * 20)).collect();
    std::thread::scope(|scope| {
        for turn in 0..6 {
            let (layers, scratch) = (&layers, &scratch);
            scope.spawn(move || {
                let store = LayerStore::open(scratch.path(), options()).unwrap();
                // All begun by one thread before any is finished, in another order each time, one of them twice.
                let mut order: Vec<&(Vec<u8>, LayerInfo)> = layers.iter().chain(layers.first()).collect();
                order.rotate_left(turn % layers.len());
                let mut writers: Vec<_> = order.iter().map(|(blob, info)| (blob, store.begin(info).unwrap())).collect();
                let longest = order.iter().map(|(blob, _)| blob.len()).max().unwrap();
                for at in (0..longest).step_by(500) {
                    for (blob, writer) in &mut writers {
                        if at < blob.len() {
                            writer.write_all(&blob[at..blob.len().min(at + 500)]).unwrap();
                        }
                    }
                }
                for (_, writer) in writers {
                    writer.finish().unwrap();
                }
                assert!(order.iter().all(|(_, info)| store.contains(info)));
            });
        }
    });
    assert_eq!(contents(scratch.path()).len(), 4);
}

/// Runs one test of this program in a child process, which then acts by the environment.
fn again(test: &str, act: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env("CORACLE_TEST_ACT", act).env("CORACLE_TEST_DIR", dir);
    command
}

#[test]
fn cve_2025_47290_cve_2024_36621_processes_unpack_a_layer_once_among_them() {
    let test = "store::cve_2025_47290_cve_2024_36621_processes_unpack_a_layer_once_among_them";
    let (blob, info) = layer(300);
    if std::env::var_os("CORACLE_TEST_ACT").is_some() {
        let dir = std::env::var_os("CORACLE_TEST_DIR").unwrap();
        let store = LayerStore::open(dir, options()).unwrap();
        let mut writer = store.begin(&info).unwrap();
        // One that is there already takes anything; of those who unpack, the first tells so.
        let there = store.contains(&info);
        for part in blob.chunks(4096) {
            writer.write_all(part).unwrap();
        }
        writer.finish().unwrap();
        assert!(store.contains(&info));
        println!("UNPACKED={}", !there);
        return;
    }
    let scratch = scratch();
    let children: Vec<_> = (0..4).map(|_| again(test, "unpack", scratch.path()).stdout(Stdio::piped()).spawn().unwrap()).collect();
    let said: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
        .collect();
    assert_eq!(said.iter().filter(|said| said.contains("UNPACKED=true")).count(), 1, "{said:#?}");
    assert_eq!(contents(scratch.path()).len(), 1);
}

#[test]
fn a_process_killed_half_way_leaves_only_what_the_next_one_sweeps() {
    let test = "store::a_process_killed_half_way_leaves_only_what_the_next_one_sweeps";
    let (blob, info) = layer(300);
    if std::env::var_os("CORACLE_TEST_ACT").is_some() {
        let dir = std::env::var_os("CORACLE_TEST_DIR").unwrap();
        let store = LayerStore::open(dir, options()).unwrap();
        let mut writer = store.begin(&info).unwrap();
        writer.write_all(&blob[..blob.len() / 2]).unwrap();
        println!("HALF");
        std::io::stdout().flush().unwrap();
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let scratch = scratch();
    let mut child = again(test, "half", scratch.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("HALF")));
    let temporary = || contents(scratch.path()).iter().filter(|name| name.contains("tmp-")).count();
    wait_until("some unpacking", || temporary() == 1);
    // While it lives, nobody takes its work away.
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    assert_eq!(temporary(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(temporary(), 1);
    assert!(!store.contains(&info));
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    assert_eq!(temporary(), 0);
    let mut writer = store.begin(&info).unwrap();
    writer.write_all(&blob).unwrap();
    writer.finish().unwrap();
    assert!(store.contains(&info));
    assert_eq!(contents(scratch.path()).len(), 1);
}

#[test]
fn a_full_disk_is_an_error_with_a_remedy_and_leaves_nothing() {
    // Needs root, to mount a small tmpfs in a child's mount namespace.
    let test = "store::a_full_disk_is_an_error_with_a_remedy_and_leaves_nothing";
    let (blob, info) = layer(300);
    if std::env::var_os("CORACLE_TEST_ACT").is_some() {
        let dir = std::env::var_os("CORACLE_TEST_DIR").unwrap();
        let store = LayerStore::open(&dir, options()).unwrap();
        let mut writer = store.begin(&info).unwrap();
        let result = writer.write_all(&blob).map_err(Into::into).and_then(|()| writer.finish());
        let error = result.unwrap_err();
        let error = match error.downcast::<std::io::Error>() {
            Ok(error) => error.into_inner().unwrap().downcast::<Error>().unwrap(),
            Err(error) => error.downcast::<Error>().unwrap(),
        };
        assert!(error.to_string().contains("No space left"), "{error}");
        assert!(error.remedy().unwrap().contains("free some space"));
        assert_eq!(contents(Path::new(&dir)), Vec::<String>::new());
        return;
    }
    if !is_root() {
        return skip("root");
    }
    let scratch = scratch();
    let script = r#"mount -t tmpfs -o size=1m tmpfs "$CORACLE_TEST_DIR" && exec "$@""#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env("CORACLE_TEST_ACT", "full")
        .env("CORACLE_TEST_DIR", scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Brings bytes in as a layer; whoever fetches has checked that they are its blob.
fn bring(store: &LayerStore, info: &LayerInfo, blob: &[u8]) -> Result<(), Error> {
    let mut writer = store.begin(info).unwrap();
    writer.write_all(blob).unwrap();
    writer.finish().map_err(|error| *error.downcast::<Error>().unwrap())
}

#[test]
fn a_blob_whose_diff_id_is_known_is_not_hashed_again() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (blob, info) = layer(3);
    // Bytes of another layer tell whether anybody looks.
    let (other, _) = layer(4);
    let wrong = |result| matches!(result, Err(Error::WrongDiffId { .. }));
    assert!(wrong(bring(&store, &info, &other)), "nothing is known yet");
    bring(&store, &info, &blob).unwrap();
    store.remove(&info.diff_id).unwrap();
    bring(&store, &info, &other).unwrap();
    assert_eq!(store.report(&info.diff_id).unwrap().diff_id, info.diff_id);
    store.remove(&info.diff_id).unwrap();

    // An image that says something else of the same blob is a liar.
    let lie = LayerInfo::new(0, info.digest.clone(), Digest::sha256(b"else"), info.size, info.media_type.clone());
    assert!(wrong(bring(&store, &lie, &blob)));
    // What a crash made of the note says nothing.
    let note = scratch.path().join("layers/diffids").join(format!("sha256-{}", info.digest.hex()));
    for damaged in ["", "sha256:", "\0\0\0\0", &info.diff_id.to_string()[..40]] {
        fs::write(&note, damaged).unwrap();
        assert!(wrong(bring(&store, &info, &other)), "{damaged:?}");
    }
    bring(&store, &info, &blob).unwrap();
    assert_eq!(fs::read_to_string(&note).unwrap(), format!("{}\n", info.diff_id));
    // It goes with the layer when nobody needs that.
    assert_eq!(store.sweep(&coracle_image::Needs::default()).unwrap().len(), 1);
    assert!(!note.exists());
    assert!(wrong(bring(&store, &info, &other)));
}

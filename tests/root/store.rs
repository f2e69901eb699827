//! The store on a disk that is full: a small tmpfs in a mount namespace of the test's own.

use crate::support::image::{Compressed, Layout};
use crate::support::importer::{command, import, open};
use crate::support::registry::Registry;
use crate::support::{directory, need};
use serde_json::json;
use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const INSIDE: &str = "CORACLE_TEST_FULL_DISK";
const FROM: &str = "CORACLE_TEST_FULL_DISK_FROM";

/// Mounts a tmpfs of so many kilobytes, or changes its size.
fn tmpfs(at: &Path, kilobytes: u64, options: &str) {
    let options = format!("{options}size={kilobytes}k,mode=700");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).status();
    assert!(mounted.expect("mount runs").success());
}

/// Whether an error says, in whatever depth, that there is no space.
fn is_about_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            return true;
        }
        next = error.source();
    }
    false
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_full_disk_is_told_and_harms_nothing() {
    need!(Root, Registry);
    let Some(made) = std::env::var_os(INSIDE).map(PathBuf::from) else {
        // Again, in a mount namespace that goes with it.
        let made = directory();
        let mut layout = Layout::new(&made.path().join("layout"));
        let layers: Vec<_> = (0..3)
            .map(|layer| {
                let root = made.path().join(format!("{layer}"));
                std::fs::create_dir(&root).expect("it can be made");
                for n in 0..20 {
                    let noise: Vec<u8> = (0..20_000).map(|i: u32| (i.wrapping_mul(i + n * 7919 + layer) >> 3) as u8).collect();
                    std::fs::write(root.join(format!("{n}")), noise).expect("it can be written");
                }
                layout.layer_of(&root, if layer == 1 { Compressed::No } else { Compressed::Gzip })
            })
            .collect();
        layout.image("localhost/full:1", &layers, json!({ "Cmd": ["true"] }));
        let registry = Registry::start();
        registry.push(&layout, "localhost/full:1", "full:1");
        std::fs::create_dir(made.path().join("place")).expect("it can be made");
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().expect("a test knows its program"))
            .args(["root::store::a_full_disk_is_told_and_harms_nothing", "--exact", "--nocapture"])
            .env(INSIDE, made.path())
            .env(FROM, registry.reference("full:1"))
            .status();
        assert!(status.expect("unshare runs").success());
        return;
    };

    let place = made.join("place");
    let layout = format!("layout {}", made.join("layout").display());
    let archive = format!("archive {}", made.join("archive.tar.gz").display());
    let pull = format!("pull {}", std::env::var(FROM).expect("it is set"));
    // An archive to be inflated on the full disk.
    let packed = Command::new("tar").arg("-C").arg(made.join("layout")).arg("-czf").arg(made.join("archive.tar.gz")).arg(".").status();
    assert!(packed.expect("tar runs").success());
    let (mut failed, mut succeeded) = (0, 0);
    // From so little that not even the store can be made to more than enough.
    for kilobytes in [40, 60, 100, 200, 400, 700, 1000, 1500, 2000, 2400, 2800, 3200, 3600, 6000, 12_000] {
        for task in [&layout, &archive, &pull] {
            tmpfs(&place, kilobytes, "");
            let opened = std::panic::catch_unwind(|| open(&place));
            match opened.is_ok().then(|| import(&place, task, u64::MAX)) {
                Some(Ok(_)) => succeeded += 1,
                None => {}
                Some(Err(error)) => {
                    failed += 1;
                    let told = is_about_space(&error) || error.source().is_some_and(is_about_space);
                    assert!(told, "{kilobytes} KiB: {error}: {error:?}");
                    assert!(error.to_string().contains("No space left on device"), "{error}");
                    // Nothing of it takes room, and nothing is damaged.
                    let (store, layers) = open(&place);
                    assert_eq!(store.images().expect("they are read"), []);
                    assert_eq!(store.check(false, &layers).expect("it is read").faults, []);
                    // What a pull has fetched stays, for the next one to go on from, until it is pruned.
                    if *task == pull {
                        store.prune(true, &layers).expect("it is pruned");
                    }
                    layers.empty_own_trash().expect("it is emptied");
                    store.empty_trash().expect("it is emptied");
                    let root = place.join("store");
                    for part in ["ingest", "leases", "blobs/sha256", "images", "layers/sha256"] {
                        assert_eq!(files(&root.join(part)), Vec::<PathBuf>::new(), "{kilobytes} KiB: {part} after {error}");
                    }
                    assert!(!files(&root.join("layers")).iter().any(|path| path.to_string_lossy().contains("/tmp-")));
                }
            }
            // Somebody made room.
            tmpfs(&place, 20_000, "remount,");
            import(&place, task, u64::MAX).unwrap_or_else(|error| panic!("{kilobytes} KiB and then more: {error}"));
            {
                let (store, layers) = open(&place);
                assert_eq!(store.images().expect("they are read").len(), 1);
                assert_eq!(layers.check(false, || store.in_use()).expect("it is read").faults, []);
            }
            drop(opened);
            let unmounted = Command::new("umount").arg(&place).status();
            assert!(unmounted.expect("umount runs").success());
        }
    }
    println!("RESULT: {failed} imports met a full disk, {succeeded} did not");
    assert!(failed >= 8 && succeeded >= 2, "{failed} and {succeeded}");
}

#[test]
fn a_big_layer_is_pulled_in_bounded_memory() {
    need!(Root, Registry);
    const MIB: usize = 1 << 20;
    let (place, registry) = (directory(), Registry::start());
    let mut layout = Layout::new(&place.path().join("layout"));
    // Of a mebibyte that can't be compressed: what matters is how much there is.
    let block: Vec<u8> = (0..MIB as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect();
    let root = place.path().join("root");
    std::fs::create_dir(&root).expect("it can be made");
    let mut file = std::fs::File::create(root.join("big")).expect("it can be made");
    for _ in 0..200 {
        io::Write::write_all(&mut file, &block).expect("it can be written");
    }
    let layer = layout.layer_of(&root, Compressed::No);
    layout.image("big", &[layer], json!({}));
    registry.push(&layout, "big", "big:1");
    for task in [format!("pull {}", registry.reference("big:1")), format!("layout {}", layout.path().display())] {
        let to = directory();
        assert!(command(to.path(), &task, None).status().expect("it starts").success(), "{task}");
        let peak: usize = std::fs::read_to_string(to.path().join("peak")).expect("it was told").parse().expect("a number");
        println!("RESULT: {task}: 200 MiB in at most {} MiB", peak / 1024);
        assert!(peak < 80 * 1024, "{task}: {peak} KiB");
    }
}

//! A power cut at any write of a pull: the store is sound afterwards, what had a name has it and is whole, and a rerun ends right.
//!
//! Images are pulled and removed on an ext4 whose loop device lies on a disk that records its writes and flushes
//! (`support/recorder.rs`). Disks as a power cut would leave them are mounted, and looked at as after the next boot: the kernel's boot_id is
//! another one then, which a bind mount over it makes true.

use crate::support::image::{Compressed, Layout};
use crate::support::importer::open;
use crate::support::mounts::{Mounted, inside};
use crate::support::recorder::{Event, Recorder, Recording};
use crate::support::registry::Registry;
use crate::support::{need, program};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The disk's size: room for the images, a journal of 4 MiB, and little to copy.
const DISK: u64 = 40 << 20;

fn noise(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * (i + seed * 7919)) >> 3) as u8 ^ i as u8).collect()
}

/// A registry with two images that share a layer.
fn registry(place: &Path) -> Registry {
    let registry = Registry::start();
    let mut layout = Layout::new(&place.join("layout"));
    let layer = |name: &str, files: usize, bytes: usize, how| {
        let root = place.join(name);
        std::fs::create_dir_all(root.join("etc/deep")).expect("it can be made");
        for n in 0..files {
            std::fs::write(root.join("etc/deep").join(format!("{name}{n}")), noise(n + bytes, bytes)).expect("it can be written");
        }
        layout.layer_of(&root, how)
    };
    let (base, one, two) =
        (layer("base", 20, 3000, Compressed::Gzip), layer("one", 3, 200_000, Compressed::No), layer("two", 5, 900, Compressed::Gzip));
    layout.image("1", &[base.clone(), one], json!({ "Cmd": ["true"] }));
    layout.image("2", &[base, two], json!({ "Cmd": ["false"] }));
    for tag in ["1", "2"] {
        registry.push(&layout, tag, &format!("cut:{tag}"));
    }
    registry
}

fn coracle(store: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(program::coracle().expect("that is the need"));
    command.arg("--root").arg(store).args(words).env_clear().env("HOME", store).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).output().expect("the program runs")
}

#[track_caller]
fn done(output: &Output, what: &str) -> String {
    assert!(output.status.success(), "{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Somebody who syncs a file of its own all the time. The journal is committed with whatever others have named by then, and not with what they
/// have written: after a cut there are files that have a name and no contents.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Neighbour {
    fn new(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            for number in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let file = std::fs::File::create(&path).expect("it can be made");
                (&file).write_all(&number.to_le_bytes()).and_then(|()| file.sync_all()).expect("it can be written");
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        Self { stop, thread: Some(std::thread::spawn(work)) }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || matches!(done, Some(Ok(()))), "the neighbour failed");
    }
}

/// What the pulls printed, and the recording of: pull one, pull two, remove one.
fn record(place: &Path, registry: &Registry) -> (Recording, [String; 2]) {
    let file = place.join("empty.img");
    std::fs::File::create(&file).and_then(|made| made.set_len(DISK)).expect("it can be made");
    let how = ["-q", "-F", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
    program::run("mkfs.ext4", how.iter().copied().chain([file.display().to_string().as_str()]));
    let beginning = std::fs::read(&file).expect("it can be read");
    let at = place.join("recorder");
    std::fs::create_dir(&at).expect("it can be made");
    let recorder = Recorder::serve(beginning.clone(), &at);
    let mounted = Mounted::image("ext4", &recorder.file(), place.join("recorded"));
    let store = mounted.0.join("store");
    let names = ["1", "2"].map(|tag| registry.reference(&format!("cut:{tag}")));
    let mut printed = names.clone().map(|_| String::new());
    let neighbour = Neighbour::new(mounted.0.join("neighbour"));
    for (number, name) in names.iter().enumerate() {
        printed[number] = done(&coracle(&store, &["pull", name]), "a pull");
        recorder.mark(&format!("pulled {number}"));
    }
    recorder.mark("removing 0");
    done(&coracle(&store, &["rmi", &names[0]]), "a removal");
    recorder.mark("removed 0");
    drop(neighbour);
    let recording = recorder.recording(beginning);
    drop(mounted);
    program::run("umount", [at.display().to_string()]);
    (recording, printed)
}

/// From here on it's another boot, for this process and those that it starts.
fn reboot(place: &Path) {
    let id = place.join("boot_id");
    std::fs::write(&id, "deadbeef-0000-4000-8000-000000000000\n").expect("it can be written");
    program::run("mount", ["--bind", &id.display().to_string(), "/proc/sys/kernel/random/boot_id"]);
}

/// What a store on a disk after a cut has to be, and to become.
fn judge(place: &Path, recording: &Recording, registry: &Registry, printed: &[String; 2], at: usize, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chance = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let marks = recording.marks(at);
    let what = format!("cut before event {at}, chance {seed}, after {marks:?}");
    let disk = place.join("cut.img");
    std::fs::write(&disk, recording.after_a_cut(at, &mut chance)).expect("it can be written");
    let mounted = Mounted::image("ext4", &disk, place.join("cut"));
    let names = ["1", "2"].map(|tag| registry.reference(&format!("cut:{tag}")));
    if mounted.0.join("store").is_dir() {
        let (store, layers) = open(&mounted.0);
        let images = store.images().unwrap_or_else(|error| panic!("{what}: {error}"));
        // What a layer's marker calls whole is whole.
        assert_eq!(layers.check(false, || store.in_use()).expect("it is read").faults, [], "{what}");
        // What a program said to be here is here; and what is here has all of its documents and blobs.
        let here = |number: usize| images.iter().any(|image| image.reference.to_string() == names[number]);
        assert!(here(0) || !marks.contains(&"pulled 0") || marks.contains(&"removing 0"), "{what}: the first image is lost");
        assert!(here(1) || !marks.contains(&"pulled 1"), "{what}: the second image is lost");
        let checked = store.check(false, &layers).expect("it is read");
        for image in &images {
            let mut parts = image.layers.iter().map(|layer| &layer.digest).chain([&image.digest, &image.id]);
            let damaged = parts.find(|digest| checked.faults.iter().any(|fault| fault.path.ends_with(digest.hex())));
            assert_eq!(damaged, None, "{what}: {} is damaged: {:?}", image.reference, checked.faults);
        }
        let unnamed = checked.faults.iter().filter(|fault| fault.path.extension().is_some());
        assert_eq!(unnamed.collect::<Vec<_>>(), Vec::<&coracle::image::Fault>::new(), "{what}");
    }
    // Once more, and all is as if nothing had been.
    let store = mounted.0.join("store");
    for (name, printed) in names.iter().zip(printed) {
        assert_eq!(&done(&coracle(&store, &["pull", name]), &what), printed, "{what}");
    }
    done(&coracle(&store, &["prune", "-f"]), &what);
    let said = done(&coracle(&store, &["check"]), &what);
    assert!(said.contains(": 0 faults") && said.starts_with("checked 2 images"), "{what}: {said}");
}

/// Cuts before every flush and between them, as many as are wanted, and what came of them.
fn cut(place: &Path, wanted: Option<usize>) {
    let registry = registry(place);
    let (recording, printed) = record(place, &registry);
    let count = |is: fn(&Event) -> bool| recording.events.iter().filter(|event| is(event)).count();
    let (writes, flushes) = (count(|event| matches!(event, Event::Write { .. })), count(|event| matches!(event, Event::Flush)));
    assert!(writes > 50 && flushes > 10, "{writes} writes and {flushes} flushes are no pull");
    reboot(place);
    let all = recording.events.len();
    let step = wanted.map_or(1, |wanted| (all / wanted).max(1));
    let points: Vec<usize> = (1..=all).rev().step_by(step).collect();
    for (number, at) in points.iter().enumerate() {
        judge(place, &recording, &registry, &printed, *at, number as u64 + 1);
    }
    println!(
        "RESULT: the power cut at {} points of {writes} writes and {flushes} flushes of two pulls and a removal: each rerun ended right",
        points.len()
    );
}

#[test]
fn a_power_cut_in_a_pull_leaves_a_sound_store_and_a_rerun_ends_it() {
    need!(Root, Registry, Program, Fuse, LoopDevices);
    inside("root::power_cut::a_power_cut_in_a_pull_leaves_a_sound_store_and_a_rerun_ends_it", |place| cut(place, Some(16)));
}

#[test]
#[ignore = "soak: a power cut before each write and flush of two pulls and a removal"]
fn a_power_cut_at_each_write_leaves_a_sound_store_and_a_rerun_ends_it() {
    need!(Root, Registry, Program, Fuse, LoopDevices);
    inside("root::power_cut::a_power_cut_at_each_write_leaves_a_sound_store_and_a_rerun_ends_it", |place| cut(place, None));
}

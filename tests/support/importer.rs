//! Programs that bring an image into a store, for tests in which many do it or one is killed: this test binary, started a second time.

use coracle::image::{Archive, Error, Image, LayerInfo, LayerSink, LayerWriter, Needs, OciLayout, Progress, SinkError, Store, Swept};
use coracle::layers::{LayerStore, Options, Ownership};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where images go: a store, and the unpacked layers beside it.
pub(crate) fn open(place: &Path) -> (Store, LayerStore) {
    let options = if rustix::process::geteuid().is_root() { Options::root() } else { Options::user(Ownership::Squash) };
    let store = Store::open(place.join("store")).expect("a store opens");
    (store, LayerStore::open(place.join("store"), options).expect("layers open"))
}

/// This test binary, bringing in an image: `layout DIR`, `archive FILE` or `pull REFERENCE`. It kills itself at the given step.
pub(crate) fn command(place: &Path, what: &str, die_at: Option<u64>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its program"));
    command.args(["support::importer::brings_an_image_in", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("CORACLE_TEST_IMPORT", what).env("CORACLE_TEST_PLACE", place).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("CORACLE_TEST_DIE_AT", die_at.unwrap_or(u64::MAX).to_string());
    command
}

/// Not a test of its own: what [`command`] starts.
#[test]
fn brings_an_image_in() {
    let (Ok(task), Some(place)) = (std::env::var("CORACLE_TEST_IMPORT"), std::env::var_os("CORACLE_TEST_PLACE").map(PathBuf::from)) else {
        return;
    };
    let die_at = std::env::var("CORACLE_TEST_DIE_AT").ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    import(&place, &task, die_at).unwrap_or_else(|error| panic!("{error}"));
    // The most memory that this process ever had, in kibibytes.
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|rest| rest.split_whitespace().next());
    std::fs::write(place.join("peak"), peak.expect("the kernel tells it")).expect("it can be written");
}

/// Brings an image in, and dies at a step: whatever is asked of the sink, and whatever progress tells, is one.
pub(crate) fn import(place: &Path, task: &str, die_at: u64) -> Result<Vec<Image>, Error> {
    let (store, layers) = open(place);
    let steps = Arc::new(Steps { count: AtomicU64::new(0), die_at });
    let sink = Arc::new(Counted { layers, begun: place.join("begun"), steps: Arc::clone(&steps) });
    let told = Arc::clone(&steps);
    let progress = move |_: Progress| told.step();
    let (what, name) = task.split_once(' ').expect("a task has two words");
    let images = match what {
        "layout" => vec![OciLayout::open(name)?.progress(progress).import(&store, &*sink)?],
        "archive" => Archive::open(name, &store)?.progress(progress).import(&store, &*sink)?,
        _ => {
            let reference = name.parse().expect("it's a reference");
            let sink: Arc<dyn LayerSink> = Arc::clone(&sink) as _;
            vec![coracle::image::Puller::new().progress(progress).pull_blocking(&store, &reference, sink)?]
        }
    };
    for image in &images {
        sink.layers.sync(&image.config.diff_ids).expect("layers are synced");
        steps.step();
    }
    Ok(images)
}

struct Steps {
    count: AtomicU64,
    die_at: u64,
}

impl Steps {
    fn step(&self) {
        if self.count.fetch_add(1, Ordering::SeqCst) == self.die_at {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // Until the signal is there.
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }
}

/// A sink that counts what is asked of it.
struct Counted {
    layers: LayerStore,
    /// A line for each layer that is unpacked, of all processes.
    begun: PathBuf,
    steps: Arc<Steps>,
}

impl LayerSink for Counted {
    fn contains(&self, layer: &LayerInfo) -> bool {
        self.steps.step();
        self.layers.contains(layer)
    }

    fn begin(&self, layer: &LayerInfo) -> Result<Box<dyn LayerWriter>, SinkError> {
        self.steps.step();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.begun)?;
        file.write_all(format!("{}\n", layer.diff_id).as_bytes())?;
        Ok(Box::new(Writing { writer: self.layers.begin(layer)?, steps: Arc::clone(&self.steps) }))
    }

    fn sweep(&self, needs: &Needs) -> Result<Vec<Swept>, SinkError> {
        self.layers.sweep(needs)
    }
}

struct Writing {
    writer: Box<dyn LayerWriter>,
    steps: Arc<Steps>,
}

impl io::Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.steps.step();
        // Little at a time, so that there are many moments to die in.
        self.writer.write(&bytes[..bytes.len().min(30_000)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl LayerWriter for Writing {
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.steps.step();
        self.writer.finish()?;
        self.steps.step();
        Ok(())
    }
}

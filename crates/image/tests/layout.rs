//! OCI layouts and the store, as a program sees them. Needs no privilege and no network; one test needs `skopeo`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_image::{Digest, Document, Error, NoSink, OciLayout, Platform, Progress, Store};
use support::{INDEX, Local, Memory, TinyImage, index, write_image, write_layout};

impl Local {
    fn layout(&self) -> PathBuf {
        self.dir.path().join("My Layout")
    }

    fn shown(&self) -> String {
        self.layout().display().to_string()
    }
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn failure(layout: &Path, store: &Store) -> Error {
    let result = OciLayout::open(layout).and_then(|l| l.platform(amd64()).import(store, &Memory::default()));
    result.unwrap_err()
}

fn assert_error(error: &Error, text: &str, remedy: Option<&str>) {
    assert_eq!(error.to_string(), text);
    assert_eq!(error.remedy().as_deref(), remedy, "{text}");
}

#[test]
fn an_imported_image_is_in_the_sink_and_found_in_the_store() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[1000, 0, 300_000]);
    write_image(&place.layout(), &tiny, "12");
    let sink = Memory::default();
    let image = OciLayout::open(place.layout()).unwrap().platform(amd64()).import(&place.store, &sink).unwrap();

    assert_eq!(image.reference.to_string(), "localhost/my-layout:12");
    assert_eq!((&image.digest, image.config.cmd.as_slice()), (&tiny.digest(), &["true".to_owned()][..]));
    assert_eq!(image.layers.iter().map(|l| l.size).collect::<Vec<_>>(), [1000, 0, 300_000]);
    assert!(sink.holds(&tiny));

    // Another handle is another process, as far as files go.
    let store = Store::open(place.store.path()).unwrap();
    assert_eq!(store.find(&image.reference, &amd64()).unwrap().as_ref(), Some(&image));
    assert_eq!(store.images().unwrap(), std::slice::from_ref(&image));
    assert_eq!(store.find(&image.reference, &"linux/arm64".parse().unwrap()).unwrap(), None);
    for leftovers in ["ingest", "leases"] {
        assert_eq!(fs::read_dir(store.path().join(leftovers)).unwrap().count(), 0, "{leftovers}");
    }

    // From the store alone, without the layout.
    fs::remove_dir_all(place.layout()).unwrap();
    let second = Memory::default();
    store.unpack(&image, &second).unwrap();
    assert!(second.holds(&tiny) && store.is_unpacked(&image, &second));
}

#[test]
fn a_second_import_writes_no_layer() {
    let place = Local::new();
    write_image(&place.layout(), &TinyImage::new("linux/amd64", &[10, 20]), "x");
    let sink = Memory::default();
    for _ in 0..2 {
        OciLayout::open(place.layout()).unwrap().platform(amd64()).import(&place.store, &sink).unwrap();
    }
    assert_eq!(sink.begun(), 2);
}

#[test]
fn a_layer_that_the_sink_refused_is_not_published() {
    let place = Local::new();
    write_image(&place.layout(), &TinyImage::new("linux/amd64", &[10]), "x");
    let sink = Memory::default();
    sink.fail("no room for it");
    let layout = OciLayout::open(place.layout()).unwrap().platform(amd64());
    let error = layout.import(&place.store, &sink).unwrap_err();
    let digest = Digest::sha256(&support::noise(10));
    assert_error(&error, &format!("can't unpack layer 0 ({digest}): no room for it"), None);
    assert!(place.store.images().unwrap().is_empty());
}

#[test]
fn names_choose_among_several_images() {
    let place = Local::new();
    let (a, b) = (TinyImage::new("linux/amd64", &[1]), TinyImage::new("linux/amd64", &[2]));
    let blobs = [a.blobs(), b.blobs()].concat();
    let both = [a.descriptor(None, Some("a")), b.descriptor(None, Some("example.com/b:1"))];
    write_layout(&place.layout(), &blobs, &index(&both));
    let dir = place.shown();

    let import = |path: &str| OciLayout::open(path)?.platform(amd64()).import(&place.store, &NoSink);
    assert_eq!(import(&format!("{dir}:a")).unwrap().digest, a.digest());
    let layout = OciLayout::open(&dir).unwrap().name("example.com/b:1").platform(amd64());
    assert_eq!(layout.import(&place.store, &NoSink).unwrap().reference.to_string(), "example.com/b:1");
    let named = OciLayout::open(format!("{dir}:a")).unwrap().platform(amd64()).reference("x.example/y:z".parse().unwrap());
    assert_eq!(named.import(&place.store, &NoSink).unwrap().reference.to_string(), "x.example/y:z");

    assert_error(
        &import(&dir).unwrap_err(),
        &format!("the layout {dir} has several images, and none was chosen: a and example.com/b:1"),
        Some("choose one of its names"),
    );
    assert_error(
        &import(&format!("{dir}:c")).unwrap_err(),
        &format!("the layout {dir} has no image named \"c\"; it has a and example.com/b:1"),
        Some("choose one of its names"),
    );
    fs::write(place.layout().join("index.json"), index(&[])).unwrap();
    assert_error(&import(&dir).unwrap_err(), &format!("the layout {dir} has no image"), None);
}

#[test]
fn an_index_within_the_index_leads_to_the_platform() {
    let place = Local::new();
    let images = ["linux/amd64", "linux/arm/v6", "linux/arm64/v8"].map(|p| (p, TinyImage::new(p, &[p.len()])));
    let inner = index(&images.iter().map(|(p, i)| i.descriptor(Some(p), None)).collect::<Vec<_>>());
    let outer = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{INDEX}","digest":"{}","size":{}}}]}}"#,
        Digest::sha256(&inner),
        inner.len()
    );
    let mut blobs: Vec<&[u8]> = images.iter().flat_map(|(_, i)| i.blobs()).collect();
    blobs.push(&inner);
    write_layout(&place.layout(), &blobs, outer.as_bytes());
    for (wanted, got) in [("linux/amd64", 0), ("linux/arm/v7", 1), ("linux/arm64", 2)] {
        let layout = OciLayout::open(place.layout()).unwrap().platform(wanted.parse().unwrap());
        assert_eq!(layout.import(&place.store, &NoSink).unwrap().digest, images[got].1.digest(), "{wanted}");
    }
    let layout = OciLayout::open(place.layout()).unwrap().platform("linux/riscv64".parse().unwrap());
    assert_error(
        &layout.import(&place.store, &NoSink).unwrap_err(),
        &format!("{} has no image for linux/riscv64; it has linux/amd64, linux/arm/v6 and linux/arm64", place.shown()),
        Some("choose one that there is, with `platform`"),
    );
}

#[test]
fn an_image_for_another_platform_is_refused_though_no_index_says_so() {
    let place = Local::new();
    write_image(&place.layout(), &TinyImage::new("linux/s390x", &[1]), "x");
    assert_error(
        &failure(&place.layout(), &place.store),
        "localhost/my-layout:x has no image for linux/amd64; it has linux/s390x",
        Some("choose one that there is, with `platform`"),
    );
}

#[test]
fn what_is_not_a_layout_is_said_to_be_none() {
    let place = Local::new();
    let dir = place.shown();
    let remedy = Some("`skopeo copy docker://IMAGE oci:DIRECTORY:NAME` makes one");
    let check = |why: &str| {
        assert_error(&failure(&place.layout(), &place.store), &format!("{dir} isn't an OCI image layout: {why}"), remedy);
    };
    check("there is no such directory");
    fs::create_dir(place.layout()).unwrap();
    check("it has no file `oci-layout`");
    fs::write(place.layout().join("oci-layout"), "{}").unwrap();
    check("its file `oci-layout` has no imageLayoutVersion");
    fs::write(place.layout().join("oci-layout"), r#"{"imageLayoutVersion":"2.0"}"#).unwrap();
    check("its version is \"2.0\", and only 1.x is known");
    fs::write(place.layout().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    check("it has no file `index.json`");
    fs::write(place.layout().join("index.json"), TinyImage::new("linux/amd64", &[]).manifest).unwrap();
    check("its `index.json` is a manifest");
    fs::write(place.layout().join("index.json"), "{").unwrap();
    let error = failure(&place.layout(), &place.store);
    let why = "it isn't JSON: EOF while parsing an object at line 1 column 1";
    assert_error(&error, &format!("can't use the index.json of {dir}: {why}"), None);
}

#[test]
fn every_damaged_byte_is_found_and_nothing_of_it_kept() {
    let tiny = TinyImage::new("linux/amd64", &[100, 5000]);
    let parts: [(&str, &[u8]); 4] =
        [("the manifest", &tiny.manifest), ("the config", &tiny.config), ("layer 0", &tiny.layers[0]), ("layer 1", &tiny.layers[1])];
    for (part, bytes) in parts {
        let place = Local::new();
        write_image(&place.layout(), &tiny, "x");
        let digest = Digest::sha256(bytes);
        let blob = place.layout().join("blobs/sha256").join(digest.hex());
        let remedy = Some("try again; if it stays so, what serves the image is damaged");
        let prefix = format!("can't use {part} of {}: expected", place.shown());
        let length = bytes.len();

        let mut wrong = bytes.to_vec();
        wrong[length / 2] ^= 1;
        fs::write(&blob, &wrong).unwrap();
        let text = format!("{prefix} {digest}, got {}", Digest::sha256(&wrong));
        assert_error(&failure(&place.layout(), &place.store), &text, remedy);

        fs::write(&blob, &bytes[..length - 1]).unwrap();
        let text = format!("{prefix} {length} bytes, got {} bytes", length - 1);
        assert_error(&failure(&place.layout(), &place.store), &text, remedy);

        fs::write(&blob, [bytes, b"!"].concat()).unwrap();
        assert_error(&failure(&place.layout(), &place.store), &format!("{prefix} {length} bytes, got more"), remedy);

        fs::remove_file(&blob).unwrap();
        let text = format!("{prefix} {digest}, got nothing: its blob isn't in the layout");
        assert_error(&failure(&place.layout(), &place.store), &text, remedy);

        assert!(place.store.images().unwrap().is_empty());
        assert!(place.store.blob(&digest).unwrap().is_none());
        assert_eq!(fs::read_dir(place.store.path().join("ingest")).unwrap().count(), 0, "{part}");
        // Put right, it works: nothing wrong was remembered.
        fs::write(&blob, bytes).unwrap();
        let sink = Memory::default();
        OciLayout::open(place.layout()).unwrap().platform(amd64()).import(&place.store, &sink).unwrap();
        assert!(sink.holds(&tiny));
    }
}

#[test]
fn a_blob_that_a_power_cut_emptied_is_mended_by_the_next_import() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[5000]);
    write_image(&place.layout(), &tiny, "x");
    let layout = OciLayout::open(place.layout()).unwrap().platform(amd64());
    let image = layout.import(&place.store, &NoSink).unwrap();
    for (bytes, found) in [(&tiny.layers[0], true), (&tiny.config, false), (&tiny.manifest, false)] {
        let path = place.store.path().join("blobs/sha256").join(Digest::sha256(bytes).hex());
        fs::write(&path, "").unwrap();
        assert_eq!(place.store.find(&image.reference, &amd64()).unwrap().is_some(), found);
        let sink = Memory::default();
        assert_eq!(layout.import(&place.store, &sink).unwrap(), image);
        assert!(sink.holds(&tiny));
        assert_eq!(fs::read(&path).unwrap(), *bytes);
    }
}

#[test]
fn a_fifo_in_the_place_of_a_blob_blocks_nobody() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[10]);
    write_image(&place.layout(), &tiny, "x");
    let blob = place.layout().join("blobs/sha256").join(Digest::sha256(&tiny.layers[0]).hex());
    fs::remove_file(&blob).unwrap();
    assert!(Command::new("mkfifo").arg(&blob).status().unwrap().success());
    let text = format!("can't read {}: it isn't a regular file", blob.display());
    assert_error(&failure(&place.layout(), &place.store), &text, None);
}

#[test]
fn many_that_import_at_once_unpack_each_layer_once() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[400_000, 400_000, 200_000, 7]);
    write_image(&place.layout(), &tiny, "x");
    let sink = Memory::default();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(place.store.path()).unwrap();
                OciLayout::open(place.layout()).unwrap().platform(amd64()).import(&store, &sink).unwrap();
            });
        }
    });
    // Two of the four layers are the same bytes.
    assert_eq!(sink.begun(), 3);
    assert!(sink.holds(&tiny));
}

#[test]
fn progress_ends_with_every_layer_and_done() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[600_000]);
    write_image(&place.layout(), &tiny, "x");
    let seen = std::sync::Mutex::new(Vec::new());
    let layout = OciLayout::open(place.layout()).unwrap().platform(amd64());
    layout.progress(|p| seen.lock().unwrap().push(p)).import(&place.store, &NoSink).unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(matches!(seen.first(), Some(Progress::Resolving { .. })));
    assert!(matches!(seen.get(1), Some(Progress::Layer { done: 0, total: 600_000, .. })));
    assert!(matches!(&seen[seen.len() - 3..], [
        Progress::Layer { done: 600_000, .. },
        Progress::Unpacked { .. },
        Progress::Done { digest, .. },
    ] if *digest == tiny.digest()));
}

/// Needs `skopeo`, which writes layouts in its own way.
#[test]
fn a_layout_that_skopeo_wrote_is_read() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("SKIP: skopeo");
        return;
    }
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[2000, 1]);
    write_image(&place.layout(), &tiny, "x");
    let copy = place.dir.path().join("copy");
    let to = format!("oci:{}:y", copy.display());
    let status = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--preserve-digests"])
        .args([format!("oci:{}:x", place.shown()), to])
        .status();
    assert!(status.unwrap().success());
    let layout = OciLayout::open(format!("{}:y", copy.display())).unwrap().platform(amd64());
    assert_eq!(layout.import(&place.store, &NoSink).unwrap().digest, tiny.digest());
}

#[test]
fn what_we_read_oci_spec_reads_the_same() {
    let tiny = TinyImage::new("linux/arm64/v8", &[3, 4]);
    let theirs = oci_spec::image::ImageManifest::from_reader(tiny.manifest.as_slice()).unwrap();
    let Ok(Document::Manifest(ours)) = Document::parse(&tiny.manifest) else { panic!("a manifest") };
    assert_eq!(ours.config.digest.to_string(), theirs.config().digest().to_string());
    let sizes = |m: &oci_spec::image::ImageManifest| m.layers().iter().map(|l| l.size()).collect::<Vec<_>>();
    assert_eq!(ours.layers.iter().map(|l| l.size).collect::<Vec<_>>(), sizes(&theirs));
    let theirs = oci_spec::image::ImageConfiguration::from_reader(tiny.config.as_slice()).unwrap();
    let ours = coracle_image::ImageConfig::parse(&tiny.config).unwrap();
    assert_eq!(&ours.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(), theirs.rootfs().diff_ids());
    assert_eq!(Some(&ours.cmd), theirs.config().as_ref().unwrap().cmd().as_ref());
}

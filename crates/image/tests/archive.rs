//! Archives of images: every form that the field writes, and what strangers could write. Tests of interoperation need `skopeo`.
#![cfg(feature = "archive")]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use coracle_image::{Archive, Change, Digest, Error, Image, NoSink, OciLayout, RootfsArchive};
use serde_json::{Value, json};
use support::{Local, Memory, TinyImage, amd64, noise, write_image};

impl Local {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, bytes: &[u8], sink: &Memory) -> Result<Vec<Image>, Error> {
        let path = self.write("some.file", bytes);
        let loaded = Archive::open(&path, &self.store)?.platform(amd64()).import(&self.store, sink)?;
        // From a pipe it's the same.
        let piped = Archive::read(bytes, "standard input", &self.store)?.platform(amd64()).import(&self.store, sink)?;
        assert_eq!(
            loaded.iter().map(|image| &image.digest).collect::<Vec<_>>(),
            piped.iter().map(|image| &image.digest).collect::<Vec<_>>()
        );
        Ok(loaded)
    }

    /// All files of the store that aren't its frame.
    fn left(&self) -> Vec<PathBuf> {
        fn gather(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    gather(&path, found);
                } else if !path.ends_with("version") && !path.ends_with("lock") {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        gather(self.store.path(), &mut found);
        found
    }
}

/// An entry of an archive.
enum Entry<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}
use Entry::{File, Link};

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        let name = match entry {
            File(name, _) | Link(name, _) => name,
        };
        // As it is: the crate's own setter refuses what a stranger would write.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        match entry {
            File(_, bytes) => {
                header.set_size(bytes.len() as u64);
                header.set_cksum();
                builder.append(&header, *bytes).unwrap();
            }
            Link(_, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
                header.set_cksum();
                builder.append(&header, std::io::empty()).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// An image as `docker save` of versions 1.10 to 24 has it, with a layer that is a link to another one's.
fn saved(tiny: &TinyImage, tags: &Value, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = format!("{}.json", Digest::sha256(&tiny.config).hex());
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{n}{n}{n}/layer.tar")).collect();
    let versions: Vec<String> = (0..layers.len()).map(|n| format!("{n}{n}{n}/VERSION")).collect();
    let manifest = json!([{ "Config": config, "RepoTags": tags, "Layers": paths }]).to_string();
    let mut entries = vec![File(&config, &tiny.config)];
    for ((path, version), layer) in paths.iter().zip(&versions).zip(layers) {
        entries.push(File(version, b"1.0"));
        entries.push(File(path, layer));
    }
    entries.push(File("repositories", br#"{"app":{"1":"000"}}"#));
    entries.push(File("manifest.json", manifest.as_bytes()));
    tar(&entries)
}

#[test]
fn dockers_archives_load_whatever_they_are_compressed_by() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[1000, 200_000]);
    let archive = saved(&tiny, &json!(["app:1", "localhost:5000/team/app:latest"]), &tiny.layers);
    let sink = Memory::default();
    let images = place.load(&archive, &sink).unwrap();
    let names: Vec<String> = images.iter().map(|image| image.reference.familiar()).collect();
    assert_eq!(names, ["app:1", "localhost:5000/team/app:latest"]);
    assert_eq!(images[0].id, Digest::sha256(&tiny.config));
    assert_eq!(images[0].config.cmd, ["true"]);
    assert!(sink.holds(&tiny));
    for wrapped in [gzip(&archive), zst(&archive)] {
        let sink = Memory::default();
        let again = place.load(&wrapped, &sink).unwrap();
        assert_eq!(again, images);
        assert!(sink.holds(&tiny));
    }
    assert_eq!(place.store.images().unwrap(), images);
    assert_eq!(place.store.check(false, &NoSink).unwrap().faults, []);
    let stray = |path: &PathBuf| ["ingest", "leases", "trash"].iter().any(|dir| path.starts_with(place.store.path().join(dir)));
    assert!(!place.left().iter().any(stray));
}

#[test]
fn layers_that_are_links_or_compressed_are_followed_and_hashed() {
    let place = Local::new();
    // The same layer twice, as old Docker wrote it: the second a link to the first.
    let twice = noise(5000);
    let tiny = TinyImage::of(
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{0}","{0}"]}}}}"#, Digest::sha256(&twice))
            .into_bytes(),
        vec![twice.clone(), twice.clone()],
    );
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["app:1"], "Layers": ["a/layer.tar", "b/layer.tar"] }]).to_string();
    let archive = tar(&[
        File("c.json", &tiny.config),
        Link("b/layer.tar", "../a/layer.tar"),
        File("a/layer.tar", &twice),
        File("manifest.json", manifest.as_bytes()),
    ]);
    let sink = Memory::default();
    let images = place.load(&archive, &sink).unwrap();
    assert!(sink.holds(&tiny));
    assert_eq!(images[0].layers.len(), 2);

    // Compressed within: the blob is what lies there, the diffID what is inside.
    let blob = gzip(&twice);
    let archive = saved(&tiny, &Value::Null, &[blob.clone(), blob.clone()]);
    let image = place.load(&archive, &Memory::default().inflating()).unwrap().remove(0);
    assert_eq!(image.layers[0].digest, Digest::sha256(&blob));
    assert_eq!(image.layers[0].media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(image.layers[0].diff_id, Digest::sha256(&twice));
    assert_eq!(image.reference.to_string(), format!("localhost/some-file@{}", image.digest));
}

#[test]
fn archives_from_before_there_was_a_manifest_load() {
    let place = Local::new();
    let (base, top) = (noise(3000), noise(4000));
    let archive = tar(&[
        File("repositories", br#"{"localhost:5000/old":{"v1":"bbb","v2":"bbb"},"base":{"latest":"aaa"}}"#),
        File("aaa/VERSION", b"1.0"),
        File("aaa/json", br#"{"id":"aaa","os":"linux","architecture":"amd64"}"#),
        File("aaa/layer.tar", &base),
        File(
            "bbb/json",
            br#"{"id":"bbb","parent":"aaa","os":"linux","architecture":"amd64","created":"2014-01-01T00:00:00Z","config":{"Cmd":["sh"]}}"#,
        ),
        File("bbb/layer.tar", &top),
    ]);
    let sink = Memory::default();
    let images = place.load(&archive, &sink).unwrap();
    let names: Vec<String> = images.iter().map(|image| image.reference.familiar()).collect();
    assert_eq!(names, ["base:latest", "localhost:5000/old:v1", "localhost:5000/old:v2"]);
    assert_eq!(images[1].config.diff_ids, [Digest::sha256(&base), Digest::sha256(&top)]);
    assert_eq!((images[1].config.cmd[0].as_str(), images[1].config.created.as_deref()), ("sh", Some("2014-01-01T00:00:00Z")));
    assert_eq!(sink.get(&Digest::sha256(&top)), Some(top));
}

#[test]
fn the_same_images_make_the_same_bytes_and_come_back_the_same() {
    let place = Local::new();
    let (a, b) = (TinyImage::new("linux/amd64", &[100, 70_000]), TinyImage::new("linux/amd64", &[100, 5]));
    let mut images = Vec::new();
    for (tiny, name) in [(&a, "app:1"), (&b, "localhost:5000/b:2")] {
        let layout = place.path(name.split(':').next_back().unwrap());
        write_image(&layout, tiny, "x");
        let layout = OciLayout::open(layout).unwrap().platform(amd64()).reference(name.parse().unwrap());
        images.push(layout.import(&place.store, &NoSink).unwrap());
    }
    images.push(place.store.tag("app:1", &"other:1".parse().unwrap(), &amd64()).unwrap());
    let export = |images: &[Image]| {
        let mut bytes = Vec::new();
        place.store.export(images).unwrap().archive(&mut bytes, "memory").unwrap();
        bytes
    };
    let archive = export(&images);
    std::thread::sleep(Duration::from_millis(1100));
    images.reverse();
    assert!(archive == export(&images), "two exports differ");

    let names: Vec<String> = tar::Archive::new(archive.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(names[names.len() - 3..], ["index.json", "manifest.json", "oci-layout"]);
    // Seven blobs, the shared one once.
    assert_eq!(names.len(), 2 + 7 + 3);

    let other = Local::new();
    let sink = Memory::default();
    let mut loaded = other.load(&archive, &sink).unwrap();
    let key = |image: &Image| image.reference.to_string();
    loaded.sort_by_key(key);
    images.sort_by_key(key);
    assert_eq!(loaded, images);
    assert!(sink.holds(&a) && sink.holds(&b));

    // As a directory, too.
    let directory = place.path("exported");
    place.store.export(&images[..1]).unwrap().layout(&directory).unwrap();
    let back = OciLayout::open(&directory).unwrap().platform(amd64()).import(&Local::new().store, &NoSink).unwrap();
    assert_eq!(back, images[0]);
    let error = place.store.export(&images).unwrap().layout(&directory).unwrap_err().to_string();
    assert!(error.ends_with("there is something in it already"), "{error}");
}

#[test]
fn what_cant_be_exported_says_why() {
    let place = Local::new();
    let tiny = TinyImage::new("linux/amd64", &[1000]);
    write_image(&place.path("layout"), &tiny, "x");
    let layout = OciLayout::open(place.path("layout")).unwrap().platform(amd64());
    let image = layout.import(&place.store, &NoSink).unwrap();
    let blob = place.store.path().join("blobs/sha256").join(image.layers[0].digest.hex());
    let mut damaged = noise(1000);
    damaged[5] ^= 1;
    for (bytes, got) in [(&damaged[..], Digest::sha256(&damaged)), (&damaged[..10], Digest::sha256(&damaged[..10]))] {
        fs::write(&blob, bytes).unwrap();
        let error = place.store.export(std::slice::from_ref(&image)).unwrap().archive(&mut Vec::new(), "memory").unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&got.to_string()), "{error}");
    }
    fs::remove_file(&blob).unwrap();
    let error = place.store.export(std::slice::from_ref(&image)).unwrap_err();
    assert!(matches!(error, Error::NoBlob { index: 0, .. }) && error.remedy().is_some(), "{error}");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    fs::write(&blob, &tiny.layers[0]).unwrap();
    let error = place.store.export(&[image]).unwrap().archive(&mut { full }, "/dev/full").unwrap_err();
    assert_eq!(error.to_string(), "can't write /dev/full: No space left on device (os error 28)");
    assert_eq!(error.remedy().as_deref(), Some("free space on the file system of /dev/full"));
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let tiny = TinyImage::new("linux/amd64", &[1000, 60_000]);
    let good = saved(&tiny, &json!(["app:1"]), &tiny.layers);
    let manifest = |config: &str, layers: &[&str]| json!([{ "Config": config, "RepoTags": ["app:1"], "Layers": layers }]).to_string();
    let with = |manifest: &str, more: &[Entry<'_>]| {
        let mut entries = vec![
            File("c.json", &tiny.config),
            File("0.tar", &tiny.layers[0]),
            File("1.tar", &tiny.layers[1]),
            File("manifest.json", manifest.as_bytes()),
        ];
        entries.extend(more.iter().map(|entry| match entry {
            File(name, bytes) => File(name, bytes),
            Link(name, target) => Link(name, target),
        }));
        tar(&entries)
    };
    let fine = manifest("c.json", &["0.tar", "1.tar"]);
    let other = noise(60_001);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "it ends where an entry should begin"),
        (b"hello, I'm text, and long enough to be something".repeat(40), "it isn't a tar archive, or is damaged (byte 0)"),
        (tar(&[File("etc/passwd", b"root")]), "it has neither an index.json nor a manifest.json"),
        (tar(&[File("manifest.json", b"{}")]), "its manifest.json isn't as it should be: "),
        (tar(&[File("manifest.json", b"[]")]), "it holds no image"),
        (with(&manifest("../c.json", &[]), &[]), "\"../c.json\": its path has `..` in it"),
        (with(&manifest("/etc/passwd", &[]), &[]), "\"/etc/passwd\": its path is absolute"),
        (with(&manifest("c.json", &["0.tar", "../../1.tar"]), &[]), "\"../../1.tar\": its path has `..` in it"),
        (with(&manifest("c.json", &["0.tar", "/1.tar"]), &[]), "\"/1.tar\": its path is absolute"),
        (with(&manifest("c.json", &["0.tar", "2.tar"]), &[]), "2.tar isn't in it"),
        (with(&manifest("c.json", &["0.tar"]), &[]), "its manifest.json lists 1 layers, and the config has 2 diff_ids"),
        (with(&manifest("no.json", &["0.tar", "1.tar"]), &[]), "no.json isn't in it"),
        (with(&manifest("0.tar", &["0.tar", "1.tar"]), &[]), "can't use the config 0.tar of"),
        (with(&fine, &[Link("l", "/etc/passwd")]), "l is a link to \"/etc/passwd\": it leads out of the archive"),
        (with(&fine, &[Link("a/l", "../../x")]), "a/l is a link to \"../../x\": it leads out of the archive"),
        (with(&manifest("c.json", &["0.tar", "l"]), &[Link("l", "m"), Link("m", "l")]), "\"l\": it's a link to a link, and so on"),
        (with(&manifest("c.json", &["0.tar", "l"]), &[Link("l", "nowhere")]), "l isn't in it"),
        (with(&fine, &[File("0.tar", &other)]), "0.tar is in it twice"),
        (with(&fine, &[File("./manifest.json", fine.as_bytes())]), "manifest.json is in it twice"),
        (with(&fine, &[File("../out", b"")]), "../out: its path has `..` in it"),
        (with(&fine, &[File("/out", b"")]), "/out: its path is absolute"),
        // The wrong layer under the right name: known when it was read.
        (with(&manifest("c.json", &["0.tar", "x.tar"]), &[File("x.tar", &other)]), "can't use layer 1 of"),
        (with(&manifest("c.json", &["1.tar", "0.tar"]), &[]), "can't use layer "),
        (json_bomb(), "its manifest.json isn't as it should be: "),
        (good[..good.len() / 2].to_vec(), "it ends in the middle of"),
        (good[..good.len() - 2 * 512].to_vec(), ""),
        (gzip(&good)[..20_000].to_vec(), "it can't be inflated: "),
        (zst(&good)[..20_000].to_vec(), "it can't be inflated: "),
        ([gzip(&good), b"trailing".to_vec()].concat(), "it can't be inflated: "),
        (b"\xfd7zXZ\0rest".repeat(100), "it's compressed by xz"),
        (b"BZh91AY&SY".repeat(100), "it's compressed by bzip2"),
        (layout(&tiny, |index| index["manifests"][0]["digest"] = "sha256:../../etc/passwd".into()), "can't use the index.json of"),
        (layout(&tiny, |index| index["manifests"][0]["size"] = 5.into()), "can't use the manifest of"),
        (layout(&tiny, |index| index["manifests"][0]["digest"] = Digest::sha256(b"").to_string().into()), "isn't in the archive"),
        (layout(&tiny, |index| index["manifests"] = json!([])), "it holds no image"),
        (layout(&tiny, |index| index["layers"] = json!([])), "it has both `manifests` and `layers`"),
    ];
    for (bytes, why) in cases {
        let place = Local::new();
        let sink = Memory::default();
        let path = place.write("some.file", &bytes);
        let from = |archive: Result<Archive<'_>, Error>| archive?.platform(amd64()).import(&place.store, &sink);
        for result in [from(Archive::open(&path, &place.store)), from(Archive::read(bytes.as_slice(), "standard input", &place.store))] {
            match result {
                // What is cut off behind the last entry is still an archive.
                Ok(images) => assert!(why.is_empty() && images.len() == 1, "no {why:?}"),
                Err(error) => {
                    assert!(error.to_string().contains(why) && !why.is_empty(), "{why:?} isn't in: {error}");
                    assert!(matches!(error, Error::Archive { .. } | Error::Document { .. } | Error::Corrupt { .. }), "{error:?}");
                    assert_eq!(place.left(), Vec::<PathBuf>::new(), "{why}");
                }
            }
        }
    }
}

/// A config whose JSON is nested deeper than anybody should read.
fn json_bomb() -> Vec<u8> {
    let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    tar(&[File("manifest.json", bomb.as_bytes())])
}

/// An OCI layout in an archive, whose index was changed.
fn layout(tiny: &TinyImage, change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut index: Value = serde_json::from_slice(&support::index(&[tiny.descriptor(None, Some("x"))])).unwrap();
    change(&mut index);
    let index = index.to_string();
    let names: Vec<String> = tiny.blobs().iter().map(|blob| format!("blobs/sha256/{}", Digest::sha256(blob).hex())).collect();
    let mut entries = vec![File("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), File("index.json", index.as_bytes())];
    entries.extend(names.iter().zip(tiny.blobs()).map(|(name, blob)| File(name, blob)));
    tar(&entries)
}

#[test]
fn damage_of_any_kind_is_told_or_harmless_and_leaves_nothing() {
    let tiny = TinyImage::new("linux/amd64", &[600, 40]);
    let docker = saved(&tiny, &json!(["app:1"]), &tiny.layers);
    let oci = layout(&tiny, |_| {});
    let place = Local::new();
    let store = place.store.clone().durability(coracle_image::Durability::None);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut taken, mut refused) = (0, 0);
    for (n, good) in [&docker, &oci, &gzip(&docker), &zst(&oci)].into_iter().cycle().take(1500).enumerate() {
        let mut bytes = good.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = random(256) as u8,
                2 => bytes.truncate(at.max(1)),
                3 => {
                    // A block more or less: everything behind it moves.
                    let block = at / 512 * 512;
                    let end = bytes.len().min(block + 512);
                    drop(bytes.drain(block..end));
                }
                _ => {
                    let block = at / 512 * 512;
                    let copy = bytes[block..bytes.len().min(block + 512)].to_vec();
                    bytes.splice(block..block, copy);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        match Archive::read(bytes.as_slice(), "it", &store).and_then(|archive| archive.platform(amd64()).import(&store, &NoSink)) {
            Ok(images) => {
                taken += 1;
                assert_eq!(store.check(false, &NoSink).unwrap().faults, [], "{n}");
                assert_eq!(images[0].layers.len(), 2);
                store.prune(true, &NoSink).unwrap();
                store.empty_trash().unwrap();
            }
            Err(Error::Archive { .. } | Error::Document { .. } | Error::Corrupt { .. } | Error::NoSuchPlatform { .. }) => refused += 1,
            Err(error) => panic!("{n}: {error:?}"),
        }
        assert_eq!(place.left(), Vec::<PathBuf>::new(), "{n}");
    }
    assert!(taken > 50 && refused > 800, "{taken} taken, {refused} refused");
}

#[test]
fn an_archive_with_too_many_entries_is_refused() {
    // Headers of an empty file each: 100 MB that gzip makes small.
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(0);
    let mut bytes = Vec::with_capacity(201_000 * 512);
    for n in 0..201_000 {
        header.as_mut_bytes()[..6].copy_from_slice(format!("{n:06}").as_bytes());
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
    }
    let place = Local::new();
    let error = Archive::read(bytes.as_slice(), "it", &place.store).unwrap_err();
    assert_eq!(error.to_string(), "can't use the archive it: it has more than 200000 entries");
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn a_root_file_system_becomes_an_image_of_one_layer() {
    let place = Local::new();
    let rootfs = tar(&[File("etc/hostname", b"box\n")]);
    let reference = "localhost/base:1".parse().unwrap();
    let import = |bytes: &[u8], sink: &Memory| {
        RootfsArchive::new(bytes, "rootfs.tar")
            .change(r#"CMD ["cat", "/etc/hostname"]"#.parse::<Change>().unwrap())
            .change("ENV A=1".parse::<Change>().unwrap())
            .platform(amd64())
            .message("made by hand")
            .created(Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)))
            .import(&place.store, &reference, sink)
    };
    let sink = Memory::default();
    let plain = import(&rootfs, &sink).unwrap();
    assert_eq!(
        (plain.config.cmd.as_slice(), plain.config.env.as_slice()),
        (&["cat".into(), "/etc/hostname".into()][..], &["A=1".into()][..])
    );
    assert_eq!(plain.config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert_eq!(plain.layers[0].diff_id, Digest::sha256(&rootfs));
    assert_eq!(sink.get(&plain.layers[0].diff_id), Some(rootfs.clone()));
    // The same once more is the same image.
    assert_eq!(import(&rootfs, &Memory::default()).unwrap(), plain);
    for (packed, media_type) in [(gzip(&rootfs), "tar+gzip"), (zst(&rootfs), "tar+zstd")] {
        let image = import(&packed, &Memory::default().inflating()).unwrap();
        assert_eq!(image.layers[0].diff_id, plain.layers[0].diff_id);
        assert_eq!(image.layers[0].digest, Digest::sha256(&packed));
        assert!(image.layers[0].media_type.ends_with(media_type), "{}", image.layers[0].media_type);
    }
    assert_eq!(place.store.images().unwrap().len(), 1);

    let place = Local::new();
    let refused = |bytes: &[u8], sink: &Memory| RootfsArchive::new(bytes, "it").import(&place.store, &reference, sink).unwrap_err();
    for (bytes, why) in [
        (&b""[..], "can't use the archive it: it is empty"),
        (&gzip(&rootfs)[..60], "can't use the archive it: it can't be inflated: "),
        (b"BZh91AY&SY", "can't use the archive it: it's compressed by bzip2"),
    ] {
        let error = refused(bytes, &Memory::default()).to_string();
        assert!(error.starts_with(why), "{error}");
        assert_eq!(place.left(), Vec::<PathBuf>::new());
    }
    let sink = Memory::default();
    sink.fail("not a root file system");
    assert!(matches!(refused(&rootfs, &sink), Error::Sink { .. }));
    assert_eq!(place.left(), Vec::<PathBuf>::new());
    // Blobs that aren't kept go.
    let frugal = place.store.clone().keep_blobs(false);
    RootfsArchive::new(rootfs.as_slice(), "it").import(&frugal, &reference, &Memory::default()).unwrap();
    assert_eq!(fs::read_dir(place.store.path().join("blobs/sha256")).unwrap().count(), 2);
}

/// Runs skopeo; false where it isn't installed.
fn skopeo(arguments: &[&str]) -> bool {
    let Ok(output) = Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet"]).args(arguments).output() else {
        println!("SKIP: skopeo");
        return false;
    };
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// An image that any tool takes: its layers are archives. One of them is compressed.
fn real() -> TinyImage {
    let layers = [tar(&[File("a", b"below\n")]), tar(&[File("b", &noise(100_000))])];
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": { "Cmd": ["true"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created_by": "a" }, { "created_by": "b" }],
    });
    TinyImage::of(config.to_string().into_bytes(), layers.to_vec())
}

#[test]
fn skopeo_and_we_read_each_others_archives() {
    let place = Local::new();
    let tiny = real();
    write_image(&place.path("layout"), &tiny, "1");
    let from = format!("oci:{}:1", place.path("layout").display());
    let (docker, oci, oci_dir) = (place.path("docker.tar"), place.path("oci.tar"), place.path("theirs"));
    for to in [
        format!("docker-archive:{}:localhost/theirs:1", docker.display()),
        format!("oci-archive:{}:localhost/theirs:1", oci.display()),
        format!("oci:{}:1", oci_dir.display()),
    ] {
        if !skopeo(&[&from, &to]) {
            return;
        }
    }
    for archive in [&docker, &oci] {
        let place = Local::new();
        let sink = Memory::default().inflating();
        let images = Archive::open(archive, &place.store).unwrap().platform(amd64()).import(&place.store, &sink).unwrap();
        assert_eq!(images.len(), 1, "{}", archive.display());
        assert_eq!(images[0].reference.to_string(), "localhost/theirs:1");
        assert!(sink.holds(&tiny), "{}", archive.display());
        assert_eq!(images[0].id, Digest::sha256(&tiny.config));
    }

    // And the other way: one archive, read as either form, and the directory.
    let image = OciLayout::open(place.path("layout")).unwrap().platform(amd64()).reference("localhost/ours:1".parse().unwrap());
    let image = image.import(&place.store, &NoSink).unwrap();
    let (archive, directory) = (place.path("ours.tar"), place.path("ours"));
    let export = place.store.export(std::slice::from_ref(&image)).unwrap();
    export.archive(&mut fs::File::create(&archive).unwrap(), "ours.tar").unwrap();
    export.layout(&directory).unwrap();
    for (n, from) in [
        format!("docker-archive:{}:localhost/ours:1", archive.display()),
        format!("oci-archive:{}:1", archive.display()),
        format!("oci:{}:1", directory.display()),
    ]
    .iter()
    .enumerate()
    {
        let back = place.path(&format!("back{n}"));
        assert!(skopeo(&[from, &format!("oci:{}:1", back.display())]));
        let sink = Memory::default().inflating();
        let again = OciLayout::open(&back).unwrap().platform(amd64()).import(&Local::new().store, &sink).unwrap();
        assert!(sink.holds(&tiny), "{from}");
        assert_eq!(again.config.cmd, image.config.cmd, "{from}");
        // From Docker's form skopeo makes a config of its own; and it compresses layers on their way into a directory.
        if n > 0 {
            assert_eq!(again.id, image.id, "{from}");
        }
    }
}

#[test]
fn buildah_pulls_our_archive() {
    let place = Local::new();
    write_image(&place.path("layout"), &real(), "1");
    let image = OciLayout::open(place.path("layout")).unwrap().platform(amd64()).reference("localhost/ours:1".parse().unwrap());
    let image = image.import(&place.store, &NoSink).unwrap();
    let archive = place.path("ours.tar");
    let export = place.store.export(std::slice::from_ref(&image)).unwrap();
    export.archive(&mut fs::File::create(&archive).unwrap(), "ours.tar").unwrap();
    for form in ["docker-archive", "oci-archive"] {
        let (root, run) = (place.path(&format!("root-{form}")), place.path(&format!("run-{form}")));
        let Ok(output) = Command::new("buildah")
            .arg("--root")
            .arg(root)
            .arg("--runroot")
            .arg(run)
            .args(["--storage-driver", "vfs", "pull", "--policy", "always"])
            .arg(format!("{form}:{}", archive.display()))
            .output()
        else {
            println!("SKIP: buildah");
            return;
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() && stderr.contains("user namespace") {
            println!("SKIP: user-namespaces");
            return;
        }
        assert!(output.status.success(), "{form}: {stderr}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), image.id.hex(), "{form}");
    }
}

//! Removing layers, and checking them against what was recorded.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use coracle_image::{Digest, LayerInfo, LayerSink, Needs, NoSink, OciLayout, Store, SweptKind};
use coracle_layers::{LayerStore, Options, Ownership};

use crate::archive::{Archive, Item, gzip};
use crate::scratch::{is_root, scratch};

fn options() -> Options {
    if is_root() { Options::root() } else { Options::user(Ownership::Squash) }
}

/// Unpacks an archive, and tells where its files are.
fn unpacked(store: &LayerStore, archive: Vec<u8>) -> (LayerInfo, PathBuf) {
    let blob = gzip(&archive);
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let info = LayerInfo::new(0, Digest::sha256(&blob), Digest::sha256(&archive), blob.len() as u64, media_type);
    let mut writer = store.begin(&info).unwrap();
    writer.write_all(&blob).unwrap();
    writer.finish().unwrap();
    let directory = store.paths(std::slice::from_ref(&info.diff_id)).unwrap().remove(0);
    (info, directory)
}

fn everything() -> Vec<u8> {
    Archive::new()
        .file("etc/passwd", "root:x:0:0:")
        .file("empty", "")
        .file("big", "0123456789abcdef".repeat(100_000))
        .file("with space % and \u{e9}", "x")
        .item(Item::new(b'2', "link").link("etc/passwd"))
        .item(Item::new(b'1', "hard").link("etc/passwd"))
        .item(Item::new(b'5', "closed").mode(0o700))
        .item(Item::new(b'6', "fifo"))
        .file("etc/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .end()
}

/// What a check finds, as `path: what`, paths relative to the layer.
fn faults(store: &LayerStore, root: &Path) -> Vec<String> {
    let checked = store.check(false, || Ok(Needs::default())).unwrap();
    let shown = |fault: &coracle_image::Fault| {
        let path = fault.path.strip_prefix(root).unwrap_or(&fault.path);
        format!("{}: {}", path.display(), fault.what)
    };
    let mut found: Vec<String> = checked.faults.iter().map(shown).collect();
    found.sort();
    found
}

#[test]
fn a_layer_that_nobody_touched_has_no_fault() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (_, root) = unpacked(&store, everything());
    let checked = store.check(true, || Ok(Needs::default())).unwrap();
    assert_eq!(checked.faults, []);
    // The root, etc, passwd, empty, big, the odd name, two links, closed, fifo, and the whiteout.
    assert_eq!((checked.layers, checked.files, checked.unread, checked.unrecorded), (1, 11, 0, 0));
    assert!(root.exists());
}

#[test]
fn every_change_to_a_layer_is_found_and_named() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (_, root) = unpacked(&store, everything());
    let passwd = root.join("etc/passwd");
    let before = fs::metadata(&passwd).unwrap().modified().unwrap();

    // The same length and the same time: only the contents tell.
    fs::write(&passwd, "ROOT:x:0:0:").unwrap();
    fs::File::options().write(true).open(&passwd).unwrap().set_modified(before).unwrap();
    assert_eq!(faults(&store, &root), ["etc/passwd: has other contents", "hard: has other contents"]);
    fs::write(&passwd, "root:x:0:0:").unwrap();
    fs::File::options().write(true).open(&passwd).unwrap().set_modified(before).unwrap();
    assert_eq!(faults(&store, &root), Vec::<String>::new());

    let keep = |path: &str, act: &dyn Fn(&Path)| {
        // Each change alone, and the time of its directory put right afterwards.
        let parent = root.join(path).parent().unwrap().to_owned();
        let time = fs::metadata(&parent).unwrap().modified().unwrap();
        act(&root.join(path));
        fs::File::open(&parent).unwrap().set_modified(time).unwrap();
    };
    keep("empty", &|path| fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap());
    keep("big", &|path| fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap());
    keep("link", &|path| {
        fs::remove_file(path).unwrap();
        symlink("etc/shadow", path).unwrap();
    });
    keep("fifo", &|path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "").unwrap();
    });
    keep("more", &|path| fs::write(path, "").unwrap());
    keep("with space % and \u{e9}", &|path| fs::remove_file(path).unwrap());
    let found = faults(&store, &root);
    for wanted in [
        "big: has 1000 bytes and had 1600000",
        "empty: has mode 666 and had 644",
        "fifo: is a file and was a FIFO",
        "link: leads somewhere else",
        "more: doesn't belong to the layer",
        "with space % and \u{e9}: is missing",
    ] {
        assert!(found.iter().any(|fault| fault == wanted), "no {wanted:?} in {found:#?}");
    }
    if is_root() {
        std::os::unix::fs::chown(root.join("empty"), Some(5), Some(6)).unwrap();
        assert!(faults(&store, &root).contains(&"empty: belongs to 5:6 and belonged to 0:0".to_owned()));
    }
}

#[test]
fn a_changed_attribute_is_found_and_a_record_without_attributes_is_read() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let note = |name: &str, kind: u8| (name.to_owned(), kind);
    let mut archive = Archive::new();
    for (name, kind) in [note("file", b'0'), note("taken", b'0'), note("directory", b'5')] {
        archive = archive.pax(&[("SCHILY.xattr.user.note", b"as it was"), ("SCHILY.xattr.user.more", b"\0=")]).item(Item::new(kind, name));
    }
    let (info, root) = unpacked(&store, archive.file("plain", "x").end());
    if store.report(&info.diff_id).unwrap().skipped_total > 0 {
        return crate::scratch::skip("a file system with attributes of users");
    }
    assert_eq!(faults(&store, &root), [""; 0]);
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("file", "user.note", b"as it is!");
    set("plain", "user.new", b"");
    set("directory", "user.more", b"");
    rustix::fs::removexattr(root.join("taken"), "user.more").unwrap();
    let what = "has other extended attributes";
    let expected = ["directory", "file", "plain", "taken"].map(|path| format!("{path}: {what}"));
    assert_eq!(faults(&store, &root), expected);
    // What belongs to the machine is none of the image's.
    if is_root() {
        set("plain", "security.machine", b"label");
        assert_eq!(faults(&store, &root), expected);
    }

    let record = root.with_file_name("files");
    let text = fs::read_to_string(&record).unwrap();
    let older = |line: &str| {
        let mut words: Vec<&str> = line.splitn(9, ' ').collect();
        if words.len() == 9 {
            words.remove(7);
        }
        words.join(" ").replace("coracle-files 2", "coracle-files 1")
    };
    fs::write(&record, text.lines().map(|line| older(line) + "\n").collect::<String>()).unwrap();
    assert_eq!(faults(&store, &root), [""; 0]);
}

#[test]
fn a_damaged_record_is_a_fault_and_none_is_told() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let (_, root) = unpacked(&store, everything());
    let record = root.with_file_name("files");
    let text = fs::read_to_string(&record).unwrap();
    for damaged in ["", "coracle-files 1\n", "coracle-files 3\nend 0\n", &text[..text.len() - 2], &text.replacen(" 644 ", " 9 ", 1)] {
        fs::write(&record, damaged).unwrap();
        let found = faults(&store, &root);
        assert_eq!(found, [": has a damaged record"], "{damaged:.30}");
    }
    // Of an older version: nothing to compare with.
    fs::remove_file(&record).unwrap();
    let checked = store.check(true, || Ok(Needs::default())).unwrap();
    assert_eq!((checked.layers, checked.unrecorded, checked.faults.len()), (0, 1, 0));
}

#[test]
fn repair_moves_a_damaged_layer_away_unless_somebody_uses_it() {
    let scratch = scratch();
    let images = Store::open(scratch.path().join("images")).unwrap();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let image = import(&images, &store, &scratch.path().join("layout"), everything());
    let root = store.paths(&image.config.diff_ids).unwrap().remove(0);
    fs::write(root.join("big"), "damaged").unwrap();

    let lease = images.lease(&image).unwrap();
    let checked = store.check(true, || images.in_use()).unwrap();
    assert!(!checked.faults.is_empty() && checked.faults.iter().all(|fault| !fault.repaired));
    assert!(root.exists());
    drop(lease);
    let checked = store.check(true, || images.in_use()).unwrap();
    assert!(!checked.faults.is_empty() && checked.faults.iter().all(|fault| fault.repaired));
    assert!(!root.exists() && store.has_trash());
    store.empty_own_trash().unwrap();
    assert!(!store.has_trash());
    // From the blob, which is whole.
    images.unpack(&image, &store).unwrap();
    assert_eq!(faults(&store, &root), Vec::<String>::new());
    assert_eq!(fs::metadata(root.join("big")).unwrap().len(), 1_600_000);
}

#[test]
fn the_last_name_of_an_image_takes_its_layers_along_and_not_those_of_others() {
    let scratch = scratch();
    let images = Store::open(scratch.path().join("images")).unwrap();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let a = import(&images, &store, &scratch.path().join("a"), Archive::new().file("a", "a").end());
    // Its second layer needs a thin one above the first.
    let base = Archive::new().item(Item::new(b'5', "tmp").mode(0o1777)).end();
    let above = Archive::new().file("tmp/x", "").end();
    let b = import_layers(&images, &store, &scratch.path().join("b"), &[base, above]);
    assert_eq!(store.paths(&b.config.diff_ids).unwrap().len(), 3);

    let removed = images.remove(&b.reference.to_string(), false, &store).unwrap();
    let mut kinds: Vec<SweptKind> = removed.swept.iter().map(|swept| swept.kind).collect();
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    use SweptKind::{Blob, Chain, Layer};
    assert_eq!(kinds, [Blob, Blob, Blob, Blob, Chain, Layer, Layer]);
    assert_eq!(removed.deleted, std::slice::from_ref(&b.digest));
    assert_eq!(store.list().unwrap(), a.config.diff_ids);
    assert!(fs::read_dir(scratch.path().join("layers/chains/sha256")).unwrap().next().is_none());
    images.unpack(&a, &NoSink).unwrap();

    // A chain is needed as long as its image is.
    let b = {
        let base = Archive::new().item(Item::new(b'5', "tmp").mode(0o1777)).end();
        let above = Archive::new().file("tmp/x", "").end();
        import_layers(&images, &store, &scratch.path().join("c"), &[base, above])
    };
    let paths = store.paths(&b.config.diff_ids).unwrap();
    assert_eq!(images.prune(false, &store).unwrap().swept, []);
    let lease = images.lease(&b).unwrap();
    let pruned = images.prune(true, &store).unwrap();
    assert_eq!(pruned.deleted, std::slice::from_ref(&a.digest));
    assert!(paths.iter().all(|path| path.exists()));
    drop(lease);
    images.prune(true, &store).unwrap();
    assert!(store.list().unwrap().is_empty() && paths.iter().all(|path| !path.exists()));
}

#[test]
fn what_a_crash_made_void_is_pruned() {
    let scratch = scratch();
    let images = Store::open(scratch.path().join("images")).unwrap();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let image = import(&images, &store, &scratch.path().join("a"), everything());
    let root = store.paths(&image.config.diff_ids).unwrap().remove(0);
    fs::write(root.with_file_name("complete"), "coracle-layer 1 boot 00000000-0000-0000-0000-000000000000\n").unwrap();
    let removed = images.prune(false, &store).unwrap();
    assert_eq!(removed.swept.iter().map(|swept| swept.kind).collect::<Vec<_>>(), [SweptKind::Leftover]);
    assert!(!root.exists());
}

#[test]
fn durability_decides_what_a_marker_promises() {
    use coracle_image::Durability;
    for (durability, before, after) in
        [(Durability::None, "boot", "boot"), (Durability::Image, "boot", "synced"), (Durability::Layer, "synced", "synced")]
    {
        let scratch = scratch();
        let mut options = options();
        options.durability = durability;
        let store = LayerStore::open(scratch.path(), options).unwrap();
        let (info, root) = unpacked(&store, everything());
        let marker = || fs::read_to_string(root.with_file_name("complete")).unwrap();
        assert!(marker().starts_with(&format!("coracle-layer 1 {before}")), "{durability:?}: {}", marker());
        store.sync(&[info.diff_id]).unwrap();
        assert!(marker().starts_with(&format!("coracle-layer 1 {after}")), "{durability:?}: {}", marker());
    }
}

fn import(images: &Store, layers: &LayerStore, layout: &Path, archive: Vec<u8>) -> coracle_image::Image {
    import_layers(images, layers, layout, &[archive])
}

/// An image of layers, by way of an OCI layout.
fn import_layers(images: &Store, layers: &LayerStore, layout: &Path, archives: &[Vec<u8>]) -> coracle_image::Image {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    };
    let diff_ids: Vec<String> = archives.iter().map(|archive| format!("\"{}\"", Digest::sha256(archive))).collect();
    let list: Vec<String> = archives
        .iter()
        .map(|archive| format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",{}}}"#, blob(&gzip(archive))))
        .collect();
    let config = blob(format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, diff_ids.join(",")).as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{config}}},"layers":[{}]}}"#,
        list.join(",")
    );
    let manifest = blob(manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{manifest}}}]}}"#);
    fs::write(layout.join("index.json"), index).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    OciLayout::open(layout).unwrap().import(images, layers).unwrap()
}

#[test]
fn what_the_unpacker_writes_down_is_what_is_on_disk() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), options()).unwrap();
    let archive = Archive::new()
        .file("usual", "a")
        .item(Item::new(b'0', "set-user-id").mode(0o4755))
        .item(Item::new(b'0', "set-group-id").mode(0o2755))
        .item(Item::new(b'0', "for nobody").mode(0))
        .pax(&[("mtime", b"1000000000.987654321")])
        .file("fraction", "b")
        .pax(&[("mtime", b"-5")])
        .file("before 1970", "c")
        .pax(&[("SCHILY.xattr.user.a", b"1")])
        .file("attribute", "d")
        // Replaced: a file by a file, of which a link keeps the old; a tree by a file; a file by a directory.
        .file("twice", "old")
        .item(Item::new(b'1', "old").link("twice"))
        .file("twice", "new and longer")
        .file("tree/a/b", "e")
        .file("tree-and-more", "f")
        .file("tree", "g")
        .file("turned", "h")
        .item(Item::new(b'5', "turned"))
        .file("turned/in", "i")
        // A link that waits, and one that replaces.
        .file("replaced", "j")
        .item(Item::new(b'1', "replaced").link("later"))
        .item(Item::new(b'1', "waiting").link("later"))
        .file("later", "k")
        // Removed and used again.
        .file(".wh.again", "")
        .file("again/in", "l")
        .file(".wh.only", "")
        .file("hidden/.wh..wh..opq", "")
        .item(Item::new(b'2', "link").link("usual"))
        .file("link-replaced", "m")
        .item(Item::new(b'2', "link-replaced").link("usual"))
        .item(Item::new(b'3', "device").device(1, 3))
        .item(Item::new(b'0', "device-replaced"))
        .item(Item::new(b'3', "device-replaced").device(1, 3))
        .item(Item::new(b'6', "fifo").mode(0o600))
        .item(Item::new(b'5', "sticky").mode(0o1777))
        .file("listed/in", "n")
        .item(Item::new(b'5', "listed").mode(0o600))
        .end();
    let (_, root) = unpacked(&store, archive);
    assert_eq!(faults(&store, &root), [""; 0]);
    let record = fs::read_to_string(root.with_file_name("files")).unwrap();
    for gone in ["tree/a", "tree/a/b"] {
        assert!(!record.contains(gone), "{gone} is still recorded:\n{record}");
    }
    // What was changed is found in each of them: nothing was left out.
    let changed = ["usual", "old", "twice", "turned/in", "replaced", "again/in", "fraction"];
    for path in changed {
        fs::write(root.join(path), "something else").unwrap();
    }
    let found = faults(&store, &root);
    for path in changed {
        assert!(found.iter().any(|fault| fault.starts_with(&format!("{path}: "))), "{path} isn't among {found:?}");
    }
    // A plain user's clean-up stops at a directory that can't be entered; ours doesn't.
    coracle_layers::remove_tree(&scratch.path().join("layers")).unwrap();
}

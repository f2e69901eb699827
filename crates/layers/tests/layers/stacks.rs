//! Layers upon each other: what an overlay of them shows is what the specification says.
//!
//! The mounts need root, and are made in a mount namespace of a child process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use coracle_image::{Digest, LayerInfo, LayerSink};
use coracle_layers::{Error, LayerStore, Options, Overlay, Ownership};

use crate::archive::{Archive, Item};
use crate::scratch::{is_root, listing, scratch, skip};

/// Puts archives into a store; their diffIDs, the base first.
fn stored(store: &LayerStore, archives: &[Vec<u8>]) -> Vec<Digest> {
    archives
        .iter()
        .map(|archive| {
            let digest = Digest::sha256(archive);
            let info = LayerInfo::new(0, digest.clone(), digest.clone(), archive.len() as u64, "tar");
            let mut writer = store.begin(&info).unwrap();
            writer.write_all(archive).unwrap();
            writer.finish().unwrap();
            digest
        })
        .collect()
}

/// What an overlay of these layers shows: `find` in a mount namespace of its own.
fn shown(dir: &Path, overlay: &Overlay) -> Vec<String> {
    let mount = dir.join("mount");
    fs::create_dir_all(&mount).unwrap();
    let options = String::from_utf8(overlay.mount_options()).unwrap();
    let script = r#"mount -t overlay overlay -o "$1" "$2" && cd "$2" && find . -printf '%P %y %m %U:%G %s %l %T@\n' | sort && find . -type f -printf '%P: ' -exec cat {} \; -printf '\n' | sort"#;
    let output = Command::new("unshare").args(["-m", "sh", "-c", script, "sh", &options]).arg(&mount).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Mounts a stack (with an empty layer below, for overlay wants two) and returns its files with their contents.
fn files(archives: &[Archive]) -> BTreeMap<String, String> {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), Options::root()).unwrap();
    let archives: Vec<Vec<u8>> = archives.iter().map(|archive| archive.clone().end()).collect();
    let ids = stored(&store, &archives);
    let mut lower = store.paths(&ids).unwrap();
    for n in 0..2 {
        let empty = scratch.path().join(format!("empty{n}"));
        fs::create_dir(&empty).unwrap();
        lower.push(empty);
    }
    shown(scratch.path(), &Overlay::new(lower))
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, contents)| (name.to_owned(), contents.to_owned()))
        .collect()
}

fn check(archives: &[Archive], expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> = expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(files(archives), expected);
}

#[test]
fn the_root_is_that_of_the_last_layer_that_has_an_entry_for_it() {
    // Needs root, to mount overlays.
    if !is_root() {
        return skip("root");
    }
    let root = |mode: u32, uid: u32| Archive::new().item(Item::new(b'5', "./").mode(mode).uid(uid).mtime(u64::from(uid)));
    let silent = || Archive::new().file("a", "1");
    let check = |archives: &[Archive], expected: &str| {
        let scratch = scratch();
        let store = LayerStore::open(scratch.path(), Options::root()).unwrap();
        let archives: Vec<Vec<u8>> = archives.iter().map(|archive| archive.clone().end()).collect();
        let mut lower = store.paths(&stored(&store, &archives)).unwrap();
        // Once more: what was made is found.
        assert_eq!(store.paths(&archives.iter().map(|archive| Digest::sha256(archive)).collect::<Vec<_>>()).unwrap(), lower);
        let empty = scratch.path().join("empty");
        fs::create_dir(&empty).unwrap();
        lower.push(empty);
        // ` d MODE UID:GID SIZE TIME`, its name being empty.
        let lines = shown(scratch.path(), &Overlay::new(lower));
        let line = lines.iter().find(|line| line.starts_with(" d ")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(format!("{} {} {}", words[1], words[2], words[4].split('.').next().unwrap()), expected);
    };
    check(&[root(0o700, 5), silent()], "755 5:0 5");
    check(&[root(0o1777, 5), silent(), silent().file("b", "2")], "1777 5:0 5");
    check(&[root(0o777, 5), root(0o755, 6), silent()], "755 6:0 6");
    check(&[root(0o777, 5), silent(), root(0o755, 6)], "755 6:0 6");
    check(&[silent(), silent().file("b", "2")], "755 0:0 0");
    // Beside what else a layer needs corrected.
    let below = || root(0o1777, 7).dir("d", 0o700);
    check(&[below(), Archive::new().file("d/in", "1")], "1777 7:0 7");
    check(&[below(), Archive::new().file("d/in", "1"), silent()], "1777 7:0 7");
    // Nothing of what an opaque root hides.
    check(&[below(), silent().file(".wh..wh..opq", "")], "755 0:0 0");
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    // Needs root, to mount overlays.
    if !is_root() {
        return skip("root");
    }
    let new = Archive::new;
    let base = || new().file("a", "1").file("d/x", "1").file("d/y", "1").file("d/sub/z", "1");
    // A file, a directory.
    check(&[base(), new().file(".wh.a", "").file("d/.wh.sub", "")], &[("d/x", "1"), ("d/y", "1")]);
    // Of the same layer stays, before and after the whiteout.
    check(&[base(), new().file(".wh.a", "").file("a", "2").file(".wh.d", "")], &[("a", "2")]);
    check(&[base(), new().file("a", "2").file(".wh.a", "").file(".wh.d", "")], &[("a", "2")]);
    // A directory that is removed and made anew shows nothing of the old one, in either order.
    for second in [
        new().file(".wh.d", "").dir("d", 0o755).file("d/new", "2"),
        new().dir("d", 0o755).file("d/new", "2").file(".wh.d", ""),
        new().file("d/new", "2").file(".wh.d", ""),
        new().file(".wh.d", "").file("d/new", "2"),
        new().dir("d", 0o755).file("d/.wh..wh..opq", "").file("d/new", "2"),
        new().file("d/new", "2").file("d/.wh..wh..opq", ""),
        new().file("d/.wh..wh..opq", "").file("d/.wh.x", "").file("d/new", "2"),
        new().file("d", "file").dir("d", 0o755).file("d/new", "2"),
    ] {
        check(&[base(), second], &[("a", "1"), ("d/new", "2")]);
    }
    // Opaque and whiteout do nothing to children of the same layer, or in a directory that isn't below.
    check(
        &[base(), new().file("n/.wh..wh..opq", "").file("n/m/deep", "2").file("n/.wh.x", "")],
        &[("a", "1"), ("d/x", "1"), ("d/y", "1"), ("d/sub/z", "1"), ("n/m/deep", "2")],
    );
    // An opaque root hides all.
    check(&[base(), new().file(".wh..wh..opq", "").file("only", "2")], &[("only", "2")]);
    check(&[base(), new().file("only", "2").file(".wh..wh..opq", ""), new().file("more", "3")], &[("only", "2"), ("more", "3")]);
    // An opaque directory that is then replaced by a file.
    check(&[base(), new().file("d/.wh..wh..opq", "").file("d", "2")], &[("a", "1"), ("d", "2")]);
    // A whiteout may be of any type, and have contents.
    check(&[base(), new().dir(".wh.d", 0o755).item(Item::new(b'0', ".wh.a").data("contents"))], &[]);
    // Three layers: removed, brought back.
    check(&[base(), new().file(".wh.d", ""), new().file("d/x", "3")], &[("a", "1"), ("d/x", "3")]);
    // aufs.
    check(
        &[base(), new().dir(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", "").file(".wh..wh.aufs", "")],
        &[("a", "1"), ("d/x", "1"), ("d/y", "1"), ("d/sub/z", "1")],
    );
    // A device 0:0 in the archive hides nothing.
    check(&[base(), new().item(Item::new(b'3', "a").device(0, 0))], &[("a", "1"), ("d/x", "1"), ("d/y", "1"), ("d/sub/z", "1")]);
    // A file over a directory, a directory over a file.
    check(&[base(), new().file("d", "2").file("a/b", "2")], &[("d", "2"), ("a/b", "2")]);
    // The same layer twice in an image.
    check(&[base(), new().file(".wh.a", "").file("d/x", "2"), base()], &[("a", "1"), ("d/x", "1"), ("d/y", "1"), ("d/sub/z", "1")]);
}

#[test]
fn a_directory_without_an_entry_looks_as_below() {
    // Needs root, for owners.
    if !is_root() {
        return skip("root");
    }
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), Options::root()).unwrap();
    let base = Archive::new()
        .dir("tmp", 0o1777)
        .pax(&[("SCHILY.xattr.user.note", b"v")])
        .item(Item::new(b'5', "srv").mode(0o750).uid(5).gid(6).mtime(1234))
        .item(Item::new(b'5', "srv/deep").mode(0o711).uid(7))
        .file("etc", "a file")
        .symlink("lib", "usr/lib")
        .end();
    let top = Archive::new().file("tmp/x", "x").file("srv/deep/er/x", "x").file("etc/x", "x").file("lib/x", "x").file("new/x", "x").end();
    let ids = stored(&store, &[base.clone(), top.clone()]);
    let paths = store.paths(&ids).unwrap();
    assert_eq!(paths.len(), 3, "base, top, and the correction above it");
    assert_eq!(store.paths(&ids).unwrap(), paths, "made once");
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&paths[0].join("tmp")), 0o1777);
    let srv = fs::metadata(paths[0].join("srv")).unwrap();
    assert_eq!((srv.mode() & 0o7777, srv.uid(), srv.gid(), srv.mtime()), (0o750, 5, 6, 1234));
    assert_eq!(crate::scratch::attributes(&paths[0].join("srv")), [("user.note".to_owned(), b"v".to_vec())]);
    assert_eq!(fs::metadata(paths[0].join("srv/deep")).unwrap().uid(), 7);
    // What hides something else than a directory, or is new, is as it is.
    for own in ["etc", "lib", "new", "srv/deep/er"] {
        assert!(!paths[0].join(own).exists(), "{own}");
        assert_eq!(mode(&paths[1].join(own)), 0o755, "{own}");
    }
    assert_eq!(listing(&paths[0]).len(), 4);
    let lines = shown(scratch.path(), &Overlay::new(paths));
    assert!(lines.iter().any(|line| line.starts_with("tmp d 1777 0:0 ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("srv d 750 5:6 ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "tmp/x: x"), "{lines:#?}");
    // Below an opaque directory nothing is inherited.
    let opaque = Archive::new().dir("srv", 0o700).file("srv/.wh..wh..opq", "").file("srv/deep/x", "x").end();
    let ids = [ids[0].clone(), stored(&store, &[opaque])[0].clone()];
    assert_eq!(store.paths(&ids).unwrap().len(), 2);
    // The same layer alone needs nothing.
    let alone = [Digest::sha256(&top)];
    assert_eq!(store.paths(&alone).unwrap().len(), 1);
}

#[test]
fn a_hard_link_to_a_file_below_is_the_same_file_above() {
    // Needs root, to mount overlays.
    if !is_root() {
        return skip("root");
    }
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), Options::root()).unwrap();
    let base = Archive::new()
        .dir("bin", 0o711)
        .item(Item::new(b'0', "bin/tool").mode(0o4755).uid(3).mtime(99).data("tool"))
        .symlink("bin/alias", "tool")
        .file("bin/gone", "x")
        .dir("dir", 0o755)
        .end();
    let top = Archive::new()
        .dir("opt", 0o700)
        .hardlink("opt/one", "bin/tool")
        .hardlink("opt/two", "bin/tool")
        .hardlink("opt/alias", "bin/alias")
        .end();
    let ids = stored(&store, &[base, top]);
    let paths = store.paths(&ids).unwrap();
    assert_eq!(paths.len(), 3);
    let meta = |name: &str| fs::symlink_metadata(paths[0].join(name)).unwrap();
    assert_eq!((meta("opt/one").mode() & 0o7777, meta("opt/one").uid(), meta("opt/one").mtime()), (0o4755, 3, 99));
    assert_eq!(meta("opt/one").ino(), meta("opt/two").ino());
    assert_eq!(meta("opt/one").ino(), meta("bin/tool").ino());
    assert_eq!(meta("opt").mode() & 0o7777, 0o700);
    assert_eq!(meta("bin").mode() & 0o7777, 0o711);
    let lines = shown(scratch.path(), &Overlay::new(paths.clone()));
    for name in ["opt/one", "opt/two", "bin/tool"] {
        assert!(lines.contains(&format!("{name}: tool")), "{lines:#?}");
    }
    assert!(lines.iter().any(|line| line.starts_with("opt/alias l")), "{lines:#?}");

    // A renamed file: linked, and removed under its old name.
    let renamed = Archive::new().hardlink("opt/new", "bin/gone").file("bin/.wh.gone", "").end();
    let failed = fs::metadata("/").is_ok() && {
        let id = stored_or_error(&store, &renamed);
        matches!(id, Err(Error::Malformed { .. }))
    };
    assert!(failed, "a link to what the layer removes is refused, whichever comes first");

    // What isn't there is an error, and no silent gap.
    for (target, reason) in [("bin/none", "isn't there"), ("dir", "directory")] {
        let bad = Archive::new().hardlink("h", target).end();
        let bad = stored(&store, &[bad]);
        let error = store.paths(&[ids[0].clone(), bad[0].clone()]).unwrap_err();
        assert!(matches!(error, Error::Below { .. }) && error.to_string().contains(reason), "{error}");
        assert!(matches!(store.paths(&bad), Err(Error::Below { .. })));
    }
    let left: Vec<_> = fs::read_dir(scratch.path().join("layers"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with("tmp-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn stored_or_error(store: &LayerStore, archive: &[u8]) -> Result<(), Error> {
    let digest = Digest::sha256(archive);
    let info = LayerInfo::new(0, digest.clone(), digest, archive.len() as u64, "tar");
    let mut writer = store.begin(&info).unwrap();
    let result = writer.write_all(archive).map_err(|error| *error.into_inner().unwrap().downcast::<Error>().unwrap());
    result.and_then(|()| writer.finish().map_err(|error| *error.downcast::<Error>().unwrap()))
}

#[test]
fn deferred_owners_reach_the_correction_too() {
    let scratch = scratch();
    let store = LayerStore::open(scratch.path(), Options::user(Ownership::Defer)).unwrap();
    let base = Archive::new()
        .item(Item::new(b'5', "srv").mode(0o750).uid(5).gid(6))
        .item(Item::new(b'0', "srv/f").mode(0o640).uid(8).data("x"))
        .end();
    let top = Archive::new().file("srv/x", "x").hardlink("srv/g", "srv/f").end();
    let ids = stored(&store, &[base, top]);
    let paths = store.paths(&ids).unwrap();
    let deferred = coracle_layers::read_ownership(paths[0].parent().unwrap()).unwrap().unwrap();
    let owners: Vec<_> = deferred.owners.iter().map(|o| (o.path.to_str().unwrap(), o.uid, o.gid, o.mode)).collect();
    assert_eq!(owners, [("srv", 5, 6, 0o750), ("srv/f", 8, 0, 0o640), ("srv/g", 8, 0, 0o640)]);
    assert_eq!(fs::metadata(paths[0].join("srv")).unwrap().mode() & 0o7777, 0o750);
}

/// A file system as the specification describes it: applies layers one after another, in memory.
#[derive(Default, Clone)]
struct Model {
    files: BTreeMap<String, String>,
    directories: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum Change {
    File(String, String),
    Directory(String),
    Whiteout(String),
    Opaque(String),
}

impl Model {
    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.files.retain(|name, _| name != path && !name.starts_with(&below));
        self.directories.retain(|name| name != path && !name.starts_with(&below));
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            self.files.remove(parent);
            self.directories.insert(parent.to_owned());
        }
    }

    /// First all removals, of what is below; then what the layer brings.
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Whiteout(path) => self.remove(path),
                Change::Opaque(path) => {
                    let below = format!("{path}/");
                    self.files.retain(|name, _| !name.starts_with(&below));
                    self.directories.retain(|name| !name.starts_with(&below));
                }
                _ => {}
            }
        }
        for change in changes {
            match change {
                Change::File(path, text) => {
                    self.parents(path);
                    self.remove(path);
                    self.files.insert(path.clone(), text.clone());
                }
                Change::Directory(path) => {
                    self.parents(path);
                    self.files.remove(path);
                    self.directories.insert(path.clone());
                }
                Change::Whiteout(path) => self.parents(path),
                Change::Opaque(path) => {
                    self.parents(path);
                    self.files.remove(path);
                    self.directories.insert(path.clone());
                }
            }
        }
    }
}

#[test]
fn random_stacks_show_what_the_specification_says() {
    // Needs root, to mount overlays.
    if !is_root() {
        return skip("root");
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for round in 0..300 {
        let mut model = Model::default();
        let mut archives = Vec::new();
        let mut stack = Vec::new();
        for layer in 0..=next(5) {
            // Each name once a layer, as the specification demands; a file isn't also a parent.
            let mut changes: Vec<Change> = Vec::new();
            let mut files = BTreeSet::new();
            let mut parents = BTreeSet::new();
            let mut marks = BTreeSet::new();
            for _ in 0..next(16) {
                let depth = 1 + next(3);
                let path = (0..depth).map(|_| ["a", "b", "c"][next(3) as usize]).collect::<Vec<_>>().join("/");
                let above: Vec<String> = path.match_indices('/').map(|(end, _)| path[..end].to_owned()).collect();
                if above.iter().any(|parent| files.contains(parent)) {
                    continue;
                }
                match next(5) {
                    0 | 1 if !parents.contains(&path) && files.insert(path.clone()) => {
                        changes.push(Change::File(path, format!("{round}.{layer}")));
                    }
                    2 if !files.contains(&path) => {
                        parents.insert(path.clone());
                        changes.push(Change::Directory(path));
                    }
                    3 if marks.insert(path.clone()) => changes.push(Change::Whiteout(path)),
                    4 if !files.contains(&path) => {
                        parents.insert(path.clone());
                        changes.push(Change::Opaque(path));
                    }
                    _ => continue,
                }
                parents.extend(above);
            }
            let mut archive = Archive::new();
            for change in &changes {
                archive = match change {
                    Change::File(path, text) => archive.file(path, text),
                    Change::Directory(path) => archive.dir(path, 0o755),
                    Change::Whiteout(path) => match path.rsplit_once('/') {
                        Some((parent, name)) => archive.file(format!("{parent}/.wh.{name}"), ""),
                        None => archive.file(format!(".wh.{path}"), ""),
                    },
                    Change::Opaque(path) => archive.file(format!("{path}/.wh..wh..opq"), ""),
                };
            }
            model.apply(&changes);
            archives.push(archive);
            stack.push(changes);
        }
        assert_eq!(files(&archives), model.files, "round {round}: {stack:#?}");
    }
}

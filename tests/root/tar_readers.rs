//! Archives that nobody here wrote, unpacked by GNU tar, read by Go, and unpacked by us: three readers, one vote each.
//!
//! What GNU tar and Go see alike, ours sees the same. Ours refuses only what one of them refuses too, or what leaves the root, or
//! what the page `docs/tar-readers.md` gives a reason for. That page has a line for each archive about which the three differ; a
//! line that is missing, or true no more, fails.

use crate::support::tree::{Difference, Fields, Tree, differences, hash, shown, tree};
use crate::support::{corpora, directory_in_memory, need, program, repository};
use coracle::layers::{Options, remove_tree, unpack};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Of what is longer, Go reads only so much: it would read holes of sixty gigabytes as zeros.
const HEAD: u64 = 256 << 20;

/// What is fetched by the packages that xtask installs, and the name of it in the table.
const INSTALLED: &[(&str, &str)] = &[
    ("go", "/usr/share/go-1.19/src/archive/tar/testdata"),
    ("tar-split", "/usr/share/gocode/src/github.com/vbatts/tar-split/tar/asm/testdata"),
    ("tar-split-reader", "/usr/share/gocode/src/github.com/vbatts/tar-split/archive/tar/testdata"),
    ("python", "/usr/lib/python3.11/test"),
];

/// What one reader made of an archive.
enum Outcome {
    Refuses(String),
    Unpacks(Tree),
}

/// The archives, by name in the table, each content once, as plain tar.
fn archives(place: &Path) -> BTreeMap<String, PathBuf> {
    let mut directories: Vec<(String, PathBuf)> = INSTALLED.iter().map(|(name, path)| ((*name).to_owned(), PathBuf::from(path))).collect();
    for fetched in ["astral-tokio-tar", "crates.io", "debian", "npm"] {
        directories.push((fetched.to_owned(), corpora().join(fetched)));
    }
    let mut all = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (corpus, directory) in directories {
        let mut found = 0;
        let mut paths: Vec<PathBuf> = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            let by = match name.rsplit('.').next() {
                Some("tar") => "",
                Some("gz" | "tgz" | "crate") if !name.ends_with(".gz") || name.ends_with(".tar.gz") => "gzip",
                Some("bz2") if name.ends_with(".tar.bz2") => "bzip2",
                _ => continue,
            };
            found += 1;
            let plain = place.join(format!("{corpus}-{name}"));
            if by.is_empty() {
                fs::copy(&path, &plain).expect("it can be copied");
            } else {
                let to = File::create(&plain).expect("it can be made");
                let inflated = Command::new(by).arg("-dc").arg(&path).stdout(to).status().expect("it runs");
                assert!(inflated.success(), "{by} {}", path.display());
            }
            let size = fs::metadata(&plain).expect("it is there").len();
            if seen.insert((size, hash(&plain, size, u64::MAX))) {
                all.insert(format!("{corpus}/{name}"), plain);
            } else {
                fs::remove_file(plain).expect("it is ours");
            }
        }
        assert!(found > 0, "{} holds no archive", directory.display());
    }
    all
}

/// Names of attributes that ours drops, wherever they come from; docs/tar-readers.md says so.
fn without_labels(tree: &mut Tree) {
    for fields in tree.values_mut() {
        if let Some(xattrs) = fields.get_mut("xattrs") {
            let kept: Vec<&str> = xattrs.split(' ').filter(|one| !one.starts_with("security.selinux=")).collect();
            *xattrs = kept.join(" ");
        }
    }
}

/// A look at what was unpacked, and an empty directory again. The root is the reader's own.
fn taken(root: &Path) -> Tree {
    let mut seen = tree(root);
    seen.remove(".");
    without_labels(&mut seen);
    for (path, fields) in &mut seen {
        let Some(size) = fields.get("size").and_then(|size| size.parse::<u64>().ok()) else { continue };
        if size > HEAD {
            let plain = String::from_utf8_lossy(path.as_bytes()).into_owned();
            fields.insert("head", hash(&root.join(plain), size, HEAD));
        }
    }
    remove_tree(root).expect("it can be removed");
    seen
}

fn gnu(archive: &Path, root: &Path) -> Outcome {
    fs::create_dir(root).expect("it can be made");
    let out = Command::new("tar")
        .args(["-x", "-p", "--same-owner", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f"])
        .arg(archive)
        .arg("-C")
        .arg(root)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("tar runs");
    let unpacked = taken(root);
    if out.status.success() {
        return Outcome::Unpacks(unpacked);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Outcome::Refuses(said.lines().find(|line| !line.contains("Ignoring") && !line.contains("Removing")).unwrap_or_default().to_owned())
}

fn ours(archive: &Path, root: &Path) -> Outcome {
    match unpack(File::open(archive).expect("it is there"), root, &Options::root()) {
        Ok(_) => Outcome::Unpacks(taken(root)),
        Err(error) => {
            assert!(!root.exists(), "a refused archive left something: {error}");
            Outcome::Refuses(error.to_string())
        }
    }
}

/// What Go says of all archives.
fn go(archives: &BTreeMap<String, PathBuf>, place: &Path) -> BTreeMap<String, Outcome> {
    let reader = place.join("reader");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&reader)
        .arg(repository().join("tests/root/tar_reader.go"))
        .env("GOCACHE", place.join("go-cache"))
        .env("GO111MODULE", "off")
        .current_dir(place)
        .output()
        .expect("go runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let out = Command::new(reader).arg(HEAD.to_string()).args(archives.values()).output().expect("the reader runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut entries: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for line in String::from_utf8(out.stdout).expect("it speaks JSON").lines() {
        let value: Value = serde_json::from_str(line).expect("it speaks JSON");
        if let Some(path) = value["End"].as_str() {
            let name = archives.iter().find(|(_, archive)| archive.as_os_str() == path).expect("it's one of ours").0;
            let error = value["Error"].as_str().unwrap_or_default();
            let outcome = if error.is_empty() {
                Outcome::Unpacks(tree_of(&entries.remove(path).unwrap_or_default()))
            } else {
                Outcome::Refuses(error.to_owned())
            };
            all.insert(name.clone(), outcome);
        } else {
            entries.entry(value["Archive"].as_str().expect("an entry has one").to_owned()).or_default().push(value);
        }
    }
    all
}

/// The tree that entries make, as far as Go's reader tells.
fn tree_of(entries: &[Value]) -> Tree {
    let bytes = |value: &Value| base64(value.as_str().unwrap_or_default());
    let number = |value: &Value| value.as_i64().expect("a number");
    let mut made = Tree::new();
    // The names that are one file.
    let mut groups: BTreeMap<String, String> = BTreeMap::new();
    let clean = |name: &[u8]| -> Vec<String> {
        let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && part != b".");
        parts.map(shown).collect()
    };
    for entry in entries {
        let parts = clean(&bytes(&entry["Name"]));
        if parts.is_empty() {
            continue;
        }
        for end in 1..parts.len() {
            made.entry(parts[..end].join("/")).or_insert_with(|| Fields::from([("kind", "directory".to_owned())]));
        }
        let path = parts.join("/");
        let mut fields = Fields::new();
        let mut put = |field: &'static str, value: String| fields.insert(field, value);
        let size = number(&entry["Size"]);
        let kind = match entry["Type"].as_str().expect("a type") {
            "1" => {
                let target = clean(&bytes(&entry["Link"])).join("/");
                let group = groups.get(&target).cloned().unwrap_or_else(|| target.clone());
                groups.insert(target.clone(), group.clone());
                groups.insert(path.clone(), group);
                let linked = made.get(&target).cloned().unwrap_or_default();
                made.insert(path, linked);
                continue;
            }
            "2" => {
                put("target", shown(&bytes(&entry["Link"])));
                "link"
            }
            word @ ("3" | "4") => {
                put("device", format!("{}:{}", entry["Major"], entry["Minor"]));
                if word == "3" { "character device" } else { "block device" }
            }
            "5" => "directory",
            "6" => "fifo",
            _ => {
                put("size", size.to_string());
                put(if size as u64 > HEAD { "head" } else { "sha" }, entry["Hash"].as_str().expect("a hash").to_owned());
                "file"
            }
        };
        put("kind", kind.to_owned());
        if kind != "link" {
            put("mode", format!("{:o}", number(&entry["Mode"]) & 0o7777));
        }
        put("uid", entry["Uid"].to_string());
        put("gid", entry["Gid"].to_string());
        put("mtime", format!("{}.{:09}", number(&entry["Seconds"]), number(&entry["Nanos"])));
        let xattrs = entry["Xattrs"].as_object().expect("a map").iter();
        let mut xattrs: Vec<String> = xattrs.map(|(key, value)| format!("{}={}", shown(key.as_bytes()), shown(&bytes(value)))).collect();
        xattrs.sort();
        put("xattrs", xattrs.join(" "));
        if kind == "directory" {
            // What is in it stays.
            groups.remove(&path);
        } else {
            let below = format!("{path}/");
            made.retain(|name, _| !name.starts_with(&below));
            groups.remove(&path);
        }
        made.insert(path, fields);
    }
    let mut names: BTreeMap<&String, Vec<&String>> = BTreeMap::new();
    for (name, group) in &groups {
        names.entry(group).or_default().push(name);
    }
    let links: Vec<(String, String)> = names
        .values()
        .filter(|names| names.len() > 1)
        .flat_map(|names| {
            let all = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" = ");
            names.iter().map(|name| ((*name).clone(), all.clone())).collect::<Vec<_>>()
        })
        .collect();
    for (name, links) in links {
        made.entry(name).or_default().insert("links", links);
    }
    without_labels(&mut made);
    made
}

/// Go's JSON has bytes in base64.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0u32, |bits, byte| bits << 6 | u32::from(value(*byte))) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// A directory that only another's entry implies has the time at which it was unpacked.
fn alike(one: &Tree, other: &Tree, told: &Tree) -> Vec<Difference> {
    let implied = |path: &str| told.get(path).is_some_and(|fields| fields.len() == 1) || !told.contains_key(path);
    let differs = differences(one, other).into_iter();
    differs.filter(|difference| !(difference.field == "mtime" && implied(&difference.path))).collect()
}

/// The lines of the table: archive, GNU tar, Go, ours, why.
fn listed(page: &str) -> BTreeMap<String, [String; 4]> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_end_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "a line of the table has five cells: {line}");
        (cells[0].trim_matches('`').to_owned(), [1, 2, 3, 4].map(|cell| cells[cell].to_owned()))
    });
    rows.collect()
}

#[test]
fn archives_of_others_are_unpacked_as_others_unpack_them() {
    need!(Root, Repository, Go, Corpora);
    let place = directory_in_memory();
    let archives = archives(place.path());
    assert!(archives.len() >= 100, "{} archives", archives.len());
    let seen_by_go = go(&archives, place.path());
    let root = place.path().join("root");
    let page = fs::read_to_string(repository().join("docs/tar-readers.md")).expect("the page is there");
    let mut listed = listed(&page);
    let mut wrong = Vec::new();
    for (name, archive) in &archives {
        let (gnu, go, ours) = (gnu(archive, &root), &seen_by_go[name], ours(archive, &root));
        let nothing = Tree::new();
        let told = if let Outcome::Unpacks(tree) = go { tree } else { &nothing };
        let mut trees: Vec<&Tree> = Vec::new();
        let mut notes = Vec::new();
        let words = [&gnu, go, &ours].map(|outcome| match outcome {
            Outcome::Refuses(why) => {
                notes.push(format!("refused: {why}"));
                String::from("refuses")
            }
            Outcome::Unpacks(tree) => {
                let same = trees.iter().position(|known| {
                    let differs = alike(known, tree, told);
                    notes.extend(differs.iter().take(10).map(|difference| format!("{difference:?}")));
                    differs.is_empty()
                });
                let number = same.unwrap_or_else(|| {
                    trees.push(tree);
                    trees.len() - 1
                });
                format!("tree {}", number + 1)
            }
        });
        let differ = words.iter().any(|word| *word != words[0]);
        match listed.remove(name) {
            Some([gnu, go, ours, why]) => {
                if [&gnu, &go, &ours] != [&words[0], &words[1], &words[2]] {
                    wrong.push(format!("stale: {name}: {words:?} and not {:?}: {notes:?}", [gnu, go, ours]));
                } else if why.is_empty() {
                    wrong.push(format!("without a reason: {name}"));
                } else if !differ {
                    wrong.push(format!("not a difference: {name}"));
                }
            }
            None if differ => wrong.push(format!("not listed: | `{name}` | {} | | {notes:#?}", words.join(" | "))),
            None => {}
        }
    }
    wrong.extend(listed.keys().map(|name| format!("listed, and not there: {name}")));
    println!(
        "RESULT: {} archives of others through GNU tar, Go and us; {} lines of differences",
        archives.len(),
        page.matches("\n| `").count()
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let _ = program::find("tar");
}

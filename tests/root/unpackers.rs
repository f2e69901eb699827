//! Random stacks of layers, put together by podman, by umoci and by us: the trees are the same.
//!
//! Where they aren't, a line of `docs/unpackers.md` says so, with the reason: a tool, its version, the situation, the field. A
//! difference without a line fails, and so does a line without a difference. Each stack has one situation beside what is common to
//! all, so that a line excuses no more than it says.

use crate::support::image::{Compressed, Layout};
use crate::support::importer;
use crate::support::mounts::inside;
use crate::support::tree::{Difference, Tree, differences, tree};
use crate::support::{need, repository};
use coracle::image::OciLayout;
use coracle::layers::Overlay;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is odd about a stack, beside files, directories, links, FIFOs, hard links, replaced kinds and whiteouts, which all have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Situation {
    /// Nothing.
    Plain,
    /// Parents have no entries.
    ImplicitParents,
    /// Opaque directories.
    Opaque,
    /// A whiteout, and its name in the same layer.
    WhiteoutBeside,
    /// Hard links to files of the layers below.
    HardlinkBelow,
    /// Hard links whose entries say another owner than those of their targets.
    HardlinkOwner,
    /// Files below a symbolic link of the same layer.
    LinkAsParent,
    /// Files below a symbolic link of a layer below.
    LinkBelowAsParent,
    /// Extended attributes and capabilities.
    Attributes,
    /// Devices.
    Devices,
    /// No entry for the root.
    NoRoot,
    /// A name twice in a layer.
    Twice,
}
use Situation::*;

/// Where most can differ, more stacks.
const ALL: [Situation; 14] = [
    Plain,
    ImplicitParents,
    ImplicitParents,
    ImplicitParents,
    Opaque,
    WhiteoutBeside,
    HardlinkBelow,
    HardlinkOwner,
    LinkAsParent,
    LinkBelowAsParent,
    Attributes,
    Devices,
    NoRoot,
    Twice,
];

#[derive(Clone, Debug)]
enum What {
    Directory,
    File(Vec<u8>),
    Link(String),
    Hardlink(String),
    Fifo,
    Device(u32, u32),
    Mark,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    what: What,
    mode: u32,
    owner: (u64, u64),
    mtime: (u64, u32),
    attributes: Vec<(&'static str, Vec<u8>)>,
}

impl Entry {
    fn shown(&self) -> String {
        let what = match &self.what {
            What::File(bytes) => format!("file of {}", bytes.len()),
            what => format!("{what:?}"),
        };
        format!("{} {what} {:o} {}:{}", self.path, self.mode, self.owner.0, self.owner.1)
    }
}

/// xorshift: the same stack for the same seed, on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// What a stack shows so far, as far as the generator needs it: a path, and what it is.
type Known = BTreeMap<String, char>;

fn forget(known: &mut Known, path: &str) {
    let below = format!("{path}/");
    known.retain(|name, _| name != path && !name.starts_with(&below));
}

fn entry(random: &mut Random, path: &str, what: What) -> Entry {
    let mode = match what {
        What::Directory => random.of(&[0o755, 0o700, 0o1777, 0o2775, 0o555]),
        _ => random.of(&[0o644, 0o600, 0o755, 0o4755, 0o2711, 0o444, 0o000]),
    };
    Entry {
        path: path.to_owned(),
        what,
        mode,
        owner: (random.of(&[0, 0, 1, 1000, 65534, 3_000_000]), random.of(&[0, 0, 5, 1000])),
        mtime: (random.of(&[0, 1, 1_000_000_000, 1_600_000_000]) + random.below(1000), random.of(&[0, 0, 1, 123_456_789])),
        attributes: Vec::new(),
    }
}

/// One layer over what is known, which it changes.
fn layer(random: &mut Random, situation: Situation, known: &mut Known, described: &mut BTreeMap<String, Entry>, first: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    if first && situation != NoRoot {
        let mut root = entry(random, ".", What::Directory);
        root.mode = 0o755;
        entries.push(root);
    }
    // Of this layer: what has an entry; what may be a parent; what is none.
    let mut mine = BTreeSet::new();
    let mut files: BTreeSet<String> = BTreeSet::new();
    let mut parents: BTreeSet<String> = BTreeSet::new();
    let mut hidden: BTreeSet<String> = BTreeSet::new();
    let mut linked_to: BTreeSet<String> = BTreeSet::new();
    let below = known.clone();
    for _ in 0..6 + random.below(16) {
        let depth = 1 + random.below(3) as usize;
        let mut path = (0..depth).map(|_| random.of(&["a", "b", "c", "d"])).collect::<Vec<_>>().join("/");
        let mut kind = random.below(12);
        let there: Vec<&String> = below.keys().filter(|name| situation != LinkBelowAsParent || below[*name] == 'l').collect();
        if !there.is_empty() && random.one_in(if matches!(situation, WhiteoutBeside | LinkBelowAsParent) { 3 } else { 12 }) {
            path.clone_from(random.of(&there));
            if situation == LinkBelowAsParent {
                path.push_str("/a");
            } else {
                // A whiteout.
                kind = 10;
            }
        }
        let above: Vec<String> = path.match_indices('/').map(|(end, _)| path[..end].to_owned()).collect();
        let blocked = |names: &BTreeSet<String>| above.iter().any(|parent| names.contains(parent));
        if blocked(&files) || blocked(&hidden) || hidden.contains(&path) || mine.contains(&path) {
            continue;
        }
        // A parent that is no directory below is replaced by one; a link there is a situation of its own.
        let linked = above.iter().any(|parent| !mine.contains(parent) && known.get(parent) == Some(&'l'));
        let replaced = above.iter().any(|parent| !mine.contains(parent) && known.get(parent).is_some_and(|kind| *kind != 'd'));
        if linked != (situation == LinkBelowAsParent && linked) || (replaced && !linked && situation == ImplicitParents) {
            continue;
        }
        let is_parent = parents.contains(&path);
        let what = match kind {
            0..=3 if !is_parent => What::File((0..random.below(6000)).map(|n| ((n * n) >> 3) as u8).collect()),
            4 | 5 => What::Directory,
            6 if !is_parent => What::Link(random.of(&["a", "../b", "/a/b", "nowhere", "."]).to_owned()),
            7 if !is_parent => What::Fifo,
            // Through a link of a layer below, a hard link's target is another file for each tool.
            8 if !is_parent && situation != LinkBelowAsParent => {
                let targets: Vec<String> = match situation {
                    HardlinkBelow => {
                        // What this layer changes itself is no target: such a link's meaning hangs on the order of entries.
                        let whole = |name: &&String| {
                            linked_to.contains(*name) || (!mine.contains(*name) && !blocked_by(&hidden, name) && !blocked_by(&files, name))
                        };
                        below.iter().filter(|(_, kind)| **kind == 'f').map(|(name, _)| name).filter(whole).cloned().collect()
                    }
                    _ => files.iter().filter(|name| known.get(*name) == Some(&'f')).cloned().collect(),
                };
                let Some(target) = targets.get(random.below(targets.len().max(1) as u64) as usize) else { continue };
                if path.starts_with(&format!("{target}/")) || target.starts_with(&format!("{path}/")) || *target == path {
                    continue;
                }
                if situation == HardlinkBelow {
                    linked_to.insert(target.clone());
                    mine.insert(target.clone());
                    files.insert(target.clone());
                    parents.extend(target.match_indices('/').map(|(end, _)| target[..end].to_owned()));
                }
                What::Hardlink(target.clone())
            }
            9 if situation == Devices && !is_parent => What::Device(random.of(&[1, 8, 259]), random.of(&[3, 1, 70_000])),
            10 | 11 if !first && below.contains_key(&path) && !is_parent => {
                let name = path.rsplit('/').next().expect("a path has a name");
                let mark = match parent(&path) {
                    Some(parent) => format!("{parent}/.wh.{name}"),
                    None => format!(".wh.{name}"),
                };
                if situation != ImplicitParents && above.iter().any(|parent| !mine.contains(parent)) {
                    explicit(random, &above, &mut mine, &mut entries, known);
                }
                entries.push(entry(random, &mark, What::Mark));
                hidden.insert(path.clone());
                forget(known, &path);
                if situation == WhiteoutBeside && random.one_in(2) {
                    let back = entry(random, &path, What::File(b"back".to_vec()));
                    let at = if random.one_in(2) { entries.len() } else { entries.len() - 1 };
                    entries.insert(at, back);
                    known.insert(path.clone(), 'f');
                }
                parents.extend(above);
                continue;
            }
            _ => continue,
        };
        if situation == ImplicitParents {
            for parent in &above {
                if known.get(parent) != Some(&'d') {
                    forget(known, parent);
                    known.insert(parent.clone(), 'd');
                }
            }
        } else {
            let until = above.iter().position(|parent| linked && !mine.contains(parent) && known.get(parent) == Some(&'l'));
            explicit(random, &above[..until.unwrap_or(above.len())], &mut mine, &mut entries, known);
        }
        parents.extend(above);
        let is_directory = matches!(what, What::Directory);
        let mut made = entry(random, &path, what);
        if let (What::Hardlink(target), true) = (&made.what, situation != HardlinkOwner)
            && let Some(whole) = described.get(target)
        {
            (made.mode, made.owner, made.mtime) = (whole.mode, whole.owner, whole.mtime);
        }
        if situation == Attributes && random.one_in(2) {
            match made.what {
                What::File(_) => {
                    let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                    made.attributes.push((random.of(&["user.note", "trusted.note"]), b"v\0=\xff".to_vec()));
                    if random.one_in(2) {
                        made.attributes.push(("security.capability", capability));
                    }
                }
                What::Directory => made.attributes.push(("user.note", b"of a directory".to_vec())),
                _ => {}
            }
        }
        if is_directory {
            if known.get(&path) != Some(&'d') {
                forget(known, &path);
            }
            known.insert(path.clone(), 'd');
            parents.insert(path.clone());
        } else {
            forget(known, &path);
            let kind = match made.what {
                What::Link(_) => 'l',
                What::File(_) | What::Hardlink(_) => 'f',
                _ => 'o',
            };
            known.insert(path.clone(), kind);
            files.insert(path.clone());
        }
        mine.insert(path.clone());
        let again = (situation == Twice && random.one_in(3) && matches!(made.what, What::File(_))).then(|| {
            let mut again = made.clone();
            again.what = What::File(b"again".to_vec());
            again.mode = 0o640;
            again
        });
        if situation == LinkAsParent && is_directory && random.one_in(2) && !mine.contains("link") && !below.contains_key("link") {
            entries.push(made.clone());
            entries.push(entry(random, "link", What::Link(path.clone())));
            entries.push(entry(random, "link/through", What::File(b"through".to_vec())));
            mine.insert(String::from("link"));
            known.insert(String::from("link"), 'l');
            continue;
        }
        if situation == Opaque && is_directory && random.one_in(2) {
            entries.push(made);
            let mark = entry(random, &format!("{path}/.wh..wh..opq"), What::Mark);
            entries.push(mark);
            let inside = format!("{path}/");
            known.retain(|name, _| !name.starts_with(&inside) || mine.contains(name));
            continue;
        }
        let last = again.as_ref().unwrap_or(&made);
        described.insert(path, last.clone());
        entries.push(made);
        entries.extend(again);
    }
    entries
}

fn blocked_by(names: &BTreeSet<String>, path: &str) -> bool {
    names.iter().any(|name| name == path || path.starts_with(&format!("{name}/")))
}

/// Entries for the parents that have none yet.
fn explicit(random: &mut Random, above: &[String], mine: &mut BTreeSet<String>, entries: &mut Vec<Entry>, known: &mut Known) {
    for parent in above {
        if mine.insert(parent.clone()) {
            if known.get(parent) != Some(&'d') {
                forget(known, parent);
                known.insert(parent.clone(), 'd');
            }
            let made = entry(random, parent, What::Directory);
            entries.push(made);
        }
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        if entry.mtime.1 > 0 {
            records.push((String::from("mtime"), format!("{}.{:09}", entry.mtime.0, entry.mtime.1).into_bytes()));
        }
        records.extend(entry.attributes.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
        let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        if !records.is_empty() {
            archive.append_pax_extensions(records).expect("it is written to memory");
        }
        let mut header = tar::Header::new_ustar();
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime.0);
        header.set_size(0);
        let nothing: &[u8] = &[];
        let mut data = nothing;
        match &entry.what {
            What::Directory => header.set_entry_type(tar::EntryType::Directory),
            What::File(bytes) => {
                header.set_size(bytes.len() as u64);
                data = bytes;
            }
            What::Mark => {}
            What::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(target).expect("it is short");
            }
            What::Hardlink(target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(target).expect("it is short");
            }
            What::Fifo => header.set_entry_type(tar::EntryType::Fifo),
            What::Device(major, minor) => {
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(*major).expect("it fits");
                header.set_device_minor(*minor).expect("it fits");
            }
        }
        let name = if entry.path == "." { "./" } else { &entry.path };
        archive.append_data(&mut header, name, data).expect("it is written to memory");
    }
    archive.into_inner().expect("it is written to memory")
}

/// The stack of a seed.
fn stack(seed: u64) -> (Situation, Vec<Vec<Entry>>) {
    let situation = ALL[(seed % ALL.len() as u64) as usize];
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        random.below(2);
    }
    let (mut known, mut described) = (Known::new(), BTreeMap::new());
    let layers = 2 + random.below(4);
    let made = (0..layers).map(|number| layer(&mut random, situation, &mut known, &mut described, number == 0)).collect();
    (situation, made)
}

/// podman and umoci, with roots of their own.
pub(super) struct Tools {
    place: PathBuf,
    podman: Vec<String>,
}

impl Tools {
    pub(super) fn new(place: &Path) -> Self {
        let storage = |name: &str| place.join(name).display().to_string();
        let flags = [
            "--root",
            &storage("podman"),
            "--runroot",
            &storage("podman-run"),
            "--storage-driver",
            "overlay",
            "--runtime",
            "runc",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ];
        Self { podman: flags.map(str::to_owned).to_vec(), place: place.to_owned() }
    }

    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let out = Command::new(program)
            .args(arguments)
            .current_dir(&self.place)
            .env("HOME", &self.place)
            .env("XDG_RUNTIME_DIR", &self.place)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        if out.status.success() {
            Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&out.stderr).trim().to_owned())
        }
    }

    pub(super) fn podman(&self, words: &[&str]) -> Result<String, String> {
        let mut arguments: Vec<&str> = self.podman.iter().map(String::as_str).collect();
        arguments.extend(words);
        self.run("podman", &arguments)
    }

    fn by_podman(&self, layout: &str) -> Result<Tree, String> {
        let id = self.podman(&["pull", "-q", layout])?;
        let mounted = self.podman(&["image", "mount", &id])?;
        let seen = tree(Path::new(&mounted));
        self.podman(&["image", "umount", &id])?;
        self.podman(&["rmi", "-f", &id])?;
        Ok(seen)
    }

    fn by_umoci(&self, layout: &str) -> Result<Tree, String> {
        let to = self.place.join("umoci");
        let done = self.run("umoci", &["raw", "unpack", "--image", layout, &to.display().to_string()]);
        let seen = done.map(|_| tree(&to));
        if to.exists() {
            coracle::layers::remove_tree(&to).expect("it can be removed");
        }
        seen
    }

    pub(super) fn by_us(&self, layout: &Path, name: &str) -> Result<Tree, String> {
        let place = self.place.join("ours");
        std::fs::create_dir(&place).expect("it can be made");
        let (store, layers) = importer::open(&place);
        let image =
            OciLayout::open(layout).and_then(|layout| layout.name(name).import(&store, &layers)).map_err(|error| error.to_string())?;
        let mut lower = layers.paths(&image.config.diff_ids).map_err(|error| error.to_string())?;
        // The kernel wants two.
        let empty = place.join("empty");
        std::fs::create_dir(&empty).expect("it can be made");
        lower.push(empty);
        let mount = place.join("mount");
        std::fs::create_dir(&mount).expect("it can be made");
        let options = String::from_utf8(Overlay::new(lower).mount_options()).expect("paths of ours are plain");
        self.run("mount", &["-t", "overlay", "overlay", "-o", &options, &mount.display().to_string()])?;
        let seen = tree(&mount);
        self.run("umount", &[&mount.display().to_string()])?;
        drop((store, layers));
        coracle::layers::remove_tree(&place).expect("it can be removed");
        Ok(seen)
    }
}

/// A line of the table: tool, version, situation, field.
type Line = [String; 4];

/// The lines, and whether only the long run meets one.
fn listed(page: &str) -> BTreeMap<Line, bool> {
    let rows = page.lines().filter(|line| line.starts_with("| podman ") || line.starts_with("| umoci ")).map(|line| {
        let cells: Vec<&str> = line.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect();
        assert!(cells.len() == 5 && !cells[4].is_empty(), "a line of the table has five cells: {line}");
        ([0, 1, 2, 3].map(|cell| cells[cell].to_owned()), cells[4].starts_with("rare"))
    });
    rows.collect()
}

fn compare(place: &Path, seeds: std::ops::Range<u64>) {
    let tools = Tools::new(place);
    let version = |program: &str| {
        let said = tools.run(program, &["--version"]).expect("it tells its version");
        said.split(' ').nth(2).expect("a version is the third word").split(['+', ',']).next().unwrap_or_default().to_owned()
    };
    let versions = BTreeMap::from([("podman", version("podman")), ("umoci", version("umoci"))]);
    let page = std::fs::read_to_string(repository().join("docs/unpackers.md")).expect("the page is there");
    let listed = listed(&page);
    let mut seen: BTreeSet<Line> = BTreeSet::new();
    let mut wrong: Vec<String> = Vec::new();
    let mut files = 0;
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let (situation, entries) = stack(seed);
        let path = place.join("layout");
        let mut layout = Layout::new(&path);
        let layers: Vec<_> = entries.iter().map(|layer| layout.layer(archive(layer).as_slice(), Compressed::No)).collect();
        layout.image("stack", &layers, json!({}));
        let shown = path.display().to_string();
        let ours = match tools.by_us(&path, "stack") {
            Ok(ours) => ours,
            Err(error) => {
                let story: Vec<Vec<String>> = entries.iter().map(|layer| layer.iter().map(Entry::shown).collect()).collect();
                wrong.push(format!("ours refuses: seed {seed}, {situation:?}: {error}\n   {story:?}"));
                coracle::layers::remove_tree(&tools.place.join("ours")).expect("it can be removed");
                coracle::layers::remove_tree(&path).expect("it can be removed");
                continue;
            }
        };
        files += ours.len();
        for (tool, theirs) in [("podman", tools.by_podman("oci:layout:stack")), ("umoci", tools.by_umoci(&format!("{shown}:stack")))] {
            let differs = match theirs {
                Ok(theirs) => differences(&ours, &theirs),
                Err(error) => {
                    vec![Difference { path: String::new(), field: "refuses", one: String::new(), other: error }]
                }
            };
            for difference in differs {
                // The root is its own situation: every image has one.
                let situation = if difference.path == "." { String::from("Root") } else { format!("{situation:?}") };
                let line = [tool.to_owned(), versions[tool].clone(), situation, difference.field.to_owned()];
                if !listed.contains_key(&line) && !seen.contains(&line) {
                    let of = |entry: &&Entry| {
                        let name = entry.path.replace(".wh.", "");
                        difference.path.starts_with(&name) || name.starts_with(&difference.path) || name == "."
                    };
                    let story: Vec<Vec<String>> = entries.iter().map(|layer| layer.iter().filter(of).map(Entry::shown).collect()).collect();
                    let story = format!("{story:?}").chars().take(1500).collect::<String>();
                    wrong.push(format!("not listed: | {} | | seed {seed}: {difference:?}\n   {story}", line.join(" | ")));
                }
                seen.insert(line);
            }
        }
        coracle::layers::remove_tree(&path).expect("it can be removed");
    }
    for (line, rare) in &listed {
        if !seen.contains(line) && (count >= 3000 || (count == STACKS && !rare)) {
            wrong.push(format!("listed, and no difference any more: {line:?}"));
        }
    }
    println!("RESULT: {count} stacks, {files} files: podman, umoci and we differ in {} ways", seen.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Stacks of the run that every change passes.
const STACKS: u64 = 84;

#[test]
fn stacks_of_layers_are_put_together_as_podman_and_umoci_do() {
    need!(Root, Repository, Podman, Umoci);
    inside("root::unpackers::stacks_of_layers_are_put_together_as_podman_and_umoci_do", |place| compare(place, 0..STACKS));
}

#[test]
#[ignore = "soak: three thousand stacks of layers, other ones each day"]
fn thousands_of_stacks_are_put_together_as_podman_and_umoci_do() {
    need!(Root, Repository, Podman, Umoci);
    inside("root::unpackers::thousands_of_stacks_are_put_together_as_podman_and_umoci_do", |place| {
        let days = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_secs() / 86_400;
        let count = std::env::var("CORACLE_STACKS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
        println!("RESULT: stacks from seed {}", days * 10_000);
        compare(place, days * 10_000..days * 10_000 + count);
    });
}

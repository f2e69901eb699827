//! Effects outside the process's namespaces, each with what takes it back; and taking back what the dead left.

use crate::error::Error;
use crate::id_map::{IdMap, IdRange};
use crate::spawn::Spawn;
use crate::wire::{self, Field, Reader};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Something the supervisor does before it starts the process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// A directory `parent/name` that is this process's run: it holds a file `lock`, which the supervisor keeps locked, and a file
    /// `record` with all undo steps and a description. It appears whole or not at all. Must be the first effect.
    RunDirectory {
        /// A directory that is there.
        parent: PathBuf,
        /// One component.
        name: String,
        /// The embedder's own words, for whoever lists runs.
        description: Vec<u8>,
    },
    /// One more life in a run directory with a file [`KEPT`]: locks it, which fails while another life has it, and writes a new record. Must
    /// be the first effect; the undo steps must end with the removal of the file `record`, by which the next life knows that all is undone.
    ResumeRunDirectory {
        /// The directory.
        path: PathBuf,
        /// The embedder's own words, for whoever lists runs.
        description: Vec<u8>,
    },
    /// Locks a run directory in which nobody runs, and changes nothing in it: for who works on its files. It fails while somebody has it. Must be
    /// the first effect.
    LockRunDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that may be there already.
    EnsureDirectory {
        /// Its path.
        path: PathBuf,
        /// Permission bits, where it is made.
        mode: u32,
    },
    /// Bounds what an empty directory holds, by a project quota of its file system. Needs root, Linux 5.14, and a file system that keeps such
    /// quotas. It isn't taken back: it goes with the directory.
    LimitDirectory {
        /// Its path.
        path: PathBuf,
        /// The most bytes.
        bytes: u64,
    },
    /// A directory.
    MakeDirectory {
        /// Its path.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Writes to a file that is there.
    Write {
        /// Its path.
        path: PathBuf,
        /// What is written, by one write(2).
        value: Vec<u8>,
        /// Whether a kernel without the file is fine.
        optional: bool,
    },
    /// Decides which devices the processes of a cgroup2 directory open, beside what is decided above it. It goes with the directory. Needs root.
    DeviceFilter {
        /// The directory.
        cgroup: PathBuf,
        /// An eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
        program: Vec<u8>,
    },
}

/// Something the supervisor does at the very end. Each is harmless where there is nothing to take back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undo {
    /// Kills what a cgroup holds.
    KillCgroup(PathBuf),
    /// Removes a cgroup, and those below it.
    RemoveCgroup(PathBuf),
    /// Removes a file or a directory with all that is in it.
    RemoveTree(PathBuf),
    /// Lets a cgroup go on that was frozen: its file `cgroup.freeze`.
    Thaw(PathBuf),
}

/// The control groups a process starts in. Their directories are made by [`Effect::MakeDirectory`] and go by
/// [`Undo::RemoveCgroup`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupPlacement {
    /// The cgroup2 directory that the process is cloned into (Linux 5.7).
    pub into: Option<PathBuf>,
    /// Directories of v1 hierarchies that it joins, before the command is executed.
    pub join: Vec<PathBuf>,
    /// The file `cgroup.kill` (Linux 5.14) that ends everything.
    pub kill: Option<PathBuf>,
    /// Files whose contents are wanted when everything has ended: [`Ended::files`](crate::Ended).
    pub read_at_end: Vec<PathBuf>,
}

/// What a run directory says of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The run directory.
    pub path: PathBuf,
    /// What takes everything back.
    pub undo: Vec<Undo>,
    /// The map in which the run's files can be removed.
    pub id_map: Option<IdMap>,
    /// The embedder's own words.
    pub description: Vec<u8>,
    /// Whether its supervisor lives.
    pub alive: bool,
}

impl Record {
    /// Reads one run directory.
    ///
    /// # Errors
    /// As std's for files; `InvalidData` for a record of another version of the format, or a broken one.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path.join("record"))?;
        let alive = is_locked(&path.join("lock"))?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: no record of version {}", path.display(), wire::VERSION));
        match wire::Record::take(&mut Reader::new(&bytes)) {
            Ok(record) if record.version == wire::VERSION => Ok(Self {
                path: path.to_owned(),
                undo: record.undo.iter().map(|undo| owned_undo(&undo)).collect(),
                id_map: record.id_map.map(|map| owned_map(&map)),
                description: record.description.to_vec(),
                alive,
            }),
            _ => Err(invalid()),
        }
    }

    /// All runs below a directory, in no order; what isn't a run is passed over.
    pub fn list(runs: &Path) -> io::Result<Vec<Self>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(runs)? {
            let entry = entry?;
            if !entry.file_name().as_bytes().starts_with(b".") {
                records.extend(Self::read(&entry.path()).ok());
            }
        }
        Ok(records)
    }
}

fn path_of(s: &std::ffi::CStr) -> PathBuf {
    OsStr::from_bytes(s.to_bytes()).into()
}

fn owned_undo(undo: &wire::Undo<'_>) -> Undo {
    match *undo {
        wire::Undo::KillCgroup { path } => Undo::KillCgroup(path_of(path)),
        wire::Undo::RemoveDirectory { path } => Undo::RemoveCgroup(path_of(path)),
        wire::Undo::RemoveTree { path } => Undo::RemoveTree(path_of(path)),
        wire::Undo::Thaw { path } => Undo::Thaw(path_of(path)),
        wire::Undo::Never(_, never) => match never {},
    }
}

fn owned_map(map: &wire::IdMap<'_>) -> IdMap {
    let ranges = |list: &wire::List<'_, wire::IdRange<'_>>| {
        list.iter().map(|r| IdRange { inside: r.inside, outside: r.outside, count: r.count }).collect()
    };
    IdMap {
        uids: ranges(&map.uids),
        gids: ranges(&map.gids),
        helpers: map.newuidmap.zip(map.newgidmap).map(|(u, g)| (path_of(u), path_of(g))),
        deny_setgroups: map.deny_setgroups,
    }
}

/// The name of a file by which a run directory stays when its run has ended: what is in it is the embedder's. [`sweep`] takes back what the
/// record lists, and leaves the directory.
pub const KEPT: &str = "kept";

/// The name of the file in which a kept run's end is, by [`Spawn::ended`](crate::Spawn::ended).
pub const ENDED: &str = "ended";

/// Whether the supervisor of a run lives.
///
/// # Errors
/// As std's for files.
pub fn is_alive(run: &Path) -> io::Result<bool> {
    is_locked(&run.join("lock"))
}

/// Removes a run directory that nobody runs in, and what else there is; blocks until done. Files of sub-ids go by the map.
///
/// # Errors
/// [`Error::Step`] while somebody runs in it; [`Error::Supervisor`] with what couldn't be removed; those of starting.
pub fn remove_run(run: &Path, beside: Vec<Undo>, map: Option<IdMap>) -> Result<(), Error> {
    let mut undo = beside;
    undo.push(Undo::RemoveTree(run.to_owned()));
    Spawn::adopt(Record { path: run.to_owned(), undo, id_map: map, description: Vec::new(), alive: false })
}

/// Bounds what an empty directory holds, as [`Effect::LimitDirectory`] says; blocks until done.
///
/// # Errors
/// [`Error::Step`] where the file system doesn't; those of starting.
pub fn limit_directory(path: &Path, bytes: u64) -> Result<(), Error> {
    Spawn::new("").effect(Effect::LimitDirectory { path: path.to_owned(), bytes }).perform_only()
}

/// Whether somebody holds the lock of a run.
fn is_locked(lock: &Path) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    // Shared, so that two who ask at once don't take each other for a supervisor. Closing the file lets go of what was only a question;
    // whoever locks for good asks more than once.
    match flock(File::open(lock)?, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// A draft of a run directory that has no lock is somebody's who is about to lock it, for this long.
const DRAFT: Duration = Duration::from_secs(60);

/// Takes back what runs left whose supervisors were killed; blocks until that is done. Runs whose supervisors live aren't touched.
/// The answer is how many were taken back, and what couldn't be.
///
/// # Errors
/// Only where the directory itself can't be read.
pub fn sweep(runs: &Path) -> io::Result<(usize, Vec<Error>)> {
    let (mut swept, mut errors) = (0, Vec::new());
    for entry in fs::read_dir(runs)? {
        let path = entry?.path();
        let lock = path.join("lock");
        let draft = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
        let abandoned = match is_locked(&lock) {
            Ok(locked) => !locked,
            // It loses its lock last, so only what is being begun has none.
            Err(e) if !draft && e.kind() == io::ErrorKind::NotFound => path.is_dir(),
            Err(_) => fs::metadata(&path).is_ok_and(|m| {
                let age = std::time::SystemTime::now().duration_since(m.modified().unwrap_or(std::time::SystemTime::UNIX_EPOCH));
                m.is_dir() && m.uid() == rustix::process::geteuid().as_raw() && age.is_ok_and(|age| age > DRAFT)
            }),
        };
        if !abandoned {
            continue;
        }
        let kept = !draft && path.join(KEPT).exists();
        let outcome = match Record::read(&path) {
            Ok(record) if kept => {
                // How it ended isn't known to anybody; unless it had told before it was killed.
                let told = fs::metadata(path.join(ENDED)).and_then(|ended| ended.modified()).ok();
                let begun = fs::metadata(path.join("record")).and_then(|record| record.modified()).ok();
                if told.is_none_or(|told| begun.is_none_or(|begun| told < begun)) {
                    let _ = fs::write(path.join(ENDED), []);
                }
                Spawn::adopt(record)
            }
            Ok(record) => Spawn::adopt(record),
            Err(e) if kept && e.kind() == io::ErrorKind::NotFound => continue,
            // A draft has had no other effect yet; a run without a record has had all others undone.
            Err(e) if draft || e.kind() == io::ErrorKind::NotFound => Spawn::undo_only(vec![Undo::RemoveTree(path.clone())]),
            // Another version's: that one knows what to do.
            Err(_) => continue,
        };
        match outcome {
            Ok(()) => swept += 1,
            Err(error) => errors.push(error),
        }
    }
    Ok((swept, errors))
}

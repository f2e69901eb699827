//! Volumes: directories of the engine's that containers have beside their roots, and that may outlive them.
//!
//! ```text
//!  ROOT/volumes/
//!    lock             held while a volume is made or removed
//!    NAME/record      what it is: JSON
//!    NAME/lock        held, shared, by the supervisors of the containers that it is mounted in; alone by who fills or removes it
//!    NAME/data/       the files
//!    NAME/filling/    what is being copied out of an image, before it takes the place of `data`
//!    .NAME…/          about to appear, or removed
//! ```

use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::lower::new_id;
use crate::mount::Kind as MountKind;
use crate::state::Found;
use coracle_spawn::OwnerChange;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Describes a volume: a directory of the engine's, on its file system, that containers have beside their roots.
///
/// - One with a **name** is made when it is first asked for, may be had by many containers at a time, and stays until it is
///   [removed](Engine::remove_volume).
/// - An **anonymous** one is a container's own: it stays over its lives, and goes with it.
/// - An **ephemeral** one goes with the life of its container, and is new in the next.
///
/// Both of the latter go whoever dies: the container's supervisor removes them, or the next engine. Owner, mode and size are those of
/// one that is made.
///
/// ```
/// use coracle_container::{Mount, Volume};
/// let data = Mount::volume(Volume::named("database").owner(70, 70).label("job", "7"), "/var/lib/postgresql/data");
/// let build = Mount::volume(Volume::ephemeral().size("2g"), "/build");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Volume(pub(crate) Wish);

/// What is wished for. Members may be added; none changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) lasts: Lasts,
    /// None until it has one.
    pub(crate) name: Option<String>,
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u32>,
    pub(crate) size: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) no_copy: bool,
}

/// How long a volume lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lasts {
    UntilRemoved,
    AsLongAsTheContainer,
    OneLife,
}

impl Volume {
    fn new(lasts: Lasts, name: Option<String>) -> Self {
        Self(Wish { lasts, name, owner: None, mode: None, size: None, labels: BTreeMap::new(), no_copy: false })
    }

    /// One with a name: up to 128 letters, digits, `_`, `.` and `-`, of which the first is a letter or digit.
    pub fn named(name: impl Into<String>) -> Self {
        Self::new(Lasts::UntilRemoved, Some(name.into()))
    }

    /// One that is a container's own, and goes with it.
    pub fn anonymous() -> Self {
        Self::new(Lasts::AsLongAsTheContainer, None)
    }

    /// One that goes with the life of its container.
    pub fn ephemeral() -> Self {
        Self::new(Lasts::OneLife, None)
    }

    /// The owner and group of its top directory, by number, as containers count. If nothing is said: of what the image has at the place where
    /// it is mounted first, else root.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.0.owner = Some((uid, gid));
        self
    }

    /// The permission bits of its top directory, likewise; else 0755.
    pub fn mode(mut self, mode: u32) -> Self {
        self.0.mode = Some(mode & 0o7777);
        self
    }

    /// The most that it holds: bytes, or a text as `2g`. Kept by the file system, by a project quota: needs root, and ext4 or XFS mounted with
    /// `prjquota`. Anything else is [`Error::VolumeSize`] when it is made; and a volume that is there with another size is, too.
    pub fn size(mut self, size: impl Into<String>) -> Self {
        self.0.size = Some(size.into());
        self
    }

    /// A label, for whoever lists volumes.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.labels.insert(key.into(), value.into());
        self
    }

    /// What is wrong with its words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(name) = self.0.name.as_ref().filter(|name| !crate::kept::is_a_name(name)) {
            let what = format!("{name:?} can't be the name of a volume");
            let remedy = Some("up to 128 letters, digits, _, . and -, of which the first is a letter or digit".into());
            problems.push(Problem { what, remedy });
        }
        if let Some(Err(error)) = self.0.size.as_ref().map(|size| coracle_cgroups::parse_memory(size)) {
            problems.push(Problem { what: format!("the size of a volume: {error}"), remedy: error.remedy() });
        }
        problems
    }

    fn bytes(&self) -> Option<u64> {
        self.0.size.as_ref().and_then(|size| coracle_cgroups::parse_memory(size).ok())
    }
}

impl From<&str> for Volume {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl From<String> for Volume {
    fn from(name: String) -> Self {
        Self::named(name)
    }
}

/// A volume that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeSummary {
    /// Its name; of one without, sixteen hexadecimal digits.
    pub name: String,
    /// Where its files are. A plain user's may belong to sub-ids.
    pub path: PathBuf,
    /// When it was made.
    pub created: SystemTime,
    /// The most that it holds, in bytes, if there is a limit.
    pub size: Option<u64>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it has no name of its own, and goes with a container.
    pub anonymous: bool,
    /// The containers that have it, by their ids: those that run, and those that stay.
    pub containers: Vec<String>,
    /// Whether it is mounted in a container that runs.
    pub mounted: bool,
}

/// What is kept of a volume. Members may be added; none changes its meaning.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Seconds since 1970.
    created: u64,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    size: Option<u64>,
    /// The container that it goes with.
    #[serde(default)]
    container: Option<String>,
    #[serde(default)]
    owner: Option<(u32, u32)>,
    #[serde(default)]
    mode: Option<u32>,
}

/// A volume that nobody removes as long as this is there.
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) place: PathBuf,
    pub(crate) lock: File,
    record: Record,
    /// Nobody else has it, and it is to be filled.
    alone: bool,
}

impl Held {
    pub(crate) fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Where what is to be in it is put together, if it is to be filled: nobody else has it, and others wait until it is [`filled`](Self::filled).
    pub(crate) fn filling(&self) -> Option<PathBuf> {
        self.alone.then(|| self.place.join("filling"))
    }

    /// Lets the others have it.
    pub(crate) fn filled(&self) -> Result<(), Error> {
        flock(&self.lock, FlockOperation::LockShared).map_err(|errno| state("lock", &self.place)(errno.into()))
    }

    /// The owner and mode that were asked for, which are stronger than those of what was copied in.
    pub(crate) fn own(&self, engine: &Engine, data: &Path) -> Result<(), Error> {
        own(engine, data, self.record.owner, self.record.mode)
    }
}

fn state(attempted: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + Copy {
    move |source| Error::State { attempted, path: path.to_owned(), source }
}

fn locks(lock: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(lock, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::AGAIN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives a directory an owner, as containers count, and permissions.
fn own(engine: &Engine, directory: &Path, owner: Option<(u32, u32)>, mode: Option<u32>) -> Result<(), Error> {
    use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmod, chownat};
    let failed = state("give an owner to", directory);
    match (owner, &engine.0.id_map) {
        (Some((uid, gid)), Some(map)) if (uid, gid) != (0, 0) => {
            return Ok(coracle_spawn::change_owners(directory, &[OwnerChange::new(".", uid, gid, Some(mode.unwrap_or(0o755)))], map)?);
        }
        (Some((uid, gid)), None) => {
            let done = chownat(CWD, directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW);
            done.map_err(|errno| failed(errno.into()))?;
        }
        _ => {}
    }
    match mode {
        Some(mode) => chmod(directory, Mode::from_raw_mode(mode)).map_err(|errno| failed(errno.into())),
        None => Ok(()),
    }
}

/// The directory of volumes, and its lock.
fn lock_all(engine: &Engine) -> Result<(PathBuf, File), Error> {
    let all = engine.0.root.join("volumes");
    DirBuilder::new().recursive(true).mode(0o700).create(&all).map_err(state("make", &all))?;
    let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(all.join("lock")).map_err(state("lock", &all))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| state("lock", &all)(errno.into()))?;
    Ok((all, lock))
}

fn record(place: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(place.join("record")).ok()?).ok()
}

/// Takes a volume, so that it stays; where it isn't there, makes it. Blocks for a moment, longer while somebody fills it. `container` is whose it
/// is where it has no name.
pub(crate) fn hold(engine: &Engine, volume: &Volume, container: &str) -> Result<Held, Error> {
    let name = volume.0.name.clone().unwrap_or_else(new_id);
    loop {
        let (all, alone) = lock_all(engine)?;
        let place = all.join(&name);
        if !place.is_dir() {
            make(engine, &all, &name, volume, container)?;
        }
        let failed = state("lock", &place);
        let lock = File::options().read(true).write(true).open(place.join("lock")).map_err(failed)?;
        drop(alone);
        // Not under the lock of all: who fills it may take a while, and others make others meanwhile. One that its user can't look into has
        // belonged to somebody, and isn't new.
        let empty = || fs::read_dir(place.join("data")).is_ok_and(|mut entries| entries.next().is_none());
        let mut first = !volume.0.no_copy && empty() && locks(&lock, FlockOperation::NonBlockingLockExclusive).map_err(failed)?;
        // Who had it before may have filled it.
        first &= empty();
        if !first {
            flock(&lock, FlockOperation::LockShared).map_err(|errno| failed(errno.into()))?;
        }
        let same = place.join("lock").metadata().ok().zip(lock.metadata().ok());
        let there = same.is_some_and(|(path, lock)| (path.dev(), path.ino()) == (lock.dev(), lock.ino()));
        let Some(record) = record(&place).filter(|_| there) else {
            // It was removed while we waited.
            continue;
        };
        if let Some(size) = volume.bytes().filter(|&size| record.size != Some(size)) {
            let why = match record.size {
                Some(is) => format!("it is there with a size of {is}"),
                None => "it is there without a size".into(),
            };
            return Err(Error::VolumeSize { name, size, why });
        }
        return Ok(Held { name, place, lock, record, alone: first });
    }
}

/// Makes one, under the lock of all.
fn make(engine: &Engine, all: &Path, name: &str, volume: &Volume, container: &str) -> Result<(), Error> {
    let draft = all.join(format!(".{name}-{}", new_id()));
    let failed = state("make", &draft);
    let record = Record {
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        labels: volume.0.labels.clone(),
        size: volume.bytes(),
        container: (volume.0.lasts != Lasts::UntilRemoved).then(|| container.to_owned()),
        owner: volume.0.owner,
        mode: volume.0.mode,
    };
    let made = (|| {
        let data = draft.join("data");
        DirBuilder::new().mode(0o700).create(&draft).map_err(failed)?;
        File::options().create_new(true).write(true).mode(0o600).open(draft.join("lock")).map_err(failed)?;
        fs::write(draft.join("record"), serde_json::to_vec(&record).map_err(|error| failed(io::Error::other(error)))?).map_err(failed)?;
        DirBuilder::new().mode(0o755).create(&data).map_err(failed)?;
        // Whatever the umask of this process is.
        own(engine, &data, volume.0.owner, Some(volume.0.mode.unwrap_or(0o755)))?;
        if let Some(size) = record.size {
            limit(engine, &data, name, size)?;
        }
        fs::rename(&draft, all.join(name)).map_err(failed)
    })();
    if made.is_err() {
        let _ = unlink(engine, &draft);
    }
    made
}

/// Bounds what a directory holds.
fn limit(engine: &Engine, data: &Path, name: &str, size: u64) -> Result<(), Error> {
    let failed = |why: String| Error::VolumeSize { name: name.to_owned(), size, why };
    if engine.0.id_map.is_some() {
        return Err(failed("a quota is root's to set".into()));
    }
    coracle_spawn::limit_directory(data, size).map_err(|error| failed(error.to_string()))
}

/// Removes a directory with files of whoever's; nothing there is fine.
pub(crate) fn unlink(engine: &Engine, directory: &Path) -> Result<(), Error> {
    match &engine.0.id_map {
        _ if directory.symlink_metadata().is_err() => Ok(()),
        Some(map) => Ok(coracle_spawn::remove_tree(directory, map)?),
        None if !directory.is_dir() => fs::remove_file(directory).map_err(state("remove", directory)),
        None => match fs::remove_dir_all(directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(state("remove", directory)(source)),
            _ => Ok(()),
        },
    }
}

/// Takes a volume out of sight that nobody uses, under the lock of all. None where somebody does.
fn bury(all: &Path, name: &str) -> Result<Option<(PathBuf, File)>, Error> {
    let place = all.join(name);
    let lock = File::options().read(true).write(true).open(place.join("lock")).map_err(state("lock", &place))?;
    if !locks(&lock, FlockOperation::NonBlockingLockExclusive).map_err(state("lock", &place))? {
        return Ok(None);
    }
    let grave = all.join(format!(".{name}-{}", new_id()));
    fs::rename(&place, &grave).map_err(state("remove", &place))?;
    Ok(Some((grave, lock)))
}

/// The names in the directory of volumes.
fn names(all: &Path) -> Vec<String> {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Takes back what the dead left: volumes of containers that are gone, and what was being made or removed.
pub(crate) fn sweep(engine: &Engine) -> Result<(), Error> {
    let all = engine.0.root.join("volumes");
    // Most often there is nothing, and nobody is to be waited for.
    let orphan = |name: &String| {
        let gone = |container: String| !engine.0.runs.join(&container).exists() && !engine.0.runs.join(format!(".{container}")).exists();
        name.starts_with('.') || record(&all.join(name)).and_then(|record| record.container).is_some_and(gone)
    };
    if !names(&all).iter().any(orphan) {
        return Ok(());
    }
    let (all, alone) = lock_all(engine)?;
    let mut graves = Vec::new();
    for name in names(&all).into_iter().filter(orphan) {
        if !name.starts_with('.') {
            // Who is about to start with it holds it.
            graves.extend(bury(&all, &name)?);
            continue;
        }
        let place = all.join(&name);
        match File::open(place.join("lock")) {
            // Somebody is removing it.
            Ok(lock) if !locks(&lock, FlockOperation::NonBlockingLockExclusive).map_err(state("lock", &place))? => {}
            Ok(lock) => graves.push((place, lock)),
            // It has its lock last: nothing but the directory is there.
            Err(_) => unlink(engine, &place)?,
        }
    }
    drop(alone);
    graves.iter().try_for_each(|(grave, _)| unlink(engine, grave))
}

/// The names of a container's volumes, as it was described.
fn volumes_of(found: &Found) -> Vec<String> {
    let spec = found.description.spec.as_ref();
    let mut names: Vec<String> = spec.map(|spec| spec.volumes()).unwrap_or_default();
    names.extend(found.description.volumes.iter().cloned());
    names.sort();
    names.dedup();
    names
}

impl Engine {
    /// Makes a volume with a name. One that is there stays as it is.
    ///
    /// # Errors
    /// [`Error::Description`] for what can't be a name, or has none; [`Error::VolumeSize`]; [`Error::State`].
    pub async fn create_volume(&self, volume: impl Into<Volume>) -> Result<VolumeSummary, Error> {
        let volume: Volume = volume.into();
        let mut problems = volume.problems();
        let Some(name) = volume.0.name.clone().filter(|_| volume.0.lasts == Lasts::UntilRemoved) else {
            let what = "a volume without a name is made with the container that it belongs to".into();
            return Err(Error::Description { problems: vec![Problem { what, remedy: Some("name it: Volume::named(..)".into()) }] });
        };
        if let Some(problem) = problems.pop() {
            return Err(Error::Description { problems: vec![problem] });
        }
        let engine = self.clone();
        crate::images::work("coracle-volume", move || hold(&engine, &volume, "").map(drop)).await?;
        self.volume(&name)
    }

    /// The volumes that are here, by name.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn volumes(&self) -> Result<Vec<VolumeSummary>, Error> {
        sweep(self)?;
        let all = self.0.root.join("volumes");
        let found = Found::all(&self.0.runs).map_err(state("list", &self.0.runs))?;
        let users: Vec<(String, bool, Vec<String>)> =
            found.into_iter().filter(|f| f.alive || f.kept).map(|f| (f.id.clone(), f.alive, volumes_of(&f))).collect();
        let mut volumes: Vec<_> = names(&all)
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .filter_map(|name| {
                let record = record(&all.join(&name))?;
                let owner = |id: &String| record.container.as_ref() == Some(id);
                let of = || users.iter().filter(|(id, _, volumes)| owner(id) || volumes.contains(&name));
                Some(VolumeSummary {
                    path: all.join(&name).join("data"),
                    created: UNIX_EPOCH + Duration::from_secs(record.created),
                    size: record.size,
                    labels: record.labels.clone(),
                    anonymous: record.container.is_some(),
                    mounted: of().any(|(_, alive, _)| *alive),
                    containers: of().map(|(id, ..)| id.clone()).collect(),
                    name,
                })
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::State`].
    pub fn volume(&self, name: &str) -> Result<VolumeSummary, Error> {
        let found = self.volumes()?.into_iter().find(|volume| volume.name == name);
        found.ok_or_else(|| Error::NoSuchVolume { name: name.to_owned() })
    }

    /// Removes a volume with its files.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`]; [`Error::VolumeInUse`] while a container has it, also one that is stopped; [`Error::State`].
    pub async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let (engine, name) = (self.clone(), name.to_owned());
        crate::images::work("coracle-volume", move || remove(&engine, &name)).await
    }

    /// Removes the volumes with a name that no container has, and says which.
    ///
    /// # Errors
    /// [`Error::State`].
    pub async fn prune_volumes(&self) -> Result<Vec<VolumeSummary>, Error> {
        let mut pruned = Vec::new();
        for volume in self.volumes()?.into_iter().filter(|volume| volume.containers.is_empty() && !volume.anonymous) {
            match self.remove_volume(&volume.name).await {
                Ok(()) => pruned.push(volume),
                // Somebody was quicker, with a container or a removal.
                Err(Error::VolumeInUse { .. } | Error::NoSuchVolume { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }
}

fn remove(engine: &Engine, name: &str) -> Result<(), Error> {
    let containers = engine.volume(name)?.containers;
    if !containers.is_empty() {
        return Err(Error::VolumeInUse { name: name.to_owned(), containers });
    }
    // A container that nobody knows any more has a moment to let go of it.
    const PATIENCE: Duration = Duration::from_secs(2);
    let begun = Instant::now();
    loop {
        let (all, alone) = lock_all(engine)?;
        if !all.join(name).is_dir() {
            return Err(Error::NoSuchVolume { name: name.to_owned() });
        }
        if let Some((grave, _lock)) = bury(&all, name)? {
            drop(alone);
            return unlink(engine, &grave);
        }
        drop(alone);
        if begun.elapsed() > PATIENCE {
            return Err(Error::VolumeInUse { name: name.to_owned(), containers: engine.volume(name)?.containers });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gives the volumes of a container that stays and have no name of their own one each, and makes them.
pub(crate) fn name_all(engine: &Engine, mounts: &mut [crate::mount::Mount], container: &str) -> Result<Vec<Held>, Error> {
    let mut held = Vec::new();
    for mount in mounts {
        if let MountKind::Volume(volume) = &mut mount.kind
            && volume.0.lasts == Lasts::AsLongAsTheContainer
        {
            let made = hold(engine, volume, container)?;
            volume.0.name = Some(made.name.clone());
            held.push(made);
        }
    }
    Ok(held)
}

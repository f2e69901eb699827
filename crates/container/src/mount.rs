//! What a container sees beside its own root: of the host, of volumes, of other images.

use crate::error::Problem;
use crate::image;
use crate::volume::Volume;
use coracle_spawn::Mount as Lowered;
use std::path::{Path, PathBuf};

/// A mount inside a container. Its target is looked up inside the container's root, links and all, and made if it isn't there.
///
/// ```
/// use coracle_container::{Mount, Owner, Volume};
/// let source = Mount::bind("/home/ann/project", "/work").owner(Owner::Caller);
/// let scratch = Mount::tmpfs("/scratch").size("64m").mode(0o700);
/// let data = Mount::volume("database", "/var/lib/postgresql/data");
/// let cache = Mount::volume(Volume::ephemeral(), "/var/cache");
/// let tools = Mount::image("localhost:5000/tools:1", "/opt/tools");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Mount {
    pub(crate) kind: Kind,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Bind {
        source: PathBuf,
        owner: Owner,
    },
    Tmpfs {
        size: Option<String>,
        mode: u32,
    },
    Volume(Volume),
    /// `layers`, topmost first, of a container that is started again.
    Image {
        reference: String,
        layers: Vec<PathBuf>,
    },
}

/// Whose the files of a [bind mount](Mount::bind) are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Owner {
    /// Whoever's number they have: a file of uid 1000 is that of uid 1000 inside, and the other way round. For a plain user's container: by the
    /// map of its user namespace, in which root is this user.
    #[default]
    Same,
    /// What belongs to this process's user belongs to the container's user inside, and what that makes belongs to this process's user outside:
    /// the files come back as the caller's. Who has the caller's number inside has the user's outside, everybody else their own.
    ///
    /// As root by an idmapped mount (Linux 5.12, on file systems that know it: ext4, XFS, Btrfs, tmpfs since 6.3); where the file system
    /// doesn't, the start is an error. For a plain user root inside is the caller already, and another user is an error at the start.
    Caller,
}

/// A mount whose words were read.
pub(crate) enum Checked {
    Ready(Lowered),
    Volume(Volume),
    Image(String),
    Layers(Vec<PathBuf>),
}

impl Mount {
    /// A file or directory of the host, with what is mounted below it. A relative source is below the working directory of this
    /// process when the container starts. Device nodes in it open no device.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self::new(Kind::Bind { source: source.into(), owner: Owner::Same }, target)
    }

    /// An empty tmpfs, gone with the container: no set-id programs, no devices, mode 1777.
    pub fn tmpfs(target: impl Into<PathBuf>) -> Self {
        Self::new(Kind::Tmpfs { size: None, mode: 0o1777 }, target)
    }

    /// A volume: one with this name, made if there is none, or as [`Volume`] describes it. While it is empty, what the container's image has at
    /// the target is copied into it before the start, owners and modes included, as Docker does.
    pub fn volume(volume: impl Into<Volume>, target: impl Into<PathBuf>) -> Self {
        Self::new(Kind::Volume(volume.into()), target)
    }

    /// The files of another image, which can't be written. It is pulled if it isn't here, and stays as long as the container.
    pub fn image(reference: impl Into<String>, target: impl Into<PathBuf>) -> Self {
        Self::new(Kind::Image { reference: reference.into(), layers: Vec::new() }, target)
    }

    fn new(kind: Kind, target: impl Into<PathBuf>) -> Self {
        Self { kind, target: target.into(), read_only: false }
    }

    /// No writing.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The size of a tmpfs, as a memory limit is written; half of the machine's memory if nothing is said. Of a volume, as
    /// [`Volume::size`].
    pub fn size(mut self, new: impl Into<String>) -> Self {
        match &mut self.kind {
            Kind::Tmpfs { size, .. } => *size = Some(new.into()),
            Kind::Volume(volume) => volume.0.size = Some(new.into()),
            Kind::Bind { .. } | Kind::Image { .. } => {}
        }
        self
    }

    /// The permission bits of the top directory of a tmpfs, or of a volume that is made.
    pub fn mode(mut self, new: u32) -> Self {
        match &mut self.kind {
            Kind::Tmpfs { mode, .. } => *mode = new & 0o7777,
            Kind::Volume(volume) => volume.0.mode = Some(new & 0o7777),
            Kind::Bind { .. } | Kind::Image { .. } => {}
        }
        self
    }

    /// Whose the files of a bind mount are.
    pub fn owner(mut self, new: Owner) -> Self {
        if let Kind::Bind { owner, .. } = &mut self.kind {
            *owner = new;
        }
        self
    }

    /// Nothing of the image is copied into a volume that is empty.
    pub fn no_copy(mut self) -> Self {
        if let Kind::Volume(volume) = &mut self.kind {
            volume.0.no_copy = true;
        }
        self
    }

    /// Reads its words. No effect, no privilege.
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) -> Option<Checked> {
        let mut problem = |what: String, remedy: Option<String>| problems.push(Problem { what, remedy });
        if !self.target.is_absolute() || self.target == Path::new("/") {
            let what = format!("{} can't be the target of a mount", self.target.display());
            problem(what, Some("an absolute path below /".into()));
        }
        let lowered = match &self.kind {
            Kind::Bind { source, owner } => match std::path::absolute(source).and_then(|path| path.symlink_metadata().map(|_| path)) {
                Ok(path) if *owner == Owner::Caller => {
                    use rustix::process::{getegid, geteuid};
                    Lowered::bind(path, &self.target).owned_by(geteuid().as_raw(), getegid().as_raw())
                }
                Ok(path) => Lowered::bind(path, &self.target),
                Err(error) => {
                    problem(format!("can't bind {}: {error}", source.display()), None);
                    return None;
                }
            },
            Kind::Tmpfs { size, mode } => {
                let mut options = vec![format!("mode={mode:o}")];
                if let Some(size) = size {
                    match coracle_cgroups::parse_memory(size) {
                        Ok(bytes) => options.push(format!("size={bytes}")),
                        Err(error) => problem(format!("the size of {}: {error}", self.target.display()), error.remedy()),
                    }
                }
                Lowered::tmpfs(&self.target, options)
            }
            Kind::Volume(volume) => {
                problems.extend(volume.problems());
                return Some(Checked::Volume(volume.clone()));
            }
            Kind::Image { layers, .. } if !layers.is_empty() => return Some(Checked::Layers(layers.clone())),
            Kind::Image { reference, .. } => {
                problems.extend(image::parse(reference).err());
                return Some(Checked::Image(reference.clone()));
            }
        };
        Some(Checked::Ready(if self.read_only { lowered.read_only() } else { lowered }))
    }
}

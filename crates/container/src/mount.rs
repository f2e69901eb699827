//! What a container sees of the host beside its own root.

use std::path::PathBuf;

/// A mount inside a container. Its target is looked up inside the container's root, links and all, and made if it isn't there.
///
/// ```
/// use coracle_container::Mount;
/// let source = Mount::bind("/home/ann/project", "/work").read_only();
/// let scratch = Mount::tmpfs("/scratch").size("64m").mode(0o700);
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
    Bind { source: PathBuf },
    Tmpfs { size: Option<String>, mode: u32 },
}

impl Mount {
    /// A file or directory of the host, with what is mounted below it. A relative source is below the working directory of this
    /// process when the container starts. Device nodes in it open no device.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { kind: Kind::Bind { source: source.into() }, target: target.into(), read_only: false }
    }

    /// An empty tmpfs, gone with the container: no set-id programs, no devices, mode 1777.
    pub fn tmpfs(target: impl Into<PathBuf>) -> Self {
        Self { kind: Kind::Tmpfs { size: None, mode: 0o1777 }, target: target.into(), read_only: false }
    }

    /// No writing.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The size of a tmpfs, as a memory limit is written; half of the machine's memory if nothing is said.
    pub fn size(mut self, new: impl Into<String>) -> Self {
        if let Kind::Tmpfs { size, .. } = &mut self.kind {
            *size = Some(new.into());
        }
        self
    }

    /// The permission bits of a tmpfs's top directory.
    pub fn mode(mut self, new: u32) -> Self {
        if let Kind::Tmpfs { mode, .. } = &mut self.kind {
            *mode = new & 0o7777;
        }
        self
    }
}

//! An overlay mount as data: this crate describes it, whoever may mount (the supervisor, inside the container's namespaces) performs it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// An overlay mount (Linux, Documentation/filesystems/overlayfs.rst).
///
/// ```
/// use coracle_layers::Overlay;
///
/// let overlay = Overlay::new(vec!["/store/top/fs".into(), "/store/base/fs".into()]).writable("/run/c/upper", "/run/c/work");
/// overlay.validate()?;
/// let parameters = overlay.parameters();
/// assert_eq!(parameters[0].key, "lowerdir+");
/// # Ok::<(), coracle_layers::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Overlay {
    /// Read-only layers, the topmost first, as [`LayerStore::paths`](crate::LayerStore::paths) returns them. Absolute paths.
    pub lower: Vec<PathBuf>,
    /// Where changes go; `None` for a read-only mount. The mount's root directory has the mode and owner of this one.
    pub upper: Option<PathBuf>,
    /// An empty directory on the same file system as `upper`, for overlay's own use.
    pub work: Option<PathBuf>,
    /// Read `user.overlay.*` rather than `trusted.overlay.*`: for mounts in a user namespace (Linux 5.11), and layers of
    /// [`Flavour::User`](crate::Flavour::User).
    pub userxattr: bool,
    /// Never sync `upper` (Linux 5.10): for containers whose changes don't outlive a crash.
    pub volatile: bool,
}

/// One parameter of the mount, for `fsconfig(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name.
    pub key: &'static str,
    /// Its value; `None` for a flag.
    pub value: Option<PathBuf>,
}

/// What the kernel stacks at most (OVL_MAX_STACK).
const MAX_LOWER: usize = 500;

impl Overlay {
    /// A read-only overlay of these layers, the topmost first.
    pub fn new(lower: Vec<PathBuf>) -> Overlay {
        Overlay { lower, upper: None, work: None, userxattr: false, volatile: false }
    }

    /// Lets changes go to `upper`.
    pub fn writable(mut self, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Overlay {
        self.upper = Some(upper.into());
        self.work = Some(work.into());
        self
    }

    /// Whether to read `user.overlay.*`.
    pub fn userxattr(mut self, yes: bool) -> Overlay {
        self.userxattr = yes;
        self
    }

    /// Whether to leave out syncing.
    pub fn volatile(mut self, yes: bool) -> Overlay {
        self.volatile = yes;
        self
    }

    /// Checks all that can be checked without looking at the host.
    ///
    /// # Errors
    /// [`Error::Overlay`] says what the kernel would answer with a bare EINVAL.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Overlay { what });
        for path in self.lower.iter().chain(&self.upper).chain(&self.work) {
            if !path.is_absolute() || path.components().any(|part| matches!(part, Component::ParentDir)) {
                return refuse(format!("{} isn't an absolute path without `..`", path.display()));
            }
            if path.as_os_str().as_bytes().contains(&0) {
                return refuse(format!("{} has a NUL", path.display()));
            }
        }
        if self.lower.is_empty() {
            return refuse("it has no lower layer".into());
        }
        if self.lower.len() > MAX_LOWER {
            return refuse(format!("it has {} lower layers; the kernel takes {MAX_LOWER}", self.lower.len()));
        }
        for (index, path) in self.lower.iter().enumerate() {
            if self.lower[..index].contains(path) {
                return refuse(format!("{} is in it twice", path.display()));
            }
        }
        match (&self.upper, &self.work) {
            (Some(upper), Some(work)) => {
                if upper.starts_with(work) || work.starts_with(upper) {
                    return refuse(format!("upper {} and work {} contain each other", upper.display(), work.display()));
                }
                for own in [upper, work] {
                    if let Some(lower) = self.lower.iter().find(|lower| own.starts_with(lower) || lower.starts_with(own)) {
                        return refuse(format!("{} and the layer {} contain each other", own.display(), lower.display()));
                    }
                }
            }
            (None, None) => {
                if self.lower.len() < 2 {
                    return refuse("without an upper directory the kernel wants two lower ones: bind-mount the single layer".into());
                }
                if self.volatile {
                    return refuse("without an upper directory it can't be volatile".into());
                }
            }
            _ => return refuse("upper and work go together".into()),
        }
        Ok(())
    }

    /// The mount's parameters, in order, for `fsopen("overlay")` and one `fsconfig(2)` each: FSCONFIG_SET_STRING, or
    /// FSCONFIG_SET_FLAG where there is no value. `lowerdir+` needs Linux 6.5 and has no limit of length.
    pub fn parameters(&self) -> Vec<Parameter> {
        let path = |key, path: &Path| Parameter { key, value: Some(path.to_owned()) };
        let flag = |key| Parameter { key, value: None };
        let mut parameters: Vec<Parameter> = self.lower.iter().map(|lower| path("lowerdir+", lower)).collect();
        parameters.extend(self.upper.iter().map(|upper| path("upperdir", upper)));
        parameters.extend(self.work.iter().map(|work| path("workdir", work)));
        if self.userxattr {
            parameters.push(flag("userxattr"));
        }
        if self.volatile {
            parameters.push(flag("volatile"));
        }
        parameters
    }

    /// The options as one string for `mount(2)`, for kernels before 6.5; special characters are escaped. The kernel takes less
    /// than a page (4,096 bytes): with many layers use short paths.
    pub fn mount_options(&self) -> Vec<u8> {
        fn escape(path: &Path, out: &mut Vec<u8>) {
            for byte in path.as_os_str().as_bytes() {
                if matches!(byte, b'\\' | b':' | b',') {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
        }
        let mut out = b"lowerdir=".to_vec();
        for (index, lower) in self.lower.iter().enumerate() {
            if index > 0 {
                out.push(b':');
            }
            escape(lower, &mut out);
        }
        for (key, path) in [(&b",upperdir="[..], &self.upper), (b",workdir=", &self.work)] {
            if let Some(path) = path {
                out.extend_from_slice(key);
                escape(path, &mut out);
            }
        }
        if self.userxattr {
            out.extend_from_slice(b",userxattr");
        }
        if self.volatile {
            out.extend_from_slice(b",volatile");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(names: &[&str]) -> Overlay {
        Overlay::new(names.iter().map(PathBuf::from).collect())
    }

    #[test]
    fn a_description_that_the_kernel_would_refuse_is_refused_with_a_reason() {
        fn check(overlay: Overlay, reason: Option<&str>) {
            let error = overlay.validate().err().map(|error| error.to_string());
            match reason {
                None => assert_eq!(error, None),
                Some(reason) => assert!(error.as_deref().is_some_and(|error| error.contains(reason)), "{error:?}"),
            }
        }
        check(lower(&["/a", "/b"]), None);
        check(lower(&["/a"]).writable("/u/up", "/u/work"), None);
        check(lower(&["/a"]), Some("two lower"));
        check(lower(&[]), Some("no lower"));
        check(lower(&["/a", "b"]), Some("absolute"));
        check(lower(&["/a", "/b/../c"]), Some("absolute"));
        check(lower(&["/a", "/b", "/a"]), Some("twice"));
        check(lower(&["/a"]).writable("/u", "/u/work"), Some("contain"));
        check(lower(&["/a"]).writable("/a/up", "/w"), Some("contain"));
        check(lower(&["/a", "/b"]).volatile(true), Some("volatile"));
        check(Overlay { work: None, ..lower(&["/a"]).writable("/u", "/w") }, Some("together"));
        let many: Vec<PathBuf> = (0..501).map(|n| PathBuf::from(format!("/l/{n}"))).collect();
        check(Overlay::new(many), Some("501"));
    }

    #[test]
    fn parameters_and_options_say_the_same() {
        let overlay = lower(&["/t:op", "/b,ase"]).writable("/u", "/w").userxattr(true).volatile(true);
        let text = String::from_utf8(overlay.mount_options()).unwrap();
        assert_eq!(text, r"lowerdir=/t\:op:/b\,ase,upperdir=/u,workdir=/w,userxattr,volatile");
        let keys: Vec<_> = overlay.parameters().iter().map(|p| p.key).collect();
        assert_eq!(keys, ["lowerdir+", "lowerdir+", "upperdir", "workdir", "userxattr", "volatile"]);
    }
}

//! The container's file system, assembled inside its own mount namespace.
//!
//! No path inside the root is ever joined to another string: every target is looked up by openat2(2) scoped to the root, and
//! what is mounted is mounted on the descriptor that was found. A mount gets its attributes while it is still detached, so
//! there is no moment in which it is there without them.

use crate::failure::Fault;
use crate::prepare::write_all;
use crate::system_call::{
    AT_FDCWD, CLONE_NEWNS, Errno, Fd, attach, chdir, chroot, clone_tree, close, descriptor_path, duplicate_above, fchdir, fsconfig_create,
    fsconfig_set, fsmount, fsopen, fstat, knows_fchmodat2, mkdirat, mount, mount_clearattr, mount_set_owners, mount_setattr, open, openat2,
    readlinkat, resolve, setns, symlinkat,
};
use crate::text::Buffer;
use crate::wire::{List, cause, create};
use core::cell::Cell;
use core::ffi::CStr;

type Result<T> = core::result::Result<T, Fault>;

/// MOUNT_ATTR_*; see mount_setattr(2).
pub mod attribute {
    pub const NOSUID: u64 = 2;
    pub const NODEV: u64 = 4;
    pub const NOEXEC: u64 = 8;
}

/// The mount namespace that [`Mounts::borrow`] borrows from, where the plan has one.
pub const LENT: Fd = Fd(4);

/// Where a container's mounts go.
pub struct Mounts {
    /// The top of the new root; before [`Mounts::set_root`], the host's.
    root: Fd,
    /// A tmpfs of the container's to bind small things from.
    cache: Option<Fd>,
    /// The container's /dev, as long as nobody else's mount may lie over it.
    devices: Cell<Option<Fd>>,
    /// The host's /dev/null, once it was checked.
    null: Cell<Option<Fd>>,
    /// Files made in the cache so far: their names.
    files: u32,
}

/// An overlay as the plan names it.
pub struct Overlay<'a> {
    pub lower: List<'a, &'a CStr>,
    pub upper: Option<&'a CStr>,
    pub work: Option<&'a CStr>,
    pub userxattr: bool,
    pub volatile: bool,
    pub attributes: u64,
}

impl Mounts {
    pub fn new() -> Result<Self> {
        Ok(Self {
            root: openat2(AT_FDCWD, c"/", open::PATH | open::DIRECTORY, 0, 0)?,
            cache: None,
            devices: Cell::new(None),
            null: Cell::new(None),
            files: 0,
        })
    }

    pub fn root(&self) -> Fd {
        self.root
    }

    /// Makes a detached mount the root that all targets are looked up in.
    pub fn set_root(&mut self, tree: Fd) -> Result<()> {
        attach(tree, self.root)?;
        close(self.root);
        self.root = tree;
        Ok(())
    }

    /// Enters the root and lets go of everything outside.
    pub fn pivot(&mut self) -> Result<()> {
        fchdir(self.root)?;
        crate::system_call::pivot_root(c".", c".")?;
        // The old root now lies on the new one, and `.` is the way to it.
        crate::system_call::unmount(c".")?;
        Ok(chdir(c"/")?)
    }

    /// What lies at a path inside the root, made first if that is allowed.
    pub fn target(&self, path: &CStr, real: bool, make: u8) -> Result<Fd> {
        let scope = resolve::IN_ROOT | resolve::NO_MAGICLINKS | if real { resolve::NO_SYMLINKS } else { 0 };
        let found = match openat2(self.root, path, open::PATH, 0, scope) {
            Err(Errno::ENOENT) if make != create::NOTHING => self.make(path, scope, make, 0),
            other => other.map_err(Fault::from),
        };
        match found {
            Err(fault) if fault.errno == Errno::ELOOP && real => Err(Fault::new(Errno::ELOOP, cause::WRONG_KIND, path.to_bytes())),
            other => other,
        }
    }

    fn make(&self, path: &CStr, scope: u64, make: u8, links: usize) -> Result<Fd> {
        const MOST_LINKS: usize = 8;
        let bytes = path.to_bytes();
        // Most often the last name alone is missing.
        if let Ok((at, name)) = self.parent_that_is_there(path, scope) {
            let made = make_here(at, name, make);
            close(at);
            match made {
                Err(fault) if fault.errno == Errno::EEXIST => {}
                made => return made,
            }
        }
        let mut at = openat2(self.root, c".", open::PATH | open::DIRECTORY, 0, 0)?;
        let mut prefix = Buffer::<4097>::new();
        let mut components = bytes.split(|&b| b == b'/').filter(|c| !c.is_empty()).peekable();
        while let Some(component) = components.next() {
            prefix.push(b"/");
            prefix.push(component);
            let mut name = Buffer::<256>::new();
            name.push(component);
            let name = name.as_c_str().ok_or(Errno(36))?;
            let last = components.peek().is_none();
            // By the whole prefix and not by the component, so that links with `..` mean what they mean inside the root.
            let next = match openat2(self.root, prefix.as_c_str().ok_or(Errno(36))?, open::PATH, 0, scope) {
                Err(Errno::ENOENT) => match make_here(at, name, if last { make } else { create::DIRECTORY }) {
                    // A link to nothing, as /etc/resolv.conf is in many images: what it names is made, inside the root.
                    Err(fault) if fault.errno == Errno::EEXIST && scope & resolve::NO_SYMLINKS == 0 && links < MOST_LINKS => {
                        let mut contents = [0; 4096];
                        let n = readlinkat(at, name, &mut contents)?;
                        close(at);
                        let mut path = Buffer::<4097>::new();
                        if contents[0] != b'/' {
                            let directory = prefix.as_slice().len() - component.len();
                            path.push(&prefix.as_slice()[..directory]);
                        }
                        path.push(&contents[..n]);
                        for component in components {
                            path.push(b"/");
                            path.push(component);
                        }
                        return self.make(path.as_c_str().ok_or(Errno(36))?, scope, make, links + 1);
                    }
                    other => other?,
                },
                other => other?,
            };
            close(at);
            at = next;
        }
        Ok(at)
    }

    /// The directory that holds a path, if it is there, and the path's last name.
    fn parent_that_is_there<'p>(&self, path: &'p CStr, scope: u64) -> Result<(Fd, &'p CStr)> {
        let bytes = path.to_bytes_with_nul();
        let cut = bytes.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        if matches!(bytes[cut..], [0] | [b'.', 0] | [b'.', b'.', 0]) {
            return Err(Errno::EINVAL.into());
        }
        let mut directory = Buffer::<4097>::new();
        directory.push(b"/");
        directory.push(&bytes[..cut]);
        let name = CStr::from_bytes_with_nul(&bytes[cut..]).map_err(|_| Errno::EINVAL)?;
        Ok((openat2(self.root, directory.as_c_str().ok_or(Errno(36))?, open::PATH | open::DIRECTORY, 0, scope)?, name))
    }

    fn place(&self, tree: Fd, target: &CStr, real: bool, make: u8) -> Result<()> {
        if !real {
            // It may follow a link of the image's into /dev.
            self.devices.set(None);
        }
        let onto = self.target(target, real, make)?;
        let done = attach(tree, onto);
        close(onto);
        Ok(done?)
    }

    /// A file system of its own at a target.
    pub fn mount(
        &self,
        filesystem: &CStr,
        source: &CStr,
        options: &List<'_, &CStr>,
        attributes: u64,
        target: &CStr,
        real: bool,
        make: u8,
    ) -> Result<()> {
        let tree = new_filesystem(filesystem, source, options, attributes)?;
        let done = self.place(tree, target, real, make);
        close(tree);
        done
    }

    pub fn overlay_at(&self, overlay: &Overlay<'_>, target: &CStr) -> Result<()> {
        let tree = new_overlay(overlay)?;
        let done = self.place(tree, target, false, create::DIRECTORY);
        close(tree);
        done
    }

    /// A file or directory of the host at a target.
    pub fn bind(&self, source: &CStr, target: &CStr, recursive: bool, attributes: u64, make: u8, real: bool) -> Result<()> {
        let tree = clone_tree(AT_FDCWD, source, recursive)?;
        self.bind_tree(tree, target, recursive, attributes, make, real)
    }

    fn bind_tree(&self, tree: Fd, target: &CStr, recursive: bool, attributes: u64, make: u8, real: bool) -> Result<()> {
        let make = match make {
            create::AS_SOURCE if fstat(tree)?.is_directory() => create::DIRECTORY,
            create::AS_SOURCE => create::FILE,
            other => other,
        };
        if attributes != 0 {
            mount_setattr(tree, attributes, recursive)?;
        }
        let done = self.place(tree, target, real, make);
        close(tree);
        done
    }

    /// A file or directory of the host at a target, with the owners of a user namespace.
    pub fn bind_owned(&self, source: &CStr, target: &CStr, attributes: u64, owners: Option<Fd>) -> Result<()> {
        let tree = clone_tree(AT_FDCWD, source, true)?;
        if let Some(namespace) = owners {
            mount_set_owners(tree, namespace).map_err(|errno| match errno {
                Errno::EINVAL => Fault::new(errno, cause::NO_OTHER_OWNERS, source.to_bytes()),
                errno => errno.into(),
            })?;
        }
        self.bind_tree(tree, target, true, attributes, create::AS_SOURCE, false)
    }

    /// The tmpfs to bind small things from.
    pub fn set_cache(&mut self, target: &CStr, options: &List<'_, &CStr>) -> Result<()> {
        let tree = new_filesystem(c"tmpfs", c"tmpfs", options, attribute::NOSUID | attribute::NODEV | attribute::NOEXEC)?;
        self.place(tree, target, true, create::DIRECTORY)?;
        mkdirat(tree, c"empty", 0o555)?;
        self.cache = Some(tree);
        Ok(())
    }

    /// What another mount namespace has at a path.
    pub fn borrow(&self, path: &CStr, target: &CStr, attributes: u64) -> Result<()> {
        let ours = openat2(AT_FDCWD, c"/proc/self/ns/mnt", open::READ, 0, 0)?;
        // Who comes back stands on the topmost root, which is the container's by now.
        let root = openat2(AT_FDCWD, c"/", open::PATH | open::DIRECTORY, 0, 0)?;
        setns(LENT, CLONE_NEWNS)?;
        let tree = clone_tree(AT_FDCWD, path, false);
        setns(ours, CLONE_NEWNS)?;
        fchdir(root)?;
        chroot(c".")?;
        close(root);
        close(ours);
        let tree = tree?;
        mount_setattr(tree, attributes, false)?;
        let done = self.place(tree, target, true, create::DIRECTORY);
        close(tree);
        done
    }

    fn cached(&self, name: &CStr, attributes: u64) -> Result<Fd> {
        let tree = clone_tree(self.cache.ok_or(Errno::EINVAL)?, name, false)?;
        mount_setattr(tree, attributes | attribute::NOSUID | attribute::NODEV | attribute::NOEXEC, false)?;
        Ok(tree)
    }

    /// A writable directory of the cache: /dev.
    pub fn device_directory(&self, target: &CStr, nodes: bool) -> Result<()> {
        mkdirat(self.cache.ok_or(Errno::EINVAL)?, c"dev", 0o755)?;
        let tree = clone_tree(self.cache.ok_or(Errno::EINVAL)?, c"dev", false)?;
        // Whatever CAP_MKNOD makes in here opens no device: each real one is a mount of its own. But where a filter of the cgroup decides.
        if nodes {
            mount_clearattr(tree, attribute::NODEV)?;
        }
        self.place(tree, target, true, create::DIRECTORY)?;
        // Ours, and empty: names directly in it need no look-up from the root.
        self.devices.set(Some(tree));
        Ok(())
    }

    /// The directory and the name of something directly in /dev.
    fn in_devices<'p>(&self, target: &'p CStr) -> Option<(Fd, &'p CStr)> {
        let name = target.to_bytes_with_nul().strip_prefix(b"/dev/")?;
        let plain = !name.contains(&b'/') && !matches!(name, [0] | [b'.', 0] | [b'.', b'.', 0]);
        Some((self.devices.get().filter(|_| plain)?, CStr::from_bytes_with_nul(name).ok()?))
    }

    pub fn device(&self, source: &CStr, target: &CStr, number: (u32, u32), block: bool) -> Result<()> {
        let null = source == c"/dev/null" && number == (1, 3) && !block;
        let tree = if null { self.null()? } else { device_of_host(source, number, block)? };
        let made = self.in_devices(target).map(|(at, name)| openat2(at, name, NEW_FILE, 0o644, 0));
        let done = match made {
            Some(Ok(onto)) => {
                let done = attach(tree, onto);
                close(onto);
                done.map_err(Fault::from)
            }
            _ => self.place(tree, target, true, create::FILE),
        };
        close(tree);
        done
    }

    /// A detached copy of the host's /dev/null, which is looked up and checked once.
    fn null(&self) -> Result<Fd> {
        let node = match self.null.get() {
            Some(node) => node,
            None => checked_device(c"/dev/null", (1, 3), false)?,
        };
        self.null.set(Some(node));
        untouchable(node)
    }

    pub fn symlink(&self, contents: &CStr, target: &CStr) -> Result<()> {
        if let Some((at, name)) = self.in_devices(target) {
            return unless_there(symlinkat(contents, at, name));
        }
        let (at, name) = self.parent(target)?;
        let done = symlinkat(contents, at, name);
        close(at);
        unless_there(done)
    }

    pub fn make_directory(&self, target: &CStr, mode: u32) -> Result<()> {
        if let Some((at, name)) = self.in_devices(target) {
            return unless_there(mkdirat(at, name, mode));
        }
        let (at, name) = self.parent(target)?;
        let done = mkdirat(at, name, mode);
        close(at);
        unless_there(done)
    }

    /// The directory a path lies in, and its last name.
    fn parent<'p>(&self, path: &'p CStr) -> Result<(Fd, &'p CStr)> {
        let bytes = path.to_bytes_with_nul();
        let cut = bytes.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        let mut directory = Buffer::<4097>::new();
        directory.push(b"/");
        directory.push(&bytes[..cut]);
        let at = self.target(directory.as_c_str().ok_or(Errno(36))?, false, create::DIRECTORY)?;
        Ok((at, CStr::from_bytes_with_nul(&bytes[cut..]).map_err(|_| Errno::EINVAL)?))
    }

    /// A file that is only this container's.
    pub fn private_file(&mut self, target: &CStr, contents: &[u8], mode: u32) -> Result<()> {
        let cache = self.cache.ok_or(Errno::EINVAL)?;
        let mut name = Buffer::<16>::new();
        name.push(b"file");
        name.push_number(u64::from(self.files));
        self.files += 1;
        let name = name.as_c_str().ok_or(Errno::EINVAL)?;
        let file = openat2(cache, name, open::CREATE | open::EXCLUSIVE | open::WRITE, mode, 0)?;
        write_all(file, contents)?;
        close(file);
        let tree = self.cached(name, 0)?;
        let done = self.place(tree, target, false, create::FILE);
        close(tree);
        done
    }

    /// Hides what lies at a target: a directory behind an empty one, anything else behind /dev/null.
    pub fn mask(&self, target: &CStr) -> Result<()> {
        let Some(onto) = self.existing(target)? else {
            return Ok(());
        };
        let tree = if fstat(onto)?.is_directory() { self.cached(c"empty", crate::system_call::mount::ATTR_RDONLY)? } else { self.null()? };
        let done = attach(tree, onto);
        close(tree);
        close(onto);
        Ok(done?)
    }

    pub fn read_only(&self, target: &CStr) -> Result<()> {
        let Some(onto) = self.existing(target)? else {
            return Ok(());
        };
        let tree = clone_tree(onto, c"", true)?;
        mount_setattr(tree, crate::system_call::mount::ATTR_RDONLY, true)?;
        let done = attach(tree, onto);
        close(tree);
        close(onto);
        Ok(done?)
    }

    fn existing(&self, target: &CStr) -> Result<Option<Fd>> {
        match openat2(self.root, target, open::PATH, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub fn read_only_root(&self) -> Result<()> {
        Ok(mount_setattr(self.root, crate::system_call::mount::ATTR_RDONLY, false)?)
    }

    /// Writes a setting of the container's own procfs.
    pub fn sysctl(&self, path: &CStr, value: &[u8], required: bool) -> Result<()> {
        let file = match openat2(self.root, path, open::WRITE, 0, resolve::IN_ROOT | resolve::NO_SYMLINKS) {
            // A kernel without this setting.
            Err(Errno::ENOENT) if !required => return Ok(()),
            other => other?,
        };
        let done = crate::system_call::write(file, value);
        close(file);
        done?;
        Ok(())
    }
}

const NEW_FILE: u64 = open::CREATE | open::EXCLUSIVE | open::WRITE | open::NOFOLLOW;

/// Makes an empty file or directory that wasn't there; the answer is its descriptor.
fn make_here(at: Fd, name: &CStr, make: u8) -> Result<Fd> {
    if make == create::FILE {
        close(openat2(at, name, NEW_FILE, 0o644, 0)?);
    } else {
        mkdirat(at, name, 0o755)?;
    }
    Ok(openat2(at, name, open::PATH | open::NOFOLLOW, 0, 0)?)
}

fn unless_there(done: core::result::Result<(), Errno>) -> Result<()> {
    match done {
        Err(Errno::EEXIST) => Ok(()),
        other => Ok(other?),
    }
}

/// A detached copy of a device node of the host.
fn device_of_host(source: &CStr, number: (u32, u32), block: bool) -> Result<Fd> {
    let node = checked_device(source, number, block)?;
    let tree = untouchable(node);
    close(node);
    tree
}

/// A detached copy of a node of the host, whose mode, owner and times nobody changes by it: the node is the host's, and so is root's power over
/// it. Opening a device for writing is no writing to its file system.
fn untouchable(node: Fd) -> Result<Fd> {
    let tree = clone_tree(node, c"", false)?;
    mount_setattr(tree, crate::system_call::mount::ATTR_RDONLY, false)?;
    Ok(tree)
}

/// A device node of the host, checked on its descriptor: its path may have been swapped.
fn checked_device(source: &CStr, number: (u32, u32), block: bool) -> Result<Fd> {
    let node = openat2(AT_FDCWD, source, open::PATH | open::NOFOLLOW, 0, 0)?;
    let stat = fstat(node)?;
    let right = if block { stat.is_block_device() } else { stat.is_character_device() };
    if !right || (stat.major(), stat.minor()) != number {
        close(node);
        return Err(Fault::new(Errno::ENODEV, cause::NOT_THE_DEVICE, source.to_bytes()));
    }
    Ok(node)
}

/// A detached mount of a new super block. An option is `key=value` or a flag.
pub fn new_filesystem(filesystem: &CStr, source: &CStr, options: &List<'_, &CStr>, attributes: u64) -> Result<Fd> {
    let context = fsopen(filesystem)?;
    let result = configure(context, source, options).and_then(|()| fsmount(context, attributes));
    let result = result.map_err(|errno| Fault::from_context(errno, context));
    close(context);
    result
}

fn configure(context: Fd, source: &CStr, options: &List<'_, &CStr>) -> crate::system_call::Result<()> {
    fsconfig_set(context, c"source", Some(source))?;
    for option in options.iter() {
        let bytes = option.to_bytes_with_nul();
        match bytes.iter().position(|&b| b == b'=') {
            None => fsconfig_set(context, option, None)?,
            Some(at) => {
                let mut key = Buffer::<64>::new();
                key.push(&bytes[..at]);
                let value = CStr::from_bytes_with_nul(&bytes[at + 1..]).map_err(|_| Errno::EINVAL)?;
                fsconfig_set(context, key.as_c_str().ok_or(Errno::EINVAL)?, Some(value))?;
            }
        }
    }
    fsconfig_create(context)
}

/// The kernel takes no longer value for one key (fsconfig(2)).
const MAX_VALUE: usize = 255;

/// Room for `lowerdir=…` of mount(2), which takes one page.
type Layers = Buffer<4096>;

/// A detached overlay. Its layers are opened first and named by descriptor: no path is too long or holds a colon, and the
/// container reads no path of the host in its mount table.
pub fn new_overlay(overlay: &Overlay<'_>) -> Result<Fd> {
    // Above what is open here, so that the layers get numbers one behind the other, and need no array.
    const FIRST: i32 = 32;
    let mut count = 0;
    for lower in overlay.lower.iter() {
        let f = openat2(AT_FDCWD, lower, open::PATH | open::DIRECTORY, 0, 0)
            .map_err(|errno| Fault::new(errno, cause::KERNEL_SAYS, lower.to_bytes()))?;
        let layer = duplicate_above(f, FIRST + count);
        close(f);
        if layer?.0 != FIRST + count {
            return Err(Errno::EINVAL.into());
        }
        count += 1;
    }
    let upper = overlay.upper.map(|path| openat2(AT_FDCWD, path, open::PATH | open::DIRECTORY, 0, 0)).transpose()?;
    let work = overlay.work.map(|path| openat2(AT_FDCWD, path, open::PATH | open::DIRECTORY, 0, 0)).transpose()?;
    let layers = FIRST..(FIRST + count);

    let attempt = |joined| mount_overlay(overlay, layers.clone(), upper, work, joined);
    // Linux before 6.7 doesn't know `lowerdir+`. The oldest take any word until the super block is made, so asking is no way to tell.
    let made = match if knows_fchmodat2() { attempt(false) } else { attempt(true) } {
        Err(fault) if fault.errno == Errno::EINVAL => attempt(true).map_err(|_| fault),
        other => other,
    };
    for f in [upper, work].into_iter().flatten().chain(layers.map(Fd)) {
        close(f);
    }
    made
}

fn name_of(name: &[u8; 32]) -> core::result::Result<&CStr, Errno> {
    CStr::from_bytes_until_nul(name).map_err(|_| Errno::EINVAL)
}

/// Makes the super block and its mount. `joined`: all layers in one value, as kernels before 6.7 want them.
fn mount_overlay(overlay: &Overlay<'_>, layers: core::ops::Range<i32>, upper: Option<Fd>, work: Option<Fd>, joined: bool) -> Result<Fd> {
    let context = fsopen(c"overlay")?;
    let made = describe_overlay(context, overlay, layers.clone(), upper, work, joined)
        .and_then(|()| fsconfig_create(context))
        .and_then(|()| fsmount(context, overlay.attributes));
    let made = match made {
        Err(Errno::EOVERFLOW) if joined => mount_overlay_in_one_page(overlay, layers, upper, work),
        other => other.map_err(|errno| Fault::from_context(errno, context)),
    };
    close(context);
    made
}

fn describe_overlay(
    context: Fd,
    overlay: &Overlay<'_>,
    mut layers: core::ops::Range<i32>,
    upper: Option<Fd>,
    work: Option<Fd>,
    joined: bool,
) -> crate::system_call::Result<()> {
    fsconfig_set(context, c"source", Some(c"overlay"))?;
    if joined {
        // Relative to /proc/self/fd a layer's name is its number.
        chdir(c"/proc/self/fd")?;
        let mut value = join_layers(layers);
        if value.as_slice().len() > MAX_VALUE {
            return Err(Errno::EOVERFLOW);
        }
        fsconfig_set(context, c"lowerdir", Some(value.as_c_str().ok_or(Errno::EOVERFLOW)?))?;
    } else {
        layers.try_for_each(|f| fsconfig_set(context, c"lowerdir+", Some(name_of(&descriptor_path(Fd(f)))?)))?;
    }
    for (key, f) in [(c"upperdir", upper), (c"workdir", work)] {
        if let Some(f) = f {
            fsconfig_set(context, key, Some(name_of(&descriptor_path(f))?))?;
        }
    }
    // A machine may have other defaults. What a container changes must lie in its upper directory whole, without a word of what lies below:
    // somebody may make a layer of it. With `userxattr` the kernel knows neither.
    if upper.is_some() && !overlay.userxattr {
        fsconfig_set(context, c"redirect_dir", Some(c"nofollow"))?;
        fsconfig_set(context, c"metacopy", Some(c"off"))?;
    }
    for (flag, wanted) in [(c"userxattr", overlay.userxattr), (c"volatile", overlay.volatile)] {
        if wanted {
            fsconfig_set(context, flag, None)?;
        }
    }
    Ok(())
}

fn join_layers(layers: core::ops::Range<i32>) -> Layers {
    let mut joined = Layers::new();
    for (i, f) in layers.enumerate() {
        joined.push(if i == 0 { b"" } else { b":" });
        joined.push_number(f as u64);
    }
    joined
}

/// Linux before 6.7 and more layers than a value of fsconfig(2) names: mount(2), which can only mount on a path. `/` is one, and
/// `/..` is what lies on top of it.
fn mount_overlay_in_one_page(overlay: &Overlay<'_>, layers: core::ops::Range<i32>, upper: Option<Fd>, work: Option<Fd>) -> Result<Fd> {
    chdir(c"/proc/self/fd")?;
    let mut data = Layers::new();
    data.push(b"lowerdir=");
    data.push(join_layers(layers).as_slice());
    for (key, f) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
        if let Some(f) = f {
            data.push(key);
            data.push_number(f.0 as u64);
        }
    }
    data.push(match (overlay.userxattr, upper) {
        (true, _) => b",userxattr",
        (false, Some(_)) => b",redirect_dir=nofollow,metacopy=off",
        (false, None) => b"",
    });
    data.push(if overlay.volatile { b",volatile" } else { b"" });
    mount(Some(c"overlay"), c"/", Some(c"overlay"), 0, Some(data.as_c_str().ok_or(Errno::EOVERFLOW)?))?;
    let top = openat2(AT_FDCWD, c"/..", open::PATH | open::DIRECTORY, 0, 0)?;
    let tree = clone_tree(top, c"", false)?;
    close(top);
    crate::system_call::unmount(c"/..")?;
    mount_setattr(tree, overlay.attributes, false)?;
    Ok(tree)
}

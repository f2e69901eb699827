//! The first process of a container, before it is anything else: it performs the plan's steps inside its namespaces.

use crate::failure::{Failure, Fault};
use crate::landlock;
use crate::mounts::{Mounts, Overlay, new_filesystem, new_overlay};
use crate::network;
use crate::owned::Waiting;
use crate::prepare::write_file;
use crate::report;
use crate::system_call::{
    AT_FDCWD, CLONE_NEWNET, Errno, Fd, Received, capset, chdir, chmod_descriptor, clone_tree, close, fchdir, fchownat, fstat, getcwd,
    mount, open, openat2, prctl, receive_message, resolve, set_rlimit, set_seccomp_filter, sethostname, setns, umask, unshare,
};
use crate::terminal;
use crate::user::{self, User};
use crate::wire::{List, Owner, Reader, Report, Step, cause, create, stage};
use core::ffi::CStr;

const SIGKILL: u32 = 9;

/// What the steps so far have come to.
pub struct Inside {
    mounts: Mounts,
    pub user: User,
    /// Whether [`Step::User`] looked the user up, and HOME is to follow.
    pub home: bool,
    /// Who waits for the owners of mounts, and the user namespace with them.
    owners: Option<Waiting>,
    swapped: Option<Fd>,
    /// Where its words come from.
    supervisor: Fd,
}

/// Performs all steps.
#[inline(never)]
pub fn perform_all(steps: &List<'_, Step<'_>>, supervisor: Fd) -> Result<Inside, Failure> {
    let failure = |index: usize, fault: Fault| Failure { stage: stage::STEP, index: index as u32, fault };
    let mut inside = Inside::new(supervisor).map_err(|fault| failure(0, fault))?;
    for (index, step) in steps.iter().enumerate() {
        inside.perform(&step).map_err(|fault| failure(index, fault))?;
    }
    inside.close();
    Ok(inside)
}

impl Inside {
    /// In the root where this process is.
    pub fn new(supervisor: Fd) -> Result<Self, Fault> {
        Ok(Self { mounts: Mounts::new()?, user: User::root(), home: false, owners: None, swapped: None, supervisor })
    }

    /// Lets go of the root's descriptor.
    pub fn close(&self) {
        close(self.mounts.root());
        self.swapped.into_iter().for_each(close);
    }

    /// Performs one step.
    pub fn perform(&mut self, step: &Step<'_>) -> Result<(), Fault> {
        match *step {
            Step::PrivateMounts {} => Ok(mount(None, c"/", None, mount::REC | mount::PRIVATE, None)?),
            Step::OverlayRoot { lower, upper, work, userxattr, volatile, attributes } => {
                self.mounts.set_root(new_overlay(&Overlay { lower, upper, work, userxattr, volatile, attributes })?)
            }
            Step::BindRoot { source, recursive, attributes } => {
                let tree = clone_tree(AT_FDCWD, source, recursive)?;
                crate::system_call::mount_setattr(tree, attributes, recursive)?;
                self.mounts.set_root(tree)
            }
            Step::TmpfsRoot { attributes } => self.mounts.set_root(new_filesystem(c"tmpfs", c"tmpfs", &List::new(0, &[]), attributes)?),
            Step::Overlay { target, lower, upper, work, userxattr, volatile, attributes } => {
                self.mounts.overlay_at(&Overlay { lower, upper, work, userxattr, volatile, attributes }, target)
            }
            Step::Mount { filesystem, source, options, attributes, target, real, create } => {
                self.mounts.mount(filesystem, source, &options, attributes, target, real, create)
            }
            Step::Bind { source, target, recursive, attributes, create, real } => {
                self.mounts.bind(source, target, recursive, attributes, create, real)
            }
            Step::BindOwned { source, target, attributes, user, uid, gid, mapped } => {
                let inside = user::find(self.mounts.root(), user, &List::new(0, &[]))?;
                if mapped && inside.uid != 0 {
                    return Err(Fault::new(Errno::EPERM, cause::NOT_THE_CALLER, user.to_bytes()));
                }
                // Once: all of them have the same two owners.
                if let Some(waiting) = self.owners.take() {
                    let swapped = (uid, gid) != (inside.uid, inside.gid);
                    self.swapped = swapped.then(|| waiting.swap((uid, inside.uid), (gid, inside.gid))).transpose()?;
                    waiting.end();
                }
                self.mounts.bind_owned(source, target, attributes, self.swapped)
            }
            Step::BeginOwners {} => {
                self.owners = Some(Waiting::begin()?);
                Ok(())
            }
            Step::Cache { target, options } => self.mounts.set_cache(target, &options),
            Step::DeviceDirectory { target, nodes } => self.mounts.device_directory(target, nodes),
            Step::Device { source, target, major, minor, block } => self.mounts.device(source, target, (major, minor), block),
            Step::Borrow { path, target, attributes } => self.mounts.borrow(path, target, attributes),
            Step::Landlock { handled, rules } => landlock::restrict(self.mounts.root(), handled, &rules),
            Step::Label { attribute, value } => Ok(write_file(attribute, value)?),
            Step::Symlink { contents, target } => self.mounts.symlink(contents, target),
            Step::MakeDirectory { target, mode } => self.mounts.make_directory(target, mode),
            Step::PrivateFile { target, contents, mode } => self.mounts.private_file(target, contents, mode),
            Step::Mask { target } => self.mounts.mask(target),
            Step::ReadOnly { target } => self.mounts.read_only(target),
            Step::ReadOnlyRoot {} => self.mounts.read_only_root(),
            Step::PivotRoot {} => self.mounts.pivot(),
            Step::Hostname { name } => Ok(sethostname(name)?),
            Step::AwaitNetwork {} => Ok(setns(self.await_word()?.ok_or(Errno::EPROTO)?, CLONE_NEWNET)?),
            Step::Netlink { messages, count } => network::netlink(messages, count),
            Step::ShareNetwork {} => self.share_network(),
            Step::Sysctl { path, value, required } => self.mounts.sysctl(path, value, required),
            Step::AwaitCgroups {} => self.await_word().map(|_| ()),
            Step::JoinCgroup { path } => Ok(write_file(path, b"0")?),
            Step::Unshare { flags } => Ok(unshare(flags)?),
            Step::Rlimit { resource, soft, hard } => Ok(set_rlimit(resource, soft, hard)?),
            Step::User { user, home, more_groups } => {
                self.user = user::find(self.mounts.root(), user, &more_groups)?;
                self.home = home;
                Ok(())
            }
            Step::Directory { path, create } => self.directory(path, create),
            Step::BoundingSet { capabilities } => bounding_set(capabilities),
            Step::BecomeUser { keep_groups, keep_capabilities } => {
                user::become_user(&self.user, keep_groups, keep_capabilities)?;
                // The kernel forgot it with the old ids.
                Ok(prctl::set_death_signal(SIGKILL)?)
            }
            Step::Capabilities { root, inheritable, ambient } => self.capabilities(root, inheritable, ambient),
            Step::NoNewPrivileges {} => Ok(prctl::set_no_new_privileges()?),
            Step::Seccomp { filter } => Ok(set_seccomp_filter(filter)?),
            Step::ChangeOwners { directory, list } => change_owners(directory, list),
            Step::ServeFiles {} => crate::serve::serve(Fd(0)),
            Step::Umask { mask } => {
                umask(mask);
                Ok(())
            }
            Step::AwaitExecute {} => self.await_execute(),
            Step::Terminal { columns, rows } => terminal::begin(self.mounts.root(), self.user.uid, columns, rows, self.supervisor),
            Step::Never(_, never) => match never {},
        }
    }

    fn share_network(&self) -> Result<(), Fault> {
        let namespace = |path| openat2(AT_FDCWD, path, open::READ, 0, 0);
        let (network, user) = (namespace(c"/proc/self/ns/net")?, namespace(c"/proc/self/ns/user")?);
        report::send(self.supervisor, &Report::Network {}, &[network, user]);
        close(network);
        close(user);
        Ok(())
    }

    fn await_execute(&self) -> Result<(), Fault> {
        // Who opens files in here looks at this process, as which there is nobody else in here yet.
        prctl::set_dumpable(true)?;
        report::send(self.supervisor, &Report::Created {}, &[]);
        let word = self.await_word();
        prctl::set_dumpable(false)?;
        word.map(|_| ())
    }

    /// Waits until the supervisor has done what it does meanwhile; with its word may come a descriptor.
    fn await_word(&self) -> Result<Option<Fd>, Fault> {
        let mut fds = Received::new();
        match receive_message(self.supervisor, &mut [0; 1], &mut fds, true)? {
            1 => Ok(fds.as_slice().first().copied()),
            _ => Err(Errno::EPROTO.into()),
        }
    }

    fn directory(&self, path: &CStr, make: bool) -> Result<(), Fault> {
        let f = match openat2(self.mounts.root(), path, open::PATH | open::DIRECTORY, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS) {
            Err(Errno::ENOENT) if make => self.mounts.target(path, false, create::DIRECTORY)?,
            other => other?,
        };
        let done = fchdir(f);
        close(f);
        done?;
        // A directory outside the root has no name here (CVE-2024-21626).
        let mut cwd = [0; 4096];
        let n = getcwd(&mut cwd)?;
        match cwd[..n].first() {
            Some(b'/') => Ok(()),
            _ => Err(Fault::new(Errno::EPERM, cause::OUTSIDE_ROOT, path.to_bytes())),
        }
    }

    fn capabilities(&self, root: u64, inheritable: u64, ambient: u64) -> Result<(), Fault> {
        let mine = if self.user.uid == 0 { root } else { ambient };
        capset(mine, mine, inheritable | ambient)?;
        for capability in (0..64).filter(|c| ambient >> c & 1 == 1) {
            prctl::raise_ambient(capability)?;
        }
        Ok(())
    }
}

/// Keeps only these in the bounding set, and nothing in the ambient one.
fn bounding_set(keep: u64) -> Result<(), Fault> {
    for capability in 0..64 {
        if keep >> capability & 1 == 0 {
            match prctl::drop_from_bounding_set(capability) {
                // The first number that this kernel doesn't have.
                Err(Errno::EINVAL) => break,
                other => other?,
            }
        }
    }
    Ok(prctl::clear_ambient()?)
}

/// Gives files below a directory their owners, and back the set-id bits that chown(2) takes.
fn change_owners(directory: &CStr, list: &[u8]) -> Result<(), Fault> {
    let root = openat2(AT_FDCWD, directory, open::PATH | open::DIRECTORY, 0, 0)?;
    let mut list = Reader::new(list);
    while !list.rest().is_empty() {
        let owner: Owner<'_> = list.take().map_err(|_| Errno::EPROTO)?;
        let within = |errno| Fault::new(errno, cause::KERNEL_SAYS, owner.path.to_bytes());
        let f = openat2(root, owner.path, open::PATH | open::NOFOLLOW, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS).map_err(within)?;
        let unmapped = |errno| match errno {
            Errno::EINVAL => Fault::new(errno, cause::UNMAPPED_ID, owner.path.to_bytes()),
            errno => within(errno),
        };
        fchownat(f, c"", owner.uid, owner.gid).map_err(unmapped)?;
        if owner.mode != u32::MAX && !fstat(f)?.is_symlink() {
            chmod_descriptor(f, owner.mode).map_err(within)?;
        }
        close(f);
    }
    close(root);
    Ok(chdir(c"/")?)
}

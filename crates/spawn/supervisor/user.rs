//! Becomes the user that the command runs as.

use crate::failure::Fault;
use crate::passwd::{Lines, MAX_GROUPS, Passwd, Who, is_member, parse_group_line, parse_passwd_line, parse_user};
use crate::system_call::{Errno, Fd, close, fstat, open, openat2, prctl, read, resolve, setgroups, setresgid, setresuid};
use crate::text::Buffer;
use crate::wire::{List, cause};
use core::ffi::CStr;

/// A user that was found.
pub struct User {
    pub uid: u32,
    pub gid: u32,
    groups: [u32; MAX_GROUPS],
    group_count: usize,
    /// What passwd(5) says, for HOME.
    pub home: Buffer<1024>,
}

impl User {
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: [0; MAX_GROUPS], group_count: 0, home: Buffer::new() }
    }

    fn join(&mut self, gid: u32) {
        if self.group_count < MAX_GROUPS && !self.groups[..self.group_count].contains(&gid) {
            self.groups[self.group_count] = gid;
            self.group_count += 1;
        }
    }
}

/// The largest passwd or group file that is read.
const MAX_FILE: u64 = 16 << 20;

fn is_file(root: Fd, path: &CStr) -> bool {
    openat2(root, path, open::PATH, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS).is_ok_and(|f| {
        let regular = fstat(f).is_ok_and(|stat| stat.is_regular());
        close(f);
        regular
    })
}

/// Shows each line of a file of the container; a file that isn't there, or is no file, has none.
fn each_line(root: Fd, path: &CStr, mut show: impl FnMut(&[u8])) -> Result<(), Errno> {
    // Non-blocking: somebody may have put a FIFO there.
    let file = match openat2(root, path, open::READ | open::NONBLOCK, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
        // A device or a socket in the file's place can't be opened; a file that can't be read is an error.
        Err(_) if !is_file(root, path) => return Ok(()),
        other => other?,
    };
    let stat = fstat(file)?;
    if stat.is_regular() && stat.size <= MAX_FILE {
        let mut lines = Lines::new();
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = read(file, &mut bytes) {
            lines.feed(&bytes[..n], &mut show);
        }
        lines.end(&mut show);
    }
    close(file);
    Ok(())
}

/// Looks a user up as docker-run(1) `--user` describes it.
pub fn find(root: Fd, words: &CStr, more_groups: &List<'_, u32>) -> Result<User, Fault> {
    let words = words.to_bytes();
    let spec = parse_user(words).ok_or_else(|| Fault::new(Errno::EINVAL, cause::BAD_USER, words))?;
    let mut user = User::root();
    let mut name = Buffer::<256>::new();
    let mut found = false;
    if let Who::Id(uid) = spec.user {
        user.uid = uid;
    }
    each_line(root, c"/etc/passwd", |line| {
        let Some(Passwd { name: entry, uid, gid, home }) = parse_passwd_line(line) else {
            return;
        };
        let same = match spec.user {
            Who::Id(id) => uid == id,
            Who::Name(wanted) => entry == wanted,
        };
        if same && !found {
            found = true;
            (user.uid, user.gid) = (uid, gid);
            user.home.push(home);
            name.push(entry);
        }
    })?;
    if let (Who::Name(wanted), false) = (spec.user, found) {
        return Err(Fault::new(Errno::ENOENT, cause::UNKNOWN_USER, wanted));
    }
    if user.home.as_slice().is_empty() {
        user.home.push(b"/");
    }

    let mut group_found = !matches!(spec.group, Some(Who::Name(_)));
    if let Some(Who::Id(gid)) = spec.group {
        user.gid = gid;
    }
    each_line(root, c"/etc/group", |line| {
        let Some(group) = parse_group_line(line) else {
            return;
        };
        match spec.group {
            Some(Who::Name(wanted)) if group.name == wanted && !group_found => {
                user.gid = group.gid;
                group_found = true;
            }
            // Whoever names a group gets that one; else the user's memberships count.
            None if found && is_member(group.members, name.as_slice()) => user.join(group.gid),
            _ => {}
        }
    })?;
    if let (Some(Who::Name(wanted)), false) = (spec.group, group_found) {
        return Err(Fault::new(Errno::ENOENT, cause::UNKNOWN_GROUP, wanted));
    }
    user.join(user.gid);
    for gid in more_groups.iter() {
        user.join(gid);
    }
    Ok(user)
}

/// Takes the user's ids on. `keep_groups`: in a user namespace whose groups were denied, there are none to set.
pub fn become_user(user: &User, keep_groups: bool, keep_capabilities: bool) -> Result<(), Fault> {
    let unmapped = |errno, id: u32| match errno {
        Errno::EINVAL => {
            let mut fault = Fault::new(errno, cause::UNMAPPED_ID, b"");
            fault.detail.push_number(u64::from(id));
            fault
        }
        _ => Fault::from(errno),
    };
    if !keep_groups {
        setgroups(&user.groups[..user.group_count]).map_err(|errno| unmapped(errno, user.gid))?;
    }
    setresgid(user.gid).map_err(|errno| unmapped(errno, user.gid))?;
    prctl::set_keep_capabilities(keep_capabilities)?;
    setresuid(user.uid).map_err(|errno| unmapped(errno, user.uid))?;
    Ok(())
}

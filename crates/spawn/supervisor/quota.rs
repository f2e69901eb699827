//! A bound on what a directory holds, kept by its file system: a project quota (quotactl(2), xfs_quota(8) as ext4 knows it too).
//!
//! A project is a number that a directory has and what is made in it inherits. The number here is that of the directory's inode, which nobody else
//! on the file system has.

use crate::failure::Fault;
use crate::system_call::{AT_FDCWD, Errno, close, fstat, inherit_project, open, openat2, project_quota_is_enforced, set_project_quota};
use core::ffi::CStr;

/// Numbers that people give by hand are small.
const OURS: u32 = 0x8000_0000;

/// Bounds an empty directory.
pub fn limit(path: &CStr, bytes: u64) -> Result<(), Fault> {
    let f = openat2(AT_FDCWD, path, open::DIRECTORY | open::NOFOLLOW, 0, 0)?;
    let done = project_quota_is_enforced(f).and_then(|enforced| match enforced {
        false => Err(Errno::ESRCH),
        true => {
            let project = fstat(f)?.ino as u32 | OURS;
            // The limit first: there is no moment in which files belong to a project without one.
            set_project_quota(f, project, bytes).and_then(|()| inherit_project(f, project))
        }
    });
    close(f);
    Ok(done?)
}

//! Who opens files that this user may not: those of a container's other users, for a plain user.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Somebody inside the user namespace who opens files for this process, which itself is refused. Asked only where this process got
/// EACCES, so most trees need nobody.
///
/// What it opens it hands over as descriptors; it never follows a link and never leaves the directory that it's given.
pub trait Access: std::fmt::Debug + Send + Sync {
    /// Opens what is at a path below a directory, for looking at (O_PATH): no part of the path is a link, and none leads out.
    ///
    /// # Errors
    /// The kernel's.
    fn look(&self, directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd>;

    /// Opens for reading what was opened for looking at.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, file: BorrowedFd<'_>) -> io::Result<OwnedFd>;

    /// The value of an attribute (xattr(7)) of what was opened for looking at.
    ///
    /// # Errors
    /// The kernel's.
    fn attribute(&self, file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>>;
}

/// A range of user or group ids: which inside a container are which outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdRange {
    /// The first inside.
    pub inside: u32,
    /// The first outside, as files on disk have it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// A range.
    pub fn new(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }
}

/// Whose files are whose inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Nothing: as they are on disk.
    map: Option<(Vec<IdRange>, Vec<IdRange>)>,
}

impl Ids {
    /// Files belong to the same ids inside and outside: root's containers.
    pub fn same() -> Ids {
        Ids::default()
    }

    /// Files belong to ids of a user namespace: its maps of users and of groups.
    pub fn mapped(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Ids {
        Ids { map: Some((uids, gids)) }
    }

    /// Whether ids are the same inside and outside.
    pub(crate) fn is_same(&self) -> bool {
        self.map.is_none()
    }

    /// The owner inside of a file's owner outside; none where nobody inside is.
    pub(crate) fn inside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        match &self.map {
            None => Some((uid, gid)),
            Some((uids, gids)) => Some((find(uids, uid)?, find(gids, gid)?)),
        }
    }

    /// The user inside.
    pub(crate) fn uid(&self, uid: u32) -> Option<u32> {
        self.map.as_ref().map_or(Some(uid), |(uids, _)| find(uids, uid))
    }
}

fn find(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let at = id.checked_sub(range.outside).filter(|at| *at < range.count)?;
        range.inside.checked_add(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_as_the_container_sees_them() {
        let ids = Ids::mapped(
            vec![IdRange::new(0, 1000, 1), IdRange::new(1, 100_000, 65_536)],
            vec![IdRange::new(0, 1001, 1), IdRange::new(1, 200_000, 10)],
        );
        assert_eq!(ids.inside(1000, 1001), Some((0, 0)));
        assert_eq!(ids.inside(100_041, 200_009), Some((42, 10)));
        assert_eq!(ids.inside(1000, 200_010), None);
        assert_eq!(ids.inside(0, 1001), None);
        assert_eq!(Ids::same().inside(7, 8), Some((7, 8)));
    }
}

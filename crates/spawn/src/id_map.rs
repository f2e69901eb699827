//! Which ids outside stand for which inside a user namespace; see user_namespaces(7), subuid(5), newuidmap(1).

use std::path::{Path, PathBuf};

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first id in the container.
    pub inside: u32,
    /// The first id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A map of user and group ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdMap {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
    pub(crate) helpers: Option<(PathBuf, PathBuf)>,
    pub(crate) deny_setgroups: bool,
}

impl IdMap {
    /// Root inside is the caller outside, and nobody else is there. Needs nothing but user namespaces.
    pub fn single(uid: u32, gid: u32) -> Self {
        let one = |outside| vec![IdRange { inside: 0, outside, count: 1 }];
        Self { uids: one(uid), gids: one(gid), helpers: None, deny_setgroups: true }
    }

    /// Root inside is the caller; ids from 1 are the caller's ranges in /etc/subuid and /etc/subgid, mapped by newuidmap(1)
    /// and newgidmap(1). Where there are no ranges or no such programs, [`IdMap::single`].
    pub fn for_current_user() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let helpers = (find_program("newuidmap"), find_program("newgidmap"));
        let uids = sub_ids(&read("/etc/subuid"), name.as_deref(), uid);
        let gids = sub_ids(&read("/etc/subgid"), name.as_deref(), uid);
        match helpers {
            (Some(newuidmap), Some(newgidmap)) if !uids.is_empty() && !gids.is_empty() => {
                let whole = |own, ranges: Vec<IdRange>| {
                    let mut inside = 1;
                    let mut map = vec![IdRange { inside: 0, outside: own, count: 1 }];
                    for range in ranges {
                        map.push(IdRange { inside, ..range });
                        inside += range.count;
                    }
                    map
                };
                Self { uids: whole(uid, uids), gids: whole(gid, gids), helpers: Some((newuidmap, newgidmap)), deny_setgroups: false }
            }
            _ => Self::single(uid, gid),
        }
    }

    /// The ranges of users.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The ranges of groups.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// Whether only root is mapped.
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|r| u64::from(r.count)).sum::<u64>() <= 1
    }

    /// How many user ids there are inside.
    pub fn uid_count(&self) -> u64 {
        self.uids.iter().map(|r| u64::from(r.count)).sum()
    }

    /// Whether a user id is mapped.
    pub fn contains_uid(&self, uid: u32) -> bool {
        self.uids.iter().any(|r| uid >= r.inside && uid - r.inside < r.count)
    }
}

/// The ranges of one user in subuid(5): by name or by number.
fn sub_ids(text: &str, name: Option<&str>, uid: u32) -> Vec<IdRange> {
    let mut ranges = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let (Some(who), Some(start), Some(count)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (Ok(outside), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else {
            continue;
        };
        let mine = Some(who) == name || who.parse() == Ok(uid);
        if mine && count > 0 && outside.checked_add(count).is_some() {
            ranges.push(IdRange { inside: 0, outside, count });
        }
    }
    ranges
}

/// A set-id program of the system, where systems keep them: the caller's PATH isn't asked for something that gets privileges.
fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/run/wrappers/bin"]
        .map(|d| Path::new(d).join(name))
        .into_iter()
        .find(|p| p.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number_and_nonsense_is_passed_over() {
        let text = "root:1:2\nann:100000:65536\n1000:300000:10\nann:x:1\nann:4294967295:2\n\n#ann:1:1\nann:5:0\n";
        let range = |outside, count| IdRange { inside: 0, outside, count };
        assert_eq!(sub_ids(text, Some("ann"), 1000), [range(100000, 65536), range(300000, 10)]);
        assert_eq!(sub_ids(text, None, 7), []);
    }
}

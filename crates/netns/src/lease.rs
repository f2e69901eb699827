//! Addresses as files that are somebody's while a lock is held: whoever dies loses them by that, and nobody has to clean up.
//!
//! A file is made under a temporary name, locked, written, and linked to the address's name: who finds it finds it whole and locked. One
//! whose lock is free is a dead owner's: who locks it has it, with what the dead had noted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::Error;
use crate::subnet::Subnet;

/// A directory of leases of one network's addresses. Any number of processes may use it at the same time.
#[derive(Clone, Debug)]
pub struct Leases {
    directory: PathBuf,
}

/// One address that is ours, as long as this, or a copy of its descriptor, is open anywhere.
#[derive(Debug)]
#[must_use = "dropping it lets go of the address"]
pub struct Lease {
    file: File,
    path: PathBuf,
    address: IpAddr,
    before: Option<Vec<u8>>,
}

impl Leases {
    /// Uses a directory, which is made if it isn't there; on a file system with locks, best one that a reboot empties.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Leases, Error> {
        let directory = directory.into();
        match fs::create_dir(&directory) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", &directory, source)),
            _ => Ok(Leases { directory }),
        }
    }

    /// Takes an address of the subnet that nobody has: this one, or any. `note` is what others may read of it.
    ///
    /// The search begins at a random place, so that an address rests before it is somebody else's.
    ///
    /// # Errors
    ///
    /// [`Error::AddressTaken`], [`Error::AddressOutside`], [`Error::Full`], [`Error::File`].
    pub fn take(&self, subnet: &Subnet, wanted: Option<IpAddr>, note: &[u8]) -> Result<Lease, Error> {
        let draft = Draft::new(&self.directory, note)?;
        let room = subnet.room();
        // 0 is the network's name, 1 the gateway.
        let number = |n: u32| subnet.host(2 + n).filter(|_| n < room);
        if let Some(address) = wanted {
            let inside = subnet.contains(address) && (0..2).all(|n| subnet.host(n) != Some(address)) && !is_broadcast(subnet, address);
            if !inside {
                return Err(Error::AddressOutside { address, subnet: *subnet });
            }
            return self.claim(&draft, address)?.ok_or(Error::AddressTaken { address });
        }
        let start = if room == 0 { 0 } else { (crate::bridge::random() % u64::from(room)) as u32 };
        // A subnet of millions is never searched through: as many as there are files are taken at most.
        let files = fs::read_dir(&self.directory).map_err(|source| failed("list", &self.directory, source))?.count();
        for n in (0..room.min(u32::try_from(files).unwrap_or(u32::MAX).saturating_add(1)))
            .map(|n| (u64::from(start) + u64::from(n)) % u64::from(room))
        {
            if let Some(address) = number(n as u32)
                && let Some(lease) = self.claim(&draft, address)?
            {
                return Ok(lease);
            }
        }
        Err(Error::Full { subnet: *subnet })
    }

    /// Links the draft to the address's name, or takes over a dead owner's file; `None` where somebody alive has it.
    fn claim(&self, draft: &Draft, address: IpAddr) -> Result<Option<Lease>, Error> {
        let path = self.directory.join(address.to_string());
        // Twice would do; a crowd of others may come and go at the same address.
        for _ in 0..1000 {
            match fs::hard_link(&draft.path, &path) {
                Ok(()) => {
                    let file = draft.file.try_clone().map_err(|source| failed("open", &path, source))?;
                    return Ok(Some(Lease { file, path, address, before: None }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("make", &path, source)),
            }
            match lock_dead(&path)? {
                Found::Dead(mut file) => {
                    let mut before = Vec::new();
                    file.read_to_end(&mut before).map_err(|source| failed("read", &path, source))?;
                    return Ok(Some(Lease { file, path, address, before: Some(before) }));
                }
                Found::Alive => return Ok(None),
                Found::Nothing => {}
            }
        }
        Ok(None)
    }

    /// The addresses that are somebody's who lives, with what was noted.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn live(&self) -> Result<Vec<(IpAddr, Vec<u8>)>, Error> {
        self.look(|_, live, entry| if live { entry } else { None })
    }

    /// Forgets the dead, and answers with what they had noted.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn bury_dead(&self) -> Result<Vec<(IpAddr, Vec<u8>)>, Error> {
        self.look(|path, live, entry| if live { None } else { entry.filter(|_| bury(path).unwrap_or(false)) })
    }

    #[allow(clippy::type_complexity)] // One line of a table.
    fn look(
        &self,
        choose: impl Fn(&Path, bool, Option<(IpAddr, Vec<u8>)>) -> Option<(IpAddr, Vec<u8>)>,
    ) -> Result<Vec<(IpAddr, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(|source| failed("list", &self.directory, source))?.flatten() {
            let path = entry.path();
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<IpAddr>().ok()) else { continue };
            let mut note = Vec::new();
            let Ok(mut file) = File::open(&path) else { continue };
            if file.read_to_end(&mut note).is_ok() {
                found.extend(choose(&path, is_locked(&file), Some((address, note))));
            }
        }
        Ok(found)
    }
}

impl Lease {
    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// What the dead owner had noted whom it was taken over from. It stays in the file until [`note`](Self::note) replaces it.
    pub fn before(&self) -> Option<&[u8]> {
        self.before.as_deref()
    }

    /// The file, which may be removed by whoever holds it when the address isn't in use any more.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what others may read of it, instead of what was there.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn note(&self, note: &[u8]) -> Result<(), Error> {
        use std::os::unix::fs::FileExt;
        let done = self.file.write_all_at(note, 0).and_then(|()| self.file.set_len(note.len() as u64));
        done.map_err(|source| failed("write", &self.path, source))
    }

    /// Lets go, and forgets the file at once.
    pub fn release(self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl From<Lease> for OwnedFd {
    /// The descriptor that holds the lock: a copy of it in another process holds the address there.
    fn from(lease: Lease) -> OwnedFd {
        lease.file.into()
    }
}

/// A locked file that has no address yet.
struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    fn new(directory: &Path, note: &[u8]) -> Result<Draft, Error> {
        let path = directory.join(format!(".{:016x}", crate::bridge::random()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| failed("make", &path, source))?;
        let mut draft = Draft { file, path };
        flock(&draft.file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed("lock", &draft.path, errno.into()))?;
        draft.file.write_all(note).map_err(|source| failed("write", &draft.path, source))?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(attempted: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { attempted, path: path.to_owned(), source }
}

fn is_broadcast(subnet: &Subnet, address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(_)) && subnet.prefix() < 31 && subnet.host(subnet.room() + 2) == Some(address)
}

fn is_locked(file: &File) -> bool {
    // A shared lock, let go of at once: two who look at the same time don't take each other for owners.
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = flock(file, FlockOperation::Unlock);
            false
        }
        Err(_) => true,
    }
}

/// What is at an address.
enum Found {
    /// A dead owner's file, locked by us.
    Dead(File),
    Alive,
    Nothing,
}

fn lock_dead(path: &Path) -> Result<Found, Error> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other.map_err(|source| failed("open", path, source))?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => return Ok(Found::Alive),
        other => other.map_err(|errno| failed("lock", path, errno.into()))?,
    }
    // Under the lock: is it still the file of this name?
    let inode = |m: &fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(named)) if inode(&ours) == inode(&named) => Ok(Found::Dead(file)),
        _ => Ok(Found::Nothing),
    }
}

/// Removes the file of a dead owner; whether it was there.
fn bury(path: &Path) -> Result<bool, Error> {
    match lock_dead(path)? {
        Found::Dead(_locked) => fs::remove_file(path).map(|()| true).map_err(|source| failed("remove", path, source)),
        Found::Alive | Found::Nothing => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn subnet() -> Subnet {
        "10.1.2.0/28".parse().unwrap()
    }

    #[test]
    fn every_address_is_given_once_and_a_full_network_says_so() {
        let place = tempfile::tempdir().unwrap();
        let leases = Leases::open(place.path().join("a")).unwrap();
        let all: Vec<Lease> = (0..13).map(|_| leases.take(&subnet(), None, b"x").unwrap()).collect();
        let addresses: HashSet<IpAddr> = all.iter().map(Lease::address).collect();
        assert_eq!(addresses.len(), 13);
        for not in ["10.1.2.0", "10.1.2.1", "10.1.2.15"] {
            assert!(!addresses.contains(&not.parse().unwrap()), "{not}");
        }
        assert!(matches!(leases.take(&subnet(), None, b""), Err(Error::Full { .. })));
        assert_eq!(leases.live().unwrap().len(), 13);
        drop(all);
        assert!(leases.live().unwrap().is_empty());
        leases.take(&subnet(), None, b"").unwrap().release();
    }

    #[test]
    fn an_address_that_was_asked_for_is_given_or_refused() {
        let place = tempfile::tempdir().unwrap();
        let leases = Leases::open(place.path()).unwrap();
        let wanted: IpAddr = "10.1.2.7".parse().unwrap();
        let lease = leases.take(&subnet(), Some(wanted), b"note").unwrap();
        assert_eq!(lease.address(), wanted);
        assert!(matches!(leases.take(&subnet(), Some(wanted), b""), Err(Error::AddressTaken { .. })));
        for bad in ["10.1.2.0", "10.1.2.1", "10.1.2.15", "10.1.3.7", "::7"] {
            assert!(matches!(leases.take(&subnet(), Some(bad.parse().unwrap()), b""), Err(Error::AddressOutside { .. })), "{bad}");
        }
        lease.note(b"no").unwrap();
        assert_eq!(leases.live().unwrap(), [(wanted, b"no".to_vec())]);
        drop(lease);
        assert_eq!(leases.bury_dead().unwrap(), [(wanted, b"no".to_vec())]);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_owners_address_is_free_and_a_copy_of_the_descriptor_keeps_it() {
        let place = tempfile::tempdir().unwrap();
        let leases = Leases::open(place.path()).unwrap();
        let one: Subnet = "10.1.2.0/30".parse().unwrap();
        let lease = leases.take(&one, None, b"first").unwrap();
        let held: OwnedFd = lease.into();
        assert!(matches!(leases.take(&one, None, b""), Err(Error::Full { .. })));
        drop(held);
        let second = leases.take(&one, None, b"second").unwrap();
        assert_eq!(second.before(), Some(&b"first"[..]), "what has to be taken back");
        second.note(b"2nd").unwrap();
        assert_eq!(leases.live().unwrap(), [(second.address(), b"2nd".to_vec())]);
    }

    #[test]
    fn eight_at_once_never_get_the_same() {
        let place = tempfile::tempdir().unwrap();
        let leases = Leases::open(place.path()).unwrap();
        // Dead ones of before stand in all their ways.
        drop((0..13).map(|_| leases.take(&subnet(), None, b"").unwrap()).collect::<Vec<_>>());
        for _ in 0..50 {
            let taken: Vec<Lease> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| leases.take(&subnet(), None, b"x").unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().map(Lease::address).collect::<HashSet<_>>().len(), 8);
        }
    }

    #[test]
    fn a_wide_subnet_is_not_searched_through() {
        let place = tempfile::tempdir().unwrap();
        let leases = Leases::open(place.path()).unwrap();
        let wide: Subnet = "10.0.0.0/8".parse().unwrap();
        let held: Vec<Lease> = (0..50).map(|_| leases.take(&wide, None, b"").unwrap()).collect();
        assert!(held.iter().all(|lease| wide.contains(lease.address())));
    }
}

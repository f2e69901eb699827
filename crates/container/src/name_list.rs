//! The names of a network's containers: a file that their resolvers read, each container's places held as its address is.

use crate::error::{Error, Problem};
use coracle_spawn::NameSlot;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The list of one network. Whoever takes or frees places of dead containers locks it; the living free their own.
pub(crate) struct NameList(PathBuf);

/// Opens the file, which is made where it isn't there.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl NameList {
    /// That of a network whose directory this is.
    pub(crate) fn of(network: &Path) -> Self {
        Self(network.join("names"))
    }

    fn failed(&self, attempted: &'static str) -> impl FnOnce(io::Error) -> Error {
        let path = self.0.clone();
        move |source| Error::State { attempted, path, source }
    }

    /// The file for who reads.
    pub(crate) fn reader(&self) -> Result<File, Error> {
        open(&self.0).map_err(self.failed("open"))?;
        File::open(&self.0).map_err(self.failed("open"))
    }

    fn locked(&self) -> Result<(File, Vec<u8>), Error> {
        let locked = || {
            let mut file = open(&self.0)?;
            rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((file, bytes))
        };
        locked().map_err(self.failed("lock"))
    }

    /// Takes places for the names of these addresses, as many as they need. `note` is told which before they are somebody's.
    pub(crate) fn take(
        &self,
        addresses: &[IpAddr],
        names: &[String],
        note: impl FnOnce(&[u64]) -> Result<(), Error>,
    ) -> Result<Vec<NameSlot>, Error> {
        let v4 = addresses.iter().find_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None }).unwrap_or(Ipv4Addr::UNSPECIFIED);
        let v6: Option<Ipv6Addr> = addresses.iter().find_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
        let (file, bytes) = self.locked()?;
        let mut free = (0..NameSlot::MOST).map(|n| n * NameSlot::SIZE).filter(|&at| bytes.get(at..).and_then(NameSlot::read).is_none());
        let (mut slots, mut places, mut rest) = (Vec::new(), Vec::new(), names.to_vec());
        while !rest.is_empty() {
            let at = free.next().ok_or_else(|| {
                let what = format!("the network has {} names already", NameSlot::MOST);
                Error::Description { problems: vec![Problem { what, remedy: Some("make another network".into()) }] }
            })? as u64;
            let (slot, more) = NameSlot::new(&self.0, at, v4, v6, &rest);
            let more: Vec<String> = more.iter().map(|name| name.as_ref().to_owned()).collect();
            if more.len() == rest.len() {
                break;
            }
            slots.push(slot);
            places.push(at);
            rest = more;
        }
        note(&places)?;
        for (slot, at) in slots.iter().zip(&places) {
            file.write_all_at(&slot.taken(), *at).map_err(self.failed("write"))?;
        }
        Ok(slots)
    }

    /// Frees places of a dead container that had this address.
    pub(crate) fn free(&self, address: IpAddr, places: &[u64]) {
        if places.is_empty() {
            return;
        }
        let Ok((file, bytes)) = self.locked() else { return };
        for at in places {
            let slot = usize::try_from(*at).ok().and_then(|at| bytes.get(at..)).and_then(NameSlot::read);
            if slot.is_some_and(|(of, _)| address == IpAddr::V4(of)) {
                let _ = file.write_all_at(&[0; NameSlot::SIZE], *at);
            }
        }
    }

    /// The names of an address.
    pub(crate) fn names(&self, address: IpAddr) -> Vec<String> {
        let bytes = std::fs::read(&self.0).unwrap_or_default();
        let slots = bytes.chunks(NameSlot::SIZE).filter_map(NameSlot::read);
        slots.filter(|(of, _)| address == IpAddr::V4(*of)).flat_map(|(_, names)| names).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_noted_and_freed_of_their_own_address_alone() {
        let place = tempfile::tempdir().unwrap();
        let list = NameList::of(place.path());
        let of = |n: u8| IpAddr::from([10, 1, 2, n]);
        let many: Vec<String> = (0..40).map(|n| format!("name-{n}.example")).collect();
        let mut noted = Vec::new();
        let slots = list.take(&[of(3)], &many, |places| {
            noted = places.to_vec();
            Ok(())
        });
        assert_eq!((slots.unwrap().len(), &noted[..]), (3, &[0, 256, 512][..]));
        assert_eq!(list.names(of(3)), many);
        assert_eq!(
            list.take(&[of(4), "fd00::4".parse().unwrap()], &["DB".into()], |places| {
                assert_eq!(places, [768]);
                Ok(())
            })
            .unwrap()
            .len(),
            1
        );
        assert_eq!(list.names(of(4)), ["db"]);
        list.free(of(4), &[0, 768]);
        assert_eq!((list.names(of(4)).len(), list.names(of(3)).len()), (0, 40));
        list.free(of(3), &noted);
        list.take(&[of(5)], &["x".into()], |places| {
            assert_eq!(places, [0]);
            Ok(())
        })
        .unwrap();
    }
}

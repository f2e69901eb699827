//! Contents of files as they are sent at an end, one after the other.

use crate::system_call::{AT_FDCWD, Fd, Pages, close, open, openat2, read};
use crate::wire::{Field, List, Out};
use core::ffi::CStr;

/// Bytes kept of each file.
const STATISTIC: usize = 4096;

/// Contents of files, one after the other as a [`List`].
pub struct Collected {
    /// Memory of its own, so that the long time before the end doesn't hold it.
    bytes: Option<Pages>,
    used: usize,
    count: u32,
}

impl Collected {
    pub fn new() -> Self {
        Self { bytes: Pages::new(8 * STATISTIC).ok(), used: 0, count: 0 }
    }

    /// A file by its path.
    pub fn add(&mut self, path: &CStr) {
        self.add_from(AT_FDCWD, path);
    }

    /// A file that can't be read counts as empty, so that places in the list keep their meaning.
    pub fn add_from(&mut self, directory: Fd, name: &CStr) {
        let mut contents = [0; STATISTIC];
        let n = match openat2(directory, name, open::READ, 0, 0) {
            Ok(f) => {
                let n = read(f, &mut contents).unwrap_or(0);
                close(f);
                n
            }
            Err(_) => 0,
        };
        self.push(&contents[..n]);
    }

    /// What was read already.
    pub fn push(&mut self, contents: &[u8]) {
        let room = self.bytes.as_ref().map_or(0, |bytes| bytes.len().saturating_sub(STATISTIC));
        let contents = if self.used + contents.len() + 4 > room { &[][..] } else { contents };
        contents.put(self);
        self.count += 1;
    }

    pub fn list(&self) -> List<'_, &[u8]> {
        match &self.bytes {
            Some(bytes) => List::new(self.count, &bytes[..self.used]),
            None => List::new(0, &[]),
        }
    }
}

impl Out for Collected {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if let Some(place) = self.bytes.as_mut().and_then(|all| all.get_mut(self.used..end)) {
            place.copy_from_slice(bytes);
            self.used = end;
        }
    }
}

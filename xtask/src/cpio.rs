//! Writes a cpio archive of the kernel's `newc` format: the first file system of the virtual machine.
//!
//! Written here so that owners and device-free modes are ours to say: nothing of it needs root.

use crate::Result;
use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that is being written, in memory.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    written: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.written.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above, 0o755);
        }
        self.entry(path, DIRECTORY | mode, &[]);
    }

    /// Adds a file, owned by root; the first one of a path stays.
    pub(crate) fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.leaf(path, FILE | mode, data);
    }

    /// Adds a file of this machine.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result {
        let data = std::fs::read(from).map_err(|error| format!("can't read {}: {error}", from.display()))?;
        self.file(path, mode, &data);
        Ok(())
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.leaf(path, LINK | 0o777, to.as_bytes());
    }

    fn leaf(&mut self, path: &str, mode: u32, data: &[u8]) {
        let path = path.trim_matches('/');
        if self.written.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above, 0o755);
        }
        self.entry(path, mode, data);
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.written.insert(path.to_owned());
        self.inode += 1;
        let size = u32::try_from(data.len()).expect("a file of the virtual machine is below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        // inode, mode, uid, gid, links, mtime, size, device ×2, special device ×2, name size, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// The archive's bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn busybox_reads_what_we_write() {
        if crate::process::find("busybox").is_none() {
            println!("SKIP: busybox");
            return;
        }
        let mut archive = Archive::default();
        archive.file("a/b/odd", 0o4755, b"12345");
        archive.link("a/l", "b/odd");
        let mut cpio = std::process::Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("busybox runs");
        cpio.stdin.take().expect("piped").write_all(&archive.finish()).expect("busybox reads");
        let output = cpio.wait_with_output().expect("busybox ends");
        let listing = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success());
        assert!(listing.contains("drwxr-xr-x"), "{listing}");
        assert!(listing.contains("-rwsr-xr-x") && listing.contains("a/b/odd"), "{listing}");
        assert!(listing.contains("a/l -> b/odd"), "{listing}");
    }
}

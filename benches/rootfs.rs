//! The root file system of those who start something that does nothing.

use super::bench::Result;
use std::fs;
use std::path::Path;

/// A root file system with a static `true`, and with the directories and files that an image has.
pub(crate) fn make_rootfs(at: &Path) -> Result {
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(at.join(directory))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.ok_or("there is no busybox; apt-get install busybox-static")?;
    fs::copy(busybox, at.join("bin/busybox"))?;
    for name in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(name))?;
    }
    for (name, contents) in [("hosts", ""), ("hostname", ""), ("resolv.conf", ""), ("passwd", "root:x:0:0:root:/root:/bin/sh\n")] {
        fs::write(at.join("etc").join(name), contents)?;
    }
    Ok(fs::write(at.join("etc/group"), "root:x:0:\n")?)
}

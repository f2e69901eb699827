//! A program of this machine over this machine's own directories, in namespaces of its own.

use coracle_spawn::{IdMap, Mount, Namespaces, Root, Spawn};
use std::path::Path;

/// Describes it; as a plain user, with the ids that he has.
pub(crate) fn program<const N: usize>(program: &str, arguments: [&str; N]) -> Spawn {
    let mut spawn = Spawn::new(program).args(arguments).env("PATH", "/usr/bin:/bin").namespaces(Namespaces::all()).root(Root::tmpfs());
    for directory in ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64"] {
        if let Ok(link) = std::fs::read_link(directory) {
            spawn = spawn.mount(Mount::symlink(link, directory));
        } else if Path::new(directory).is_dir() {
            spawn = spawn.mount(Mount::bind(directory, directory).read_only());
        }
    }
    if !rustix::process::geteuid().is_root() {
        spawn = spawn.id_map(IdMap::for_current_user());
    }
    spawn.mounts(Mount::standard())
}

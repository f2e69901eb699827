//! Spawns a process in Linux namespaces, as [`std::process::Command`] spawns one without.
//!
//! - [`Spawn`] describes: namespaces, a root file system, mounts, a user, capabilities, a system call filter, limits. Plain
//!   data; setters never fail.
//! - [`Plan`] is what a description comes to: every step, in order, with the step that takes it back. Pure; [`Spawn::plan`]
//!   needs no privilege and has no effect.
//! - [`Child`] runs. Dropping it kills; losing it (SIGKILL of this process, abort, `process::exit`) kills too, and whatever was
//!   made for it is removed by a small **supervisor** process that outlives this one for as long as that takes.
//!
//! ```no_run
//! use coracle_spawn::{Namespaces, Root, Spawn, Stdio};
//!
//! let mut child = Spawn::new("/bin/sh")
//!     .args(["-c", "echo I am process $$"])
//!     .namespaces(Namespaces::all())
//!     .root(Root::bind("/srv/rootfs"))
//!     .mounts(coracle_spawn::Mount::standard())
//!     .stdout(Stdio::piped())
//!     .spawn()?;
//! let ended = child.wait()?;
//! assert_eq!(ended.status.code(), Some(0));
//! # Ok::<(), coracle_spawn::Error>(())
//! ```
//!
//! # What it needs
//!
//! Linux 5.12 (`mount_setattr`, `openat2`, `clone3`, `close_range`); a mounted /proc; root, or user namespaces. No libc function
//! runs between fork and exec, because nothing forks here: the supervisor is a program of its own (80 KB, no libc, embedded,
//! executed from a sealed memfd), which this process starts by posix_spawn whatever its size.
//!
//! # What it does not do
//!
//! Know images, registries, networks or cgroups: who does hands paths and bytes in. It changes nothing about this process: no
//! signal handler, no working directory, no umask, no wait for a child that isn't its own.
#![forbid(unsafe_code)]
#[cfg(not(target_os = "linux"))]
compile_error!("coracle-spawn needs Linux: namespaces are Linux's");
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("coracle-spawn knows the system calls of x86-64 and aarch64 only");

mod access;
mod capabilities;
mod child;
mod client;
mod effects;
mod error;
mod exec;
mod id_map;
mod mounts;
mod namespaces;
mod plan;
mod program;
mod reactor;
mod rlimits;
pub mod seccomp;
mod signal;
mod spawn;
mod stdio;

#[path = "../supervisor/interpreter.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod interpreter;
#[path = "../supervisor/passwd.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod passwd;
#[path = "../supervisor/wire.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod wire;

pub use access::FileAccess;
pub use capabilities::{Capability, CapabilitySet, UnknownCapability};
pub use child::{Child, Ended, KilledBy, Left, Status};
pub use effects::{CgroupPlacement, Effect, Record, Undo, sweep};
pub use error::{Error, ExecFault};
pub use exec::{Exec, Interior, Running};
pub use id_map::{IdMap, IdRange};
pub use mounts::{Attributes, Mount, Overlay, Root};
pub use namespaces::Namespaces;
pub use plan::Plan;
pub use rlimits::{BadRlimit, Resource, Rlimit};
pub use signal::{Signal, UnknownSignal};
pub use spawn::{Init, OwnerChange, Spawn, Starting, change_owners, remove_tree};
pub use stdio::{PipeReader, PipeWriter, Stdio};

/// What fuzzers call: everything here that parses bytes of strangers.
#[doc(hidden)]
pub mod fuzz {
    use crate::wire::{Answer, Exec, Field, Plan, Reader, Record, Report, Request};

    /// A plan as it travels: where a fuzzer best begins.
    pub fn plan_bytes(plan: &crate::Plan) -> &[u8] {
        &plan.bytes
    }

    /// Reads the bytes as each thing that travels, and checks that what was read is written the same.
    pub fn wire(bytes: &[u8]) {
        fn both_ways<'a, T: Field<'a>>(bytes: &'a [u8]) {
            let mut from = Reader::new(bytes);
            if let Ok(value) = from.take::<T>() {
                let mut again = Vec::new();
                value.put(&mut again);
                assert_eq!(again, &bytes[..bytes.len() - from.rest().len()]);
            }
        }
        both_ways::<Plan<'_>>(bytes);
        both_ways::<Exec<'_>>(bytes);
        both_ways::<Answer<'_>>(bytes);
        both_ways::<Request<'_>>(bytes);
        both_ways::<Report<'_>>(bytes);
        both_ways::<Record<'_>>(bytes);
        let _ = crate::plan::Plan::describe_bytes(bytes);
        if let Ok(exec) = Reader::new(bytes).take::<Exec<'_>>() {
            for most in [0, 1, 7, 64, usize::MAX] {
                assert!(exec.argv.beginning(most).is_whole());
            }
        }
    }

    /// Reads the bytes as passwd(5), group(5) and the words of `--user`.
    pub fn passwd(bytes: &[u8]) {
        use crate::passwd::{Lines, is_member, parse_group_line, parse_passwd_line, parse_user};
        let mut lines = Lines::new();
        let mut show = |line: &[u8]| {
            if let Some(entry) = parse_passwd_line(line) {
                assert!(entry.uid != u32::MAX && entry.gid != u32::MAX);
            }
            if let Some(group) = parse_group_line(line) {
                assert!(group.gid != u32::MAX);
                is_member(group.members, b"somebody");
            }
            parse_user(line);
        };
        for piece in bytes.chunks(7) {
            lines.feed(piece, &mut show);
        }
        lines.end(&mut show);
    }

    /// Reads the bytes as the beginning of a program.
    pub fn interpreter(bytes: &[u8]) {
        crate::interpreter::interpreter(bytes);
    }
}

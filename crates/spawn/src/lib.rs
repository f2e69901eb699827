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
mod command;
mod connect;
mod delay;
mod effects;
mod error;
mod exec;
mod health;
mod id_map;
mod install;
mod label;
mod landlock;
mod log;
mod mounts;
mod namespaces;
mod network;
mod opener;
mod plan;
mod program;
mod reactor;
mod rlimits;
pub mod seccomp;
mod signal;
mod socket;
mod spawn;
mod stdio;
mod terminal;

#[path = "../supervisor/dns.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod dns;
#[path = "../supervisor/interpreter.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod interpreter;
#[path = "../supervisor/log_file.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod log_file;
#[path = "../supervisor/passwd.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod passwd;
#[path = "../supervisor/wire.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod wire;

pub use access::FileAccess;
pub use capabilities::{Capability, CapabilitySet, UnknownCapability};
pub use child::{Child, Ended, KilledBy, Left, Status};
pub use connect::{ConnectFault, Connecting};
pub use delay::Delay;
pub use effects::{CgroupPlacement, ENDED, Effect, KEPT, Record, Undo, is_alive, limit_directory, remove_run, sweep};
pub use error::{Error, ExecFault};
pub use exec::{Exec, Interior, Running};
pub use health::{Health, HealthState, HealthTest};
pub use id_map::{IdMap, IdRange};
pub use install::install_supervisor;
pub use label::SecurityLabel;
pub use landlock::Landlock;
pub use log::{Log, LogLine, LogReader, OutputStream};
pub use mounts::{Attributes, Mount, Overlay, Root, Standard};
pub use namespaces::Namespaces;
pub use network::{Exchange, NameSlot, Relay, Release, Resolver};
pub use opener::{Attributes as FileAttributes, FileStat, How, Opener};
pub use plan::Plan;
pub use rlimits::{BadRlimit, Resource, Rlimit};
pub use signal::{Signal, UnknownSignal};
pub use socket::Socket;
pub use spawn::{Init, OwnerChange, Spawn, Starting, change_owners, remove_tree};
pub use stdio::{PipeReader, PipeWriter, Stdio};
pub use terminal::Terminal;

/// What fuzzers call: everything here that parses bytes of strangers.
#[doc(hidden)]
pub mod fuzz {
    use crate::wire::{Answer, Exec, Field, Opened, Opening, Plan, Reader, Record, Report, Request};

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
        both_ways::<Opening<'_>>(bytes);
        both_ways::<Opened<'_>>(bytes);
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

    /// A log whose ring holds these bytes as if records of them had been written, the first of which is: a length, and so much of it.
    pub fn log_with(ring: &[u8]) -> Vec<u8> {
        use crate::log_file::{LEAST, RING_AT, Record, State, head};
        let mut bytes = head(LEAST).to_vec();
        bytes.resize(RING_AT as usize, 0);
        let mut rest = &ring[..ring.len().min(LEAST as usize / 2)];
        let mut end = 0;
        while let [length, kind, more @ ..] = rest {
            let (said, more) = more.split_at(usize::from(*length).min(more.len()));
            // Now and then what isn't one.
            if kind % 8 == 7 {
                bytes.extend_from_slice(said);
                end += said.len() as u64;
            } else {
                let record = Record { length: said.len() as u32, kind: kind % 8, time: u64::from(*kind) };
                bytes.extend_from_slice(&record.to_bytes(end));
                bytes.extend_from_slice(said);
                end += record.whole();
            }
            rest = more;
        }
        end = end.min(LEAST);
        bytes.resize((RING_AT + LEAST) as usize, b'\n');
        bytes[24..56].copy_from_slice(&State { first: 0, end, flags: 0 }.to_bytes());
        bytes
    }

    /// Reads a file with these bytes as a log.
    pub fn log(file: std::fs::File) -> Option<usize> {
        crate::log::read_any(file)
    }

    /// Reads the bytes as a question about a name and as a list of names, and answers one by the other.
    pub fn dns(bytes: &[u8]) {
        use crate::dns::{DATAGRAM, HEADER, Name, Question, Reply, SLOT, Slot, answers, code, refuse};
        for slot in bytes.chunks(SLOT).filter_map(Slot::read) {
            assert!(slot.names().map(<[u8]>::len).sum::<usize>() < SLOT);
        }
        let _ = Name::new(bytes).and_then(|name| name.address());
        let mut copy = [0; DATAGRAM];
        let n = bytes.len().min(DATAGRAM);
        copy[..n].copy_from_slice(&bytes[..n]);
        for code in [code::FINE, code::MALFORMED, code::FAILED] {
            assert!(refuse(&mut copy.clone(), n, code) <= DATAGRAM);
        }
        let Ok(question) = Question::read(bytes) else { return };
        assert!(question.end <= bytes.len() && question.end > HEADER && question.name.as_bytes().len() <= 253);
        let _ = (question.name.within(b"example.org"), question.name.address());
        let mut into = [0; DATAGRAM];
        if let Some(mut reply) = Reply::begin(&mut into, bytes, question.end) {
            let (slot, _) = crate::dns::write_slot(1, [10, 0, 0, 1], Some([7; 16]), [question.name.as_bytes()].into_iter());
            if let Some(slot) = Slot::read(&slot) {
                slot.addresses(question.kind).for_each(|address| reply.address(&address));
                slot.names().for_each(|name| reply.name(name));
            }
            let length = reply.end(code::FINE);
            assert!(length <= DATAGRAM && answers(&into[..length], bytes, question.end));
        }
    }

    /// Reads the bytes as the beginning of a program.
    pub fn interpreter(bytes: &[u8]) {
        crate::interpreter::interpreter(bytes);
    }
}

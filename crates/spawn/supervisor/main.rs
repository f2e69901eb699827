//! The supervisor: a process beside each container that performs its plan, watches over it, and takes everything back.
//!
//! It exists because nobody else can: the owner may not fork (it has threads), may die at any moment by SIGKILL, and may not
//! be the one whose death leaves mounts, cgroups and processes behind. One thread, no allocator, no libc. It reads one plan
//! from its standard input, and after that only requests.
//!
//! ```text
//!  owner ──plan──▶ prepare ──▶ clone ──▶ map ids ──▶  meanwhile   ──▶ watch ──▶ undo ──▶ gone
//!                     │          │          │             │            │ ▲        ▲
//!                     └──────────┴──failed──┴─────────────┴────────────┼─┼────────┘
//!                                first process: steps ──▶ init ──▶ command
//! ```

#![no_std]
#![no_main]
#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
// Files shared with the crate have more than this program uses.
#![allow(dead_code)]
// There is no allocator to box an error with, and an error is the end.
#![allow(clippy::result_large_err)]
// A step's fields are a function's arguments.
#![allow(clippy::too_many_arguments)]

mod attendant;
mod collect;
mod dns;
mod exec;
mod execute;
mod failure;
mod health;
mod id_map;
mod init;
mod interpreter;
mod landlock;
mod log;
mod log_file;
mod mounts;
mod network;
mod opener;
mod owned;
mod passwd;
mod peer;
mod prepare;
mod quota;
mod relay;
mod report;
mod resolver;
mod serve;
mod step;
#[allow(unsafe_code)]
mod system_call;
mod terminal;
mod text;
mod tree;
mod user;
mod watch;
mod wire;

use system_call::{Errno, Fd, Planned, chdir, close_range, exit, map, prctl, receive_message, reset_signals, setsid, umask};
use wire::{Field, HEADER, Kind, MAX_PLAN, Plan, Reader, VERSION};

/// The control socket.
const CONTROL: Fd = Fd(0);

/// Called with the address of what the kernel left on the stack, which nobody needs.
extern "C" fn main(_stack: usize) -> ! {
    // What an owner may have left set: an inherited SIGCHLD=SIG_IGN would lose exit statuses, an inherited descriptor would keep
    // a pipe of the owner's open after its death.
    reset_signals();
    let _ = close_range(3, u32::MAX);
    let _ = chdir(c"/");
    let _ = setsid();
    let _ = prctl::set_name(c"coracle");
    umask(0);
    match receive_plan() {
        Ok((plan, fds)) => watch::supervise(&plan, &fds),
        Err(errno) => {
            watch::refuse(errno);
            exit(1)
        }
    }
}

#[inline(never)]
fn receive_plan() -> Result<(Plan<'static>, Planned), Errno> {
    let mut fds = Planned::for_a_plan();
    let mut header = [0; HEADER];
    let mut have = 0;
    while have < HEADER {
        match receive_message(CONTROL, &mut header[have..], &mut fds, true)? {
            0 => return Err(Errno::EPROTO),
            n => have += n,
        }
    }
    let (length, kind, count) = wire::parse_header(&header);
    if kind != Kind::Plan as u16 || length > MAX_PLAN || usize::from(count) != fds.as_slice().len() {
        return Err(Errno::EPROTO);
    }
    let payload = map(length as usize)?;
    let mut have = 0;
    while have < payload.len() {
        match receive_message(CONTROL, &mut payload[have..], &mut fds, true)? {
            0 => return Err(Errno::EPROTO),
            n => have += n,
        }
    }
    let payload: &'static [u8] = payload;
    // The version comes first, so that another one is told apart from garbage.
    match u16::take(&mut Reader::new(payload)) {
        Ok(VERSION) => {}
        _ => return Err(Errno::EPROTO),
    }
    let plan = Plan::take(&mut Reader::new(payload)).map_err(|_| Errno::EPROTO)?;
    Ok((plan, fds))
}

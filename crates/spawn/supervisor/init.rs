//! PID 1 of a container.
//!
//! A pid namespace dies with its first process, and somebody in it has to reap orphans. This is that process: it starts the
//! command, hands signals on, reaps, tells the supervisor the command's status as wait(2) gave it, and leaves. It has
//! exactly the command's privileges, so whoever takes it over in there has won nothing. It keeps the command's standard
//! streams open: people write to `/proc/1/fd/1`.

use crate::execute::Executable;
use crate::failure::{Failure, Fault};
use crate::report;
use crate::system_call::{
    Errno, Fd, POLLIN, PollFd, exit, getpid, now, pidfd_send_signal, poll, prctl, read, release_memory, set_signal_mask, signalfd, vfork,
    wait_any,
};
use crate::wire::{Report, stage};

const SIGKILL: u32 = 9;
const SIGCHLD: u32 = 17;
const ALL: u64 = !0;

/// What the command's process shares with us until it has executed the command.
struct Attempt<'a> {
    executable: Executable<'a>,
    /// Without a pid namespace nothing else ends it when this process is killed.
    dies_with_us: bool,
    fault: Option<Fault>,
}

/// Starts the command and stays until it has ended.
pub fn run(executable: Executable<'_>, supervisor: Fd) -> ! {
    attend(executable, supervisor, false)
}

/// Starts one more command of a container that has no cgroup, and stays until everything that the command started has ended: as their
/// subreaper this process is the parent of all that lose theirs, by which the supervisor finds whom to kill.
pub fn run_exec(executable: Executable<'_>, supervisor: Fd) -> ! {
    let _ = prctl::set_child_subreaper();
    attend(executable, supervisor, true)
}

fn attend(executable: Executable<'_>, supervisor: Fd, stay: bool) -> ! {
    // Blocked signals wait in the descriptor. Unblocked ones would be lost: the kernel drops what PID 1 doesn't handle.
    set_signal_mask(ALL);
    let signals = match signalfd(ALL) {
        Ok(f) => f,
        Err(errno) => give_up(supervisor, errno.into()),
    };
    // The privileges are the command's by now, and the supervisor's descriptors are closed: there is nothing to hide. Before the
    // command runs, because the first thing that it does may be to write to /proc/1/fd/1.
    let _ = prctl::set_dumpable(true);
    let mut attempt = Attempt { executable, dies_with_us: !stay && getpid() != 1, fault: None };
    let started = vfork(&mut attempt, |attempt| {
        if attempt.dies_with_us {
            let _ = prctl::set_death_signal(SIGKILL);
        }
        attempt.fault = Some(attempt.executable.execute());
        exit(127)
    });
    let (pid, command) = match started {
        Ok(started) => started,
        Err(errno) => give_up(supervisor, errno.into()),
    };
    if let Some(fault) = attempt.fault {
        give_up(supervisor, fault);
    }
    report::send(supervisor, &Report::Running { command: pid, at: now() }, &[command]);
    // The setting up needed far more memory than the waiting does.
    release_memory();
    attempt.executable.release();

    let mut fds = [PollFd { fd: signals.0, events: POLLIN, revents: 0 }, PollFd { fd: supervisor.0, events: 0, revents: 0 }];
    loop {
        let _ = poll(&mut fds, None);
        if fds[1].revents != 0 {
            // Hung up: the supervisor is gone, and with this process everything in here.
            exit(0);
        }
        let mut info = [0; 128];
        while let Ok(128) = read(signals, &mut info) {
            let signal = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if signal == SIGCHLD {
                reap(pid, supervisor, stay);
            } else {
                let _ = pidfd_send_signal(command, signal);
            }
        }
    }
}

/// Reaps whoever has ended; the command's end is ours, or with `stay` that of everybody.
fn reap(command: u32, supervisor: Fd, stay: bool) {
    loop {
        match wait_any() {
            Ok(Some((pid, status))) if pid == command => {
                report::send(supervisor, &Report::Ended { status }, &[]);
                if !stay {
                    exit(0);
                }
            }
            Ok(Some(_)) => {}
            Err(Errno::ECHILD) if stay => exit(0),
            Ok(None) | Err(Errno(_)) => return,
        }
    }
}

fn give_up(supervisor: Fd, fault: Fault) -> ! {
    report::failure(supervisor, &Failure { stage: stage::EXEC, index: 0, fault });
    exit(127)
}

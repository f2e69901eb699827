//! A terminal for a command: a pair from the container's own devpts, whose master goes to whoever asked for it.
//!
//! The other end is had from the master itself (`TIOCGPTPEER`), and not by a path that somebody in there may have changed.

use crate::failure::Fault;
use crate::report;
use crate::system_call::{Fd, close, dup3, fchownat, fstat, open, openat2, resolve, set_window_size, terminal_of_master, unlock_terminal};
use crate::wire::{Report, cause};

/// Puts a terminal in the place of the three standard streams.
pub fn begin(root: Fd, uid: u32, columns: u32, rows: u32, supervisor: Fd) -> Result<(), Fault> {
    const PATH: &core::ffi::CStr = c"/dev/pts/ptmx";
    let master = openat2(root, PATH, open::READ_WRITE | open::NOCTTY, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS)?;
    let stat = fstat(master)?;
    if !stat.is_character_device() || (stat.major(), stat.minor()) != (5, 2) {
        return Err(Fault::new(crate::system_call::Errno::ENODEV, cause::NOT_THE_DEVICE, PATH.to_bytes()));
    }
    unlock_terminal(master)?;
    let terminal = terminal_of_master(master)?;
    set_window_size(terminal, columns as u16, rows as u16)?;
    // Whoever the command is may open it again; the group stays that of all terminals.
    fchownat(terminal, c"", uid, u32::MAX)?;
    for stream in 0..3 {
        dup3(terminal, stream, false)?;
    }
    close(terminal);
    report::send(supervisor, &Report::Terminal {}, &[master]);
    close(master);
    Ok(())
}

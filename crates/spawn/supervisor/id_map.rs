//! Maps the ids of a new user namespace, from outside.

use crate::failure::Fault;
use crate::prepare::{Path, write_file};
use crate::system_call::{Errno, Fd, Pointers, close, dup3, execve, exit, pipe, poll, read, vfork, wait_pidfd};
use crate::system_call::{POLLIN, PollFd};
use crate::text::Buffer;
use crate::wire::{IdMap, IdRange, List, cause};
use core::ffi::CStr;

/// Writes both maps of the process `pid`, itself or by newuidmap(1) and newgidmap(1).
pub fn write_maps(pid: u32, map: &IdMap<'_>) -> Result<(), Fault> {
    if map.deny_setgroups {
        write_file(proc_file(pid, b"setgroups").as_c_str().ok_or(Errno::EINVAL)?, b"deny")?;
    }
    for (helper, file, ranges) in [(map.newuidmap, b"uid_map", &map.uids), (map.newgidmap, b"gid_map", &map.gids)] {
        match helper {
            Some(helper) => run_helper(helper, pid, ranges)?,
            None => write_map(pid, file, ranges.iter().map(|range| (range.inside, range.outside, range.count)))?,
        }
    }
    Ok(())
}

/// Writes one map: inside, outside, count.
pub fn write_map(pid: u32, file: &[u8], ranges: impl Iterator<Item = (u32, u32, u32)>) -> Result<(), Errno> {
    let mut lines = Buffer::<4096>::new();
    for (inside, outside, count) in ranges {
        for (number, end) in [(inside, b" "), (outside, b" "), (count, b"\n")] {
            lines.push_number(u64::from(number));
            lines.push(end);
        }
    }
    if lines.overflowed() {
        return Err(Errno::EOVERFLOW);
    }
    write_file(proc_file(pid, file).as_c_str().ok_or(Errno::EINVAL)?, lines.as_slice())
}

pub fn proc_file(pid: u32, name: &[u8]) -> Path {
    let mut path = Path::new();
    path.push(b"/proc/");
    path.push_number(u64::from(pid));
    path.push(b"/");
    path.push(name);
    path
}

/// As many words as a map of 340 lines, the kernel's limit, has.
const MAX_WORDS: usize = 2 + 3 * 340;

struct Helper<'a> {
    program: &'a CStr,
    arguments: Pointers<'a>,
    environment: Pointers<'a>,
    words: Fd,
    errno: Option<Errno>,
}

fn run_helper(program: &CStr, pid: u32, ranges: &List<'_, IdRange<'_>>) -> Result<(), Fault> {
    if ranges.len() > 340 {
        return Err(Errno::EOVERFLOW.into());
    }
    // All numbers as strings, one after the other; then their addresses.
    let mut numbers = Buffer::<{ 12 * MAX_WORDS }>::new();
    let all = core::iter::once(pid).chain(ranges.iter().flat_map(|r| [r.inside, r.outside, r.count]));
    for number in all {
        numbers.push_number(u64::from(number));
        numbers.push(b"\0");
    }
    let mut arguments = Pointers::with_capacity(MAX_WORDS)?;
    arguments.push(program)?;
    let mut rest = numbers.as_slice();
    while !rest.is_empty() {
        let number = CStr::from_bytes_until_nul(rest).map_err(|_| Errno::EINVAL)?;
        arguments.push(number)?;
        rest = &rest[number.count_bytes() + 1..];
    }

    let (words, end) = pipe()?;
    let mut helper = Helper { program, arguments, environment: Pointers::with_capacity(0)?, words: end, errno: None };
    let started = vfork(&mut helper, |helper| {
        let _ = dup3(helper.words, 2, false);
        helper.errno = Some(execve(helper.program, &helper.arguments, &helper.environment));
        exit(127)
    });
    close(end);
    let (_, process) = started.inspect_err(|_| close(words))?;
    if let Some(errno) = helper.errno {
        close(words);
        let _ = wait(process);
        return Err(errno.into());
    }
    let mut said = Buffer::<400>::new();
    let mut bytes = [0; 256];
    while let Ok(n @ 1..) = read(words, &mut bytes) {
        said.push(&bytes[..n]);
    }
    close(words);
    match wait(process)? {
        0 => Ok(()),
        _ => Err(Fault::new(Errno::EPERM, cause::MAP_HELPER, said.as_slice().trim_ascii())),
    }
}

/// Waits for a child of ours that ends by itself.
pub fn wait(process: Fd) -> Result<i32, Errno> {
    loop {
        if let Some((status, _)) = wait_pidfd(process)? {
            close(process);
            return Ok(status);
        }
        let _ = poll(&mut [PollFd { fd: process.0, events: POLLIN, revents: 0 }], None);
    }
}

//! Names the interpreter that a program needs: the one after `#!`, or an ELF file's dynamic linker.
//!
//! execve(2) says ENOENT both for a missing program and for a missing interpreter. Somebody who copied a glibc program
//! into a musl image looks for hours at a file that is plainly there. Safe code over a stranger's bytes; fuzzed.

/// How much of a file's beginning is enough.
pub const ENOUGH: usize = 4096;

/// The interpreter that the file beginning with these bytes needs, if it needs one.
pub fn interpreter(head: &[u8]) -> Option<&[u8]> {
    match head {
        [b'#', b'!', rest @ ..] => script(rest),
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => elf64(head),
        [0x7f, b'E', b'L', b'F', 1, 1, ..] => elf32(head),
        _ => None,
    }
}

fn script(rest: &[u8]) -> Option<&[u8]> {
    let line = rest.split(|&b| b == b'\n').next()?;
    let line = line.trim_ascii_start();
    let end = line.iter().position(|&b| b == b' ' || b == b'\t').unwrap_or(line.len());
    (end > 0).then(|| &line[..end])
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    usize::try_from(bytes.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b))).ok()
}

const PT_INTERP: usize = 3;

fn elf64(head: &[u8]) -> Option<&[u8]> {
    let (table, size, count) = (number(head, 32, 8)?, number(head, 54, 2)?, number(head, 56, 2)?);
    (0..count).find_map(|i| {
        let entry = table.checked_add(i.checked_mul(size)?)?;
        (number(head, entry, 4)? == PT_INTERP).then_some(())?;
        segment(head, number(head, entry.checked_add(8)?, 8)?, number(head, entry.checked_add(32)?, 8)?)
    })
}

fn elf32(head: &[u8]) -> Option<&[u8]> {
    let (table, size, count) = (number(head, 28, 4)?, number(head, 42, 2)?, number(head, 44, 2)?);
    (0..count).find_map(|i| {
        let entry = table.checked_add(i.checked_mul(size)?)?;
        (number(head, entry, 4)? == PT_INTERP).then_some(())?;
        segment(head, number(head, entry.checked_add(4)?, 4)?, number(head, entry.checked_add(16)?, 4)?)
    })
}

fn segment(head: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    let name = head.get(at..at.checked_add(length)?)?;
    name.split(|&b| b == 0).next().filter(|name| !name.is_empty())
}

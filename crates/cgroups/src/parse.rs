//! Readers of the formats that the kernel writes in cgroup files; they take any bytes and never panic.

use std::collections::BTreeSet;

/// A file that holds one number; `None` for `max`, an empty file or anything else.
pub(crate) fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.trim().parse().ok()
}

/// The number after `key` in a "flat keyed" file (`key value` lines).
pub(crate) fn keyed(raw: &[u8], key: &str) -> Option<u64> {
    raw.split(|&b| b == b'\n').find_map(|line| {
        let mut words = line.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty());
        if words.next()? != key.as_bytes() {
            return None;
        }
        number(words.next()?)
    })
}

/// The sum of `key=value` over all lines of a "nested keyed" file, such as `rbytes` over all devices of `io.stat`.
pub(crate) fn nested_sum(raw: &[u8], key: &str) -> u64 {
    raw.split(|b| b.is_ascii_whitespace())
        .filter_map(|word| {
            let (name, value) = word.split_at(word.iter().position(|&b| b == b'=')?);
            (name == key.as_bytes()).then(|| number(&value[1..])).flatten()
        })
        .fold(0, u64::saturating_add)
}

/// The words of a file such as `cgroup.controllers`.
pub(crate) fn words(raw: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(raw).split_whitespace().map(str::to_owned).collect()
}

/// The pids of `cgroup.procs`; 0 stands for a process of another pid namespace.
pub(crate) fn pids(raw: &[u8]) -> Vec<u32> {
    raw.split(|&b| b == b'\n').filter_map(|line| u32::try_from(number(line)?).ok()).collect()
}

/// The largest cpu or node number that a list may name; the kernel's own bound is 8192 cpus.
const LIST_END: u32 = 1 << 16;

/// A list as in cpuset(7): `0-2,7`; also with a stride, `0-31:2/16`, which is refused here since nobody writes it.
pub(crate) fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        // `u32::from_str` takes a sign; the kernel doesn't.
        if !first.bytes().chain(last.bytes()).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > LIST_END {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// A path of mountinfo with its octal escapes (`\040` for a space) undone; see proc_pid_mountinfo(5).
pub(crate) fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'\\')
            .then(|| bytes.get(at + 1..at + 4))
            .flatten()
            .filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)))
            .map(|d| u32::from(d[0] - b'0') * 64 + u32::from(d[1] - b'0') * 8 + u32::from(d[2] - b'0'))
            .and_then(|code| u8::try_from(code).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Bytes that look like the kernel's files in part, for tests which say "never panics".
#[cfg(test)]
pub(crate) fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    const PIECES: [&[u8]; 20] = [
        b"user_usec ",
        b"oom_kill ",
        b"max",
        b"max ",
        b"18446744073709551615",
        b"99999999999999999999",
        b"-1",
        b"\n",
        b" ",
        b"rbytes=",
        b"=",
        b"8:0 rbytes=1 wbytes=18446744073709551615",
        b"0-3",
        b",",
        b"-",
        b" - cgroup2 cgroup2 rw",
        b"0::/",
        b"\\040",
        b"\\7",
        b":",
    ];
    let mut bytes = Vec::new();
    for _ in 0..next() % 24 {
        match next() % 4 {
            0 => bytes.extend((0..next() % 9).map(|_| next() as u8)),
            _ => bytes.extend_from_slice(PIECES[next() as usize % PIECES.len()]),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_give_the_number_of_a_whole_key() {
        let raw = b"low 0\nhigh 1\noom 2\noom_kill 3\noom_group_kill 4\n";
        assert_eq!(keyed(raw, "oom"), Some(2));
        assert_eq!(keyed(raw, "oom_kill"), Some(3));
        assert_eq!(keyed(raw, "oom_"), None);
        assert_eq!(keyed(b"oom_kill", "oom_kill"), None);
        assert_eq!(keyed(b"", ""), None);
    }

    #[test]
    fn io_is_summed_over_devices() {
        let raw = b"8:0 rbytes=10 wbytes=1 rios=1\n8:16 rbytes=5 wbytes=2 rios=1\n";
        assert_eq!((nested_sum(raw, "rbytes"), nested_sum(raw, "wbytes")), (15, 3));
        let full = b"8:0 rbytes=18446744073709551615\n8:1 rbytes=1\n";
        assert_eq!(nested_sum(full, "rbytes"), u64::MAX);
    }

    #[test]
    fn lists_are_those_of_cpuset() {
        let set = |numbers: &[u32]| Some(numbers.iter().copied().collect::<BTreeSet<_>>());
        for (text, expected) in [
            ("0", set(&[0])),
            ("0-2,5\n", set(&[0, 1, 2, 5])),
            ("3-1", None),
            ("", None),
            ("0,", None),
            ("a", None),
            ("+1", None),
            ("0-4294967295", None),
        ] {
            assert_eq!(list(text), expected, "{text:?}");
        }
    }

    #[test]
    fn mountinfo_escapes_are_undone() {
        for (field, expected) in [("/a\\040b", "/a b"), ("/a\\134", "/a\\"), ("/a\\9", "/a\\9"), ("/\\777", "/\\777"), ("\\04", "\\04")] {
            assert_eq!(unescape(field), expected);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic() {
        for seed in 0..20_000 {
            let raw = noise(seed);
            let text = String::from_utf8_lossy(&raw);
            number(&raw);
            keyed(&raw, "oom_kill");
            nested_sum(&raw, "rbytes");
            words(&raw);
            pids(&raw);
            list(&text);
            unescape(&text);
        }
    }
}

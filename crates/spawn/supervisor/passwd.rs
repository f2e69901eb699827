//! Finds a container's user, as the image or `--user` names it, in the container's own /etc/passwd and /etc/group.
//!
//! The files are a stranger's and the first process reads them with its privileges, so this is safe code that is fuzzed: it
//! looks at one line at a time, skips what it can't read, allocates nothing, and takes a number for a number (a passwd
//! entry *named* `0` changes nobody's uid: CVE-2016-3697) and only up to 4294967294 (CVE-2024-40635).

/// The longest line that is looked at; a longer one is skipped.
pub const MAX_LINE: usize = 4096;

/// How many supplementary groups are kept: as many as a process usually needs, and NGROUPS_MAX is 65536.
pub const MAX_GROUPS: usize = 256;

/// A user or a group by name or by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    Id(u32),
    Name(&'a [u8]),
}

/// The words of `--user`: `user`, `user:group`, each a name or a number. Nothing is uid 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserSpec<'a> {
    pub user: Who<'a>,
    pub group: Option<Who<'a>>,
}

/// Reads the words; `None` where they can't be meant seriously (`:`, `1000:`, `-1`, `+0`, ` 0`, 4294967296).
pub fn parse_user(spec: &[u8]) -> Option<UserSpec<'_>> {
    if spec.is_empty() {
        return Some(UserSpec { user: Who::Id(0), group: None });
    }
    let mut parts = spec.splitn(2, |&b| b == b':');
    let user = parse_who(parts.next()?)?;
    let group = match parts.next() {
        Some(group) => Some(parse_who(group)?),
        None => None,
    };
    Some(UserSpec { user, group })
}

fn parse_who(word: &[u8]) -> Option<Who<'_>> {
    match word {
        [] | [b'-' | b'+', ..] => None,
        [b'0'..=b'9', ..] if word.iter().all(u8::is_ascii_digit) => parse_id(word).map(Who::Id),
        _ if word.iter().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || *b == b':' || *b == b'/') => None,
        _ => Some(Who::Name(word)),
    }
}

/// An id; the highest number means "unchanged" to the kernel and is none.
fn parse_id(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    let mut id = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        id = id * 10 + u64::from(digit - b'0');
    }
    u32::try_from(id).ok().filter(|&id| id != u32::MAX)
}

/// One entry of passwd(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passwd<'a> {
    pub name: &'a [u8],
    pub uid: u32,
    pub gid: u32,
    pub home: &'a [u8],
}

/// An entry of passwd(5), if the line is one.
pub fn parse_passwd_line(line: &[u8]) -> Option<Passwd<'_>> {
    let mut fields = line.split(|&b| b == b':');
    let name = fields.next().filter(|name| !name.is_empty() && name[0] != b'#')?;
    let _password = fields.next()?;
    let uid = parse_id(fields.next()?)?;
    let gid = parse_id(fields.next()?)?;
    let _gecos = fields.next()?;
    Some(Passwd { name, uid, gid, home: fields.next().unwrap_or_default() })
}

/// One entry of group(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group<'a> {
    pub name: &'a [u8],
    pub gid: u32,
    pub members: &'a [u8],
}

/// An entry of group(5), if the line is one.
pub fn parse_group_line(line: &[u8]) -> Option<Group<'_>> {
    let mut fields = line.splitn(4, |&b| b == b':');
    let name = fields.next().filter(|name| !name.is_empty() && name[0] != b'#')?;
    let _password = fields.next()?;
    let gid = parse_id(fields.next()?)?;
    Some(Group { name, gid, members: fields.next().unwrap_or_default() })
}

/// Whether a list as group(5) has it names somebody.
pub fn is_member(members: &[u8], name: &[u8]) -> bool {
    members.split(|&b| b == b',').any(|member| member == name)
}

/// Cuts a stream into lines without keeping more than one.
pub struct Lines {
    line: [u8; MAX_LINE],
    used: usize,
    too_long: bool,
}

impl Lines {
    pub const fn new() -> Self {
        Self { line: [0; MAX_LINE], used: 0, too_long: false }
    }

    /// Takes the next bytes of the stream and shows each line that is complete.
    pub fn feed(&mut self, bytes: &[u8], mut show: impl FnMut(&[u8])) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end(&mut show);
            } else if self.used < MAX_LINE {
                self.line[self.used] = byte;
                self.used += 1;
            } else {
                self.too_long = true;
            }
        }
    }

    /// Shows a last line that has no newline.
    pub fn end(&mut self, mut show: impl FnMut(&[u8])) {
        if !self.too_long {
            show(&self.line[..self.used]);
        }
        self.used = 0;
        self.too_long = false;
    }
}

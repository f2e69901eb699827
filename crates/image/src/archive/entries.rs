//! The table of contents of a tar archive that holds images: names, and where their bytes lie.
//!
//! It reads headers alone, in memory bounded by their number. What such archives never hold (devices, sparse files), what leads out of
//! the archive, and what two readers could read in two ways is refused: this table decides which bytes are an image. Layers are
//! another matter; whoever unpacks them reads them.

use super::read_full;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Seek};

/// One block of a tar archive.
const BLOCK: usize = 512;

/// The most entries: `docker save` of hundreds of images has tens of thousands. One costs some hundred bytes here.
const ENTRIES: usize = 200_000;

/// The longest name.
const NAME: usize = 4096;

/// The most bytes of an extended header.
const EXTENDED: u64 = 1 << 20;

/// The most links to follow from a name to a file.
const LINKS: usize = 16;

/// Where a file's bytes lie in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(Section),
    /// Another name in the archive, already followed from the place of the link.
    Link(String),
    Directory,
}

/// The names in an archive.
#[derive(Debug, Default)]
pub(crate) struct Entries(BTreeMap<String, Node>);

/// Why an archive can't be used: a sentence, or what the system said.
#[derive(Debug)]
pub(crate) enum Refusal {
    Malformed(String),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Malformed(why.into()))
}

impl Entries {
    /// Reads all headers of a file.
    pub(crate) fn read(file: impl Read + Seek, length: u64) -> Result<Entries, Refusal> {
        let mut source = BufReader::with_capacity(64 << 10, file);
        let mut entries = Entries::default();
        let (mut offset, mut count) = (0, 0);
        let mut next = Extended::default();
        loop {
            let mut block = [0; BLOCK];
            match read_full(&mut source, &mut block)? {
                // Some writers end without the two empty blocks.
                0 if next.is_empty() && count > 0 => break,
                BLOCK => {}
                0 => return malformed("it ends where an entry should begin"),
                _ => return malformed(format!("it ends in the middle of a header (byte {offset})")),
            }
            let start = offset;
            offset += BLOCK as u64;
            if block.iter().all(|byte| *byte == 0) {
                if !next.is_empty() {
                    return malformed(format!("an extended header belongs to nothing (byte {start})"));
                }
                break;
            }
            check_sum(&block, start)?;
            count += 1;
            if count > ENTRIES {
                return malformed(format!("it has more than {ENTRIES} entries"));
            }
            let kind = block[156];
            let mut size = number(&block[124..136], start)?;
            if matches!(kind, b'x' | b'g' | b'L' | b'K') {
                if size > EXTENDED {
                    return malformed(format!("an extended header of {size} bytes (byte {start})"));
                }
                let mut bytes = vec![0; size as usize];
                if read_full(&mut source, &mut bytes)? != bytes.len() {
                    return malformed(format!("it ends in the middle of an extended header (byte {offset})"));
                }
                let padding = padding(size);
                skip(&mut source, padding)?;
                offset += size + padding;
                match kind {
                    b'x' => next.records(&bytes, start)?,
                    b'L' => next.long_name(&bytes, start)?,
                    b'K' => next.long_link(&bytes, start)?,
                    _ => global(&bytes, start)?,
                }
                continue;
            }
            let extended = std::mem::take(&mut next);
            size = extended.size.unwrap_or(size);
            let written = match extended.path {
                Some(path) => path,
                None => header_name(&block),
            };
            let name = inside(&text(&written, start)?).map_err(|why| Refusal::Malformed(format!("{}: {why}", shown(&written))))?;
            let node = match kind {
                // A name that ends in a slash was a directory before tar had a type for it.
                0 | b'0' | b'7' if written.ends_with(b"/") => Node::Directory,
                0 | b'0' | b'7' => Node::File(Section { offset, length: size }),
                b'5' => Node::Directory,
                b'1' | b'2' => {
                    let target = match extended.link {
                        Some(link) => link,
                        None => until_nul(&block[157..257]).to_vec(),
                    };
                    let target = text(&target, start)?;
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    let base = if kind == b'2' { parent } else { "" };
                    match follow(base, &target) {
                        Ok(target) => Node::Link(target),
                        Err(why) => return malformed(format!("{name} is a link to {target:?}: {why}")),
                    }
                }
                other => {
                    let other = other.escape_ascii();
                    return malformed(format!("{name} is of the type '{other}', which no archive of images has"));
                }
            };
            let data = if matches!(node, Node::File(_)) { size } else { 0 };
            // Nothing lies behind the end of the file, however long an entry claims to be.
            let Some(end) = offset.checked_add(data).filter(|end| *end <= length) else {
                return malformed(format!(
                    "it ends in the middle of {name}: {size} bytes are announced, and {} are there",
                    length - offset
                ));
            };
            match (entries.0.get(&name), &node) {
                (None, _) => drop(entries.0.insert(name, node)),
                (Some(Node::Directory), Node::Directory) => {}
                _ => return malformed(format!("{name} is in it twice")),
            }
            let step = (data + padding(data)).min(length - offset);
            source.seek_relative(i64::try_from(step).map_err(|_| Refusal::Malformed("it's too long".into()))?)?;
            offset = end + (step - data);
        }
        // What stands below a file or a link would be somewhere else for another reader.
        for name in entries.0.keys() {
            for (at, _) in name.match_indices('/') {
                if !matches!(entries.0.get(&name[..at]), None | Some(Node::Directory)) {
                    return malformed(format!("{name} lies below {}, which isn't a directory", &name[..at]));
                }
            }
        }
        Ok(entries)
    }

    /// Where the bytes of a name lie that a document in the archive gave, through links.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Section>, String> {
        let mut name = inside(name)?;
        for _ in 0..=LINKS {
            match self.0.get(&name) {
                None | Some(Node::Directory) => return Ok(None),
                Some(Node::File(section)) => return Ok(Some(*section)),
                Some(Node::Link(target)) => name.clone_from(target),
            }
        }
        Err("it's a link to a link, and so on".into())
    }
}

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    seen: bool,
}

impl Extended {
    fn is_empty(&self) -> bool {
        !self.seen && self.path.is_none() && self.link.is_none()
    }

    fn records(&mut self, bytes: &[u8], at: u64) -> Result<(), Refusal> {
        if self.seen {
            return malformed(format!("two extended headers for one entry (byte {at})"));
        }
        self.seen = true;
        for (key, value) in pax(bytes, at)? {
            match key {
                b"path" if self.path.is_none() => self.path = Some(value.to_vec()),
                b"linkpath" if self.link.is_none() => self.link = Some(value.to_vec()),
                b"path" | b"linkpath" => return malformed(format!("two names for one entry (byte {at})")),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                    let Some(size) = size.and_then(|text| text.parse().ok()) else {
                        return malformed(format!("an extended header with a size that is none (byte {at})"));
                    };
                    self.size = Some(size);
                }
                key if key.starts_with(b"GNU.sparse.") => return malformed(format!("a sparse file (byte {at})")),
                _ => {}
            }
        }
        Ok(())
    }

    fn long_name(&mut self, bytes: &[u8], at: u64) -> Result<(), Refusal> {
        match self.path.replace(until_nul(bytes).to_vec()) {
            None => Ok(()),
            Some(_) => malformed(format!("two names for one entry (byte {at})")),
        }
    }

    fn long_link(&mut self, bytes: &[u8], at: u64) -> Result<(), Refusal> {
        match self.link.replace(until_nul(bytes).to_vec()) {
            None => Ok(()),
            Some(_) => malformed(format!("two link targets for one entry (byte {at})")),
        }
    }
}

/// A header for all entries: comments and times may stand in it, not what would change what the others mean.
fn global(bytes: &[u8], at: u64) -> Result<(), Refusal> {
    for (key, _) in pax(bytes, at)? {
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            return malformed(format!("a global header with {} (byte {at})", key.escape_ascii()));
        }
    }
    Ok(())
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// `LENGTH KEY=VALUE\n`, one after the other.
fn pax(mut bytes: &[u8], at: u64) -> Result<Vec<Record<'_>>, Refusal> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let record = || {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            Some((length, &record[..equals], &record[equals + 1..]))
        };
        let Some((length, key, value)) = record() else {
            return malformed(format!("an extended header that is damaged (byte {at})"));
        };
        records.push((key, value));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// The name in a header: `prefix/name` in the ustar form.
fn header_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { b"" };
    match prefix {
        b"" => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text(bytes: &[u8], at: u64) -> Result<String, Refusal> {
    if bytes.len() > NAME {
        return malformed(format!("a name of {} bytes (byte {at})", bytes.len()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => malformed(format!("a name that isn't text (byte {at})")),
    }
}

fn shown(bytes: &[u8]) -> String {
    crate::error::shortened(&String::from_utf8_lossy(bytes))
}

/// A name, without what means nothing in it.
fn inside(name: &str) -> Result<String, String> {
    if name.starts_with('/') {
        return Err("its path is absolute".into());
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("its path has `..` in it".into());
    }
    Ok(parts.join("/"))
}

/// The name that a link in a directory of the archive leads to.
fn follow(base: &str, target: &str) -> Result<String, String> {
    if target.is_empty() {
        return Err("it leads nowhere".into());
    }
    if target.starts_with('/') {
        return Err("it leads out of the archive".into());
    }
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return Err("it leads out of the archive".into()),
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The sum of a header's bytes, its own field counted as blanks.
fn check_sum(block: &[u8; BLOCK], at: u64) -> Result<(), Refusal> {
    let written = number(&block[148..156], at)?;
    let sum = |sign: fn(u8) -> i64| block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { sign(*b) }).sum::<i64>();
    // Some old programs added signed characters.
    let sums = [sum(i64::from), sum(|byte| i64::from(byte.cast_signed()))];
    match sums.iter().any(|sum| i64::try_from(written) == Ok(*sum)) {
        true => Ok(()),
        false => malformed(format!("it isn't a tar archive, or is damaged (byte {at})")),
    }
}

/// A number of a header: octal digits, or GNU's binary form.
fn number(field: &[u8], at: u64) -> Result<u64, Refusal> {
    let bad = || Refusal::Malformed(format!("it isn't a tar archive, or is damaged (byte {at})"));
    if field[0] & 0x80 != 0 {
        // The first bit says so; a second one would be a sign.
        let value = field[1..]
            .iter()
            .try_fold(u64::from(field[0] & 0x7f), |value, byte| value.checked_mul(256).map(|value| value + u64::from(*byte)));
        return value.filter(|_| field[0] & 0x40 == 0).ok_or_else(bad);
    }
    let digits = std::str::from_utf8(until_nul(field)).map_err(|_| bad())?.trim();
    match digits {
        "" => Ok(0),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => u64::from_str_radix(digits, 8).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn skip(source: &mut impl BufRead, count: u64) -> io::Result<()> {
    io::copy(&mut source.take(count), &mut io::sink()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn read(bytes: &[u8]) -> Result<Entries, String> {
        Entries::read(Cursor::new(bytes), bytes.len() as u64).map_err(|refusal| match refusal {
            Refusal::Malformed(why) => why,
            Refusal::Io(error) => panic!("{error}"),
        })
    }

    /// One entry by hand: what the crate `tar` wouldn't write.
    fn entry(name: &str, kind: u8, link: &str, size: &str, data: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..124 + size.len()].copy_from_slice(size.as_bytes());
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend(data);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn file(name: &str, data: &[u8]) -> Vec<u8> {
        entry(name, b'0', "", &format!("{:o}", data.len()), data)
    }

    #[test]
    fn names_lead_to_bytes_through_links() {
        let archive = [
            entry("./", b'5', "", "0", b""),
            file("./a/layer.tar", b"bytes"),
            entry("b/layer.tar", b'2', "../a/layer.tar", "0", b""),
            entry("c", b'1', "b/layer.tar", "0", b""),
            file("after", b""),
            vec![0; 1024],
        ]
        .concat();
        let entries = read(&archive).unwrap();
        for name in ["a/layer.tar", "./a//layer.tar", "b/layer.tar", "c"] {
            let section = entries.find(name).unwrap().unwrap();
            assert_eq!(&archive[section.offset as usize..][..section.length as usize], b"bytes", "{name}");
        }
        assert_eq!(entries.find("after").unwrap().unwrap().length, 0);
        assert_eq!(entries.find("a").unwrap(), None);
        assert_eq!(entries.find("../a/layer.tar").unwrap_err(), "its path has `..` in it");
        assert_eq!(entries.find("/a/layer.tar").unwrap_err(), "its path is absolute");
    }

    #[test]
    fn what_leads_out_or_could_be_read_in_two_ways_is_refused() {
        let pax = |records: &str| entry("x", b'x', "", &format!("{:o}", records.len()), records.as_bytes());
        let cases: &[(Vec<u8>, &str)] = &[
            (file("/etc/passwd", b""), "/etc/passwd: its path is absolute"),
            (file("a/../../b", b""), "a/../../b: its path has `..` in it"),
            (entry("a/l", b'2', "../../x", "0", b""), "a/l is a link to \"../../x\": it leads out of the archive"),
            (entry("l", b'2', "/etc/passwd", "0", b""), "l is a link to \"/etc/passwd\": it leads out of the archive"),
            (entry("l", b'1', "../x", "0", b""), "l is a link to \"../x\": it leads out of the archive"),
            (entry("l", b'2', "", "0", b""), "l is a link to \"\": it leads nowhere"),
            ([file("a", b"1"), file("a", b"2")].concat(), "a is in it twice"),
            ([file("a", b"1"), file("./a", b"2")].concat(), "a is in it twice"),
            ([entry("a", b'2', "b", "0", b""), file("a/c", b"2")].concat(), "a/c lies below a, which isn't a directory"),
            (entry("null", b'3', "", "0", b""), "null is of the type '3', which no archive of images has"),
            (entry("sparse", b'S', "", "0", b""), "sparse is of the type 'S', which no archive of images has"),
            (
                entry("a", b'0', "", "77777777777", b"short"),
                "it ends in the middle of a: 8589934591 bytes are announced, and 512 are there",
            ),
            (file("a", b"12345")[..700].to_vec(), ""),
            (file("a", b"12345")[..514].to_vec(), "it ends in the middle of a: 5 bytes are announced, and 2 are there"),
            (file("a", b"12345")[..300].to_vec(), "it ends in the middle of a header (byte 0)"),
            (b"".to_vec(), "it ends where an entry should begin"),
            (vec![b'x'; 2048], "it isn't a tar archive, or is damaged (byte 0)"),
            (pax("13 path=a/b\n"), "an extended header that is damaged (byte 0)"),
            (pax("12 path=a/b\n"), "it ends where an entry should begin"),
            ([pax("12 path=a/b\n"), pax("12 path=a/c\n"), file("a", b"")].concat(), "two extended headers for one entry (byte 1024)"),
            ([pax("12 path=../\n"), file("a", b"")].concat(), "../: its path has `..` in it"),
            ([pax("10 size=x\n"), file("a", b"")].concat(), "an extended header with a size that is none (byte 0)"),
            ([entry("g", b'g', "", "14", b"12 path=a/b\n"), file("a", b"")].concat(), "a global header with path (byte 0)"),
            (entry("L", b'L', "", "77777777", b""), "an extended header of 16777215 bytes (byte 0)"),
        ];
        for (archive, why) in cases {
            match read(archive) {
                Ok(_) => assert_eq!(*why, ""),
                Err(found) => assert_eq!(found, *why),
            }
        }
        let circle = [entry("a", b'2', "b", "0", b""), entry("b", b'2', "a", "0", b"")].concat();
        assert_eq!(read(&circle).unwrap().find("a").unwrap_err(), "it's a link to a link, and so on");
    }

    #[test]
    fn an_extended_size_counts_and_hides_nothing() {
        // As in CVE-2025-62518: a header of size 0 whose extended header says 512, with an archive's header as its contents.
        let hidden = file("hidden", b"");
        let archive = [entry("x", b'x', "", "14", b"12 size=512\n"), entry("outer", b'0', "", "0", b""), hidden, file("z", b"")].concat();
        let entries = read(&archive).unwrap();
        assert_eq!(entries.find("outer").unwrap().unwrap().length, 512);
        assert_eq!(entries.find("hidden").unwrap(), None);
        assert!(entries.find("z").unwrap().is_some());
    }

    #[test]
    fn the_crate_tar_writes_what_we_read() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/layer.tar", "d".repeat(150));
        for name in ["short", &long, &"n".repeat(300)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(4);
            builder.append_data(&mut header, name, &b"data"[..]).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let entries = read(&archive).unwrap();
        for name in ["short", &long, &"n".repeat(300)] {
            let section = entries.find(name).unwrap().unwrap();
            assert_eq!(&archive[section.offset as usize..][..section.length as usize], b"data");
        }
    }
}

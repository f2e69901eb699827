//! Files of a container as a tar archive, in and out, as it comes and without a file in between.

use crate::copy::is_a_name;
use crate::tree::{self, Copied, Ending, Entry, Progress, Side};
use coracle_spawn::{FileStat, Opener};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use tar::{EntryType, Header};

/// Directories below each other.
const DEEPEST: usize = 200;

/// Unpacks an archive into a directory of the container, entry by entry. Nothing is followed on the way to an entry: a symlink, of the
/// archive or of the container, is in the way.
pub(crate) fn read(archive: impl Read, to: &mut Side<'_>, directory: &OwnedFd, progress: &mut Progress) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let within = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let parts = parts(&path).map_err(within)?;
        let header = entry.header();
        let like = |kind: u32| -> io::Result<FileStat> {
            let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
            let modified = i64::try_from(header.mtime()?).unwrap_or(0);
            Ok(FileStat::regular(header.mode()?, modified, 0).of_kind(kind).owned(uid, gid))
        };
        let kind = header.entry_type();
        let Some((name, parents)) = parts.split_last() else {
            // The directory itself stays who it is.
            continue;
        };
        match kind {
            EntryType::Directory => {
                let like = like(0o040000).map_err(within)?;
                let at = descend(to, directory, parents).map_err(within)?;
                let (made, new) = to.directory_named(at.as_fd(), name).map_err(within)?;
                if new {
                    to.finish_directory(&made, &like, progress).map_err(within)?;
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let like = like(0o100000).map_err(within)?;
                let at = descend(to, directory, parents).map_err(within)?;
                to.write_file(at.as_fd(), name, &mut entry, &like, progress).map_err(within)?;
            }
            EntryType::Symlink => {
                let like = like(0o120000).map_err(within)?;
                let contents = entry.link_name()?.ok_or(io::ErrorKind::InvalidData).map_err(|e| within(e.into()))?.into_owned();
                let at = descend(to, directory, parents).map_err(within)?;
                to.write_symlink(at.as_fd(), name, contents.as_os_str(), &like, progress).map_err(within)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData).map_err(|e| within(e.into()))?.into_owned();
                let target = self::parts(&target).map_err(within)?;
                let (old, above) = target.split_last().ok_or(io::ErrorKind::InvalidData).map_err(|e| within(e.into()))?;
                let from = descend(to, directory, above).map_err(within)?;
                let at = descend(to, directory, parents).map_err(within)?;
                match to.remove(at.as_fd(), name, false) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(within(error)),
                    _ => {}
                }
                to.link(from.as_fd(), old, at.as_fd(), name).map_err(within)?;
                progress.copied.files += 1;
            }
            EntryType::XGlobalHeader => {}
            _ => progress.skip(path),
        }
    }
    Ok(())
}

fn id(id: u64) -> io::Result<u32> {
    u32::try_from(id).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The parts of an entry's path. One that leads upwards is refused, and an absolute one is taken from here.
fn parts(path: &Path) -> io::Result<Vec<OsString>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if is_a_name(name) => parts.push(name.to_owned()),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the path leads out of the archive")),
        }
    }
    if parts.len() > DEEPEST {
        return Err(io::Error::other(format!("more than {DEEPEST} directories below each other")));
    }
    Ok(parts)
}

/// The directory with these names below another. Those that the archive doesn't name are made.
fn descend(side: &mut Side<'_>, directory: &OwnedFd, names: &[OsString]) -> io::Result<OwnedFd> {
    let mut at = directory.try_clone()?;
    for name in names {
        let entry = match side.named(at.as_fd(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match side.make_directory(at.as_fd(), name, 0o755) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                side.named(at.as_fd(), name)?
            }
            found => found?,
        };
        if !entry.is_directory() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is in the way", name.display())));
        }
        at = side.directory(&entry)?;
    }
    Ok(at)
}

/// Writes what is at a path of the container as an archive.
pub(crate) fn write(opener: &mut Opener, path: &OsStr, follow: bool, archive: impl Write, mut progress: Progress) -> io::Result<Copied> {
    let mut side = Side::Inside(opener);
    let (front, how) = tree::ending(path);
    let entry = side.at_path(front, follow || how != Ending::Plain)?;
    if !entry.is_directory() && how != Ending::Plain {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    // As docker-cp(1) names them: `dir/.` begins with `./`.
    let name = match tree::parent_and_name(front) {
        Some((_, name)) if how != Ending::Contents => PathBuf::from(name),
        _ => PathBuf::from("."),
    };
    let mut builder = tar::Builder::new(archive);
    add(&mut side, &entry, &mut builder, &name, 0, &mut progress)?;
    builder.into_inner()?.flush()?;
    Ok(progress.copied)
}

fn add(
    side: &mut Side<'_>,
    entry: &Entry,
    archive: &mut tar::Builder<impl Write>,
    path: &Path,
    depth: usize,
    progress: &mut Progress,
) -> io::Result<()> {
    let within = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if entry.is_directory() {
        if depth >= DEEPEST {
            return Err(within(io::Error::other(format!("more than {DEEPEST} directories below each other"))));
        }
        let mut header = header(&entry.stat, EntryType::Directory, 0);
        archive.append_data(&mut header, path.join(""), io::empty()).map_err(within)?;
        progress.copied.directories += 1;
        let directory = side.directory(entry).map_err(within)?;
        tree::for_each_name(&directory, |name| match side.named(directory.as_fd(), name) {
            Ok(found) => add(side, &found, archive, &path.join(name), depth + 1, progress),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(within(error)),
        })
    } else if entry.is_file() {
        let (file, stat) = side.read(entry).map_err(within)?;
        progress.spend(stat.size).map_err(within)?;
        let mut header = header(&stat, EntryType::Regular, stat.size);
        // As many bytes as the header says, though the file be cut off or grow meanwhile.
        let contents = io::BufReader::with_capacity(64 << 10, file).chain(io::repeat(0)).take(stat.size);
        archive.append_data(&mut header, path, Checked { contents, progress }).map_err(within)?;
        progress.copied.files += 1;
        Ok(())
    } else if entry.is_symlink() {
        let mut header = header(&entry.stat, EntryType::Symlink, 0);
        archive.append_link(&mut header, path, entry.link().map_err(within)?).map_err(within)?;
        progress.copied.symlinks += 1;
        Ok(())
    } else {
        progress.skip(path.to_owned());
        Ok(())
    }
}

/// Reads as long as somebody wants it.
struct Checked<'a, R> {
    contents: R,
    progress: &'a mut Progress,
}

impl<R: Read> Read for Checked<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.progress.spend(0)?;
        self.contents.read(into)
    }
}

fn header(stat: &FileStat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.mode & 0o7777);
    header.set_uid(stat.uid.into());
    header.set_gid(stat.gid.into());
    header.set_mtime(u64::try_from(stat.seconds).unwrap_or(0));
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_an_archive_stays_below_its_directory() {
        let check = |path: &str, expected: Option<&[&str]>| {
            let parts = parts(Path::new(path)).ok();
            assert_eq!(parts, expected.map(|names| names.iter().map(OsString::from).collect::<Vec<_>>()), "{path}");
        };
        check("a/b", Some(&["a", "b"]));
        check("./a/./b/", Some(&["a", "b"]));
        check("/a", Some(&["a"]));
        check("./", Some(&[]));
        check("..", None);
        check("a/../b", None);
        check("../../etc/passwd", None);
    }
}

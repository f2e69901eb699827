//! `coracle commit`, `diff` and `export`: what a container changed, and all that it sees.

use crate::arguments::{Commit, Compress, Diff, Export};
use crate::detached::attach;
use crate::failure::Failure;
use crate::table::print;
use coracle_container::{ChangeKind, Compression, Container};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// A container by its id or the beginning of it.
pub(crate) fn find(root: Option<PathBuf>, id: &str) -> Result<Container, Failure> {
    let engine = crate::engine(root).map_err(|error| Failure::from(error).code(1))?;
    attach(&engine, id).map_err(|failure| failure.code(1))
}

pub(crate) fn commit(root: Option<PathBuf>, arguments: Commit) -> Result<u8, Failure> {
    let container = find(root, &arguments.container)?;
    let reference = arguments.reference.unwrap_or_else(|| format!("localhost/commit:{}", container.id()));
    let mut commit = container.commit(reference).pause(arguments.pause.unwrap_or(true)).compression(match arguments.compression {
        Compress::Gzip => Compression::Gzip,
        Compress::Zstd => Compression::Zstd,
        Compress::None => Compression::None,
    });
    commit = arguments.change.into_iter().fold(commit, |commit, change| commit.change(change));
    if let Some(author) = arguments.author {
        commit = commit.author(author);
    }
    if let Some(message) = arguments.message {
        commit = commit.message(message);
    }
    if let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|epoch| !epoch.is_empty()) {
        let seconds = epoch.to_str().and_then(|epoch| epoch.parse().ok());
        let seconds = seconds.ok_or_else(|| Failure::new(format!("SOURCE_DATE_EPOCH={epoch:?} isn't a number of seconds")).code(1))?;
        commit = commit.epoch(UNIX_EPOCH + Duration::from_secs(seconds));
    }
    let image = crate::block_on(async { commit.await.map_err(|error| Failure::from(error).code(1)) })?;
    print(&format!("{}\n", image.id))?;
    Ok(0)
}

pub(crate) fn diff(root: Option<PathBuf>, arguments: &Diff) -> Result<u8, Failure> {
    let container = find(root, &arguments.container)?;
    let changes = crate::block_on(async { container.diff().await.map_err(|error| Failure::from(error).code(1)) })?;
    let mut lines = Vec::new();
    for change in changes {
        let letter = match change.kind {
            ChangeKind::Added => "A",
            ChangeKind::Changed => "C",
            _ => "D",
        };
        lines.extend_from_slice(letter.as_bytes());
        lines.push(b' ');
        // As it is: whoever reads it by a program wants the name, and a terminal gets no control character.
        let path = change.path.as_os_str().as_encoded_bytes();
        if io::stdout().is_terminal() {
            lines.extend_from_slice(crate::table::plain(&String::from_utf8_lossy(path)).as_bytes());
        } else {
            lines.extend_from_slice(path);
        }
        lines.push(b'\n');
    }
    match io::stdout().write_all(&lines) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to standard output: {error}")).code(1))
        }
        _ => Ok(0),
    }
}

pub(crate) fn export(root: Option<PathBuf>, arguments: Export) -> Result<u8, Failure> {
    if arguments.output.is_none() && io::stdout().is_terminal() {
        return Err(Failure::new("an archive isn't for a terminal: use -o FILE, or redirect standard output".into()).code(1));
    }
    let container = find(root, &arguments.container)?;
    let Some(path) = arguments.output else {
        let to = io::BufWriter::with_capacity(128 << 10, io::stdout());
        crate::block_on(async { container.export_to(to).await.map_err(|error| Failure::from(error).code(1)) })?;
        return Ok(0);
    };
    let failed = |path: &Path, error: io::Error| Failure::new(format!("can't write {}: {error}", path.display())).code(1);
    // It appears when it's whole; what isn't a file is written to.
    let whole = fs::metadata(&path).is_ok_and(|found| !found.is_file());
    let mut name = path.clone().into_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = if whole { path.clone() } else { PathBuf::from(name) };
    let file = match whole {
        true => fs::OpenOptions::new().write(true).open(&part),
        false => File::create(&part),
    };
    let file = io::BufWriter::with_capacity(128 << 10, file.map_err(|error| failed(&part, error))?);
    let written = crate::block_on(async { container.export_to(file).await.map_err(|error| Failure::from(error).code(1)) });
    if whole {
        return written.map(|()| 0);
    }
    let done = written.and_then(|()| fs::rename(&part, &path).map_err(|error| failed(&path, error)));
    if done.is_err() {
        let _ = fs::remove_file(&part);
    }
    done.map(|()| 0)
}

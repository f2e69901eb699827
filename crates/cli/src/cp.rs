//! `coracle cp`: files into and out of detached containers, as docker-cp(1).

use crate::arguments::Copy;
use crate::detached::attach;
use crate::failure::{Failure, Fault};
use coracle_container::{CopyIn, CopyOut};
use std::ffi::{OsStr, OsString};
use std::io::{stdin, stdout};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Where something is copied from or to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Here(OsString),
    /// Standard input or output, as a tar archive.
    Stream,
    Container {
        id: String,
        path: OsString,
    },
}

/// docker-cp(1)'s words: a colon stands behind a container, unless the word begins as a path does.
fn end(word: &OsStr) -> End {
    let bytes = word.as_bytes();
    if bytes == b"-" {
        return End::Stream;
    }
    match bytes.iter().position(|&b| b == b':') {
        Some(colon) if !bytes.starts_with(b"/") && !bytes.starts_with(b".") => {
            let id = String::from_utf8_lossy(&bytes[..colon]).into_owned();
            // Relative to the container's root.
            let path = if bytes.get(colon + 1) == Some(&b'/') { Vec::new() } else { b"/".to_vec() };
            End::Container { id, path: OsString::from_vec([&path, &bytes[colon + 1..]].concat()) }
        }
        _ => End::Here(word.to_owned()),
    }
}

pub(crate) fn run(root: Option<PathBuf>, arguments: &Copy) -> Result<u8, Failure> {
    let wrong = |what: &str, fix: &str| Failure::from(vec![Fault::new(what, fix)]).code(1);
    let engine = || crate::engine(root.clone()).map_err(|error| Failure::from(error).code(1));
    let copied = match (end(&arguments.source), end(&arguments.target)) {
        (End::Container { id, path }, to) => {
            let what = CopyOut::path(path).archive(arguments.archive).follow_link(arguments.follow_link);
            let engine = match &to {
                End::Container { .. } => {
                    return Err(wrong("a file is copied from one container to another", "copy it to a file of this machine between"));
                }
                _ => engine()?,
            };
            let container = attach(&engine, &id).map_err(|failure| failure.code(1))?;
            crate::block_on(async {
                Ok(match to {
                    End::Here(target) => container.copy_from(what, target).await?,
                    _ => container.copy_from_tar(what, stdout()).await?,
                })
            })
        }
        (from, End::Container { id, path }) => {
            let what = match from {
                End::Here(source) => CopyIn::path(source),
                _ => CopyIn::tar(stdin()),
            };
            let what = what.archive(arguments.archive).follow_link(arguments.follow_link).parents(false);
            let engine = engine()?;
            let container = attach(&engine, &id).map_err(|failure| failure.code(1))?;
            crate::block_on(async { Ok(container.copy_to(what, path).await?) })
        }
        _ => return Err(wrong("neither SOURCE nor TARGET is in a container", "name one: CONTAINER:PATH")),
    };
    let copied = copied.map_err(|failure| failure.code(1))?;
    if !arguments.quiet {
        for path in &copied.skipped {
            eprintln!("warning: {} is a device, a FIFO or a socket, and wasn't copied", path.display());
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_stands_behind_a_container() {
        let check = |word: &str, expected: End| assert_eq!(end(OsStr::new(word)), expected, "{word}");
        let container = |id: &str, path: &str| End::Container { id: id.into(), path: path.into() };
        check("1f0c:/etc/passwd", container("1f0c", "/etc/passwd"));
        check("1f0c:etc/.", container("1f0c", "/etc/."));
        check("1f0c:", container("1f0c", "/"));
        check("1f0c:/a:b", container("1f0c", "/a:b"));
        check("file", End::Here("file".into()));
        check("./a:b", End::Here("./a:b".into()));
        check("/a:b", End::Here("/a:b".into()));
        check("-", End::Stream);
    }
}

//! Variables from the command line and from files, as docker-run(1) takes them.

use crate::failure::Fault;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A variable: none where its name stands alone and this environment hasn't got it.
type Variable = Option<(OsString, OsString)>;

/// Reads `KEY=VALUE`, or `KEY`, whose value is `outer`'s.
fn variable(word: &OsStr, outer: impl Fn(&OsStr) -> Option<OsString>) -> Result<Variable, Fault> {
    let bytes = word.as_bytes();
    let (key, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
        None => (word, outer(word)),
    };
    if key.is_empty() {
        return Err(Fault::new(format!("--env {word:?} names no variable"), "write KEY=VALUE, or KEY to take its value from here"));
    }
    Ok(value.map(|value| (key.to_owned(), value)))
}

/// Reads a file of them. Values are taken as they are, quotes and blanks at the end included.
fn file(path: &Path, outer: impl Fn(&OsStr) -> Option<OsString>) -> Result<Vec<(OsString, OsString)>, Vec<Fault>> {
    let contents = std::fs::read(path).map_err(|error| {
        let what = format!("can't read {}: {error}", path.display());
        vec![Fault { what, fixes: vec!["--env-file takes a file with KEY=VALUE, one a line".into()] }]
    })?;
    lines(&contents, path, outer)
}

fn lines(contents: &[u8], path: &Path, outer: impl Fn(&OsStr) -> Option<OsString>) -> Result<Vec<(OsString, OsString)>, Vec<Fault>> {
    let (mut variables, mut faults) = (Vec::new(), Vec::new());
    let contents = contents.strip_prefix("\u{feff}".as_bytes()).unwrap_or(contents);
    for (number, line) in contents.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let key = line.split(|b| *b == b'=').next().unwrap_or_default();
        if key.is_empty() || key.iter().any(u8::is_ascii_whitespace) {
            let text = String::from_utf8_lossy(line);
            faults.push(Fault::new(
                format!("{}, line {}: {text:?} names no variable", path.display(), number + 1),
                "write KEY=VALUE, without blanks in KEY and without `export`",
            ));
            continue;
        }
        match variable(&OsString::from_vec(line.to_vec()), &outer) {
            Ok(variable) => variables.extend(variable),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(variables) } else { Err(faults) }
}

/// All that `--env-file` and `--env` say, in Docker's order: the files, then the words.
pub(crate) fn variables(
    files: &[PathBuf],
    words: &[OsString],
    outer: impl Fn(&OsStr) -> Option<OsString>,
    faults: &mut Vec<Fault>,
) -> Vec<(OsString, OsString)> {
    let mut variables = Vec::new();
    for path in files {
        match file(path, &outer) {
            Ok(read) => variables.extend(read),
            Err(wrong) => faults.extend(wrong),
        }
    }
    for word in words {
        match variable(word, &outer) {
            Ok(read) => variables.extend(read),
            Err(fault) => faults.push(fault),
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outer(key: &OsStr) -> Option<OsString> {
        (key == "HERE").then(|| "from here".into())
    }

    fn pair(key: &str, value: &str) -> (OsString, OsString) {
        (key.into(), value.into())
    }

    #[test]
    fn a_name_alone_takes_its_value_from_here() {
        let read = |word: &str| variable(OsStr::new(word), outer);
        assert_eq!(read("A=1"), Ok(Some(pair("A", "1"))));
        assert_eq!(read("A=1=2"), Ok(Some(pair("A", "1=2"))));
        assert_eq!(read("A="), Ok(Some(pair("A", ""))));
        assert_eq!(read("HERE"), Ok(Some(pair("HERE", "from here"))));
        assert_eq!(read("NOT_HERE"), Ok(None));
        assert!(read("=1").is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn a_file_is_read_as_docker_reads_it() {
        let text = "\u{feff}# a comment\n\nA=1\r\n  B=\"two words\" \nHERE\nNOT_HERE\nC=#no comment\n";
        let read = lines(text.as_bytes(), Path::new("f"), outer);
        assert_eq!(read, Ok(vec![pair("A", "1"), pair("B", "\"two words\" "), pair("HERE", "from here"), pair("C", "#no comment")]));
    }

    #[test]
    fn every_bad_line_of_a_file_is_named() {
        let faults = lines(b"A=1\nexport B=2\n=3\n", Path::new("f"), outer).unwrap_err();
        let what: Vec<_> = faults.iter().map(|f| f.what.as_str()).collect();
        assert_eq!(what, ["f, line 2: \"export B=2\" names no variable", "f, line 3: \"=3\" names no variable"]);
    }
}

//! The names of images, by Docker's rules: `debian`, `postgres:16`, `localhost:5000/team/app@sha256:…`.
//!
//! The grammar is that of the distribution project's package `reference`; what is left out means `docker.io`, `library/` and the
//! tag `latest`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::shortened;

/// The name of an image in a registry: registry, repository, and a tag or a digest.
///
/// It prints in full, so that a message shows where the image would come from; [`familiar`](Reference::familiar) is the short form.
///
/// ```
/// use coracle_image::Reference;
///
/// let reference: Reference = "debian".parse()?;
/// assert_eq!(reference.to_string(), "docker.io/library/debian:latest");
/// assert_eq!(reference.familiar(), "debian:latest");
///
/// let reference: Reference = "localhost:5000/debian:12".parse()?;
/// assert_eq!((reference.registry(), reference.repository(), reference.tag()), ("localhost:5000", "debian", Some("12")));
/// # Ok::<(), coracle_image::ParseReferenceError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port where one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. Without a digest there always is one; beside a digest it says nothing about which image is meant.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was given. It decides.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, at a digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The form that people write: without `docker.io/` and `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => full,
        }
    }

    /// Whether the registry is this machine: `localhost`, 127.0.0.0/8 or `[::1]`. Such registries are spoken to by plain HTTP, as
    /// Docker does.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }
}

/// Whether a host with an optional port is this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Reference, ParseReferenceError> {
        parse(text).map_err(|(why, remedy)| ParseReferenceError { text: shortened(text), why, remedy })
    }
}

/// Why a text isn't a [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} isn't the name of an image: {why}")]
pub struct ParseReferenceError {
    text: String,
    why: String,
    remedy: Option<String>,
}

impl ParseReferenceError {
    /// What to write instead, where it can be guessed.
    pub fn remedy(&self) -> Option<String> {
        self.remedy.clone()
    }
}

type Failure = (String, Option<String>);

fn parse(text: &str) -> Result<Reference, Failure> {
    let fail = |why: &str| -> Failure { (why.to_owned(), None) };
    if text.is_empty() {
        return Err(fail("it is empty"));
    }
    if let Some(scheme) = ["docker://", "https://", "http://"].iter().find(|s| text.starts_with(*s)) {
        return Err((format!("it begins with `{scheme}`"), Some(format!("write {:?}", &text[scheme.len()..]))));
    }

    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|e| (e.to_string(), None))?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let after_slash = name.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match name[after_slash..].rfind(':') {
        Some(colon) => (&name[..after_slash + colon], Some(&name[after_slash + colon + 1..])),
        None => (name, None),
    };
    if let Some(tag) = tag {
        check_tag(tag).map_err(|why| (why, None))?;
    }

    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => ("docker.io", name),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    check_host(registry).map_err(|why| (why, None))?;
    check_path(path).map_err(|why| {
        let lower = text.replacen(path, &path.to_lowercase(), 1);
        let remedy = (lower != text && parse(&lower).is_ok()).then(|| format!("write {lower:?}"));
        (why, remedy)
    })?;
    if registry == "docker.io" && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(fail("64 hexadecimal digits are an image's id, not its name"));
    }

    let repository = match registry == "docker.io" && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    if registry.len() + 1 + repository.len() > 255 {
        return Err(fail("a name with its registry has at most 255 characters"));
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some("latest".to_owned()),
        (None, Some(_)) => None,
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// Whether the first part of a name is a registry, and no part of a repository.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':', '[']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

/// A name that says no registry, cut before its tag and its digest; none of one that says it.
#[cfg(feature = "registry")]
pub(crate) fn short_name(text: &str) -> Option<(&str, &str)> {
    if text.split_once('/').is_some_and(|(first, _)| is_host(first)) {
        return None;
    }
    Some(text.split_at(text.find([':', '@']).unwrap_or(text.len())))
}

/// Whether a text can be a tag.
#[cfg(feature = "registry")]
pub(crate) fn is_tag(text: &str) -> bool {
    check_tag(text).is_ok()
}

/// `[\w][\w.-]{0,127}`
fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.as_bytes() {
        [] => Err("the tag after the `:` is empty".to_owned()),
        bytes if bytes.len() > 128 => Err("a tag has at most 128 characters".to_owned()),
        [first, rest @ ..] if word(*first) && rest.iter().all(|&b| word(b) || b == b'.' || b == b'-') => Ok(()),
        _ => Err(format!("the tag {:?} has a character that no tag may have", shortened(tag))),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let bad = || format!("{:?} isn't a host with an optional port", shortened(host));
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(bad)?;
            address.parse::<Ipv6Addr>().map_err(|_| bad())?;
            (None, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(bad)?) })
        }
        None => match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        },
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit()) || p.parse::<u16>().is_err()) {
        return Err(bad());
    }
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !l.starts_with('-') && !l.ends_with('-');
    match name {
        Some(name) if !name.split('.').all(label) => Err(bad()),
        _ => Ok(()),
    }
}

/// Components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes.
fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("it has no repository".to_owned());
    }
    for part in path.split('/') {
        let shown = || shortened(part);
        if part.is_empty() {
            return Err("it has an empty part between two slashes".to_owned());
        }
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("{:?} must be lower case", shown()));
        }
        if !part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)) {
            return Err(format!("{:?} has a character that no name may have", shown()));
        }
        let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
        let fine = |s: &str| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-');
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        if !separators.into_iter().all(fine) || !ends(part.as_bytes().first()) || !ends(part.as_bytes().last()) {
            return Err(format!("in {:?} letters and digits may be separated by one of . _ __ -", shown()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_means_what_docker_means() {
        let cases = [
            ("debian", "docker.io/library/debian:latest"),
            ("postgres:16", "docker.io/library/postgres:16"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/library/debian:12", "docker.io/library/debian:12"),
            ("localhost/debian", "localhost/debian:latest"),
            ("localhost:5000/debian:12", "localhost:5000/debian:12"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("ghcr.io/a/b:v1.2-rc_3", "ghcr.io/a/b:v1.2-rc_3"),
            ("Host/x", "Host/x:latest"),
            // No slash: a tag, not a port.
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("a/b__c/d-----e/f.g", "docker.io/a/b__c/d-----e/f.g:latest"),
        ];
        for (text, full) in cases {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn a_digest_decides_and_a_tag_beside_it_is_kept() {
        let reference: Reference = format!("host.example/x@{D}").parse().unwrap();
        assert_eq!((reference.tag(), reference.digest().unwrap().to_string().as_str()), (None, D));
        let text = format!("docker.io/library/x:1@{D}");
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let long = format!("a/{}", "b".repeat(255));
        let id = "a".repeat(64);
        let cases = [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:b:c",
            "a@",
            "a@sha256:1",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a b",
            "a\n",
            "a/../b",
            "host:99999/a",
            "host:/a",
            "[::1/a",
            "[zz]:1/a",
            "-h.example/a",
            "h..example/a",
            "ä",
            "https://a.example/b",
            "a:.b",
            &long,
            &id,
        ];
        for text in cases {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_upper_case_name_is_answered_with_the_right_one() {
        let error = "Debian:12".parse::<Reference>().unwrap_err();
        assert_eq!(error.to_string(), "\"Debian:12\" isn't the name of an image: \"Debian\" must be lower case");
        assert_eq!(error.remedy().as_deref(), Some("write \"debian:12\""));
        let error = "docker://debian:12".parse::<Reference>().unwrap_err();
        assert_eq!(error.to_string(), "\"docker://debian:12\" isn't the name of an image: it begins with `docker://`");
        assert_eq!(error.remedy().as_deref(), Some("write \"debian:12\""));
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let yes = ["localhost/a", "localhost:5000/a", "127.0.0.1:1/a", "127.3.2.1/a", "[::1]:80/a", "[::1]/a"];
        let no = ["debian", "localhost.example/a", "128.0.0.1/a", "[::2]/a", "127.0.0.1.example/a"];
        assert!(yes.iter().all(|t| t.parse::<Reference>().unwrap().is_loopback()));
        assert!(!no.iter().any(|t| t.parse::<Reference>().unwrap().is_loopback()));
    }
}

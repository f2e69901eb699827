//! `registries.conf` of Podman, Buildah and Skopeo, version 2: mirrors, other locations, blocked registries
//! (containers-registries.conf(5)).
//!
//! What isn't used: short names (`unqualified-search-registries`, aliases). A name without a registry means Docker's, everywhere.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What the files say, together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RegistriesConf {
    entries: Vec<Entry>,
}

/// What is said of all names with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    prefix: String,
    /// What stands for the prefix; none after `*.`, where the name stays as it is.
    location: Option<String>,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    mirrors: Vec<Mirror>,
    pub(super) file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    serves: Serves,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    All,
    Digests,
    Tags,
}

/// A place where a name may be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// Host, with its port where there is one.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) insecure: bool,
    /// Whether it may be asked what a tag means.
    pub(super) tags: bool,
    /// Whether it may be asked for what has a digest.
    pub(super) digests: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    #[serde(default)]
    registry: Vec<RawEntry>,
    /// Version 1.
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawEntry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<RawMirror>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

/// Says on which line of a TOML text something is wrong.
pub(super) fn describe(text: &str, error: &toml::de::Error) -> String {
    let message = crate::error::shortened(error.message());
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

impl RegistriesConf {
    /// Adds what a file says. What it says of a prefix takes the place of what was said before.
    pub(super) fn add(&mut self, file: &Path, text: &str) -> Result<(), String> {
        let raw: Raw = toml::from_str(text).map_err(|e| describe(text, &e))?;
        if raw.registries.is_some() {
            return Err("it is of version 1, which has been out of use since 2019: write `[[registry]]` tables".into());
        }
        for raw in raw.registry {
            let entry = raw.entry(file)?;
            self.entries.retain(|before| before.prefix != entry.prefix);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// What is said of a name: by the longest prefix that it has.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let name = format!("{registry}/{repository}");
        self.entries.iter().filter(|entry| entry.matches(&name)).max_by_key(|entry| entry.prefix.len())
    }
}

impl RawEntry {
    fn entry(self, file: &Path) -> Result<Entry, String> {
        let trim = |text: &str| text.trim_end_matches('/').to_owned();
        let (prefix, location) = match (trim(&self.prefix), trim(&self.location)) {
            (prefix, location) if prefix.is_empty() && location.is_empty() => {
                return Err("a registry has neither a `prefix` nor a `location`".into());
            }
            (prefix, location) if prefix.is_empty() => (location.clone(), Some(location)),
            (prefix, location) if prefix.starts_with("*.") => {
                if prefix.contains('/') {
                    return Err(format!("the prefix {prefix:?} has a path behind its `*.`"));
                }
                (prefix, (!location.is_empty()).then_some(location))
            }
            (prefix, location) if location.is_empty() => (prefix.clone(), Some(prefix)),
            (prefix, location) => (prefix, Some(location)),
        };
        for text in [Some(&prefix), location.as_ref()].into_iter().flatten() {
            if text.contains("://") {
                return Err(format!("{text:?} has a scheme; write host[:port][/path]"));
            }
        }
        let mirror = |raw: RawMirror| {
            let serves = match raw.pull_from_mirror.as_str() {
                _ if self.mirror_by_digest_only && !raw.pull_from_mirror.is_empty() => {
                    return Err("`pull-from-mirror` and `mirror-by-digest-only` exclude each other".into());
                }
                "" | "all" if !self.mirror_by_digest_only => Serves::All,
                "" | "digest-only" => Serves::Digests,
                "tag-only" => Serves::Tags,
                other => return Err(format!("pull-from-mirror = {other:?} is none of all, digest-only and tag-only")),
            };
            match raw.location.trim_end_matches('/') {
                "" => Err("a mirror has no `location`".to_owned()),
                text if text.contains("://") => Err(format!("{text:?} has a scheme; write host[:port][/path]")),
                location => Ok(Mirror { location: location.to_owned(), insecure: raw.insecure, serves }),
            }
        };
        let mirrors = self.mirror.into_iter().map(mirror).collect::<Result<_, _>>()?;
        Ok(Entry { prefix, location, insecure: self.insecure, blocked: self.blocked, mirrors, file: file.to_owned() })
    }
}

impl Entry {
    fn matches(&self, name: &str) -> bool {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            let host = host.split(':').next().unwrap_or_default();
            return host.len() > domain.len() && host.ends_with(domain);
        }
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The mirrors in their order, then the location itself.
    pub(super) fn locations(&self, registry: &str, repository: &str) -> (Vec<Location>, Location) {
        let name = format!("{registry}/{repository}");
        // Behind `*.` the whole host is the prefix.
        let length = if self.prefix.starts_with('*') { registry.len() } else { self.prefix.len() };
        let rest = name.get(length..).unwrap_or_default();
        let place = |location: &str, insecure: bool, serves: Serves| {
            let full = format!("{location}{rest}");
            let (registry, repository) = full.split_once('/').unwrap_or((&full, ""));
            Location {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                insecure,
                tags: serves != Serves::Digests,
                digests: serves != Serves::Tags,
            }
        };
        let mirrors = self.mirrors.iter().map(|m| place(&m.location, m.insecure, m.serves)).collect();
        let own = match &self.location {
            Some(location) => place(location, self.insecure, Serves::All),
            None => place(registry, self.insecure, Serves::All),
        };
        (mirrors, own)
    }
}

/// The files that Podman reads: one of the user's or the machine's, and the drop-ins beside it, the later ones stronger.
pub(super) fn default_files(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = env("HOME").map(|home| home.join(".config/containers"));
    let main = env("CONTAINERS_REGISTRIES_CONF")
        .or_else(|| home.as_ref().map(|dir| dir.join("registries.conf")).filter(|file| file.exists()))
        .unwrap_or_else(|| "/etc/containers/registries.conf".into());
    let mut files = vec![main];
    files.push("/etc/containers/registries.conf.d".into());
    files.extend(home.map(|dir| dir.join("registries.conf.d")));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        conf.add(Path::new("/conf"), text).unwrap();
        conf
    }

    fn shown(conf: &RegistriesConf, registry: &str, repository: &str) -> String {
        let Some(entry) = conf.find(registry, repository) else {
            return "-".into();
        };
        let (mirrors, own) = entry.locations(registry, repository);
        let one = |l: &Location| {
            let serves = match (l.tags, l.digests) {
                (true, true) => "",
                (true, false) => " tags",
                _ => " digests",
            };
            format!("{}/{}{}{serves}", l.registry, l.repository, if l.insecure { " insecure" } else { "" })
        };
        mirrors.iter().chain([&own]).map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn names_are_rewritten_as_containers_registries_conf_says() {
        let conf = conf(
            r#"
            unqualified-search-registries = ["docker.io"]
            short-name-mode = "enforcing"
            [[registry]]
            prefix = "example.com/foo"
            location = "internal.example/bar"
            insecure = true
            [[registry.mirror]]
            location = "m1.example:5000/mirror"
            [[registry.mirror]]
            location = "m2.example"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "m3.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "example.com"
            mirror-by-digest-only = true
            mirror = [{ location = "m4.example" }]
            [[registry]]
            prefix = "*.wild.example"
            mirror = [{ location = "m5.example/w" }]
            [[registry]]
            prefix = "*.deep.wild.example"
            location = "one.example/all"
            [aliases]
            "fedora" = "registry.fedoraproject.org/fedora"
            "#,
        );
        let cases = [
            (
                "example.com",
                "foo/image",
                "m1.example:5000/mirror/image, m2.example/image insecure digests, m3.example/image tags, internal.example/bar/image insecure",
            ),
            ("example.com", "food", "m4.example/food digests, example.com/food"),
            ("a.wild.example", "x", "m5.example/w/x, a.wild.example/x"),
            ("a.wild.example:5000", "x", "m5.example/w/x, a.wild.example:5000/x"),
            ("a.deep.wild.example", "x", "one.example/all/x"),
            ("wild.example", "x", "-"),
            ("example.com.evil.example", "foo", "-"),
            ("docker.io", "library/debian", "-"),
        ];
        for (registry, repository, expected) in cases {
            assert_eq!(shown(&conf, registry, repository), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn a_later_file_is_stronger() {
        let mut conf = conf("[[registry]]\nlocation = \"a.example\"\nblocked = true\n[[registry]]\nlocation = \"b.example\"");
        assert!(conf.find("a.example", "x").unwrap().blocked);
        conf.add(Path::new("/later"), "[[registry]]\nlocation = \"a.example\"").unwrap();
        let entry = conf.find("a.example", "x").unwrap();
        assert!(!entry.blocked && entry.file == Path::new("/later"));
        assert!(conf.find("b.example", "x").is_some());
    }

    #[test]
    fn what_cannot_be_used_is_said_with_its_line() {
        let cases = [
            ("\n[[registry]\n", "line 2: "),
            ("[[registry]]\nlocation = 5", "line 2: invalid type: integer `5`, expected a string"),
            ("[registries.search]\nregistries = []", "it is of version 1"),
            ("[[registry]]", "a registry has neither"),
            ("[[registry]]\nlocation = \"https://a.example\"", "\"https://a.example\" has a scheme"),
            ("[[registry]]\nprefix = \"*.a.example/x\"", "the prefix \"*.a.example/x\" has a path"),
            ("[[registry]]\nlocation = \"a.example\"\nmirror = [{ location = \"\" }]", "a mirror has no `location`"),
            (
                "[[registry]]\nlocation = \"a.example\"\nmirror = [{ location = \"b\", pull-from-mirror = \"some\" }]",
                "pull-from-mirror = \"some\" is none of",
            ),
        ];
        for (text, expected) in cases {
            let error = RegistriesConf::default().add(Path::new("/conf"), text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn files_are_looked_for_where_podman_does() {
        let none = |_: &str| None;
        assert_eq!(default_files(none), [Path::new("/etc/containers/registries.conf"), Path::new("/etc/containers/registries.conf.d")]);
        let files = default_files(|name| match name {
            "CONTAINERS_REGISTRIES_CONF" => Some("/mine".into()),
            "HOME" => Some("/home/ann".into()),
            _ => None,
        });
        assert_eq!(files[0], Path::new("/mine"));
        assert_eq!(files[2], Path::new("/home/ann/.config/containers/registries.conf.d"));
    }
}
